"""Boxes that follow a chain's law."""

from __future__ import annotations

import math

import numpy as np

from sdeverify.reference.grids import Array


def box(law: Array, images: Array, weights: Array, width: float) -> tuple[float, float]:
    """`width` standard deviations around the mean of the images, but not beyond their range.

    Args:
        law: on the grid, `(*shape,)`.
        images: one coordinate's images of the grid points, `(*shape, atom)`.
        weights: the atoms' weights.
        width: half-width in standard deviations.
    """
    mean = float(np.sum(law * (images @ weights)))
    variance = float(np.sum(law * (np.square(images - mean) @ weights)))
    if not math.isfinite(variance):
        return float(images.min()), float(images.max())
    margin = width * math.sqrt(max(variance, 0.0))
    return max(mean - margin, float(images.min())), min(mean + margin, float(images.max()))
