"""Cutting work over replicas and samples: small enough for the cache and for the memory budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sdeverify.errors import InvalidInputError

CACHE = 6 << 20
"""Bytes that a chunk's saved activations and gradients may fill on a CPU: measured on MLPs."""
DEFAULT_MEMORY = 1 << 30
"""Bytes of temporary memory where no budget is given."""
TEMPORARIES = 3
"""Peak memory over the bytes of what one chunk saves for the backward pass."""
LEAST_SAMPLES = 64
"""A smaller cut of the samples costs more in overhead than it gains in cache."""


@dataclass(frozen=True)
class Cost:
    """Bytes of one kernel: for each replica, and for each sample of a replica."""

    replica: int
    sample: int


@dataclass(frozen=True)
class Chunks:
    """How work is cut.

    Args:
        memory: the budget of temporary memory in bytes.
        cache: bytes that one chunk should fit in; None where there is no such limit (a GPU).
    """

    memory: int
    cache: int | None

    @classmethod
    def on(cls, device: torch.device, memory: int | None) -> Chunks:
        """The plan for a device, within `memory` bytes (None: a default)."""
        if memory is not None and memory < 1 << 20:
            raise InvalidInputError(
                f"memory is a number of bytes, at least {1 << 20} (1 MiB); got {memory}."
            )
        return cls(memory or DEFAULT_MEMORY, CACHE if device.type == "cpu" else None)

    def sizes(self, replicas: int, samples: int, cost: Cost) -> tuple[int, int]:
        """Replicas and samples in one chunk."""
        budget = self.memory // TEMPORARIES
        target = budget if self.cache is None else min(self.cache, budget)
        whole = cost.replica + samples * cost.sample
        if whole <= target:
            return min(replicas, target // max(whole, 1)), samples
        fitting = (budget - cost.replica) // max(cost.sample, 1)
        wanted = max((target - cost.replica) // max(cost.sample, 1), LEAST_SAMPLES)
        return 1, max(1, min(samples, wanted, fitting))

    def cut(self, replicas: int, samples: int, cost: Cost) -> Iterator[tuple[slice, slice]]:
        """Slices of the replicas and of the samples that together cover all of them."""
        r, n = self.sizes(replicas, samples, cost)
        pieces = -(-samples // n)
        n = -(-samples // pieces)
        for i in range(0, replicas, r):
            for j in range(0, samples, n):
                yield slice(i, min(i + r, replicas)), slice(j, min(j + n, samples))
