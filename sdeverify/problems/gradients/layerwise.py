"""Moments layer by layer: one pass forward, backward signals only, then each layer's own rule.

The losses are independent, so the gradient of their sum with respect to a layer's output holds in
row i the signal dl_i/dz_i of sample i. Parameters are constants in this pass, so that no weight
gradient is computed by the backward pass itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from sdeverify.base.cutting import SMALL_REPLICA
from sdeverify.base.shapes import Float, Parameters, Tensor, Weights
from sdeverify.problems.gradients.functional import FunctionalModel
from sdeverify.problems.gradients.kernels import Kernel
from sdeverify.problems.gradients.layers import Sums, rule_for
from sdeverify.problems.gradients.samples import Batch, Data
from sdeverify.problems.problem import WeightedMoments

Tap = Callable[[int, Tensor], Tensor]
"""Replaces the output of the layer with this number by one whose gradient can be asked for."""


class Layerwise:
    """Moments of a net all of whose trainable parameters sit in layers with a rule."""

    def __init__(self, model: FunctionalModel, layers: dict[str, nn.Module]) -> None:
        self.model = model
        self.paths = tuple(layers)
        self.layers = tuple(layers.values())

    @classmethod
    def of(cls, model: FunctionalModel) -> Layerwise | None:
        """The layers of a net; None where one with trainable parameters has no rule."""
        live = model.layout.live
        layers: dict[str, nn.Module] = {}
        covered: set[str] = set()
        for path, module in model.net.named_modules():
            prefix = f"{path}." if path else ""
            own = {prefix + name for name, _ in module.named_parameters(recurse=False)} & set(live)
            if own:
                if rule_for(module) is None:
                    return None
                layers[prefix] = module
                covered |= own
        return cls(model, layers) if covered == set(live) else None

    @property
    def moments(self) -> Kernel:
        """Weighted gradients and moments."""
        return Kernel("layerwise", self.sums, copies=2, together=SMALL_REPLICA)

    def sums(self, theta: Parameters, weights: Weights, batch: Batch) -> WeightedMoments:
        """sum_i w_i g_i, sum_i g_i and sum_i g_i^2."""
        parameters = self.model.layout.unflatten(theta.detach())
        if len(theta) == 1:
            single = {name: value[0] for name, value in parameters.items()}
            pair = self._one_replica(self.model.prepared(single), batch.of(0))
            inputs, signals = ([x.unsqueeze(0) for x in tensors] for tensors in pair)
        else:
            inputs, signals = self._many_replicas(parameters, batch)
        parts = self._apply_rules(inputs, signals, weights)
        return WeightedMoments(*(self._flat(parts, i) for i in range(3)))

    def _flat(self, parts: dict[str, Sums], which: int) -> Tensor:
        return self.model.layout.flatten({name: sums[which] for name, sums in parts.items()}, 1)

    def _one_replica(
        self, parameters: dict[str, Tensor], data: Data
    ) -> tuple[list[Tensor], list[Tensor]]:
        outputs: list[Tensor] = [data.targets] * len(self.layers)

        def tap(number: int, output: Tensor) -> Tensor:
            outputs[number] = output if output.requires_grad else output.detach().requires_grad_()
            return outputs[number]

        with torch.enable_grad():
            losses, inputs = self._run(parameters, data, tap)
            signals = torch.autograd.grad(losses.sum(), outputs, materialize_grads=True)
        return inputs, list(signals)

    def _many_replicas(
        self, parameters: dict[str, Tensor], batch: Batch
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Under `vmap` signals are gradients with respect to zeros added to the layers' outputs."""
        axis = None if batch.shared else 0
        shapes = self._output_shapes(parameters, batch)
        replicas = len(next(iter(parameters.values())))
        zero = torch.zeros((), dtype=self.model.dtype, device=batch.data.targets.device)
        zeros = [zero.expand(replicas, *shape).requires_grad_() for shape in shapes]

        def run(
            parameters: dict[str, Tensor], data: Data, zeros: list[Tensor]
        ) -> tuple[Tensor, list[Tensor]]:
            return self._run(parameters, data, lambda number, output: output + zeros[number])

        with torch.enable_grad():
            losses, inputs = self.model.vectorised(run, in_dims=(0, axis, 0))(
                parameters, batch.data, zeros
            )
            signals = torch.autograd.grad(losses.sum(), zeros, materialize_grads=True)
        return [x.detach() for x in inputs], list(signals)

    def _output_shapes(self, parameters: dict[str, Tensor], batch: Batch) -> list[torch.Size]:
        """The shape of each layer's output on the batch of one replica."""
        data = batch.data if batch.shared else batch.data.map(lambda x: x[0])
        one = data.map(lambda x: x[:1])
        shapes = [torch.Size()] * len(self.layers)

        def note(number: int, output: Tensor) -> Tensor:
            shapes[number] = torch.Size((len(data.targets), *output.shape[1:]))
            return output

        with torch.no_grad():
            self._run({name: value[0] for name, value in parameters.items()}, one, note)
        return shapes

    def _run(
        self, parameters: dict[str, Tensor], data: Data, tap: Tap
    ) -> tuple[Float[Tensor, " n"], list[Tensor]]:
        """The losses and each layer's input; every layer must be used once."""
        inputs: list[Tensor] = [data.targets] * len(self.layers)
        uses = [0] * len(self.layers)

        def note(number: int, activation: Tensor, output: Tensor) -> Tensor:
            uses[number] += 1
            inputs[number] = activation.detach()
            return tap(number, output)

        with _hooks(self.layers, note):
            losses = self.model.losses(parameters, data)
        if any(count != 1 for count in uses):
            raise RuntimeError("a layer is not used exactly once in a forward pass")
        return losses, inputs

    def _apply_rules(
        self, inputs: list[Tensor], signals: list[Tensor], weights: Weights
    ) -> dict[str, Sums]:
        sums_of: dict[str, Sums] = {}
        for prefix, layer, a, b in zip(self.paths, self.layers, inputs, signals, strict=True):
            rule = rule_for(layer)
            assert rule is not None
            for name, sums in rule(layer, a, b, weights).items():
                if prefix + name in self.model.layout.live:
                    sums_of[prefix + name] = sums
        return sums_of


@contextmanager
def _hooks(
    layers: tuple[nn.Module, ...], note: Callable[[int, Tensor, Tensor], Tensor]
) -> Iterator[None]:
    """Calls `note(number, input, output)` after each layer; what it returns becomes the output."""

    def hook(number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        return lambda module, args, output: note(number, args[0], output)

    handles = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
