"""The report's tables: text in cells, made once, shown as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sdeverify.report.formatting import (
    DASH,
    anything,
    level,
    order_with_interval,
    plain,
    probability,
    with_error,
)
from sdeverify.report.points import RESOLUTION
from sdeverify.report.results import Comparison


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Args:
        text: what it says.
        kind: "" | "number" | "faint" (a number that is not resolved) | "verdict".
    """

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption; its first column heads the rows.

    Args:
        caption: what it shows.
        columns: heads of the columns.
        rows: the cells.
        note: how to read it.
        folded: whether the page shows it only on request.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    folded: bool = False


def order_table(c: Comparison, step: float | None = None) -> Table:
    """Order, interval, verdict and goodness of the fit, by observable."""
    at = c.last_step if step is None else step
    rows = []
    for name in c.observables:
        one = c.order.sel(observable=name, step=at)
        ends = [_value(one, key) for key in ("order", "order_low", "order_high")]
        chi2 = f"{plain(_value(one, 'chi2'), 3)} on {plain(_value(one, 'degrees_of_freedom'), 2)}"
        verdict = str(one["verdict"].item())
        outside = name in c.outside_theorem
        reason = str(one["reason"].item()) if "reason" in one else ""
        rows.append(
            (
                Cell(name + (" (outside the theorem)" if outside else "")),
                Cell(verdict, "verdict"),
                Cell(order_with_interval(*ends), "number"),
                Cell(plain(_value(one, "terms"), 1), "number"),
                Cell(chi2, "number"),
                Cell(probability(_value(one, "p_value")), "number"),
                Cell(reason),
            )
        )
    columns = ("Observable", "Verdict", "Order [95%]", "Terms", "χ² on d.o.f.", "p", "Reason")
    return Table(
        f"Order by observable at step {plain(at)}",
        columns,
        tuple(rows),
        "One term is a s^p, two terms a s^p (1 + b s^p), fitted to the signed errors with their "
        "full covariance; p is the probability of a χ² at least this large if the fit is right.",
        folded=step is not None,
    )


def errors_table(c: Comparison, ds: xr.Dataset, caption: str, folded: bool = False) -> Table:
    """Signed errors by rung at the last compared step; those not resolved stand faint."""
    last = ds.sel(step=c.last_step, method="nearest")
    rows = []
    for name in [str(n) for n in ds["observable"].values]:
        one = last.sel(observable=name)
        pairs = zip(one["error"].values, one["standard_error"].values, strict=True)
        rows.append((Cell(name), *(_error_cell(float(e), float(s)) for e, s in pairs)))
    return Table(
        caption,
        ("Observable", *rung_heads(ds)),
        tuple(rows),
        "Chain minus SDE. 0.0123(4) is 0.0123 with a standard error of 0.0004; grey italics: "
        "within 2 standard errors of 0.",
        folded,
    )


def slopes_table(c: Comparison) -> Table | None:
    """Slopes between neighbouring rungs, which show a range that is not yet asymptotic."""
    if "local_slope" not in c.order:
        return None
    last = c.order.sel(step=c.last_step)
    slope, se = last["local_slope"], last.get("local_slope_standard_error")
    steps = c.errors["time_per_step"].values
    rows = []
    for name in c.observables:
        values = slope.sel(observable=name).values
        errors = np.full(values.shape, np.nan) if se is None else se.sel(observable=name).values
        cells = (
            Cell(with_error(float(v), float(e)) if np.isfinite(e) else DASH, "number")
            for v, e in zip(values, errors, strict=True)
        )
        rows.append((Cell(name), *cells))
    count = int(slope.sizes["rung_pair"])
    heads = [f"{plain(steps[i], 3)} → {plain(steps[i + 1], 3)}" for i in range(count)]
    note = "log of the ratio of two errors over the log of the ratio of their steps."
    return Table("Local slopes", ("Observable", *heads), tuple(rows), note, folded=True)


def bias_table(c: Comparison) -> Table | None:
    """The integrator's own weak error against the weak error, at the finest rung."""
    if "integrator_bias" not in c.errors:
        return None
    steps = c.errors["time_per_step"].values
    finest = c.errors.isel(rung=int(np.argmin(steps))).sel(step=c.last_step, method="nearest")
    rows = []
    for name in c.observables:
        one = finest.sel(observable=name)
        bias, error, se = (
            _value(one, key) for key in ("integrator_bias", "error", "standard_error")
        )
        rows.append(
            (
                Cell(name),
                Cell(with_error(bias, _value(one, "integrator_bias_standard_error")), "number"),
                _error_cell(error, se),
                Cell(plain(abs(bias) / abs(error), 2) if error else DASH, "number"),
            )
        )
    return Table(
        f"Integrator bias beside the weak error, at the finest rung (step {plain(min(steps), 3)})",
        ("Observable", "Integrator bias", "Weak error", "Ratio"),
        tuple(rows),
        "Bias: the finest time step of Euler-Maruyama minus the value extrapolated to dt = 0, all "
        "on one Brownian path. The weak error is taken against the extrapolated value.",
    )


def maximum_table(c: Comparison) -> Table | None:
    """The largest error over time: reported, never fitted."""
    if "max_error" not in c.errors:
        return None
    rows = []
    for name in c.observables:
        cells = [Cell(name)]
        for rung in range(c.rungs):
            one = c.errors.isel(rung=rung).sel(observable=name)
            ends = [_value(one, key) for key in ("max_error_low", "max_error_high")]
            text = f"{plain(_value(one, 'max_error'), 3)} [{plain(ends[0], 2)}, {plain(ends[1], 2)}]"
            cells.append(Cell(f"{text} at {plain(_value(one, 'max_step'))}", "number"))
        rows.append(tuple(cells))
    return Table(
        "Largest |error| over time",
        ("Observable", *rung_heads(c.errors)),
        tuple(rows),
        "With its 95% interval and the step where it is reached. A maximum over noisy values is "
        "biased upwards: it is reported, not fitted.",
        folded=True,
    )


