"""How large and how far from normal the noise of one sample's gradient is, at a point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sdeverify.base.arguments import whole
from sdeverify.base.shapes import Float, Tensor
from sdeverify.errors import InvalidInputError
from sdeverify.problems.problem import Problem

NUMBERS_AT_ONCE = 1 << 22
"""Per-sample gradients held at a time, in numbers."""
SMALLEST = 1e-140
"""Variances below this count as none."""


TELLING = 1 << 26
"""Numbers in the gradients of as many samples as tell how large the noise is."""
LEAST_SAMPLES = 64
"""Samples of which the noise is told, at least."""


def representative(problem: Problem) -> Problem:
    """The problem on as many samples as tell how large its noise is, if it has twice as many."""
    count = max(LEAST_SAMPLES, TELLING // problem.dim)
    return problem.subset(count) if problem.samples > 2 * count else problem


@dataclass(frozen=True)
class Quantiles:
    """A statistic over the coordinates: median, 90% quantile and maximum."""

    median: float
    quantile90: float
    maximum: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Quantiles:
        """The quantiles of some values; NaN where there are none."""
        if values.size == 0:
            return cls(np.nan, np.nan, np.nan)
        low, high = np.quantile(values, [0.5, 0.9])
        return cls(float(low), float(high), float(values.max()))


@dataclass(frozen=True)
class NoiseStatistics:
    """The law of one sample's gradient g_i at a point theta, i uniform over the data.

    All are exact for the finite sum, no estimates. The gradient of a batch of B drawn with
    replacement has skewness smaller by sqrt(B) and excess kurtosis smaller by B (`of_batch`).

    Attributes:
        samples: N.
        parameters: d.
        noiseless: coordinates without variance, left out of skewness and kurtosis.
        squared_gradient_norm: |grad f|^2.
        noise_trace: tr Sigma.
        skewness: |E d^3| / (E d^2)^(3/2) over the coordinates, d = g_i - grad f; 0 for a normal.
        excess_kurtosis: E d^4 / (E d^2)^2 - 3 over the coordinates, with sign; 0 for a normal.
    """

    samples: int
    parameters: int
    noiseless: int
    squared_gradient_norm: float
    noise_trace: float
    skewness: Quantiles
    excess_kurtosis: Quantiles

    @property
    def noise_scale(self) -> float:
        """tr Sigma / |grad f|^2: the batch size at which noise and signal are equal."""
        if self.squared_gradient_norm == 0:
            return np.inf
        return self.noise_trace / self.squared_gradient_norm

    def of_batch(self, batch_size: int) -> NoiseStatistics:
        """The same for the mean gradient of `batch_size` samples drawn with replacement."""
        if whole(batch_size, "batch_size") < 1:
            raise InvalidInputError(f"a batch has at least one sample; got {batch_size}.")
        return NoiseStatistics(
            self.samples,
            self.parameters,
            self.noiseless,
            self.squared_gradient_norm,
            self.noise_trace / batch_size,
            _scaled(self.skewness, batch_size**-0.5),
            _scaled(self.excess_kurtosis, 1 / batch_size),
        )


def noise_statistics(
    problem: Problem,
    theta: Tensor,
    *,
    numbers_at_once: int = NUMBERS_AT_ONCE,
) -> NoiseStatistics:
    """Signal, noise trace, skewness and kurtosis of the per-sample gradients at theta.

    One pass over the data for the mean, one for the central moments; no more than about
    `numbers_at_once` entries of per-sample gradients are held at a time.

    Raises:
        InvalidInputError: theta is not one point of the problem, or gives gradients that are not
            finite.

    Example:
        >>> statistics = sv.noise_statistics(circle_problem(), torch.ones(1).double())
        >>> round(statistics.noise_trace, 3), round(statistics.squared_gradient_norm, 3)
        (0.262, 0.361)
    """
    if theta.shape != (problem.dim,):
        raise InvalidInputError(
            f"noise_statistics looks at one point, theta of shape ({problem.dim},); got "
            f"{tuple(theta.shape)}."
        )
    point = theta.detach().to(problem.device, problem.dtype).unsqueeze(0)
    mean, second, third, fourth = _central_moments(problem, point, numbers_at_once)
    for name, moment in (("gradient", mean), ("gradient's fourth moment", fourth)):
        if not bool(torch.isfinite(moment).all()):
            raise InvalidInputError(
                f"the {name} is not finite at this theta. Look at an earlier point of the run."
            )
    # Per-sample gradients carry a relative rounding error of a few eps each; below SMALLEST the
    # fourth moment leaves the range of double precision.
    floor = (64 * torch.finfo(problem.dtype).eps) ** 2 * (second + mean.square())
    noisy = second > floor.clamp(min=SMALLEST)
    variances = second[noisy]
    return NoiseStatistics(
        samples=problem.samples,
        parameters=problem.dim,
        noiseless=int((~noisy).sum()),
        squared_gradient_norm=float(mean.square().sum()),
        noise_trace=float(second.sum()),
        skewness=Quantiles.of((third[noisy] / variances**1.5).abs().numpy()),
        excess_kurtosis=Quantiles.of((fourth[noisy] / variances.square() - 3).numpy()),
    )


def _central_moments(
    problem: Problem, point: Float[Tensor, "1 param"], numbers_at_once: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and central moments 2, 3, 4 of the per-sample gradients, in float64 on the CPU."""
    about = problem.gradient(point).detach()
    sums = [torch.zeros(problem.dim, dtype=torch.float64, device=problem.device) for _ in range(4)]
    for indices in _chunks(problem, max(1, numbers_at_once // problem.dim)):
        each = problem.per_sample_gradients(point, indices).detach()
        deviation = (each - about).squeeze(0).double()
        power = torch.ones_like(deviation)
        for total in sums:
            power = power * deviation
            total += power.sum(0)
    shift, m2, m3, m4 = (total / problem.samples for total in sums)
    # `about` is the mean up to rounding; the shift removes what is left.
    second = m2 - shift**2
    third = m3 - 3 * shift * m2 + 2 * shift**3
    fourth = m4 - 4 * shift * m3 + 6 * shift**2 * m2 - 3 * shift**4
    moments = (about.squeeze(0).double() + shift, second.clamp(min=0), third, fourth)
    return tuple(m.cpu() for m in moments)  # type: ignore[return-value]


def _chunks(problem: Problem, size: int) -> Iterator[Tensor]:
    every = torch.arange(problem.samples, device=problem.device)
    yield from (part.unsqueeze(0) for part in every.split(size))


def _scaled(q: Quantiles, factor: float) -> Quantiles:
    return Quantiles(q.median * factor, q.quantile90 * factor, q.maximum * factor)
