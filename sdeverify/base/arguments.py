"""Numbers as users give them: a text or a list in place of one is refused before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sdeverify.errors import InvalidInputError


def number(value: Any, what: str) -> float:
    """The value as a float.

    Raises:
        InvalidInputError: a text, though it reads as a number, or anything else that is none.
    """
    if not isinstance(value, str | bytes):
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            pass
    text = isinstance(value, str | bytes)
    got, remedy = ("the text ", "a number without quotes") if text else ("", "one number")
    raise InvalidInputError(f"{what} must be a number; got {got}{value!r}. Give {remedy}.")


def whole(value: Any, what: str) -> int:
    """The value as an int.

    Raises:
        InvalidInputError: no number, or none that is whole.
    """
    if not number(value, what).is_integer():
        raise InvalidInputError(f"{what} must be a whole number; got {value!r}. Round it.")
    return int(value)


def numbers(values: Any, what: str) -> list[float]:
    """The values as a list of floats.

    Raises:
        InvalidInputError: a text or a single value, or one of the values is no number.
    """
    return [number(value, f"each of {what}") for value in _listed(values, what)]


def wholes(values: Any, what: str) -> list[int]:
    """The values as a list of ints; raises as `numbers` and `whole`."""
    return [whole(value, f"each of {what}") for value in _listed(values, what)]


def _listed(values: Any, what: str) -> list[Any]:
    if not isinstance(values, str | bytes):
        try:
            return list(values)
        except TypeError:
            pass
    raise InvalidInputError(
        f"{what} must be a list of numbers; got {values!r}. Give [1, 2], or [1] for one."
    )


def confidence_level(value: Any) -> float:
    """The confidence as a float.

    Raises:
        InvalidInputError: no number between 0 and 1.
    """
    if not 0 < number(value, "confidence") < 1:
        raise InvalidInputError(f"the confidence lies between 0 and 1; got {value}. Take 0.95 say.")
    return float(value)


def count_or_steps(steps: int | Sequence[float]) -> int | list[float]:
    """How many steps, or which ones.

    Raises:
        InvalidInputError: neither a whole number nor a list of numbers.
    """
    if isinstance(steps, str | bytes) or not hasattr(steps, "__iter__"):
        return whole(steps, "steps")
    return numbers(steps, "steps")


def recorded_steps(steps: int | Sequence[float]) -> tuple[float, ...]:
    """The steps to record, from 0 on: about ten for a number, those of a sequence.

    Raises:
        InvalidInputError: no step forward from the start.
    """
    given = count_or_steps(steps)
    if isinstance(given, int):
        if given < 1:
            raise InvalidInputError(f"steps must be >= 1; got {given}.")
        return tuple(float(s) for s in np.unique(np.linspace(0, given, 11).round()))
    listed = sorted({0.0, *given})
    if len(listed) < 2 or listed[0] < 0:
        raise InvalidInputError(f"steps are counted forward from the start; got {given}.")
    return tuple(listed)
