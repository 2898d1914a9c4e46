"""Per-layer sums over samples of w g, g and g^2, from a layer's input and its backward signal.

Every rule takes the layer's input `a` and `b` = dl/d(output), both with replica and sample as
leading dimensions. Where a parameter is used at several positions of one sample, its per-sample
gradient is the sum over the positions, formed here layer by layer for a few samples at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from sdeverify.base.cutting import PRODUCTS
from sdeverify.base.shapes import Float, Tensor, Weights
from sdeverify.problems.gradients.general import sums_over_samples

Sums = tuple[Tensor, Tensor, Tensor]
"""sum_i w_i g_i, sum_i g_i and sum_i g_i^2 of one parameter, each `(replica, *shape)`."""
Rule = Callable[[nn.Module, Tensor, Tensor, Weights], dict[str, Sums]]
"""(layer, input, signal, weights) -> the sums for each of the layer's parameters, by local name."""

LARGEST_VOCABULARY = 1024
"""Larger embeddings' per-sample gradients are left to the general route."""


def rule_for(module: nn.Module) -> Rule | None:
    """The fast rule of a layer, or None where it has none."""
    if type(module) is nn.Linear:
        return linear
    if type(module) is nn.Conv2d:
        plain = module.groups == 1 and module.padding_mode == "zeros"
        return convolution if plain and not isinstance(module.padding, str) else None
    if type(module) in (nn.LayerNorm, nn.GroupNorm):
        return normalisation
    if type(module) is nn.Embedding:
        special = module.max_norm is not None or module.scale_grad_by_freq or module.sparse
        return None if special or module.num_embeddings > LARGEST_VOCABULARY else embedding
    return None


def linear(module: nn.Module, a: Tensor, b: Tensor, w: Tensor) -> dict[str, Sums]:
    """nn.Linear: products of a and b where it acts once a sample, else per-sample products."""
    assert isinstance(module, nn.Linear)
    if a.dim() == 3:
        squared = b.square()
        rows = torch.stack([w, torch.ones_like(w)], 1) @ b
        weighted = (w.unsqueeze(-1) * b).mT @ a
        return {
            "weight": (weighted, b.mT @ a, squared.mT @ a.square()),
            "bias": (rows[:, 0], rows[:, 1], squared.sum(1)),
        }
    a, b = a.flatten(2, -2), b.flatten(2, -2)
    size = module.weight.numel()
    return {
        "weight": _sums(lambda part: b[:, part].mT @ a[:, part], w, size),
        "bias": _sums(lambda part: b[:, part].sum(2), w, module.out_features),
    }


def convolution(module: nn.Module, a: Tensor, b: Tensor, w: Tensor) -> dict[str, Sums]:
    """nn.Conv2d: a linear layer acting on the patch around every position, channels last."""
    assert isinstance(module, nn.Conv2d)
    out, channels, height, width = module.weight.shape
    signals = b.movedim(2, -1).flatten(2, 3)

    def products(part: slice) -> Tensor:
        return signals[:, part].mT @ patches(module, a[:, part])

    reach = height * width * channels
    sums = _sums(products, w, reach * (out + signals.shape[2]))
    shape = (-1, out, height, width, channels)
    weighted, total, second = (x.view(shape).movedim(-1, 2) for x in sums)
    return {
        "weight": (weighted, total, second),
        "bias": _sums(lambda part: signals[:, part].sum(2), w, out),
    }


def patches(
    module: nn.Conv2d, a: Float[Tensor, "replica n channel y x"]
) -> Float[Tensor, "replica n position reach"]:
    """What each output of a convolution sees, in the order (y, x, channel)."""
    assert not isinstance(module.padding, str)
    (up, left), (down, right) = module.padding, module.stride
    (high, wide), (sparse, spare) = module.kernel_size, module.dilation
    images = F.pad(a.flatten(0, 1).movedim(1, -1), (0, 0, left, left, up, up)).contiguous()
    rows = (images.shape[1] - sparse * (high - 1) - 1) // down + 1
    columns = (images.shape[2] - spare * (wide - 1) - 1) // right + 1
    image, row, column, channel = images.stride()
    windows = images.as_strided(
        (len(images), rows, columns, high, wide, images.shape[3]),
        (image, row * down, column * right, row * sparse, column * spare, channel),
    )
    return windows.reshape(*a.shape[:2], rows * columns, -1)


def normalisation(module: nn.Module, a: Tensor, b: Tensor, w: Tensor) -> dict[str, Sums]:
    """nn.LayerNorm and nn.GroupNorm: y = gamma x + beta with the normalised input x."""
    if isinstance(module, nn.LayerNorm):
        x = F.layer_norm(a, module.normalized_shape, eps=module.eps)
        positions = math.prod(a.shape[2 : a.dim() - len(module.normalized_shape)])
        shape = (*a.shape[:2], positions, *module.normalized_shape)
        gamma, beta = (b * x).reshape(shape).sum(2), b.reshape(shape).sum(2)
    else:
        assert isinstance(module, nn.GroupNorm)
        x = F.group_norm(a.flatten(0, 1), module.num_groups, eps=module.eps).view(a.shape)
        shape = (*a.shape[:3], -1)
        gamma, beta = (b * x).reshape(shape).sum(3), b.reshape(shape).sum(3)
    size = module.weight.numel()
    return {
        "weight": _sums(lambda part: gamma[:, part], w, size),
        "bias": _sums(lambda part: beta[:, part], w, size),
    }


def embedding(module: nn.Module, a: Tensor, b: Tensor, w: Tensor) -> dict[str, Sums]:
    """nn.Embedding: the signals of each word's positions, summed."""
    assert isinstance(module, nn.Embedding)
    words, b = a.flatten(2), b.flatten(2, -2)
    if module.padding_idx is not None:
        b = b * (words != module.padding_idx).unsqueeze(-1)
    vocabulary = torch.arange(module.num_embeddings, device=words.device).view(-1, 1)

    def products(part: slice) -> Tensor:
        return (words[:, part].unsqueeze(2) == vocabulary).to(b.dtype) @ b[:, part]

    size = module.num_embeddings * (module.embedding_dim + words.shape[2])
    return {"weight": _sums(products, w, size)}


def _sums(each: Callable[[slice], Tensor], w: Weights, size: int) -> Sums:
    """The sums over per-sample gradients `each(part)`, of fresh memory, a few samples at a time.

    Args:
        size: elements formed for each sample of a replica.
    """
    replicas, n = w.shape
    size_at_once = PRODUCTS if w.device.type == "cpu" else 128 * PRODUCTS
    step = max(1, size_at_once // (replicas * size * w.element_size()))
    total: Sums | None = None
    for start in range(0, n, step):
        part = slice(start, start + step)
        gradients = each(part)
        partial = sums_over_samples(gradients.flatten(2), w[:, part])
        if total is None:
            shape = (replicas, *gradients.shape[2:])
            total = (partial[0].view(shape), partial[1].view(shape), partial[2].view(shape))
        else:
            for whole, more in zip(total, partial, strict=True):
                whole.add_(more.view(whole.shape))
    assert total is not None
    return total
