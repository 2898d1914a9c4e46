"""Exact weak errors: expectations of any optimizer and any SDE in up to three dimensions.

The chain's law is pushed forward by the optimizer's own step, called on grid points x the oracle's
atoms; the SDE's by its generator, read from its own drift and diffusion product. Neither knows a
formula. Every result is computed at least three times, on ever finer grids with wider boxes, until
`bound`, what is left by the way in which the last three converge, twice over, is small enough.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy
import torch
import xarray as xr

from sdeverify.analysis.datasets.schema import exact_dataset
from sdeverify.analysis.weak_error import weak_error
from sdeverify.base.arguments import recorded_steps
from sdeverify.base.state import State
from sdeverify.exact.spectral.checks import (
    Domain,
    check_box_lengths,
    check_observables,
    check_oracle,
    coordinates_of,
    point_of,
)
from sdeverify.exact.spectral.domain import Periodic
from sdeverify.exact.spectral.evolution import Continuous
from sdeverify.exact.spectral.flow import flow_values, is_noiseless
from sdeverify.exact.spectral.frames import Coordinates
from sdeverify.exact.spectral.grids import Array
from sdeverify.exact.spectral.periods import (
    check_chain_period,
    check_observables_period,
    check_sde_period,
)
from sdeverify.exact.spectral.refinement import (
    ACCURACY,
    AIM,
    SHARE,
    Converged,
    Family,
    accuracy_to_resolve,
    better,
    converge,
    numerical_error,
    with_fewer_nodes,
)
from sdeverify.exact.spectral.transfer import Chain, chain_expectations

TOLERANCES = {1: 1e-13, 2: 1e-11, 3: 1e-9}
"""Of the SDE's time integration, by dimension; ten times this on every second level."""
PIECES = 24
"""Of the time, where an SDE's boxes change with it."""


