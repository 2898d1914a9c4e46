"""A trial of net and loss on a few samples: is this a mean over samples, and what computes it?

Plain torch on an unchanged copy of the net says what is right. What it shows to be no mean over
samples is refused; the form in which the gradients are then computed is the fastest that agrees
with it.
"""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.autograd.graph import Node

from sdeverify.base.shapes import Parameters, SampleGradients, Tensor, Vector
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.problems.gradients.general import General
from sdeverify.problems.gradients.loop import Loop
from sdeverify.problems.gradients.samples import Batch, Data, Samples
from sdeverify.problems.reduction import check_loss_values, loss_name

ATTEMPTS = 4
"""Pairs of points that are tried where a unit may be at its kink."""
KINK = 1e-2
"""The share of a gradient that one such unit has, at most."""
SAMPLES = 12
"""Samples of the trial."""
ELEMENTS = 4 << 20
"""Elements of the samples' gradients at a point: fewer samples where they would be more."""
DRAWS = 4
"""Evaluations of the same losses, to find a net that draws random numbers of its own."""
LOOKED_AT = 1024
"""Samples whose losses are looked at when a problem is set up."""
PERTURBATIONS = (0.1, 1e-3, 0.0)
"""The second point is off the net's own parameters by this much, or less where that has no
gradient, so that zero-initialised layers count."""


