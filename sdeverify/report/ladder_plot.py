"""One panel of error against step: points, limits, fitted curve and the claimed slope."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    FuncFormatter,
    NullFormatter,
    NullLocator,
)
from numpy.typing import NDArray

from sdeverify.base.notation import power_of_ten
from sdeverify.report.points import Points, classify
from sdeverify.report.rungs import labelled_apart_from_the_step, rung_labels
from sdeverify.report.style import CHAIN, FLOW, INK, MUTED

Array = NDArray[np.float64]


def draw_points(
    axes: Axes, steps: Array, points: Points, colour: str, markers: str = "^v", size: float = 6.0
) -> None:
    """Resolved points filled (up: above the SDE, down: below), the others hollow with arrows."""
    for positive, marker in zip((True, False), markers, strict=True):
        here = points.drawn & points.resolved & (points.positive == positive)
        bars = np.stack([points.size - points.low, points.high - points.size])[:, here]
        axes.errorbar(
            steps[here], points.size[here], yerr=bars, fmt=marker, color=colour, ms=size,
            mec="white", mew=0.5, elinewidth=1.1, capsize=2.2, zorder=4,
        )  # fmt: skip
    here = points.drawn & ~points.resolved
    for x, y in zip(steps[here], points.size[here], strict=True):
        axes.annotate(
            "", xy=(x, y), xytext=(0, -15), xycoords="data", textcoords="offset points",
            arrowprops={"arrowstyle": "<|-", "color": colour, "lw": 1.0, "shrinkA": 0,
                        "shrinkB": 2.5, "mutation_scale": 7}, zorder=3, annotation_clip=True,
        )  # fmt: skip
    axes.plot(
        steps[here], points.size[here], "o", mfc="white", mec=colour, mew=1.2, ms=size * 0.8,
        ls="none", zorder=5,
    )  # fmt: skip


def fitted_error(order: xr.Dataset, steps: Array) -> Array:
    """The fit `a s^p (1 + b s^q)`, q the spacing, of one observable at one step; else NaN."""
    power, a = float(order["order"]), float(order.get("coefficient", np.nan))
    b = float(order.get("second_coefficient", 0.0))
    b = b if np.isfinite(b) else 0.0
    spacing = float(order.attrs.get("spacing", 1.0))
    return np.asarray(a * steps**power * (1 + b * steps**spacing), dtype=np.float64)


def guide(steps: Array, points: Points, power: float) -> Array | None:
    """The line of slope `power` through the resolved points, the better resolved counting more."""
    here = points.resolved & points.drawn
    if not here.any():
        return None
    with np.errstate(divide="ignore"):
        weight = np.minimum(points.size[here] / np.maximum(points.high - points.size, 1e-300)[here],
                            20.0) ** 2  # fmt: skip
    offset = np.average(np.log(points.size[here]) - power * np.log(steps[here]), weights=weight)
    return np.asarray(np.exp(offset) * steps**power, dtype=np.float64)


def draw_ladder(
    axes: Axes,
    steps: Array,
    error: xr.Dataset,
    order: xr.Dataset,
    claimed: float,
    flow: xr.Dataset | None,
) -> None:
    """Weak errors of one observable at one time against the ladder's step, log-log."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    points = classify(error["error"], error["standard_error"])
    shown = [points]
    if flow is not None:
        beside = classify(flow["error"], flow["standard_error"])
        clear = beside.drawn & beside.resolved
        axes.plot(steps[clear], beside.size[clear], color=FLOW, lw=1.0, zorder=1)
        draw_points(axes, steps, beside, FLOW, "ss", 4.0)
        shown.append(beside)
    fine = np.geomspace(steps.min() * 0.9, steps.max() * 1.1, 120)
    line = guide(steps, points, claimed)
    if line is not None:
        anchor = np.log(line[0]) + claimed * (np.log(fine) - np.log(steps[0]))
        axes.plot(fine, np.exp(anchor), color=INK, lw=1.0, ls=(0, (4, 2.5)), zorder=2)
    fit = np.abs(fitted_error(order, fine))
    if np.isfinite(fit).all() and points.resolved.sum() >= 2:
        axes.plot(fine, np.where(fit > 0, fit, np.nan), color=CHAIN, lw=1.5, alpha=0.75, zorder=3)
    draw_points(axes, steps, points, CHAIN)
    _limits(axes, shown)


