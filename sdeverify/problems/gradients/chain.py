"""Chains of linear layers, all replicas side by side, with the backward pass written out.

For z = W a + c, with backward signals b_i = dl_i/dz_i, the per-sample gradients are b_i a_i^T, so

    sum_i w_i g_i = (w b)^T a,    sum_i g_i = b^T a,    sum_i g_i^2 = (b^2)^T (a^2):

matrix products, without a per-sample gradient ever being formed (the second moment as in
BackPACK: Dangel, Kunstner, Hennig 2020, arXiv 1912.10985). Outputs and signals are kept as
`(replica, feature, sample)`, in which the products, sums over samples and softmaxes are fastest,
and activations overwrite their inputs where the derivative is known from the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from sdeverify.base.cutting import MICROBATCH, SIDE_BY_SIDE
from sdeverify.base.shapes import Float, Parameters, Tensor, Weights
from sdeverify.problems.gradients.activations import Activation, stage_of
from sdeverify.problems.gradients.functional import FunctionalModel
from sdeverify.problems.gradients.kernels import Kernel
from sdeverify.problems.gradients.losses import cross_entropy, cross_entropy_signal
from sdeverify.problems.gradients.samples import Batch
from sdeverify.problems.problem import WeightedMoments

NAME = "dense chain"
NARROW = 32
"""Layers with so few outputs are multiplied faster two at a time."""


@dataclass(frozen=True)
class Dense:
    """A linear layer of the chain: the names of its weight and bias, and its weight's shape."""

    weight: str
    bias: str | None
    shape: tuple[int, int]


class Tape(NamedTuple):
    """What a forward pass leaves for the backward one.

    Args:
        inputs: for each linear layer its input, `(replica, n, in)`, or `(1, n, in)` where shared.
        activations: for each stage between two linear layers what its derivative is found from.
        tail: the last linear layer's output, `(replica, out, n)`.
    """

    inputs: list[Tensor]
    activations: list[Activation]
    tail: Float[Tensor, "replica out n"]


