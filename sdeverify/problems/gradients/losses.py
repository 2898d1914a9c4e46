"""Per-sample losses: the cross-entropy is evaluated in the layout in which it is fast."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from sdeverify.base.shapes import Float, Int, Tensor, Weights

PerSampleLoss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> one value a sample."""

FEW_CLASSES = 64
"""Up to here a softmax along the last, short dimension is slow on a CPU."""


def cross_entropy(
    logits: Float[Tensor, "n classes"], targets: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """-log softmax(logits)[target], with the classes moved to the front.

    The same numbers as `torch.nn.functional.cross_entropy(..., reduction="none")` to rounding;
    along a short last dimension torch's own is several times slower on a CPU.
    """
    log_probabilities = torch.log_softmax(logits.mT.contiguous(), 0)
    return -log_probabilities.gather(0, targets.unsqueeze(0)).squeeze(0)


def cross_entropy_signal(
    logits: Float[Tensor, "replica classes n"],
    targets: Int[Tensor, "own n"],
    weights: Weights | None,
) -> Float[Tensor, "replica classes n"]:
    """d(sum_i w_i l_i)/d(logits) = w (softmax(logits) - one-hot(target)); w = 1 where not given."""
    signal = torch.softmax(logits, 1)
    hits = targets.unsqueeze(1).expand(len(logits), 1, -1)
    signal.scatter_add_(1, hits, signal.new_full((1, 1, 1), -1.0).expand(hits.shape))
    return signal if weights is None else signal.mul_(weights.unsqueeze(1))


def fast_loss(loss: PerSampleLoss, outputs: Tensor, targets: Tensor) -> PerSampleLoss:
    """`cross_entropy` where `loss` is known to be the plain cross-entropy on a CPU, else `loss`.

    `outputs` and all `targets` are looked at: class indices in range and few classes.
    """
    fits = (
        outputs.dim() == 2
        and targets.dim() == 1
        and targets.dtype == torch.int64
        and 2 <= outputs.shape[1] <= FEW_CLASSES
        and outputs.device.type == "cpu"
    )
    if not (fits and is_plain_cross_entropy(loss)):
        return loss
    low, high = targets.aminmax()
    return cross_entropy if int(low) >= 0 and int(high) < outputs.shape[1] else loss


def is_plain_cross_entropy(loss: PerSampleLoss) -> bool:
    """Whether this is the cross-entropy without class weights, smoothing or special targets."""
    if type(loss) is nn.CrossEntropyLoss:
        return (
            loss.weight is None
            and loss.label_smoothing == 0
            and loss.reduction == "none"
            and loss.ignore_index < 0
        )
    if isinstance(loss, functools.partial):
        return (
            loss.func is F.cross_entropy
            and not loss.args
            and loss.keywords == {"reduction": "none"}
        )
    return False
