"""Exact weak errors: expectations of any optimizer and any SDE in up to three dimensions.

The chain's law is pushed forward by the optimizer's own step, called on grid points x the oracle's
atoms; the SDE's by its generator, read from its own drift and diffusion product. Neither knows a
formula. Every result is computed three times, on the grids asked for and on two coarser ones with
narrower boxes, fewer quadrature nodes and a looser time integration; `bound` is what is left by
the way in which the three converge, twice over.
"""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
import torch
import xarray as xr

from sdeverify.analysis.weak_error import weak_error
from sdeverify.errors import InvalidInputError
from sdeverify.reference.checks import (
    Domain,
    check_observables,
    check_oracle,
    coordinates_of,
    point_of,
    recorded_steps,
)
from sdeverify.reference.domain import Periodic, fewer
from sdeverify.reference.evolution import Continuous
from sdeverify.reference.flow import flow_values, is_noiseless
from sdeverify.reference.frames import Coordinate, Coordinates
from sdeverify.reference.grids import Array
from sdeverify.reference.transfer import Chain, chain_expectations
from sdeverify.schema import exact_dataset
from sdeverify.state import State

Refinement = tuple[Array, ...]
"""Expectations `(step, observable)` on the finest grids and on two coarser ones."""
SAFETY = 2.0
GUARD = 0.5
SLOWEST = 10.0
NOTHING_LEFT = 1e-11
"""Relative difference below which only rounding is left."""
TOLERANCES = {1: 1e-13, 2: 1e-11, 3: 1e-9}
"""Of the SDE's time integration, by dimension."""
WANTED = {1: 1e-13, 2: 1e-9, 3: 1e-7}
"""Difference of the two grids, by dimension, above which a chain is computed on the circle too."""
SHARE = 0.01
"""Largest bound, as a share of a weak error, at which it counts as resolved."""


def exact_weak_error(
    optimizer: Any,
    oracle: Any,
    sde: Any,
    start: State | torch.Tensor,
    steps: int | Sequence[float],
    observables: Sequence[Any],
    domain: Domain,
) -> xr.Dataset:
    """E phi(chain) - E phi(SDE) without sampling, with a bound on the numerical error.

    Args:
        optimizer: at the ladder's rung; only `step`, `from_sde`, `to_sde` and `own_step` are used.
        oracle: the same rung's; only its `atoms()`.
        sde: only its `f` and `g_prod`, `components`, `noise_dim` and `time_per_level1_step`.
        start: a State of one point, or theta alone where the optimizer has no more state.
        steps: level-1 steps from the start; a number is recorded at about ten equal distances.
        observables: each with a `name`, mapping a State to `(replica,)`; smooth.
        domain: for each component an axis, or one axis for each parameter: `Periodic()`,
            `Interval(low, high)`, `Moving()`, `Positive()`. p and m may be left out (`Moving()`),
            so may u (`Positive()`).

    Returns:
        `discrete`, `continuous`, `error` (discrete - continuous), `bound`, `resolved` (whether the
        bound is at most 1% of |error|) and `standard_error` (0) over (step, observable), beside
        what `weak_error` gives.

    Raises:
        InvalidInputError: an interval that the chain leaves, too coarse a grid, a start outside
            the domain, a component without an axis.
        UnsupportedError: more than three dimensions, or noise without atoms.
    """
    discrete = exact_discrete(optimizer, oracle, start, steps, observables, domain)
    continuous = exact_continuous(sde, start, steps, observables, domain)
    return exact_difference(discrete, continuous)


def exact_difference(discrete: xr.Dataset, continuous: xr.Dataset) -> xr.Dataset:
    """The weak error of two halves; along a ladder `continuous` is computed once.

    Args:
        discrete: from `exact_discrete`.
        continuous: from `exact_continuous`, at the same steps.
    """
    ds = weak_error(discrete, continuous)
    ds = ds.assign(
        discrete=ds["chain_mean"],
        continuous=ds["path_mean"],
        resolved=ds["bound"] <= SHARE * abs(ds["error"]),
    )
    return ds.assign_attrs(start_step=discrete.attrs["start_step"], exact=1)


