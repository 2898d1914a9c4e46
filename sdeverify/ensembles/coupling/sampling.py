"""I.i.d. replicas of several channels, as pooled moments of their blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdeverify.analysis.datasets.moments import Moments, pool_blocks
from sdeverify.analysis.sides import Ensemble

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Means of i.i.d. replicas over `(channel, step, observable)`, from their blocks' moments."""

    blocks: Sequence[Moments]

    @classmethod
    def of(cls, ds: xr.Dataset) -> Sample:
        """The sample that a dataset of channels holds."""
        fields = (ds[f"block_{name}"].values for name in ("count", "mean", "comoment"))
        return cls([Moments(int(n), *moments) for n, *moments in zip(*fields, strict=True)])

    @cached_property
    def pooled(self) -> Moments:
        """All replicas together, comoments crossed over the channels."""
        fields = ("count", "mean", "comoment")
        return Moments(*pool_blocks(*([getattr(b, f) for b in self.blocks] for f in fields)))

    @property
    def count(self) -> int:
        """Replicas."""
        return self.pooled.count

    def mean(self, weights: Array) -> Array:
        """Of combinations of channels, `(combination, channel, observable)` weights."""
        return np.asarray(np.einsum("ico,cko->iko", weights, self.pooled.mean))

    def covariance(self, weights: Array) -> Array:
        """Of the means of such combinations, `(combination, combination, step, observable)`."""
        each = self.pooled.covariance_of_the_mean
        return np.asarray(np.einsum("iao,jbo,abko->ijko", weights, weights, each))

    def ensemble(self, weights: Array) -> Ensemble:
        """One combination, `(channel, observable)`, for bands over time."""
        share = np.asarray([b.count for b in self.blocks], dtype=np.float64) / self.count
        deviation = np.stack([b.mean for b in self.blocks]) - self.pooled.mean
        residuals = np.einsum("b,bcko,co->bko", share, deviation, weights)
        variance = self.covariance(weights[None])[0, 0]
        return Ensemble(1.0, variance, residuals, float(self.count))
