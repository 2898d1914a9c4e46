"""A worker: computes the blocks of a study that no other worker has done or claimed.

It writes one line of JSON to stdout for each block, and ends when its stdin closes, which is when
its parent ends, however it ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import xarray as xr

from sdeverify.base.devices import one_thread
from sdeverify.base.rng import Block
from sdeverify.ensembles.job import Job, run_jobs
from sdeverify.errors import SdeverifyError
from sdeverify.study.campaign import campaign_jobs
from sdeverify.study.claims import Claims
from sdeverify.study.files import explained
from sdeverify.study.request import Request
from sdeverify.study.store import Store, StoredJob

Report = Callable[[str, int], None]
"""Called with an ensemble's name and the replicas that have been done since the last call."""

_START = (
    "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); "
    "from sdeverify.study.worker import main; sys.exit(main(sys.argv[1:]))"
)
"""A worker imports from where its parent does, whatever files lie in the working folder."""


def worker_command(request: Request, number: int, workers: int) -> list[str]:
    """The command of one worker process: its request, its number and the number of workers."""
    arguments = ["\n".join(sys.path), request.encode(), str(number), str(workers)]
    return [sys.executable, "-P", "-c", _START, *arguments]


@dataclass(frozen=True)
class Computation:
    """A study that is ready to be computed: its ensembles, and where their blocks go."""

    store: Store
    jobs: dict[str, Job]
    sinks: dict[str, StoredJob]

    @staticmethod
    def of(request: Request, checked: bool = True) -> Computation:
        """Builds the study and opens its store.

        Args:
            checked: see `Store.sink`; one process of all is enough.

        Raises:
            SdeverifyError: the study or the store is refused.
        """
        where = f"{request.file}, preparing the runs"
        jobs: dict[str, Job] = explained(where, campaign_jobs, request.studies)
        if request.sde_only:
            jobs = {name: job for name, job in jobs.items() if job.side in ("path", "flow")}
        jobs = {name: job.within(request.memory_of_one) for name, job in jobs.items()}
        store = Store(request.folder)
        store.prepare()
        sinks = {name: store.sink(name, job, checked=checked) for name, job in jobs.items()}
        return Computation(store, jobs, sinks)

    def tasks(self) -> list[tuple[str, Block]]:
        """All blocks, the longest first so that no worker is left with a long one at the end."""
        every = [(name, block) for name, job in self.jobs.items() for block in job.blocks]
        cost = {name: job.replica_cost for name, job in self.jobs.items()}
        return sorted(every, key=lambda task: -cost[task[0]] * task[1].size)

    def done(self) -> dict[str, set[int]]:
        """The blocks of each ensemble that are done and whole."""
        return {name: set(sink.load()) for name, sink in self.sinks.items()}

    def claims(self, number: int = 0, workers: int = 1) -> Claims:
        """One process's claims on the tasks."""
        return Claims(self.store.path / "claims.lock", number, workers)

    def datasets(self) -> dict[str, xr.Dataset]:
        """The ensembles, whose blocks are done."""
        return run_jobs(self.jobs, self.sinks)


@dataclass
class _Told:
    """Reports the replicas of a block that have been done since the last report."""

    report: Report
    name: str
    replicas: int = 0

    def __call__(self, replicas: int) -> None:
        if replicas > self.replicas:
            self.report(self.name, replicas - self.replicas)
            self.replicas = replicas


def run_tasks(computation: Computation, claims: Claims, report: Report) -> None:
    """Computes and saves what is neither done nor claimed.

    Raises:
        SdeverifyError: a block fails; those before it are kept.
    """
    finished = computation.done()
    for index, (name, block) in enumerate(computation.tasks()):
        if block.index in finished[name]:
            continue
        key = f"{name}/{block.index}"
        with claims.claim(index, key) as mine:
            job, sink = computation.jobs[name], computation.sinks[name]
            if not mine or sink.has(block.index):
                continue
            told = _Told(report, name)
            result = explained(f"{name}, block {block.index}", job.compute, block, False, told)
            sink.save(block.index, result)
        told(block.size)


def main(arguments: list[str]) -> int:
    """One worker process: its work, its number and the number of workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    request = Request.decode(arguments[0])
    number, workers = int(arguments[1]), int(arguments[2])
    with _channel() as lines:

        def tell(**message: Any) -> None:
            lines.write(json.dumps(message) + "\n")
            lines.flush()

        try:
            with one_thread():
                computation = Computation.of(request, checked=False)
                claims = computation.claims(number, workers)
                run_tasks(computation, claims, lambda name, n: tell(name=name, replicas=n))
        except SdeverifyError as error:
            tell(error=str(error))
            return 1
    return 0


@contextmanager
def _channel() -> Iterator[IO[str]]:
    """The pipe to the parent; what a study prints goes to the log instead."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as lines:
        os.dup2(2, 1)
        yield lines


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(3)