def exact_discrete(
    optimizer: Any,
    oracle: Any,
    start: State | torch.Tensor,
    steps: int | Sequence[float],
    observables: Sequence[Any],
    domain: Domain,
) -> xr.Dataset:
    """E phi of the chain, `mean` and `bound` over (step, observable); see `exact_weak_error`."""
    who = type(optimizer).__name__
    check_oracle(oracle)
    names = check_observables(observables)
    point = point_of(start, optimizer.sde_components, who)
    coordinates = coordinates_of(domain, point, who)
    recorded = recorded_steps(steps)
    own = [optimizer.own_step(point.step + s) for s in recorded]
    Chain(optimizer, oracle, coordinates).check_reach(own[0], point)

    def run(axes: Coordinates) -> Refinement:
        noisy = [oracle, with_fewer_nodes(oracle), with_fewer_nodes(with_fewer_nodes(oracle))]
        return tuple(
            chain_expectations(optimizer, each, point, own, observables, grid)
            for each, grid in zip(noisy, refinements(axes), strict=True)
        )

    with np.errstate(over="ignore", invalid="ignore"):
        results = run(coordinates)
        other = on_the_circle(coordinates)
        if other != coordinates and not gap(results) <= WANTED[len(coordinates)]:
            results = min(results, run(other), key=gap)
    growth = np.array([k - own[0] for k in own], dtype=np.float64)
    clock = optimizer.time_per_step * optimizer.refinement
    attrs = {
        **_provenance(coordinates, point, who),
        "name": str(optimizer.name),
        "time_per_step": float(optimizer.time_per_step),
        "time_per_level1_step": float(clock),
        "refinement": float(optimizer.refinement),
        "hyperparameters": _text(optimizer.hyperparameters),
        "noise": oracle.noise.describe(oracle.problem),
    }
    return _dataset(results, growth, point, recorded, clock, names, attrs)


def exact_continuous(
    sde: Any,
    start: State | torch.Tensor,
    steps: int | Sequence[float],
    observables: Sequence[Any],
    domain: Domain,
) -> xr.Dataset:
    """E phi of the SDE, `mean` and `bound` over (step, observable); see `exact_weak_error`."""
    who = type(sde).__name__
    names = check_observables(observables)
    point = point_of(start, sde.components, who)
    coordinates = coordinates_of(domain, point, who)
    recorded = recorded_steps(steps)
    absolute = [point.step + s for s in recorded]
    tolerance = TOLERANCES[len(coordinates)]

    def run(axes: Coordinates, accuracy: float) -> Array:
        if is_noiseless(sde):
            return flow_values(sde, point, absolute, observables, accuracy)
        return Continuous(sde, axes, point, absolute[-1], accuracy).expectations(
            absolute, observables
        )

    if not is_noiseless(sde):
        Continuous(sde, coordinates, point, absolute[-1], tolerance).check(observables, names)
    results = tuple(
        run(axes, tolerance * 10**level) for level, axes in enumerate(refinements(coordinates))
    )
    clock = float(sde.time_per_level1_step)
    attrs = {
        **_provenance(coordinates, point, who),
        "name": str(getattr(getattr(sde, "description", None), "name", who)),
        "model": who,
        "time_per_step": clock,
        "time_per_level1_step": clock,
        "refinement": 1.0,
        "hyperparameters": _text(getattr(sde, "constants", {})),
    }
    return _dataset(results, np.array(recorded), point, recorded, clock, names, attrs)


def refinements(coordinates: Coordinates) -> tuple[Coordinates, Coordinates, Coordinates]:
    """The coordinates asked for, and two coarser ones to compare with."""
    once = tuple(Coordinate(c.component, c.index, c.axis.coarser()) for c in coordinates)
    twice = tuple(Coordinate(c.component, c.index, c.axis.coarser()) for c in once)
    return coordinates, once, twice


