"""References: the same numbers as by sampling, without sampling."""

from sdeverify.exact.spectral.domain import Interval, Moving, Periodic, Positive
from sdeverify.exact.spectral.spectral import (
    exact_continuous,
    exact_difference,
    exact_discrete,
    exact_weak_error,
)

__all__ = [
    "Interval",
    "Moving",
    "Periodic",
    "Positive",
    "exact_continuous",
    "exact_difference",
    "exact_discrete",
    "exact_weak_error",
]
