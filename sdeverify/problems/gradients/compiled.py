"""Gradients and moments in compiled form, made once for each shape of the work."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch.utils import _pytree as pytree

from sdeverify.base.compiling import compiled
from sdeverify.base.shapes import Tensor
from sdeverify.errors import UnsupportedError
from sdeverify.problems.gradients.kernels import Sums
from sdeverify.problems.gradients.samples import Batch


class Compiled:
    """Sums that are compiled for each new shape of their arguments, and compared on first use.

    Where they cannot be traced or compiled, or are other numbers then, they are computed as they
    are, with a warning.
    """

    def __init__(self, sums: Sums) -> None:
        self._sums = sums
        self._ready: dict[tuple[object, ...], Callable[..., tuple[Tensor, ...]]] = {}

    def __call__(self, theta: Tensor, weights: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        data, structure = pytree.tree_flatten(batch.data)
        tensors = [x.detach().contiguous() for x in (theta, weights, *data)]
        key = (batch.shared, *(x.shape for x in tensors))
        if key not in self._ready:
            self._ready[key] = self._compile(structure, batch.shared, tensors)
        with torch.no_grad():
            return self._ready[key](*tensors)

    def _compile(
        self, structure: pytree.TreeSpec, shared: bool, given: list[Tensor]
    ) -> Callable[..., tuple[Tensor, ...]]:
        def flat(theta: Tensor, weights: Tensor, *data: Tensor) -> tuple[Tensor, ...]:
            batch = Batch(pytree.tree_unflatten(list(data), structure), shared)
            return self._sums(theta, weights, batch)

        try:
            return compiled(flat, given)
        except UnsupportedError as error:
            warnings.warn(f"the problem's gradients are not compiled: {error}", stacklevel=2)
            return flat