def exact_weak_error(
    optimizer: Any,
    oracle: Any,
    sde: Any,
    start: State | torch.Tensor,
    steps: int | Sequence[float],
    observables: Sequence[Any],
    domain: Domain,
    *,
    accuracy: float | None = None,
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
            so may u (`Positive()`). Grids are refined until the accuracy is reached, or an axis
            has its most points.
        accuracy: the bound wanted on each side. By default 1e-12, 1e-8, 1e-6 in one, two, three
            dimensions, and smaller where a weak error would not be resolved otherwise.

    Returns:
        `discrete`, `continuous`, `error` (discrete - continuous), `bound`, `resolved` (whether the
        bound is at most 1% of |error|) and `standard_error` (0) over (step, observable), beside
        what `weak_error` gives.

    Raises:
        InvalidInputError: an interval that the chain leaves, too coarse a grid, a start outside
            the domain, a component without an axis or unknown, functions that do not have a period.
        UnsupportedError: more than three dimensions, or noise without atoms.

    Example:
        >>> from sdeverify.exact import Periodic
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(1))
        >>> cosine = sv.Observable("cos", lambda state: state.theta[:, 0].cos())
        >>> theta0, run = torch.ones(1).double(), (sv.SGD(learning_rate=0.2), oracle)
        >>> domain = {"theta": Periodic()}
        >>> errors = sv.exact_weak_error(*run, sv.derive(*run), theta0, [5], [cosine], domain)
        >>> float(errors["error"][-1, 0].round(4)), bool(errors["bound"][-1, 0] < 1e-9)
        (0.0105, True)
    """

    def chain(wanted: float | None) -> xr.Dataset:
        return exact_discrete(optimizer, oracle, start, steps, observables, domain, wanted)

    def path(wanted: float | None) -> xr.Dataset:
        return exact_continuous(sde, start, steps, observables, domain, wanted)

    discrete, continuous = chain(accuracy), path(accuracy)
    errors = exact_difference(discrete, continuous)
    if accuracy is None and (wanted := accuracy_to_resolve([errors])) is not None:
        sides = better(discrete, chain, wanted), better(continuous, path, wanted)
        errors = exact_difference(*sides)
    return errors


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
    return ds.assign_attrs(
        start_step=discrete.attrs["start_step"], accuracy=discrete.attrs["accuracy"], exact=1
    )


def exact_discrete(
    optimizer: Any,
    oracle: Any,
    start: State | torch.Tensor,
    steps: int | Sequence[float],
    observables: Sequence[Any],
    domain: Domain,
    accuracy: float | None = None,
) -> xr.Dataset:
    """E phi of the chain, `mean` and `bound` over (step, observable); see `exact_weak_error`.

    Args:
        accuracy: the bound that is wanted; by default 1e-12, 1e-8, 1e-6 in one, two, three
            dimensions.
    """
    who = type(optimizer).__name__
    check_oracle(oracle)
    names = check_observables(observables)
    point = point_of(start, optimizer.sde_components, who)
    coordinates = coordinates_of(domain, point, who, start)
    recorded = recorded_steps(steps)
    own = [optimizer.own_step(point.step + s) for s in recorded]
    check_observables_period(coordinates, point, observables, names)
    check_chain_period(coordinates, point, optimizer, oracle)
    Chain(optimizer, oracle, coordinates).check_reach(own[0], point)

    def run(grids: Family, below: int, fed: Any = oracle) -> Array:
        return chain_expectations(optimizer, fed, point, own, observables, grids.coordinates)

    growth = np.array([k - own[0] for k in own], dtype=np.float64)
    clock = optimizer.time_per_step * optimizer.refinement
    attrs: dict[str, Any] = {
        **_provenance(point, who),
        "accuracy": accuracy or ACCURACY[len(coordinates)],
        "name": str(optimizer.name),
        "time_per_step": float(optimizer.time_per_step),
        "time_per_level1_step": float(clock),
        "refinement": float(optimizer.refinement),
        "hyperparameters": _text(optimizer.hyperparameters),
        "noise": oracle.noise.describe(oracle.problem),
    }
    families = [Family(c) for c in (coordinates, *on_the_circle(coordinates))]
    result = converge(run, families, growth, AIM * attrs["accuracy"])
    fewer = with_fewer_nodes(oracle)
    if fewer is not oracle:
        rough = [run(result.grids, 0, o) for o in (with_fewer_nodes(fewer), fewer)]
        nodes = numerical_error([*rough, result.mean], growth)
        result = replace(result, bound=result.bound + nodes)
    return _dataset(result, point, recorded, clock, names, attrs)


def exact_continuous(
    sde: Any,
    start: State | torch.Tensor,
    steps: int | Sequence[float],
    observables: Sequence[Any],
    domain: Domain,
    accuracy: float | None = None,
) -> xr.Dataset:
    """E phi of the SDE, `mean` and `bound` over (step, observable); see `exact_discrete`."""
    who = type(sde).__name__
    names = check_observables(observables)
    point = point_of(start, sde.components, who)
    coordinates = coordinates_of(domain, point, who, start)
    recorded = recorded_steps(steps)
    absolute = [point.step + s for s in recorded]
    check_observables_period(coordinates, point, observables, names)
    check_sde_period(coordinates, point, sde)
    noiseless = is_noiseless(sde, point)
    tolerance = TOLERANCES[1 if noiseless else len(coordinates)]

    def run(grids: Family, below: int) -> Array:
        precision = tolerance * (10 if below % 2 else 1)
        if noiseless:
            return flow_values(sde, point, absolute, observables, precision)
        side = Continuous(sde, grids, point, absolute, precision)
        side.check(observables, names)
        check_box_lengths(coordinates, side.box_lengths)
        return side.expectations(observables)

    clock = float(sde.time_per_level1_step)
    attrs: dict[str, Any] = {
        **_provenance(point, who),
        "accuracy": accuracy or ACCURACY[len(coordinates)],
        "name": str(getattr(getattr(sde, "description", None), "name", who)),
        "model": who,
        "time_per_step": clock,
        "time_per_level1_step": clock,
        "refinement": 1.0,
        "hyperparameters": _text(getattr(sde, "constants", {})),
    }
    families = sde_families(coordinates)
    result = converge(run, families, np.array(recorded), AIM * attrs["accuracy"])
    return _dataset(result, point, recorded, clock, names, attrs)


def sde_families(coordinates: Coordinates) -> list[Family]:
    """On the line in one box, then in boxes that change with time, then around the circle.

    In one dimension the circle alone: it is cheap, and reaches rounding.
    """
    line = tuple(
        replace(c, axis=c.axis.line()) if isinstance(c.axis, Periodic) and c.axis.box_points else c
        for c in coordinates
    )
    circle = on_the_circle(coordinates) or (coordinates,)
    families = []
    if line != coordinates and len(coordinates) > 1:
        families = [Family(line), Family(line, PIECES)]
    families += [Family(c) for c in circle]
    if any(c.axis.box_is_found for c in coordinates):
        families += [Family(c, PIECES) for c in circle]
    return families


def on_the_circle(coordinates: Coordinates) -> tuple[Coordinates, ...]:
    """Periodic coordinates on their Fourier grids alone, where there are any with boxes too."""
    circle = tuple(
        replace(c, axis=c.axis.circle()) if isinstance(c.axis, Periodic) else c for c in coordinates
    )
    return () if circle == coordinates else (circle,)


def _dataset(
    found: Converged,
    point: State,
    recorded: Sequence[float],
    clock: float,
    names: Sequence[str],
    attrs: dict[str, Any],
) -> xr.Dataset:
    """The exact dataset of a converged result."""
    step = np.array([point.step + s for s in recorded])
    domain = "; ".join(f"{c}: {c.axis}" for c in found.grids.coordinates)
    return exact_dataset(
        mean=found.mean,
        bound=found.bound,
        step=step,
        time=step * clock,
        observables=names,
        attrs={**attrs, "domain": domain},
    )


def _provenance(point: State, who: str) -> dict[str, Any]:
    versions = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
    return {
        "object": who,
        "start_step": float(point.step),
        "start": json.dumps({n: v.tolist() for n, v in point.components.items()}),
        "device": "cpu",
        "dtype": "float64",
        "versions": json.dumps(versions),
    }


def _text(values: Any) -> str:
    plain = {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in dict(values).items()}
    return json.dumps(plain, default=str)
