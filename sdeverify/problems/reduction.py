"""Whether a loss is one value a sample; where it is not, what to use in its place.

A loss that is reduced over a batch may be the mean over its samples, their sum, or neither: with
class weights, or targets that are ignored, torch divides by the batch's own sum of weights, and
that ratio is no mean over samples.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from sdeverify.base.shapes import Tensor
from sdeverify.errors import UnsupportedError
from sdeverify.problems.gradients.losses import PerSampleLoss
from sdeverify.problems.gradients.samples import Samples

RATIO = (
    "the loss {} divides the sum over a batch by that batch's own sum of weights (class weights, "
    "or the number of targets that are not ignored). Such a ratio is no mean over samples, so no "
    "SDE here has it. What can be verified is the loop with a constant in the divisor's place: "
    'with each = the same loss with reduction="none", summed over a sample\'s own entries, and '
    "c = the mean over all the data of a sample's sum of weights, use "
    "loss=lambda outputs, targets: each(outputs, targets) / c here and loss(...).mean() in the "
    "loop. That is another loop than torch's own mean, which divides each batch by another number."
)


def loss_name(loss: PerSampleLoss) -> str:
    """A name for messages."""
    return getattr(loss, "__name__", type(loss).__name__)


def check_loss_values(
    loss: PerSampleLoss, losses: Any, outputs: Tensor, targets: Tensor, samples: Samples
) -> None:
    """Refuses what is not one value a sample, with what would be.

    Args:
        losses: what the loss makes of `outputs` and `targets`, those of some of the `samples`.

    Raises:
        UnsupportedError: says what the loss is, and what gives the same gradient.
    """
    name, count = loss_name(loss), len(targets)
    if not isinstance(losses, Tensor):
        raise UnsupportedError(
            f"the loss {name} returns a {type(losses).__name__}; a tensor of one value a sample is "
            "wanted, which can be differentiated (without item() or float())."
        )
    if tuple(losses.shape) == (count,) and losses.dim() == 1:
        return
    if _broadcasts(outputs, targets):
        raise UnsupportedError(
            f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)} "
            f"broadcast to all pairs of samples in the loss {name}. Pass "
            + ("targets.unsqueeze(1)." if outputs.dim() > targets.dim() else "targets.squeeze(1).")
        )
    if losses.dim() == 0:
        raise UnsupportedError(_reduced(loss, losses, outputs, targets, samples))
    if setting(loss, "reduction") == "none" and _is_weighted(loss, samples.data.targets, False):
        raise UnsupportedError(RATIO.format(name))
    raise UnsupportedError(
        f"the loss {name} returns shape {tuple(losses.shape)} for {count} samples; one value a "
        f"sample, ({count},), is wanted. Sum or average over the other dimensions, as your loop "
        "does: for the mean over all entries, loss(outputs, targets).flatten(1).mean(1)."
    )


def _broadcasts(outputs: Tensor, targets: Tensor) -> bool:
    long, short = sorted((outputs, targets), key=lambda x: -x.dim())
    return tuple(long.shape) == (len(targets), 1) and short.dim() == 1


def _reduced(
    loss: PerSampleLoss, total: Tensor, outputs: Tensor, targets: Tensor, samples: Samples
) -> str:
    name, reduction = loss_name(loss), setting(loss, "reduction")
    what = f"has reduction='{reduction}'" if reduction else "is already reduced to a single number"
    alone = torch.stack(
        [loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(targets))]
    ).detach()
    total = total.detach()
    if _close(total, alone.sum()) and len(targets) > 1:
        return (
            f"the loss {name} {what}: the sum over the batch, which is the batch size times the "
            'mean that is modelled. Use reduction="none" and loss(...).mean() in the loop; or, for '
            "the loop as it is, loss=lambda outputs, targets: batch_size * each(outputs, targets) "
            'with each = the same loss with reduction="none", summed over a sample\'s own entries.'
        )
    if _is_weighted(loss, samples.data.targets, True) or not _close(total, alone.mean()):
        return RATIO.format(name)
    return (
        f"the loss {name} {what}; one value a sample is wanted, and sdeverify takes the mean over "
        f'samples itself. Use reduction="none"{_rest(loss, outputs, targets, alone)}'
    )


def _rest(loss: PerSampleLoss, outputs: Tensor, targets: Tensor, alone: Tensor) -> str:
    """How the values of `reduction="none"` become one a sample, tried out."""
    if not (isinstance(loss, nn.Module) and hasattr(loss, "reduction")):
        return (
            ', as in nn.CrossEntropyLoss(reduction="none"), and average over a sample\'s own '
            "entries as your loss does over the batch's."
        )
    twin = copy.deepcopy(loss)
    twin.reduction = "none"  # type: ignore[assignment]
    values = twin(outputs, targets).detach()
    if values.dim() == 1:
        return f', as in nn.{type(loss).__name__}(reduction="none").'
    for way in ("mean", "sum"):
        if _close(getattr(values.flatten(1), way)(1), alone):
            return f": loss=lambda outputs, targets: each(outputs, targets).flatten(1).{way}(1)."
    return ", and reduce over a sample's own entries as your loss does over the batch's."


def setting(loss: PerSampleLoss, name: str, default: Any = None) -> Any:
    """An option of a loss object or of a partial function."""
    return (getattr(loss, "keywords", None) or {}).get(name, getattr(loss, name, default))


def _is_weighted(loss: PerSampleLoss, targets: Tensor, by_class: bool) -> bool:
    """Whether class weights differ (where `by_class`), or some targets are ignored."""
    ignored, weight = setting(loss, "ignore_index"), setting(loss, "weight")
    holes = isinstance(ignored, int) and not targets.is_floating_point()
    if holes and bool((targets == ignored).any()):
        return True
    categorical = isinstance(ignored, int) and isinstance(weight, Tensor)
    return by_class and categorical and bool((weight != weight.flatten()[0]).any())


def _close(x: Tensor, want: Tensor) -> bool:
    tolerance = torch.finfo(want.dtype).eps ** 0.5
    return bool(((x - want).abs() <= tolerance * (1e-3 + want.abs())).all())
