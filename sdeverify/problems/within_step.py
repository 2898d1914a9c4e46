"""A net's gradients as a part of a compiled step: nothing but operations on tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sdeverify.problems.pieces import InPieces
from sdeverify.problems.problem import Problem, WeightedMoments
from sdeverify.problems.samples import Samples
from sdeverify.shapes import Float, Int, Tensor


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
    data: Samples
    weighted: Callable[[], InPieces]
    sums: Callable[[], InPieces]

    @property
    def dim(self) -> int:  # type: ignore[override]
        return self.whole.dim

    @property
    def samples(self) -> int:  # type: ignore[override]
        return self.whole.samples

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return self.whole.dtype

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.whole.device

    def weighted_gradient(
        self,
        theta: Float[Tensor, "replica param"],
        weights: Float[Tensor, "replica n"],
        indices: Int[Tensor, "replica n"] | None = None,
    ) -> Float[Tensor, "replica param"]:
        batch = self.data.batch(indices, slice(None), slice(None))
        (found,) = self.weighted()(theta, weights.to(self.dtype), batch)
        return found

    def weighted_moments(
        self,
        theta: Float[Tensor, "replica param"],
        weights: Float[Tensor, "replica n"],
        indices: Int[Tensor, "replica n"] | None = None,
    ) -> WeightedMoments:
        batch = self.data.batch(indices, slice(None), slice(None))
        n = weights.shape[1]
        weighted, total, second = self.sums()(theta, weights.to(self.dtype), batch)
        return WeightedMoments(weighted, total / n, second / n)

    def losses(
        self,
        theta: Float[Tensor, "replica param"],
        indices: Int[Tensor, "replica n"] | None = None,
    ) -> Float[Tensor, "replica n"]:
        return self.whole.losses(theta, indices)

    def per_sample_gradients(
        self,
        theta: Float[Tensor, "replica param"],
        indices: Int[Tensor, "replica n"] | None = None,
    ) -> Float[Tensor, "replica n param"]:
        return self.whole.per_sample_gradients(theta, indices)

    def squared_gradient_drift(
        self, theta: Float[Tensor, "replica param"]
    ) -> Float[Tensor, "replica param"]:
        return self.whole.squared_gradient_drift(theta)
