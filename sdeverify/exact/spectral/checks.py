"""What the exact route refuses before it starts, and the coordinates that it works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sdeverify.base.state import State
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.exact.spectral.domain import (
    FEWEST_POINTS,
    LONGEST_BOX,
    MOST_POINTS,
    Axis,
    Interval,
    Moving,
    Periodic,
    Positive,
)
from sdeverify.exact.spectral.frames import Coordinate, Coordinates, Frame
from sdeverify.exact.spectral.grids import Array, GridError

Domain = Mapping[str, Axis | Sequence[Axis]]
MOST_DIMENSIONS = 3
DEFAULT_AXES: dict[str, Axis] = {"p": Moving(), "m": Moving(), "u": Positive()}
"""The axes of components that a domain may leave out."""
UNRESOLVED = 0.05


def point_of(start: Any, components: Sequence[str], who: str) -> State:
    """The start as a State of one point, in float64."""
    state = start if isinstance(start, State) else State(0, theta=torch.as_tensor(start))
    missing = [name for name in components if name not in state.components]
    if missing:
        raise InvalidInputError(
            f"{who} starts from {tuple(components)}; the start has no {', '.join(missing)}. Use "
            "warm_up(...), start_from_torch(...) or State(step, ...) with all of them."
        )
    parts = {}
    for name in components:
        value = state.components[name].detach()
        if value.ndim > 2 or (value.ndim == 2 and value.shape[0] != 1):
            raise InvalidInputError(
                f"the start is one point, shape (param,); '{name}' has shape {tuple(value.shape)}."
            )
        parts[name] = value.reshape(-1).to(torch.float64)
    return State(state.step, **parts)


def coordinates_of(domain: Domain, start: State, who: str, whole: Any) -> Coordinates:
    """One coordinate for each number of the state, theta's first, each with its axis.

    Args:
        start: the components that are followed.
        whole: the start as it was given; a domain may speak of all its components.
    """
    names = ["theta", *(n for n in start.components if n != "theta")]
    dim = start.components["theta"].numel()
    if len(names) * dim > MOST_DIMENSIONS:
        raise UnsupportedError(
            f"{who} has {len(names)} components of {dim} parameters, {len(names) * dim} "
            f"dimensions; the exact route goes up to {MOST_DIMENSIONS}. "
            "Use simulate(...) and solve(...)."
        )
    coordinates: list[Coordinate] = []
    for name in names:
        choice = domain[name] if name in domain else DEFAULT_AXES.get(name)
        if choice is None:
            raise InvalidInputError(
                f"the domain says nothing of '{name}', which {who} has; it has "
                f"{sorted(domain) or 'nothing'}. Give Periodic(), Interval(low, high), Moving() or "
                f"Positive() for '{name}'."
            )
        axes = [choice] * dim if isinstance(choice, Axis) else list(choice)
        if len(axes) != dim or not all(isinstance(a, Axis) for a in axes):
            raise InvalidInputError(
                f"domain['{name}'] is one axis, or one for each of {dim} parameters; "
                f"got {choice!r}."
            )
        most = MOST_POINTS[len(names) * dim]
        coordinates += [Coordinate(name, i, axis.limited(*most)) for i, axis in enumerate(axes)]
    unknown = sorted(set(domain) - set(names) - set(getattr(whole, "components", ())))
    if unknown:
        raise InvalidInputError(
            f"the domain names {', '.join(unknown)}, which {who} does not have; it has "
            f"{', '.join(names)}. Leave it out, or name the component that is meant."
        )
    for coordinate in coordinates:
        _check_axis(coordinate, start)
    return tuple(coordinates)


def _check_axis(coordinate: Coordinate, start: State) -> None:
    axis = coordinate.axis
    if min(axis.sizes) < FEWEST_POINTS:
        raise InvalidInputError(
            f"{coordinate} has too coarse a grid, {axis}; give at least {FEWEST_POINTS} points, or "
            "none at all: then they are found."
        )
    value = float(start.components[coordinate.component][coordinate.index])
    if not np.isfinite(value):
        raise InvalidInputError(f"the start's {coordinate} is {value}; it must be finite.")
    if isinstance(axis, Interval) and not axis.low <= value <= axis.high:
        raise InvalidInputError(
            f"the start's {coordinate} = {value:g} is outside its Interval({axis.low:g}, "
            f"{axis.high:g}). Widen the interval."
        )
    if isinstance(axis, Positive) and not value > 0:
        raise InvalidInputError(
            f"the start's {coordinate} = {value:g}, but it lives on a Positive axis. Start with "
            "u > 0: warm up first, or take u = diag Sigma(theta)."
        )


def check_resolution(frame: Frame, arrays: Sequence[Array], names: Sequence[str]) -> None:
    """Refuses a grid on which a function is not resolved: its last modes are not small."""
    for values, name in zip(arrays, names, strict=True):
        for axis, grid in enumerate(frame.grids):
            modes = np.abs(np.tensordot(grid.to_nodal, values, axes=(1, axis)))
            size = modes.reshape(grid.size, -1).max(1)
            if grid.size > 4 and size[-3:].max() > UNRESOLVED * size.max():
                raise GridError(
                    f"too coarse a grid: {name} is not resolved by {grid.size} points along "
                    f"{frame.coordinates[axis]} (its last modes have "
                    f"{size[-3:].max() / size.max():.0%} of the largest). Give more points."
                )


def check_box_lengths(coordinates: Coordinates, lengths: Sequence[float]) -> None:
    """Refuses boxes on the line that are longer than the circle below them."""
    for coordinate, length in zip(coordinates, lengths, strict=True):
        axis = coordinate.axis
        if isinstance(axis, Periodic) and length > LONGEST_BOX * axis.length:
            raise GridError(
                f"the SDE reaches {length:.3g} of {coordinate}, further than once around its "
                f"circle of {axis.length:.3g}. Use the Fourier grid."
            )


def check_inward(
    coordinate: Coordinate,
    drift: Array,
    axis: int,
) -> None:
    """Refuses an Interval on whose ends the SDE's drift points outward."""
    box = coordinate.axis
    if not isinstance(box, Interval):
        return
    low, high = (float(np.take(sign * drift, end, axis).min()) for sign, end in ((1, 0), (-1, -1)))
    allowed = -1e-9 * float(np.abs(drift).max()) - 1e-300
    if low < allowed or high < allowed:
        raise InvalidInputError(
            f"the SDE leaves the Interval({box.low:g}, {box.high:g}) of {coordinate}: its drift "
            "points outward at an end. Widen the interval until it points inward, or use "
            "Periodic() if the coordinate is an angle."
        )


def check_observables(observables: Sequence[Any]) -> list[str]:
    """The observables' names, which differ."""
    names = [str(getattr(o, "name", "")) for o in observables]
    if not names or "" in names or len(set(names)) != len(names):
        raise InvalidInputError(
            f"observables need different names, at least one; got {names}. Use "
            "sv.Observable(name, function)."
        )
    return names


def check_oracle(oracle: Any) -> None:
    """Refuses noise without atoms, dependent steps, and problems that are not in float64."""
    oracle.atoms()
    if not getattr(oracle.noise, "independent_steps", True):
        raise UnsupportedError(
            f"{type(oracle.noise).__name__} gives gradients that depend on one another; the exact "
            "route needs independent steps. Use MinibatchNoise."
        )
    if oracle.problem.dtype != torch.float64 or oracle.problem.device.type != "cpu":
        raise InvalidInputError(
            f"the exact route works in float64 on the CPU; the problem is in "
            f"{oracle.problem.dtype} on {oracle.problem.device}. Build it in float64."
        )
