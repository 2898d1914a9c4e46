"""Which kernel a net gets: the fastest that applies and agrees with the general one."""

from __future__ import annotations

import torch

from sdeverify.base.shapes import Tensor
from sdeverify.problems.gradients.chain import DenseChain
from sdeverify.problems.gradients.general import General
from sdeverify.problems.gradients.kernels import Kernel
from sdeverify.problems.gradients.layerwise import Layerwise
from sdeverify.problems.gradients.loop import Loop
from sdeverify.problems.gradients.samples import Batch

REPLICAS = 2
PERTURBATION = 0.1
"""Trial parameters are off the net's own by this much, so that zero-initialised layers count."""


def gradient_kernel(general: General | Loop, theta: Tensor, probe: Batch) -> Kernel:
    """The dense chain where it applies, else autograd."""
    chain = DenseChain.of(general.model)
    fast = chain.gradient if chain is not None else None
    return _first_that_agrees([fast], general.gradient, theta, probe)


def moments_kernel(general: General | Loop, theta: Tensor, probe: Batch) -> Kernel:
    """The dense chain, the layerwise form or per-sample gradients."""
    forms = (DenseChain.of(general.model), Layerwise.of(general.model))
    fast = [form.moments if form is not None else None for form in forms]
    return _first_that_agrees(fast, general.moments, theta, probe)


def _first_that_agrees(
    fast: list[Kernel | None], general: Kernel, theta: Tensor, probe: Batch
) -> Kernel:
    fitting = (k for k in fast if k is not None and _agree(k, general, theta, probe))
    return next(fitting, general)


def _agree(fast: Kernel, general: Kernel, theta: Tensor, probe: Batch) -> bool:
    """Compares two kernels on a few samples, for one replica and for two, shared or not."""
    noise = torch.Generator().manual_seed(0)
    n = len(probe.data.targets)
    shift = torch.randn((REPLICAS, theta.numel()), generator=noise).to(theta)
    weights = torch.randn((REPLICAS, n), generator=noise).to(theta)
    trial = theta + PERTURBATION * shift
    own = Batch(probe.data.map(lambda x: torch.stack([x, x.flip(0)])), False)
    one = Batch(own.data.map(lambda x: x[:1]), False)
    for replicas, batch in ((1, probe), (REPLICAS, probe), (1, one), (REPLICAS, own)):
        x, w = trial[:replicas], weights[:replicas]
        want = torch.stack(general.sums(x, w, batch))
        try:
            got = torch.stack(fast.sums(x, w, batch))
        except Exception:
            return False
        tolerance = torch.finfo(theta.dtype).eps ** 0.5
        if got.shape != want.shape or not bool(
            (got - want).abs().max() <= tolerance * want.abs().max()
        ):
            return False
    return True
