"""What noise that is not normal changes, by forks: one step replaced, the same future after it.

With the one-step operators C of the optimizer and S of its Gaussian form, exactly,

    C^n - S^n = sum_k S^k (C - S) C^(n-1-k).

A *trunk* runs S. At own step k, drawn at random in each of several strata, it forks: branches take
a step with grad f + mu v for some multiples mu of one direction v, and go on as the optimizer, all
with the same mini-batches. U(mu v), an observable at a later step, is a smooth function of mu, so
differences over the branches give the moments in which z, the noise of a mini-batch, and normal
noise z_G of its covariance differ:

- third: E U'''[z, z, z]/6 = c E U'''[v, v, v]/6 with v a single sample's noise
  (`Noise.third_cumulant`), as [U(2s) - 2 U(s) + 2 U(-s) - U(-2s)]/(12 q^3), s = q c^(1/3) v. With
  q^2 = 1/5 the terms of fifth order are those of z = c^(1/3) v.
- fourth: even(z) - z'U''z/2 less the same of z_G, even(z) = [U(z) + U(-z)]/2 - U(0); the quadratic
  forms have one mean and go out by [U(z/2) + U(-z/2) - 2 U(0)]/2, whatever their size.
- third, directly: [U(z) - U(-z)]/2 less its linear part, with z: a check of the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from sdeverify.base.cutting import STATE_GROUP, groups_of
from sdeverify.base.rng import Streams
from sdeverify.base.shapes import Parameters, Tensor
from sdeverify.base.state import State
from sdeverify.ensembles.coupling.paths import GaussianForm, Y
from sdeverify.noise.noise import Noise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.optimizer import Optimizer

CHANNELS = ("third", "fourth", "third_direct")
_Q = math.sqrt(1 / 5)
_THIRD = {2 * _Q: 1.0, _Q: -2.0, -_Q: 2.0, -2 * _Q: -1.0}
_EVEN = {1.0: 2 / 3, -1.0: 2 / 3, 0.5: -8 / 3, -0.5: -8 / 3}
_ODD = {1.0: 2 / 3, -1.0: -2 / 3, 0.5: -4 / 3, -0.5: 4 / 3}


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
        at: own steps of the forks, `(trunk, strata + 1)`; the last is the direct one's.
        single: the noise of v, and `size` = c^(1/3).
        singles: its draws, one a stratum and direction.
        batch: the mini-batch of z.
        normals: of z_G.
        total: own steps in all.
    """

    at: Tensor
    single: Noise
    size: float
    singles: list[Any]
    batch: Any
    normals: Tensor
    total: int


@dataclass(frozen=True)
class Forks:
    """Estimates A = E phi(optimizer) - E phi(Gaussian form) by forks from trunks of S.

    Args:
        optimizer, oracle: of the rung.
        strata: forks of each trunk.
        directions: v's at each fork.
        cache: bytes of one component that are stepped together.
    """

    optimizer: Optimizer
    oracle: GradientOracle
    strata: int = 4
    directions: int = 4
    cache: int = field(default=STATE_GROUP, kw_only=True)

    @property
    def branches(self) -> int:
        """Of each trunk, in the end."""
        return self.strata * self.directions * len(_THIRD) + 2 * len(_EVEN)

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
            for j in range(self.strata + 1):
                rows = (draws.at[:, j] == k).nonzero()[:, 0]
                if len(rows) > 0:
                    point = {name: value[rows] for name, value in y.items()}
                    branches = branches.join(self._fork(first + k, point, rows, j, draws))
            if k < int(draws.at.max()):
                y = form.move(start.step, k, y, normals.normal(oracle.noise_dim))

    def _draws(self, total: int, batches: Streams, normals: Streams) -> Draws:
        u = normals.at(0).uniform(self.strata + 1)
        lows = torch.arange(self.strata, dtype=u.dtype, device=u.device) / self.strata
        at = torch.cat([lows + u[:, :-1] / self.strata, u[:, -1:]], 1).mul_(total)
        single, factor = self.oracle.noise.third_cumulant(self.oracle.problem)
        singles = [
            single.draw(self.oracle.problem, batches.at(0, i), 0)
            for i in range(self.strata * self.directions)
        ]
        size = math.copysign(abs(factor) ** (1 / 3), factor)
        return Draws(
            at.to(torch.int64).clamp_(max=total - 1),
            single,
            size,
            singles,
            self.oracle.draw(batches.at(1), 0),
            normals.at(1).normal(self.oracle.noise_dim),
            total,
        )

    def _fork(self, k: int, y: Y, rows: Tensor, stratum: int, draws: Draws) -> Branches:
        """The branches of one fork of each of the trunks `rows`, after their first step."""
        problem, noise = self.oracle.problem, self.oracle.noise
        theta = y["theta"]
        mean = self.oracle.mean(theta)
        gradients: list[Parameters] = []
        weights: list[tuple[float, float, float]] = []
        if stratum == self.strata:
            z = self.oracle.sample(theta, noise.part(draws.batch, rows)) - mean
            normal = self.oracle.gaussian().sample(theta, draws.normals[rows]) - mean
            for mu, even in _EVEN.items():
                gradients += [mean + mu * z, mean + mu * normal]
                odd = draws.total * _ODD[mu]
                weights += [(0.0, draws.total * even, odd), (0.0, -draws.total * even, 0.0)]
        else:
            share = draws.total / (self.strata * self.directions * 12 * _Q**3)
            for d in range(self.directions):
                single = draws.singles[stratum * self.directions + d]
                v = draws.single.gradient(problem, theta, draws.single.part(single, rows)) - mean
                for mu, weight in _THIRD.items():
                    gradients.append(mean + (mu * draws.size) * v)
                    weights.append((share * weight, 0.0, 0.0))
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
