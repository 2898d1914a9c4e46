"""How far a run is: one callback for all that computes ensembles."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from sdeverify.errors import InvalidInputError

PATIENCE = 2.0
"""Seconds that an ensemble runs in silence, where nobody asked for progress."""


class Progress(Protocol):
    """Called with an ensemble's name, its replicas that are done, and all of them.

    The first call of an ensemble comes before its work, with what an earlier run left; the others
    come between steps, a replica that has made half of its steps counting as half, and after its
    blocks.
    """

    def __call__(self, name: str, done: int, total: int, /) -> object: ...


def silent(name: str, done: int, total: int) -> None:
    """Shows nothing."""


class Line:
    """One line an ensemble on stderr with the time that is left, written over on a terminal.

    Where stderr is no terminal a line is written now and then.

    Args:
        patience: seconds before an ensemble's first line; one that is done before has none.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self._patience = patience
        self._name: str | None = None
        self._began = self._due = 0.0
        self._first = 0

    def __call__(self, name: str, done: int, total: int) -> None:
        """Writes the line where it is due."""
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if name != self._name:
            self._name, self._began, self._first = name, now, done
            self._due = now + self._patience
        shown = self._due > self._began + self._patience
        last = done >= total and (shown or now >= self._due)
        if not last and now < self._due:
            return
        self._due = max(now, self._began + self._patience) + (0.2 if terminal else 20.0)
        start, end = ("\r", "\n" if last else "\033[K") if terminal else ("", "\n")
        text = f"{name}: {done:,} of {total:,}{'' if last else self._left(now, done, total)}"
        print(f"{start}{text}", end=end, file=sys.stderr, flush=True)

    def _left(self, now: float, done: int, total: int) -> str:
        if done <= self._first:
            return ""
        seconds = (now - self._began) * (total - done) / (done - self._first)
        return f", {duration(seconds)} left"


def duration(seconds: float) -> str:
    """A time in words: 12 s, 3.5 minutes, 32 hours, 170 days."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            count = seconds / length
            return f"{count:,.0f} {unit}" if count >= 10 else f"{count:.2g} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def progress_of(wanted: Any) -> Progress:
    """The callback for an argument `progress`.

    A function; True to print; False for none; None to print on a terminal, for runs that take
    more than `PATIENCE` seconds.

    Raises:
        InvalidInputError: none of these.
    """
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        return silent
    if wanted is None:
        return Line(PATIENCE)
    if wanted is True:
        return Line()
    if not callable(wanted):
        raise InvalidInputError(
            f"progress is True, which prints, or a function of (name, done, total); got {wanted!r}."
        )
    found: Progress = wanted
    return found
