"""One-step consistency: do the local moments of an optimizer and of its SDE agree?

Over one own step of length tau from a state y, with the increment D = y+ - y, weak order 1 needs

    E D_i/tau = f_i + O(tau),  E D_i D_j/tau = (g g^T)_ij + O(tau),  E D_i D_j D_k/tau = O(tau)

(Milstein, Tretyakov 2004, theorem 2.1). The left sides are finite sums over the oracle's atoms, so
no sampling and no grid is needed, in any dimension. Along SVAG levels the right sides stay, and a
wrong SDE leaves a gap that does not vanish.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from sdeverify.analysis import ladder as ladder_of
from sdeverify.errors import InvalidInputError
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.oracle import GradientOracle
from sdeverify.scalings import Ladder, Rung, SvagLevels
from sdeverify.sdes.sde import SDE
from sdeverify.shapes import Tensor
from sdeverify.state import State, pack

Array = NDArray[np.float64]

ROUNDING = 8 * np.finfo(np.float64).eps
FINE_LEVELS = SvagLevels([8, 16, 32, 64])


def consistency(
    optimizer: Optimizer,
    oracle: GradientOracle,
    sde: SDE | Callable[[Optimizer, GradientOracle], SDE],
    state: State,
    ladder: Ladder = FINE_LEVELS,
) -> xr.Dataset:
    """The gaps between one-step moments of optimizer and SDE along a ladder.

    Args:
        optimizer, oracle: the level-1 run; the oracle's noise has atoms.
        sde: the SDE of all rungs, or a function that gives each rung's.
        state: a point, in the SDE's coordinates, from which the step is made.
        ladder: fine rungs; the step nearest to the state's is taken on each.

    Returns:
        A ladder of errors for `estimate_order`: the "observables" are the moments ("E d theta[0]",
        "E d theta[0] d u[0]", ...), each divided by tau, `error` is optimizer less SDE, and
        `bound` what rounding can do.

    Raises:
        InvalidInputError: the state lacks a component of the SDE.
        UnsupportedError: the noise has no atoms.
    """
    rungs = ladder.rungs(optimizer, oracle)
    level1 = rungs[0].optimizer.time_per_step * rungs[0].optimizer.refinement
    each = []
    for rung in rungs:
        equation = sde if isinstance(sde, SDE) else sde(rung.optimizer, rung.oracle)
        each.append(_gaps(rung, equation, state, level1))
    labels = {ladder.label_name: np.asarray([rung.label for rung in rungs])}
    return ladder_of(each, ladder.kind, 1.0, **labels)


def _gaps(rung: Rung, sde: SDE, state: State, level1: float) -> xr.Dataset:
    """The gaps of one rung as a weak-error dataset of one step."""
    missing = [name for name in sde.components if name not in state.components]
    if missing:
        raise InvalidInputError(
            f"the SDE has the components {sde.components}; the state lacks {', '.join(missing)}. "
            "Take a state from warm_up(...), or State(step, ...) with all of them."
        )
    point = state.expand(1)
    change, weights, k = _increments(rung, point, sde.components)
    tau = rung.optimizer.time_per_step
    t = k / rung.optimizer.refinement * sde.time_per_level1_step
    y = pack(point.components, sde.components)
    drift, diffusion = _row(sde.f(t, y)), _row(sde.g(t, y))
    covariance = diffusion @ diffusion.T
    slack = ROUNDING * max(1.0, float(y.abs().max()))
    size = np.abs(change).max(0)
    names = [f"{n}[{i}]" for n in sde.components for i in range(sde.dim)]
    found: dict[str, tuple[float, float]] = {}
    for degree in (1, 2, 3):
        for which in itertools.combinations_with_replacement(range(len(names)), degree):
            product = change[:, which].prod(1)
            ours = float(weights @ product) / tau
            wanted = {1: drift[which[0]], 2: covariance[which[:2]] if degree > 1 else 0.0}
            theirs = float(wanted.get(degree, 0.0))
            rest = size[list(which[1:])].prod() if degree > 1 else 1.0
            bound = degree * slack * rest / tau + ROUNDING * (abs(ours) + abs(theirs))
            label = "E " + " ".join(f"d {names[i]}" for i in which)
            found[label] = ours - theirs, bound
    return _dataset(found, state.step, state.step * level1, tau)


def _increments(
    rung: Rung, point: State, components: tuple[str, ...]
) -> tuple[Array, Array, int]:
    """The increment of each atom `(atom, packed)`, their weights, and the own step."""
    optimizer, oracle = rung.optimizer, rung.oracle
    k = round(point.step * optimizer.refinement)
    atoms = oracle.atoms()
    gradients = atoms.gradients(point.theta)[0]
    before = optimizer.from_sde(point, oracle)
    wide = {name: value.expand(len(gradients), -1) for name, value in before.items()}
    after = optimizer.to_sde(k + 1, optimizer.step(k, wide, gradients), oracle)
    change = pack(after.components, components) - pack(point.components, components)
    return change.detach().numpy(), atoms.weights.detach().numpy(), k


def _row(values: Tensor) -> Array:
    return np.asarray(values.detach().to(torch.float64).numpy()[0])


def _dataset(
    found: dict[str, tuple[float, float]], step: float, time: float, tau: float
) -> xr.Dataset:
    dims = ("step", "observable")
    values: Any = np.asarray(list(found.values()))
    return xr.Dataset(
        {"error": (dims, values[None, :, 0]), "bound": (dims, values[None, :, 1])},
        coords={
            "step": [step],
            "time": ("step", [time]),
            "observable": np.asarray(list(found), dtype=object),
        },
        attrs={"time_per_step": tau},
    )
