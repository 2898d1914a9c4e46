"""A net and its loss as pure functions of the parameters."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from sdeverify.base.shapes import Float, Tensor
from sdeverify.errors import UnsupportedError
from sdeverify.problems.gradients.losses import PerSampleLoss
from sdeverify.problems.gradients.parameters import ParameterLayout
from sdeverify.problems.gradients.samples import Data

NARROW = 8
"""Strided 1 x 1 convolutions of fewer input channels keep their layout."""


@dataclass(frozen=True)
class FunctionalModel:
    """Outputs and per-sample losses for given parameters.

    Args:
        net: a private copy of the user's net, so that neither its mode nor its weights change.
        layout: the order of the trainable parameters.
        fixed: frozen parameters and buffers.
        loss: one value a sample.
        dtype: of parameters and floating-point data.
        kernels: the names of the convolutions' weights that have their channels last on a CPU.
    """

    net: nn.Module
    layout: ParameterLayout
    fixed: Mapping[str, Tensor]
    loss: PerSampleLoss
    dtype: torch.dtype
    kernels: frozenset[str]

    def outputs(self, parameters: Mapping[str, Tensor], data: Data) -> Tensor:
        """net(inputs) on a batch, at parameters given by name."""
        everything = {**self.fixed, **parameters}
        result: Tensor = functional_call(self.net, everything, data.args, data.kwargs)
        return result

    def losses(self, parameters: Mapping[str, Tensor], data: Data) -> Float[Tensor, " n"]:
        """l_i for each sample of a batch."""
        return self.loss(self.outputs(parameters, data), data.targets)

    def sample_loss(self, parameters: Mapping[str, Tensor], sample: Data) -> Float[Tensor, ""]:
        """l_i of one sample, given without its batch dimension."""
        return self.losses(parameters, sample.map(lambda x: x.unsqueeze(0))).squeeze(0)

    def prepared(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One replica's parameters in the layout in which they are fast.

        On a CPU a convolution is faster, and so is all that follows it, where its weight has the
        channels last.
        """
        return {
            name: value.to(memory_format=torch.channels_last) if name in self.kernels else value
            for name, value in parameters.items()
        }

    @cached_property
    def recurrent(self) -> bool:
        """Whether the net has recurrent layers, which need special care under `vmap`."""
        return any(isinstance(module, nn.RNNBase) for module in self.net.modules())

    def vectorised(
        self, function: Callable[..., Any], in_dims: tuple[int | None, ...]
    ) -> Callable[..., Any]:
        """`vmap`, with attention and recurrent layers in their explicit forms.

        Their fused kernels have no rule for `vmap`, and attention's no second derivative.
        """

        def call(*args: Any) -> Any:
            kernels = _without_onednn() if self.recurrent else nullcontext()
            with sdpa_kernel(SDPBackend.MATH), kernels, warnings.catch_warnings():
                warnings.filterwarnings("ignore", "There is a performance drop")
                return vmap(function, in_dims=in_dims)(*args)

        return call


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Recurrent layers step by step, not by oneDNN's fused kernel."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def convolution_weights(net: nn.Module) -> frozenset[str]:
    """The names of the weights of two-dimensional convolutions, for `FunctionalModel.kernels`.

    None where a strided 1 x 1 convolution has few input channels: oneDNN computes its gradient
    wrongly, crashes or hangs where the channels are last (uxlfoundation/oneDNN 6035).
    """
    layers = {path: m for path, m in net.named_modules() if type(m) is nn.Conv2d}
    narrow = (
        m.in_channels < NARROW and m.kernel_size == (1, 1) and m.stride != (1, 1)
        for m in layers.values()
    )
    if any(narrow):
        return frozenset()
    return frozenset(f"{path}.weight" if path else "weight" for path in layers)


def copy_of(net: nn.Module) -> nn.Module:
    """A copy of the net; what it remembers of an earlier pass is cut off from that pass's graph."""
    held = [x for module in net.modules() for x in pytree.tree_leaves(vars(module))]
    memo = {id(x): x.detach() for x in held if isinstance(x, Tensor) and not x.is_leaf}
    try:
        with torch.no_grad():  # TorchScript's copies would have a history
            return copy.deepcopy(net, memo)
    except Exception as error:
        raise UnsupportedError(
            f"{type(net).__name__} cannot be copied ({type(error).__name__}: {error}). Let it hold "
            "nothing but modules, parameters, buffers and plain values: no open files, locks, "
            "generators or activations of an earlier pass."
        ) from error


def private_copy(net: nn.Module) -> nn.Module:
    """A copy that computes the same function and is safe under `torch.func`.

    In-place activations become out-of-place ones, gradients of embeddings dense ones, and the fused
    inference kernels of transformer layers in eval mode (which `vmap` does not cover) are switched
    off: such a layer is put in train mode with its dropout set to 0, which is the same function.
    """
    twin = copy_of(net)
    fused = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
    for module in list(twin.modules()):
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False
        if type(module) in fused and not module.training:
            module.training = True
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


def fixed_values(
    net: nn.Module, layout: ParameterLayout, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Copies of the frozen parameters and the buffers, floating-point ones in `dtype`."""
    named = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {
        name: value.detach().to(
            device, dtype if value.is_floating_point() else value.dtype, copy=True
        )
        for name, value in named.items()
        if name not in layout.live
    }


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass, parameters included."""
    kept: list[int] = []

    def note(x: Tensor) -> Tensor:
        kept.append(x.numel() * x.element_size())
        return x

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        forward()
    return sum(kept)
