"""What to do with the hyperparameters when the batch grows from B to kappa B."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar, cast

import torch

from sdeverify.base.arguments import number
from sdeverify.base.shapes import PerParameter, Tensor
from sdeverify.base.state import State
from sdeverify.errors import InvalidInputError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.rules import BatchRule, Change
from sdeverify.optimizers.torch_classes import kind_of
from sdeverify.scaling.rules import rule_for
from sdeverify.scaling.torch_optimizer import changed, relaxations_of, without_schedule

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer | torch.optim.Optimizer)


def scale(
    optimizer: AnyOptimizer,
    kappa: float,
    rule: str | BatchRule = "auto",
    *,
    schedule_stretched: bool = False,
) -> AnyOptimizer:
    """The optimizer for a batch of kappa B: the same kind, ours or torch's.

    Ours keeps its time axis: its `refinement` is divided by kappa, so that one level-1 step stays
    one step of the unscaled optimizer, schedules stretch by themselves, and runs are compared at
    multiples of kappa. Of a live torch optimizer it gives a new one over the same parameters, with
    scaled param groups and scaled copies of its state; the old one is left as it was.

    Args:
        optimizer: one of this package, or a live `torch.optim` one.
        kappa: > 0; below 1 for smaller batches.
        rule: "auto" keeps the SDE: linear for SGD, `MomentumRule` for momentum, square root for
            RMSprop, Adam, AdamW. By name also "linear" (for momentum the customary rule, see its
            caveat) and the rivals "square_root_fixed_beta", "square_root_fixed_epsilon" and
            "unscaled". Or a `BatchRule` of your own.
        schedule_stretched: torch only: confirms that a scheduler of the old optimizer is replaced
            by one of the new with step counts divided by kappa. Without it, an optimizer that has
            had a scheduler is refused.

    Raises:
        InvalidInputError: kappa <= 0, or kappa (1 - beta) > 1; the message has the largest kappa.
        UnsupportedError: no rule is known for this optimizer, or a scheduler is attached.

    Example:
        >>> sv.scale(sv.SGD(learning_rate=0.1), kappa=4).learning_rate
        0.4
        >>> net = torch.nn.Linear(3, 2)
        >>> adam = sv.scale(torch.optim.Adam(net.parameters(), lr=0.01), kappa=4)
        >>> adam.param_groups[0]["lr"], [round(beta, 6) for beta in adam.param_groups[0]["betas"]]
        (0.02, [0.6, 0.996])
    """
    _check_positive(kappa)
    chosen = rule_for(_kind(optimizer), rule)
    largest = largest_kappa(optimizer, chosen)
    if kappa > largest * (1 + 1e-9):
        raise InvalidInputError(
            f"kappa = {kappa:g} is too large for the rule '{chosen.name}': it needs "
            "kappa (1 - beta) <= 1 for every beta (or mu). The largest kappa that works is "
            f"{largest:.6g}."
        )
    change = chosen.change(kappa) if kappa != 1 else Change()
    if isinstance(optimizer, Optimizer):
        return cast(AnyOptimizer, optimizer if kappa == 1 else optimizer.changed(change))
    if kappa != 1 and not schedule_stretched:
        without_schedule(optimizer)
    return cast(AnyOptimizer, changed(cast(torch.optim.Optimizer, optimizer), change))


def largest_kappa(
    optimizer: Optimizer | torch.optim.Optimizer, rule: str | BatchRule = "auto"
) -> float:
    """The largest batch factor a rule can follow: 1/(1 - beta) of the smallest beta (or mu).

    Example:
        >>> round(sv.largest_kappa(sv.Adam(learning_rate=1e-3, beta1=0.9, beta2=0.999)), 6)
        10.0
    """
    chosen = rule_for(_kind(optimizer), rule)
    if chosen.change(2.0).relaxation == 1:
        return math.inf
    fastest = max(_relaxations(optimizer))
    return float(f"{1 / fastest:.12g}") if fastest > 0 else math.inf


def scale_state(
    state: State, optimizer: Optimizer, kappa: float, rule: str | BatchRule = "auto"
) -> State:
    """Where the scaled run starts from if the unscaled one is at `state` (the SDE's coordinates).

    u = v/sigma^2 and m stay under every rule, since v -> v/kappa and sigma^2 -> sigma^2/kappa. p
    stays under the rule that keeps the SDE; under the customary linear rule, which leaves the
    buffer b as it was, p = -h b/(1 - d) grows by sqrt(kappa) with h.

    Example:
        >>> state = sv.State(100, theta=torch.zeros(1, 1), m=torch.ones(1, 1), u=torch.ones(1, 1))
        >>> scaled = sv.scale_state(state, sv.Adam(learning_rate=0.01), kappa=4)
        >>> torch.equal(scaled.u, state.u)
        True
    """
    _check_positive(kappa)
    change = rule_for(_kind(optimizer), rule).change(kappa)
    factors = type(optimizer).sde_factors(change)
    return State(
        state.step,
        **{name: value * factors.get(name, 1.0) for name, value in state.components.items()},
    )


def scale_batch(oracle: GradientOracle, kappa: float) -> GradientOracle:
    """The oracle with a batch of kappa B, or noise of sigma^2/kappa where there is no batch.

    Raises:
        InvalidInputError: kappa B is not a whole number, is below 1, or exceeds the data.
        UnsupportedError: a noise without a batch size.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(1))
        >>> sv.scale_batch(oracle, kappa=4).noise
        MinibatchNoise(batch_size=4, replacement=True)
    """
    _check_positive(kappa)
    return replace(oracle, noise=oracle.noise.of_batch(kappa, oracle.problem))


def _kind(optimizer: Optimizer | torch.optim.Optimizer) -> type[Optimizer]:
    if isinstance(optimizer, torch.optim.Optimizer):
        return kind_of(optimizer)
    return type(optimizer)


def _relaxations(optimizer: Optimizer | torch.optim.Optimizer) -> list[float]:
    """1 - beta for each beta (and 1 - mu), the largest over the parameters."""
    if isinstance(optimizer, torch.optim.Optimizer):
        return relaxations_of(optimizer)
    betas = {name: getattr(optimizer, name) for name in optimizer.betas}
    half = Change(relaxation=0.5)
    pairs = [(value, optimizer.moved(name, value, half)) for name, value in betas.items()]
    return [1 - lowest for value, moved in pairs for lowest in _lowest_moving(value, moved)]


def _lowest_moving(value: PerParameter, moved: PerParameter) -> list[float]:
    """The smallest of those entries that a rule moves, if it moves any."""
    if isinstance(value, Tensor):
        moving = value[value != moved]
        return [float(moving.min())] if moving.numel() else []
    return [] if value == moved else [value]


def _check_positive(kappa: float) -> None:
    if not 0 < number(kappa, "kappa") < math.inf:
        raise InvalidInputError(
            f"kappa = {kappa} leaves no batch; the batch factor is a positive number, below 1 for "
            "smaller batches."
        )
