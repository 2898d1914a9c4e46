"""A net's gradients as a part of a compiled step: nothing but operations on tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sdeverify.base.shapes import (
    Indices,
    Parameters,
    SampleGradients,
    SampleLosses,
    Weights,
)
from sdeverify.problems.gradients.kernels import Sums
from sdeverify.problems.gradients.samples import Batch, Samples
from sdeverify.problems.problem import Problem, WeightedMoments


@dataclass(frozen=True)
class WithinStep(Problem):
    """What an Euler-Maruyama step asks of a problem, for replicas that fit one chunk.

    Args:
        whole: the problem, which answers all else.
        data: its samples, as arguments of the step.
        weighted: makes its weighted gradients, not compiled.
        sums: makes its moments, not compiled.
    """

    whole: Problem
    dim: int
    samples: int
    dtype: torch.dtype
    device: torch.device
    data: Samples
    weighted: Callable[[], Sums]
    sums: Callable[[], Sums]

    def weighted_gradient(
        self, theta: Parameters, weights: Weights, indices: Indices | None = None
    ) -> Parameters:
        (gradient,) = self.weighted()(theta, weights.to(self.dtype), self._batch(indices))
        return gradient

    def weighted_moments(
        self, theta: Parameters, weights: Weights, indices: Indices | None = None
    ) -> WeightedMoments:
        n = weights.shape[1]
        sums = self.sums()(theta, weights.to(self.dtype), self._batch(indices))
        weighted, total, second = sums
        return WeightedMoments(weighted, total / n, second / n)

    def losses(self, theta: Parameters, indices: Indices | None = None) -> SampleLosses:
        return self.whole.losses(theta, indices)

    def per_sample_gradients(
        self, theta: Parameters, indices: Indices | None = None
    ) -> SampleGradients:
        return self.whole.per_sample_gradients(theta, indices)

    def squared_gradient_drift(self, theta: Parameters) -> Parameters:
        return self.whole.squared_gradient_drift(theta)

    def _batch(self, indices: Indices | None) -> Batch:
        return self.data.batch(indices, slice(None), slice(None))
