"""A discrete optimizer on an ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.oracle import GradientOracle
from sdeverify.rng import Streams
from sdeverify.state import State


@dataclass(frozen=True)
class Chain:
    """Moves an ensemble by the optimizer's own steps, each fed with a fresh noisy gradient."""

    optimizer: Optimizer
    oracle: GradientOracle

    def run(self, start: State, steps: Sequence[float], streams: Streams) -> Iterator[State]:
        """The ensembles in the SDE's coordinates, `steps` level-1 steps after the start.

        Raises:
            InvalidInputError: a compared step is not a whole number of own steps.
        """
        optimizer, oracle = self.optimizer, self.oracle
        first = optimizer.own_step(start.step)
        stops = [optimizer.own_step(start.step + s) for s in steps]
        y, k = optimizer.from_sde(start, oracle), first
        for step, stop in zip(steps, stops, strict=True):
            while k < stop:
                gradient = oracle.sample(y["theta"], oracle.draw(streams, k))
                y = optimizer.step(k, y, gradient)
                k += 1
            state = optimizer.to_sde(k, y, oracle)
            yield State(start.step + step, **state.components)
