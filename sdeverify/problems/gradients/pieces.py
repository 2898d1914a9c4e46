"""Sums over samples, a few samples at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sdeverify.base.shapes import Tensor
from sdeverify.problems.gradients.samples import Batch

Kernel = Callable[[Tensor, Tensor, Batch], Any]
"""(theta, weights, batch) -> a tensor, or a named tuple of tensors; sums over samples."""

WHOLE = 1 << 40
"""A `piece` of everything: smaller ones gained nothing."""
ROW = 16
"""Pieces are multiples of so many samples, so that rows of numbers begin where a vector does."""
MOST = 4
"""At most so many pieces: each is compiled anew."""


@dataclass(frozen=True)
class InPieces:
    """A kernel whose samples are taken in pieces that stay in the cache, one after the other.

    Args:
        kernel: what is computed.
        sample: bytes that a backward pass keeps for each sample.
        piece: bytes that are to be kept at a time.
    """

    kernel: Kernel
    sample: int
    piece: int

    def __call__(self, theta: Tensor, weights: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        axis = 0 if batch.shared else 1
        total: tuple[Tensor, ...] = ()
        for start, size in self.parts(*weights.shape):
            own = batch.data.map(partial(torch.narrow, dim=axis, start=start, length=size))
            part = weights.narrow(1, start, size)
            found = self.kernel(theta, part, Batch(own, batch.shared))
            sums = (found,) if isinstance(found, Tensor) else tuple(found)
            total = tuple(map(torch.add, total, sums)) if total else sums
        return total

    def parts(self, replicas: int, samples: int) -> list[tuple[int, int]]:
        """First sample and number of samples of each piece."""
        held = replicas * samples * self.sample
        pieces = min(MOST, max(1, round(held / self.piece)), samples)
        each = -(-samples // pieces // ROW) * ROW
        return [(i, min(each, samples - i)) for i in range(0, samples, each)]
