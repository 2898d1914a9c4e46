"""Pushing a law forward: scattering weighted images onto the next grids.

With images x(q) of the points q = (grid point, atom) and interpolation bases L,

    r'(a, b, c) = sum_q r(q) w(q) L_a(x_1(q)) L_b(x_2(q)) L_c(x_3(q)).

Where an image does not depend on some grid coordinate (seen from the images, not from a formula),
its basis is evaluated once along it and the sum over that coordinate is taken out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sdeverify.exact.spectral.frames import Frame
from sdeverify.exact.spectral.grids import Array

LETTERS = "abc"
ATOM = "z"
LARGEST_WORK = 600_000
"""Numbers in the largest temporary array."""


def push(law: Array, images: Sequence[Array], weights: Array, new: Frame) -> Array:
    """The law on the new frame's grids.

    Args:
        law: on the old frame, `(*shape,)`.
        images: each coordinate's images, `(*shape, atom)`.
        weights: the atoms' weights.
        new: the frame whose grids are to carry the law.
    """
    reduced = [_without_idle_axes(x) for x in images]
    order = sorted(
        range(len(images)),
        key=lambda c: (-sum(n > 1 for n in reduced[c].shape), new.grids[c].size),
    )
    rows = law.shape[0]
    work = images[order[0]].size * new.grids[order[0]].size
    chunk = max(1, rows * LARGEST_WORK // max(work, 1))
    total: Array | float = 0.0
    for first in range(0, rows, chunk):
        part = slice(first, first + chunk)
        total = total + _push_part(
            law[part], [x[part] if x.shape[0] > 1 else x for x in reduced], weights, new, order
        )
    result = np.asarray(total)
    for c in range(len(images)):
        result = np.moveaxis(np.tensordot(result, new.grids[c].to_nodal, axes=(c, 0)), -1, c)
    return np.ascontiguousarray(result)


def _without_idle_axes(images: Array) -> Array:
    """The images with one entry along the axes on which they do not depend."""
    scale = 1e-14 * float(np.abs(images).max())
    for axis in range(images.ndim):
        if images.shape[axis] > 1:
            first = images.take([0], axis)
            if float(np.abs(images - first).max()) <= scale:
                images = first
    return images


def _push_part(
    law: Array, images: Sequence[Array], weights: Array, new: Frame, order: Sequence[int]
) -> Array:
    """The law's coefficients in the new bases, for a slab of grid points."""
    axes = LETTERS[: law.ndim] + ATOM
    labels = {
        c: "".join(s for s, n in zip(axes, images[c].shape, strict=True) if n > 1) for c in order
    }
    factors = {
        c: torch.from_numpy(new.grids[c].modes(np.ascontiguousarray(images[c]))) for c in order
    }
    density = torch.from_numpy(law[..., None] * weights)
    lead = order[0]
    work, have = factors[lead] * density, LETTERS[lead].upper() + axes
    if len(order) == 1:
        work, have = work.flatten(1).sum(1), LETTERS[lead].upper()
    for position, c in enumerate(order[1:], start=1):
        later = {s for rest in order[position + 1 :] for s in labels[rest]}
        output = LETTERS[c].upper()
        squeezed = factors[c].reshape(factors[c].shape[0], *[n for n in images[c].shape if n > 1])
        keep = "".join(s for s in have if s.isupper() or s in later)
        work = torch.einsum(f"{have},{output}{labels[c]}->{keep}{output}", work, squeezed)
        have = keep + output
    target = LETTERS[: law.ndim].upper()
    return torch.einsum(f"{have}->{target}", work).numpy()


def dense_operator(images: Sequence[Array], weights: Array, frame: Frame) -> Array:
    """The matrix `P` with `law.ravel() @ P` the pushed law, for one or two coordinates."""
    count, atoms = frame.components["theta"].shape[0], weights.size
    flat = [
        torch.from_numpy(g.modes(x.reshape(count, atoms)))
        for g, x in zip(frame.grids, images, strict=True)
    ]
    nodal = [torch.from_numpy(g.to_nodal) for g in frame.grids]
    w = torch.from_numpy(weights)
    if len(flat) == 1:
        return ((flat[0] @ w).T @ nodal[0]).numpy()
    first = torch.einsum("apz,aA->pAz", flat[0] * w, nodal[0])
    second = torch.einsum("bpz,bB->pzB", flat[1], nodal[1])
    return torch.bmm(first, second).reshape(count, -1).numpy()
