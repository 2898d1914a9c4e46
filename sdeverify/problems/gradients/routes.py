"""Which fast form a net gets: the first that applies and agrees with the general route."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sdeverify.base.shapes import Tensor
from sdeverify.problems.gradients.chain import DenseChain
from sdeverify.problems.gradients.general import General, GradientRoute, MomentsRoute
from sdeverify.problems.gradients.layerwise import Layerwise
from sdeverify.problems.gradients.samples import Batch

REPLICAS = 2
PERTURBATION = 0.1
"""Trial parameters are off the net's own by this much, so that zero-initialised layers count."""


def gradient_route(
    general: General, theta: Tensor, probe: Batch, sample: int | None
) -> GradientRoute:
    """The dense chain where it applies, else autograd.

    With `sample`, the bytes that a backward pass keeps for each sample, it is compiled.
    """
    chain = DenseChain.of(general.model)
    fits = chain is not None and _agree(chain.weighted, general.weighted, theta, probe)
    route: GradientRoute = chain if chain is not None and fits else general
    if sample is None:
        return route
    from sdeverify.problems.gradients.compiled import CompiledGradient

    return CompiledGradient(route, sample)


def moments_route(
    general: General, theta: Tensor, probe: Batch, sample: int | None
) -> MomentsRoute:
    """The dense chain, the layerwise form or per-sample gradients; compiled as the gradient is."""
    route = _fastest_moments(general, theta, probe)
    if sample is None:
        return route
    from sdeverify.problems.gradients.compiled import CompiledMoments

    return CompiledMoments(route, sample)


def _fastest_moments(general: General, theta: Tensor, probe: Batch) -> MomentsRoute:
    for route in (DenseChain.of(general.model), Layerwise.of(general.model)):
        if route is not None and _agree(
            lambda *x, route=route: torch.stack(route.sums(*x)),
            lambda *x: torch.stack(general.sums(*x)),
            theta,
            probe,
        ):
            return route
    return general


def _agree(
    fast: Callable[[Tensor, Tensor, Batch], Tensor],
    slow: Callable[[Tensor, Tensor, Batch], Tensor],
    theta: Tensor,
    probe: Batch,
) -> bool:
    """Compares two forms on a few samples, for one replica and for two, shared or not."""
    noise = torch.Generator().manual_seed(0)
    n = len(probe.data.targets)
    shift = torch.randn((REPLICAS, theta.numel()), generator=noise).to(theta)
    weights = torch.randn((REPLICAS, n), generator=noise).to(theta)
    trial = theta + PERTURBATION * shift
    own = Batch(probe.data.map(lambda x: torch.stack([x, x.flip(0)])), False)
    one = Batch(own.data.map(lambda x: x[:1]), False)
    for replicas, batch in ((1, probe), (REPLICAS, probe), (1, one), (REPLICAS, own)):
        x, w = trial[:replicas], weights[:replicas]
        want = slow(x, w, batch)
        try:
            got = fast(x, w, batch)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            return False
        tolerance = torch.finfo(theta.dtype).eps ** 0.5
        if got.shape != want.shape or bool((got - want).abs().max() > tolerance * want.abs().max()):
            return False
    return True
