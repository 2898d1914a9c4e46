"""What `problem_from_module` refuses, by name and with the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import UninitializedParameter

from sdeverify.base.shapes import Tensor
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.problems.gradients.functional import FunctionalModel
from sdeverify.problems.gradients.losses import PerSampleLoss
from sdeverify.problems.gradients.parameters import NO_PARAMETERS, ParameterLayout
from sdeverify.problems.gradients.samples import Samples

PROBE = 3
"""Samples that the trial evaluation looks at."""


def check_modules(net: nn.Module) -> None:
    """Refuses layers under which the loss is no mean over samples, or is random.

    Raises:
        UnsupportedError: names each culprit by its path in the net, with the remedy.
    """
    found = [
        f"{path or 'net'}: {type(module).__name__} {reason}"
        for path, module in _paths(net)
        if (reason := _objection(module))
    ]
    if found:
        raise UnsupportedError("this net is not supported.\n  " + "\n  ".join(found))


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
    if isinstance(module, nn.GRU):
        return (
            "cannot be differentiated sample by sample (torch.func has no rule for it). "
            "Use nn.LSTM, or a loop over nn.GRUCell."
        )
    rate = _dropout_rate(module)
    if module.training and rate > 0:
        return (
            f"with dropout {rate:g} in train mode makes the loss random. "
            "Set its dropout to 0, or net.eval()."
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
                f"{name} must be a torch.Tensor; got {type(value).__name__}. "
                "Use torch.as_tensor(...)."
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


def check_finite(named: Mapping[str, Tensor]) -> None:
    """Refuses NaN and infinity."""
    for name, value in named.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise InvalidInputError(
                f"{name} has {bad} values that are not finite. Remove or replace them."
            )


def check_loss_setting(loss: PerSampleLoss) -> None:
    """Refuses a loss object that reduces, or that has parameters of its own."""
    settings = getattr(loss, "keywords", None) or {}
    reduction = settings.get("reduction", getattr(loss, "reduction", "none"))
    if reduction != "none":
        name = type(loss).__name__
        raise UnsupportedError(_reduced(name, f"has reduction='{reduction}'"))
    if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
        raise UnsupportedError(
            f"{type(loss).__name__} has trainable parameters of its own. Put them into the net, "
            "and let loss(outputs, targets) have none."
        )


def _reduced(name: str, what: str) -> str:
    return (
        f'the loss {name} {what}; one value a sample is wanted. Use reduction="none", as in '
        'nn.CrossEntropyLoss(reduction="none"): sdeverify takes the mean itself.'
    )


def trial_outputs(model: FunctionalModel, theta: Tensor, samples: Samples) -> Tensor:
    """Evaluates the first samples and checks outputs, losses and buffers.

    Returns:
        The net's outputs on them.

    Raises:
        InvalidInputError: the net does not take these inputs.
        UnsupportedError: a reduced loss, another shape than one value a sample, a random net, a net
            that changes its buffers, or samples that depend on each other.
    """
    count = min(PROBE, samples.count)
    data = samples.first(count)
    parameters = model.layout.unflatten(theta)
    before = {name: value.clone() for name, value in model.fixed.items()}
    with torch.no_grad():
        try:
            outputs = model.outputs(parameters, data)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise InvalidInputError(_rejected(model, samples, error)) from error
        if not isinstance(outputs, Tensor):
            raise UnsupportedError(
                f"the net returns a {type(outputs).__name__}; a tensor is wanted. Wrap the net in "
                "a module whose forward returns the one tensor that the loss needs."
            )
        try:
            losses = model.loss(outputs, data.targets)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise InvalidInputError(
                f"the loss fails on outputs of shape {tuple(outputs.shape)} and targets of shape "
                f"{tuple(data.targets.shape)}, {data.targets.dtype}: {error}"
            ) from error
        _check_loss_shape(model.loss, losses, count)
        _check_buffers(model, before)
        alone = [
            model.losses(parameters, data.map(lambda x, i=i: x[i : i + 1]))  # type: ignore[misc]
            for i in range(count)
        ]
    _check_independent(losses, torch.cat([x.reshape(-1)[:1] for x in alone]))
    return outputs


def _rejected(model: FunctionalModel, samples: Samples, error: Exception) -> str:
    named = samples.data.tensors()
    shapes = ", ".join(
        f"{name}: {tuple(x.shape)}, {x.dtype}" for name, x in named.items() if name != "targets"
    )
    message = f"{type(model.net).__name__} does not take these inputs ({shapes}): {error}."
    whole = [n for n, x in named.items() if n != "targets" and not x.is_floating_point()]
    if whole:
        message += f" Where floating-point numbers are wanted, pass {whole[0]}.float()."
    return message


def _check_loss_shape(loss: PerSampleLoss, losses: Tensor, count: int) -> None:
    name = getattr(loss, "__name__", type(loss).__name__)
    if losses.dim() == 0:
        raise UnsupportedError(_reduced(name, "is already reduced to a single number"))
    if tuple(losses.shape) != (count,):
        raise UnsupportedError(
            f"the loss {name} returns shape {tuple(losses.shape)} for {count} samples; one value a "
            f"sample, ({count},), is wanted. Sum or average over the other dimensions: "
            "loss(outputs, targets).flatten(1).mean(1)."
        )


def _check_buffers(model: FunctionalModel, before: Mapping[str, Tensor]) -> None:
    for name, value in model.fixed.items():
        if not torch.equal(value, before[name]):
            raise UnsupportedError(
                f"net.{name} changes at every pass in train mode, so the loss is no function of "
                "the parameters alone. Use net.eval()."
            )


def _check_independent(together: Tensor, alone: Tensor) -> None:
    """A sample's loss must be the same alone, and evaluated again."""
    tolerance = torch.finfo(together.dtype).eps ** 0.5
    off = (together - alone).abs() > tolerance * (1 + together.abs())
    if bool(off.any()):
        i = int(off.nonzero()[0])
        raise UnsupportedError(
            f"the loss of sample {i} is {float(together[i]):.6g} in a batch and "
            f"{float(alone[i]):.6g} alone: the net is random, or ties the samples of a batch "
            "together (normalisation over the batch, or a recurrent layer that needs "
            "batch_first=True). The first dimension of the inputs must be the sample."
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
