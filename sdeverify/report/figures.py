"""The report's figures, as matplotlib Figures that nothing else knows of (no pyplot)."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from sdeverify.report.formatting import DASH, order_with_interval
from sdeverify.report.ladder_plot import draw_ladder, label_steps, legend_handles, step_unit
from sdeverify.report.points import RESOLUTION
from sdeverify.report.results import Comparison, Results, read_comparison, read_results
from sdeverify.report.rungs import rung_labels
from sdeverify.report.sentences import VERDICT_SIGNS, headline
from sdeverify.report.style import (
    FLOW,
    INK,
    MUTED,
    SDE,
    VERDICT_COLOURS,
    heading,
    panels,
    ramp,
    style,
)

Array = NDArray[np.float64]


def figure_errors(child: xr.DataTree | Comparison) -> Figure:
    """|Weak error| against the ladder's step, a panel an observable, at the last compared step.

    Raises:
        InvalidInputError: the comparison lacks groups, variables or attributes.
    """
    c = _comparison(child)
    with style():
        figure, drawn = panels(len(c.observables), 2.35)
        for panel, name in zip(drawn, c.observables, strict=True):
            (axes,) = panel.axes
            _ladder_panel(axes, c, name, c.last_step)
            order = c.order.sel(observable=name, step=c.last_step)
            verdict = str(order["verdict"].item())
            heading(axes, _title(c, name), _order_text(order), VERDICT_COLOURS.get(verdict, MUTED))
            label_steps(axes, _steps(c), c.errors, named=panel.lowest)
            if panel.leftmost:
                axes.set_ylabel("|weak error|")
        handles = legend_handles(c.claimed_order, c.flow_errors is not None)
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def figure_moments(child: xr.DataTree | Comparison) -> Figure:
    """Mean and standard deviation over time, both sides, a pair of panels an observable.

    Raises:
        InvalidInputError: the comparison lacks groups, variables or attributes.
    """
    c = _comparison(child)
    with style():
        figure, drawn = panels(len(c.observables), 2.75, (2.0, 1.1))
        for panel, name in zip(drawn, c.observables, strict=True):
            top, bottom = panel.axes
            heading(top, _title(c, name))
            for chain, colour in zip(c.chains, ramp(c.rungs), strict=True):
                one = chain.sel(observable=name)
                x = _abscissa(c, chain)
                _band(top, x, one["mean"].values, one["standard_error"].values, colour)
                bottom.plot(x, deviation(one), color=colour, lw=1.2)
            for path, colour in zip(c.paths, _path_colours(c), strict=True):
                one = path.sel(observable=name)
                mean, error = _extrapolated(one)
                x = _abscissa(c, path)
                _band(top, x, mean, error, colour, ls=(0, (3, 1.6)), zorder=6)
                bottom.plot(x, deviation(one), color=colour, lw=1.4, ls=(0, (3, 1.6)), zorder=6)
            if c.flow is not None and name in c.flow["observable"].values:
                mean = _extrapolated(c.flow.sel(observable=name))[0]
                top.plot(_abscissa(c, c.flow), mean, color=FLOW, lw=1.1, ls=":", zorder=1)
            if panel.lowest:
                bottom.set_xlabel(_time_label(c))
            if panel.leftmost:
                top.set_ylabel("mean")
                bottom.set_ylabel("std. dev.")
        handles = [*_rung_handles(c), Line2D([], [], color=SDE, ls=(0, (3, 1.6)), label="SDE")]
        if c.flow is not None:
            handles.append(Line2D([], [], color=FLOW, lw=1.1, ls=":", label="gradient flow"))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7))
    return figure


def figure_signed_errors(child: xr.DataTree | Comparison) -> Figure:
    """Signed weak error over time for each rung, with bands of 2 standard errors.

    Raises:
        InvalidInputError: the comparison lacks groups, variables or attributes.
    """
    c = _comparison(child)
    with style():
        figure, drawn = panels(len(c.observables), 2.1)
        for panel, name in zip(drawn, c.observables, strict=True):
            (axes,) = panel.axes
            heading(axes, _title(c, name))
            axes.axhline(0, color=INK, lw=0.8, zorder=2)
            for rung, colour in enumerate(ramp(c.rungs)):
                one = c.errors.isel(rung=rung).sel(observable=name)
                error, se = one["error"].values, one["standard_error"].values
                _band(axes, _abscissa(c, c.errors), error, se, colour, marker=".", ms=4)
            if panel.lowest:
                axes.set_xlabel(_time_label(c))
            if panel.leftmost:
                axes.set_ylabel("E chain − E SDE")
        handles = _rung_handles(c)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
    return figure


def summary_figure(results: xr.DataTree | Results) -> Figure:
    """Error against step for all comparisons side by side, one observable each.

    Raises:
        InvalidInputError: the results lack groups, variables or attributes.
    """
    r = results if isinstance(results, Results) else read_results(results)
    with style():
        figure, drawn = panels(len(r.comparisons), 2.75)
        for panel, c in zip(drawn, r.comparisons, strict=True):
            (axes,) = panel.axes
            head = headline(c)
            _ladder_panel(axes, c, head.observable, head.step)
            order = _order_text(c.order.sel(observable=head.observable, step=head.step))
            where = f"{head.observable} at step {head.step_text}"
            colour = VERDICT_COLOURS.get(head.verdict, MUTED)
            heading(axes, c.title, f"{where}\n{order}", colour)
            axes.set_title(c.title, pad=25)
            label_steps(axes, _steps(c), c.errors, named=False)
            axes.set_xlabel(f"time per step{step_unit(_steps(c))}")
            if panel.leftmost:
                axes.set_ylabel("|weak error|")
        claims = {c.claimed_order for c in r.comparisons}
        flow = any(c.flow_errors is not None for c in r.comparisons)
        handles = legend_handles(max(claims), flow)
        if len(claims) > 1:
            handles[4].set_label("claimed slope")
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def deviation(ensemble: xr.Dataset) -> Array:
    """Standard deviation over replicas at each step, of one observable; a path's finest dt."""
    mean, comoment = ensemble["block_mean"], ensemble["block_comoment"]
    if "substeps" in mean.dims:
        mean = mean.isel(substeps=-1)
        comoment = comoment.isel(substeps=-1, substeps_bis=-1)
    count = ensemble["block_count"]
    total = float(count.sum())
    centre = (count * mean).sum("block") / total
    squares = comoment.sum("block") + (count * (mean - centre) ** 2).sum("block")
    return np.asarray(np.sqrt(squares.values / max(total - 1, 1)), dtype=np.float64)


