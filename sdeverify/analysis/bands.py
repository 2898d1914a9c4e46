"""Simultaneous bands over the compared steps, for the maximum of a weak error over time.

The largest |error| over many steps is biased upwards, since noise is what the maximum picks. What
can be stated honestly is a band that covers the errors of all steps at once: with
`|e_k - E e_k| <= q s_k` for all k, the true maximum lies in
`[max_k(|e_k| - q s_k), max_k(|e_k| + q s_k)]`.

`q` is the quantile of `max_k |Z_k|` for normals with the errors' correlation over the steps. The
correlation is estimated from the block means and shrunk towards 0 by `2/sqrt(b - 1)`, b the number
of blocks of the side with the fewest: a smaller correlation has a larger quantile (Sidak 1968), so
shrinking errs on the safe side, and with 5 blocks or fewer the bound of independent steps is left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from sdeverify.analysis.datasets.axes import BLOCK, STEP

Array = NDArray[Any]

DRAWS = 4_000


def simultaneous_quantile(
    residuals: list[Array], steps: int, confidence: float, degrees_of_freedom: float
) -> float:
    """The factor q of a band that covers `steps` errors at once with probability `confidence`.

    Args:
        residuals: per independent side, `(block, step)`: contributions of its blocks to the error
            of the mean, of which the sum of squares estimates the variance; empty where one side
            was not sampled.
        degrees_of_freedom: of the standard errors (replicas less one); q is widened to Student's t.
    """
    sidak = stats.norm.ppf(0.5 + 0.5 * confidence ** (1.0 / max(steps, 1)))
    q = float(sidak)
    blocks = min((len(r) for r in residuals), default=0)
    shrink = min(1.0, 2.0 / np.sqrt(max(blocks - 1, 1)))
    if steps > 1 and shrink < 1.0:
        q = min(q, _multiplier_quantile(np.concatenate(residuals), shrink, confidence))
    if np.isfinite(degrees_of_freedom):
        q = float(stats.t.isf(stats.norm.sf(q), degrees_of_freedom))
    return q


def _multiplier_quantile(residuals: Array, shrink: float, confidence: float) -> float:
    """The quantile of max |Z| by Gaussian multipliers on the blocks.

    The draws are fixed, so the result repeats; one standard error of theirs is added on top.
    """
    scale = np.sqrt(np.sum(residuals**2, axis=0))
    unit = residuals[:, scale > 0] / scale[scale > 0]
    rng = np.random.default_rng(20_240_607)
    common = rng.standard_normal((DRAWS, len(unit))) @ unit
    own = rng.standard_normal(common.shape)
    z = np.sqrt(1.0 - shrink) * common + np.sqrt(shrink) * own
    spare = np.sqrt(confidence * (1.0 - confidence) / DRAWS)
    return float(np.quantile(np.max(np.abs(z), axis=1), min(confidence + spare, 1.0)))


def block_residuals(ds: xr.Dataset, values: xr.DataArray) -> NDArray[np.float64]:
    """`n_b (m_b - m) / n` of each block, `(block, step, observable)`, from the blocks' means."""
    count = ds.block_count.values
    block_mean = values.transpose(BLOCK, STEP, ...).values
    mean = np.tensordot(count / count.sum(), block_mean, axes=(0, 0))
    weighted: NDArray[np.float64] = (count / count.sum())[:, None, None] * (block_mean - mean)
    return weighted
