"""`sdeverify scale`: what to set when the batch grows from B to kappa B."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdeverify.base.shapes import PerParameter
from sdeverify.errors import InvalidInputError
from sdeverify.noise.minibatch import whole_batch
from sdeverify.optimizers.from_torch import optimizer_from_torch
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.rules import BatchRule
from sdeverify.optimizers.torch_classes import optimizer_classes, set_option
from sdeverify.scaling.rules import caveat, rule_for
from sdeverify.scaling.scale import largest_kappa, scale


class BatchAndData(NamedTuple):
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
    batch: BatchAndData | None = None,
) -> None:
    """Prints the hyperparameters before and after, the largest kappa, and the rule's caveat.

    Args:
        kind: a torch optimizer, as in `--optimizer`; "sgd" with a momentum is SGD with momentum.
        given: the other options by name, None where one was left out.
        rule: as in `scale`.
        batch: B and the size of the data, to check kappa B.

    Raises:
        InvalidInputError: an unknown optimizer or rule, an option that the optimizer has not,
            kappa (1 - beta) > 1, or a batch that cannot be.
        UnsupportedError: a rule that is none for this optimizer.
    """
    live, arguments = _built(kind, learning_rate, given)
    optimizer = optimizer_from_torch(live)
    own = {option: name for option, name in arguments.items() if hasattr(optimizer, name)}
    chosen = rule_for(type(optimizer), rule)
    scaled = scale(optimizer, kappa, chosen)
    heads = (batch or BatchAndData()).heads(kappa)
    console = Console()
    title = f"{optimizer.title}, {heads[0]} to {heads[1].removeprefix('batch ')}"
    console.print(Text(f"{title}, rule '{chosen.name}'"), soft_wrap=True)
    console.print(_table(optimizer, scaled, own, kappa, heads))
    for line in _notes(optimizer, chosen, kappa):
        console.print(Text(line), soft_wrap=True)


def _built(
    kind: str, learning_rate: float, given: Mapping[str, float | None]
) -> tuple[torch.optim.Optimizer, dict[str, str]]:
    """A torch optimizer with the options that were given, and its arguments by the options' names.

    What was left out is torch's default. An option goes by torch's name, or by ours where torch's
    is no option of the command.
    """
    torch_class = _torch_class(kind)
    live = torch_class([torch.nn.Parameter(torch.zeros(1))], lr=1.0)  # type: ignore[call-arg]
    group = live.param_groups[0]
    group["lr"] = learning_rate
    arguments, places = {}, {}
    for known in optimizer_classes():
        if torch_class in known.torch_classes:
            for name, place in known.options_of(live, group).items():
                option = place if place in given else name
                if option in given:
                    arguments[str(option)], places[str(option)] = name, place
    values = {option: value for option, value in given.items() if value is not None}
    wrong = [option for option in values if option not in arguments]
    if wrong:
        raise InvalidInputError(
            f"{kind} has no {_as_options(wrong)}; it takes {_as_options(['lr', *arguments])}."
        )
    for option, value in values.items():
        set_option(group, places[option], value)
    return live, arguments


def _as_options(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def _torch_class(kind: str) -> type[torch.optim.Optimizer]:
    """The torch class of that name, in lower case, or at that dotted path.

    Raises:
        InvalidInputError: there is none.
    """
    classes = {c.__name__.lower(): c for known in optimizer_classes() for c in known.torch_classes}
    if kind in classes:
        return classes[kind]
    module, _, name = kind.rpartition(".")
    loaded: Any = None
    if module:
        sys.path.insert(0, os.getcwd())
        try:
            loaded = getattr(importlib.import_module(module), name, None)
        except ImportError as error:
            raise InvalidInputError(f"{module} cannot be imported: {error}.") from error
    if isinstance(loaded, type) and issubclass(loaded, Optimizer) and loaded.torch_classes:
        return loaded.torch_classes[0]
    if isinstance(loaded, type) and issubclass(loaded, torch.optim.Optimizer):
        return loaded
    raise InvalidInputError(
        f"there is no optimizer '{kind}' here; there are {', '.join(sorted(classes))}, and your "
        "own by its dotted path, my_module.MyOptimizer."
    )


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
    state = {name: optimizer.moved(name, 1.0, change) for name in optimizer.buffers}
    moved = [f"{name} times {factor:.6g}" for name, factor in state.items() if factor != 1]
    if moved:
        notes.append(f"Going on from a running optimizer: {', '.join(moved)}.")
    if optimizer.refinement_power == 2:
        notes.append("Schedules and bias correction count steps: divide their lengths by kappa.")
    else:
        notes.append("Schedules count steps: divide their lengths by kappa.")
    lost = caveat(type(optimizer), rule)
    if lost:
        notes.append(f"Caveat: {lost}.")
    else:
        notes.append(
            "The rule keeps the SDE. It fails once the discrete run has left the SDE: sv.validity "
            "says before, from a short run, how far it can hold; sv.scaling_experiment measures it."
        )
    return notes


def _number(value: PerParameter) -> str:
    return f"{float(value):.10g}"