class DenseChain:
    """Weighted gradient and moments of `nn.Sequential` nets of linear and parameter-free layers."""

    def __init__(
        self,
        model: FunctionalModel,
        head: nn.Sequential,
        layers: list[Dense],
        between: list[nn.Sequential],
    ) -> None:
        self.model = model
        self.head = head
        self.layers = layers
        self.last = between[-1]
        self.stages = [stage_of(modules) for modules in between]

    @classmethod
    def of(cls, model: FunctionalModel) -> DenseChain | None:
        """The chain that a net is; None where it is none."""
        if type(model.net) is nn.Linear:
            return cls(model, nn.Sequential(), [_dense("", model.net)], [nn.Sequential()])
        if type(model.net) is not nn.Sequential:
            return None
        layers: list[Dense] = []
        groups: list[list[nn.Module]] = [[]]
        for name, module in _leaves(model.net, ""):
            if type(module) is nn.Linear:
                layers.append(_dense(name, module))
                groups.append([])
            elif any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
                return None
            else:
                groups[-1].append(module)
        owned = [x for x in model.net.modules() if type(x) is nn.Linear]
        if not layers or len(owned) != len(layers) or not cls._untied(model, layers):
            return None
        stages = [nn.Sequential(*group) for group in groups]
        return cls(model, stages[0], layers, stages[1:])

    @staticmethod
    def _untied(model: FunctionalModel, layers: list[Dense]) -> bool:
        names = [layer.weight for layer in layers] + [layer.bias for layer in layers if layer.bias]
        known = {*model.layout.names, *model.fixed}
        return len(set(names)) == len(names) and all(name in known for name in names)

    @property
    def gradient(self) -> Kernel:
        """Weighted gradients."""
        return Kernel(NAME, self.weighted, copies=2, together=SIDE_BY_SIDE, microbatch=MICROBATCH)

    @property
    def moments(self) -> Kernel:
        """Weighted gradients and moments."""
        return replace(self.gradient, sums=self.sums)

    def weighted(self, theta: Parameters, weights: Weights, batch: Batch) -> tuple[Parameters]:
        """sum_i w_i grad l_i."""
        out = torch.empty_like(theta)
        with torch.no_grad():
            matrices, tape = self._forward(theta, batch)
            signal = self._signal(tape, batch, weights)
            for layer, a, b in self._backward(matrices, tape, signal):
                self._write([out], layer, b, a)
        return (out,)

    def sums(self, theta: Parameters, weights: Weights, batch: Batch) -> WeightedMoments:
        """sum_i w_i g_i, sum_i g_i and sum_i g_i^2."""
        out = WeightedMoments(*(torch.empty_like(theta) for _ in range(3)))
        with torch.no_grad():
            matrices, tape = self._forward(theta, batch)
            signal = self._signal(tape, batch, None)
            scales = torch.stack([weights, torch.ones_like(weights)], 1).unsqueeze(2)
            for layer, a, b in self._backward(matrices, tape, signal):
                if layer.shape[0] <= NARROW:
                    both = (b.unsqueeze(1) * scales).flatten(1, 2)
                    self._write([out.weighted, out.mean], layer, both, a)
                    scratch = None
                else:
                    scratch = b * weights.unsqueeze(1)
                    self._write([out.weighted], layer, scratch, a)
                    self._write([out.mean], layer, b, a)
                    if not scratch.is_contiguous():  # as compiling asks for
                        scratch = None
                self._write([out.second], layer, torch.mul(b, b, out=scratch), a.square())
        return out

    def _write(self, outs: list[Tensor], layer: Dense, b: Tensor, a: Tensor) -> None:
        """The products and sums of one layer into their places in each `(replica, param)`.

        `b` has the signals for one of `outs` after those for the other, `(replica, outs * out, n)`.
        """
        parts = (len(b), len(outs), -1)
        if layer.weight in self.model.layout.live:
            products = torch.bmm(b, a.expand(len(b), -1, -1)).view(parts)
            for out, product in zip(outs, products.unbind(1), strict=True):
                self._part(out, layer.weight).copy_(product)
        if layer.bias in self.model.layout.live:
            for out, total in zip(outs, b.sum(-1).view(parts).unbind(1), strict=True):
                self._part(out, layer.bias).copy_(total)

    def _part(self, flat: Tensor, name: str | None) -> Tensor:
        assert name is not None
        return flat[:, self.model.layout.slices[name]]

    def _parameter(self, theta: Tensor, name: str, *shape: int) -> Tensor:
        """One parameter of all replicas, `(replica, *shape)`."""
        if name in self.model.fixed:
            return self.model.fixed[name].view(shape).expand(len(theta), *shape)
        return self._part(theta, name).view(-1, *shape)

    def _forward(self, theta: Tensor, batch: Batch) -> tuple[list[Tensor], Tape]:
        """The layers' weights and the tape."""
        (x,) = batch.data.args
        h = self.head(x if batch.shared else x.flatten(0, 1))
        a = h.view(1 if batch.shared else len(theta), -1, h.shape[-1])
        matrices: list[Tensor] = []
        inputs, activations = [], []
        for layer, stage in zip(self.layers, self.stages, strict=True):
            inputs.append(a)
            matrices.append(self._parameter(theta, layer.weight, *layer.shape))
            z = torch.bmm(matrices[-1], a.mT.expand(len(theta), -1, -1))
            if layer.bias is not None:
                z.add_(self._parameter(theta, layer.bias, layer.shape[0], 1))
            if len(inputs) < len(self.layers):
                activations.append(stage(z))
                a = activations[-1].output.mT
        return matrices, Tape(inputs, activations, z)

    def _signal(
        self, tape: Tape, batch: Batch, weights: Tensor | None
    ) -> Float[Tensor, "replica out n"]:
        """d(sum_i w_i l_i)/dz at the last linear layer; w = 1 where no weights are given."""
        targets, tail = batch.data.targets, tape.tail
        if self.model.loss is cross_entropy and len(self.last) == 0:
            own = targets.unsqueeze(0) if batch.shared else targets
            return cross_entropy_signal(tail, own, weights)
        replicas, width, n = tail.shape
        if not batch.shared:
            targets = targets.flatten(0, 1)
        elif replicas > 1:
            targets = targets.repeat(replicas, *[1] * (targets.dim() - 1))
        with torch.enable_grad():
            rows = tail.mT.reshape(-1, width).requires_grad_()
            losses = self.model.loss(self.last(rows), targets)
        seed = torch.ones_like(losses) if weights is None else weights.reshape(-1)
        (signal,) = torch.autograd.grad(losses, rows, seed, materialize_grads=True)
        return signal.view(replicas, n, width).mT.contiguous()

    def _backward(
        self, matrices: list[Tensor], tape: Tape, signal: Tensor
    ) -> Iterator[tuple[Dense, Tensor, Tensor]]:
        """From the last linear layer to the first: layer, its input, the signal at its output."""
        for i in range(len(self.layers) - 1, -1, -1):
            yield self.layers[i], tape.inputs[i], signal
            if i:
                signal = tape.activations[i - 1].backward(torch.bmm(matrices[i].mT, signal))


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested `nn.Sequential`, in order, with their paths."""
    if type(module) is nn.Sequential:
        for name, child in module._modules.items():
            assert child is not None
            yield from _leaves(child, f"{path}{name}.")
    else:
        yield path, module


def _dense(path: str, module: nn.Linear) -> Dense:
    bias = None if module.bias is None else f"{path}bias"
    return Dense(f"{path}weight", bias, (module.out_features, module.in_features))
