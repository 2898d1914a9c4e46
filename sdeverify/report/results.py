"""The results tree as the report reads it: checked once, then plain attributes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from sdeverify.errors import InvalidInputError

_ERRORS = ("error", "standard_error")
_ORDER = (
    "order",
    "order_low",
    "order_high",
    "verdict",
    "reason",
    "refutation_p_value",
    "support_p_value",
    "limit_low",
    "limit_high",
    "limit_share",
    "limit_p_value",
)
_ENSEMBLE = ("block_count", "block_mean", "block_comoment", "mean", "standard_error")
_EXACT = ("mean", "bound")
_BOUND_IN_STANDARD_ERRORS = 2.0
"""A numerical bound is drawn and judged as so many standard errors are."""
_ATTRIBUTES = ("title", "claimed_order", "ladder", "cannot_tell", "description")
_NOISE = (("size of the skewness", "noise_skewness"), ("excess kurtosis", "noise_kurtosis"))
_DESCRIPTION = ("name", "equations", "constants", "clock", "assumptions", "claim", "source")


@dataclass(frozen=True)
class Comparison:
    """One optimizer against one SDE along one ladder.

    Args:
        name: the node's name, used in file names.
        title: its title.
        claimed_order: the order that theory claims on this ladder.
        ladder: its name.
        along: in words, along what the rungs go; the ladder's name where the results are older.
        over_time: whether figures go by SDE time instead of level-1 steps.
        cannot_tell: what this ladder cannot tell.
        description: the SDE's explanation.
        errors: weak errors by (rung, step, observable).
        order: fitted orders by (observable, step).
        flow_errors, flow_order: the same against gradient flow.
        chains: the discrete runs, by rung.
        paths: the SDE's runs, coarsest first; one where all rungs share it.
        flow: gradient flow from the same start, at the coarsest rung.
        confirmation: the weak error of sub-sampled against full-batch Euler-Maruyama.
        noise: skewness and kurtosis of the gradient noise, label -> text.
        start_note: how both sides were started.
        outside_theorem: observables that are not smooth.
    """

    name: str
    title: str
    claimed_order: float
    ladder: str
    along: str
    over_time: bool
    cannot_tell: str
    description: Mapping[str, Any]
    errors: xr.Dataset
    order: xr.Dataset
    flow_errors: xr.Dataset | None
    flow_order: xr.Dataset | None
    chains: tuple[xr.Dataset, ...]
    paths: tuple[xr.Dataset, ...]
    flow: xr.Dataset | None
    confirmation: xr.Dataset | None
    noise: Mapping[str, Any]
    start_note: str
    outside_theorem: frozenset[str]

    @property
    def computed(self) -> bool:
        """Whether the errors were computed without sampling; bounds stand for standard errors."""
        return "bound" in self.errors

    @property
    def observables(self) -> list[str]:
        """The observables' names, in order."""
        return [str(name) for name in self.errors["observable"].values]

    @property
    def rungs(self) -> int:
        """How many rungs the ladder has."""
        return int(self.errors.sizes["rung"])

    @property
    def last_step(self) -> float:
        """The last compared step that has an order."""
        return float(self.order["step"].values[-1])


@dataclass(frozen=True)
class Results:
    """Everything that one report shows: the root's attributes and the comparisons."""

    title: str
    question: str
    command: str
    versions: Mapping[str, Any]
    parameters: Mapping[str, Any]
    comparisons: tuple[Comparison, ...]


def read_results(tree: xr.DataTree) -> Results:
    """The checked contents of a results tree.

    Raises:
        InvalidInputError: the tree lacks groups, variables or attributes; they are named.
    """
    if not isinstance(tree, xr.DataTree):
        raise InvalidInputError(
            f"results is a {type(tree).__name__}; a report is written from an xarray.DataTree as "
            "returned by run()"
        )
    missing = [f"attribute {key!r}" for key in ("title", "question") if key not in tree.attrs]
    if not tree.children:
        missing.append("at least one comparison")
    _refuse("results", missing)
    return Results(
        title=str(tree.attrs["title"]),
        question=str(tree.attrs["question"]),
        command=str(tree.attrs.get("command", "")),
        versions=_mapping(tree.attrs.get("versions"), "versions of results"),
        parameters=_mapping(tree.attrs.get("parameters"), "parameters of results"),
        comparisons=tuple(read_comparison(child) for child in tree.children.values()),
    )


