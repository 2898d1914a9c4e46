"""Parameters of a study from the command line."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sdeverify.errors import InvalidInputError, did_you_mean

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_settings(defaults: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """The values of `name=value` texts, each read as the type of the parameter's default.

    Lists are written a,b,c.

    Raises:
        InvalidInputError: an unknown name, a text without '=', or a value of another type.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InvalidInputError(f"--set takes name=value; got '{setting}'.")
        if name not in defaults:
            known = "\n".join(f"  {key}={shown(value)}" for key, value in defaults.items())
            raise InvalidInputError(
                f"there is no parameter '{name}'.{did_you_mean(name, defaults)} The parameters and "
                f"their defaults are\n{known}"
            )
        if name in values:
            raise InvalidInputError(f"'{name}' is set twice.")
        values[name] = _parsed(name, defaults[name], text.strip())
    return values


def shown(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, list | tuple):
        return ",".join(shown(item) for item in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return "(required)" if value is inspect.Parameter.empty else str(value)


def _parsed(name: str, default: Any, text: str) -> Any:
    try:
        return _value(default, text)
    except (ValueError, KeyError):
        kind = "list of numbers a,b,c" if isinstance(default, list | tuple) else _kind(default)
        raise InvalidInputError(
            f"'{name}' is a {kind}, by default {shown(default)}; got '{text}'."
        ) from None
    except TypeError:
        raise InvalidInputError(
            f"'{name}' is a {type(default).__name__}, which cannot be set from the command line."
        ) from None


def _value(default: Any, text: str) -> Any:
    if isinstance(default, bool):
        return _WORDS[text.lower()]
    if isinstance(default, int):
        return _whole(text)
    if isinstance(default, float):
        return float(text)
    if isinstance(default, str):
        return text
    if isinstance(default, list | tuple):
        parts = [part.strip() for part in text.split(",")] if text else []
        return type(default)(_value(_element(default), part) for part in parts)
    if default is None or default is inspect.Parameter.empty:
        return _guessed(text)
    raise TypeError(f"no reading for {type(default).__name__}")


def _element(default: Sequence[Any]) -> Any:
    floats = [item for item in default if isinstance(item, float)]
    return floats[0] if floats else default[0] if default else None


def _guessed(text: str) -> Any:
    if text.lower() in ("", "none"):
        return None
    for kind in (_whole, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _whole(text: str) -> int:
    number = float(text)
    if not number.is_integer():
        raise ValueError(text)
    return int(text) if text.lstrip("+-").isdigit() else int(number)


def _kind(default: Any) -> str:
    names = {bool: "yes or no", int: "whole number", float: "number", str: "text"}
    return names.get(type(default), type(default).__name__)
