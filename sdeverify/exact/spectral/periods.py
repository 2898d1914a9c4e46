"""Whether everything on a periodic axis has its period."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sdeverify.base.state import State, pack
from sdeverify.errors import InvalidInputError
from sdeverify.exact.spectral.domain import Periodic
from sdeverify.exact.spectral.frames import Coordinate, Coordinates, evaluate
from sdeverify.exact.spectral.grids import Array

PLACES = 5
"""Points around the circle at which functions are compared a period further on."""
SLACK = 1e-8


def check_observables_period(
    coordinates: Coordinates, start: State, observables: Sequence[Any], names: Sequence[str]
) -> None:
    """Refuses observables that do not have the period of a periodic coordinate."""

    def values(state: State) -> Array:
        return np.stack([evaluate(o, state) for o in observables])

    for coordinate, here, there in _pairs(coordinates, start, values):
        for name, a, b in zip(names, here, there, strict=True):
            _require(a, b, coordinate, f"observable '{name}' does")


def check_sde_period(coordinates: Coordinates, start: State, sde: Any) -> None:
    """Refuses an SDE whose drift or noise does not have the period of a periodic coordinate."""
    t = start.step * float(sde.time_per_level1_step)

    def values(state: State) -> Array:
        y = pack(state.components, sde.components)
        eye = torch.eye(sde.noise_dim, dtype=y.dtype)
        noise = [sde.g_prod(t, y, unit.expand(len(y), -1)) for unit in eye]
        return np.stack([part.detach().numpy() for part in (sde.f(t, y), *noise)])

    for coordinate, here, there in _pairs(coordinates, start, values):
        _require(here, there, coordinate, f"drift and noise of {type(sde).__name__} do")


def check_chain_period(coordinates: Coordinates, start: State, optimizer: Any, oracle: Any) -> None:
    """Refuses an optimizer whose step does not commute with a period of theta."""
    k = optimizer.own_step(start.step)
    atoms = oracle.atoms()

    def values(state: State) -> Array:
        gradient = atoms.gradients(state.theta)[:, 0]
        moved = optimizer.step(k, optimizer.from_sde(state, oracle), gradient)
        after = optimizer.to_sde(k + 1, moved, oracle).components
        names = optimizer.sde_components
        return (pack(after, names) - pack(state.components, names)).detach().numpy()

    for coordinate, here, there in _pairs(coordinates, start, values):
        _require(here, there, coordinate, f"the step of {type(optimizer).__name__} does")


def _pairs(
    coordinates: Coordinates, start: State, values: Callable[[State], Array]
) -> list[tuple[Coordinate, Array, Array]]:
    """For each periodic coordinate, values around the circle and a period further on."""
    pairs = []
    for coordinate in coordinates:
        axis = coordinate.axis
        if isinstance(axis, Periodic):
            around = axis.length * torch.arange(PLACES, dtype=torch.float64) / PLACES
            both = [_moved(start, coordinate, around + turn) for turn in (0.0, axis.length)]
            pairs.append((coordinate, values(both[0]), values(both[1])))
    return pairs


def _moved(start: State, coordinate: Coordinate, by: torch.Tensor) -> State:
    parts = {n: v.reshape(1, -1).repeat(len(by), 1) for n, v in start.components.items()}
    parts[coordinate.component][:, coordinate.index] += by
    return State(start.step, **parts)


def _require(here: Array, there: Array, coordinate: Coordinate, what: str) -> None:
    gap = float(np.abs(here - there).max())
    if not gap <= SLACK * (1 + float(np.abs(here).max())):
        assert isinstance(coordinate.axis, Periodic)
        raise InvalidInputError(
            f"{what} not have the period {coordinate.axis.length:g} of {coordinate}: a period "
            f"further on it differs by {gap:.3g}. Use Moving() or an Interval for "
            f"'{coordinate.component}'."
        )
