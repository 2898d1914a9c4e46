"""What to do with the hyperparameters when the batch grows from B to kappa B."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

import torch

from sdeverify.base.arguments import number
from sdeverify.base.shapes import PerParameter, Tensor
from sdeverify.base.state import State
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.adam import Adam
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.rmsprop import RMSprop
from sdeverify.optimizers.sgd import SGD, SGDMomentum
from sdeverify.scaling.rules import BatchRule, Change, rule_for
from sdeverify.scaling.torch_optimizer import changed, kind_of, relaxations_of, without_schedule

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer | torch.optim.Optimizer)

_RELAXING = ("momentum", "beta", "beta1", "beta2")


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
        return cast(AnyOptimizer, _changed_ours(optimizer, change))
    if kappa != 1 and not schedule_stretched:
        without_schedule(optimizer)
    return cast(AnyOptimizer, changed(cast(torch.optim.Optimizer, optimizer), change))


def largest_kappa(
    optimizer: Optimizer | torch.optim.Optimizer, rule: str | BatchRule = "auto"
) -> float:
    """The largest batch factor a rule can follow: 1/(1 - beta) of the smallest beta (or mu)."""
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
    """
    _check_positive(kappa)
    change = rule_for(_kind(optimizer), rule).change(kappa)
    factors = {"p": math.sqrt(change.learning_rate) * change.buffer}
    return State(
        state.step,
        **{name: value * factors.get(name, 1.0) for name, value in state.components.items()},
    )


def scale_batch(oracle: GradientOracle, kappa: float) -> GradientOracle:
    """The oracle with a batch of kappa B, or noise of sigma^2/kappa where there is no batch.

    Raises:
        InvalidInputError: kappa B is not a whole number, is below 1, or exceeds the data.
        UnsupportedError: a noise without a batch size.
    """
    _check_positive(kappa)
    return replace(oracle, noise=oracle.noise.of_batch(kappa, oracle.problem))


def _kind(optimizer: Optimizer | torch.optim.Optimizer) -> type[Optimizer]:
    if isinstance(optimizer, torch.optim.Optimizer):
        return kind_of(optimizer)
    kinds: Sequence[type[Optimizer]] = (SGD, SGDMomentum, RMSprop, Adam)
    for kind in kinds:
        if isinstance(optimizer, kind):
            return kind
    known = ", ".join(kind.__name__ for kind in kinds)
    raise UnsupportedError(
        f"no scaling rule is known for {type(optimizer).__name__}; there are rules for {known} and "
        "for torch.optim's SGD, RMSprop, Adam and AdamW."
    )


def _relaxations(optimizer: Optimizer | torch.optim.Optimizer) -> list[float]:
    """1 - beta for each beta (and 1 - mu), the largest over the parameters."""
    if isinstance(optimizer, torch.optim.Optimizer):
        return relaxations_of(optimizer)
    values = [getattr(optimizer, f.name) for f in fields(optimizer) if f.name in _RELAXING]
    return [1 - float(v.min()) if isinstance(v, Tensor) else 1 - v for v in values]


def _changed_ours(optimizer: Optimizer, change: Change) -> Optimizer:
    if change == Change():
        return optimizer
    moved: dict[str, Any] = {
        "learning_rate": optimizer.learning_rate * change.learning_rate,
        "refinement": optimizer.refinement * change.steps,
    }
    for name in (f.name for f in fields(optimizer)):
        value: PerParameter = getattr(optimizer, name)
        if name in _RELAXING:
            moved[name] = change.relaxed(value)
        elif name in ("epsilon", "decoupled_weight_decay"):
            moved[name] = value * getattr(change, name)
    return replace(optimizer, **moved)


def _check_positive(kappa: float) -> None:
    if not 0 < number(kappa, "kappa") < math.inf:
        raise InvalidInputError(
            f"kappa = {kappa} leaves no batch; the batch factor is a positive number, below 1 for "
            "smaller batches."
        )
