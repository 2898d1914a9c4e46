"""The check of an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sdeverify.base.state import State
from sdeverify.errors import UnsupportedError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.derive import Derivation, derive
from sdeverify.optimizers.ladders import svag
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.sdes import GradientSDE
from sdeverify.testing.require import require, same, states_of, toy_oracle

LEVEL = 3.0


def check_optimizer(
    optimizer: Optimizer,
    oracle: GradientOracle | None = None,
    sde: type[GradientSDE] | Derivation | None = None,
) -> None:
    """Raises where an optimizer is not the pure update rule that ladders and SDEs suppose.

    Checked: the step leaves the gradient as it is and gives all components; replicas do not see
    each other; `from_sde` inverts `to_sde`; level 1 is the optimizer itself; a level keeps the time
    of a level-1 step and the constants of the SDE, and has the refinement that it declares.

    Args:
        optimizer: that is checked.
        oracle: by default mini-batches of two of four losses on the torus.
        sde: whose constants a level keeps, as in `derive`; by default the optimizer's own.

    Example:
        >>> sv.testing.check_optimizer(sv.SGD(learning_rate=0.1))
    """
    oracle = toy_oracle() if oracle is None else oracle
    name = type(optimizer).__name__
    for state in states_of(optimizer, oracle):
        _check_step(optimizer, oracle, state, name)
    _check_level(optimizer, oracle, sde, name)


def _check_step(optimizer: Optimizer, oracle: GradientOracle, state: State, name: str) -> None:
    k = optimizer.own_step(state.step)
    y = optimizer.from_sde(state.expand(3), oracle)
    factors = torch.tensor([[1.0], [1.1], [0.9]]).to(y["theta"])
    y = {part: value * factors for part, value in y.items()}
    gradient = oracle.mean(y["theta"])
    before = gradient.clone()
    after = optimizer.step(k, y, gradient)
    require(
        torch.equal(gradient, before),
        f"{name}.advance changes the gradient in place; only the memory of y is its own.",
    )
    require(
        set(after) == set(optimizer.components),
        f"{name}.advance gives the components {tuple(after)}; it declares {optimizer.components}.",
    )
    alone = optimizer.step(k, {n: v[1:2] for n, v in y.items()}, gradient[1:2])
    for part, value in after.items():
        same(
            alone[part],
            value[1:2],
            f"{part} of {name}.advance of one replica, alone and among others",
        )
    there = optimizer.to_sde(k, y, oracle)
    require(
        set(there.components) == set(optimizer.sde_components),
        f"{name}.to_sde gives {tuple(there.components)}; it declares {optimizer.sde_components}.",
    )
    require(
        abs(there.step - state.step) < 1e-9,
        f"{name}.to_sde gives step {there.step:g} before own step {k}; it is {state.step:g}.",
    )
    for part, value in optimizer.from_sde(there, oracle).items():
        same(value, y[part], f"{part} of {name} before and after from_sde(to_sde(...))")
    start = optimizer.init(y["theta"])
    require(
        set(start) == set(optimizer.components),
        f"{name}.init gives {tuple(start)}; it declares {optimizer.components}.",
    )


def _check_level(
    optimizer: Optimizer,
    oracle: GradientOracle,
    sde: type[GradientSDE] | Derivation | None,
    name: str,
) -> None:
    one, amplification = optimizer.at_level(1.0)
    require(
        abs(amplification - 1) < 1e-12 and _close(one.hyperparameters, optimizer.hyperparameters),
        f"level 1 of {name} is not the optimizer itself: {one.hyperparameters}, noise amplified "
        f"{amplification:g} times.",
    )
    finer, amplified = svag(optimizer, oracle, LEVEL)
    refinement = optimizer.refinement * LEVEL**optimizer.refinement_power
    require(
        abs(finer.refinement - refinement) < 1e-9 * refinement,
        f"level {LEVEL:g} of {name} has refinement {finer.refinement:g}; with refinement_power "
        f"{optimizer.refinement_power} it is {refinement:g}.",
    )
    times = [o.time_per_step * o.refinement for o in (optimizer, finer)]
    require(
        abs(times[0] - times[1]) < 1e-9 * times[0],
        f"level {LEVEL:g} of {name} takes {times[1]:.6g} of time for a level-1 step instead of "
        f"{times[0]:.6g}: time_per_step does not fit refinement.",
    )
    try:
        coarse, fine = derive(optimizer, oracle, sde), derive(finer, amplified, sde)
    except UnsupportedError as error:
        raise AssertionError(f"no SDE to compare the levels of {name} with: {error}") from error
    require(
        _close(coarse.constants, fine.constants),
        f"level {LEVEL:g} of {name} has another SDE: constants {dict(coarse.constants)} became "
        f"{dict(fine.constants)}.",
    )


def _close(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return set(a) == set(b) and all(
        np.allclose(np.asarray(a[n], float), np.asarray(b[n], float), rtol=1e-9, atol=1e-300)
        for n in a
    )
