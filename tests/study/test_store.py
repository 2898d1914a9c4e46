"""The store: blocks as they come, completion markers, settings, results."""

from __future__ import annotations

import json
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from sdeverify.analysis.datasets.moments import BlockResult
from sdeverify.base.rng import Block, Blocks
from sdeverify.ensembles.job import Job, run_job
from sdeverify.ensembles.observables import Observable
from sdeverify.errors import StoreError
from sdeverify.study.store import Store

OBSERVABLES = [Observable(name, lambda state: torch.zeros(1)) for name in ("loss", "θ[0]")]


class Calls:
    """A trajectory that counts the blocks it computes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.blocks: list[int] = []

    def __call__(self, block: Block, *_: Any) -> Iterator[np.ndarray[Any, np.dtype[np.float64]]]:
        whole = np.random.default_rng(block.index).normal(size=(block.size, *self.shape))
        if block.wanted == block.size:
            self.blocks.append(block.index)
        yield from np.moveaxis(whole[block.first : block.last], -2, 0)


def ensemble(crossed: bool = False, **attrs: Any) -> tuple[Job, Calls]:
    calls = Calls((2, 3, 2) if crossed else (3, 2))
    settings = {
        "name": "SGD",
        "seed": 1,
        "learning_rate": 0.1,
        "time_per_level1_step": 0.1,
        "versions": json.dumps({"torch": "1"}),
    }
    job = Job(
        side="path" if crossed else "chain",
        trajectory=calls,
        steps=(0.0, 1.0, 2.5),
        start_step=5.0,
        observables=OBSERVABLES,
        blocks=Blocks(10, 4),
        substeps=(2, 4) if crossed else (),
        attrs={**settings, **attrs},
    )
    return job, calls


def computed(job: Job, block: int) -> BlockResult:
    return job.compute(job.blocks[block], False)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The operating system refuses to write larger files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("crossed", [False, True])
def test_a_stored_ensemble_is_the_computed_one_to_the_last_bit(
    tmp_path: Path, crossed: bool, keep: bool
) -> None:
    job, calls = ensemble(crossed)
    directly = run_job(job, keep_replicas=keep)
    first = run_job(job, Store(tmp_path).sink("a/chain_0", job, keep), keep)
    calls.blocks.clear()
    second = run_job(job, Store(tmp_path).sink("a/chain_0", job, keep), keep)
    assert calls.blocks == []
    xr.testing.assert_identical(first, directly)
    xr.testing.assert_identical(second, directly)
    assert ("replicas" in second) == keep


def test_a_stopped_ensemble_goes_on_with_the_blocks_that_are_missing(tmp_path: Path) -> None:
    job, calls = ensemble()
    store = Store(tmp_path)
    assert len(store.sink("chain", job).done()) == 0
    store.sink("chain", job).save(1, computed(job, 1))
    assert len(store.sink("chain", job).done()) == 1
    calls.blocks.clear()
    run_job(job, store.sink("chain", job))
    assert calls.blocks == [0, 2]
    assert len(store.sink("chain", job).done()) == 3


def _without_marker(group: Path) -> None:
    (group / "done" / "c.1").unlink()


def _with_numbers_of_another_block(group: Path) -> None:
    shutil.copy(group / "block_mean" / "c.0.0.0", group / "block_mean" / "c.1.0.0")


def _with_a_cut_off_file(group: Path) -> None:
    file = group / "block_comoment" / "c.1.0.0"
    file.write_bytes(file.read_bytes()[:7])


def _with_a_lost_file(group: Path) -> None:
    (group / "block_count" / "c.1").unlink()


def _with_a_cut_off_marker(group: Path) -> None:
    (group / "done" / "c.1").write_bytes(b"")


def _with_a_whole_other_block(group: Path) -> None:
    for name, chunk in (("block_count", ""), ("block_mean", ".0.0"), ("block_comoment", ".0.0")):
        shutil.copy(group / name / f"c.0{chunk}", group / name / f"c.1{chunk}")
    shutil.copy(group / "done" / "c.0", group / "done" / "c.1")


@pytest.mark.parametrize(
    "damage",
    [
        _with_a_cut_off_marker,
        _with_a_whole_other_block,
        _without_marker,
        _with_numbers_of_another_block,
        _with_a_cut_off_file,
        _with_a_lost_file,
    ],
)
def test_a_half_written_block_is_computed_again(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    job, calls = ensemble()
    whole = run_job(job, Store(tmp_path).sink("chain", job))
    damage(tmp_path / "jobs" / "chain.zarr")
    sink = Store(tmp_path).sink("chain", job)
    assert [sink.has(block) for block in range(3)] == [True, False, True]
    calls.blocks.clear()
    again = run_job(job, sink)
    assert calls.blocks == [1]
    xr.testing.assert_identical(again, whole)
    assert sorted(sink.load()) == [0, 1, 2]


def test_a_block_of_another_seeds_store_does_not_count(tmp_path: Path) -> None:
    job, _ = ensemble()
    other, _ = ensemble(seed=2)
    for folder, one in (("a", job), ("b", other)):
        run_job(one, Store(tmp_path / folder).sink("chain", one))
    for file in (tmp_path / "b" / "jobs" / "chain.zarr").glob("*/c.1*"):
        shutil.copy(file, tmp_path / "a" / "jobs" / "chain.zarr" / file.parent.name / file.name)
    assert sorted(Store(tmp_path / "a").sink("chain", job).load()) == [0, 2]


def test_a_block_that_is_smaller_than_its_place_does_not_count(tmp_path: Path) -> None:
    small, _ = ensemble(replicas=10)
    late = Store(tmp_path).sink("chain", small)
    larger = replace(ensemble(replicas=18)[0], blocks=Blocks(18, 4))
    sink = Store(tmp_path).sink("chain", larger)
    late.save(2, computed(small, 2))  # two replicas, written after the growth to four
    assert sorted(sink.load()) == []
    assert [sink.has(block) for block in range(5)] == [False] * 5


@pytest.mark.parametrize("text", ["", "{", "[]"])
@pytest.mark.parametrize("array", ["", "done", "block_mean", "probe"])
def test_a_damaged_description_is_named(tmp_path: Path, array: str, text: str) -> None:
    job, _ = ensemble()
    run_job(job, Store(tmp_path).sink("chain", job))
    (tmp_path / "jobs" / "chain.zarr" / array / "zarr.json").write_text(text)
    with pytest.raises(StoreError, match=r"chain\.zarr.* cannot be read"):
        Store(tmp_path).sink("chain", job)


def test_a_damaged_probe_is_named(tmp_path: Path) -> None:
    job, _ = ensemble()
    run_job(job, Store(tmp_path).sink("chain", job))
    (chunk,) = (tmp_path / "jobs" / "chain.zarr" / "probe").glob("c.*")
    chunk.write_bytes(b"no")
    with pytest.raises(StoreError, match="its probe is damaged"):
        Store(tmp_path).sink("chain", job)


def test_what_killed_runs_left_half_made_is_removed_by_the_next(tmp_path: Path) -> None:
    job, _ = ensemble()
    run_job(job, Store(tmp_path).sink("a/chain", job))
    left = [tmp_path / ".results.zarr-0123456789ab", tmp_path / "jobs/a/.chain.zarr-0123456789ab"]
    for folder in left:
        folder.mkdir()
    left.append(tmp_path / "jobs/a/chain.zarr/done" / f"c.{'0' * 32}.partial")
    left[-1].write_text("")
    own = tmp_path / ".mine-0123456789ab"
    own.mkdir()
    with Store(tmp_path).locked():
        assert not any(place.exists() for place in left)
    assert own.exists()
    assert sorted(Store(tmp_path).sink("a/chain", job).load()) == [0, 1, 2]


def test_results_are_read_whole_while_they_are_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_tree(results(0.0))
    ended = threading.Event()

    def write() -> None:
        for value in range(1, 8):
            store.write_tree(results(float(value)))
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    values = []
    while not ended.is_set() or not values:
        read = Store(tmp_path).read_tree()
        values.append(float(read["sgd/order"]["order"][0]))
        xr.testing.assert_identical(read, results(values[-1]))
    writer.join()
    assert values == sorted(values)


def test_the_marker_is_written_after_the_numbers(tmp_path: Path) -> None:
    job, _ = ensemble()
    sink = Store(tmp_path).sink("chain", job)
    sink.save(0, computed(job, 0))
    group = tmp_path / "jobs" / "chain.zarr"
    written = {n: (group / n).glob("c.0*") for n in ("block_count", "block_mean", "block_comoment")}
    numbers = [file.stat().st_mtime_ns for files in written.values() for file in files]
    assert len(numbers) == 3
    assert max(numbers) <= (group / "done" / "c.0").stat().st_mtime_ns


def test_other_settings_are_refused_with_what_differs(tmp_path: Path) -> None:
    job, _ = ensemble()
    Store(tmp_path).sink("chain", job)
    other, _ = ensemble(learning_rate=0.2)
    with pytest.raises(StoreError, match="learning_rate: 0.1 there, 0.2 now") as refusal:
        Store(tmp_path).sink("chain", other)
    text = str(refusal.value)
    assert "seed" not in text
    assert "another folder" in text
    assert str(tmp_path / "jobs" / "chain.zarr") in text


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": (0.0, 1.0, 2.0)}, "steps"),
        ({"observables": [OBSERVABLES[0], Observable("norm", lambda s: s)]}, "observables"),
        ({"blocks": Blocks(12, 3)}, "block_sizes"),
        ({"blocks": Blocks(8, 4)}, "block_sizes"),
        ({"substeps": (2,)}, "substeps"),
    ],
)
def test_all_that_the_numbers_follow_from_is_compared(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    job, _ = ensemble()
    Store(tmp_path).sink("chain", job)
    with pytest.raises(StoreError, match=f"  {named}: "):
        Store(tmp_path).sink("chain", replace(job, **change))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("crossed", [False, True])
def test_more_replicas_go_on_from_the_blocks_that_are_there(
    tmp_path: Path, crossed: bool, keep: bool
) -> None:
    small, _ = ensemble(crossed, replicas=10)
    run_job(small, Store(tmp_path).sink("chain", small, keep), keep)
    larger, calls = ensemble(crossed, replicas=18)
    larger = replace(larger, blocks=Blocks(18, 4))
    found = run_job(larger, Store(tmp_path).sink("chain", larger, keep), keep)
    assert calls.blocks == [2, 3, 4]  # the third block had two replicas only
    xr.testing.assert_identical(found, run_job(larger, keep_replicas=keep))
    with xr.open_zarr(tmp_path / "jobs/chain.zarr", consolidated=False, chunks=None) as read:
        assert read["block"].values.tolist() == [0, 1, 2, 3, 4]
        assert read["block_count"].values.tolist() == [4, 4, 4, 4, 2]
    with pytest.raises(StoreError, match="replicas: 18 there, 10 now"):
        Store(tmp_path).sink("chain", small, keep)


def test_a_store_whose_growth_was_cut_off_serves_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, _ = ensemble(replicas=10)
    run_job(small, Store(tmp_path).sink("chain", small))
    larger = replace(ensemble(replicas=18)[0], blocks=Blocks(18, 4))

    def killed(*_: Any) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(zarr.core.attributes.Attributes, "__setitem__", killed)
        with pytest.raises(StoreError, match="could not be made larger"):
            Store(tmp_path).sink("chain", larger)
    assert Store(tmp_path).sink("chain", small).done() == {0, 1}
    assert Store(tmp_path).sink("chain", larger).done() == {0, 1}


def test_other_versions_go_on_where_the_earlier_ones_were(tmp_path: Path) -> None:
    job, _ = ensemble()
    Store(tmp_path).sink("chain", job).save(0, computed(job, 0))
    newer, _ = ensemble(versions=json.dumps({"torch": "2"}))
    assert len(Store(tmp_path).sink("chain", newer).done()) == 1


def test_replicas_that_were_not_kept_cannot_be_asked_for_later(tmp_path: Path) -> None:
    job, _ = ensemble()
    Store(tmp_path).sink("chain", job)
    with pytest.raises(StoreError, match="keep_replicas: False there, True now"):
        Store(tmp_path).sink("chain", job, keep_replicas=True)


def test_xarray_reads_an_ensemble_with_its_axes(tmp_path: Path) -> None:
    job, _ = ensemble(crossed=True)
    whole = run_job(job, Store(tmp_path).sink("sgd/path_0", job))
    place = tmp_path / "jobs" / "sgd" / "path_0.zarr"
    with xr.open_zarr(place, consolidated=False, chunks=None) as found:
        read = found.load()
    assert list(read["observable"].values) == ["loss", "θ[0]"]
    np.testing.assert_array_equal(read["step"], [5.0, 6.0, 7.5])
    np.testing.assert_array_equal(read["time"], whole["time"])
    assert "time" in read.coords
    np.testing.assert_array_equal(read["substeps_bis"], [2, 4])
    assert read["block_comoment"].dims == whole["block_comoment"].dims
    for name in ("block_count", "block_mean", "block_comoment"):
        np.testing.assert_array_equal(read[name], whole[name])


def test_writers_that_start_together_share_one_ensemble(tmp_path: Path) -> None:
    job, _ = ensemble()
    job = replace(job, blocks=Blocks(32, 4))
    whole = run_job(job)
    barrier, failures = threading.Barrier(8), []

    def write(block: int) -> None:
        try:
            barrier.wait(10)
            sink = Store(tmp_path).sink("sgd/chain", job)
            sink.save(block, computed(job, block))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(block,)) for block in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    sink = Store(tmp_path).sink("sgd/chain", job)
    assert sink.done() == set(range(8))
    xr.testing.assert_identical(job.dataset(sink.load()), whole)
    assert [p.name for p in (tmp_path / "jobs" / "sgd").iterdir()] == ["chain.zarr"]


def test_a_place_that_cannot_be_written_to_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    job, _ = ensemble()
    with pytest.raises(StoreError, match=r"cannot be used as a store: Not a dir.*another folder"):
        Store(tmp_path / "file" / "results").sink("chain", job)


def test_too_little_space_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    job, _ = ensemble()
    with pytest.raises(StoreError, match=r"10 are free. Make room"):
        Store(tmp_path).sink("chain", job)
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_disk_that_fills_up_stops_with_what_is_kept_and_then_goes_on(tmp_path: Path) -> None:
    job, _ = ensemble()
    sink = Store(tmp_path).sink("chain", job)
    sink.save(0, computed(job, 0))
    result = computed(job, 1)
    with (
        files_of_at_most(10),
        pytest.raises(StoreError, match=r"block 1 of chain.*File too large. 1 of its 3 blocks"),
    ):
        sink.save(1, result)
    assert sink.done() == {0}
    sink.save(1, result)
    assert sorted(sink.load()) == [0, 1]


def test_a_folder_that_is_no_ensemble_is_refused(tmp_path: Path) -> None:
    job, _ = ensemble()
    place = tmp_path / "jobs" / "chain.zarr"
    place.mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be read as an ensemble"):
        Store(tmp_path).sink("chain", job)


@pytest.mark.parametrize("name", ["", "../chain", "a//b", "/etc", ".hidden", "a b", "a" * 300])
def test_a_name_that_leaves_the_store_is_refused(tmp_path: Path, name: str) -> None:
    job, _ = ensemble()
    with pytest.raises(StoreError, match="an ensemble's name"):
        Store(tmp_path).sink(name, job)


def results(value: float) -> xr.DataTree:
    order = xr.Dataset(
        {
            "order": ("observable", [value, np.nan]),
            "verdict": ("observable", np.asarray(["supported", "refuted"], dtype=object)),
        },
        coords={"observable": np.asarray(["loss", "θ[0]"], dtype=object)},
        attrs={"kind": "order", "level": 1.5, "rungs": 3},
    )
    tree = xr.DataTree.from_dict({"/sgd/order": order, "/sgd/errors": order})
    tree.attrs = {"title": "Does it hold?"}
    tree["sgd"].attrs = {"claimed_order": 1.0}
    return tree


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for value in (0.5, 1.5):
        tree = results(value)
        store.write_tree(tree)
        read = Store(tmp_path).read_tree()
        xr.testing.assert_identical(read, tree)
        assert read["sgd/order"]["verdict"].dtype == object
        assert read["sgd/order"]["observable"].dtype == object
    assert sorted(p.name for p in tmp_path.iterdir()) == ["jobs", "results.zarr"]


def test_results_that_cannot_be_written_leave_the_earlier_ones(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_tree(results(0.5))
    with files_of_at_most(10), pytest.raises(StoreError, match="could not be written"):
        store.write_tree(results(1.5))
    xr.testing.assert_identical(store.read_tree(), results(0.5))


def test_results_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no finished results; run the study"):
        Store(tmp_path).read_tree()
