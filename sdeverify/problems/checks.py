"""What `problem_from_module` refuses, by name and with the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import UninitializedParameter
from torch.utils.data import DataLoader, Dataset

from sdeverify.base.shapes import Tensor
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.problems.gradients.losses import PerSampleLoss
from sdeverify.problems.gradients.parameters import NO_PARAMETERS, ParameterLayout
from sdeverify.problems.gradients.samples import Samples

MOST_NAMED = 3
"""Layers that a refusal names of one kind."""


def check_modules(net: nn.Module) -> None:
    """Refuses layers under which the loss is no mean over samples, or is random.

    Raises:
        UnsupportedError: names each culprit by its path in the net, with the remedy.
    """
    culprits: dict[str, list[str]] = {}
    for path, module in _paths(net):
        if reason := _objection(module):
            culprits.setdefault(f"{type(module).__name__} {reason}", []).append(path or "net")
    if culprits:
        lines = [f"{_listed(paths)}: {reason}" for reason, paths in culprits.items()]
        raise UnsupportedError("this net is not supported.\n  " + "\n  ".join(lines))


def _listed(paths: list[str]) -> str:
    more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
    return ", ".join(paths[:MOST_NAMED]) + more


def _paths(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in net.named_modules():
        yield (f"net.{name}" if name else ""), module


def _objection(module: nn.Module) -> str | None:
    """Why this one layer cannot be used, with the remedy; None where it can."""
    if isinstance(module, _BatchNorm):
        return _batch_norm_objection(module)
    if isinstance(module, _InstanceNorm) and module.training and module.track_running_stats:
        return (
            "in train mode updates running statistics at every pass. Use "
            "track_running_stats=False, or net.eval()."
        )
    if isinstance(module, nn.RReLU) and module.training:
        return "in train mode is random. Use nn.LeakyReLU, or net.eval()."
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return _embedding_objection(module)
    rate = _dropout_rate(module)
    if module.training and rate > 0:
        return (
            f"with dropout {rate:g} in train mode makes the loss random. "
            "Set its dropout to 0, or net.eval()."
        )
    return None


def _embedding_objection(module: nn.Embedding | nn.EmbeddingBag) -> str | None:
    if module.max_norm is not None:
        return (
            "with max_norm rescales its rows in every forward pass, a step besides the "
            "optimizer's. Use max_norm=None."
        )
    if module.scale_grad_by_freq:
        return (
            "with scale_grad_by_freq divides its gradient by counts in the batch, so it is not a "
            "mean over samples. Use scale_grad_by_freq=False."
        )
    return None


def _batch_norm_objection(module: _BatchNorm) -> str | None:
    if module.training:
        return (
            "in train mode ties the samples of a batch together, so the loss is not a mean over "
            "samples. Use net.eval() with running statistics that are already there, or "
            "nn.GroupNorm."
        )
    if module.running_mean is None:
        return (
            "without running statistics normalises by the batch even in eval mode, so the loss is "
            "not a mean over samples. Use nn.GroupNorm, or track_running_stats=True and net.eval()."
        )
    return None


def _dropout_rate(module: nn.Module) -> float:
    if isinstance(module, _DropoutNd):
        return module.p
    if isinstance(module, nn.RNNBase):
        return module.dropout if module.num_layers > 1 else 0.0
    return module.dropout if isinstance(module, nn.MultiheadAttention) else 0.0


def check_parameters(net: nn.Module, layout: ParameterLayout) -> None:
    """Refuses uninitialised, missing, non-real and non-finite parameters."""
    named = dict(net.named_parameters())
    for name, value in named.items():
        if isinstance(value, UninitializedParameter):
            raise InvalidInputError(
                f"net.{name} is not initialised yet. Call net(inputs[:1]) once beforehand."
            )
    if not layout.names:
        raise InvalidInputError(NO_PARAMETERS.format(type(net).__name__))
    for name, value in named.items():
        if not value.is_floating_point():
            raise UnsupportedError(f"net.{name} is {value.dtype}; parameters must be real numbers.")
    check_finite({f"net.{name}": value for name, value in named.items()})


def check_samples(samples: Samples) -> None:
    """Refuses data without samples, of different lengths, complex or not finite."""
    named = samples.data.tensors()
    if len(named) == 1:
        raise InvalidInputError("inputs are empty; pass a tensor, a tuple or a dict of tensors.")
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise InvalidInputError(
                f"{name} must be a torch.Tensor; got {type(value).__name__}. {_as_tensor(value)}"
            )
        if value.dim() == 0:
            raise InvalidInputError(
                f"{name} needs a leading sample dimension; got a single number."
            )
        if value.is_complex():
            raise UnsupportedError(f"{name} is {value.dtype}; real numbers are wanted.")
    lengths = {name: len(value) for name, value in named.items()}
    if len(set(lengths.values())) != 1:
        raise InvalidInputError(
            "inputs and targets must have one entry a sample, so the same length; got "
            + ", ".join(f"{name}: {count}" for name, count in lengths.items())
            + ". Cut or reorder them to match."
        )
    if samples.count == 0:
        raise InvalidInputError("inputs and targets hold no sample; at least one is needed.")
    check_finite(named)


def _as_tensor(value: object) -> str:
    """How to make a tensor of what came in its place."""
    if isinstance(value, DataLoader | Dataset):
        return (
            "All samples are wanted at once: inputs, targets = map(torch.stack, zip(*dataset)) for "
            "a dataset of pairs of tensors, as a DataLoader's .dataset is."
        )
    if isinstance(value, list):
        return "Use torch.as_tensor(...), or a tuple where the net takes several inputs."
    return "Use torch.as_tensor(...)."


def check_finite(named: Mapping[str, Tensor]) -> None:
    """Refuses NaN and infinity."""
    for name, value in named.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise InvalidInputError(
                f"{name} has {bad} values that are not finite. Remove or replace them."
            )


def check_loss_parameters(loss: PerSampleLoss) -> None:
    """Refuses a loss object that has parameters of its own, or the net's."""
    if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
        raise UnsupportedError(
            f"{type(loss).__name__} has trainable parameters, which would be constants here. Put "
            "them into the net, which then returns what the loss needs of them, and let "
            "loss(outputs, targets) have none."
        )


def check_ensemble(
    dim: int,
    samples: int,
    dtype: torch.dtype,
    theta: Tensor,
    weights: Tensor | None,
    indices: Tensor | None,
) -> int:
    """Refuses parameters, weights and subsets that do not fit a problem or each other.

    Returns:
        The number of samples of each replica.
    """
    if theta.dim() != 2 or theta.shape[1] != dim:
        raise InvalidInputError(
            f"theta must have shape (replica, {dim}); got {tuple(theta.shape)}. "
            "For one point pass theta.unsqueeze(0)."
        )
    if theta.dtype != dtype:
        raise InvalidInputError(
            f"theta is {theta.dtype}, the problem computes in {dtype}. Make the problem "
            f"with dtype={theta.dtype}, or pass theta.to({dtype})."
        )
    if indices is not None and (indices.dim() != 2 or len(indices) != len(theta)):
        raise InvalidInputError(
            f"indices must have shape ({len(theta)}, n), a subset for each replica; "
            f"got {tuple(indices.shape)}."
        )
    n = samples if indices is None else indices.shape[1]
    if weights is not None and tuple(weights.shape) != (len(theta), n):
        raise InvalidInputError(
            f"weights must have shape ({len(theta)}, {n}), one a replica and sample; "
            f"got {tuple(weights.shape)}."
        )
    return n
