"""How far a run is: one callback for all that computes ensembles."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from sdeverify.errors import InvalidInputError


class Progress(Protocol):
    """Called with an ensemble's name, its replicas that are done, and all of them.

    The first call of an ensemble comes before its work, with what an earlier run left; the others
    follow its blocks.
    """

    def __call__(self, name: str, done: int, total: int, /) -> object: ...


def silent(name: str, done: int, total: int) -> None:
    """Shows nothing."""


def printed(name: str, done: int, total: int) -> None:
    """One line an ensemble on stderr, written over as it grows."""
    end = "\n" if done >= total else ""
    print(f"\r{name}: {done:,} of {total:,}", end=end, file=sys.stderr, flush=True)


def progress_of(wanted: Any) -> Progress:
    """The callback for an argument `progress`: a function, True to print, None or False for none.

    Raises:
        InvalidInputError: none of these.
    """
    if wanted is None or wanted is False:
        return silent
    if wanted is True:
        return printed
    if not callable(wanted):
        raise InvalidInputError(
            f"progress is True, which prints, or a function of (name, done, total); got {wanted!r}."
        )
    found: Progress = wanted
    return found
