"""Cutting work over replicas and samples: small enough for the cache and for the memory budget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import torch

from sdeverify.base.cutting import GRADIENTS, MIB, ONE_REPLICA, SIDE_BY_SIDE, evenly
from sdeverify.errors import InvalidInputError

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
    together: int = SIDE_BY_SIDE
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
        if memory is not None and memory < MIB:
            raise InvalidInputError(
                f"memory is a number of bytes, at least {MIB} (1 MiB); got {memory}."
            )
        if device.type == "cpu":
            _keep_freed_memory()
        budget = memory or GRADIENTS
        return cls(budget, budget // TEMPORARIES, device.type == "cpu")

    def sizes(self, replicas: int, samples: int, cost: Cost) -> tuple[int, int]:
        """Replicas and samples in one chunk.

        Raises:
            InvalidInputError: not even one sample of one replica fits into a limit.
        """
        limit = _LIMIT.get()
        held = self.held if limit is None else min(self.held, limit // TEMPORARIES)
        room = min(SIDE_BY_SIDE, held) if self.cached else held
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
        most = self.sizes(replicas, samples, cost)
        for some in evenly(replicas, most[0]):
            for part in evenly(samples, most[1]):
                yield some, part


@cache
def _keep_freed_memory() -> None:
    """Lets the C library keep freed memory for the next chunk, once in a process.

    glibc gives large blocks back to the system, and the next chunk then waits for fresh pages, a
    tenth of a step's time. The largest block that was freed sets what it keeps: 32 MiB at most.
    """
    torch.empty(32 * MIB - (1 << 16), dtype=torch.uint8)
