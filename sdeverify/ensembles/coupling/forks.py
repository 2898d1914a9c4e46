"""What noise that is not normal changes, by forks: one step replaced, the same future after it.

With the one-step operators C of the optimizer and S of its Gaussian form, exactly,

    C^n - S^n = sum_k S^k (C - S) C^(n-1-k).

A *trunk* runs S. At own step k, drawn at random in each of several strata, it forks: branches take
a step with grad f + s v for some sizes s of a direction v, and go on as the optimizer, all with the
same mini-batches. U, an observable at a later step as a function of that step's noise, is smooth,
and z, a mini-batch's noise, agrees with normal noise of its covariance in the first and the second
moment. What is left are the cumulants, which single samples tell (`Noise.cumulants`):

- third: E U'''[z, z, z]/6, by the third difference of U along v,
- fourth: (E U''''[z, z, z, z] - 3 E U''''[z, z, z', z'])/24, by fourth differences along v and
  along v - v', since 3 E U''''[v, v, v', v'] = E U''''[v - v', ...]/2 - E U''''[v, v, v, v].

The steps are of natural size: with s = c^(1/3)/sqrt(5), c the factor of the third cumulant, the
third difference has the terms of fifth order of z = c^(1/3) v. Left out are cumulants from the
fifth on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch

from sdeverify.base.cutting import STATE_GROUP, groups_of
from sdeverify.base.rng import Streams
from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.ensembles.coupling.paths import GaussianForm, Y
from sdeverify.noise.noise import Cumulants
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.optimizer import Optimizer

CHANNELS = ("third", "fourth")
SIZE = math.sqrt(1 / 5)
THIRD = {2: 1 / 12, 1: -2 / 12, -1: 2 / 12, -2: -1 / 12}
"""Weights of U(2 s v), ... in E U'''[v, v, v] s^3/6."""
FOURTH = {2: 1 / 24, 1: -4 / 24, -1: -4 / 24, -2: 1 / 24}
"""Weights of the same in E U''''[v, v, v, v] s^4/24, beside 6/24 of U(0)."""


@dataclass
class Branches:
    """Branches that are under way: state, the trunk of each, and its weight in each channel."""

    y: Y
    trunk: Tensor
    weight: Tensor

    def join(self, other: Branches) -> Branches:
        """Both together."""
        y = {name: torch.cat([value, other.y[name]]) for name, value in self.y.items()}
        weight = torch.cat([self.weight, other.weight])
        return Branches(y, torch.cat([self.trunk, other.trunk]), weight)


class Draws(NamedTuple):
    """All trunks' randomness that does not belong to one step: when they fork, and with what.

    Attributes:
        at: own steps of the forks, `(trunk, stratum)`.
        singles: draws of v, one a stratum and direction.
        total: own steps in all.
    """

    at: Tensor
    singles: list[Any]
    total: int


