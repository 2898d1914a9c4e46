"""Euler-Maruyama on an ensemble, with several step sizes on one Brownian path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import torch

from sdeverify.base.cutting import STATE_GROUP, groups_of
from sdeverify.base.rng import Streams
from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.ensembles.steppers.increments import Increment, Increments, Move
from sdeverify.errors import InvalidInputError
from sdeverify.sdes.sde import GradientSDE


@dataclass(frozen=True)
class EulerMaruyama:
    """Moves an ensemble by y+ = y + f dt + g dW, the increment being one weighted gradient.

    On a CPU the replicas of a step are taken in groups whose state stays in the cache.

    Args:
        sde: the SDE.
        substeps: integrator steps in one level-1 step, ascending, each a divisor of the last.
        increments: full batch or sub-sampled.
        cache: bytes of one component that are stepped together.
    """

    sde: GradientSDE
    substeps: Sequence[int]
    increments: Increments
    cache: int = STATE_GROUP

    def __post_init__(self) -> None:
        steps = list(self.substeps)
        ascending = all(b > a for a, b in pairwise(steps))
        if not steps or steps[0] < 1 or not ascending or any(steps[-1] % s for s in steps):
            raise InvalidInputError(
                "substeps are whole numbers >= 1, ascending, each a divisor of the last, e.g. "
                f"(2, 4); got {self.substeps!r}."
            )
        self.increments.check(self.sde, self.dt)

    @property
    def dt(self) -> float:
        """The finest integrator step, in SDE time."""
        return self.sde.time_per_level1_step / self.substeps[-1]

    def run(self, start: State, steps: int, streams: Streams) -> Iterator[list[State]]:
        """The ensembles after 0, 1, ..., `steps` level-1 steps: one State for each of `substeps`.

        `start` is an ensemble of as many replicas as the streams serve.
        """
        names, finest, dt = self.sde.components, self.substeps[-1], self.dt
        ys = [{n: start.components[n] for n in names} for _ in self.substeps]
        together = self.increments.together(self.sde, len(start.theta))
        groups = groups_of(start.theta, self.cache, together)
        yield [State(start.step, **y) for y in ys]
        for k in range(steps):
            ys = self._one_step(
                start.step + k,
                ys,
                [self.increments.draw(streams, self.sde, dt) for _ in range(finest)],
                groups,
            )
            yield [State(start.step + k + 1, **y) for y in ys]

    @cached_property
    def _move(self) -> Move:
        if not self.sde.oracle.problem.compiled:
            return partial(self.increments.move, self.sde)
        from sdeverify.ensembles.steppers.compiled_move import CompiledMove

        return CompiledMove(self.sde, self.increments)

    def _one_step(
        self,
        step: float,
        ys: list[dict[str, Tensor]],
        drawn: list[Increment],
        groups: list[slice],
    ) -> list[dict[str, Tensor]]:
        if len(groups) == 1:
            return [self._cross(step, y, s, drawn) for y, s in zip(ys, self.substeps, strict=True)]
        parts = [
            [
                self._cross(
                    step, {n: v[own] for n, v in y.items()}, s, [d.part(own) for d in drawn]
                )
                for y, s in zip(ys, self.substeps, strict=True)
            ]
            for own in groups
        ]
        return [{n: torch.cat([p[i][n] for p in parts]) for n in y} for i, y in enumerate(ys)]

    def _cross(
        self, step: float, y: dict[str, Tensor], substeps: int, drawn: list[Increment]
    ) -> dict[str, Tensor]:
        group = len(drawn) // substeps
        unit = self.sde.time_per_level1_step
        for i in range(substeps):
            parts = drawn[i * group : (i + 1) * group]
            increment = parts[0] if group == 1 else self.increments.merge(parts)
            y = self._move((step + i / substeps) * unit, y, increment)
        return y
