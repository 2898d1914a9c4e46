"""Which scaling rule goes with which optimizer."""

from __future__ import annotations

from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.rules import BatchRule
from sdeverify.optimizers.torch_classes import optimizer_classes


def rule_for(kind: type[Optimizer], rule: str | BatchRule) -> BatchRule:
    """The rule of that name for a kind of optimizer; "auto" is the one that keeps its SDE.

    Raises:
        InvalidInputError: no such rule.
        UnsupportedError: the rule is not one for this optimizer.
    """
    own = {r.name: r for r in rules_for(kind)}
    if rule == "auto":
        return next(iter(own.values()))
    name = rule if isinstance(rule, str) else rule.name
    known = {r.name for other in optimizer_classes() for r in other.rules}
    if name in known and name not in own:
        raise UnsupportedError(
            f"the rule '{name}' is none for {kind.name}; for it there are {', '.join(own)}."
        )
    if isinstance(rule, BatchRule):
        return rule
    if rule not in own:
        raise InvalidInputError(
            f"there is no scaling rule '{rule}'; there are {', '.join(['auto', *sorted(known)])}."
        )
    return own[rule]


def rules_for(kind: type[Optimizer]) -> tuple[BatchRule, ...]:
    """All rules for a kind of optimizer, the one that keeps its SDE first, then its rivals."""
    if not kind.rules:
        raise UnsupportedError(
            f"no scaling rule is known for {kind.__name__}: its class names no `rules`, the one "
            "that keeps its SDE first. Pass a rule, a BatchRule of your own."
        )
    return kind.rules


def caveat(kind: type[Optimizer], rule: BatchRule) -> str:
    """What the rule does not keep for a kind of optimizer; empty where it keeps the SDE."""
    if rule == kind.rules[0]:
        return ""
    default = f"the rule '{rule.name}' does not keep the SDE of {kind.name}"
    return kind.caveats.get(rule.name, default)
