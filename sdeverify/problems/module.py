"""Any `torch.nn.Module` with data and a per-sample loss, as a problem on ensembles."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from sdeverify.base.arguments import memory_budget
from sdeverify.base.devices import check_device
from sdeverify.base.shapes import Tensor
from sdeverify.errors import InvalidInputError
from sdeverify.problems.checks import (
    check_loss_parameters,
    check_modules,
    check_parameters,
    check_samples,
)
from sdeverify.problems.gradients.losses import PerSampleLoss
from sdeverify.problems.gradients.parameters import (
    ParameterLayout,
    flatten_parameters,
    load_parameters,
)
from sdeverify.problems.gradients.samples import NetInputs, Samples
from sdeverify.problems.module_problem import LEAST_BYTES, ModuleProblem

__all__ = ["ModuleProblem", "flatten_parameters", "load_parameters", "problem_from_module"]


def problem_from_module(
    net: nn.Module,
    inputs: NetInputs,
    targets: Tensor,
    loss: PerSampleLoss,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory: int | str | None = None,
    compiled: bool = False,
) -> ModuleProblem:
    """f(theta) = (1/N) sum_i loss(net_theta(inputs_i), targets_i).

    Args:
        net: any module that treats the first dimension of its inputs as the sample. It is copied;
            parameters with `requires_grad=False` and buffers are held fixed at their values.
        inputs: a tensor `(sample, ...)`, or a tuple or dict of them: net(*inputs), net(**inputs).
        targets: `(sample, ...)`.
        loss: (outputs, targets) -> one value a sample, for instance
            `nn.CrossEntropyLoss(reduction="none")`.
        dtype: of the computation, at least 32 bits; the parameters' own by default, and float32
            with a warning where these have 16.
        device: the parameters' own by default.
        memory: budget for temporary memory, in bytes or as a text, "2GB" (by default 1 GiB);
            replicas and samples are cut into chunks that fit.
        compiled: compile gradients, moments and Euler-Maruyama steps: the same numbers to
            rounding, compared on first use, at a cost of seconds (for a large net a minute) for
            each new shape of the work, and for each SDE and step size. What cannot be compiled is
            computed as it is, with a warning.

    Raises:
        UnsupportedError: the loss is no mean over samples (batch normalisation, dropout, a loss
            that is already reduced, ...), as a trial on some samples by plain torch shows; culprit
            and remedy are named.
        InvalidInputError: data or parameters that do not fit together or are not finite.

    Warns:
        UserWarning: `torch.func` does not take the net, so that it is computed in a loop.

    Example:
        >>> net, loss = torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss(reduction="none")
        >>> problem = sv.problem_from_module(net, torch.randn(8, 3), torch.tensor([0, 1] * 4), loss)
        >>> theta = sv.flatten_parameters(net)[None]  # (replica, param)
        >>> problem.samples, problem.dim, tuple(problem.gradient(theta).shape)
        (8, 8, (1, 8))
    """
    check_device(device)
    net = _unwrapped(net)
    check_modules(net)
    layout = ParameterLayout.of(net)
    check_parameters(net, layout)
    check_loss_parameters(loss)
    samples = Samples.of(inputs, targets)
    check_samples(samples)
    first = next(iter(layout.live.values()))
    return ModuleProblem.assemble(
        net,
        layout,
        samples,
        loss,
        reference=layout.flatten({k: p.detach() for k, p in layout.live.items()}),
        dtype=dtype or _wide_enough(_common_dtype(layout)),
        device=torch.device(first.device if device is None else device),
        memory=None if memory is None else memory_budget(memory),
        compiled=compiled,
    )


def _unwrapped(net: nn.Module) -> nn.Module:
    """The net itself, where it came from `torch.compile` or is spread over devices."""
    if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
        net = net.module
    own = getattr(net, "_orig_mod", net)
    return own if isinstance(own, nn.Module) else net


def _wide_enough(dtype: torch.dtype) -> torch.dtype:
    """float32 in place of a type of 16 bits, with a warning."""
    if dtype.itemsize >= LEAST_BYTES:
        return dtype
    warnings.warn(
        f"the net's parameters are {dtype}. Loss, gradients and steps are computed in float32 from "
        f"their values: the small steps of an SDE are lost in {dtype}, and the rounding of a run "
        f"in {dtype} is no part of what is computed.",
        stacklevel=3,
    )
    return torch.float32


def _common_dtype(layout: ParameterLayout) -> torch.dtype:
    dtypes = {p.dtype for p in layout.live.values()}
    if len(dtypes) != 1:
        raise InvalidInputError(
            f"the net's parameters have several dtypes, {sorted(map(str, dtypes))}. "
            "Say which one to compute in: dtype=torch.float32."
        )
    return dtypes.pop()
