from __future__ import annotations

import torch

from sdeverify.rng import Block, Streams, blocks_of


def test_a_block_draws_the_same_numbers_alone_and_beside_others() -> None:
    alone = Streams(3, "brownian", [Block(1, 4)])
    beside = Streams(3, "brownian", [Block(0, 2), Block(1, 4), Block(2, 1)])
    for _ in range(3):
        assert torch.equal(alone.normal(5), beside.normal(5)[2:6])


def test_roles_seeds_and_blocks_have_different_streams() -> None:
    base = Streams(3, "brownian", [Block(0, 4)]).normal(5)
    for other in (
        Streams(4, "brownian", [Block(0, 4)]),
        Streams(3, "gradients", [Block(0, 4)]),
        Streams(3, "brownian", [Block(1, 4)]),
        Streams(3, "brownian", [Block(0, 4)]).at(0),
    ):
        assert not torch.equal(base, other.normal(5))


def test_blocks_cover_all_replicas() -> None:
    assert [b.size for b in blocks_of(10, 4)] == [4, 4, 2]
    assert [b.index for b in blocks_of(10, 4)] == [0, 1, 2]
