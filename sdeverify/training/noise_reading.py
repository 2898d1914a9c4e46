"""Signal and noise of a training run, with intervals, from its micro-batches' gradients.

Let g_1, ..., g_K be the mean gradients of a step's K micro-batches of b samples each, drawn
independently at one theta. Two squared norms say all that is needed, S = sum_j |g_j|^2 and
Q = |sum_j g_j|^2:

    signal  (Q - S)/(K (K - 1)) = mean of <g_j, g_k> over j != k,  in expectation |grad f|^2
    noise   b (S - Q/K)/(K - 1),                                   in expectation tr Sigma

Neither has a bias at any K >= 2 (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1, has the
case of two sizes). The signal may come out negative where it is small.

Given the run so far, a step's estimates are unbiased at that step's theta: errors of different
steps are uncorrelated, however theta moves. So the mean over steps estimates the mean of the truth
over the same steps, and the variance between steps is what a t-interval needs, or more: where the
truth itself drifts, the interval is too wide rather than too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sdeverify.analysis.ratio import RatioInterval, ratio_interval
from sdeverify.base.arguments import whole
from sdeverify.errors import InvalidInputError

Steps = NDArray[np.float64]
"""One number a measured step."""


class Interval(NamedTuple):
    """A mean of something that is not negative, with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SignalAndNoise:
    """Means over the measured steps, in one geometry.

    Attributes:
        signal: |grad f|^2; the value may be negative where it is not resolved from 0.
        noise_trace: tr Sigma, Sigma the covariance of one sample's gradient.
        noise_scale: tr Sigma / |grad f|^2, the batch size at which noise and signal are equal, as
            a ratio of means over steps; Fieller's interval.
    """

    signal: Interval
    noise_trace: Interval
    noise_scale: RatioInterval

    @classmethod
    def of(cls, signal: Steps, noise_trace: Steps, confidence: float) -> SignalAndNoise:
        """From the unbiased estimates of single steps."""
        return cls(
            _mean_interval(signal, confidence),
            _mean_interval(noise_trace, confidence),
            RatioInterval(*map(float, ratio_interval(noise_trace, signal, confidence))),
        )

    def noise_to_signal(self, batch_size: int) -> RatioInterval:
        """N/G of a batch of this size, noise scale over batch size.

        Raises:
            InvalidInputError: no whole number of samples, or none.
        """
        if whole(batch_size, "batch_size") < 1:
            raise InvalidInputError(f"a batch has at least one sample; got {batch_size}.")
        return RatioInterval(*(value / batch_size for value in self.noise_scale))


@dataclass(frozen=True)
class NoiseReading:
    """What a `NoiseMeter` read over its window; print it to read it.

    Attributes:
        gradient: of the gradient g itself.
        preconditioned: of P g, P = diag 1/(sqrt(v) + eps) with the optimizer's v of the step
            before: |P grad f|^2, tr P Sigma P and their ratio. This is the step that RMSprop, and
            Adam without its memory of gradients, would make with that v, in units of the learning
            rate. None for other optimizers, or while v is not there.
        first, last: the first and the last measured step of the window, counted from 1.
        measured: steps in the window.
        skipped: measured steps left out, of the whole run: gradients that were not finite, or
            fewer micro-batches than declared.
        share: the meter's part of the loop's time since its first step, its own time counted
            double as in `NoiseMeter`.
        confidence: of all intervals.
    """

    gradient: SignalAndNoise
    preconditioned: SignalAndNoise | None
    first: int
    last: int
    measured: int
    skipped: int
    share: float
    confidence: float

    def __str__(self) -> str:
        columns = {"gradient": self.gradient}
        if self.preconditioned is not None:
            columns["preconditioned"] = self.preconditioned
        rows = [f"{'':<20}" + "".join(f"{name:>34}" for name in columns)]
        for label, field in (
            ("signal |grad f|^2", "signal"),
            ("noise tr Sigma", "noise_trace"),
            ("noise scale", "noise_scale"),
        ):
            cells = (_shown(getattr(column, field)) for column in columns.values())
            rows.append(f"{label:<20}" + "".join(f"{cell:>34}" for cell in cells))
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        rows.append(
            f"Means over {self.measured} measured steps, {self.first} to {self.last}{skipped}; "
            f"intervals of {self.confidence:.0%}; {self.share:.2%} of the loop's time."
        )
        return "\n".join(rows)


def estimates(
    squares: float, square_of_sum: float, micro_batches: int, micro_batch_size: int
) -> tuple[float, float]:
    """One step's unbiased |grad f|^2 and tr Sigma.

    Args:
        squares: S, the sum of the micro-batch gradients' squared norms.
        square_of_sum: Q, the squared norm of their sum.
        micro_batches: K, of all ranks together.
        micro_batch_size: b.
    """
    pairs = micro_batches * (micro_batches - 1)
    signal = (square_of_sum - squares) / pairs
    variance = (micro_batches * squares - square_of_sum) / pairs
    return signal, micro_batch_size * variance


def _mean_interval(values: Steps, confidence: float) -> Interval:
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return Interval(mean, max(mean - half, 0.0), max(mean + half, 0.0))


def _shown(interval: Any) -> str:
    return f"{interval.value:.4g} ({interval.low:.4g} to {interval.high:.4g})"
