"""Gradients by `torch.func`, right for every module: what the fast forms are checked against."""

from __future__ import annotations

from typing import Protocol

import torch
from torch.func import grad, vmap

from sdeverify.problems.functional import FunctionalModel
from sdeverify.problems.problem import WeightedMoments
from sdeverify.problems.samples import Batch, Data
from sdeverify.shapes import Float, Tensor


class GradientRoute(Protocol):
    """A way to compute sum_i w_i grad l_i for some replicas on some samples."""

    name: str

    def weighted(
        self,
        theta: Float[Tensor, "replica param"],
        weights: Float[Tensor, "replica n"],
        batch: Batch,
    ) -> Float[Tensor, "replica param"]:
        """sum_i w_i grad l_i."""


class MomentsRoute(Protocol):
    """A way to compute sums over samples of w_i g_i, g_i and g_i^2."""

    name: str

    def sums(
        self,
        theta: Float[Tensor, "replica param"],
        weights: Float[Tensor, "replica n"],
        batch: Batch,
    ) -> WeightedMoments:
        """sum_i w_i g_i, sum_i g_i and sum_i g_i^2 (sums, not means: chunks add up)."""

    def formed(self, theta: Float[Tensor, " param"], probe: Batch) -> int:
        """Elements of the largest per-sample gradient that is formed at one time."""


class General:
    """Gradient and moments for any module: `vmap` over replicas, and over samples for moments.

    A single replica goes without `vmap` where only one backward pass is needed, so that large nets
    run at the speed of plain autograd.
    """

    name = "per sample"

    def __init__(self, model: FunctionalModel) -> None:
        self.model = model

    def losses(self, theta: Float[Tensor, "replica param"], batch: Batch) -> Tensor:
        """l_i, shape `(replica, n)`."""
        if len(theta) == 1:
            parameters = self.model.layout.unflatten(theta[0])
            return self.model.losses(parameters, batch.of_one()).unsqueeze(0)
        parameters = self.model.layout.unflatten(theta)
        return vmap(self.model.losses, in_dims=(0, _data_dim(batch)))(parameters, batch.data)

    def outputs(self, theta: Float[Tensor, "replica param"], batch: Batch) -> Tensor:
        """net(inputs), shape `(replica, n, ...)`."""
        parameters = self.model.layout.unflatten(theta)
        return vmap(self.model.outputs, in_dims=(0, _data_dim(batch)))(parameters, batch.data)

    def weighted(
        self,
        theta: Float[Tensor, "replica param"],
        weights: Float[Tensor, "replica n"],
        batch: Batch,
    ) -> Float[Tensor, "replica param"]:
        """sum_i w_i grad l_i."""
        layout = self.model.layout
        if len(theta) == 1:
            leaves = {k: v.requires_grad_() for k, v in layout.unflatten(theta[0].detach()).items()}
            with torch.enable_grad():
                total = weights[0] @ self.model.losses(leaves, batch.of_one())
            found = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
            return layout.flatten(dict(zip(layout.names, found, strict=True))).unsqueeze(0)

        def total_loss(parameters: dict[str, Tensor], w: Tensor, data: Data) -> Tensor:
            return (w * self.model.losses(parameters, data)).sum()

        each = vmap(grad(total_loss), in_dims=(0, 0, _data_dim(batch)))
        return layout.flatten(each(layout.unflatten(theta.detach()), weights, batch.data), 1)

    def per_sample(
        self, theta: Float[Tensor, "replica param"], batch: Batch
    ) -> Float[Tensor, "replica n param"]:
        """g_i."""
        layout = self.model.layout
        parameters = layout.unflatten(theta.detach())
        over_samples = vmap(grad(self.model.sample_loss), in_dims=(None, 0))
        if len(theta) == 1:
            single = {name: value[0] for name, value in parameters.items()}
            return layout.flatten(over_samples(single, batch.of_one()), 1).unsqueeze(0)
        over_replicas = vmap(over_samples, in_dims=(0, _data_dim(batch)))
        return layout.flatten(over_replicas(parameters, batch.data), 2)

    def sums(
        self,
        theta: Float[Tensor, "replica param"],
        weights: Float[Tensor, "replica n"],
        batch: Batch,
    ) -> WeightedMoments:
        """sum_i w_i g_i, sum_i g_i and sum_i g_i^2."""
        return WeightedMoments(*sums_over_samples(self.per_sample(theta, batch), weights))

    def formed(self, theta: Float[Tensor, " param"], probe: Batch) -> int:
        """All parameters' at once."""
        return theta.numel()

    def hessian_product(
        self,
        theta: Float[Tensor, "replica param"],
        vector: Float[Tensor, "replica param"],
        batch: Batch,
    ) -> Float[Tensor, "replica param"]:
        """sum_i (Hessian of l_i) vector, by differentiating <grad, vector>."""
        layout = self.model.layout

        def slope(parameters: dict[str, Tensor], v: dict[str, Tensor], data: Data) -> Tensor:
            gradient = grad(lambda p: self.model.losses(p, data).sum())(parameters)
            total = torch.stack([(gradient[name] * v[name]).sum() for name in layout.names])
            return total.sum()

        each = vmap(grad(slope), in_dims=(0, 0, _data_dim(batch)))
        parts = each(layout.unflatten(theta.detach()), layout.unflatten(vector), batch.data)
        return layout.flatten(parts, 1)


def sums_over_samples(
    gradients: Float[Tensor, "*replica n param"], weights: Float[Tensor, "*replica n"]
) -> tuple[Tensor, Tensor, Tensor]:
    """sum_i w_i g_i, sum_i g_i and sum_i g_i^2, in two readings; the gradients are overwritten."""
    ones = torch.ones_like(weights)
    both = torch.stack([weights, ones], -2) @ gradients
    second = ones.unsqueeze(-2) @ gradients.square_()
    return both[..., 0, :], both[..., 1, :], second.squeeze(-2)


def _data_dim(batch: Batch) -> int | None:
    return None if batch.shared else 0
