"""The report's tables: text in cells, made once, shown as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import xarray as xr

from sdeverify.report.formatting import (
    DASH,
    NARROW,
    order_with_interval,
    percent,
    plain,
    probability,
    with_error,
)
from sdeverify.report.points import RESOLUTION
from sdeverify.report.results import Comparison
from sdeverify.report.rungs import rung_labels


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Args:
        text: what it says.
        kind: "" | "number" | "wide" (a number that may break) | "faint" (one that is not resolved)
            | "verdict" | "met" or "missed" (a number beside the goal that it has).
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

    def only(self, *columns: int) -> Table:
        """These columns alone, without the note."""
        rows = tuple(tuple(row[i] for i in columns) for row in self.rows)
        return Table(self.caption, tuple(self.columns[i] for i in columns), rows)

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, which stand at its right."""
        kinds = {row[column].kind for row in self.rows}
        return bool(kinds) and kinds <= {"number", "wide", "faint", "met", "missed"}


def order_table(
    order: xr.Dataset,
    at: float,
    caption: str = "Order by observable",
    outside: Collection[str] = (),
) -> Table:
    """Order, interval, verdict and goodness of the fit, by observable, at one step."""
    rows = []
    for name in [str(n) for n in order["observable"].values]:
        one = order.sel(observable=name, step=at)
        ends = [value_of(one, key) for key in ("order", "order_low", "order_high")]
        terms, freedom = value_of(one, "terms"), value_of(one, "degrees_of_freedom")
        chi2 = f"{plain(value_of(one, 'chi2'), 3)} on {plain(freedom, 2)}" if terms > 0 else DASH
        verdict = str(one["verdict"].item())
        reason = str(one["reason"].item()) if "reason" in one else ""
        rows.append(
            (
                Cell(name + (" (outside the theorem)" if name in outside else "")),
                Cell(verdict, "verdict"),
                Cell(order_with_interval(*ends), "number"),
                Cell(chi2, "number"),
                Cell(probability(value_of(one, "p_value")), "number"),
                Cell(limit_text(one), "wide"),
                Cell(reason),
            )
        )
    columns = (
        *("Observable", "Verdict", "Order [95%]", "χ² on d.o.f.", "p"),
        *("Limit at step 0 [95%]", "Reason"),
    )
    return Table(
        f"{caption} at step {plain(at)}",
        columns,
        tuple(rows),
        "a sᵖ (1 + b s) is fitted to the signed errors with their full covariance, b of a "
        "plausible size unless χ² rejects that; p is the probability of a χ² at least this large "
        "if the fit is right. Limit: the constant c in c + a sᵖ (1 + b s), p the claimed order, "
        "and how large it may be beside the error at the coarsest rung.",
    )


def limit_text(one: xr.Dataset) -> str:
    """The interval of the error's limit, and its largest size beside the coarsest error."""
    low, high = value_of(one, "limit_low"), value_of(one, "limit_high")
    if not np.isfinite(low + high):
        return DASH
    share = percent(value_of(one, "limit_share"))
    return f"[{plain(low, 2)},{NARROW}{plain(high, 2)}], up to {share}"


def errors_table(c: Comparison, ds: xr.Dataset, caption: str) -> Table:
    """Signed errors by rung at the last compared step; those not resolved stand faint."""
    last = ds.sel(step=c.last_step, method="nearest")
    rows = []
    for name in [str(n) for n in ds["observable"].values]:
        one = last.sel(observable=name)
        pairs = zip(one["error"].values, one["standard_error"].values, strict=True)
        rows.append((Cell(name), *(error_cell(float(e), float(s)) for e, s in pairs)))
    return Table(
        caption,
        ("Observable", *rung_labels(ds)),
        tuple(rows),
        "Chain minus SDE, computed without sampling. 0.0123(4) is 0.0123 with a numerical bound of "
        "0.0008; grey italics: within the bound."
        if c.computed
        else "Chain minus SDE. 0.0123(4) is 0.0123 with a standard error of 0.0004; grey italics: "
        "within 2 standard errors of 0.",
    )


