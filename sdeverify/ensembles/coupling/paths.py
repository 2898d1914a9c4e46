"""Discretisations that share one Brownian path: the optimizer's Gaussian form, Euler-Maruyama.

The *Gaussian form* S of an optimizer is its own update rule fed with grad f + sigma F xi, normal
noise of the mini-batches' covariance. An own step of it spans an interval of the SDE's time just as
an Euler-Maruyama step does; all take the same increments of one Brownian motion, so their states
stay close and differences of observables have a small variance. Each by itself has exactly the law
that it has alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from sdeverify.base.rng import Streams
from sdeverify.base.shapes import Normals, Tensor
from sdeverify.base.state import State
from sdeverify.ensembles.steppers.increments import FullBatch, Increment
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.sdes.sde import GradientSDE

Y = dict[str, Tensor]


class Discretisation(ABC):
    """Moves an ensemble in equal steps, each driven by one standard normal a noise dimension."""

    @abstractmethod
    def count(self, start: float, steps: int) -> int:
        """Its steps in so many level-1 steps from `start`."""

    @abstractmethod
    def begin(self, start: State) -> Y:
        """Its own state, in fresh memory, from one in the SDE's coordinates."""

    @abstractmethod
    def move(self, start: float, i: int, y: Y, normals: Normals) -> Y:
        """The state after step i, counted from `start`; y may be overwritten."""

    @abstractmethod
    def state(self, start: float, i: int, y: Y) -> State:
        """The state before step i in the SDE's coordinates."""


@dataclass(frozen=True)
class GaussianForm(Discretisation):
    """S: the optimizer fed with normal noise of the oracle's covariance and scale."""

    optimizer: Optimizer
    oracle: GradientOracle

    def count(self, start: float, steps: int) -> int:
        return self.optimizer.own_step(start + steps) - self.optimizer.own_step(start)

    def begin(self, start: State) -> Y:
        own = self.optimizer.from_sde(start, self.oracle)
        return {name: value.clone() for name, value in own.items()}

    def move(self, start: float, i: int, y: Y, normals: Normals) -> Y:
        gradient = self.oracle.gaussian().sample(y["theta"], normals)
        return self.optimizer.advance(self.optimizer.own_step(start) + i, y, gradient)

    def state(self, start: float, i: int, y: Y) -> State:
        return self.optimizer.to_sde(self.optimizer.own_step(start) + i, y, self.oracle)


@dataclass(frozen=True)
class Euler(Discretisation):
    """Euler-Maruyama on all samples, `substeps` steps in one level-1 step."""

    sde: GradientSDE
    substeps: int

    def count(self, start: float, steps: int) -> int:
        return steps * self.substeps

    def begin(self, start: State) -> Y:
        return {name: start.components[name].clone() for name in self.sde.components}

    def move(self, start: float, i: int, y: Y, normals: Normals) -> Y:
        unit = self.sde.time_per_level1_step
        dt = unit / self.substeps
        increment = Increment(dt, normals * math.sqrt(dt), None)
        return FullBatch().move(self.sde, (start + i / self.substeps) * unit, y, increment)

    def state(self, start: float, i: int, y: Y) -> State:
        return State(start + i / self.substeps, **y)


@dataclass(frozen=True)
class CoupledPaths:
    """Several discretisations of one noise on one Brownian path.

    Args:
        forms: all of one problem, with the same noise dimension.
        noise_dim: the number of Brownian motions.
    """

    forms: Sequence[Discretisation]
    noise_dim: int

    def run(self, start: State, steps: int, streams: Streams) -> Iterator[list[State]]:
        """The ensembles after 0, 1, ..., `steps` level-1 steps, one State a form.

        A state is to be read before the next is asked for: its memory may be used again.
        """
        counts = [form.count(start.step, steps) for form in self.forms]
        ys = [form.begin(start) for form in self.forms]
        done = [0] * len(counts)
        noise: list[Tensor | None] = [None] * len(counts)
        yield self._states(start.step, done, ys)
        before = Fraction(0)
        ends = {Fraction(i * steps, n) for n in counts for i in range(1, n + 1)}
        for now in sorted(ends | {Fraction(k) for k in range(1, steps + 1)}):
            fresh = streams.normal(self.noise_dim, size=math.sqrt(now - before))
            for f, (form, n) in enumerate(zip(self.forms, counts, strict=True)):
                sofar = noise[f]
                noise[f] = total = fresh if sofar is None else sofar + fresh
                if now * n == (done[f] + 1) * steps:
                    ys[f] = form.move(start.step, done[f], ys[f], total * math.sqrt(n / steps))
                    done[f], noise[f] = done[f] + 1, None
            before = now
            if now.denominator == 1:
                yield self._states(start.step, done, ys)

    def _states(self, start: float, done: list[int], ys: list[Y]) -> list[State]:
        each = zip(self.forms, done, ys, strict=True)
        return [form.state(start, i, y) for form, i, y in each]
