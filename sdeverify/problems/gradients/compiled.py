"""Gradients and moments in compiled form, made once for each shape of the work."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch.utils import _pytree as pytree

from sdeverify.base.compiling import compiled
from sdeverify.base.shapes import Parameters, Tensor, Weights
from sdeverify.errors import UnsupportedError
from sdeverify.problems.gradients.general import GradientRoute, MomentsRoute
from sdeverify.problems.gradients.pieces import InPieces
from sdeverify.problems.gradients.samples import Batch
from sdeverify.problems.problem import WeightedMoments


class CompiledGradient:
    """A `GradientRoute`, compiled.

    Args:
        route: what is compiled.
        sample: bytes that a backward pass keeps for each sample.
    """

    def __init__(self, route: GradientRoute, sample: int) -> None:
        self.name, self.copies, self.together = route.name, route.copies, route.together
        self.piece = route.piece
        self.plain = InPieces(route.weighted, sample, route.piece)
        self._kernel = Compiled(self.plain)

    def weighted(
        self,
        theta: Parameters,
        weights: Weights,
        batch: Batch,
    ) -> Parameters:
        """sum_i w_i grad l_i."""
        (found,) = self._kernel(theta, weights, batch)
        return found


class CompiledMoments:
    """A `MomentsRoute`, compiled.

    Args:
        route: what is compiled.
        sample: bytes that a backward pass keeps for each sample.
    """

    def __init__(self, route: MomentsRoute, sample: int) -> None:
        self.name, self.copies, self.together = route.name, route.copies, route.together
        self.piece, self.alone, self.formed = route.piece, route.alone, route.formed
        self.plain = InPieces(route.sums, sample, route.piece)
        self._kernel = Compiled(self.plain)

    def sums(
        self,
        theta: Parameters,
        weights: Weights,
        batch: Batch,
    ) -> WeightedMoments:
        """sum_i w_i g_i, sum_i g_i and sum_i g_i^2."""
        return WeightedMoments(*self._kernel(theta, weights, batch))


def plain_kernel(route: GradientRoute | MomentsRoute) -> InPieces:
    """What a compiled route was made of, for use within a larger compiled step."""
    assert isinstance(route, CompiledGradient | CompiledMoments)
    return route.plain


class Compiled:
    """A kernel that is compiled for each new shape of its arguments, and compared on its first use.

    Where it cannot be traced or compiled, or gives other numbers then, it is used as it is, with a
    warning.
    """

    def __init__(self, kernel: InPieces) -> None:
        self._kernel = kernel
        self._ready: dict[tuple[object, ...], Callable[..., tuple[Tensor, ...]]] = {}

    def __call__(self, theta: Tensor, weights: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        data, structure = pytree.tree_flatten(batch.data)
        given = [x.detach().contiguous() for x in (theta, weights, *data)]
        key = (batch.shared, *(x.shape for x in given))
        if key not in self._ready:
            self._ready[key] = self._compile(structure, batch.shared, given)
        with torch.no_grad():
            return self._ready[key](*given)

    def _compile(
        self, structure: pytree.TreeSpec, shared: bool, given: list[Tensor]
    ) -> Callable[..., tuple[Tensor, ...]]:
        def flat(theta: Tensor, weights: Tensor, *data: Tensor) -> tuple[Tensor, ...]:
            batch = Batch(pytree.tree_unflatten(list(data), structure), shared)
            return self._kernel(theta, weights, batch)

        try:
            return compiled(flat, given)
        except UnsupportedError as error:
            warnings.warn(f"the problem's gradients are not compiled: {error}", stacklevel=2)
            return flat
