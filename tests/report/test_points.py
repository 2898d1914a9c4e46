from __future__ import annotations

import numpy as np

from sdeverify.report.ladder_plot import guide
from sdeverify.report.points import classify


def test_errors_within_two_standard_errors_are_upper_limits() -> None:
    points = classify([0.5, -0.5, 0.1, -0.1], [0.1, 0.1, 0.06, 0.06])
    assert points.resolved.tolist() == [True, True, False, False]
    np.testing.assert_allclose(points.size, [0.5, 0.5, 0.22, 0.22])
    np.testing.assert_allclose(points.low, [0.3, 0.3, 0.22, 0.22])
    np.testing.assert_allclose(points.high, [0.7, 0.7, 0.22, 0.22])
    assert points.positive.tolist() == [True, False, True, False]
    assert points.drawn.all()


def test_exactly_two_standard_errors_count_as_resolved() -> None:
    assert classify([0.2, 0.19], [0.1, 0.1]).resolved.tolist() == [True, False]


def test_exact_errors_are_resolved_and_a_missing_one_is_not_drawn() -> None:
    points = classify([1e-9, 0.0, np.nan, 1.0], [0.0, 0.0, 0.1, np.nan])
    assert points.resolved.tolist() == [True, False, False, False]
    assert points.drawn.tolist() == [True, False, False, False]


def test_the_guide_has_the_claimed_slope_and_passes_through_the_points() -> None:
    steps = np.array([1.0, 0.5, 0.25])
    line = guide(steps, classify(3 * steps**2, [1e-3] * 3), 2.0)
    assert line is not None
    np.testing.assert_allclose(line, 3 * steps**2)


def test_there_is_no_guide_where_nothing_is_resolved() -> None:
    assert guide(np.array([1.0, 0.5]), classify([0.1, 0.1], [1.0, 1.0]), 1.0) is None
