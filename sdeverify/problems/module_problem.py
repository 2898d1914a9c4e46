"""The problem that a net, its data and its loss make, cut into chunks and sent to a fast form."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn
from torch.utils import _pytree as pytree

from sdeverify.base.compiling import check_compiler
from sdeverify.base.shapes import (
    Indices,
    Parameters,
    SampleGradients,
    SampleLosses,
    Tensor,
    Values,
    Vector,
    Weights,
)
from sdeverify.errors import UnsupportedError
from sdeverify.problems.checks import check_ensemble, trial_outputs
from sdeverify.problems.gradients.chunks import Chunks, Cost
from sdeverify.problems.gradients.functional import FunctionalModel, fixed_values, saved_bytes
from sdeverify.problems.gradients.general import General, GradientRoute, MomentsRoute
from sdeverify.problems.gradients.losses import PerSampleLoss, fast_loss
from sdeverify.problems.gradients.parameters import ParameterLayout
from sdeverify.problems.gradients.pieces import WHOLE
from sdeverify.problems.gradients.routes import gradient_route, moments_route
from sdeverify.problems.gradients.samples import Batch, Samples
from sdeverify.problems.gradients.within_step import WithinStep
from sdeverify.problems.problem import Problem, WeightedMoments


@dataclass(frozen=True)
class ModuleProblem(Problem):
    """A net's loss on its data, for ensembles of parameter vectors; see `problem_from_module`.

    Args:
        model: net and loss as functions of the parameters.
        data: all samples.
        loss_function: the loss as it was given.
        reference: the net's parameters when the problem was made.
        chunks: how work over replicas and samples is cut.
        compiled: whether gradients and moments are compiled.
    """

    model: FunctionalModel
    data: Samples
    loss_function: PerSampleLoss
    reference: Vector
    chunks: Chunks
    compiled: bool = False

    @classmethod
    def assemble(
        cls,
        net: nn.Module,
        layout: ParameterLayout,
        samples: Samples,
        loss: PerSampleLoss,
        reference: Tensor,
        dtype: torch.dtype,
        device: torch.device,
        memory: int | None,
        compiled: bool,
    ) -> ModuleProblem:
        """The problem on its device, after a trial evaluation; `net` is kept, not copied."""
        if compiled:
            check_compiler(device)
        if not dtype.is_floating_point:
            raise UnsupportedError(f"dtype must be a floating-point type; got {dtype}.")
        data = samples.to(device, dtype)
        reference = reference.to(device, dtype)
        moved = copy.deepcopy(loss).to(device, dtype) if isinstance(loss, nn.Module) else loss
        model = FunctionalModel(net, layout, fixed_values(net, layout, device, dtype), moved, dtype)
        chosen = fast_loss(moved, trial_outputs(model, reference, data), data.data.targets)
        model = replace(model, loss=chosen)
        return cls(model, data, loss, reference, Chunks.on(device, memory), compiled)

    @property
    def dim(self) -> int:  # type: ignore[override]
        return self.reference.numel()

    @property
    def samples(self) -> int:  # type: ignore[override]
        return self.data.count

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return self.model.dtype

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.reference.device

    @property
    def memory(self) -> int:
        """The budget for temporary memory in bytes."""
        return self.chunks.memory

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The trainable parameters, in the order in which they fill theta."""
        return self.model.layout.names

    @property
    def parameter_slices(self) -> dict[str, slice]:
        """The part of theta that each parameter fills, by name."""
        return self.model.layout.slices

    @property
    def gradient_route(self) -> str:
        """How weighted gradients are computed: "dense chain" or "autograd"."""
        return "dense chain" if self._gradients.name == "dense chain" else "autograd"

    @property
    def moments_route(self) -> str:
        """How second moments are computed: "dense chain", "layerwise" or "per sample"."""
        return self._moments.name

    def slices_of(self, parameters: Iterable[nn.Parameter]) -> list[slice]:
        """The part of theta of each live parameter, by identity; a frozen one's is empty."""
        return self.model.layout.slices_of(parameters)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> ModuleProblem:
        """The same problem elsewhere, or in another precision."""
        return self.assemble(
            self.model.net,
            self.model.layout,
            self.data,
            self.loss_function,
            self.reference,
            dtype or self.dtype,
            torch.device(device or self.device),
            self.memory,
            self.compiled,
        )

    def together(self, replicas: int, samples: int, moments: bool) -> int:
        route: GradientRoute | MomentsRoute = self._moments if moments else self._gradients
        if route.piece == WHOLE:
            return 0
        cost = self._moments_cost if moments else self._cost
        fitting, taken = self.chunks.sizes(replicas, samples, cost)
        return fitting if taken >= samples else 0

    def arguments(self) -> tuple[Tensor, ...]:
        return tuple(pytree.tree_leaves(self.data.data))

    def within(self, arguments: Sequence[Tensor]) -> Problem:
        from sdeverify.problems.gradients.compiled import plain_kernel

        structure = pytree.tree_structure(self.data.data)
        data = Samples(pytree.tree_unflatten(list(arguments), structure))
        return WithinStep(
            self, data, lambda: plain_kernel(self._gradients), lambda: plain_kernel(self._moments)
        )

    def losses(
        self,
        theta: Parameters,
        indices: Indices | None = None,
    ) -> SampleLosses:
        n = self._check(theta, None, indices)
        out = theta.new_empty((len(theta), n))
        with torch.no_grad():
            for replicas, part in self.chunks.cut(len(theta), n, self._cost):
                batch = self.data.batch(indices, replicas, part)
                out[replicas, part] = self._general.losses(theta[replicas], batch)
        return out

    def outputs(self, theta: Parameters) -> Tensor:
        """net(inputs) for every replica and sample, shape `(replica, sample, ...)`."""
        self._check(theta, None, None)
        rows: dict[int, list[Tensor]] = {}
        with torch.no_grad():
            for replicas, part in self.chunks.cut(len(theta), self.samples, self._cost):
                batch = self.data.batch(None, replicas, part)
                piece = self._general.outputs(theta[replicas], batch)
                rows.setdefault(replicas.start, []).append(piece)
        return torch.cat([torch.cat(pieces, 1) for pieces in rows.values()])

    def accuracy(self, theta: Parameters) -> Values:
        """The share of samples whose largest output is their class.

        Raises:
            UnsupportedError: the targets are not one class index a sample.
        """
        targets, outputs = self.data.data.targets, self.outputs(theta)
        if targets.is_floating_point() or targets.dim() != 1 or outputs.dim() != 3:
            raise UnsupportedError(
                "accuracy needs one class index a sample and outputs (sample, class); got targets "
                f"{targets.dtype}, {tuple(targets.shape)}, outputs {tuple(outputs.shape[1:])}."
            )
        return (outputs.argmax(-1) == targets).to(self.dtype).mean(-1)

    def weighted_gradient(
        self,
        theta: Parameters,
        weights: Weights,
        indices: Indices | None = None,
    ) -> Parameters:
        n = self._check(theta, weights, indices)
        weights = weights.to(self.dtype)
        out = torch.empty_like(theta)
        for replicas, part in self.chunks.cut(len(theta), n, self._cost):
            batch = self.data.batch(indices, replicas, part)
            piece = self._gradients.weighted(theta[replicas], weights[replicas, part], batch)
            if len(piece) == len(theta) and part.stop - part.start == n:
                return piece
            out[replicas] = piece if part.start == 0 else out[replicas] + piece
        return out

    def weighted_moments(
        self,
        theta: Parameters,
        weights: Weights,
        indices: Indices | None = None,
    ) -> WeightedMoments:
        n = self._check(theta, weights, indices)
        weights = weights.to(self.dtype)
        out = WeightedMoments(*(torch.empty_like(theta) for _ in range(3)))
        for replicas, part in self.chunks.cut(len(theta), n, self._moments_cost):
            batch = self.data.batch(indices, replicas, part)
            sums = self._moments.sums(theta[replicas], weights[replicas, part], batch)
            if len(sums.mean) == len(theta) and part.stop - part.start == n:
                out = sums
                break
            for total, piece in zip(out, sums, strict=True):
                total[replicas] = piece if part.start == 0 else total[replicas] + piece
        return WeightedMoments(out.weighted, out.mean.div_(n), out.second.div_(n))

    def per_sample_gradients(
        self,
        theta: Parameters,
        indices: Indices | None = None,
    ) -> SampleGradients:
        n = self._check(theta, None, indices)
        out = theta.new_empty((len(theta), n, self.dim))
        for replicas, part in self.chunks.cut(len(theta), n, self._per_sample_cost):
            batch = self.data.batch(indices, replicas, part)
            out[replicas, part] = self._general.per_sample(theta[replicas], batch)
        return out

    def squared_gradient_drift(self, theta: Parameters) -> Parameters:
        n = self._check(theta, None, None)
        gradient = self.gradient(theta)
        out = torch.zeros_like(theta)
        cost = Cost(2 * self._saved.replica, 4 * self._saved.sample)
        for replicas, part in self.chunks.cut(len(theta), n, cost):
            batch = self.data.batch(None, replicas, part)
            out[replicas] += self._general.hessian_product(
                theta[replicas], gradient[replicas], batch
            )
        return out.div_(n)

    def _check(self, theta: Tensor, weights: Tensor | None, indices: Tensor | None) -> int:
        """Shapes and dtype; returns the number of samples of each replica."""
        return check_ensemble(self.dim, self.samples, self.dtype, theta, weights, indices)

    @cached_property
    def _general(self) -> General:
        return General(self.model)

    @cached_property
    def _probe(self) -> Batch:
        return Batch(self.data.first(min(3, self.samples)), True)

    @property
    def _compiled_sample(self) -> int | None:
        return self._saved.sample if self.compiled else None

    @cached_property
    def _gradients(self) -> GradientRoute:
        return gradient_route(self._general, self.reference, self._probe, self._compiled_sample)

    @cached_property
    def _moments(self) -> MomentsRoute:
        return moments_route(self._general, self.reference, self._probe, self._compiled_sample)

    @cached_property
    def _saved(self) -> Cost:
        """Bytes of parameters' gradients, and of what autograd saves for each sample (measured)."""
        pair = self.data.first(1).map(lambda x: torch.cat([x, x]))
        one = saved_bytes(self.model, self.reference, self.data.first(1))
        two = saved_bytes(self.model, self.reference, pair)
        each = max(two - one, 1) + self.data.bytes_per_sample
        return Cost(2 * self.dim * self.reference.element_size(), each)

    @cached_property
    def _cost(self) -> Cost:
        """Of one weighted gradient."""
        route, saved = self._gradients, self._saved
        return Cost(saved.replica, saved.sample * route.copies, route.together)

    @cached_property
    def _per_sample_cost(self) -> Cost:
        saved, route = self._saved, self._general
        return Cost(saved.replica, saved.sample + saved.replica, route.together, route.alone)

    @cached_property
    def _moments_cost(self) -> Cost:
        route, saved = self._moments, self._saved
        formed = 2 * route.formed(self.reference) * self.reference.element_size()
        held = saved.sample * route.copies + formed
        return Cost(3 * saved.replica, held, route.together, route.alone)
