"""The engine: any executor gives the same bits; failures are named, and the rest is done."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import sdeverify as sv
from sdeverify.base.rng import Block, Blocks
from sdeverify.ensembles.job import Job
from sdeverify.ensembles.progress import silent
from sdeverify.errors import SdeverifyError, StoreError
from sdeverify.study.campaign import run
from sdeverify.study.engine import HERE, Lent, Local, Tally, run_blocks
from sdeverify.study.store import Store
from sdeverify.study.study import Study
from sdeverify.testing.faults import correct_studies


def toy(replicas: int = 384) -> Study:
    return replace(correct_studies()["sgd"], ladder=sv.SvagLevels([1, 2]), replicas=replicas)


def ensemble(fails: Mapping[int, str], calls: list[int]) -> Job:
    """Four blocks, some of which fail with the text given."""

    def trajectory(block: Block, *_: Any) -> Iterator[np.ndarray[Any, np.dtype[np.float64]]]:
        calls.append(block.index)
        if block.index in fails:
            raise ValueError(fails[block.index])
        yield np.random.default_rng(block.index).normal(size=(block.size, 1))

    attrs = {"name": "SGD", "seed": 1, "time_per_level1_step": 0.1}
    observables = [sv.Observable("loss", lambda state: state.theta[:, 0])]
    return Job("chain", trajectory, (1.0,), 0.0, observables, Blocks(16, 4), attrs=attrs)


def unseen(jobs: Mapping[str, Job]) -> Tally:
    return Tally(jobs, silent)


class Saved(dict[int, Any]):
    """A sink in memory."""

    def load(self) -> dict[int, Any]:
        return dict(self)

    def save(self, block: int, result: Any) -> None:
        self[block] = result

    def check(self, job: Job) -> None:
        pass


def test_a_block_that_fails_is_named_and_the_rest_is_done() -> None:
    calls: list[int] = []
    jobs, saved = {"toy/chain": ensemble({1: "no data"}, calls)}, Saved()
    with pytest.raises(SdeverifyError, match=r"^toy/chain, block 1: ValueError: no data \("):
        run_blocks(jobs, {"toy/chain": saved}, Local(jobs), HERE, unseen(jobs))
    assert calls == [0, 1, 2, 3]
    assert sorted(saved) == [0, 2, 3]


def test_blocks_that_fail_alike_are_named_together_and_the_third_ends_the_run() -> None:
    calls: list[int] = []
    jobs = {"toy/chain": ensemble({0: "no data", 1: "no data", 2: "other", 3: "other"}, calls)}
    said = r"^toy/chain, block 0, toy/chain, block 1: ValueError: no data .*; toy/chain, block 2: V"
    with pytest.raises(SdeverifyError, match=said):
        run_blocks(jobs, {}, Local(jobs), HERE, unseen(jobs))
    assert calls == [0, 1, 2]


class Fragile(Executor):
    """Breaks once at a block, as a pool of processes does when one of them is killed."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.broken = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.broken |= args[0].block.index == self.at
        if self.broken:
            future.set_exception(BrokenExecutor("a process ended"))
        else:
            future.set_result(fn(*args, **kwargs))
        return future


class Repaired(Lent):
    """A pool that opens another executor where one broke."""

    def opened(self, alone: bool) -> Any:
        return HERE.executor if alone else super().opened(alone)


def test_the_blocks_under_way_run_again_where_the_executor_breaks() -> None:
    calls: list[int] = []
    jobs = {"toy/chain": ensemble({}, calls)}
    results = run_blocks(jobs, {}, Local(jobs), Repaired(Fragile(1), ahead=3), unseen(jobs))
    assert sorted(calls) == [0, 1, 2, 3]
    xr.testing.assert_identical(
        results["toy/chain"], run_blocks(jobs, {}, Local(jobs), HERE, unseen(jobs))["toy/chain"]
    )


def test_a_lent_executor_that_breaks_ends_the_run_with_what_to_do() -> None:
    jobs, saved = {"toy/chain": ensemble({}, [])}, Saved()
    with pytest.raises(SdeverifyError, match="executor Fragile broke.*with a new executor"):
        run_blocks(jobs, {"toy/chain": saved}, Local(jobs), Lent(Fragile(1), ahead=1), unseen(jobs))
    assert sorted(saved) == [0]


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_any_executor_gives_the_same_bits(kind: str, tmp_path: Path) -> None:
    pool: Executor = ThreadPoolExecutor(3)
    if kind == "processes":
        pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    with pool:
        results = run(toy(), tmp_path, executor=pool)
    xr.testing.assert_identical(results, run(toy()))
    assert Store(tmp_path).read_tree()["sgd"].attrs == results["sgd"].attrs


def test_a_study_that_cannot_be_pickled_is_refused_before_any_work(tmp_path: Path) -> None:
    lock = threading.Lock()
    study = replace(toy(), observables=[sv.Observable("x", lambda s: [s.theta[:, 0], lock][0])])
    with pytest.raises(sv.InvalidInputError, match="cannot be sent to the executor's processes"):
        run(study, tmp_path / "store", executor=ThreadPoolExecutor(1))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["a/b", "a" * 300, "", ".hidden"])
def test_a_study_whose_name_names_no_file_is_refused_before_any_work(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(sv.InvalidInputError, match="a study's name names files"):
        run(replace(toy(), name=name), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_lock_that_cannot_be_taken_is_a_clear_refusal(tmp_path: Path) -> None:
    (tmp_path / "jobs" / ".lock").mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be used as a store.*Name another folder"):
        run(toy(), tmp_path)


def test_what_is_no_executor_is_refused() -> None:
    with pytest.raises(sv.InvalidInputError, match="got an object of type int.*get_executor"):
        run(toy(), executor=4)  # type: ignore[arg-type]


def test_a_second_run_into_one_store_is_refused(tmp_path: Path) -> None:
    said = "another run is writing into .*name another folder"
    with Store(tmp_path).locked(), pytest.raises(StoreError, match=said):
        run(toy(), tmp_path)
    run(toy(), tmp_path)
