"""Numbers as users give them: a text or a list in place of one is refused before any work."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sdeverify.errors import InvalidInputError, did_you_mean


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
    """The values as a list of floats; one number as a list of itself.

    Raises:
        InvalidInputError: a text, or one of the values is no number.
    """
    return [number(value, f"each of {what}") for value in _listed(values, what)]


def wholes(values: Any, what: str) -> list[int]:
    """The values as a list of ints; raises as `numbers` and `whole`."""
    return [whole(value, f"each of {what}") for value in _listed(values, what)]


def _listed(values: Any, what: str) -> list[Any]:
    if values is None or isinstance(values, str | bytes):
        raise InvalidInputError(
            f"{what} must be a number or a list of numbers; got {values!r}. Give 2, or [1, 2]."
        )
    try:
        return list(values)
    except TypeError:
        return [values]


def confidence_level(value: Any) -> float:
    """The confidence as a float.

    Raises:
        InvalidInputError: no number between 0 and 1.
    """
    if not 0 < number(value, "confidence") < 1:
        raise InvalidInputError(f"the confidence lies between 0 and 1; got {value}. Take 0.95 say.")
    return float(value)


def count_or_steps(steps: float | Sequence[float]) -> int | list[float]:
    """How many steps, or which ones.

    Raises:
        InvalidInputError: neither a whole number nor a list of numbers.
    """
    if np.ndim(steps) == 0:
        return whole(steps, "steps")
    return numbers(steps, "steps")


def recorded_steps(steps: float | Sequence[float]) -> tuple[float, ...]:
    """The steps to record, from 0 on: about ten for a number, those of a sequence.

    Raises:
        InvalidInputError: no step forward from the start.
    """
    wanted = count_or_steps(steps)
    if isinstance(wanted, int):
        if wanted < 1:
            raise InvalidInputError(f"steps must be >= 1; got {wanted}.")
        return tuple(float(s) for s in np.unique(np.linspace(0, wanted, 11).round()))
    recorded = sorted({0.0, *wanted})
    if len(recorded) < 2 or not all(0 <= step < np.inf for step in recorded):
        raise InvalidInputError(f"steps are counted forward from the start; got {wanted}.")
    return tuple(recorded)


_UNITS = {"": 1, "b": 1} | {
    name: 1024**power
    for power, letter in enumerate("kmgt", 1)
    for name in (letter, f"{letter}b", f"{letter}ib")
}


def memory_budget(memory: int | str) -> int:
    """Bytes from a number, or from a text such as "500MB" or "2GB" (units of 1024).

    Raises:
        InvalidInputError: neither of them.
    """
    if isinstance(memory, int) and not isinstance(memory, bool) and memory > 0:
        return memory
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(memory).lower())
    size = 0 if match is None else int(float(match[1]) * _UNITS.get(match[2], 0))
    if size < 1:
        raise InvalidInputError(
            f"memory is a number of bytes or a text such as '500MB' or '2GB'; got {memory!r}."
        )
    return size


def unknown_names(
    given: Iterable[str], accepted: Iterable[str], known: Sequence[str], whose: str, what: str
) -> None:
    """Refuses names that are not accepted, with the nearest of the known ones.

    Raises:
        InvalidInputError: a name that is not among those accepted.
    """
    for name in sorted(set(given) - set(accepted)):
        hint = did_you_mean(name, known) or f" It has {', '.join(known)}."
        raise InvalidInputError(f"{whose} has no {what} '{name}'.{hint}")
