"""Figures of a report on scaling rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from sdeverify.report.scaling.results import Scaled
from sdeverify.report.scaling.view import reach_text
from sdeverify.report.style import CHAIN, EXACT, MUTED, SDE, WIDTH, heading, panels, style

OWN = "#0b5394"
RIVALS = ("#b0560c", "#7a3b9c", "#0e7c66", "#7b8491", "#a8320a")
MARKERS = "osD^vP"
_PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


def distance_figure(run: Scaled) -> Figure:
    """The largest distance over time against kappa, a panel an observable."""
    with style():
        figure, drawn = panels(len(run.observables), 2.4)
        for panel, name in zip(drawn, run.observables, strict=True):
            (axes,) = panel.axes
            _distances(axes, run, name)
            if panel.leftmost:
                axes.set_ylabel("largest |distance|")
            if panel.lowest:
                axes.set_xlabel("batch factor κ")
        handles, labels = drawn[0].axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _distances(axes: Axes, run: Scaled, name: str) -> None:
    ds = run.scaling.sel(observable=name)
    kappas = ds["kappa"].values
    allowed = float(ds["allowed"])
    rules = [str(rule) for rule in ds["rule"].values]
    for i, rule in enumerate(rules):
        at = ds.sel(rule=rule)
        value = at["max_distance"].values
        bars = [value - at["max_distance_low"].values, at["max_distance_high"].values - value]
        shown = np.isfinite(value)
        axes.errorbar(
            (kappas * 1.02 ** (i - len(rules) / 2))[shown],
            value[shown],
            yerr=np.abs(bars)[:, shown],
            color=OWN if i == 0 else RIVALS[(i - 1) % len(RIVALS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            capsize=2,
            linewidth=2.0 if i == 0 else 1.0,
            zorder=4 if i == 0 else 2,
            label=rule.replace("_", " "),
        )
    axes.axhline(allowed, color=MUTED, linestyle="--", linewidth=1, label="tolerance")
    end = kappas[-1] * 1.35
    predicted, low, high = run.predicted
    axes.axvspan(min(low, end), min(high, end), color="#f3dfb5", zorder=0, linewidth=0)
    if predicted < end:
        axes.axvline(predicted, color="#8a6d1a", linewidth=1.2, label="predicted limit, 95%")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_PLAIN)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(kappas[0] / 1.25, end)
    sizes = np.append(ds["max_distance"].values.ravel(), allowed)
    axes.set_ylim(bottom=sizes[sizes > 0].min() / 4)
    axes.set_xticks(kappas, [f"{kappa:g}" for kappa in kappas])
    own = ds.sel(rule=run.rule)
    heading(axes, name.replace("_", " "), f"{run.rule.replace('_', ' ')}: {reach_text(own)}")


def predicted_figure(runs: Sequence[Scaled]) -> Figure:
    """Predicted limit against the factor found, one point a run, numbered as in the table."""
    with style():
        figure = Figure(figsize=(0.62 * WIDTH, 0.55 * WIDTH), layout="constrained")
        axes = figure.add_subplot()
        kinds = list(dict.fromkeys(run.kind for run in runs))
        for number, run in enumerate(runs, 1):
            _point(axes, run, number, kinds)
        first: dict[str, Any] = {}
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            first.setdefault(label, handle)
        spans = [*axes.get_xlim(), *axes.get_ylim()]
        low, high = max(1.0, min(spans)), max(spans)
        line = np.array([low, high])
        axes.plot(line, line, color=MUTED, linewidth=1, zorder=1)
        axes.fill_between(line, line, high, color="#f6efe9", zorder=0, linewidth=0)
        axes.set(xlim=(low, high), ylim=(low, high))
        for which in (axes.xaxis, axes.yaxis):
            ticks = [t for t in (1, 2, 4, 8, 16, 32, 64, 128, 256) if low <= t <= high]
            which.set_ticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_xlabel("predicted limit of the batch factor κ, from the run alone")
        axes.set_ylabel("κ up to which the scaled runs stay close")
        axes.text(0.03, 0.97, "above the limit", transform=axes.transAxes, color=MUTED, va="top")
        axes.legend(first.values(), first.keys(), loc="lower right")
    return figure


def _point(axes: Axes, run: Scaled, number: int, kinds: list[str]) -> None:
    index = kinds.index(run.kind)
    colour = (SDE, CHAIN, EXACT, *RIVALS)[index % 8]
    x, x_low, x_high = run.predicted
    top = run.largest_tested
    y, y_low, y_high = (min(value, top) for value in run.found)
    above = np.isfinite(run.found[2])
    axes.errorbar(
        x,
        y,
        xerr=[[x - x_low], [max(0.0, min(x_high, 1e4) - x)]],
        yerr=[[max(0.0, y - y_low)], [max(0.0, y_high - y)]],
        color=colour,
        marker=MARKERS[index % len(MARKERS)],
        markersize=5,
        markerfacecolor=colour if np.isfinite(run.found[0]) else "white",
        linewidth=1,
        capsize=2,
        linestyle="none",
        label=kinds[index],
    )
    if not above:
        axes.annotate(
            "",
            (x, top * 1.18),
            (x, top),
            arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1},
        )
    axes.annotate(
        str(number), (x, y), (5, 4), textcoords="offset points", fontsize=6.5, color=colour
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)


def equilibrium_figure(run: Scaled) -> Figure:
    """Both laws, and the change of |theta|^2, against the batch factor."""
    assert run.equilibrium is not None
    ds = run.equilibrium
    chains = ds.sel(kappa=ds["kappa"] > 0)
    with style():
        figure, drawn = panels(2, 2.6)
        laws, change = (panel.axes[0] for panel in drawn)
        for name, colour, marker, label in (
            ("sgd_balance", CHAIN, "o", "SGD's law, (2−ηλ)λ|θ|² / η(G+N)"),
            ("sde_balance", SDE, "s", "the SDE's law, 2λ|θ|² / ηN"),
        ):
            _balance(laws, chains, name, colour, marker, label)
        if 0 in ds["kappa"].values:
            at = ds.sel(kappa=[0.0]).assign_coords(kappa=[0.5])
            _balance(laws, at, "sde_balance", EXACT, "D", "the SDE itself, its own law")
        laws.axhline(1, color=MUTED, linewidth=1, linestyle="--")
        laws.set_yscale("log", base=2)
        laws.yaxis.set_major_formatter(_PLAIN)
        laws.set_ylabel("1 where the law holds")
        change.errorbar(
            chains["kappa"], chains["change"], yerr=2 * chains["change_standard_error"],
            color=CHAIN, marker="o", markersize=4, capsize=2, linestyle="none",
        )  # fmt: skip
        change.axhline(0, color=MUTED, linewidth=1, linestyle="--")
        heading(laws, "the balance of |θ|²", "second half of the run, bars 95%")
        heading(change, "distance from equilibrium", "change of |θ|² over weight decay's share")
        for axes in (laws, change):
            axes.set_xscale("log", base=2)
            ticks = [1.0, *map(float, run.scaling["kappa"].values)]
            axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
            axes.set_xlabel("batch factor κ")
        if 0 in ds["kappa"].values:
            laws.set_xticks([0.5, *ticks], ["SDE", *(f"{t:g}" for t in ticks)])
        figure.legend(*laws.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _balance(axes: Axes, ds: xr.Dataset, name: str, colour: str, marker: str, label: str) -> None:
    value = ds[name].values
    bars = [value - ds[f"{name}_low"].values, ds[f"{name}_high"].values - value]
    axes.errorbar(
        ds["kappa"], value, yerr=np.abs(bars), color=colour, marker=marker, markersize=4,
        capsize=2, linewidth=1.2, label=label,
    )  # fmt: skip
