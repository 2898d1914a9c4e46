"""One-step consistency: do the local moments of an optimizer and of its SDE agree?

Over one own step of length tau from a state y, with the increment D = y+ - y, weak order 1 needs

    E D_i/tau = f_i + O(tau),  E D_i D_j/tau = (g g^T)_ij + O(tau),  E D_i D_j D_k/tau = O(tau)

and weak order 2 that all moments up to the fifth agree with those of the SDE to O(tau^2), where the
SDE's are L phi + (tau/2) L^2 phi with its generator L (Milstein, Tretyakov 2004, theorem 2.1). The
left sides are finite sums over the oracle's atoms, so no sampling and no grid is needed, in any
dimension. Along SVAG levels the right sides of order 1 stay, and a wrong SDE leaves a gap that does
not vanish. Order 2 is a matter of learning rates: SVAG's noise is too skewed for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdeverify.base.state import State, pack
from sdeverify.errors import InvalidInputError
from sdeverify.exact.local_moments import LocalMoments
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.ladders import Ladder, Rung, SvagLevels, fine_levels
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.sdes.sde import SDE

Array = NDArray[np.float64]

ROUNDING = 4 * np.finfo(np.float64).eps


def consistency(
    optimizer: Optimizer,
    oracle: GradientOracle,
    sde: SDE | Callable[[Optimizer, GradientOracle], SDE],
    state: State,
    *,
    ladder: Ladder | None = None,
    claimed_order: float = 1,
) -> xr.Dataset:
    """The gaps between one-step moments of optimizer and SDE along a ladder.

    Args:
        optimizer, oracle: the level-1 run; the oracle's noise has atoms.
        sde: the SDE of all rungs, or a function that gives each rung's.
        state: a point, in the SDE's coordinates, from which the step is made.
        ladder: fine rungs, SVAG's `fine_levels` unless given; the step nearest to the state's is
            taken.
        claimed_order: 1 or 2.

    Returns:
        A ladder of errors for `estimate_order`: the "observables" are the moments ("E d theta[0]",
        "E d theta[0] d u[0]", ...), each divided by tau, `chain_mean` is the optimizer's,
        `path_mean` the SDE's, `error` their difference, and `bound` what rounding can do.

    Raises:
        InvalidInputError: the state lacks a component of the SDE, or another order is claimed.
        UnsupportedError: the noise has no atoms.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> state = sv.State(0, theta=torch.ones(1, 1).double())
        >>> gaps = sv.consistency(sv.SGD(learning_rate=0.1), oracle, sv.derive, state)
        >>> gaps["observable"].values.tolist()[:2], gaps["error"].shape
        (['E d theta[0]', 'E d theta[0] d theta[0]'], (5, 1, 3))
    """
    order = checked_order(claimed_order)
    ladder = SvagLevels(fine_levels(optimizer)) if ladder is None else ladder
    rungs = ladder.rungs(optimizer, oracle)
    each = []
    for rung in rungs:
        equation = sde if isinstance(sde, SDE) else sde(rung.optimizer, rung.oracle)
        each.append(_gaps(rung, equation, state, order))
    return ladder.side_by_side(rungs, each, float(order))


def checked_order(claimed: float) -> int:
    """A claimed order whose moments are known: 1 or 2.

    Raises:
        InvalidInputError: another order.
    """
    if claimed not in (1, 2):
        raise InvalidInputError(
            f"one-step moments tell order 1 or 2; got a claim of {claimed:g}. Let the SDE "
            "claim one of these, and see whether it has it."
        )
    return int(claimed)


def _gaps(rung: Rung, sde: SDE, state: State, order: int) -> xr.Dataset:
    """The gaps of one rung, per unit of the ladder's time, as a weak-error dataset of one step."""
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
    local = LocalMoments(sde, t, y, second=order == 2)
    size = np.abs(change).max(0)
    slack = ROUNDING * (y.detach().abs().numpy()[0].astype(np.float64) + size)
    names = [f"{n}[{i}]" for n in sde.components for i in range(sde.dim)]
    moments: dict[str, tuple[float, float, float]] = {}
    for degree in range(1, 2 * order + 2):
        for which in itertools.combinations_with_replacement(range(len(names)), degree):
            ours = float(weights @ change[:, which].prod(1)) / tau
            theirs, numerical = local.rate(which, tau)
            sizes = size[list(which)]
            rounding = sum(slack[i] * np.delete(sizes, n).prod() for n, i in enumerate(which))
            bound = rounding / tau + ROUNDING * (abs(ours) + abs(theirs)) + numerical
            per_time = ours / rung.clock, theirs / rung.clock, bound / rung.clock
            moments["E " + " ".join(f"d {names[i]}" for i in which)] = per_time
    return _dataset(moments, state.step, state.step * tau * rung.optimizer.refinement, tau)


def _increments(rung: Rung, point: State, components: tuple[str, ...]) -> tuple[Array, Array, int]:
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


def _dataset(
    moments: dict[str, tuple[float, float, float]], step: float, time: float, tau: float
) -> xr.Dataset:
    dims = ("step", "observable")
    ours, theirs, bound = np.asarray(list(moments.values())).T[:, None, :]
    columns = {"error": ours - theirs, "chain_mean": ours, "path_mean": theirs, "bound": bound}
    return xr.Dataset(
        {name: (dims, values) for name, values in columns.items()},
        coords={
            "step": [step],
            "time": ("step", [time]),
            "observable": np.asarray(list(moments), dtype=object),
        },
        attrs={"time_per_step": tau},
    )
