"""Random streams, keyed by (seed, role, block of replicas).

Replicas come in blocks of a fixed size. Each block owns a stream for each role ("batches",
"brownian", ...), so what a block draws does not depend on which other blocks are computed beside
it, on which worker, or in which order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import numpy as np
import torch

from sdeverify.base.cutting import evenly
from sdeverify.base.shapes import Tensor


@dataclass(frozen=True)
class Block:
    """A block of `size` replicas, the unit of work and of storage; `index` names its streams.

    Replicas `first` to `last` (None: to the end) are those that are wanted: numbers are drawn for
    the whole block, so that a part sees just what it sees within the whole.
    """

    index: int
    size: int
    first: int = 0
    last: int | None = None

    @property
    def wanted(self) -> int:
        """The number of replicas that are wanted."""
        return (self.size if self.last is None else self.last) - self.first

    def parts(self, most: int) -> list[Block]:
        """The block evenly cut into parts of at most `most` replicas; itself where it fits."""
        if self.size <= most:
            return [self]
        parts = evenly(self.size, most)
        return [replace(self, first=part.start, last=part.stop) for part in parts]


Draw = Callable[[tuple[int, ...], torch.Generator], Tensor]
"""(shape, generator) -> fresh numbers."""


@dataclass(frozen=True)
class Blocks(Sequence[Block]):
    """`replicas` cut into blocks of `block_size`, the last one smaller where it does not divide."""

    replicas: int
    block_size: int

    def __len__(self) -> int:
        return -(-self.replicas // self.block_size)

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...

    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        return Block(i, min(self.block_size, self.replicas - i * self.block_size))


def derived_seed(*key: object) -> int:
    """A 63-bit seed for a key of integers and strings (SHA-256 into numpy's SeedSequence)."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    words = np.random.SeedSequence(int.from_bytes(digest, "big")).generate_state(1, np.uint64)
    return int(words[0]) >> 1


@dataclass(frozen=True)
class Streams:
    """The streams of some blocks for one role; draws have the blocks' replicas first.

    Normals in single precision cost a fifth of those in double precision. Their law is discrete and
    ends at 5.77 standard deviations, their variance is 5.5e-7 below 1.
    """

    seed: int
    role: str
    blocks: Sequence[Block]
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float64

    @property
    def replicas(self) -> int:
        """The number of replicas that these streams serve."""
        return sum(block.wanted for block in self.blocks)

    @cached_property
    def _generators(self) -> list[torch.Generator]:
        return [
            torch.Generator(self.device).manual_seed(derived_seed(self.seed, self.role, b.index))
            for b in self.blocks
        ]

    def at(self, *key: int) -> Streams:
        """Fresh streams for a key of their own (an epoch, say), at their beginning."""
        role = "/".join([self.role, *map(str, key)])
        return replace(self, role=role)

    def _each(self, draw: Draw, *shape: int) -> Tensor:
        parts = [
            _wanted(draw((block.size, *shape), generator), block)
            for block, generator in zip(self.blocks, self._generators, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def normal(self, *shape: int, size: float = 1.0) -> Tensor:
        """Normals of standard deviation `size` and shape `(replica, *shape)`."""

        def draw(whole: tuple[int, ...], g: torch.Generator) -> Tensor:
            drawn = torch.empty(whole, device=self.device, dtype=self.dtype)
            return drawn.normal_(0.0, size, generator=g)

        return self._each(draw, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) of shape `(replica, *shape)`, always in double precision."""

        def draw(size: tuple[int, ...], g: torch.Generator) -> Tensor:
            return torch.rand(size, generator=g, device=self.device, dtype=torch.float64)

        return self._each(draw, *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high) of shape `(replica, *shape)`."""

        def draw(size: tuple[int, ...], g: torch.Generator) -> Tensor:
            return torch.randint(high, size, generator=g, device=self.device)

        return self._each(draw, *shape)


def _wanted(drawn: Tensor, block: Block) -> Tensor:
    """The wanted replicas' part of what was drawn for a block."""
    whole = block.last is None and block.first == 0
    return drawn if whole else drawn[block.first : block.last].clone()
