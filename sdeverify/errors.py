"""The exceptions of sdeverify.

Every message says what came, what was wanted and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class SdeverifyError(Exception):
    """Base class of everything that sdeverify raises on purpose."""


class InvalidInputError(SdeverifyError, ValueError):
    """An argument has the wrong value, shape or type."""


class UnsupportedError(SdeverifyError, ValueError):
    """A model, loss, optimizer option or noise that the theory or this package does not cover."""


class StoreError(SdeverifyError, RuntimeError):
    """A result store cannot be used: other settings, not a store, or not writable."""


class InconclusiveError(SdeverifyError):
    """The data do not carry the statistic that was asked for.

    Attributes:
        estimate: what could be computed all the same (a dataset, a number or None).
    """

    def __init__(self, message: str, estimate: Any = None) -> None:
        super().__init__(message)
        self.estimate = estimate


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question for a message, with a space before; else nothing."""
    near = get_close_matches(name, list(known), 1)
    return f" Did you mean '{near[0]}'?" if near else ""
