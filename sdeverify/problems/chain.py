"""Chains of linear layers, all replicas side by side, with the backward pass written out.

For z = W a + c, with backward signals b_i = dl_i/dz_i, the per-sample gradients are b_i a_i^T, so

    sum_i w_i g_i = (w b)^T a,    sum_i g_i = b^T a,    sum_i g_i^2 = (b^2)^T (a^2):

matrix products, without a per-sample gradient ever being formed (the second moment as in
BackPACK: Dangel, Kunstner, Hennig 2020, arXiv 1912.10985).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from sdeverify.problems.chunks import CACHE, ONE_REPLICA
from sdeverify.problems.functional import FunctionalModel
from sdeverify.problems.losses import cross_entropy, cross_entropy_signal
from sdeverify.problems.problem import WeightedMoments
from sdeverify.problems.samples import Batch
from sdeverify.shapes import Float, Tensor


@dataclass(frozen=True)
class Dense:
    """A linear layer of the chain: the names of its weight and bias, and its weight's shape."""

    weight: str
    bias: str | None
    shape: tuple[int, int]


@dataclass(frozen=True)
class Tape:
    """What a forward pass leaves for the backward one.

    Args:
        inputs: for each linear layer its input, `(replica, n, in)`, or `(1, n, in)` where shared.
        gates: for each stage between two linear layers its input and its output, the output a
            function of the input for autograd unless the stage's derivative is written out.
        tail: the last linear layer's output, `(replica * n, out)`.
    """

    inputs: list[Tensor]
    gates: list[tuple[Tensor, Tensor]]
    tail: Tensor