def _comparison(child: xr.DataTree | Comparison) -> Comparison:
    return child if isinstance(child, Comparison) else read_comparison(child)


def _ladder_panel(axes: Axes, c: Comparison, name: str, step: float) -> None:
    """One observable's ladder at one step, with gradient flow."""

    def at(ds: xr.Dataset) -> xr.Dataset:
        return ds.sel(observable=name).sel(step=step, method="nearest")

    known = c.flow_errors is not None and name in c.flow_errors["observable"].values
    flow = at(c.flow_errors) if known and c.flow_errors is not None else None
    order = c.order.sel(observable=name, step=step)
    draw_ladder(axes, _steps(c), at(c.errors), order, c.claimed_order, flow)


def _steps(c: Comparison) -> Array:
    return np.asarray(c.errors["time_per_step"].values, dtype=np.float64)


def _title(c: Comparison, name: str) -> str:
    return f"{name} (outside the theorem)" if name in c.outside_theorem else name


def _order_text(order: xr.Dataset) -> str:
    """Order and verdict of one fit."""
    ends = (float(order[k].item()) for k in ("order", "order_low", "order_high"))
    text = order_with_interval(*ends)
    verdict = str(order["verdict"].item())
    result = "order not resolved" if text == DASH else f"order {text}"
    return f"{result}  {VERDICT_SIGNS.get(verdict, '')} {verdict}"


def _band(axes: Axes, x: Array, mean: Array, error: Array, colour: str, **line: object) -> None:
    axes.fill_between(
        x, mean - RESOLUTION * error, mean + RESOLUTION * error, color=colour, alpha=0.16, lw=0
    )
    axes.plot(x, mean, color=colour, **{"lw": 1.2, **line})  # type: ignore[arg-type]


def _extrapolated(path: xr.Dataset) -> tuple[Array, Array]:
    if "extrapolated" in path:
        return path["extrapolated"].values, path["extrapolated_standard_error"].values
    finest = path.isel(substeps=-1) if "substeps" in path.dims else path
    return finest["mean"].values, finest["standard_error"].values


def _abscissa(c: Comparison, ds: xr.Dataset) -> Array:
    """SDE time where the ladder goes by it, else level-1 steps."""
    coordinate = "time" if c.over_time and "time" in ds.coords else "step"
    return np.asarray(ds[coordinate].values, dtype=np.float64)


def _time_label(c: Comparison) -> str:
    over_time = c.over_time and "time" in c.errors.coords
    return "SDE time t" if over_time else "optimizer step (level 1)"


def _path_colours(c: Comparison) -> list[str]:
    return ramp(len(c.paths), dark=SDE, light="#f0b08a")


def _rung_handles(c: Comparison) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, lw=1.6, label=f"chain, {label}")
        for colour, label in zip(ramp(c.rungs), rung_labels(c.errors), strict=True)
    ]
