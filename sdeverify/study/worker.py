"""A worker: computes the blocks of a study that no other worker has done or claimed.

`python -m sdeverify.study.worker SPEC` is one worker process. It writes one line of JSON to stdout
for each block, and ends when its stdin closes, which is when its parent ends, however it ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from sdeverify.base.devices import one_thread
from sdeverify.base.rng import Block
from sdeverify.ensembles.job import Job, replica_cost
from sdeverify.errors import SdeverifyError
from sdeverify.study.campaign import campaign_jobs
from sdeverify.study.claims import Claims
from sdeverify.study.files import Built, Request, explained
from sdeverify.study.store import Store, StoredJob

Report = Callable[[str, int], None]
"""Called with an ensemble's name and the replicas of a block that is done."""


@dataclass(frozen=True)
class Work:
    """What is to be computed, and where it goes.

    Args:
        request: the study.
        store: the store's directory.
        sde_only: leave out the discrete runs and the check of sub-sampling.
        memory: bytes that one process may hold beyond libraries and data; None for a default.
    """

    request: Request
    store: str
    sde_only: bool = False
    memory: int | None = None

    def prepare(self) -> Prepared:
        """Builds the study and opens its store.

        Raises:
            SdeverifyError: the study or the store is refused.
        """
        built = self.request.build()
        where = f"{self.request.source}, preparing the runs"
        jobs: dict[str, Job] = explained(where, campaign_jobs, built.studies)
        if self.sde_only:
            kept = ("path_", "flow_")
            jobs = {n: job for n, job in jobs.items() if n.rpartition("/")[2].startswith(kept)}
        jobs = {name: job.within(self.memory) for name, job in jobs.items()}
        store = Store(self.store)
        store.prepare()
        sinks = {name: store.sink(name, job) for name, job in jobs.items()}
        return Prepared(built, store, jobs, sinks)

    def encode(self) -> str:
        """The work as JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def decode(text: str) -> Work:
        """The inverse of `encode`."""
        values = json.loads(text)
        return Work(**{**values, "request": Request(**values["request"])})


class Prepared(NamedTuple):
    """A study that is ready to be computed."""

    built: Built
    store: Store
    jobs: dict[str, Job]
    sinks: dict[str, StoredJob]

    def tasks(self) -> list[tuple[str, Block]]:
        """All blocks, the longest first so that no worker is left with a long one at the end."""
        every = [(name, block) for name, job in self.jobs.items() for block in job.blocks]
        cost = {name: replica_cost(job) for name, job in self.jobs.items()}
        return sorted(every, key=lambda task: -cost[task[0]] * task[1].size)

    def done(self) -> dict[str, set[int]]:
        """The blocks of each ensemble that are done and whole."""
        return {name: set(sink.load()) for name, sink in self.sinks.items()}


def run_tasks(prepared: Prepared, claims: Claims, report: Report) -> None:
    """Computes and saves what is neither done nor claimed.

    Raises:
        SdeverifyError: a block fails; those before it are kept.
    """
    finished = prepared.done()
    for index, (name, block) in enumerate(prepared.tasks()):
        if block.index in finished[name]:
            continue
        key = f"{name}/{block.index}"
        with claims.claim(index, key) as mine:
            job, sink = prepared.jobs[name], prepared.sinks[name]
            if not mine or sink.has(block.index):
                continue
            result = explained(f"{name}, block {block.index}", job.compute, block, False)
            sink.save(block.index, result)
        report(name, block.size)


def main(arguments: list[str]) -> int:
    """One worker process: its work, its number and the number of workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work, number, workers = Work.decode(arguments[0]), int(arguments[1]), int(arguments[2])
    with _channel() as lines:

        def tell(**message: Any) -> None:
            lines.write(json.dumps(message) + "\n")
            lines.flush()

        try:
            with one_thread():
                prepared = work.prepare()
                claims = Claims(Path(work.store) / "claims.lock", number, workers)
                run_tasks(prepared, claims, lambda name, n: tell(name=name, replicas=n))
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
