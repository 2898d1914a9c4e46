"""An Euler-Maruyama step with all samples, in plain gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from sdeverify.base.rng import Block, Streams
from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.benchmarks.measuring import Case, Effort, Goal, Section, Work, interleaved
from sdeverify.benchmarks.nets import CNN, MLP, TRANSFORMER, Subject, on_digits
from sdeverify.ensembles.steppers.euler_maruyama import EulerMaruyama
from sdeverify.ensembles.steppers.increments import FullBatch
from sdeverify.errors import UnsupportedError
from sdeverify.noise import MinibatchNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers import SGD, Adam, Optimizer
from sdeverify.optimizers.derive import derive
from sdeverify.problems.module import ModuleProblem

SAMPLES = 1797
LOOPED = 4
"""Plain gradients that are timed together, where there are as many replicas."""
ADAM = Adam(learning_rate=1e-3, epsilon=1e-2)


@dataclass(frozen=True)
class Form:
    """A way to take a step.

    Args:
        name: the column's.
        optimizer: whose SDE it is.
        goals: plain gradients at most, for the MLP, the CNN and the transformer.
        one_gradient: of `FullBatch`.
    """

    name: str
    optimizer: Optimizer
    goals: tuple[float, float, float]
    one_gradient: bool = False

    def stepper(self, problem: ModuleProblem) -> EulerMaruyama:
        """The stepper of this form."""
        oracle = GradientOracle(problem, MinibatchNoise(32))
        sde = derive(self.optimizer, oracle)
        return EulerMaruyama(sde, (1,), FullBatch(self.one_gradient))


FORMS = (
    Form("SGD", SGD(learning_rate=0.1), (1.0, 1.0, 1.1)),
    Form("Adam, exact diag Σ", ADAM, (1.4, 2.2, 3.0)),
    Form("Adam, one-gradient", ADAM, (1.1, 1.1, 1.1), one_gradient=True),
)


COMPILED = (
    Form("SGD", SGD(learning_rate=0.1), (0.7, 1.0, 1.1)),
    Form("Adam, exact diag Σ", ADAM, (0.9, 2.2, 3.0)),
)


def step_section(effort: Effort) -> Section:
    """Three networks, 1 to 128 replicas of the small one."""
    few: Sequence[int] = (1,) if effort.quick else (1, 4, 16)
    many: Sequence[int] = (1, 16) if effort.quick else (1, 4, 16, 64, 128)
    title = f"An Euler–Maruyama step with all {SAMPLES} samples"
    return _section(title, FORMS, (many, few, few), effort)


def compiled_section(effort: Effort) -> Section:
    """The same steps by `problem_from_module(..., compiled=True)`, compiling not timed."""
    title = "The same step, compiled"
    return _section(title, COMPILED, ((1, 16, 128), (1,), (1,)), effort, compiled=True)


def _section(
    title: str,
    forms: Sequence[Form],
    replicas: Sequence[Sequence[int]],
    effort: Effort,
    compiled: bool = False,
) -> Section:
    subjects = (MLP, CNN, TRANSFORMER)
    return Section(
        title=title,
        unit="plain full-batch gradients (a loop of eager autograd) a replica; digits, float32",
        headings=("network", "replicas"),
        columns=tuple(form.name for form in forms),
        cases=tuple(
            Case(
                (subject.name, str(n)),
                partial(in_plain_gradients, subject, n, effort, forms, compiled),
            )
            for subject, each in zip(subjects, replicas, strict=True)
            for n in each
        ),
        goals={
            subject.name: {form.name: Goal(form.goals[i]) for form in forms}
            for i, subject in enumerate(subjects)
        },
    )


def in_plain_gradients(
    subject: Subject,
    replicas: int,
    effort: Effort,
    forms: Sequence[Form] = FORMS,
    compiled: bool = False,
) -> list[float | None]:
    """Each form's seconds for a step of one replica, over those of a plain gradient.

    Nothing is measured where there is no compiler for the compiled form.
    """
    try:
        problem, net, inputs, targets = on_digits(
            subject, SAMPLES, effort.device, compiled=compiled
        )
    except UnsupportedError:
        return [None] * len(forms)
    turns = min(replicas, LOOPED)
    works = {"plain": plain_gradient(net, inputs, targets, turns)}
    for form in forms:
        stepper = form.stepper(problem)
        one_step(stepper, problem.reference, replicas if compiled else 1)()
        works[form.name] = one_step(stepper, problem.reference, replicas)
    seconds = interleaved(works, effort)
    return [turns * seconds[form.name] / replicas / seconds["plain"] for form in forms]


def plain_gradient(net: nn.Module, inputs: Tensor, targets: Tensor, turns: int = 1) -> Work:
    """Full-batch gradients by eager autograd, as training computes them, one after the other."""
    loss = nn.CrossEntropyLoss()

    def work() -> None:
        for _ in range(turns):
            net.zero_grad()
            loss(net(inputs), targets).backward()

    return work


def one_step(stepper: EulerMaruyama, theta: Tensor, replicas: int) -> Work:
    """One step of an ensemble, its increment's drawing included."""
    names = stepper.sde.components
    parts = {n: theta if n == "theta" else theta.abs() + 1e-3 for n in names}
    start = State(10, **parts).expand(replicas)
    streams = Streams(0, "brownian", [Block(0, replicas)], theta.device, theta.dtype)
    return lambda: list(stepper.run(start, 1, streams))
