"""One or several rungs of a ladder on the same Brownian paths: the samples of A and of D."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from sdeverify.analysis.datasets.moments import extrapolation_weights
from sdeverify.base.rng import Block, Streams, derived_seed
from sdeverify.base.state import State
from sdeverify.ensembles.build import NORMALS
from sdeverify.ensembles.coupling.coupled import Coupled
from sdeverify.ensembles.coupling.forks import CHANNELS, Branches, Forks
from sdeverify.ensembles.coupling.paths import CoupledPaths, Discretisation, Euler, GaussianForm
from sdeverify.ensembles.coupling.sampling import Sample, sample
from sdeverify.ensembles.memory import MOMENTS, Footprint, chain_footprint
from sdeverify.ensembles.observables import Observable, measured
from sdeverify.ensembles.solve import simulate
from sdeverify.optimizers.ladders import Rung
from sdeverify.sdes.sde import GradientSDE, same_sde

Array = NDArray[Any]


@dataclass(frozen=True)
class CoupledRungs:
    """The work on some rungs, and the weights with which its channels make D and A + D.

    The channels of the paths are each rung's Gaussian form, then each different SDE at each step
    size; those of the forks are `CHANNELS`.

    Args:
        rungs: with one SDE each.
        start: one point.
        steps: recorded level-1 steps after the start.
        independent: for each observable whether A + D is taken from independent runs.
        kinks: operations of the loss that are not smooth.
    """

    rungs: Sequence[Rung]
    sdes: Sequence[GradientSDE]
    start: State
    steps: Sequence[float]
    observables: Sequence[Observable]
    independent: Sequence[bool]
    kinks: Sequence[str]
    how: Coupled
    substeps: tuple[int, ...]
    seed: int
    memory: int | None

    @cached_property
    def _different(self) -> tuple[list[GradientSDE], list[int]]:
        """The different SDEs, and for each rung which is its own."""
        kinds: list[GradientSDE] = []
        own: list[int] = []
        for sde in self.sdes:
            same = [i for i, other in enumerate(kinds) if same_sde(sde, other)]
            kinds += [] if same else [sde]
            own.append(same[0] if same else len(kinds) - 1)
        return kinds, own

    @cached_property
    def paths(self) -> Sample:
        """All discretisations on one Brownian path a replica."""
        forms: list[Discretisation] = [GaussianForm(r.optimizer, r.oracle) for r in self.rungs]
        forms += [Euler(sde, n) for sde in self._different[0] for n in self.substeps]
        oracle = self.rungs[0].oracle
        coupled = CoupledPaths(forms, oracle.noise_dim)
        last = int(self.steps[-1])

        def run_block(block: Block) -> Array:
            streams = Streams(self.seed, "coupled paths", [block], oracle.problem.device, NORMALS)
            along = coupled.run(self.start.expand(block.wanted), last, streams)
            recorded = [
                np.stack([measured(self.observables, state) for state in states], 1)
                for k, states in enumerate(along)
                if k in self.steps
            ]
            return np.stack(recorded, axis=2)

        footprint = self._footprint(len(forms) * len(self.start.components), len(forms) + 2)
        how = self.how
        return sample(run_block, how.paths, how.block_size, footprint, self.memory, "coupled paths")

    def path_cost(self) -> float:
        """Gradients of one sample in a replica of `paths`, without its observables."""
        start, last = self.start.step, int(self.steps[-1])
        own = [GaussianForm(r.optimizer, r.oracle).count(start, last) for r in self.rungs]
        euler = last * sum(self.substeps)
        passes = sum((2 if sde.uses_moments else 1) * euler for sde in self._different[0])
        return float((sum(own) + passes) * self.rungs[0].oracle.problem.samples)

    def trunk_cost(self, i: int) -> float:
        """The same of a trunk of rung i with its branches."""
        rung, how = self.rungs[i], self.how
        forks = Forks(rung.optimizer, rung.oracle, how.strata, how.pairs)
        own = GaussianForm(rung.optimizer, rung.oracle).count(self.start.step, int(self.steps[-1]))
        problem = rung.oracle.problem
        batch = rung.oracle.noise.numbers(problem)
        observed = len(self.observables) * problem.samples * len(self.steps)
        return own * problem.samples + forks.branches * (own * batch + observed) / 2

    def forks(self, i: int) -> Sample | None:
        """The trunks of rung i; None where its noise is normal, so that A is 0."""
        rung, how = self.rungs[i], self.how
        if rung.oracle.noise.normal or all(self.independent):
            return None
        forks = Forks(rung.optimizer, rung.oracle, how.strata, how.pairs)
        problem = rung.oracle.problem

        def run_block(block: Block) -> Array:
            role = f"forks {rung.label:.12g}"
            batches = Streams(self.seed, role, [block], problem.device, problem.dtype)
            normals = Streams(self.seed, f"{role} normals", [block], problem.device, NORMALS)
            along = forks.run(self.start.expand(block.wanted), self.steps, batches, normals)
            return np.stack([self._sums(*at, block.wanted) for at in along], axis=2)

        components = forks.branches * len(self.start.components)
        footprint = self._footprint(components, 3, forks.branches)
        return sample(run_block, how.trunks, how.block_size, footprint, self.memory, "forks")

    def _sums(self, state: State, branches: Branches, trunks: int) -> Array:
        """Each trunk's sum over its branches, `(trunk, channel, observable)`."""
        sums = np.zeros((trunks, len(CHANNELS), len(self.observables)))
        if len(branches.trunk) > 0:
            values = measured(self.observables, state)
            weighted = branches.weight.cpu().numpy()[:, :, None] * values[:, None, :]
            np.add.at(sums, branches.trunk.cpu().numpy(), weighted)
        return sums

    def chain(self, i: int) -> xr.Dataset | None:
        """Independent runs of rung i's optimizer, for the observables that need them."""
        rung, problem = self.rungs[i], self.rungs[i].oracle.problem
        if rung.oracle.noise.normal or not any(self.independent):
            return None
        return simulate(
            rung.optimizer,
            rung.oracle,
            self.start,
            self.steps,
            [o for o, own in zip(self.observables, self.independent, strict=True) if own],
            replicas=self.how.chains,
            seed=derived_seed(self.seed, "chain", f"{rung.label:.12g}", problem.dim),
            memory=self.memory,
        )

    def of_form(self, i: int) -> Array:
        """Weights `(channel,)` of rung i's Gaussian form."""
        weights = np.zeros(self._channels)
        weights[i] = 1.0
        return weights

    def of_path(self, i: int, finest: int | None = None) -> Array:
        """Weights of its SDE, extrapolated from its `finest` step sizes (all of them)."""
        sizes = np.asarray(self.substeps)
        kept = len(sizes) if finest is None else finest
        weights = np.zeros(self._channels)
        first = len(self.rungs) + self._different[1][i] * len(sizes) + len(sizes) - kept
        weights[first : first + kept] = extrapolation_weights(sizes[len(sizes) - kept :])
        return weights

    @property
    def _channels(self) -> int:
        return len(self.rungs) + len(self._different[0]) * len(self.substeps)

    def _footprint(self, components: int, normals: int, evaluations: int = 1) -> Footprint:
        """What one replica holds: states, normals over an interval, and what observables make."""
        oracle = self.rungs[-1].oracle
        one, item = chain_footprint(oracle, 1), oracle.problem.dtype.itemsize
        vectors = 2 * components + MOMENTS * evaluations
        replica = vectors * oracle.problem.dim * item + normals * oracle.noise_dim * item
        drawn = one.drawn + normals * oracle.noise_dim * torch.float64.itemsize
        return Footprint(replica + evaluations * one.replica, drawn, one.compiled)
