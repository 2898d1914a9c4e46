from __future__ import annotations

import math

import torch
from precision import box_muller_moments

from sdeverify.base.rng import Block, Blocks, Streams


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
    assert [b.size for b in Blocks(10, 4)] == [4, 4, 2]
    assert [b.index for b in Blocks(10, 4)] == [0, 1, 2]


def test_single_precision_normals_have_the_moments_that_are_stated() -> None:
    """The law of the upcast normals, exactly: what it changes is far below any weak error here."""
    moments = box_muller_moments(24)
    assert 5.4e-7 < 1 - moments[2] < 5.6e-7
    assert 0 < 1 - moments[4] / 3 < 1e-5
    assert 0 < 1 - moments[6] / 15 < 6e-5
    lowest = 1 - box_muller_moments(12)[2]
    assert lowest > 1e-3


def test_single_precision_normals_end_where_24_bits_do() -> None:
    single = Streams(0, "x", [Block(0, 500)], dtype=torch.float32)
    end = math.sqrt(2 * 24 * math.log(2))
    worst, total, count = 0.0, torch.zeros(3, dtype=torch.float64), 0
    for _ in range(5):
        y = single.normal(20_000).double()
        worst = max(worst, float(y.abs().max()))
        total += torch.stack([y.sum(), y.square().sum(), y.square().square().sum()])
        count += y.numel()
    assert 5.0 < worst <= end * (1 + 1e-6)
    errors = (total / count - torch.tensor([0.0, 1.0, 3.0])) / torch.tensor([1, 2**0.5, 96**0.5])
    assert float(errors.abs().max()) < 4 / math.sqrt(count)
