"""The tables behind a comparison: confirmation, runs and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import xarray as xr

from sdeverify.report.formatting import DASH, anything, plain
from sdeverify.report.results import Comparison
from sdeverify.report.rungs import rung_labels
from sdeverify.report.tables import (
    Cell,
    Table,
    bias_table,
    error_cell,
    errors_table,
    maximum_table,
    order_table,
    parts_table,
    present,
    slopes_table,
    value_of,
)


def confirmation_table(c: Comparison) -> Table | None:
    """Sub-sampled against full-batch Euler-Maruyama."""
    if c.confirmation is None:
        return None
    last = c.confirmation.isel(step=-1)
    count, largest = c.confirmation.attrs.get("comparisons"), c.confirmation.attrs.get("largest_z")
    over = ""
    if count and largest is not None:
        over = (
            f" Over all times and observables the largest of {count} differences is "
            f"{plain(largest, 2)} standard errors."
        )
    rows = []
    for name in [str(n) for n in last["observable"].values]:
        one = last.sel(observable=name)
        error, se = value_of(one, "error"), value_of(one, "standard_error")
        ratio = plain(abs(error) / se, 2) if se > 0 else DASH
        rows.append((Cell(name), error_cell(error, se), Cell(ratio, "number")))
    return Table(
        f"Sub-sampled minus full-batch Euler-Maruyama at step {plain(float(last['step']))}",
        ("Observable", "Difference", "In standard errors"),
        tuple(rows),
        "The SDE was integrated with a fresh subset of the samples at each step; here against "
        f"all samples.{over}",
    )


def runs_table(c: Comparison) -> Table:
    """Where each ensemble came from."""
    if c.computed:
        return _computed_table(c)
    keys = ("seed", "replicas", "block_size", "device", "dtype", "refinement", "subsample")
    heads = ("seed", "replicas", "block size", "device", "dtype", "refinement", "sub-sample")
    named = [(f"chain {h}", ds) for h, ds in zip(rung_labels(c.errors), c.chains, strict=True)]
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
    )


def _computed_table(c: Comparison) -> Table:
    """The grids on which each side was computed."""
    named = [(f"chain {h}", ds) for h, ds in zip(rung_labels(c.errors), c.chains, strict=True)]
    named += [(f"SDE {i}" if len(c.paths) > 1 else "SDE", ds) for i, ds in enumerate(c.paths)]
    rows = [
        (
            Cell(label),
            Cell(_attribute(ds, "domain")),
            Cell(plain(float(ds["bound"].max()), 2), "number"),
            Cell(_attribute(ds, "hyperparameters", empty="")),
        )
        for label, ds in named
    ]
    return Table(
        "The grids",
        ("Side", "Domain", "Largest bound", "Hyperparameters"),
        tuple(rows),
        "The bound comes from refinements of grid, box, quadrature and time integration.",
    )


def comparison_tables(c: Comparison) -> dict[str, list[Table]]:
    """All tables of a comparison, by the part of the section they belong to."""
    more = [parts_table(c), slopes_table(c), maximum_table(c), confirmation_table(c)]
    if c.flow_errors is not None:
        more.append(errors_table(c, c.flow_errors, "Errors against gradient flow"))
    if c.flow_order is not None:
        last = float(c.flow_order["step"].values[-1])
        more.append(order_table(c.flow_order, last, "Order against gradient flow"))
    earlier = [float(s) for s in c.order["step"].values[:-1]]
    more += [order_table(c.order, step, outside=c.outside_theorem) for step in earlier]
    return {
        "order": [order_table(c.order, c.last_step, outside=c.outside_theorem)],
        "errors": [
            errors_table(c, c.errors, f"Weak errors by rung at step {plain(c.last_step)}"),
            *present(bias_table(c)),
        ],
        "more": [replace(table, folded=True) for table in present(*more)],
        "runs": [replace(runs_table(c), folded=True)],
    }


def _attribute(ds: xr.Dataset, key: str, empty: str = DASH) -> str:
    value: Any = ds.attrs.get(key, empty)
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return str(value)
    return anything(value)


def settings_table(caption: str, settings: Mapping[str, Any]) -> Table:
    """Names and values."""
    rows = tuple((Cell(str(name)), Cell(anything(value))) for name, value in settings.items())
    return Table(caption, ("Name", "Value"), rows)
