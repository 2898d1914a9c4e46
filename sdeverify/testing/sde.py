"""The check of an SDE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr

from sdeverify.analysis import estimate_order
from sdeverify.base.state import State, pack
from sdeverify.exact.consistency import checked_order, consistency
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.derive import derive
from sdeverify.optimizers.ladders import LearningRates, svag
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.sdes import GradientSDE
from sdeverify.sdes.sde import SDE
from sdeverify.testing.require import require, same, spread_states, states_of, toy_oracle

LEVEL = 3.0
Derivation = type[GradientSDE] | SDE | Callable[[Optimizer, GradientOracle], SDE]


def check_sde(
    sde: Derivation,
    optimizer: Optimizer,
    oracle: GradientOracle | None = None,
    start: State | None = None,
    **options: Any,
) -> None:
    """Raises where an SDE does not have the weak order that it claims for an optimizer.

    All one-step moments of the optimizer, up to the third for order 1 and up to the fifth for
    order 2, are computed without sampling from the oracle's atoms and compared with those of the
    coded drift and diffusion while the step shrinks: along SVAG levels for order 1, along learning
    rates for order 2. This is done at three states that the optimizer comes to, and at sixteen
    points spread over the period of theta, or over three times the visited range (order 2: at every
    fourth); a fault between them is not seen (`check_weak_order` sees it where the run passes).

    Args:
        sde: a class with `of(optimizer, oracle)`, a function (optimizer, oracle) -> SDE, or one
            SDE, which then has to belong to all SVAG levels.
        optimizer: the level-1 optimizer.
        oracle: with few atoms; by default mini-batches of two of four losses on the torus.
        start: the one state to check at, instead of those.
        options: passed on to `of`, `keep_signal=True` say.

    Raises:
        AssertionError: with every moment that differs, the optimizer's value and the SDE's.

    Example:
        >>> sgd = sv.SGD(learning_rate=0.1)
        >>> sv.testing.check_sde(sv.sdes.SGDFirstOrder, sgd)
        >>> def noiseless(optimizer, oracle):
        ...     return sv.GradientFlow.without_noise(sv.derive(optimizer, oracle))
        >>> try:
        ...     sv.testing.check_sde(noiseless, sgd)
        ... except AssertionError as error:
        ...     print(error)
        GradientFlow does not have weak order 1 for SGD: ...
    """
    oracle = toy_oracle() if oracle is None else oracle
    build = builder(sde, options)
    equation = build(optimizer, oracle)
    visited = states_of(optimizer, oracle) if start is None else [start]
    starts = visited if start else [*visited, *spread_states(visited, oracle.problem)]
    for state in starts:
        _check_coded(equation, state)
    _check_clock(build, optimizer, oracle)
    for order in range(1, checked_order(equation.claimed_order) + 1):
        ladder = None
        if order > 1:
            ladder = LearningRates([optimizer.learning_rate]).fine(optimizer)
        for state in starts if order == 1 else starts[::4]:
            along = consistency(optimizer, oracle, build, state, ladder=ladder, claimed_order=order)
            _require_order(along, type(equation).__name__, optimizer.name, state)


def builder(
    sde: Derivation, options: Mapping[str, Any]
) -> Callable[[Optimizer, GradientOracle], SDE]:
    """The function (optimizer, oracle) -> SDE that a derivation stands for."""
    if isinstance(sde, SDE):
        fixed = sde
        return lambda optimizer, oracle: fixed
    build: Any = sde
    return lambda optimizer, oracle: derive(optimizer, oracle, build, **options)


def _check_coded(sde: SDE, state: State) -> None:
    """Shapes, purity, replicas apart from each other, a product linear in its vector."""
    name = type(sde).__name__
    require(
        set(sde.components) <= set(state.components),
        f"{name} has the components {sde.components}; the optimizer's states have "
        f"{tuple(state.components)}. Name them alike, or give a start.",
    )
    t = state.step * sde.time_per_level1_step
    one = pack(state.expand(1).components, sde.components)
    y = torch.cat([one, one * 1.1, one * 0.9])
    v = torch.linspace(-1, 1, 3 * sde.noise_dim, dtype=y.dtype).reshape(3, -1).to(y)
    before = y.clone()
    drift, product = sde.f(t, y), sde.g_prod(t, y, v)
    for what, value in (("f", drift), ("g_prod", product)):
        require(
            value.shape == y.shape,
            f"{name}.{what} has shape {tuple(value.shape)} for a state of shape {tuple(y.shape)}.",
        )
        require(bool(value.isfinite().all()), f"{name}.{what} is not finite at {state!r}.")
    require(torch.equal(y, before), f"{name} changes the state that it is given.")
    same(sde.f(t, y[1:2]), drift[1:2], f"{name}.f of one replica, alone and among others")
    same(sde.g_prod(t, y[1:2], v[1:2]), product[1:2], f"{name}.g_prod of one replica, alone")
    same(sde.g_prod(t, y, -2 * v), -2 * product, f"{name}.g_prod of a vector and of -2 times it")


def _check_clock(
    build: Callable[[Optimizer, GradientOracle], SDE], optimizer: Optimizer, oracle: GradientOracle
) -> None:
    for level in (1.0, LEVEL):
        at, amplified = svag(optimizer, oracle, level)
        clock, wanted = build(at, amplified).time_per_level1_step, at.time_per_step * at.refinement
        require(
            abs(clock - wanted) <= 1e-9 * abs(wanted),
            f"wrong clock at level {level:g}: the SDE takes {clock:.6g} of time for a level-1 "
            f"step, {optimizer.name} says {wanted:.6g} (time_per_step * refinement).",
        )


def _require_order(along: xr.Dataset, sde: str, optimizer: str, state: State) -> None:
    """Raises with every moment whose gap does not fall with the claimed order."""
    order = estimate_order(along)
    verdict = order["verdict"].values[:, 0]
    claimed = float(order.attrs["claimed_order"])
    lines = []
    for i in np.flatnonzero(verdict == "refuted"):
        finest = along.isel(rung=-1, step=0, observable=i)
        lines.append(
            f"    {order.observable.values[i]} per unit of time: the optimizer has "
            f"{float(finest['chain_mean']):.6g}, the SDE {float(finest['path_mean']):.6g} at the "
            f"finest step ({order['reason'].values[i, 0]}; order {float(order['order'][i, 0]):.2f})"
        )
    require(
        not lines,
        f"{sde} does not have weak order {claimed:g} for {optimizer}: from {state!r} these "
        "moments of one step differ:\n" + "\n".join(lines),
    )
    require(
        bool((verdict == "supported").any()),
        f"the order of {sde} is not resolved from {state!r}: "
        + "; ".join(sorted({str(r) for r in order["reason"].values.ravel()}))
        + ". Check at another start, or with a larger learning rate.",
    )