@dataclass(frozen=True)
class Forks:
    """Estimates A = E phi(optimizer) - E phi(Gaussian form) by forks from trunks of S.

    Args:
        optimizer, oracle: of the rung.
        strata: forks of each trunk.
        pairs: of single samples v, v' at each fork.
        cache: bytes of one component that are stepped together.
    """

    optimizer: Optimizer
    oracle: GradientOracle
    strata: int = 2
    pairs: int = 2
    cache: int = field(default=STATE_GROUP, kw_only=True)

    @property
    def branches(self) -> int:
        """Of each trunk, in the end."""
        return self.strata * (3 * self.pairs * len(THIRD) + 1)

    @cached_property
    def _cumulants(self) -> Cumulants:
        return self.oracle.noise.cumulants(self.oracle.problem)

    @cached_property
    def _size(self) -> float:
        """s."""
        c = self._cumulants
        return SIZE * float(max(abs(c.third) ** (1 / 3), abs(c.fourth) ** (1 / 4)))

    def run(
        self, start: State, steps: Sequence[float], batches: Streams, normals: Streams
    ) -> Iterator[tuple[State, Branches]]:
        """The branches after each of `steps`, as a state in the SDE's coordinates.

        The sum over the branches of a trunk of their weights times an observable is that trunk's
        estimate of each channel. There are no branches yet at a state of no replicas.
        """
        optimizer, oracle = self.optimizer, self.oracle
        form = GaussianForm(optimizer, oracle)
        first = optimizer.own_step(start.step)
        stops = [optimizer.own_step(start.step + s) - first for s in steps]
        total = stops[-1]
        draws = self._draws(total, batches, normals)
        y = form.begin(start)
        none = y["theta"].new_zeros((0, len(CHANNELS)), dtype=torch.float64)
        branches = Branches({n: v[:0] for n, v in y.items()}, draws.at.new_zeros(0), none)
        for k in range(total + 1):
            for _ in range(stops.count(k)):
                yield optimizer.to_sde(first + k, branches.y, oracle), branches
            if k == total:
                return
            branches = self._advance(first + k, branches, oracle.draw(batches, first + k))
            for j in range(self.strata):
                rows = (draws.at[:, j] == k).nonzero()[:, 0]
                if len(rows) > 0:
                    point = {name: value[rows] for name, value in y.items()}
                    branches = branches.join(self._fork(first + k, point, rows, j, draws))
            if k < int(draws.at.max()):
                y = form.move(start.step, k, y, normals.normal(oracle.noise_dim))

    def _draws(self, total: int, batches: Streams, normals: Streams) -> Draws:
        u = normals.at(0).uniform(self.strata)
        at = (torch.arange(self.strata, device=u.device) + u) * (total / self.strata)
        problem, noise = self.oracle.problem, self._cumulants.noise
        count = 2 * self.strata * self.pairs
        singles = [noise.draw(problem, batches.at(0, i), 0) for i in range(count)]
        return Draws(at.to(torch.int64).clamp_(max=total - 1), singles, total)

    def _fork(self, k: int, y: Y, rows: Tensor, stratum: int, draws: Draws) -> Branches:
        """The branches of one fork of each of the trunks `rows`, after their first step."""
        c, s, theta = self._cumulants, self._size, y["theta"]
        mean = self.oracle.mean(theta)
        share = draws.total / (self.strata * self.pairs)
        third = share * c.third / (2 * s**3)
        along = share * (c.fourth - c.pairs / 3) / (2 * s**4)
        across = share * c.pairs / (6 * s**4)
        gradients = [mean]
        weights = [(0.0, self.pairs * (2 * along + across) * 6 / 24)]
        for p in range(self.pairs):
            first = 2 * (stratum * self.pairs + p)
            v, other = (
                c.noise.gradient(self.oracle.problem, theta, c.noise.part(draw, rows)) - mean
                for draw in draws.singles[first : first + 2]
            )
            for direction, odd, even in ((v, third, along), (other, third, along)):
                for n in THIRD:
                    gradients.append(mean + (n * s) * direction)
                    weights.append((odd * THIRD[n], even * FOURTH[n]))
            for n in FOURTH:
                gradients.append(mean + (n * s) * (v - other))
                weights.append((0.0, across * FOURTH[n]))
        copies = len(gradients)
        wide = {name: value.repeat(copies, 1) for name, value in y.items()}
        moved = self.optimizer.advance(k, wide, torch.cat(gradients))
        each = torch.tensor(weights, dtype=torch.float64, device=theta.device)
        return Branches(moved, rows.repeat(copies), each.repeat_interleave(len(rows), 0))

    def _advance(self, k: int, branches: Branches, draw: Any) -> Branches:
        """All branches one own step further, each with its trunk's mini-batch."""
        if len(branches.trunk) == 0:
            return branches
        parts = []
        for group in groups_of(branches.y["theta"], self.cache):
            y = {name: value[group].clone() for name, value in branches.y.items()}
            own = self.oracle.noise.part(draw, branches.trunk[group])
            parts.append(self.optimizer.advance(k, y, self.oracle.sample(y["theta"], own)))
        y = {name: torch.cat([part[name] for part in parts]) for name in branches.y}
        return Branches(y, branches.trunk, branches.weight)
