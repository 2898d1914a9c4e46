"""A seed means the same numbers, whatever has become of the code; an old store opens."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded import record

import sdeverify as sv

RECORDED = json.loads(record.NUMBERS.read_text(encoding="utf-8"))
ROUNDING = {"digits, single precision": 2e-4, "verify": 2e-4}
"""Of each number's size: machines differ in the last bits, and single precision has few of them."""


def assert_recorded(name: str, values: dict[str, Any]) -> None:
    found = record.plain(values)
    assert found.keys() == RECORDED[name].keys()
    for key, before in RECORDED[name].items():
        assert_close(np.asarray(found[key]), np.asarray(before), ROUNDING.get(name, 1e-9))


def assert_close(found: np.ndarray, before: np.ndarray, tolerance: float) -> None:
    size = np.nanmax(np.abs(before))
    np.testing.assert_allclose(found, before, rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize("name", record.ROUTES)
def test_a_seed_gives_the_numbers_that_it_gave(name: str) -> None:
    assert_recorded(name, record.ROUTES[name]())


def test_a_stored_campaign_gives_the_numbers_that_it_gave(tmp_path: Path) -> None:
    assert_recorded("store", record.through_a_store(tmp_path))


def old_store(tmp_path: Path) -> sv.Store:
    with tarfile.open(record.STORE) as archive:
        archive.extractall(tmp_path, filter="data")
    return sv.Store(tmp_path / "store")


def test_the_results_in_a_store_of_the_first_layout_are_read(tmp_path: Path) -> None:
    tree = old_store(tmp_path).read_tree()
    assert_recorded("store of layout 1", record.errors_of(tree))


def test_a_store_of_the_first_layout_is_not_continued(tmp_path: Path) -> None:
    store = old_store(tmp_path)
    with pytest.raises(sv.StoreError, match="layout 1.*reads and writes 2"):
        sv.run(record.campaign(), sinks=store.sink)


def test_a_stored_campaign_opens_and_is_not_computed_again(tmp_path: Path) -> None:
    first = record.through_a_store(tmp_path)
    computed = []

    class Watched:
        def __init__(self, sink: Any) -> None:
            self.sink = sink

        def load(self) -> Any:
            return self.sink.load()

        def check(self, job: Any) -> None:
            self.sink.check(job)

        def save(self, block: int, result: Any) -> None:
            computed.append(block)

    store = sv.Store(tmp_path)
    tree = sv.run(record.campaign(), sinks=lambda name, job: Watched(store.sink(name, job)))
    assert computed == []
    assert record.plain(record.errors_of(tree)) == record.plain(first)
