"""A discrete optimizer on an ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sdeverify.base.cutting import STATE_GROUP, groups_of
from sdeverify.base.rng import Streams
from sdeverify.base.state import State
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.optimizer import Optimizer


@dataclass(frozen=True)
class DiscreteChain:
    """Moves an ensemble by the optimizer's own steps, each fed with a fresh noisy gradient.

    On a CPU the replicas of a step are taken in groups whose state stays in the cache.

    Args:
        cache: bytes of one component that are stepped together.
    """

    optimizer: Optimizer
    oracle: GradientOracle
    cache: int = STATE_GROUP

    def run(self, start: State, steps: Sequence[float], streams: Streams) -> Iterator[State]:
        """The ensembles in the SDE's coordinates, `steps` level-1 steps after the start.

        Raises:
            InvalidInputError: a compared step is not a whole number of own steps.
        """
        optimizer, oracle = self.optimizer, self.oracle
        k = optimizer.own_step(start.step)
        stops = [optimizer.own_step(start.step + s) for s in steps]
        whole = optimizer.from_sde(start, oracle)
        groups = groups_of(whole["theta"], self.cache)
        ys = [{name: value[group].clone() for name, value in whole.items()} for group in groups]
        for step, stop in zip(steps, stops, strict=True):
            while k < stop:
                draw = oracle.draw(streams, k)
                for i, group in enumerate(groups):
                    own = draw if len(groups) == 1 else oracle.noise.part(draw, group)
                    ys[i] = optimizer.advance(k, ys[i], oracle.sample(ys[i]["theta"], own))
                k += 1
            y = {name: torch.cat([part[name] for part in ys]) for name in whole}
            state = optimizer.to_sde(k, y, oracle)
            yield State(start.step + step, **state.components)