def on_the_circle(coordinates: Coordinates) -> Coordinates:
    """The coordinates with periodic ones on the Fourier grid alone."""
    return tuple(
        Coordinate(c.component, c.index, c.axis.circle()) if isinstance(c.axis, Periodic) else c
        for c in coordinates
    )


def gap(results: Refinement) -> float:
    """The largest difference of the two finest, infinite where something is not finite."""
    difference = float(np.abs(results[0] - results[1]).max())
    return difference if np.isfinite(difference) else np.inf


def numerical_error(results: Refinement, growth: Array) -> Array:
    """The bound from three refinements, `(step, observable)`.

    With d the difference of the two finest, e that of the two coarsest, and r the factor by which
    differences fall, the larger of 2 d max(1, r/(1 - r)), at most 20 d, and e/2, which guards
    against a d that is small by chance; and at least half the other observables' bounds, in
    units of their size. It does not fall with time: errors are carried along.
    """
    fine, rough, rougher = (
        np.nan_to_num(x, nan=1e300, posinf=1e300, neginf=-1e300) for x in results
    )
    scale = np.abs(fine).max(0) + np.finfo(float).tiny
    last = np.maximum.accumulate(np.abs(fine - rough), axis=0)
    before = np.maximum.accumulate(np.abs(rough - rougher), axis=0)
    falls = (last / scale).max(1) / np.maximum((before / scale).max(1), np.finfo(float).tiny)
    left = np.clip(falls / np.maximum(1 - falls, 1e-9), 1.0, SLOWEST)[:, None]
    left = np.where((last / scale).max(1, keepdims=True) < NOTHING_LEFT, 1.0, left)
    rounding = np.finfo(float).eps * (20 + 2 * np.sqrt(growth)[:, None]) * scale
    bound = np.maximum(SAFETY * left * last, GUARD * before)
    shared = 0.5 * scale * (bound / scale).max(1, keepdims=True)
    bound = np.maximum(bound, shared) + rounding
    bound[growth == 0] = 0.0
    return np.asarray(bound)


def with_fewer_nodes(thing: Any) -> Any:
    """An oracle or noise with fewer quadrature nodes where it has any; else itself.

    Nodes are recognised as a whole-number field `nodes` of a frozen dataclass, however deep.
    """
    changes: dict[str, Any] = {}
    for f in dataclasses.fields(thing):
        value = getattr(thing, f.name)
        if f.name == "nodes" and isinstance(value, int):
            changes[f.name] = max(2, fewer(value))
        elif f.name in {"noise", "base", "of"} and dataclasses.is_dataclass(value):
            smaller = with_fewer_nodes(value)
            if smaller is not value:
                changes[f.name] = smaller
    return dataclasses.replace(thing, **changes) if changes else thing


def _dataset(
    results: Refinement,
    growth: Array,
    point: State,
    recorded: Sequence[float],
    clock: float,
    names: Sequence[str],
    attrs: dict[str, Any],
) -> xr.Dataset:
    """The exact dataset of the finest result, with its bound."""
    fine = results[0]
    if not np.isfinite(fine).all():
        raise InvalidInputError(
            "the exact expectations are not finite: the grids do not hold the dynamics. Compare "
            "fewer steps, give more points, or use Periodic() for an angle."
        )
    bound = numerical_error(results, growth)
    step = np.array([point.step + s for s in recorded])
    return exact_dataset(
        mean=fine, bound=bound, step=step, time=step * clock, observables=names, attrs=attrs
    )


def _provenance(coordinates: Coordinates, point: State, who: str) -> dict[str, Any]:
    versions = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
    return {
        "object": who,
        "domain": "; ".join(f"{c}: {c.axis}" for c in coordinates),
        "start_step": float(point.step),
        "start": json.dumps({n: v.tolist() for n, v in point.components.items()}),
        "device": "cpu",
        "dtype": "float64",
        "versions": json.dumps(versions),
    }


def _text(values: Any) -> str:
    plain = {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in dict(values).items()}
    return json.dumps(plain, default=str)
