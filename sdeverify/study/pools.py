"""Executors for the command line: processes of one thread on this machine, or a cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from sdeverify.errors import InvalidInputError, SdeverifyError
from sdeverify.study.engine import Lent

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "PYTHONSAFEPATH": "1",
}
"""What worker processes start with; they import from where their parent does, whatever files lie
in the working folder."""


class Processes:
    """Processes of one thread each; those of a broken executor are replaced.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.ahead = 2 * count
        self._latest: _Spawned | None = None

    @contextmanager
    def opened(self, alone: bool) -> Iterator[Executor]:
        executor = self._latest = _Spawned(1 if alone else self.count)
        try:
            yield executor
        except BaseException:
            for process in executor.processes:
                process.terminate()
            raise
        finally:
            executor.shutdown(cancel_futures=True)

    def reason(self) -> str:
        processes = [] if self._latest is None else self._latest.processes
        codes = [process.exitcode for process in processes]
        own = [code for code in codes if code not in (None, 0, -signal.SIGTERM)] or codes
        how = ", ".join(_ending(code) for code in own if code is not None)
        hint = " The machine may be short of memory: use fewer --workers" if -9 in own else ""
        return f"the process that computed it ended{how and f' with {how}'}{hint and '.'}{hint}"


class _Spawned(ProcessPoolExecutor):
    """Fresh processes that no Ctrl-C reaches, and that end when this one does."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        super().__init__(count, mp_context=context, initializer=_follow_parent)
        self.processes: list[BaseProcess] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        with _spawning():
            before = set(multiprocessing.active_children())
            future = super().submit(fn, *args, **kwargs)
            self.processes += set(multiprocessing.active_children()) - before
        return future


@contextmanager
def _spawning() -> Iterator[None]:
    """What child processes inherit: an environment for one thread, and signals held back."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    masking = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masking else set()
    try:
        yield
    finally:
        if masking:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _follow_parent() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(3)


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"


@contextmanager
def cluster(address: str) -> Iterator[Lent]:
    """The executor of a cluster, `dask:tcp://HOST:PORT`; it runs a killed worker's blocks again.

    Raises:
        InvalidInputError: another address.
        SdeverifyError: dask is not installed, or the scheduler does not answer.
    """
    kind, _, place = address.partition(":")
    if kind != "dask" or not place:
        raise InvalidInputError(
            f"--executor takes dask:ADDRESS, dask:tcp://10.0.0.1:8786 say; got '{address}'. Any "
            "other concurrent.futures.Executor goes to sv.run(study, store, executor=...)."
        )
    try:
        from distributed import Client
    except ImportError as error:
        raise SdeverifyError(
            f"--executor dask:... needs dask.distributed ({error}): pip install 'sdeverify[dask]'."
        ) from error
    try:
        client = Client(place)
    except (OSError, ValueError) as error:
        raise SdeverifyError(
            f"no scheduler answers at {place} ({error}). Start one with `dask scheduler`, and "
            "workers with `dask worker ADDRESS --nthreads 1`."
        ) from error
    with client, client.get_executor(pure=False) as executor:
        yield Lent(executor)
