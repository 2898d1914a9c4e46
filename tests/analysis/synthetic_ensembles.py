"""Ensembles with a known truth, built from plain arrays of replicas."""

from __future__ import annotations

import numpy as np

from sdeverify.analysis.datasets.moments import block_moments, cross_block_moments
from sdeverify.analysis.datasets.schema import chain_dataset, path_dataset


def axes(values):
    steps = np.arange(1.0, values.shape[-2] + 1)
    names = [f"observable {i}" for i in range(values.shape[-1])]
    return {"step": steps, "time": 0.1 * steps, "observables": names}


def chain_of(values, blocks=8, **attrs):
    """A chain dataset of replicas `(replica, step, observable)`, cut into equal blocks."""
    parts = [block_moments(v) for v in np.array_split(values, blocks)]
    return chain_dataset(
        **_fields(parts, blocks), **axes(values), attrs={"time_per_step": 0.1, **attrs}
    )


def path_of(values, substeps=(2, 4), blocks=8, **attrs):
    """A path dataset of replicas `(replica, substeps, step, observable)`."""
    parts = [cross_block_moments(v) for v in np.array_split(values, blocks)]
    return path_dataset(
        **_fields(parts, blocks), **axes(values), substeps=substeps, attrs={"model": "m", **attrs}
    )


def _fields(parts, blocks):
    return {
        "block_count": [p.count for p in parts],
        "block_mean": np.stack([p.mean for p in parts]),
        "block_comoment": np.stack([p.comoment for p in parts]),
        "blocks": np.arange(blocks),
    }