class DenseChain:
    """Weighted gradient and moments of `nn.Sequential` nets of linear and parameter-free layers."""

    name = "dense chain"
    copies = 2
    together = CACHE
    alone = ONE_REPLICA

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
        self.between = between

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

    def weighted(
        self,
        theta: Float[Tensor, "replica param"],
        weights: Float[Tensor, "replica n"],
        batch: Batch,
    ) -> Float[Tensor, "replica param"]:
        """sum_i w_i grad l_i."""
        out = torch.empty_like(theta)
        parameters = self._parameters(theta)
        tape = self._forward(parameters, len(theta), batch)
        signal = self._signal(tape, batch, weights)
        for layer, a, b in self._backward(parameters, tape, signal):
            if layer.weight in self.model.layout.live:
                self._part(out, layer.weight).copy_(_products(b, a).flatten(1))
            if layer.bias in self.model.layout.live:
                self._part(out, layer.bias).copy_(b.sum(1))
        return out

    def sums(
        self,
        theta: Float[Tensor, "replica param"],
        weights: Float[Tensor, "replica n"],
        batch: Batch,
    ) -> WeightedMoments:
        """sum_i w_i g_i, sum_i g_i and sum_i g_i^2."""
        parameters = self._parameters(theta)
        tape = self._forward(parameters, len(theta), batch)
        signal = self._signal(tape, batch, None)
        out = WeightedMoments(*(torch.empty_like(theta) for _ in range(3)))
        rows = torch.stack([weights, torch.ones_like(weights)], 1)
        for layer, a, b in self._backward(parameters, tape, signal):
            scratch = weights.unsqueeze(-1) * b
            if layer.weight in self.model.layout.live:
                self._part(out.weighted, layer.weight).copy_(_products(scratch, a).flatten(1))
                self._part(out.mean, layer.weight).copy_(_products(b, a).flatten(1))
            scratch = b * b
            if layer.weight in self.model.layout.live:
                second = _products(scratch, a.square())
                self._part(out.second, layer.weight).copy_(second.flatten(1))
            if layer.bias in self.model.layout.live:
                both = rows @ b
                self._part(out.weighted, layer.bias).copy_(both[:, 0])
                self._part(out.mean, layer.bias).copy_(both[:, 1])
                self._part(out.second, layer.bias).copy_(scratch.sum(1))
        return out

    def formed(self, theta: Float[Tensor, " param"]) -> int:
        """None are formed."""
        return 0

    def _part(self, flat: Tensor, name: str | None) -> Tensor:
        assert name is not None
        return flat[:, self.model.layout.slices[name]]

    def _parameters(self, theta: Tensor) -> dict[str, Tensor]:
        fixed = {
            name: value.expand(len(theta), *value.shape) for name, value in self.model.fixed.items()
        }
        return {**fixed, **self.model.layout.unflatten(theta.detach())}

    def _forward(self, parameters: dict[str, Tensor], replicas: int, batch: Batch) -> Tape:
        """The forward pass; stages without parameters see replicas and samples as one batch."""
        (x,) = batch.data.args
        with torch.no_grad():
            h = self.head(x if batch.shared else x.flatten(0, 1))
        a = h.view(1 if batch.shared else replicas, -1, h.shape[-1])
        inputs, gates = [a], []
        for layer, stage in zip(self.layers, self.between, strict=True):
            z = _affine(inputs[-1], parameters, layer, replicas).flatten(0, 1)
            if len(inputs) == len(self.layers):
                break
            with torch.set_grad_enabled(_known_gate(stage) is None):
                h = stage(z.requires_grad_(_known_gate(stage) is None))
            gates.append((z, h))
            inputs.append(h.detach().view(replicas, -1, h.shape[-1]))
        return Tape(inputs, gates, z)

    def _signal(
        self, tape: Tape, batch: Batch, weights: Tensor | None
    ) -> Float[Tensor, "rows out"]:
        """d(sum_i w_i l_i)/dz at the last linear layer; w = 1 where no weights are given."""
        targets, tail, last = batch.data.targets, tape.tail, self.between[-1]
        if not batch.shared:
            targets = targets.flatten(0, 1)
        elif len(tail) != len(targets):
            targets = targets.repeat(len(tail) // len(targets), *[1] * (targets.dim() - 1))
        rows = None if weights is None else weights.reshape(-1)
        if self.model.loss is cross_entropy and len(last) == 0:
            return cross_entropy_signal(tail, targets, rows)
        with torch.enable_grad():
            losses = self.model.loss(last(tail.requires_grad_()), targets)
        seed = torch.ones_like(losses) if rows is None else rows
        return torch.autograd.grad(losses, tail, seed, materialize_grads=True)[0]

    def _backward(
        self, parameters: dict[str, Tensor], tape: Tape, signal: Tensor
    ) -> Iterator[tuple[Dense, Tensor, Tensor]]:
        """From the last linear layer to the first: layer, its input, the signal at its output."""
        replicas = len(parameters[self.layers[0].weight])
        for i in range(len(self.layers) - 1, -1, -1):
            layer, a = self.layers[i], tape.inputs[i]
            b = signal.view(replicas, -1, layer.shape[0])
            yield layer, a, b
            if i:
                back = torch.bmm(b, parameters[layer.weight]).view(-1, layer.shape[1])
                signal = _gate_backward(self.between[i - 1], *tape.gates[i - 1], back)


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


def _affine(a: Tensor, parameters: dict[str, Tensor], layer: Dense, replicas: int) -> Tensor:
    """W a + c for every replica, `(replica, n, out)`."""
    weight = parameters[layer.weight].mT
    if replicas == 1:
        bias = None if layer.bias is None else parameters[layer.bias][0]
        single = a[0] @ weight[0] if bias is None else torch.addmm(bias, a[0], weight[0])
        return single.unsqueeze(0)
    spread = a.expand(replicas, -1, -1)
    if layer.bias is None:
        return torch.bmm(spread, weight)
    return torch.baddbmm(parameters[layer.bias].unsqueeze(1), spread, weight)


def _known_gate(stage: nn.Sequential) -> type[nn.Module] | None:
    """The activation whose derivative is written out, where the stage is just that one."""
    kind = type(stage[0]) if len(stage) == 1 else None
    return kind if kind in (nn.Tanh, nn.ReLU) else None


def _gate_backward(stage: nn.Sequential, z: Tensor, h: Tensor, back: Tensor) -> Tensor:
    """The signal before a stage from the signal `back` behind it."""
    kind = _known_gate(stage)
    if kind is nn.Tanh:
        return torch.ops.aten.tanh_backward(back, h)  # type: ignore[no-any-return]
    if kind is nn.ReLU:
        return torch.ops.aten.threshold_backward(back, h, 0)  # type: ignore[no-any-return]
    return torch.autograd.grad(h, z, back, materialize_grads=True)[0]


def _products(b: Tensor, a: Tensor) -> Float[Tensor, "replica out in"]:
    """sum_i b_i a_i^T for every replica."""
    return torch.bmm(b.mT, a.expand(len(b), -1, -1))
