"""Sums over samples, a few samples at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from sdeverify.base.cutting import evenly
from sdeverify.base.shapes import Tensor
from sdeverify.problems.gradients.kernels import Sums
from sdeverify.problems.gradients.samples import Batch

ROW = 16
"""Microbatches are multiples of so many samples, so that rows begin where a vector does."""
MOST = 4
"""At most so many microbatches: each is compiled anew."""


@dataclass(frozen=True)
class Microbatches:
    """Sums accumulated over microbatches that stay in the cache, one after the other.

    Args:
        sums: what is computed.
        sample: bytes that a backward pass keeps for each sample.
        size: bytes that are to be kept at a time.
    """

    sums: Sums
    sample: int
    size: int

    def __call__(self, theta: Tensor, weights: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        axis = 0 if batch.shared else 1
        total: tuple[Tensor, ...] = ()
        for start, length in self.parts(*weights.shape):
            own = batch.data.map(partial(torch.narrow, dim=axis, start=start, length=length))
            part = weights.narrow(1, start, length)
            sums = self.sums(theta, part, Batch(own, batch.shared))
            total = tuple(map(torch.add, total, sums)) if total else tuple(sums)
        return total

    def parts(self, replicas: int, samples: int) -> list[tuple[int, int]]:
        """First sample and number of samples of each microbatch."""
        held = replicas * samples * self.sample
        count = min(MOST, max(1, round(held / self.size)), samples)
        parts = evenly(samples, -(-samples // count), ROW)
        return [(part.start, part.stop - part.start) for part in parts]
