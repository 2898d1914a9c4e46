"""An ensemble as a job: computed block by block, kept as it comes, merged into one dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdeverify.analysis.datasets.moments import BlockResult, block_moments, cross_block_moments
from sdeverify.analysis.datasets.schema import chain_dataset, path_dataset
from sdeverify.base.rng import Block
from sdeverify.ensembles.memory import Footprint, parse_memory
from sdeverify.ensembles.observables import Observable
from sdeverify.errors import SdeverifyError
from sdeverify.problems.gradients.chunks import memory_limit


class Sink(Protocol):
    """Where blocks go as they come; `load` gives the blocks of an earlier, stopped run."""

    def load(self) -> dict[int, BlockResult]: ...

    def save(self, block: int, result: BlockResult) -> None: ...


@dataclass(frozen=True)
class Job:
    """An ensemble that is computed block by block; what a block gives depends on nothing else.

    Args:
        run_block: the values `(replica, [substeps,] step, observable)` of a block, or of a part.
        footprint: what a replica holds in memory; None where a block is never cut.
        memory: the budget in bytes, beyond what is held before; None for a default.
        may_diverge: moments that are not finite are a finding and not refused.
    """

    run_block: Callable[[Block], NDArray[np.float64]]
    steps: tuple[float, ...]
    start_step: float
    observables: Sequence[Observable]
    blocks: Sequence[Block]
    crossed: bool
    substeps: tuple[int, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    footprint: Footprint | None = None
    memory: int | None = None
    may_diverge: bool = False

    def within(self, memory: int | str | None) -> Job:
        """The same job within a budget of memory (bytes, or a text such as "2GB").

        Raises:
            InvalidInputError: no budget, or one into which a replica does not fit.
        """
        if memory is None:
            return self
        budget = parse_memory(memory)
        if self.footprint is not None:
            self.footprint.plan(budget, max(block.size for block in self.blocks))
        return replace(self, memory=budget)

    def missing(self, sink: Sink | None) -> list[Block]:
        """The blocks that are not in the sink yet."""
        there = sink.load() if sink is not None else {}
        return [block for block in self.blocks if block.index not in there]

    def compute(self, block: Block, keep: bool) -> BlockResult:
        """One block's result; refused where the dynamics diverged."""
        values = self._values(block)
        if not (self.may_diverge or np.isfinite(values).all()):
            raise SdeverifyError(self._divergence(values))
        with np.errstate(over="ignore", invalid="ignore"):
            moments = cross_block_moments(values) if self.crossed else block_moments(values)
        return BlockResult(moments, values if keep else None)

    def _values(self, block: Block) -> NDArray[np.float64]:
        if self.footprint is None:
            return self.run_block(block)
        plan = self.footprint.plan(self.memory, block.size)
        with memory_limit(plan.gradients):
            parts = [self.run_block(part) for part in block.parts(plan.replicas)]
        return np.concatenate(parts)

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
        if self.crossed:
            return path_dataset(**common, substeps=self.substeps)
        return chain_dataset(**common)

    def _divergence(self, values: NDArray[np.float64]) -> str:
        bad = ~np.isfinite(values).reshape(len(values), -1, *values.shape[-2:]).all(axis=(0, 1))
        step, observable = (int(i) for i in np.argwhere(bad)[0])
        return (
            f"{self.attrs['name']}: observable '{self.observables[observable].name}' is not finite "
            f"at step {self.start_step + self.steps[step]:g}. The dynamics diverged: use a smaller "
            "learning rate, a larger epsilon, more substeps or a longer warm-up."
        )


def run_job(
    job: Job,
    sink: Sink | None = None,
    keep_replicas: bool = False,
    progress: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Computes the blocks that are missing, saves each as it comes, and gives the dataset.

    Args:
        progress: called with the number of replicas after each block, those loaded included.
    """
    results = sink.load() if sink is not None else {}
    for block in job.blocks:
        if block.index not in results:
            results[block.index] = job.compute(block, keep_replicas)
            if sink is not None:
                sink.save(block.index, results[block.index])
        if progress is not None:
            progress(block.size)
    return job.dataset(results)


_CHAIN_SAMPLES = 16
"""What an optimizer step costs, in gradients of one sample: the batch and its overhead, roughly."""


def replica_cost(job: Job) -> float:
    """What one replica of an ensemble costs, roughly, in gradients of one sample."""
    steps = float(job.steps[-1])
    if not job.crossed:
        return steps * float(job.attrs.get("refinement", 1)) * _CHAIN_SAMPLES
    samples = int(job.attrs.get("subsample", 0)) or int(job.attrs.get("samples", 1))
    return steps * sum(job.substeps) * (samples + _CHAIN_SAMPLES)
