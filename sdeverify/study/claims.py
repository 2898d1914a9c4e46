"""Claims: which process computes which block.

A claim is a lock on one byte of a file, which the operating system gives back when the process
ends, however it ends: there are no stale claims.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

_TAKEN = (errno.EACCES, errno.EAGAIN)


class Claims:
    """The claims of one process on the tasks of a store.

    Where the file system has no locks, the tasks are dealt out in turn.

    Args:
        path: the file that is locked, byte by byte.
        number: this process's number among `workers`.
    """

    def __init__(self, path: Path, number: int = 0, workers: int = 1) -> None:
        self.number = number
        self.workers = workers
        self._file: IO[bytes] = path.open("ab")

    def close(self) -> None:
        """Gives all claims back."""
        self._file.close()

    @contextmanager
    def claim(self, index: int, key: str) -> Iterator[bool]:
        """Whether the task is this process's to do, for as long as the context lasts."""
        byte = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big") >> 2
        try:
            if fcntl is None:
                raise OSError(errno.ENOLCK, "no locks")
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            dealt = error.errno not in _TAKEN and index % self.workers == self.number
            yield dealt
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)
