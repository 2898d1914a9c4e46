"""Numbers as a referee wants to read them: rounded to what their uncertainty supports."""

from __future__ import annotations

import math
from typing import Any

from sdeverify.base.notation import TIMES, power_of_ten

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
NARROW = "\N{NARROW NO-BREAK SPACE}"


def plain(value: float, digits: int = 4) -> str:
    """A number without uncertainty, to `digits` significant digits."""
    value = float(value)
    if not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if -4 <= exponent < 6:
        return f"{value:.{digits}g}".replace("-", MINUS)
    mantissa = f"{value / 10.0**exponent:.{digits}g}".replace("-", MINUS)
    return f"{mantissa}{TIMES}{power_of_ten(exponent)}"


def percent(share: float) -> str:
    """A share as a percentage of two digits."""
    value = 100 * float(share)
    if not value < 1000:
        return "over 1000%"
    return f"{plain(value, 2) if value < 99.5 else round(value)}%"


def with_error(value: float, standard_error: float) -> str:
    """`0.0123(4)`: a value with its standard error in units of the last digit.

    The standard error keeps one digit, two where it begins with 1. Below 0.001 and from 100,000 the
    power of ten stands apart: `-1.23(4)x10^-5`. Without a positive, finite standard error the
    value stands alone.
    """
    value, standard_error = float(value), float(standard_error)
    if not math.isfinite(value):
        return DASH
    if not math.isfinite(standard_error) or standard_error <= 0:
        return plain(value)
    order = math.floor(math.log10(standard_error))
    kept = 2 if round(standard_error / 10.0**order, 6) < 1.95 else 1
    decimals = kept - 1 - order
    size = math.floor(math.log10(max(abs(round(value, decimals)), standard_error)))
    if -3 <= size < 5 and decimals >= 0:
        return _parenthesised(value, standard_error, decimals)
    scale = 10.0**-size
    mantissa = _parenthesised(value * scale, standard_error * scale, decimals + size)
    return f"{mantissa}{TIMES}{power_of_ten(size)}"


def _parenthesised(value: float, standard_error: float, decimals: int) -> str:
    text = _fixed(value, decimals)
    if standard_error >= 1 and decimals > 0:
        return f"{text}({standard_error:.{decimals}f})"
    return f"{text}({round(standard_error * 10.0**decimals)})"


def interval(low: float, high: float) -> str:
    """`[0.91, 1.05]`: its half-width keeps one digit, two where it begins with 1."""
    decimals = _interval_decimals(low, high)
    return f"[{_fixed(low, decimals)}, {_fixed(high, decimals)}]"


def order_with_interval(order: float, low: float, high: float) -> str:
    """`0.98 [0.91, 1.05]`; `≥ 0.4` where one end is open; a dash where nothing is known."""
    if not math.isfinite(order):
        return DASH
    if math.isnan(low) or math.isnan(high):
        return _fixed(order, 2)
    if math.isinf(low) and math.isinf(high):
        return DASH
    if math.isinf(high):
        return f"≥ {_fixed(low, 1)}"
    if math.isinf(low):
        return f"≤ {_fixed(high, 1)}"
    return f"{_fixed(order, _interval_decimals(low, high))} {interval(low, high)}"


def _interval_decimals(low: float, high: float) -> int:
    half_width = (high - low) / 2
    if half_width <= 0:
        return 3
    leading = math.floor(math.log10(half_width))
    kept = 2 if half_width / 10.0**leading < 2 else 1
    return min(max(kept - 1 - leading, 1), 4)


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.replace("-", MINUS if float(text) else "")


def probability(p: float) -> str:
    """A p-value: two decimals, `< 0.001` below that."""
    if not math.isfinite(p):
        return DASH
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.01 else f"{p:.2f}"


def level(value: float) -> str:
    """A level of the SVAG ladder: whole numbers and multiples of a square root as such."""
    if value == int(value):
        return str(int(value))
    square = value * value
    if abs(square - round(square)) < 1e-6 * square:
        whole, radicand = 1, round(square)
        for factor in range(math.isqrt(radicand), 1, -1):
            if radicand % (factor * factor) == 0:
                whole, radicand = factor, radicand // (factor * factor)
                break
        return f"{whole if whole > 1 else ''}√{radicand}"
    return f"{value:.3g}"


def anything(value: Any) -> str:
    """A value from a settings dictionary as text."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return plain(value, 6)
    if isinstance(value, dict):
        return ", ".join(f"{key} = {anything(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(anything(entry) for entry in value)
    return str(value)
