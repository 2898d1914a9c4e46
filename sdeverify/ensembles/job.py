"""An ensemble as a job: computed block by block, kept as it comes, merged into one dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdeverify.analysis.datasets.axes import CHANNEL, SUBSTEPS
from sdeverify.analysis.datasets.moments import BlockResult, block_moments, cross_block_moments
from sdeverify.analysis.datasets.schema import chain_dataset, channel_dataset, path_dataset
from sdeverify.base.arguments import memory_budget
from sdeverify.base.rng import Block
from sdeverify.base.shapes import Tensor
from sdeverify.ensembles.memory import Footprint
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.progress import Progress, progress_of
from sdeverify.errors import SdeverifyError
from sdeverify.problems.gradients.chunks import memory_limit
from sdeverify.problems.problem import Problem

Side = Literal["chain", "path", "flow", "full", "coupled", "forks"]
"""The optimizer, its SDE, the SDE without noise, and the SDE with all samples, to confirm it; both
sides on common paths, and what noise that is not normal changes."""

PROBED = 2
"""Replicas by which it is seen whether code still computes what it did."""

Trajectory = Callable[[Block, Sequence[float], Sequence[Observable]], Iterator[NDArray[np.float64]]]
"""(block, level-1 steps, observables) -> the values `(replica, [substeps,] observable)` at each."""


Done = Callable[[int], object]
"""Called with the replicas of a block that are done so far."""


def ignored(replicas: int) -> None:
    """Tells nobody."""


class Sink(Protocol):
    """Where blocks go as they come; `load` gives the blocks of an earlier, stopped run."""

    def load(self) -> dict[int, BlockResult]: ...

    def save(self, block: int, result: BlockResult) -> None: ...

    def check(self, job: Job) -> None:
        """Refuses an ensemble that is not the one whose blocks these are."""


@dataclass(frozen=True)
class Work:
    """What one replica takes, for a forecast of time.

    Args:
        gradients: of one sample, over all steps.
        stretch: level-1 steps that are the least to be moved.
        problem: whose gradients they are.
        point: where they are tried.
        moments: whether each comes with its second moment.
    """

    gradients: float
    stretch: float
    problem: Problem
    point: Tensor
    moments: bool = False


@dataclass(frozen=True)
class Job:
    """An ensemble that is computed block by block; what a block gives depends on nothing else.

    Args:
        side: what the ensemble stands for.
        trajectory: the values of a block, or of a part, step after step.
        footprint: what a replica holds in memory; None where a block is never cut.
        memory: the budget in bytes, beyond what is held before; None for a default.
        channels: what a replica holds side by side, where that is not one path at several step
            sizes; comoments are crossed over it.
        may_diverge: moments that are not finite are a finding and not refused.
        sizes: of the observables themselves, where the values are small differences of them, since
            rounding goes by these; empty elsewhere.
        work: of a replica; None where no time is forecast.
    """

    side: Side
    trajectory: Trajectory
    steps: tuple[float, ...]
    start_step: float
    observables: Sequence[Observable]
    blocks: Sequence[Block]
    substeps: tuple[int, ...] = ()
    channels: tuple[str, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    footprint: Footprint | None = None
    memory: int | None = None
    may_diverge: bool = False
    sizes: tuple[float, ...] = ()
    work: Work | None = None

    @property
    def crossed(self) -> bool:
        """Whether several step sizes, or channels, share one Brownian path."""
        return self.side != "chain"

    @property
    def crossing(self) -> tuple[str, Sequence[int] | Sequence[str]]:
        """The axis over which comoments are crossed, and its values."""
        return (CHANNEL, self.channels) if self.channels else (SUBSTEPS, self.substeps)

    @property
    def replicas(self) -> int:
        """The size of the ensemble."""
        last = self.blocks[-1]
        return self.blocks[0].size * (len(self.blocks) - 1) + last.size

    @property
    def replica_cost(self) -> float:
        """What one replica costs, in gradients of one sample."""
        return 1.0 if self.work is None else self.work.gradients

    def within(self, memory: int | str | None) -> Job:
        """The same job within a budget of memory (bytes, or a text such as "2GB").

        Raises:
            InvalidInputError: no budget, or one into which a replica does not fit.
        """
        if memory is None:
            return self
        budget = memory_budget(memory)
        if self.footprint is not None:
            self.footprint.plan(budget, self.blocks[0].size)
        return replace(self, memory=budget)

    def compute(self, block: Block, keep: bool, done: Done = ignored) -> BlockResult:
        """One block's result; refused where the dynamics diverged.

        Args:
            done: told the replicas that are done, between steps; a replica that has made half of
                its steps counts as half.
        """
        values = self._values(block, done)
        if not (self.may_diverge or np.isfinite(values).all()):
            raise SdeverifyError(self._divergence(values))
        with np.errstate(over="ignore", invalid="ignore"):
            moments = cross_block_moments(values) if self.crossed else block_moments(values)
        first = values[:PROBED].copy() if block == self.blocks[0] else None
        return BlockResult(moments, values if keep else None, first)

    def run_block(self, block: Block, done: Done = ignored) -> NDArray[np.float64]:
        """The values `(replica, [substeps,] step, observable)` of a block, or of a part."""
        values = []
        last = float(self.steps[-1])
        trajectory = self.trajectory(block, self.steps, self.observables)
        for step, value in zip(self.steps, trajectory, strict=True):
            values.append(value)
            if step < last:
                done(int(block.wanted * step / last))
        return np.stack(values, axis=-2)

    def probe(self) -> NDArray[np.float64]:
        """The values of the first PROBED replicas, as they are within their block.

        They are cheap beside a block and move with whatever moves a number: code, data, settings.
        """
        first = self.blocks[0]
        return self._values(replace(first, last=min(PROBED, first.size)))

    def _values(self, block: Block, done: Done = ignored) -> NDArray[np.float64]:
        with self.within_budget(block.size) as most:
            parts = [block] if block.wanted <= most else block.parts(most)
            return np.concatenate([self.run_block(p, _after(p.first, done)) for p in parts])

    @contextmanager
    def within_budget(self, block_size: int) -> Iterator[int]:
        """Within it gradients keep to the budget; gives the replicas that are moved at a time."""
        if self.footprint is None:
            yield block_size
            return
        plan = self.footprint.plan(self.memory, block_size)
        with memory_limit(plan.gradients):
            yield plan.replicas

    def dataset(self, results: dict[int, BlockResult]) -> xr.Dataset:
        """The ensemble's dataset from all its blocks."""
        ordered = [results[block.index] for block in self.blocks]
        absolute = np.asarray([self.start_step + s for s in self.steps])
        kept = [r.values for r in ordered if r.values is not None]
        common: dict[str, Any] = {
            "block_count": [r.moments.count for r in ordered],
            "block_mean": np.stack([r.moments.mean for r in ordered]),
            "block_comoment": np.stack([r.moments.comoment for r in ordered]),
            "step": absolute,
            "time": absolute * self.attrs["time_per_level1_step"],
            "observables": [o.name for o in self.observables],
            "blocks": [block.index for block in self.blocks],
            "attrs": self.attrs,
            "replicas": np.concatenate(kept) if len(kept) == len(ordered) else None,
        }
        if self.channels:
            return channel_dataset(**common, channels=self.channels)
        if self.crossed:
            return path_dataset(**common, substeps=self.substeps)
        return chain_dataset(**common)

    def _divergence(self, values: NDArray[np.float64]) -> str:
        bad = ~np.isfinite(values).reshape(len(values), -1, *values.shape[-2:]).all(axis=(0, 1))
        step, observable = (int(i) for i in np.argwhere(bad)[0])
        name = self.observables[observable].name
        what = f"{self.attrs['name']}: observable '{name}' is not finite"
        if self.steps[step] == 0:
            return (
                f"{what} at the start itself, step {self.start_step:g}, before any dynamics. Look "
                "at the start, the data and the observable there."
            )
        return (
            f"{what} at step {self.start_step + self.steps[step]:g}. The dynamics diverged: use a "
            "smaller learning rate, a larger epsilon, more substeps or a longer warm-up."
        )


