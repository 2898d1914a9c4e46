"""A problem is a mean of per-sample losses, f(theta) = (1/N) sum_i l_i(theta), on ensembles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch.func import grad, vmap

from sdeverify.base.shapes import (
    Indices,
    Parameters,
    SampleGradients,
    SampleLosses,
    Tensor,
    Values,
    Weights,
)

Quantity = Literal["loss", "gradient", "accuracy"]
"""What a pass over all samples gives for each replica."""


class WeightedMoments(NamedTuple):
    """What one pass over samples tells: sum_i w_i g_i, mean_i g_i and mean_i g_i^2."""

    weighted: Parameters
    mean: Parameters
    second: Parameters


class Problem(ABC):
    """f(theta) = (1/N) sum_i l_i(theta); replicas are the leading dimension of every tensor.

    Where `indices` is given, the samples are those of each replica's own subset (with
    repetitions), and means are over that subset; without it they are over all N samples.

    Example:
        >>> problem = circle_problem()
        >>> isinstance(problem, sv.Problem), problem.dim, problem.samples
        (True, 1, 6)
    """

    dim: int
    """Number of parameters d."""
    samples: int
    """Number of samples N."""
    dtype: torch.dtype
    device: torch.device
    compiled: bool = False
    """Whether what is computed on it goes through a compiler."""

    @abstractmethod
    def losses(self, theta: Parameters, indices: Indices | None = None) -> SampleLosses:
        """l_i(theta) for each sample."""

    @abstractmethod
    def weighted_gradient(
        self, theta: Parameters, weights: Weights, indices: Indices | None = None
    ) -> Parameters:
        """sum_i w_i grad l_i(theta): one backward pass."""

    @abstractmethod
    def weighted_moments(
        self, theta: Parameters, weights: Weights, indices: Indices | None = None
    ) -> WeightedMoments:
        """The weighted gradient with mean and second moment of the per-sample gradients."""

    @abstractmethod
    def per_sample_gradients(
        self, theta: Parameters, indices: Indices | None = None
    ) -> SampleGradients:
        """grad l_i(theta) for each sample: n d numbers a replica, for small problems and checks."""

    @abstractmethod
    def squared_gradient_drift(self, theta: Parameters) -> Parameters:
        """grad (|grad f|^2 / 2) = (Hessian of f) grad f, for the second-order SDE of SGD."""

    def together(self, replicas: int, samples: int, moments: bool) -> int:
        """Of so many replicas those that one compiled step moves, its gradients included.

        0 where a step is not compiled through the gradients, because they are compiled by
        themselves. `samples` are those of each replica's gradient, `moments` whether the step needs
        the second moment.
        """
        return replicas

    def arguments(self) -> tuple[Tensor, ...]:
        """What a compiled step is handed of this problem: its data, say."""
        return ()

    def within(self, arguments: Sequence[Tensor]) -> Problem:
        """The problem with these `arguments`, for use inside a compiled step."""
        return self

    def subset(self, count: int, seed: int = 0) -> Problem:
        """The mean over a fixed random subset of the samples; itself where it cannot be cut."""
        return self

    def loss(self, theta: Parameters) -> Values:
        """f(theta)."""
        return self.losses(theta).mean(-1)

    def gradient(self, theta: Parameters) -> Parameters:
        """grad f(theta)."""
        weights = theta.new_full((theta.shape[0], self.samples), 1 / self.samples)
        return self.weighted_gradient(theta, weights)

    def evaluate(self, theta: Parameters, wanted: Collection[Quantity]) -> dict[Quantity, Tensor]:
        """Several quantities over all samples; a problem may find them in one pass."""
        return {quantity: getattr(self, quantity)(theta) for quantity in wanted}


class SmallProblem(Problem):
    """A problem on which computing every sample's loss for every batch costs nothing."""

    @abstractmethod
    def every_loss(self, theta: Parameters) -> SampleLosses:
        """The losses of all samples."""

    @abstractmethod
    def every_gradient(self, theta: Parameters) -> SampleGradients:
        """The gradients of all samples."""

    def losses(self, theta: Parameters, indices: Indices | None = None) -> SampleLosses:
        every = self.every_loss(theta)
        return every if indices is None else every.gather(1, indices)

    def weighted_moments(
        self, theta: Parameters, weights: Weights, indices: Indices | None = None
    ) -> WeightedMoments:
        gradients = self.per_sample_gradients(theta, indices)
        return WeightedMoments(
            torch.einsum("rn,rnd->rd", weights, gradients),
            gradients.mean(1),
            gradients.square().mean(1),
        )

    def per_sample_gradients(
        self, theta: Parameters, indices: Indices | None = None
    ) -> SampleGradients:
        every = self.every_gradient(theta)
        if indices is None:
            return every
        return every.gather(1, indices.unsqueeze(-1).expand(-1, -1, self.dim))


@dataclass(frozen=True)
class FunctionProblem(SmallProblem):
    """A problem given by a function of one parameter vector, differentiated by `torch.func`.

    Args:
        function: maps theta of shape `(param,)` to the losses of all samples, shape `(sample,)`.
        dim: number of parameters.
        samples: number of samples.
        compiled: whether steps on it are compiled.

    Example:
        >>> centres = torch.tensor([0.0, 1.0, 2.0]).double()
        >>> problem = sv.FunctionProblem(lambda theta: (theta - centres) ** 2 / 2, dim=1, samples=3)
        >>> problem.gradient(torch.tensor([[0.0], [4.0]]).double()).round(decimals=4)
        tensor([[-1.],
                [ 3.]], dtype=torch.float64)
    """

    function: Callable[[Tensor], Tensor]
    dim: int
    samples: int
    dtype: torch.dtype = torch.float64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    compiled: bool = False

    def every_loss(self, theta: Parameters) -> SampleLosses:
        losses: Tensor = vmap(self.function)(theta)
        return losses

    def every_gradient(self, theta: Parameters) -> SampleGradients:
        gradients: Tensor = vmap(torch.func.jacrev(self.function))(theta)
        return gradients

    def weighted_gradient(
        self, theta: Parameters, weights: Weights, indices: Indices | None = None
    ) -> Parameters:
        if indices is not None:
            full = weights.new_zeros((theta.shape[0], self.samples))
            weights = full.scatter_add(1, indices, weights)
        slope = vmap(grad(lambda x, w: (w * self.function(x)).sum()))
        weighted: Tensor = slope(theta, weights)
        return weighted

    def squared_gradient_drift(self, theta: Parameters) -> Parameters:
        def half_square(x: Tensor) -> Tensor:
            slope: Tensor = grad(lambda z: self.function(z).mean())(x)
            return 0.5 * slope.square().sum()

        drift: Tensor = vmap(grad(half_square))(theta)
        return drift
