"""I.i.d. replicas of several channels, block by block, as pooled moments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sdeverify.analysis.datasets.moments import Moments, cross_block_moments, pool_blocks
from sdeverify.analysis.sides import Ensemble
from sdeverify.base.rng import Block, Blocks
from sdeverify.ensembles.memory import Footprint
from sdeverify.errors import SdeverifyError
from sdeverify.problems.gradients.chunks import memory_limit

Array = NDArray[np.float64]
RunBlock = Callable[[Block], Array]
"""A block, or a part of one -> its replicas' values, `(replica, channel, step, observable)`."""


@dataclass(frozen=True)
class Sample:
    """Means of i.i.d. replicas over `(channel, step, observable)`, from their blocks' moments."""

    blocks: Sequence[Moments]

    @cached_property
    def pooled(self) -> Moments:
        """All replicas together, comoments crossed over the channels."""
        fields = ("count", "mean", "comoment")
        return Moments(*pool_blocks(*([getattr(b, f) for b in self.blocks] for f in fields)))

    @property
    def count(self) -> int:
        """Replicas."""
        return self.pooled.count

    def mean(self, weights: Array) -> Array:
        """Of combinations of channels, `(combination, channel, observable)` weights."""
        return np.asarray(np.einsum("ico,cko->iko", weights, self.pooled.mean))

    def covariance(self, weights: Array) -> Array:
        """Of the means of such combinations, `(combination, combination, step, observable)`."""
        each = self.pooled.covariance_of_the_mean
        return np.asarray(np.einsum("iao,jbo,abko->ijko", weights, weights, each))

    def ensemble(self, weights: Array) -> Ensemble:
        """One combination, `(channel, observable)`, for bands over time."""
        share = np.asarray([b.count for b in self.blocks], dtype=np.float64) / self.count
        deviation = np.stack([b.mean for b in self.blocks]) - self.pooled.mean
        residuals = np.einsum("b,bcko,co->bko", share, deviation, weights)
        variance = self.covariance(weights[None])[0, 0]
        return Ensemble(1.0, variance, residuals, float(self.count))


def sample(
    run_block: RunBlock,
    replicas: int,
    block_size: int,
    footprint: Footprint,
    memory: int | None,
    name: str,
) -> Sample:
    """Computes all blocks within a budget of memory; a block's replicas own their streams.

    Raises:
        InvalidInputError: a budget into which a replica does not fit.
        SdeverifyError: a replica diverged.
    """
    moments = []
    for block in Blocks(replicas, block_size):
        plan = footprint.plan(memory, block.size)
        with memory_limit(plan.gradients):
            values = np.concatenate([run_block(part) for part in block.parts(plan.replicas)])
        if not np.isfinite(values).all():
            raise SdeverifyError(
                f"{name}: {int((~np.isfinite(values)).any((1, 2, 3)).sum())} of {block.size} "
                f"replicas of block {block.index} are not finite. The dynamics diverged: use a "
                "smaller learning rate, a larger epsilon, more substeps or a longer warm-up."
            )
        moments.append(cross_block_moments(values))
    return Sample(moments)
