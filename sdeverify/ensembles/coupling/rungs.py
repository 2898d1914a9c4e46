"""One or several rungs of a ladder on the same Brownian paths: the samples of A and of D."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from sdeverify.analysis.datasets.axes import BLOCK, OBSERVABLE, STEP
from sdeverify.analysis.datasets.moments import extrapolation_weights
from sdeverify.analysis.datasets.schema import path_dataset
from sdeverify.base.rng import Block, Blocks, Streams, derived_seed
from sdeverify.base.state import State
from sdeverify.ensembles.build import NORMALS, as_text, chain_job, provenance
from sdeverify.ensembles.coupling.coupled import Coupled
from sdeverify.ensembles.coupling.forks import CHANNELS, Branches, Forks
from sdeverify.ensembles.coupling.paths import CoupledPaths, Discretisation, Euler, GaussianForm
from sdeverify.ensembles.coupling.sampling import Sample
from sdeverify.ensembles.job import Job, Side, Trajectory, Work
from sdeverify.ensembles.memory import MOMENTS, Footprint, chain_footprint
from sdeverify.ensembles.observables import Observable, measured
from sdeverify.ensembles.options import Run
from sdeverify.optimizers.ladders import Rung
from sdeverify.sdes.description import constant_text
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
    def different(self) -> tuple[list[GradientSDE], list[int]]:
        """The different SDEs, and for each rung the number of its own."""
        kinds: list[GradientSDE] = []
        own: list[int] = []
        for sde in self.sdes:
            same = [i for i, other in enumerate(kinds) if same_sde(sde, other)]
            kinds += [] if same else [sde]
            own.append(same[0] if same else len(kinds) - 1)
        return kinds, own

    def jobs(self) -> dict[str, Job]:
        """All that is sampled, by name: coupled_0, forks_i, and chain_i where it is needed."""
        which = range(len(self.rungs))
        forked = [i for i in which if not self._normal(i) and not all(self.independent)]
        return {
            "coupled_0": self.paths_job(),
            **{f"forks_{i}": self.forks_job(i) for i in forked},
            **{f"chain_{i}": self.chain_job(i) for i in which if self.needs_chain(i)},
        }

    def needs_chain(self, i: int) -> bool:
        """Whether an observable's error takes independent runs of rung i's optimizer."""
        return any(self.independent) and not self._normal(i)

    def _normal(self, i: int) -> bool:
        """Whether A is 0."""
        return self.rungs[i].oracle.noise.normal

    def paths_job(self) -> Job:
        """All discretisations on one Brownian path a replica."""
        forms: list[Discretisation] = [GaussianForm(r.optimizer, r.oracle) for r in self.rungs]
        forms += [Euler(sde, n) for sde in self.different[0] for n in self.substeps]
        oracle = self.rungs[0].oracle
        coupled = CoupledPaths(forms, oracle.noise_dim)

        def trajectory(
            block: Block, at: Sequence[float], wanted: Sequence[Observable]
        ) -> Iterator[Array]:
            streams = Streams(self.seed, "coupled paths", [block], oracle.problem.device, NORMALS)
            along = coupled.run(self.start.expand(block.wanted), int(max(at)), streams)
            for k, states in enumerate(along):
                if k in at:
                    yield np.stack([measured(wanted, state) for state in states], 1)

        sizes = [
            f"SDE {j}, {n} substeps" for j in range(len(self.different[0])) for n in self.substeps
        ]
        return self._job(
            "coupled",
            "coupled paths",
            self.rungs,
            trajectory,
            channels=(*(f"rung {rung.label:.12g}" for rung in self.rungs), *sizes),
            replicas=self.how.paths,
            gradients=self.path_cost(),
            footprint=self._footprint(len(forms) * len(self.start.components), len(forms) + 2),
        )

    def path_cost(self) -> float:
        """Gradients of one sample in a replica of `paths`, without its observables."""
        start, last = self.start.step, int(self.steps[-1])
        own = [GaussianForm(r.optimizer, r.oracle).count(start, last) for r in self.rungs]
        euler = last * sum(self.substeps)
        passes = sum((2 if sde.uses_moments else 1) * euler for sde in self.different[0])
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

    def forks_job(self, i: int) -> Job:
        """The trunks of rung i."""
        rung, how = self.rungs[i], self.how
        forks = Forks(rung.optimizer, rung.oracle, how.strata, how.pairs)
        problem = rung.oracle.problem

        def trajectory(
            block: Block, at: Sequence[float], wanted: Sequence[Observable]
        ) -> Iterator[Array]:
            role = f"forks {rung.label:.12g}"
            batches = Streams(self.seed, role, [block], problem.device, problem.dtype)
            normals = Streams(self.seed, f"{role} normals", [block], problem.device, NORMALS)
            for after in forks.run(self.start.expand(block.wanted), at, batches, normals):
                yield _sums(*after, block.wanted, wanted)

        return self._job(
            "forks",
            f"forks of {rung.optimizer.name}",
            [rung],
            trajectory,
            channels=CHANNELS,
            replicas=how.trunks,
            gradients=self.trunk_cost(i),
            footprint=self._footprint(
                forks.branches * len(self.start.components), 3, forks.branches
            ),
        )

    def chain_job(self, i: int, replicas: int | None = None) -> Job:
        """Independent runs of rung i's optimizer."""
        rung, dim = self.rungs[i], self.rungs[i].oracle.problem.dim
        run = Run.checked(
            replicas=replicas or self.how.chains,
            seed=derived_seed(self.seed, "chain", f"{rung.label:.12g}", dim),
            memory=self.memory,
        )
        common = (self.start, self.steps, self.observables, run)
        return chain_job(rung.optimizer, rung.oracle, *common)

    def _job(
        self,
        side: Side,
        name: str,
        rungs: Sequence[Rung],
        trajectory: Trajectory,
        *,
        channels: tuple[str, ...],
        replicas: int,
        gradients: float,
        footprint: Footprint,
    ) -> Job:
        """The job of some rungs' channels."""
        oracle, how, unit = rungs[0].oracle, self.how, self.sdes[0].time_per_level1_step
        settings = {
            "hyperparameters": [as_text(rung.optimizer.hyperparameters) for rung in rungs],
            "noise_scales": [constant_text(rung.oracle.scale) for rung in rungs],
            "constants": [as_text(sde.constants) for sde in self.different[0]],
        }
        forks = side == "forks"
        forked = {"strata": how.strata, "pairs": how.pairs} if forks else {}
        at_start = np.abs(measured(self.observables, self.start.expand(1))[0])
        moments = side == "coupled" and any(sde.uses_moments for sde in self.different[0])
        return Job(
            side=side,
            trajectory=trajectory,
            steps=tuple(self.steps),
            start_step=self.start.step,
            observables=self.observables,
            blocks=Blocks(replicas, how.block_size),
            channels=channels,
            attrs={
                **provenance(oracle, self.start, self.seed, replicas, how.block_size),
                "name": name,
                "time_per_step": unit,
                "time_per_level1_step": unit,
                "refinement": 1.0,
                **{key: json.dumps(value) for key, value in settings.items()},
                **forked,
            },
            footprint=footprint,
            work=Work(gradients, 1.0, oracle.problem, self.start.theta, moments),
            sizes=tuple(at_start) if forks else (),
        ).within(self.memory)

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
        first = len(self.rungs) + self.different[1][i] * len(sizes) + len(sizes) - kept
        weights[first : first + kept] = extrapolation_weights(sizes[len(sizes) - kept :])
        return weights

    @property
    def _channels(self) -> int:
        return len(self.rungs) + len(self.different[0]) * len(self.substeps)

    def _footprint(self, components: int, normals: int, evaluations: int = 1) -> Footprint:
        """What one replica holds: states, normals over an interval, and what observables make."""
        oracle = self.rungs[-1].oracle
        one, item = chain_footprint(oracle, 1), oracle.problem.dtype.itemsize
        vectors = 2 * components + MOMENTS * evaluations
        replica = vectors * oracle.problem.dim * item + normals * oracle.noise_dim * item
        drawn = one.drawn + normals * oracle.noise_dim * torch.float64.itemsize
        return Footprint(replica + evaluations * one.replica, drawn, one.compiled)


