"""Per-layer sums over samples of w g, g and g^2, from a layer's input and its backward signal.

Every rule is written for one replica: `a` is the layer's input and `b` = dl/d(output), both with
the sample as leading dimension. Where a parameter is used at several positions of one sample, its
per-sample gradient is the sum over the positions, formed here layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from sdeverify.problems.general import sums_over_samples
from sdeverify.shapes import Float, Tensor

Sums = tuple[Tensor, Tensor, Tensor]
"""sum_i w_i g_i, sum_i g_i and sum_i g_i^2 of one parameter."""
Rule = Callable[[nn.Module, Tensor, Tensor, Tensor], dict[str, Sums]]
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


def linear(module: nn.Module, a: Tensor, b: Tensor, w: Float[Tensor, " n"]) -> dict[str, Sums]:
    """nn.Linear: products of a and b where it acts once a sample, else per-sample products."""
    if a.dim() == 2:
        squared = b.square()
        rows = torch.stack([w, torch.ones_like(w)]) @ b
        return {
            "weight": ((w.unsqueeze(1) * b).mT @ a, b.mT @ a, squared.mT @ a.square()),
            "bias": (rows[0], rows[1], squared.sum(0)),
        }
    a, b = a.flatten(1, -2), b.flatten(1, -2)
    return {"weight": _sums(b.mT @ a, w), "bias": _sums(b.sum(1), w)}


def convolution(module: nn.Module, a: Tensor, b: Tensor, w: Float[Tensor, " n"]) -> dict[str, Sums]:
    """nn.Conv2d: a linear layer acting at every position of the unfolded image."""
    assert isinstance(module, nn.Conv2d) and not isinstance(module.padding, str)
    patches = F.unfold(a, module.kernel_size, module.dilation, module.padding, module.stride)
    b = b.flatten(2)
    each = b @ patches.mT
    weight = _sums(each, w)
    shape = module.weight.shape
    return {
        "weight": (weight[0].view(shape), weight[1].view(shape), weight[2].view(shape)),
        "bias": _sums(b.sum(2), w),
    }


def normalisation(
    module: nn.Module, a: Tensor, b: Tensor, w: Float[Tensor, " n"]
) -> dict[str, Sums]:
    """nn.LayerNorm and nn.GroupNorm: y = gamma x + beta with the normalised input x."""
    if isinstance(module, nn.LayerNorm):
        x = F.layer_norm(a, module.normalized_shape, eps=module.eps)
        positions = math.prod(a.shape[1 : a.dim() - len(module.normalized_shape)])
        shape = (len(a), positions, *module.normalized_shape)
        gamma, beta = (b * x).reshape(shape).sum(1), b.reshape(shape).sum(1)
    else:
        assert isinstance(module, nn.GroupNorm)
        x = F.group_norm(a, module.num_groups, eps=module.eps)
        shape = (len(a), a.shape[1], -1)
        gamma, beta = (b * x).reshape(shape).sum(2), b.reshape(shape).sum(2)
    return {"weight": _sums(gamma, w), "bias": _sums(beta, w)}


def embedding(module: nn.Module, a: Tensor, b: Tensor, w: Float[Tensor, " n"]) -> dict[str, Sums]:
    """nn.Embedding: the signals of each word's positions, summed."""
    assert isinstance(module, nn.Embedding)
    words, b = a.flatten(1), b.flatten(1, -2)
    if module.padding_idx is not None:
        b = b * (words != module.padding_idx).unsqueeze(-1)
    vocabulary = torch.arange(module.num_embeddings, device=words.device)
    hot = (words.unsqueeze(1) == vocabulary.view(-1, 1)).to(b.dtype)
    return {"weight": _sums(hot @ b, w)}


def _sums(each: Tensor, w: Float[Tensor, " n"]) -> Sums:
    shape = each.shape[1:]
    weighted, total, second = sums_over_samples(each.flatten(1), w)
    return weighted.view(shape), total.view(shape), second.view(shape)