def _after(before: int, done: Done) -> Done:
    """Tells of a part's replicas after those before it."""
    return lambda replicas: done(before + replicas)


@dataclass
class _Part:
    """Shows the replicas of a block as they get done."""

    shown: Progress
    name: str
    before: int
    total: int
    last: int = 0

    def __call__(self, replicas: int) -> None:
        if replicas > self.last:
            self.last = replicas
            self.shown(self.name, self.before + replicas, self.total)


def run_jobs(
    jobs: Mapping[str, Job],
    sinks: Mapping[str, Sink] | None = None,
    progress: Progress | bool = False,
    keep_replicas: bool = False,
) -> dict[str, xr.Dataset]:
    """Computes the blocks that are missing, saves each as it comes, and gives the datasets.

    Args:
        sinks: where the blocks of an ensemble go, by its name.
        progress: see `RunOptions`.
    """
    shown = progress_of(progress)
    datasets = {}
    for name, job in jobs.items():
        sink = None if sinks is None else sinks.get(name)
        results = {}
        if sink is not None:
            sink.check(job)
            results = sink.load()
        done = sum(block.size for block in job.blocks if block.index in results)
        shown(name, done, job.replicas)
        for block in job.blocks:
            if block.index in results:
                continue
            part = _Part(shown, name, done, job.replicas)
            results[block.index] = job.compute(block, keep_replicas, part)
            if sink is not None:
                sink.save(block.index, results[block.index])
            done += block.size
            shown(name, done, job.replicas)
        datasets[name] = job.dataset(results)
    return datasets


def run_job(
    job: Job,
    sink: Sink | None = None,
    keep_replicas: bool = False,
    progress: Progress | bool = False,
) -> xr.Dataset:
    """One ensemble, see `run_jobs`; its name is that of what moves it."""
    name = str(job.attrs["name"])
    sinks = {} if sink is None else {name: sink}
    return run_jobs({name: job}, sinks, progress, keep_replicas)[name]
