"""Does the cost grow faster than the work, when there is twice as much of it?"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from sdeverify.benchmarks.measuring import Case, Effort, Goal, Section, Work, interleaved
from sdeverify.benchmarks.nets import (
    CNN,
    MLP,
    TRANSFORMER,
    SmallTransformer,
    Subject,
    on_digits,
    perceptron,
    small_cnn,
)
from sdeverify.benchmarks.steps import FORMS, one_step


class Size(NamedTuple):
    """How much work a step is."""

    subject: Subject
    samples: int
    replicas: int

    def work(self) -> int:
        """Floating-point operations of all forward passes."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.subject.build()(torch.zeros(1, *self.subject.shape))
        return int(counter.get_total_flops()) * self.samples * self.replicas


WIDER = {
    MLP.name: MLP._replace(build=partial(perceptron, 64, 128, 10)),
    CNN.name: CNN._replace(build=partial(small_cnn, 2)),
    TRANSFORMER.name: TRANSFORMER._replace(build=partial(SmallTransformer, 64)),
}


def growth_section(effort: Effort) -> Section:
    """Twice the samples, replicas and width."""
    starts = [Size(MLP, 898, 16)]
    if not effort.quick:
        starts += [Size(CNN, 448, 2), Size(TRANSFORMER, 448, 2)]
    return Section(
        title="Twice the work",
        unit="growth of a step's seconds over the growth of its work (operations of a forward "
        "pass); at first 16 replicas and 898 digits, 2 and 448 for the larger networks",
        headings=("network", "twice the"),
        columns=tuple(form.name for form in FORMS),
        cases=tuple(
            Case((size.subject.name, name), partial(_growth, size, larger, effort))
            for size in starts
            for name, larger in _larger(size).items()
        ),
        goals={s.subject.name: {form.name: Goal(1.05) for form in FORMS} for s in starts},
    )


def _larger(size: Size) -> dict[str, Size]:
    return {
        "samples": size._replace(samples=2 * size.samples),
        "replicas": size._replace(replicas=2 * size.replicas),
        "width": size._replace(subject=WIDER[size.subject.name]),
    }


def _growth(first: Size, larger: Size, effort: Effort) -> list[float]:
    works: dict[str, Work] = {}
    for which, size in enumerate((first, larger)):
        problem = on_digits(size.subject, size.samples, effort.device)[0]
        for form in FORMS:
            step = one_step(form.stepper(problem), problem.reference, size.replicas)
            works[f"{form.name} {which}"] = step
    seconds = interleaved(works, effort)
    more = larger.work() / first.work()
    return [seconds[f"{f.name} 1"] / seconds[f"{f.name} 0"] / more for f in FORMS]