def read_comparison(child: xr.DataTree) -> Comparison:
    """The checked contents of one comparison.

    Raises:
        InvalidInputError: it lacks groups, variables or attributes; they are named.
    """
    name = str(child.name or "comparison")
    if not re.fullmatch(r"[\w.-]+", name):
        raise InvalidInputError(
            f"the comparison {name!r} cannot name a file; use letters, digits, '-' and '_' only"
        )
    _refuse(f"comparison {name!r}", _missing(child))
    description = _mapping(child.attrs["description"], f"description of {name!r}")
    absent = [f"description entry {key!r}" for key in _DESCRIPTION if key not in description]
    _refuse(f"comparison {name!r}", absent)
    errors = _with_uncertainty(child["errors"].to_dataset())
    flow_order = _optional(child, "flow_order")
    comparison = Comparison(
        name=name,
        title=str(child.attrs["title"]),
        claimed_order=float(child.attrs["claimed_order"]),
        ladder=str(child.attrs["ladder"]),
        along=str(child.attrs.get("along", child.attrs["ladder"])),
        over_time=bool(child.attrs.get("over_time", child.attrs["ladder"] == "learning_rate")),
        cannot_tell=str(child.attrs["cannot_tell"]),
        description=description,
        errors=errors,
        order=_controlled(child["order"].to_dataset(), flow_order),
        flow_errors=_optional(child, "flow_errors"),
        flow_order=flow_order,
        chains=_numbered(child, "chain"),
        paths=_numbered(child, "path"),
        flow=_optional(child, "flow_0"),
        confirmation=_optional(child, "confirmation"),
        noise={
            label: _mapping(child.attrs[key], f"{key} of {name!r}")
            for label, key in _NOISE
            if key in child.attrs
        },
        start_note=str(child.attrs.get("start_note", "")),
        outside_theorem=_outside_theorem(child, errors),
    )
    _check_consistency(comparison)
    return comparison


def _missing(child: xr.DataTree) -> list[str]:
    missing = [f"attribute {key!r}" for key in _ATTRIBUTES if key not in child.attrs]
    wanted: dict[str, tuple[str, ...]] = {"errors": _ERRORS, "order": _ORDER}
    ensembles = [
        group for group in child.children if re.fullmatch(r"(chain|path)_\d+|flow_0", group)
    ]
    for group in ["chain_0", "path_0", *ensembles]:
        exact = group in child.children and "bound" in child[group].to_dataset()
        wanted[group] = _EXACT if exact else _ENSEMBLE
    optional = {
        "flow_errors": _ERRORS,
        "flow_order": ("order", "verdict", "limit_low", "limit_high", "limit_p_value"),
        "confirmation": _ERRORS,
    }
    wanted |= {group: variables for group, variables in optional.items() if group in child.children}
    for group, variables in wanted.items():
        if group not in child.children:
            missing.append(f"group {group!r}")
            continue
        held = child[group].to_dataset()
        missing += [f"variable '{group}/{name}'" for name in variables if name not in held]
    for group in ("errors", "flow_errors"):
        if group in child.children and "time_per_step" not in child[group].to_dataset():
            missing.append(f"coordinate '{group}/time_per_step'")
    return missing


def _check_consistency(comparison: Comparison) -> None:
    name, rungs = comparison.name, comparison.rungs
    if len(comparison.chains) != rungs:
        raise InvalidInputError(
            f"comparison {name!r} has {rungs} rungs of errors but {len(comparison.chains)} chains; "
            f"give chain_0 to chain_{rungs - 1}"
        )
    if len(comparison.paths) > rungs:
        raise InvalidInputError(
            f"comparison {name!r} has {rungs} rungs but {len(comparison.paths)} paths; give one "
            "path for all rungs (path_0) or one for each"
        )
    steps = comparison.errors["step"].values
    absent = [s for s in comparison.order["step"].values if not np.any(np.isclose(steps, s))]
    if absent:
        raise InvalidInputError(
            f"comparison {name!r} has orders at steps {absent} where there are no errors; the "
            f"errors are at steps {list(map(float, steps))}"
        )


def _refuse(where: str, missing: Iterable[str]) -> None:
    listed = ", ".join(missing)
    if listed:
        raise InvalidInputError(
            f"{where} lacks {listed}; a report is written from complete results only: finish the "
            "run, then report"
        )


def _controlled(order: xr.Dataset, flow_order: xr.Dataset | None) -> xr.Dataset:
    """Orders with their control, which those of older stores lack."""
    from sdeverify.analysis.verdict import controlled

    return order if flow_order is None else controlled(order, flow_order)


def _optional(child: xr.DataTree, group: str) -> xr.Dataset | None:
    return _with_uncertainty(child[group].to_dataset()) if group in child.children else None


def _with_uncertainty(ds: xr.Dataset) -> xr.Dataset:
    """A dataset of the exact route with its bound in the place of the standard error."""
    if "bound" not in ds:
        return ds
    return ds.assign(standard_error=ds["bound"] / _BOUND_IN_STANDARD_ERRORS)


def _numbered(child: xr.DataTree, kind: str) -> tuple[xr.Dataset, ...]:
    ensembles: list[xr.Dataset] = []
    while f"{kind}_{len(ensembles)}" in child.children:
        ensembles.append(_with_uncertainty(child[f"{kind}_{len(ensembles)}"].to_dataset()))
    return tuple(ensembles)


def _outside_theorem(child: xr.DataTree, errors: xr.Dataset) -> frozenset[str]:
    """Observables that are not smooth: the attribute `outside_theorem`, else the accuracy."""
    names = {str(name) for name in errors["observable"].values}
    stored = child.attrs.get("outside_theorem")
    return frozenset({"accuracy"} if stored is None else json.loads(stored)) & names


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if value is None or value == "":
        return {}
    try:
        decoded = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{what} is not JSON ({error}); give a JSON object") from error
    if not isinstance(decoded, Mapping):
        raise InvalidInputError(
            f"{what} is a {type(decoded).__name__}; a JSON object (name -> value) was wanted"
        )
    return decoded