def confirmation_table(c: Comparison) -> Table | None:
    """Sub-sampled against full-batch Euler-Maruyama."""
    if c.confirmation is None:
        return None
    last = c.confirmation.isel(step=-1)
    if "rung" in last.dims:
        last = last.isel(rung=0)
    rows = []
    for name in [str(n) for n in last["observable"].values]:
        one = last.sel(observable=name)
        error, se = _value(one, "error"), _value(one, "standard_error")
        ratio = plain(abs(error) / se, 2) if se > 0 else DASH
        rows.append((Cell(name), _error_cell(error, se), Cell(ratio, "number")))
    return Table(
        f"Sub-sampled minus full-batch Euler-Maruyama at step {plain(float(last['step']))}",
        ("Observable", "Difference", "In standard errors"),
        tuple(rows),
        "The SDE was integrated with a fresh subset of the samples at each step; here against "
        "all samples. Differences should lie within about 2 standard errors of 0.",
        folded=True,
    )


def exact_table(c: Comparison) -> Table | None:
    """Weak errors without sampling, with their numerical error."""
    if c.exact is None:
        return None
    last = c.exact.isel(step=-1)
    heads = rung_heads(c.exact) if "rung" in last.dims else ["Weak error"]
    rows = []
    for name in [str(n) for n in last["observable"].values]:
        one = last.sel(observable=name)
        values = np.atleast_1d(one["error"].values)
        bound = np.broadcast_to(one["bound"].values if "bound" in one else np.nan, values.shape)
        cells = (
            Cell(plain(v, 6) + (f" (±{plain(b, 1)})" if np.isfinite(b) else ""), "number")
            for v, b in zip(map(float, values), map(float, bound), strict=True)
        )
        rows.append((Cell(name), *cells))
    note = "From the transfer operator and the generator on a grid; in brackets the numerical error."
    return Table("Exact weak errors, without sampling", ("Observable", *heads), tuple(rows), note)


def runs_table(c: Comparison) -> Table:
    """Where each ensemble came from."""
    keys = ("seed", "replicas", "block_size", "device", "dtype", "refinement", "subsample")
    heads = ("seed", "replicas", "block size", "device", "dtype", "refinement", "sub-sample")
    named = [(f"chain {h}", ds) for h, ds in zip(rung_heads(c.errors), c.chains, strict=True)]
    named += [(f"path {i}" if len(c.paths) > 1 else "path", ds) for i, ds in enumerate(c.paths)]
    rows = []
    for label, ds in named:
        cells = [Cell(_attribute(ds, key), "number") for key in keys]
        substeps = ds["substeps"].values if "substeps" in ds.coords else ()
        cells.append(Cell(", ".join(str(int(s)) for s in substeps) or DASH, "number"))
        settings = _attribute(ds, "hyperparameters", empty="")
        name = str(ds.attrs.get("model") or ds.attrs.get("name", ""))
        rows.append((Cell(label), *cells, Cell("; ".join(x for x in (name, settings) if x))))
    return Table(
        "The runs",
        ("Run", *heads, "substeps", "Hyperparameters"),
        tuple(rows),
        "Refinement: own steps in one level-1 step. Sub-sample: samples in one Euler-Maruyama step "
        "(0: all). Substeps: Euler-Maruyama steps in one level-1 step.",
        folded=True,
    )


def comparison_tables(c: Comparison) -> dict[str, list[Table]]:
    """All tables of a comparison, by the part of the section they belong to."""
    flow = []
    if c.flow_errors is not None:
        flow.append(errors_table(c, c.flow_errors, "Errors against gradient flow", folded=True))
    earlier = [float(s) for s in c.order["step"].values if float(s) != c.last_step]
    optional = [slopes_table(c), maximum_table(c), confirmation_table(c)]
    return {
        "order": [order_table(c)],
        "errors": [
            errors_table(c, c.errors, f"Weak errors by rung at step {plain(c.last_step)}"),
            *_present(bias_table(c), exact_table(c)),
        ],
        "more": [*_present(*optional), *flow, *(order_table(c, s) for s in earlier)],
        "runs": [runs_table(c)],
    }


def rung_heads(ds: xr.Dataset) -> list[str]:
    """What the rungs are called in the heads of columns."""
    if "level" in ds.coords:
        return [f"ℓ = {level(float(v))}" for v in np.atleast_1d(ds["level"].values)]
    if "learning_rate" in ds.coords:
        return [f"η = {plain(float(v), 4)}" for v in np.atleast_1d(ds["learning_rate"].values)]
    return [f"s = {plain(float(v), 3)}" for v in np.atleast_1d(ds["time_per_step"].values)]


def _present(*tables: Table | None) -> list[Table]:
    return [table for table in tables if table is not None]


def _error_cell(error: float, standard_error: float) -> Cell:
    faint = abs(error) < RESOLUTION * standard_error
    return Cell(with_error(error, standard_error), "faint" if faint else "number")


def _value(ds: xr.Dataset, name: str) -> float:
    return float(ds[name].item()) if name in ds else float("nan")


def _attribute(ds: xr.Dataset, key: str, empty: str = DASH) -> str:
    import json

    value: Any = ds.attrs.get(key, empty)
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return str(value)
    return anything(value)


def settings_rows(settings: Sequence[tuple[str, Any]]) -> tuple[tuple[Cell, ...], ...]:
    """Rows of a two-column table of names and values."""
    return tuple((Cell(str(name)), Cell(anything(value))) for name, value in settings)
