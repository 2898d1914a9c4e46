"""Cutting work over replicas and samples: small enough for the cache and for the memory budget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import torch

from sdeverify.errors import InvalidInputError

CACHE = 12 << 20
"""Replicas go side by side on a CPU as long as what they save fits in here (measured on MLPs)."""
ONE_REPLICA = 16 << 20
"""One replica's samples go at once up to this size on a CPU (measured on a CNN)."""
DEFAULT_MEMORY = 1 << 30
"""Bytes of temporary memory where no budget is given."""
TEMPORARIES = 3
"""Peak memory over the bytes of what one chunk saves for the backward pass."""

_LIMIT: ContextVar[int | None] = ContextVar("limit", default=None)


@contextmanager
def memory_limit(memory: int) -> Iterator[None]:
    """Keeps all problems' temporary memory within `memory` bytes while the context lasts."""
    before = _LIMIT.set(memory)
    try:
        yield
    finally:
        _LIMIT.reset(before)


@dataclass(frozen=True)
class Cost:
    """Bytes of one kernel: for each replica, and for each sample of a replica.

    Args:
        together: a replica up to this size gains on a CPU from others at its side.
        alone: bytes of one replica's samples that a CPU takes best at once.
    """

    replica: int
    sample: int
    together: int = CACHE
    alone: int = ONE_REPLICA


@dataclass(frozen=True)
class Chunks:
    """How work is cut.

    Args:
        memory: the budget of temporary memory in bytes.
        held: bytes that one chunk may hold by its `Cost`.
        cached: whether chunks are to fit the cache as well.
    """

    memory: int
    held: int
    cached: bool

    @classmethod
    def on(cls, device: torch.device, memory: int | None) -> Chunks:
        """The plan for a device, within `memory` bytes (None: a default)."""
        if memory is not None and memory < 1 << 20:
            raise InvalidInputError(
                f"memory is a number of bytes, at least {1 << 20} (1 MiB); got {memory}."
            )
        if device.type == "cpu":
            _keep_freed_memory()
        budget = memory or DEFAULT_MEMORY
        return cls(budget, budget // TEMPORARIES, device.type == "cpu")

    def sizes(self, replicas: int, samples: int, cost: Cost) -> tuple[int, int]:
        """Replicas and samples in one chunk.

        Raises:
            InvalidInputError: not even one sample of one replica fits into a limit.
        """
        limit = _LIMIT.get()
        held = self.held if limit is None else min(self.held, limit // TEMPORARIES)
        room = min(CACHE, held) if self.cached else held
        whole = cost.replica + samples * cost.sample
        if whole <= room and (whole <= cost.together or not self.cached):
            return min(replicas, room // max(whole, 1)), samples
        alone = min(cost.alone, held) if self.cached else held
        fitting = (alone - cost.replica) // max(cost.sample, 1)
        if limit is not None and fitting < 1:
            more = TEMPORARIES * (cost.replica + cost.sample) - limit
            raise InvalidInputError(
                f"one sample's gradient does not fit into the memory budget: {more:,} bytes more "
                "are needed. Give more memory."
            )
        return 1, max(1, min(samples, fitting))

    def cut(self, replicas: int, samples: int, cost: Cost) -> Iterator[tuple[slice, slice]]:
        """Slices of replicas and samples that together cover all of them, evenly cut."""
        r, n = (
            -(-whole // -(-whole // most))
            for whole, most in zip(
                (replicas, samples), self.sizes(replicas, samples, cost), strict=True
            )
        )
        for i in range(0, replicas, r):
            for j in range(0, samples, n):
                yield slice(i, min(i + r, replicas)), slice(j, min(j + n, samples))


@cache
def _keep_freed_memory() -> None:
    """Lets the C library keep freed memory for the next chunk, once in a process.

    glibc gives large blocks back to the system, and the next chunk then waits for fresh pages, a
    tenth of a step's time. The largest block that was freed sets what it keeps: 32 MiB at most.
    """
    torch.empty((32 << 20) - (1 << 16), dtype=torch.uint8)
