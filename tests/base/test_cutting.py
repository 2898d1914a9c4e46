"""Ranges are cut without gaps, evenly, and no finer than they must be."""

from __future__ import annotations

import pytest

from sdeverify.base.cutting import evenly


@pytest.mark.parametrize("total", [1, 7, 128, 1000])
@pytest.mark.parametrize("most", [0, 1, 3, 50, 128, 5000])
def test_parts_cover_the_range_and_are_as_few_and_even_as_can_be(total: int, most: int) -> None:
    parts = evenly(total, most)
    assert [i for part in parts for i in range(total)[part]] == list(range(total))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) <= max(most, 1)
    assert len(parts) == -(-total // max(lengths))
    assert len(set(lengths[:-1])) <= 1 and lengths[-1] <= lengths[0]


def test_lengths_are_multiples_where_asked_for() -> None:
    assert evenly(100, 25, 16) == [slice(0, 32), slice(32, 64), slice(64, 96), slice(96, 100)]
    assert evenly(0, 3) == []