def parts_table(c: Comparison) -> Table | None:
    """What discretisation and what noise that is not normal have in the errors, by rung."""
    if "non_gaussianity" not in c.errors:
        return None
    last = c.errors.sel(step=c.last_step, method="nearest")
    rows = []
    for name in c.observables:
        one = last.sel(observable=name)
        for part, label in (("discretisation", "D"), ("non_gaussianity", "A")):
            values = (one[part].values, one[f"{part}_standard_error"].values)
            pairs = zip(*values, strict=True)
            cells = (error_cell(float(e), float(s)) for e, s in pairs)
            rows.append((Cell(name), Cell(label), *cells))
    return Table(
        "Parts of the errors",
        ("Observable", "Part", *rung_labels(c.errors)),
        tuple(rows),
        "D: the optimizer fed with normal noise minus the SDE. A: what the optimizer's own noise "
        "adds to it. Their sum is the error.",
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
    note = "The logarithm of the ratio of two errors over that of the ratio of their steps."
    return Table("Local slopes", ("Observable", *heads), tuple(rows), note)


def bias_table(c: Comparison) -> Table | None:
    """The integrator's own weak error against the weak error, at the finest rung."""
    if "integrator_bias" not in c.errors or c.computed:
        return None
    steps = c.errors["time_per_step"].values
    finest = c.errors.isel(rung=int(np.argmin(steps))).sel(step=c.last_step, method="nearest")
    rows = []
    for name in c.observables:
        one = finest.sel(observable=name)
        bias, error, se = (
            value_of(one, key) for key in ("integrator_bias", "error", "standard_error")
        )
        left = abs(value_of(one, "integrator_residual"))
        rows.append(
            (
                Cell(name),
                Cell(with_error(bias, value_of(one, "integrator_bias_standard_error")), "number"),
                Cell(plain(left, 1), "number"),
                error_cell(error, se),
                Cell(percent(left / abs(error)) if error else DASH, "number"),
            )
        )
    return Table(
        f"Integrator bias beside the weak error, at the finest rung (step {plain(min(steps), 3)})",
        ("Observable", "Integrator bias", "Left, at most", "Weak error", "Left / error"),
        tuple(rows),
        "Bias: the finest time step of Euler-Maruyama minus the value extrapolated to dt = 0, all "
        "on one Brownian path. The weak error is taken against the extrapolated value; what the "
        "extrapolation may have left is allowed for in the order's interval.",
    )


def maximum_table(c: Comparison) -> Table | None:
    """The largest error over time: reported, never fitted."""
    if "max_error" not in c.errors or c.computed:
        return None
    rows = []
    for name in c.observables:
        one = c.errors.sel(observable=name)
        values = [one[key].values for key in ("max_error", "max_error_low", "max_error_high")]
        cells = (
            Cell(f"{plain(e, 3)} [{plain(low, 2)},{NARROW}{plain(high, 2)}]", "wide")
            for e, low, high in zip(*values, strict=True)
        )
        first, last = (plain(f(one["max_step"].values)) for f in (np.min, np.max))
        where = first if first == last else f"{first} to {last}"
        rows.append((Cell(name), *cells, Cell(where, "number")))
    return Table(
        "Largest |error| over time",
        ("Observable", *rung_labels(c.errors), "Reached at step"),
        tuple(rows),
        "With its 95% interval. A maximum over noisy values is biased upwards: it is reported, not "
        "fitted.",
    )


def present(*tables: Table | None) -> list[Table]:
    """The tables that there are."""
    return [table for table in tables if table is not None]


def error_cell(error: float, standard_error: float) -> Cell:
    """An error with its standard error, faint where it is not resolved."""
    faint = abs(error) < RESOLUTION * standard_error
    return Cell(with_error(error, standard_error), "faint" if faint else "number")


def value_of(ds: xr.Dataset, name: str) -> float:
    """A scalar variable, NaN where the dataset has none of that name."""
    return float(ds[name].item()) if name in ds else float("nan")
