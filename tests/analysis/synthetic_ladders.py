"""Ladders with a known truth: many independent seeds side by side, as observables."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sdeverify.analysis import estimate_order, ladder


def synthetic_ladder(
    truth,
    steps,
    standard_error,
    *,
    seeds=1,
    path_standard_error=0.0,
    shared=True,
    residual=0.0,
    seed=0,
    claimed_order=1.0,
):
    """Errors `truth(step) + chain noise - path noise`, one independent ladder per observable.

    `standard_error` is the chain's, a number or one per rung; the path is one for all rungs where
    `shared`. `residual` is recorded as the integrator's, and not added to the errors.
    """
    rng = np.random.default_rng(seed)
    s = np.asarray(steps, dtype=np.float64)
    chain = np.broadcast_to(np.asarray(standard_error, dtype=np.float64), s.shape)
    common = rng.standard_normal(seeds)
    rungs = []
    for i, (step, sd) in enumerate(zip(s, chain, strict=True)):
        path_noise = common if shared else rng.standard_normal(seeds)
        error = truth(step) + sd * rng.standard_normal(seeds) - path_standard_error * path_noise
        full = np.full((1, seeds), 1.0)
        rungs.append(
            xr.Dataset(
                {
                    "error": (("step", "observable"), error[None, :]),
                    "standard_error": (
                        ("step", "observable"),
                        np.hypot(sd, path_standard_error) * full,
                    ),
                    "chain_variance": (("step", "observable"), sd**2 * full),
                    "path_variance": (("step", "observable"), path_standard_error**2 * full),
                    "integrator_residual": (("step", "observable"), residual * full),
                },
                coords={
                    "step": [40.0],
                    "time": ("step", [1.0]),
                    "observable": np.array([f"seed {k}" for k in range(seeds)], dtype=object),
                },
                attrs={
                    "time_per_step": float(step),
                    "path_id": "one" if shared else f"path {i}",
                    "chain_id": f"chain {i}",
                    "replicas": 1000,
                },
            )
        )
    return ladder(rungs, "svag", claimed_order)


def controlled_order(errors, noise_effect=1.0):
    """Orders of errors, with those against an SDE without noise, which is off by `noise_effect`."""
    return estimate_order(
        errors, flow=estimate_order(errors.assign(error=errors.error + noise_effect))
    )