@dataclass(frozen=True)
class Trial:
    """A net and its loss on some samples, at two points.

    Args:
        loop: plain torch, which is right.
        data: the samples of the trial.
        numbers: which of the user's samples they are.
        points: the net's own parameters and others close by.
    """

    loop: Loop
    data: Data
    numbers: list[int]
    points: Parameters

    @classmethod
    def of(cls, loop: Loop, theta: Vector, samples: Samples) -> Trial:
        """The trial on samples from all over the data."""
        chosen = samples.spread(max(4, min(SAMPLES, ELEMENTS // theta.numel())))
        data = samples.at(chosen)
        shift = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0)).to(theta)
        points = theta.expand(2, -1)
        trial = cls(loop, data, chosen.tolist(), points)
        with warnings.catch_warnings(), _random_states():
            warnings.simplefilter("ignore", UserWarning)  # of shapes that are refused below
            trial.check_losses(samples)
            trial.check_repeatable()
            trial.check_alone()
            for size in PERTURBATIONS:
                trial = replace(trial, points=torch.stack([theta, theta + size * shift]))
                if bool(torch.isfinite(trial.gradients()).all()):
                    break
            for seed in range(1, ATTEMPTS):
                if not _at_a_kink(trial.tie, theta.dtype):
                    break
                trial = trial._moved(seed)
            trial.check_gradients()
        return trial

    @cached_property
    def tie(self) -> float:
        """How far the gradient of the batch is from the mean of its samples' own."""
        return _distance(self.own_gradients.mean(1), self.gradients())

    def _moved(self, seed: int) -> Trial:
        theta = self.points[0]
        shift = torch.randn(theta.shape, generator=torch.Generator().manual_seed(seed)).to(theta)
        sizes = (PERTURBATIONS[1], PERTURBATIONS[0])
        return replace(self, points=torch.stack([theta + size * shift for size in sizes]))

    @cached_property
    def own_gradients(self) -> SampleGradients:
        """Each sample's gradient at both points."""
        return self.loop.per_sample(self.points, Batch(self.data, True))

    def outputs(self) -> Tensor:
        """The net's outputs at its own parameters."""
        return self.loop.outputs(self.points[:1], Batch(self.data, True))[0]

    def gradients(self) -> Tensor:
        """The gradient of the samples' mean loss at both points, in one batch."""
        weights = self.points.new_full((2, len(self.numbers)), 1 / len(self.numbers))
        return self.loop.weighted(self.points, weights, Batch(self.data, True))[0]

    def check_losses(self, samples: Samples) -> None:
        """The loss is one finite value a sample, and a function of the outputs alone."""
        self.loop.load(self.points[0])
        with torch.enable_grad():
            try:
                outputs = self.loop.net_outputs(self.data)
            except Exception as error:
                raise InvalidInputError(_rejected(self.loop, samples, error)) from error
            if not isinstance(outputs, Tensor):
                raise UnsupportedError(
                    f"the net returns a {type(outputs).__name__}; a tensor is wanted. Wrap the net "
                    "in a module whose forward returns the one tensor that the loss needs."
                )
            node = outputs.grad_fn
            try:
                losses = self.loop.loss(outputs, self.data.targets)
            except Exception as error:
                raise InvalidInputError(self._failure(outputs, error)) from error
            check_loss_values(self.loop.loss, losses, outputs, self.data.targets, samples)
            self._check_reads_outputs_only(losses, node)
        self.check_finite(losses.detach(), self.numbers)

    def check_finite(self, losses: Tensor, numbers: list[int]) -> None:
        """Refuses a loss that is not finite, and names its sample."""
        bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        if bad:
            raise InvalidInputError(
                f"the loss of sample {numbers[bad[0]]} is {float(losses[bad[0]])} at the net's "
                "parameters, so there is no mean loss. Look at its inputs and targets, and at "
                "log(0) or a division by 0 in net and loss (clamp the argument)."
            )

    def check_repeatable(self) -> None:
        """Refuses nets that draw random numbers or change their buffers."""
        before = {name: x.clone() for name, x in self.loop.net.named_buffers()}
        states = _states()
        draws = [self._losses(self.data) for _ in range(DRAWS)]
        for name, value in self.loop.net.named_buffers():
            if not torch.equal(value, before[name]):
                raise UnsupportedError(
                    f"net.{name} changes at every pass in train mode, so the loss is no function "
                    "of the parameters alone. Use net.eval()."
                )
        drawn = not _same(states, _states())
        if drawn or any(not torch.equal(draws[0], x) for x in draws[1:]):
            what = "draws random numbers" if drawn else "gives other losses when it is called again"
            raise UnsupportedError(
                f"the net or its loss {what}, so the loss is no function of the parameters and the "
                "sample. Use net.eval(), or take out what is random or remembers earlier calls "
                "(stochastic depth, noise on the inputs, a hidden state that is kept)."
            )

    def check_alone(self) -> None:
        """A sample's output and loss must be the same alone."""
        together, alone = self._losses(self.data), []
        for number, single in zip(self.numbers, self.data.singles(), strict=True):
            try:
                alone.append(self._losses(single).reshape(-1)[:1])
            except Exception as error:
                raise UnsupportedError(
                    f"net and loss fail on sample {number} alone, as a batch of one: {error}. Let "
                    "them keep the sample dimension, as squeeze(1) does and squeeze() does not."
                ) from error
        off = _far(torch.cat(alone), together)
        if not bool(off.any()):
            return
        i = int(off.nonzero()[0])
        raise UnsupportedError(
            f"the loss of sample {self.numbers[i]} is {float(together[i]):.6g} in a batch and "
            f"{float(alone[i]):.6g} alone: {self._culprit(i)}"
        )

    def check_gradients(self) -> None:
        """The gradient of a batch must be the mean over its samples' own."""
        own = self.own_gradients
        bad = (~torch.isfinite(own[0]).all(1)).nonzero().flatten().tolist()
        if bad:
            raise InvalidInputError(
                f"the gradient of sample {self.numbers[bad[0]]} is not finite at the net's "
                "parameters. Look for a square root, norm or division at 0 in net and loss (add a "
                "small constant under the root)."
            )
        if not self.tie <= _tolerance(own.dtype):
            raise UnsupportedError(
                "the gradient of a batch is not the mean of its samples' gradients (off by "
                f"{self.tie:.2g} of its size), although the losses are: net or loss ties the "
                "samples of a batch together in the backward pass. Each sample's gradient must "
                "depend on that sample alone."
            )

    def form(self, general: General) -> tuple[General | Loop, str]:
        """The fastest form that gives plain torch's numbers, and why it is not a faster one."""
        plain = General(replace(general.model, kernels=frozenset()))
        reason = ""
        for form in [general, plain] if general.model.kernels else [plain]:
            try:
                reason = self._objection(form)
            except Exception as error:
                sentence = re.split(r"\.\s|\n", str(error).strip())[0]
                reason = f"it fails with {type(error).__name__}: {sentence[:200]}"
            if not reason:
                return form, ""
        targets = self.data.targets
        if not targets.is_floating_point() and targets.dtype != torch.int64:
            reason += "; targets.long() may help"
        return self.loop, reason

    def _objection(self, form: General) -> str:
        """Why a form cannot be used; empty where it gives plain torch's numbers."""
        trial = self
        for seed in range(1, ATTEMPTS):
            error, reason = trial._difference(form)
            if not _at_a_kink(error, self.points.dtype):
                return reason
            trial = self._moved(seed)
        return trial._difference(form)[1]

    def _difference(self, form: General) -> tuple[float, str]:
        """How far a form's numbers are from plain torch's, and in words where that is too far."""
        kept = self.data.map(torch.clone)
        noise = torch.Generator().manual_seed(1)
        w = torch.randn((2, len(self.numbers)), generator=noise).to(self.points)
        one, shared = self.points[:1], Batch(kept, True)
        own = Batch(kept.map(lambda x: torch.stack([x, x.flip(0)])), False)
        each, losses = self.own_gradients, self.loop.losses(self.points, Batch(self.data, True))
        flipped = torch.stack([each[0], each[1].flip(0)])
        pairs = {
            "losses": (form.losses(self.points, shared), losses),
            "losses one by one": (form.losses(one, shared), losses[:1]),
            "gradients": (form.weighted(self.points, w, shared)[0], _sum(w, each)),
            "gradients on subsets": (form.weighted(self.points, w, own)[0], _sum(w, flipped)),
            "gradients one by one": (form.weighted(one, w[:1], shared)[0], _sum(w, each)[:1]),
            "sample gradients": (form.per_sample(self.points, own), flipped),
            "sample gradients one by one": (form.per_sample(one, shared), each[:1]),
        }
        for name, (got, want) in pairs.items():
            error = _distance(got, want)
            if not error <= _tolerance(want.dtype):
                return error, f"its {name} are off by {error:.2g} of their size"
        tensors = zip(kept.tensors().values(), self.data.tensors().values(), strict=True)
        kept_whole = all(torch.equal(a, b) for a, b in tensors)
        return 0.0, "" if kept_whole else "it writes into its inputs"

    def _losses(self, data: Data) -> Tensor:
        with torch.enable_grad():
            return self.loop.sample_losses(data).detach()

    def _check_reads_outputs_only(self, losses: Tensor, outputs: Node | None) -> None:
        """The graph of the losses ends at the outputs."""
        name = loss_name(self.loop.loss)
        if not losses.requires_grad:
            raise UnsupportedError(
                f"the loss {name} has no gradient with respect to the net's parameters. Let it be "
                "computed from the outputs by operations of torch, without detach(), item(), "
                "argmax or torch.no_grad()."
            )
        elsewhere = {id(x) for x in _leaves(losses, outputs)}
        if elsewhere:
            raise UnsupportedError(_reads_elsewhere(name, self.loop.model.layout.live, elsewhere))

    def _failure(self, outputs: Tensor, error: Exception) -> str:
        """Which sample the loss fails on, where it does not fail on all."""
        targets = self.data.targets
        message = (
            f"the loss fails on outputs of shape {tuple(outputs.shape)} and targets of shape "
            f"{tuple(targets.shape)}, {targets.dtype}: {error}"
        )
        bad = []
        for i in range(len(self.numbers)):
            try:
                self.loop.loss(outputs[i : i + 1], targets[i : i + 1])
            except Exception:
                bad.append(i)
        if bad and len(bad) < len(self.numbers):
            value = targets[bad[0]].flatten()[:8].tolist()
            message += f". Sample {self.numbers[bad[0]]} is the first; its target is {value}."
        elif not targets.is_floating_point() and targets.dtype != torch.int64:
            message += ". Class targets are int64: pass targets.long()."
        return message

    def _culprit(self, i: int) -> str:
        """What ties sample i to the others: net or loss."""
        single = self.data.map(lambda x: x[i : i + 1])
        with torch.enable_grad():
            alone = self.loop.net_outputs(single).detach()[0]
        together = self.outputs()[i]
        if alone.shape == together.shape and not bool(_far(alone, together).any()):
            return (
                f"the loss {loss_name(self.loop.loss)} ties the samples of a batch together, on "
                f"outputs of shape {tuple(self.outputs().shape)} and targets of shape "
                f"{tuple(self.data.targets.shape)}. Each value must depend on one sample; where "
                "one shape has a last dimension of 1 that the other lacks, they broadcast to all "
                "pairs: use targets.unsqueeze(1) or outputs.squeeze(1)."
            )
        return (
            "the net ties the samples of a batch together (normalisation over the batch, or a "
            "recurrent layer that needs batch_first=True). The first dimension of the inputs must "
            "be the sample."
        )


def _rejected(loop: Loop, samples: Samples, error: Exception) -> str:
    named = {name: x for name, x in samples.data.tensors().items() if name != "targets"}
    shapes = ", ".join(f"{name}: {tuple(x.shape)}, {x.dtype}" for name, x in named.items())
    message = (
        f"{type(loop.net).__name__} does not take these inputs ({shapes}): "
        f"{type(error).__name__}: {error}."
    )
    whole = [name for name, x in named.items() if not x.is_floating_point()]
    if whole:
        message += f" Where floating-point numbers are wanted, pass {whole[0]}.float()."
    if "does not require grad" in str(error):
        message += (
            " A net that differentiates by its inputs calls x.requires_grad_() on them first."
        )
    return message


def _reads_elsewhere(name: str, live: Mapping[str, Tensor], elsewhere: set[int]) -> str:
    own = [key for key, value in live.items() if id(value) in elsewhere]
    if not own:
        return (
            f"the loss {name} reads trainable tensors besides outputs and targets; they would be "
            "constants here. Put them into the net, which then returns what the loss needs of "
            "them; or detach them where they are not trained."
        )
    return (
        f"the loss {name} reads the net's own parameters ({', '.join(own[:3])}"
        f"{', ...' if len(own) > 3 else ''}) besides outputs and targets; here they would be "
        "constants, and a penalty on them would be lost. Leave a penalty c * sum(p.square().sum()) "
        "out of the loss and give torch's SGD, RMSprop or Adam (not AdamW) weight_decay=2 * c, in "
        "the loop and here; any other let the net return with its outputs, for instance as one "
        "more column, and let the loss add that column."
    )


def _leaves(losses: Tensor, outputs: Node | None) -> Iterator[Tensor]:
    """The tensors that a graph begins with, those behind the outputs apart."""
    waiting, known = [losses.grad_fn], {None, outputs}
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        known.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [parent for parent, _ in node.next_functions]


def _sum(weights: Tensor, gradients: Tensor) -> Tensor:
    return torch.einsum("rn,rnd->rd", weights, gradients)


def _tolerance(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).eps ** 0.5)


