"""Gradients by `torch.func`, right for every module: what the fast forms are checked against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.func import grad

from sdeverify.base.cutting import PER_SAMPLE, SMALL_REPLICA
from sdeverify.base.shapes import Float, Parameters, SampleGradients, Tensor, Vector, Weights
from sdeverify.problems.gradients.functional import FunctionalModel, saved_bytes
from sdeverify.problems.gradients.kernels import Kernel
from sdeverify.problems.gradients.samples import Batch, Data
from sdeverify.problems.problem import WeightedMoments


class General:
    """Gradient and moments for any module: `vmap` over replicas, and over samples for moments.

    A single replica goes without `vmap` where only one backward pass is needed, so that large nets
    run at the speed of plain autograd. Recurrent layers have no rule for `vmap` without a gradient
    (their replicas are evaluated in turn), and want weights that carry every mapped dimension.
    """

    def __init__(self, model: FunctionalModel) -> None:
        self.model = model

    def losses(self, theta: Parameters, batch: Batch) -> Tensor:
        """l_i, shape `(replica, n)`."""
        return self._forward(self.model.losses, theta, batch)

    def outputs(self, theta: Parameters, batch: Batch) -> Tensor:
        """net(inputs), shape `(replica, n, ...)`."""
        return self._forward(self.model.outputs, theta, batch)

    def losses_of(self, outputs: Tensor, batch: Batch) -> Tensor:
        """l_i from the net's outputs `(replica, n, ...)`."""
        targets = batch.data.targets
        if len(outputs) == 1:
            return self.model.loss(outputs[0], batch.of(0).targets).unsqueeze(0)
        each = self.model.vectorised(self.model.loss, in_dims=(0, _data_dim(batch)))
        losses: Tensor = each(outputs, targets)
        return losses

    def saved(self, theta: Vector, data: Data) -> int:
        """Bytes that a forward pass keeps for its backward pass, parameters included."""
        parameters = self.model.layout.unflatten(theta.detach())
        leaves = {name: value.requires_grad_() for name, value in parameters.items()}
        return saved_bytes(lambda: self.model.losses(leaves, data))

    def _forward(
        self, function: Callable[[dict[str, Tensor], Data], Tensor], theta: Tensor, batch: Batch
    ) -> Tensor:
        parameters = self.model.layout.unflatten(theta)
        if len(theta) > 1 and not self.model.recurrent:
            each = self.model.vectorised(function, in_dims=(0, _data_dim(batch)))
            result: Tensor = each(parameters, batch.data)
            return result
        return torch.stack(
            [
                function(self.model.prepared({k: v[r] for k, v in parameters.items()}), batch.of(r))
                for r in range(len(theta))
            ]
        )

    @property
    def gradient(self) -> Kernel:
        """Weighted gradients."""
        return Kernel("autograd", self.weighted, copies=1, together=SMALL_REPLICA)

    @property
    def moments(self) -> Kernel:
        """Weighted gradients and moments, from the gradient of each sample."""
        return Kernel(
            "per sample",
            self.sums,
            copies=1,
            together=SMALL_REPLICA,
            alone=PER_SAMPLE,
            per_sample=True,
        )

    def weighted(self, theta: Parameters, weights: Weights, batch: Batch) -> tuple[Parameters]:
        """sum_i w_i grad l_i."""
        layout = self.model.layout
        if len(theta) == 1:
            single = self.model.prepared(layout.unflatten(theta[0].detach()))
            leaves = {k: v.detach().requires_grad_() for k, v in single.items()}
            with torch.enable_grad():
                total = weights[0] @ self.model.losses(leaves, batch.of(0))
            gradients = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
            return (layout.flatten(dict(zip(layout.names, gradients, strict=True))).unsqueeze(0),)

        def total_loss(parameters: dict[str, Tensor], w: Tensor, data: Data) -> Tensor:
            return (w * self.model.losses(parameters, data)).sum()

        each = self.model.vectorised(grad(total_loss), in_dims=(0, 0, _data_dim(batch)))
        return (layout.flatten(each(layout.unflatten(theta.detach()), weights, batch.data), 1),)

    def per_sample(self, theta: Parameters, batch: Batch) -> SampleGradients:
        """g_i."""
        layout = self.model.layout
        parameters = layout.unflatten(theta.detach())
        weights_dim = None
        if self.model.recurrent:
            n = batch.data.targets.shape[0 if batch.shared else 1]
            parameters = {
                k: v.unsqueeze(1).expand(-1, n, *v.shape[1:]) for k, v in parameters.items()
            }
            weights_dim = 0
        over_samples = self.model.vectorised(grad(self.model.sample_loss), in_dims=(weights_dim, 0))
        if len(theta) == 1:
            single = {name: value[0] for name, value in parameters.items()}
            return layout.flatten(over_samples(single, batch.of(0)), 1).unsqueeze(0)
        over_replicas = self.model.vectorised(over_samples, in_dims=(0, _data_dim(batch)))
        return layout.flatten(over_replicas(parameters, batch.data), 2)

    def sums(self, theta: Parameters, weights: Weights, batch: Batch) -> WeightedMoments:
        """sum_i w_i g_i, sum_i g_i and sum_i g_i^2."""
        return WeightedMoments(*sums_over_samples(self.per_sample(theta, batch), weights))

    def hessian_product(self, theta: Parameters, vector: Parameters, batch: Batch) -> Parameters:
        """sum_i (Hessian of l_i) vector, by differentiating <grad, vector>."""
        layout = self.model.layout

        def slope(parameters: dict[str, Tensor], v: dict[str, Tensor], data: Data) -> Tensor:
            gradient = grad(lambda p: self.model.losses(p, data).sum())(parameters)
            total = torch.stack([(gradient[name] * v[name]).sum() for name in layout.names])
            return total.sum()

        each = self.model.vectorised(grad(slope), in_dims=(0, 0, _data_dim(batch)))
        parts = each(layout.unflatten(theta.detach()), layout.unflatten(vector), batch.data)
        return layout.flatten(parts, 1)


def sums_over_samples(
    gradients: Float[Tensor, "*replica n param"], weights: Float[Tensor, "*replica n"]
) -> tuple[Tensor, Tensor, Tensor]:
    """sum_i w_i g_i, sum_i g_i and sum_i g_i^2, in two readings; the gradients are overwritten."""
    ones = torch.ones_like(weights)
    both = torch.stack([weights, ones], -2) @ gradients
    second = ones.unsqueeze(-2) @ gradients.mul_(gradients)
    return both[..., 0, :], both[..., 1, :], second.squeeze(-2)


def _data_dim(batch: Batch) -> int | None:
    return None if batch.shared else 0
