"""Blocks as tasks of a `concurrent.futures.Executor`; one driver saves what comes back.

What a block gives depends on nothing but the block, so that no result depends on the executor.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import torch
import xarray as xr

from sdeverify.analysis.datasets.moments import BlockResult
from sdeverify.base.devices import one_thread
from sdeverify.base.rng import Block
from sdeverify.ensembles.job import Job, Sink, ignored
from sdeverify.ensembles.progress import Progress
from sdeverify.errors import SdeverifyError
from sdeverify.study.files import explained

MOST_FAILURES = 3
"""Blocks that may fail before the others are given up."""

_KEPT = "The blocks that are done are kept; the same command goes on from there"
_BUSY = threading.Lock()


class Task(NamedTuple):
    """One block of the ensemble of that name."""

    name: str
    block: Block

    def __str__(self) -> str:
        return f"{self.name}, block {self.block.index}"


Compute = Callable[[Task], BlockResult]
Outcome = tuple[Task, BlockResult | BaseException]


class Pool(Protocol):
    """Where tasks are computed."""

    @property
    def ahead(self) -> int:
        """How many tasks are handed in before the first of them is back."""

    def opened(self, alone: bool) -> AbstractContextManager[Executor]:
        """An executor; `alone` for tasks that are handed in one by one.

        Raises:
            SdeverifyError: it broke, and there is no other.
        """

    def reason(self) -> str:
        """Why the executor broke."""


@dataclass(frozen=True)
class Local:
    """Computes the blocks of ensembles of this process.

    Args:
        within: told an ensemble's name and how much of the block's replicas is done, between steps.
    """

    jobs: Mapping[str, Job]
    within: Callable[[str, int], object] | None = None

    def __call__(self, task: Task) -> BlockResult:
        done = ignored if self.within is None else partial(self.within, task.name)
        job = self.jobs[task.name]
        result: BlockResult = explained(str(task), job.compute, task.block, False, done)
        return result


class Source(Hashable, Protocol):
    """What ensembles are built from in another process; it can be hashed and pickled."""

    @property
    def jobs(self) -> Mapping[str, Job]:
        """The ensembles by name."""


@dataclass(frozen=True)
class Remote:
    """Computes blocks in whatever process it is sent to, which builds the ensembles once.

    A process computes one block at a time, on one thread, however many threads call.

    Args:
        source: what the ensembles are built from.
        dtype: torch's default.
    """

    source: Source
    dtype: torch.dtype

    def __call__(self, task: Task) -> BlockResult:
        with _BUSY, one_thread():
            before = torch.get_default_dtype()
            torch.set_default_dtype(self.dtype)
            try:
                return _local(self.source)(task)
            finally:
                torch.set_default_dtype(before)


@lru_cache(maxsize=2)
def _local(source: Source) -> Local:
    return Local(source.jobs)


class InProcess(Executor):
    """Computes each task where it is handed in."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class Lent:
    """The caller's executor, which the caller opens and closes."""

    executor: Executor
    ahead: int = 1024

    def opened(self, alone: bool) -> AbstractContextManager[Executor]:
        if alone:
            raise SdeverifyError(
                f"the executor {type(self.executor).__name__} broke: a process that computed "
                f"blocks ended. {_KEPT}, with a new executor."
            )
        return nullcontext(self.executor)

    def reason(self) -> str:
        return ""


HERE = Lent(InProcess(), ahead=1)


class Tally:
    """Counts the replicas that are done, and shows how far each ensemble is."""

    def __init__(self, jobs: Mapping[str, Job], progress: Progress) -> None:
        self._totals = {name: job.replicas for name, job in jobs.items()}
        self._done = dict.fromkeys(jobs, 0)
        self._progress = progress

    def add(self, name: str, replicas: int) -> None:
        """So many more are done."""
        self._done[name] += replicas
        self.within(name, 0)

    def within(self, name: str, replicas: int) -> None:
        """So many would be, if the block that is under way were cut here."""
        self._progress(name, self._done[name] + replicas, self._totals[name])