def _sums(
    state: State, branches: Branches, trunks: int, observables: Sequence[Observable]
) -> Array:
    """Each trunk's sum over its branches, `(trunk, channel, observable)`."""
    sums = np.zeros((trunks, len(CHANNELS), len(observables)))
    if len(branches.trunk) > 0:
        values = measured(observables, state)
        weighted = branches.weight.cpu().numpy()[:, :, None] * values[:, None, :]
        np.add.at(sums, branches.trunk.cpu().numpy(), weighted)
    return sums


@dataclass(frozen=True)
class Measurements:
    """The work and its ensembles, by the names of `CoupledRungs.jobs`."""

    work: CoupledRungs
    ensembles: Mapping[str, xr.Dataset]

    @cached_property
    def paths(self) -> Sample:
        """The channels on common paths."""
        return Sample.of(self.ensembles["coupled_0"])

    def forks(self, i: int) -> Sample | None:
        """The trunks of rung i; None where A is 0, or of no use."""
        ds = self.ensembles.get(f"forks_{i}")
        return None if ds is None else Sample.of(ds)

    def chain(self, i: int) -> xr.Dataset | None:
        """Rung i's runs of the observables that need them; None where none does."""
        if not self.work.needs_chain(i):
            return None
        return self.ensembles[f"chain_{i}"].isel({OBSERVABLE: np.asarray(self.work.independent)})

    def path(self, j: int) -> xr.Dataset:
        """SDE number j of `CoupledRungs.different`, as `solve` gives it."""
        work, ds = self.work, self.ensembles["coupled_0"]
        sde, sizes = work.different[0][j], len(work.substeps)
        first = len(work.rungs) + j * sizes
        own, unit = slice(first, first + sizes), sde.time_per_level1_step
        return path_dataset(
            block_count=ds["block_count"].values,
            block_mean=ds["block_mean"].values[:, own],
            block_comoment=ds["block_comoment"].values[:, own, own],
            step=ds[STEP].values,
            time=ds[STEP].values * unit,
            observables=[o.name for o in work.observables],
            blocks=ds[BLOCK].values,
            substeps=work.substeps,
            attrs={
                **{key: ds.attrs[key] for key in ds.attrs if key not in _OF_ALL},
                "name": sde.description.name,
                "model": sde.model,
                "time_per_step": unit,
                "time_per_level1_step": unit,
                "hyperparameters": as_text(sde.constants),
            },
        )


_OF_ALL = ("constants", "noise_scales", "fingerprint")
"""What is told of all rungs together."""