def _at_a_kink(error: float, dtype: torch.dtype) -> bool:
    """Whether a difference of gradients may come from a unit at its kink.

    In single precision rounding can put a unit of a piecewise linear net on either side of it; a
    fault of net or form shows at other points as well.
    """
    return _tolerance(dtype) < error < KINK


def _far(x: Tensor, want: Tensor) -> Tensor:
    return (x - want).abs() > _tolerance(want.dtype) * (1 + want.abs())


def _distance(x: Tensor, want: Tensor) -> float:
    """The largest difference, over the largest value."""
    if x.shape != want.shape:
        return float("inf")
    difference = float((x - want).abs().max())
    return difference / float(want.abs().max()) if difference else 0.0


def _states() -> tuple[Any, ...]:
    """Where the global random number generators stand."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return (torch.get_rng_state(), *devices, random.getstate(), np.random.get_state())


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, tuple):
            return all(map(equal, a, b))
        if isinstance(a, Tensor):
            return torch.equal(a, b)
        return np.array_equal(a, b)

    return all(map(equal, one, other))


@contextmanager
def _random_states() -> Iterator[None]:
    """Leaves the global random number generators where they stood."""
    torch_state, *devices, python, numpy = _states()
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        random.setstate(python)
        np.random.set_state(numpy)
