"""Computing a study with several processes into a store, and assembling its results."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import xarray as xr

from sdeverify.base.devices import one_thread
from sdeverify.ensembles.job import Job, run_job
from sdeverify.ensembles.memory import parse_memory
from sdeverify.errors import SdeverifyError
from sdeverify.study.campaign import assemble
from sdeverify.study.claims import Claims
from sdeverify.study.files import Request, find_study
from sdeverify.study.worker import Prepared, Report, Work, run_tasks

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
}


class Progress(Protocol):
    """What shows how far a run is."""

    def begin(
        self, jobs: Mapping[str, Job], done: Mapping[str, int]
    ) -> AbstractContextManager[Any]:
        """The run starts; `done` are the replicas that an earlier one left, by ensemble."""

    def advance(self, name: str, replicas: int) -> None:
        """So many replicas more of an ensemble are done."""


class Computed(NamedTuple):
    """The ensembles of a study, and what they were computed from."""

    prepared: Prepared
    datasets: dict[str, xr.Dataset]


def run_campaign(
    source: str,
    parameters: Mapping[str, Any],
    store_path: str | os.PathLike[str],
    workers: int = 1,
    device: str | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
    command: str = "",
    memory: int | str | None = None,
) -> xr.DataTree:
    """Computes what is missing of a study and gives all its results, which the store keeps too.

    The numbers are the same, to the last bit, for every number of workers, and whether the run
    was stopped in between or not.

    Args:
        source: a study file, a folder with a `study.py`, or a name under `studies`.
        parameters: of the study's `build`.
        store_path: the store's directory.
        workers: processes of one thread; 1 computes in this process.
        device, seed: the study's parameters of these names.
        progress: shows how far the run is.
        command: what to type to make the results again, for the report.
        memory: what all workers together may hold beyond libraries and data, as in `sv.solve`.

    Raises:
        SdeverifyError: the study, its parameters or the store are refused, or a block fails.
    """
    request = Request(str(find_study(source)), dict(parameters), seed, device)
    work = Work(request, os.fspath(store_path), memory=share(memory, workers))
    computed = compute(work, workers, progress)
    campaign, studies, used = computed.prepared.built
    with one_thread():
        tree = assemble(campaign, studies, computed.datasets, used)
    if command:
        tree.attrs["command"] = command
    computed.prepared.store.write_tree(tree)
    return tree


def share(memory: int | str | None, workers: int) -> int | None:
    """One worker's part of a budget."""
    return None if memory is None else parse_memory(memory) // workers


def compute(work: Work, workers: int, progress: Progress | None = None) -> Computed:
    """Computes what is missing, with `workers` processes, and gives the ensembles.

    Raises:
        SdeverifyError: the study or the store is refused, or a block fails.
    """
    with one_thread():
        prepared = work.prepare()
        done = prepared.done()
        missing = sum(len(job.blocks) - len(done[name]) for name, job in prepared.jobs.items())
        with _shown(progress, prepared, done):
            report: Report = (lambda name, n: None) if progress is None else progress.advance
            if missing and min(workers, missing) > 1:
                run_workers(work, min(workers, missing), report)
            elif missing:
                claims = Claims(Path(work.store) / "claims.lock")
                try:
                    run_tasks(prepared, claims, report)
                finally:
                    claims.close()
            datasets = {n: run_job(job, prepared.sinks[n]) for n, job in prepared.jobs.items()}
    return Computed(prepared, datasets)


def run_workers(work: Work, workers: int, report: Report) -> None:
    """Runs the work in `workers` processes, and ends them all when one fails or on Ctrl-C.

    Raises:
        SdeverifyError: a worker's failure.
    """
    messages: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
    logs = Path(work.store) / "logs"
    logs.mkdir(exist_ok=True)
    with ExitStack() as stack:
        stack.callback(_tidy, logs)
        running = {}
        for number in range(workers):
            log = stack.enter_context((logs / f"worker-{number}.log").open("wb"))
            running[number] = _spawn(work, number, workers, log)
            stack.callback(_end, *_heard(number, running[number], messages))
        while running:
            number, message = messages.get()
            if message is None:
                _check(number, running.pop(number).wait(), logs / f"worker-{number}.log")
            elif "error" in message:
                raise SdeverifyError(str(message["error"]))
            else:
                report(str(message["name"]), int(message["replicas"]))


def _spawn(work: Work, number: int, workers: int, log: Any) -> subprocess.Popen[bytes]:
    arguments = [work.encode(), str(number), str(workers)]
    return subprocess.Popen(
        [sys.executable, "-m", "sdeverify.study.worker", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, **_ENVIRONMENT},
    )


def _heard(
    number: int, process: subprocess.Popen[bytes], messages: queue.Queue[Any]
) -> tuple[subprocess.Popen[bytes], threading.Thread]:
    thread = threading.Thread(target=_listen, args=(number, process, messages), daemon=True)
    thread.start()
    return process, thread


def _listen(number: int, process: subprocess.Popen[bytes], messages: queue.Queue[Any]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            messages.put((number, loads(line)))
        except JSONDecodeError:  # cut off in the middle: the exit status tells
            continue
    messages.put((number, None))


def _check(number: int, status: int, log: Path) -> None:
    if status == 0:
        return
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    how = f"status {status}"
    if status < 0:
        how = f"signal {signal.Signals(-status).name}"
    hint = " The machine may be short of memory: use fewer --workers." if status == -9 else ""
    last = f" Its last words: {said[-1]}" if said else ""
    raise SdeverifyError(
        f"worker {number} ended with {how}.{hint}{last} The blocks that are done are kept; the "
        f"same command goes on from there. Its log is {log}."
    )


def _end(process: subprocess.Popen[bytes], listener: threading.Thread) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    listener.join()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _tidy(logs: Path) -> None:
    """Keeps only the logs that say something."""
    for log in logs.glob("worker-*.log"):
        if log.stat().st_size == 0:
            log.unlink(missing_ok=True)
    with suppress(OSError):
        logs.rmdir()


def _shown(
    progress: Progress | None, prepared: Prepared, done: Mapping[str, set[int]]
) -> AbstractContextManager[Any]:
    if progress is None:
        return nullcontext()
    replicas = {
        name: sum(block.size for block in job.blocks if block.index in done[name])
        for name, job in prepared.jobs.items()
    }
    return progress.begin(prepared.jobs, replicas)