def _limits(axes: Axes, shown: list[Points]) -> None:
    """Room for points, bars (a bar that reaches far down is cut) and arrows; a decade at least."""
    values = np.concatenate([p.size[p.drawn] for p in shown])
    if not values.size:
        axes.text(0.5, 0.5, "no error to draw", transform=axes.transAxes, ha="center", color=MUTED)
        return
    tops = np.concatenate([np.minimum(p.high, 3 * p.size)[p.drawn] for p in shown])
    low, high = np.log10(values.min()) - 0.4, np.log10(tops.max()) + 0.15
    lack = max(0.0, 1.15 - (high - low)) / 2
    low, high = low - lack, high + lack
    axes.set_ylim(10**low, 10**high)
    decades = np.floor(high) - np.ceil(low) + 1
    axes.yaxis.set_major_formatter(FuncFormatter(_scientific))
    axes.yaxis.set_minor_formatter(NullFormatter() if decades > 1 else FuncFormatter(_scientific))


def _scientific(value: float, _: int | None = None) -> str:
    """Labels at 1, 2 and 5 times a power of ten."""
    power = int(np.floor(np.log10(value) + 1e-9))
    digit = round(value / 10.0**power)
    return {1: "", 2: "2×", 5: "5×"}[digit] + power_of_ten(power) if digit in (1, 2, 5) else ""


def label_steps(axes: Axes, steps: Array, errors: xr.Dataset, named: bool = True) -> None:
    """Ticks at the rungs: the step, without its power of ten, and the label under it."""
    power = common_power(steps)
    names = rung_labels(errors) if labelled_apart_from_the_step(errors) else None
    ticks: list[float] = []
    labels: list[str] = []
    span = np.ptp(np.log(steps)) or 1.0
    for i in np.argsort(-steps):
        if ticks and (np.log(ticks[-1]) - np.log(steps[i])) / span < 0.13:
            continue
        ticks.append(float(steps[i]))
        text = f"{steps[i] / 10.0**power:.3g}"
        labels.append(text if names is None else f"{text}\n{names[i].replace(' = ', '=')}")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter(labels))
    axes.xaxis.set_minor_locator(NullLocator())
    pad = 0.12 * span + 0.02
    axes.set_xlim(steps.min() * np.exp(-pad), steps.max() * np.exp(pad))
    if named:
        axes.set_xlabel(f"step s: SDE time per optimizer step{step_unit(steps)}")


def common_power(steps: Array) -> int:
    """The power of ten that is left out of the steps' labels."""
    power = int(np.floor(np.log10(steps.max())))
    return power if power < -2 or power > 2 else 0


def step_unit(steps: Array) -> str:
    """That power in brackets, for the axis' name."""
    power = common_power(steps)
    return f"  [{power_of_ten(power)}]" if power else ""


def legend_handles(claimed: float, with_flow: bool) -> list[Line2D]:
    """What the marks of a ladder panel mean."""
    common: dict[str, Any] = {"ls": "none", "ms": 6.5}
    handles = [
        Line2D([], [], marker="^", color=CHAIN, label="chain above the SDE", **common),
        Line2D([], [], marker="v", color=CHAIN, label="chain below the SDE", **common),
        Line2D([], [], marker="o", mfc="white", mec=CHAIN, mew=1.2, ls="none", ms=5.5,
               label="not resolved: upper limit"),
        Line2D([], [], color=CHAIN, lw=1.5, alpha=0.75, label="fit"),
        Line2D([], [], color=INK, lw=1.0, ls=(0, (4, 2.5)), label=f"slope {claimed:g} (claimed)"),
    ]  # fmt: skip
    if with_flow:
        handles.append(
            Line2D([], [], marker="s", color=FLOW, lw=1.0, ms=4.5, label="against gradient flow")
        )
    return handles
