"""Computing a study with several processes into a store, and assembling its results."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Any

import xarray as xr

from sdeverify.base.devices import one_thread
from sdeverify.ensembles.job import Job
from sdeverify.ensembles.progress import Progress, silent
from sdeverify.errors import SdeverifyError
from sdeverify.study.campaign import assemble
from sdeverify.study.request import Request
from sdeverify.study.store import Store
from sdeverify.study.worker import Computation, Report, run_tasks, worker_command

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
}


Shown = Callable[[Mapping[str, Job]], AbstractContextManager[Progress]]
"""What shows how far the ensembles are, for as long as the context lasts."""


def unseen(jobs: Mapping[str, Job]) -> AbstractContextManager[Progress]:
    """Shows nothing."""
    return nullcontext(silent)


def run_campaign(request: Request, shown: Shown = unseen) -> xr.DataTree:
    """Computes what is missing of a study and gives all its results, which the store keeps too.

    The numbers are the same, to the last bit, for every number of workers, and whether the run
    was stopped in between or not.

    Raises:
        SdeverifyError: the study, its parameters or the store are refused, or a block fails.
    """
    datasets = compute(request, shown)
    with one_thread():
        tree = assemble(request.campaign, request.studies, datasets, request.parameters)
    tree.attrs["command"] = request.command
    Store(request.folder).write_tree(tree)
    return tree


def compute(request: Request, shown: Shown = unseen) -> dict[str, xr.Dataset]:
    """Computes what is missing, with the request's workers, and gives the ensembles.

    Raises:
        SdeverifyError: the study or the store is refused, or a block fails.
    """
    with one_thread():
        computation = Computation.of(request)
        jobs, done = computation.jobs, computation.done()
        missing = sum(len(job.blocks) - len(done[name]) for name, job in jobs.items())
        workers = min(request.processes, missing)
        count: Counter[str] = Counter()
        with shown(jobs) as progress:

            def report(name: str, replicas: int) -> None:
                count[name] += replicas
                progress(name, count[name], jobs[name].replicas)

            for name, job in jobs.items():
                report(name, sum(b.size for b in job.blocks if b.index in done[name]))
            if workers > 1:
                run_workers(request, workers, report)
            elif missing:
                with closing(computation.claims()) as claims:
                    run_tasks(computation, claims, report)
            return computation.datasets()


def run_workers(request: Request, workers: int, report: Report) -> None:
    """Runs the work in `workers` processes, and ends them all when one fails or on Ctrl-C.

    Raises:
        SdeverifyError: a worker's failure.
    """
    messages: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
    logs = request.folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.callback(_tidy, logs)
        running = {}
        for number in range(workers):
            log = stack.enter_context((logs / f"worker-{number}.log").open("wb"))
            running[number] = _spawn(worker_command(request, number, workers), log)
            stack.callback(_end, *_listening(number, running[number], messages))
        while running:
            number, message = messages.get()
            if message is None:
                _check(number, running.pop(number).wait(), logs / f"worker-{number}.log")
            elif "error" in message:
                raise SdeverifyError(str(message["error"]))
            else:
                report(str(message["name"]), int(message["replicas"]))


def _spawn(command: list[str], log: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, **_ENVIRONMENT},
    )


def _listening(
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
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    how = f"status {status}"
    if status < 0:
        how = f"signal {signal.Signals(-status).name}"
    hint = " The machine may be short of memory: use fewer --workers." if status == -9 else ""
    last = f" Its last words: {lines[-1]}" if lines else ""
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