def run_blocks(
    jobs: Mapping[str, Job],
    sinks: Mapping[str, Sink],
    compute: Compute,
    pool: Pool,
    tally: Tally,
) -> dict[str, xr.Dataset]:
    """Computes the blocks that are missing, saves each as it comes, and gives the ensembles.

    Args:
        sinks: where the blocks of an ensemble go, by its name.
        compute: what the pool's executor calls.

    Raises:
        SdeverifyError: blocks fail; the others are computed and saved, unless MOST_FAILURES fail.
    """
    results: dict[str, dict[int, BlockResult]] = {}
    for name, job in jobs.items():
        results[name] = {}
        if name in sinks:
            sinks[name].check(job)
            results[name] = sinks[name].load()
        tally.add(name, sum(block.size for block in job.blocks if block.index in results[name]))
    failures: dict[Task, BaseException] = {}
    with closing(_outcomes(_missing(jobs, results), compute, pool)) as outcomes:
        for task, outcome in outcomes:
            if isinstance(outcome, BaseException):
                failures[task] = outcome
                if len(failures) == MOST_FAILURES:
                    break
                continue
            if task.name in sinks:
                sinks[task.name].save(task.block.index, outcome)
            results[task.name][task.block.index] = outcome
            tally.add(task.name, task.block.size)
    if failures:
        raise SdeverifyError(_told(failures)) from next(iter(failures.values()))
    return {name: job.dataset(results[name]) for name, job in jobs.items()}


def _missing(
    jobs: Mapping[str, Job], results: Mapping[str, Mapping[int, BlockResult]]
) -> list[Task]:
    """The blocks to compute, the longest first so that none is left alone at the end."""
    tasks = [
        Task(name, block)
        for name, job in jobs.items()
        for block in job.blocks
        if block.index not in results[name]
    ]
    return sorted(tasks, key=lambda task: -jobs[task.name].replica_cost * task.block.size)


def _told(failures: Mapping[Task, BaseException]) -> str:
    """The failures in one line; blocks that fail alike together."""
    alike: dict[str, list[str]] = {}
    for task, error in failures.items():
        text = (
            str(error) if isinstance(error, SdeverifyError) else f"{type(error).__name__}: {error}"
        )
        alike.setdefault(text.removeprefix(f"{task}: "), []).append(str(task))
    return "; ".join(f"{', '.join(tasks)}: {reason}" for reason, tasks in alike.items())


def _outcomes(tasks: list[Task], compute: Compute, pool: Pool) -> Generator[Outcome, None, None]:
    """Each task with its result or its failure, as they come.

    Where the executor breaks, the tasks that were under way run again in a fresh one, one by one:
    the one that breaks that too has failed.
    """
    waiting, suspects = deque(tasks), deque[Task]()
    while waiting or suspects:
        alone = bool(suspects)
        queue, ahead = (suspects, 1) if alone else (waiting, pool.ahead)
        with pool.opened(alone) as executor:
            lost = yield from _round(queue, compute, executor, ahead)
            if alone:
                reason = f"{pool.reason()}, twice. {_KEPT}."
                yield from ((task, SdeverifyError(reason)) for task in lost)
            else:
                suspects.extend(lost)


def _round(
    queue: deque[Task], compute: Compute, executor: Executor, ahead: int
) -> Generator[Outcome, None, list[Task]]:
    """The tasks of the queue; gives those that were under way when the executor broke."""
    running: dict[Future[BlockResult], Task] = {}
    lost: list[Task] = []
    try:
        while running or (queue and not lost):
            while queue and not lost and len(running) < ahead:
                task = queue.popleft()
                try:
                    running[executor.submit(compute, task)] = task
                except BrokenExecutor:
                    lost.append(task)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, error = running.pop(future), future.exception()
                if isinstance(error, BrokenExecutor):
                    lost.append(task)
                else:
                    yield task, future.result() if error is None else error
    finally:
        for future in running:
            future.cancel()
    return lost
