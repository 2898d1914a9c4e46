"""Plain torch on a net as it is: replica by replica, and sample by sample for second moments.

This is what the user's own loop does, so the other forms are checked against it; nets that
`torch.func` cannot take are computed so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from sdeverify.base.shapes import Parameters, SampleGradients, Tensor, Vector, Weights
from sdeverify.errors import UnsupportedError
from sdeverify.problems.gradients.functional import FunctionalModel, saved_bytes
from sdeverify.problems.gradients.general import sums_over_samples
from sdeverify.problems.gradients.kernels import Kernel
from sdeverify.problems.gradients.losses import PerSampleLoss
from sdeverify.problems.gradients.samples import Batch, Data
from sdeverify.problems.problem import WeightedMoments


class Loop:
    """Forward and `backward()` on a copy of the user's net, one replica after the other.

    Args:
        model: the same net as a function of its parameters, for the fast forms.
        net: an unchanged copy; its parameters are overwritten.
        loss: the user's loss.
    """

    def __init__(self, model: FunctionalModel, net: nn.Module, loss: PerSampleLoss) -> None:
        self.model, self.net, self.loss = model, net, loss
        named = dict(net.named_parameters())
        self._leaves = [named[name].requires_grad_() for name in model.layout.names]

    @property
    def gradient(self) -> Kernel:
        """Weighted gradients."""
        return Kernel("loop", self.weighted, copies=1, together=0)

    @property
    def moments(self) -> Kernel:
        """Weighted gradients and moments, from the gradient of each sample."""
        return Kernel("loop", self.sums, copies=1, together=0, per_sample=True)

    def losses(self, theta: Parameters, batch: Batch) -> Tensor:
        """l_i, shape `(replica, n)`."""
        return self._forward(self.sample_losses, theta, batch)

    def outputs(self, theta: Parameters, batch: Batch) -> Tensor:
        """net(inputs), shape `(replica, n, ...)`."""
        return self._forward(self.net_outputs, theta, batch)

    def losses_of(self, outputs: Tensor, batch: Batch) -> Tensor:
        """l_i from the net's outputs `(replica, n, ...)`."""
        rows = [self.loss(x, batch.of(r).targets).detach() for r, x in enumerate(outputs)]
        return torch.stack(rows)

    def weighted(self, theta: Parameters, weights: Weights, batch: Batch) -> tuple[Parameters]:
        """sum_i w_i grad l_i."""
        rows = []
        for r in range(len(theta)):
            self.load(theta[r])
            rows.append(self._backward(batch.of(r), weights[r]))
        return (torch.stack(rows),)

    def per_sample(self, theta: Parameters, batch: Batch) -> SampleGradients:
        """g_i."""
        one = theta.new_ones(1)
        replicas = []
        for r in range(len(theta)):
            self.load(theta[r])
            replicas.append(torch.stack([self._backward(x, one) for x in batch.of(r).singles()]))
        return torch.stack(replicas)

    def without_gradient(self, theta: Vector, data: Data) -> list[set[str]]:
        """For each sample the parameters whose `grad` stays None after backward."""
        self.load(theta)
        one = theta.new_ones(1)
        samples = []
        for sample in data.singles():
            pairs = zip(self.model.layout.names, self._slopes(sample, one), strict=True)
            samples.append({name for name, slope in pairs if slope is None})
        return samples

    def sums(self, theta: Parameters, weights: Weights, batch: Batch) -> WeightedMoments:
        """sum_i w_i g_i, sum_i g_i and sum_i g_i^2."""
        return WeightedMoments(*sums_over_samples(self.per_sample(theta, batch), weights))

    def hessian_product(self, theta: Parameters, vector: Parameters, batch: Batch) -> Parameters:
        """sum_i (Hessian of l_i) vector, by differentiating <grad, vector>.

        Raises:
            UnsupportedError: the net has no second derivative.
        """
        rows = []
        for r in range(len(theta)):
            self.load(theta[r])
            try:
                rows.append(self._curvature(batch.of(r), vector[r]))
            except RuntimeError as error:
                raise UnsupportedError(
                    f"{type(self.net).__name__} cannot be differentiated twice ({error}), which an "
                    "SDE of second order needs. Use one of first order."
                ) from error
        return torch.stack(rows)

    def saved(self, theta: Vector, data: Data) -> int:
        """Bytes that a forward pass keeps for its backward pass, parameters included."""
        self.load(theta)
        return saved_bytes(lambda: self.sample_losses(data))

    def load(self, theta: Vector) -> None:
        """Writes one replica's parameters into the net."""
        with torch.no_grad():
            for leaf, value in zip(
                self._leaves, self.model.layout.unflatten(theta).values(), strict=True
            ):
                leaf.copy_(value)

    def net_outputs(self, data: Data) -> Tensor:
        """net(inputs) at the parameters that were loaded, on a copy that it may write into."""
        own = data.map(torch.clone)
        outputs: Tensor = self.net(*own.args, **own.kwargs)
        return outputs

    def sample_losses(self, data: Data) -> Tensor:
        """l_i at the parameters that were loaded."""
        return self.loss(self.net_outputs(data), data.targets)

    def _forward(
        self, function: Callable[[Data], Tensor], theta: Parameters, batch: Batch
    ) -> Tensor:
        """With gradients on: a net may differentiate by its inputs."""
        rows = []
        for r in range(len(theta)):
            self.load(theta[r])
            with torch.enable_grad():
                rows.append(function(batch.of(r)).detach())
        return torch.stack(rows)

    def _backward(self, data: Data, weights: Tensor) -> Vector:
        slopes = self._slopes(data, weights)
        return torch.cat([_flat(g, x) for g, x in zip(slopes, self._leaves, strict=True)])

    def _slopes(self, data: Data, weights: Tensor) -> list[Tensor | None]:
        """What backward leaves in each parameter's `grad`."""
        with torch.enable_grad():
            total = weights @ self.sample_losses(data)
            if total.requires_grad:
                total.backward()
        slopes = [leaf.grad for leaf in self._leaves]
        for leaf in self._leaves:
            leaf.grad = None
        return slopes

    def _curvature(self, data: Data, vector: Vector) -> Vector:
        slopes = partial(torch.autograd.grad, allow_unused=True, materialize_grads=True)
        with torch.enable_grad():
            total = self.sample_losses(data).sum()
            first = slopes(total, self._leaves, create_graph=True)
            slope = torch.cat([g.reshape(-1) for g in first]) @ vector
        if not slope.requires_grad:
            return torch.zeros_like(vector)
        second = slopes(slope, self._leaves)
        return torch.cat([g.reshape(-1) for g in second])


def _flat(gradient: Tensor | None, like: Tensor) -> Vector:
    """A gradient as a vector: sparse ones written out, absent ones 0."""
    if gradient is None:
        return torch.zeros_like(like).reshape(-1)
    return gradient.to_dense().reshape(-1) if gradient.is_sparse else gradient.reshape(-1)
