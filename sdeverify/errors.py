"""The exceptions of sdeverify.

Every message says what came, what was wanted and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class SdeverifyError(Exception):
    """Base class of everything that sdeverify raises on purpose.

    Example:
        >>> issubclass(sv.InvalidInputError, sv.SdeverifyError)
        True
    """


class InvalidInputError(SdeverifyError, ValueError):
    """An argument has the wrong value, shape or type.

    Example:
        >>> try:
        ...     sv.SvagLevels([4, 2, 1])
        ... except sv.InvalidInputError as error:
        ...     print(error)
        the ladder's levels must go from coarse to fine; got [4.0, 2.0, 1.0].
    """


class UnsupportedError(SdeverifyError, ValueError):
    """A model, loss, optimizer option or noise that the theory or this package does not cover.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.ShuffledEpochs(2))
        >>> try:
        ...     sv.derive(sv.SGD(learning_rate=0.1), oracle)
        ... except sv.UnsupportedError as error:
        ...     print(error)
        no SDE is derived from ShuffledEpochs: ...
    """


class StoreError(SdeverifyError, RuntimeError):
    """A result store cannot be used: other settings, not a store, or not writable.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     try:
        ...         sv.Store(file.name).prepare()
        ...     except sv.StoreError as error:
        ...         print(str(error).removeprefix(file.name))
        cannot be used as a store: ...
    """


class InconclusiveError(SdeverifyError):
    """The data do not carry the statistic that was asked for.

    Attributes:
        estimate: what could be computed all the same (a dataset, a number or None).

    Example:
        >>> error = sv.InconclusiveError("the interval holds 0.5 and 1", estimate=0.8)
        >>> error.estimate
        0.8
    """

    def __init__(self, message: str, estimate: Any = None) -> None:
        super().__init__(message)
        self.estimate = estimate


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question for a message, with a space before; else nothing."""
    near = get_close_matches(name, list(known), 1)
    return f" Did you mean '{near[0]}'?" if near else ""
