from __future__ import annotations

import math

import pytest

from sdeverify.report.formatting import level, order_with_interval, plain, with_error


@pytest.mark.parametrize(
    ("value", "standard_error", "expected"),
    [
        (0.01234, 0.0004, "0.0123(4)"),
        (0.01234, 0.00014, "0.01234(14)"),
        (-1.234e-5, 3.9e-7, "−1.23(4)×10⁻⁵"),
        (3e-4, 1e-5, "3.00(10)×10⁻⁴"),
        (0.012, 0.0096, "0.012(10)"),
        (12.34, 1.56, "12.3(1.6)"),
        (123456.0, 700.0, "1.235(7)×10⁵"),
        (-0.01, 0.3, "0.0(3)"),
        (-9.8e-4, 3e-4, "−0.0010(3)"),
        (-9.8e-6, 3e-6, "−1.0(3)×10⁻⁵"),
        (0.25, 0.0, "0.25"),
        (math.nan, 1.0, "–"),
    ],
)
def test_a_value_keeps_the_digits_that_its_standard_error_supports(
    value: float, standard_error: float, expected: str
) -> None:
    assert with_error(value, standard_error) == expected


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0.98123, 0.912, 1.05), "0.98 [0.91, 1.05]"),
        ((0.4, 0.392, 0.409), "0.400 [0.392, 0.409]"),
        ((1.0, -0.3, 2.4), "1.0 [−0.3, 2.4]"),
        ((-0.01, -0.8, 0.1), "0.0 [−0.8, 0.1]"),
        ((6.0, 0.4, math.inf), "≥ 0.4"),
        ((-1.0, -math.inf, 0.3), "≤ 0.3"),
        ((6.0, -math.inf, math.inf), "–"),
        ((math.nan, math.nan, math.nan), "–"),
    ],
)
def test_an_order_is_rounded_to_its_interval_and_open_ends_become_bounds(
    ends: tuple[float, float, float], expected: str
) -> None:
    assert order_with_interval(*ends) == expected


def test_levels_that_are_roots_are_written_as_roots() -> None:
    assert [level(x) for x in (1.0, 2**0.5, 2.0, 8**0.5, 12**0.5, 1.3)] == [
        "1", "√2", "2", "2√2", "2√3", "1.3",
    ]  # fmt: skip


def test_small_and_large_numbers_have_their_power_of_ten_apart() -> None:
    assert plain(2.5e-5) == "2.5×10⁻⁵"
    assert plain(-3.0e7) == "−3×10⁷"
    assert plain(0.25) == "0.25"
