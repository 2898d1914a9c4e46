"""The problem that a net, its data and its loss make, cut into chunks and sent to a fast form."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn
from torch.utils import _pytree as pytree

from sdeverify.base.compiling import check_compiler
from sdeverify.base.cutting import WHOLE
from sdeverify.base.rng import derived_seed
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
from sdeverify.problems.checks import check_ensemble
from sdeverify.problems.gradients.chunks import Chunks, Cost
from sdeverify.problems.gradients.functional import (
    FunctionalModel,
    convolution_weights,
    copy_of,
    fixed_values,
    private_copy,
)
from sdeverify.problems.gradients.general import General
from sdeverify.problems.gradients.kernels import Kernel, Sums
from sdeverify.problems.gradients.loop import Loop
from sdeverify.problems.gradients.losses import PerSampleLoss, fast_loss
from sdeverify.problems.gradients.microbatches import Microbatches
from sdeverify.problems.gradients.parameters import ParameterLayout
from sdeverify.problems.gradients.samples import Batch, Samples
from sdeverify.problems.gradients.selection import gradient_kernel, moments_kernel
from sdeverify.problems.gradients.within_step import WithinStep
from sdeverify.problems.problem import Problem, Quantity, WeightedMoments
from sdeverify.problems.reduction import setting
from sdeverify.problems.trial import LOOKED_AT, SAMPLES, Trial

UNMEASURED = 64
"""Activations are taken to be so many times the inputs where they cannot be measured."""
PROBE = 6
"""Samples on which fast forms are compared."""
LEAST_BYTES = 4
"""Of a number in which steps are computed."""


@dataclass(frozen=True, repr=False)
class ModuleProblem(Problem):
    """A net's loss on its data, for ensembles of parameter vectors; see `problem_from_module`.

    Args:
        general: gradients in the form that the trial chose; right for this net and loss.
        loop: the same by plain torch, on an unchanged copy of the net.
        data: all samples.
        loss_function: the loss as it was given.
        reference: the net's parameters when the problem was made.
        chunks: how work over replicas and samples is cut.
        compiled: whether gradients and moments are compiled.

    Example:
        >>> net, loss = torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss(reduction="none")
        >>> problem = sv.problem_from_module(net, torch.randn(8, 3), torch.tensor([0, 1] * 4), loss)
        >>> isinstance(problem, sv.ModuleProblem), problem.samples, problem.dim
        (True, 8, 8)
    """

    general: General | Loop
    loop: Loop
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
        """The problem on its device, after a trial; `net` is copied."""
        if compiled:
            check_compiler(device)
        if not dtype.is_floating_point or dtype.itemsize < LEAST_BYTES:
            raise UnsupportedError(
                f"dtype must be torch.float32 or torch.float64; got {dtype}. In 16 bits the small "
                "steps of an SDE are lost in rounding."
            )
        data = samples.to(device, dtype)
        reference = reference.to(device, dtype)
        twin, moved = private_copy(net), loss
        if isinstance(loss, nn.Module):
            moved = copy.deepcopy(loss).to(device, dtype)
        fixed = fixed_values(net, layout, device, dtype)
        kernels = convolution_weights(net) if device.type == "cpu" else frozenset()
        model = FunctionalModel(twin, layout, fixed, moved, dtype, kernels)
        loop = Loop(model, copy_of(net).to(device, dtype), moved)
        trial = Trial.of(loop, reference, data)
        fast = replace(model, loss=fast_loss(moved, trial.outputs(), data.data.targets))
        general, reason = trial.form(General(fast))
        compiled = compiled and general is not loop
        chunks = Chunks.on(device, memory)
        problem = cls(general, loop, data, loss, reference, chunks, compiled)
        chosen = data.spread(LOOKED_AT)
        losses = problem.losses(reference.unsqueeze(0), chosen.unsqueeze(0))
        trial.check_finite(losses[0], chosen.tolist())
        if "loop" in (problem.gradient_route, problem.moments_route):
            warnings.warn(
                f"{type(net).__name__} is computed by plain autograd, replica by replica and for "
                "second moments sample by sample: many times slower than usual, and not compiled. "
                f"torch.func does not take this net and loss ({reason}).",
                stacklevel=3,
            )
        return problem

    def __repr__(self) -> str:
        return (
            f"ModuleProblem({type(self.loop.net).__name__} of {self.dim:,} parameters, "
            f"{self.samples:,} samples, {self.dtype} on {self.device}; gradients by "
            f"{self.gradient_route}, second moments by {self.moments_route})"
        )

    @property
    def model(self) -> FunctionalModel:
        """Net and loss as functions of the parameters."""
        return self.general.model

    @property
    def dim(self) -> int:  # type: ignore[override]
        """The number of trainable parameters."""
        return self.reference.numel()

    @property
    def samples(self) -> int:  # type: ignore[override]
        """The number of samples."""
        return self.data.count

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """Of parameters, gradients and losses."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where parameters and data are."""
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
        """How weighted gradients are computed: "dense chain", "autograd" or "loop"."""
        return self._gradient.name

    @property
    def moments_route(self) -> str:
        """How second moments are computed: "dense chain", "layerwise", "per sample" or "loop"."""
        return self._moments.name

    @property
    def net_dtypes(self) -> set[torch.dtype]:
        """Of the live net's trainable parameters."""
        return {parameter.dtype for parameter in self.model.layout.live.values()}

    def parameters_without_gradient(self) -> list[set[str]]:
        """Trainable parameters on which the loss does not depend, for each of some samples."""
        return self.loop.without_gradient(self.reference, self.data.at(self.data.spread(SAMPLES)))

    def slices_of(self, parameters: Iterable[nn.Parameter]) -> list[slice]:
        """The part of theta of each live parameter, by identity; a frozen one's is empty."""
        return self.model.layout.slices_of(parameters)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> ModuleProblem:
        """The same problem elsewhere, or in another precision."""
        return self.assemble(
            self.loop.net,
            self.model.layout,
            self.data,
            self.loss_function,
            self.reference,
            dtype or self.dtype,
            torch.device(device or self.device),
            self.memory,
            self.compiled,
        )

    def subset(self, count: int, seed: int = 0) -> ModuleProblem:
        """The same loss over a fixed random subset of the samples; itself where it has no more.

        Args:
            count: samples, drawn without replacement.
            seed: of the draw.
        """
        if count >= self.samples:
            return self
        generator = torch.Generator().manual_seed(derived_seed(seed, "subset"))
        chosen = torch.randperm(self.samples, generator=generator)[:count].sort().values
        return replace(self, data=Samples(self.data.at(chosen.to(self.device))))

    def together(self, replicas: int, samples: int, moments: bool) -> int:
        kernel = self._moments if moments else self._gradient
        if kernel.microbatch == WHOLE:
            return 0
        cost = self._moments_cost if moments else self._cost
        fitting, taken = self.chunks.sizes(replicas, samples, cost)
        return fitting if taken >= samples else 0

    def arguments(self) -> tuple[Tensor, ...]:
        return tuple(pytree.tree_leaves(self.data.data))

    def within(self, arguments: Sequence[Tensor]) -> Problem:
        structure = pytree.tree_structure(self.data.data)
        return WithinStep(
            self,
            self.dim,
            self.samples,
            self.dtype,
            self.device,
            Samples(pytree.tree_unflatten(list(arguments), structure)),
            lambda: self._microbatches(self._gradient),
            lambda: self._microbatches(self._moments),
        )

    def losses(self, theta: Parameters, indices: Indices | None = None) -> SampleLosses:
        n = self._check(theta, None, indices)
        out = theta.new_empty((len(theta), n))
        with torch.no_grad():
            for replicas, part in self.chunks.cut(len(theta), n, self._cost):
                batch = self.data.batch(indices, replicas, part)
                out[replicas, part] = self.general.losses(theta[replicas], batch)
        return out

    def outputs(self, theta: Parameters) -> Tensor:
        """net(inputs) for every replica and sample, shape `(replica, sample, ...)`."""
        self._check(theta, None, None)
        rows: dict[int, list[Tensor]] = {}
        with torch.no_grad():
            for replicas, part in self.chunks.cut(len(theta), self.samples, self._cost):
                batch = self.data.batch(None, replicas, part)
                piece = self.general.outputs(theta[replicas], batch)
                rows.setdefault(replicas.start, []).append(piece)
        return torch.cat([torch.cat(pieces, 1) for pieces in rows.values()])

    def evaluate(self, theta: Parameters, wanted: Collection[Quantity]) -> dict[Quantity, Tensor]:
        """Loss and accuracy from one forward pass."""
        if not {"loss", "accuracy"} <= set(wanted):
            return super().evaluate(theta, wanted)
        self._check(theta, None, None)
        losses = theta.new_empty((len(theta), self.samples))
        hits = torch.empty(losses.shape, dtype=torch.bool, device=theta.device)
        with torch.no_grad():
            for replicas, part in self.chunks.cut(len(theta), self.samples, self._cost):
                batch = self.data.batch(None, replicas, part)
                outputs = self.general.outputs(theta[replicas], batch)
                hits[replicas, part] = self._hits(outputs, batch.data.targets)
                losses[replicas, part] = self.general.losses_of(outputs, batch)
        rest = [quantity for quantity in wanted if quantity not in ("loss", "accuracy")]
        return {
            "loss": losses.mean(-1),
            "accuracy": hits.to(self.dtype).mean(-1),
            **super().evaluate(theta, rest),
        }

    def accuracy(self, theta: Parameters) -> Values:
        """The share of samples whose largest output is their class.

        Raises:
            UnsupportedError: the targets are not one class index a sample.
        """
        return self._hits(self.outputs(theta), self.data.data.targets).to(self.dtype).mean(-1)

    def _hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether each sample's largest output is its class, `(replica, sample)`."""
        if targets.is_floating_point() or targets.dim() != 1 or outputs.dim() != 3:
            raise UnsupportedError(
                "accuracy needs one class index a sample and outputs (sample, class); got targets "
                f"{targets.dtype}, {tuple(targets.shape)}, outputs {tuple(outputs.shape[1:])}."
            )
        low, high, ignored = self._classes
        classes = outputs.shape[-1]
        if classes < 2 or low < 0 or high >= classes or ignored:
            raise UnsupportedError(
                "accuracy compares the largest of at least two outputs with a class from 0 to the "
                f"number of outputs less 1, none of them ignored; got {classes} outputs and "
                f"targets from {low} to {high}{', some ignored' if ignored else ''}. Write an "
                "Observable of your own from problem.outputs(theta)."
            )
        return outputs.argmax(-1) == targets

    @cached_property
    def _classes(self) -> tuple[int, int, bool]:
        """The least and the largest class, and whether the loss ignores one that there is."""
        targets = self.data.data.targets
        low, high = (int(x) for x in targets.aminmax())
        ignored = (targets == setting(self.loss_function, "ignore_index", -1)).any()
        return low, high, bool(ignored)

    def weighted_gradient(
        self, theta: Parameters, weights: Weights, indices: Indices | None = None
    ) -> Parameters:
        (gradient,) = self._sums(self._gradient_sums, self._cost, theta, weights, indices)
        return gradient

    def weighted_moments(
        self, theta: Parameters, weights: Weights, indices: Indices | None = None
    ) -> WeightedMoments:
        sums = self._sums(self._moments_sums, self._moments_cost, theta, weights, indices)
        weighted, total, second = sums
        n = weights.shape[1]
        return WeightedMoments(weighted, total.div_(n), second.div_(n))

    def _sums(
        self, sums: Sums, cost: Cost, theta: Tensor, weights: Tensor, indices: Tensor | None
    ) -> tuple[Tensor, ...]:
        """What `sums` makes of all chunks together."""
        n = self._check(theta, weights, indices)
        weights = weights.to(self.dtype)
        totals: tuple[Tensor, ...] = ()
        for replicas, part in self.chunks.cut(len(theta), n, cost):
            batch = self.data.batch(indices, replicas, part)
            pieces = sums(theta[replicas], weights[replicas, part], batch)
            if len(pieces[0]) == len(theta) and part.stop - part.start == n:
                return pieces
            totals = totals or tuple(torch.empty_like(theta) for _ in pieces)
            for total, piece in zip(totals, pieces, strict=True):
                total[replicas] = piece if part.start == 0 else total[replicas] + piece
        return totals

    def per_sample_gradients(
        self, theta: Parameters, indices: Indices | None = None
    ) -> SampleGradients:
        n = self._check(theta, None, indices)
        out = theta.new_empty((len(theta), n, self.dim))
        cost = self.general.moments.cost(self._saved, 1)
        for replicas, part in self.chunks.cut(len(theta), n, cost):
            batch = self.data.batch(indices, replicas, part)
            out[replicas, part] = self.general.per_sample(theta[replicas], batch)
        return out

    def squared_gradient_drift(self, theta: Parameters) -> Parameters:
        n = self._check(theta, None, None)
        gradient = self.gradient(theta)
        out = torch.zeros_like(theta)
        cost = Cost(2 * self._saved.replica, 4 * self._saved.sample)
        for replicas, part in self.chunks.cut(len(theta), n, cost):
            batch = self.data.batch(None, replicas, part)
            out[replicas] += self.general.hessian_product(
                theta[replicas], gradient[replicas], batch
            )
        return out.div_(n)

    def _check(self, theta: Tensor, weights: Tensor | None, indices: Tensor | None) -> int:
        """Shapes and dtype; returns the number of samples of each replica."""
        return check_ensemble(self.dim, self.samples, self.dtype, theta, weights, indices)

    @cached_property
    def _probe(self) -> Batch:
        return Batch(self.data.at(self.data.spread(PROBE)), True)

    @cached_property
    def _gradient(self) -> Kernel:
        return gradient_kernel(self.general, self.reference, self._probe)

    @cached_property
    def _moments(self) -> Kernel:
        return moments_kernel(self.general, self.reference, self._probe)

    @cached_property
    def _gradient_sums(self) -> Sums:
        return self._compile(self._gradient)

    @cached_property
    def _moments_sums(self) -> Sums:
        return self._compile(self._moments)

    def _compile(self, kernel: Kernel) -> Sums:
        """The kernel's sums, compiled where the problem is."""
        if not self.compiled:
            return kernel.sums
        from sdeverify.problems.gradients.compiled import Compiled

        return Compiled(self._microbatches(kernel))

    def _microbatches(self, kernel: Kernel) -> Microbatches:
        return Microbatches(kernel.sums, self._saved.sample, kernel.microbatch)

    @cached_property
    def _saved(self) -> Cost:
        """Bytes of parameters' gradients, and of what autograd saves for each sample (measured)."""
        pair = self.data.first(1).map(lambda x: torch.cat([x, x]))
        size, own = self.reference.element_size(), self.data.bytes_per_sample
        try:
            one = self.general.saved(self.reference, self.data.first(1))
            two = self.general.saved(self.reference, pair)
        except RuntimeError:  # a net that uses torch.func itself cannot be measured
            one, two = 0, UNMEASURED * own + self.dim * size
        return Cost(2 * self.dim * size, max(two - one, 1) + own)

    @cached_property
    def _cost(self) -> Cost:
        """Of one weighted gradient."""
        return self._gradient.cost(self._saved, 1)

    @cached_property
    def _moments_cost(self) -> Cost:
        return self._moments.cost(self._saved, 3)
