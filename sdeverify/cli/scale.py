"""`sdeverify scale`: what to set when the batch grows from B to kappa B."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdeverify.base.shapes import PerParameter
from sdeverify.errors import InvalidInputError
from sdeverify.noise.minibatch import whole_batch
from sdeverify.optimizers.adam import Adam
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.rmsprop import RMSprop
from sdeverify.optimizers.sgd import SGD, SGDMomentum
from sdeverify.scaling.rules import BatchRule, rule_for
from sdeverify.scaling.scale import largest_kappa, scale

KINDS = ("sgd", "rmsprop", "adam", "adamw")

_ARGUMENTS: dict[str, dict[str, str]] = {
    "sgd": {"weight_decay": "weight_decay"},
    "momentum": {"momentum": "momentum", "weight_decay": "weight_decay"},
    "rmsprop": {"beta": "beta", "eps": "epsilon", "weight_decay": "weight_decay"},
    "adam": {
        "beta1": "beta1",
        "beta2": "beta2",
        "eps": "epsilon",
        "weight_decay": "weight_decay",
    },
    "adamw": {
        "beta1": "beta1",
        "beta2": "beta2",
        "eps": "epsilon",
        "weight_decay": "decoupled_weight_decay",
    },
}
"""The options that each optimizer takes, and the arguments they stand for."""
_CLASSES: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "momentum": SGDMomentum,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": Adam,
}
_DEFAULTS: dict[str, dict[str, float]] = {
    "rmsprop": {"beta": 0.99},
    "adamw": {"decoupled_weight_decay": 1e-2},
}
"""torch's, where they are not ours already."""


class Batch(NamedTuple):
    """The batch and the data, where they are known.

    Attributes:
        size: B.
        samples: N.
    """

    size: int | None = None
    samples: int | None = None

    def heads(self, kappa: float) -> tuple[str, str]:
        """The two columns' heads.

        Raises:
            InvalidInputError: kappa B is no batch of these data, or samples come without a batch.
        """
        if self.size is None:
            if self.samples is not None:
                raise InvalidInputError("--samples is the size of the data; give --batch-size too.")
            return "batch B", f"batch {kappa:g} B"
        scaled = whole_batch(self.size, kappa, self.samples or math.inf)
        return f"batch {self.size}", f"batch {scaled}"


def show_scaled(
    kind: str,
    learning_rate: float,
    given: Mapping[str, float | None],
    kappa: float,
    rule: str,
    batch: Batch | None = None,
) -> None:
    """Prints the hyperparameters before and after, the largest kappa, and the rule's caveat.

    Args:
        kind: one of `KINDS`; "sgd" with a momentum is SGD with momentum.
        given: the other options by name, None where one was left out.
        rule: as in `scale`.
        batch: B and the size of the data, to check kappa B.

    Raises:
        InvalidInputError: an unknown optimizer or rule, an option that the optimizer has not,
            kappa (1 - beta) > 1, or a batch that cannot be.
        UnsupportedError: a rule that is none for this optimizer.
    """
    optimizer, arguments = _built(kind, learning_rate, given)
    chosen = rule_for(type(optimizer), rule)
    scaled = scale(optimizer, kappa, chosen)
    heads = (batch or Batch()).heads(kappa)
    console = Console()
    name = "AdamW" if kind == "adamw" else optimizer.name
    title = f"{name}, {heads[0]} to {heads[1].removeprefix('batch ')}, rule '{chosen.name}'"
    console.print(Text(title), soft_wrap=True)
    console.print(_table(optimizer, scaled, arguments, kappa, heads))
    for line in _notes(optimizer, chosen, kappa):
        console.print(Text(line), soft_wrap=True)


def _built(
    kind: str, learning_rate: float, given: Mapping[str, float | None]
) -> tuple[Optimizer, dict[str, str]]:
    """The optimizer, and its arguments by the options' names."""
    if kind not in KINDS:
        raise InvalidInputError(f"there is no optimizer '{kind}' here; there are {list(KINDS)}.")
    values = {name: value for name, value in given.items() if value is not None}
    name = "momentum" if kind == "sgd" and values.get("momentum") else kind
    arguments = _ARGUMENTS[name]
    wrong = [option for option in values if option not in arguments]
    if name == "sgd" and values.get("momentum") == 0:
        wrong.remove("momentum")
        values.pop("momentum")
    if wrong:
        fitting = ", ".join(f"--{option.replace('_', '-')}" for option in arguments)
        raise InvalidInputError(
            f"{kind} has no --{', --'.join(o.replace('_', '-') for o in wrong)}; it takes --lr, "
            f"{fitting}."
        )
    found = {arguments[option]: value for option, value in values.items()}
    build = _CLASSES[name]
    return build(learning_rate=learning_rate, **{**_DEFAULTS.get(name, {}), **found}), arguments


def _table(
    before: Optimizer,
    after: Optimizer,
    arguments: Mapping[str, str],
    kappa: float,
    heads: tuple[str, str],
) -> Table:
    table = Table()
    for heading in ("", *heads):
        table.add_column(Text(heading), justify="left" if not heading else "right")
    rows = {"lr": "learning_rate", **arguments}
    for option, name in rows.items():
        values = [_number(getattr(optimizer, name)) for optimizer in (before, after)]
        table.add_row(Text(option), *map(Text, values))
    table.add_row(Text("steps"), Text("k"), Text("k" if kappa == 1 else f"k/{kappa:g}"))
    return table


def _notes(optimizer: Optimizer, rule: BatchRule, kappa: float) -> list[str]:
    largest = largest_kappa(optimizer, rule)
    limit = "no limit from the hyperparameters" if math.isinf(largest) else f"{largest:.6g}"
    notes = [f"Largest kappa that works: {limit}."]
    change = rule.change(kappa)
    state = [("v", change.second_moment)] if not isinstance(optimizer, SGD | SGDMomentum) else []
    state += [("buffer", change.buffer)] if isinstance(optimizer, SGDMomentum) else []
    moved = [f"{name} times {factor:.6g}" for name, factor in state if factor != 1]
    if moved:
        notes.append(f"Going on from a running optimizer: {', '.join(moved)}.")
    if optimizer.refinement_power == 2:
        notes.append("Schedules and bias correction count steps: divide their lengths by kappa.")
    else:
        notes.append("Schedules count steps: divide their lengths by kappa.")
    caveat = rule.caveat(type(optimizer))
    if caveat:
        notes.append(f"Caveat: {caveat}.")
    else:
        notes.append(
            "The rule keeps the SDE. It fails once the discrete run has left the SDE: sv.validity "
            "says before, from a short run, how far it can hold; sv.scaling_experiment measures it."
        )
    return notes


def _number(value: PerParameter) -> str:
    return f"{float(value):.10g}"
