"""Does the cost grow faster than the work, when there is twice as much of it?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from torch import nn

from sdeverify.benchmarks.measuring import Case, Effort, Goal, Section, Work, interleaved
from sdeverify.benchmarks.nets import Subject, on_digits, perceptron
from sdeverify.benchmarks.steps import FORMS, one_step


class Size(NamedTuple):
    """How much work a step is."""

    samples: int
    replicas: int
    hidden: tuple[int, ...]

    @property
    def work(self) -> int:
        """Multiplications of a forward pass."""
        widths = (64, *self.hidden, 10)
        weights = sum(a * b for a, b in pairwise(widths))
        return self.samples * self.replicas * weights


BASE = Size(898, 16, (64,))
TWICE = {
    "samples": BASE._replace(samples=1796),
    "replicas": BASE._replace(replicas=32),
    "parameters": BASE._replace(hidden=(128,)),
}


def growth_section(effort: Effort) -> Section:
    """Twice the samples, replicas and parameters."""
    return Section(
        title="Twice the work",
        unit="growth of a step's seconds over the growth of its work; MLP 64-64-10, 16 replicas, "
        "898 digits at first",
        headings=("twice the",),
        columns=tuple(form.name for form in FORMS),
        cases=tuple(Case((name,), partial(_growth, size, effort)) for name, size in TWICE.items()),
        goals={name: {form.name: Goal(1.05) for form in FORMS} for name in TWICE},
    )


def _growth(twice: Size, effort: Effort) -> list[float]:
    works: dict[str, Work] = {}
    for size in (BASE, twice):
        subject = Subject("", _builder(size), (64,))
        problem = on_digits(subject, size.samples, effort.device)[0]
        for form in FORMS:
            step = one_step(form.stepper(problem), problem.reference, size.replicas)
            works[f"{form.name} {size}"] = step
    seconds = interleaved(works, effort)
    more = twice.work / BASE.work
    return [seconds[f"{f.name} {twice}"] / seconds[f"{f.name} {BASE}"] / more for f in FORMS]


def _builder(size: Size) -> Callable[[], nn.Module]:
    return partial(perceptron, 64, *size.hidden, 10)
