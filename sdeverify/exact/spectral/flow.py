"""An SDE without noise: one curve, integrated to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp

from sdeverify.base.state import State, pack, unpack
from sdeverify.errors import InvalidInputError
from sdeverify.exact.spectral.grids import Array

PROBES = 8
"""Points at which an SDE is asked for its noise."""


def is_noiseless(sde: Any, start: State) -> bool:
    """Whether the SDE has no noise: its size is 0, or `g_prod` is, at the start and around it."""
    if getattr(sde, "intensity", 1.0) == 0:
        return True
    rng = np.random.default_rng(0)
    y0 = pack({n: v.reshape(1, -1) for n, v in start.components.items()}, sde.components)
    near = torch.from_numpy(np.exp(0.1 * rng.standard_normal((PROBES, y0.shape[1]))))
    near[0] = 1.0
    normals = torch.from_numpy(rng.standard_normal((PROBES, sde.noise_dim)))
    time = start.step * float(sde.time_per_level1_step)
    return not bool(sde.g_prod(time, y0 * near.to(y0), normals.to(y0)).any())


def flow_values(
    sde: Any, start: State, steps: Sequence[float], observables: Sequence[Any], tolerance: float
) -> Array:
    """Each observable along dy = f dt from `start`, `(step, observable)`.

    Args:
        steps: level-1 steps on the absolute axis, the first one the start's.
    """
    unit = float(sde.time_per_level1_step)
    names = sde.components
    y0 = pack({n: v.reshape(1, -1) for n, v in start.components.items()}, names)

    def drift(t: float, y: Array) -> Array:
        return np.asarray(sde.f(t, torch.from_numpy(y)[None])[0].detach().numpy())

    times = np.asarray(steps, dtype=np.float64) * unit
    solved = solve_ivp(
        drift,
        (times[0], times[-1]),
        y0[0].detach().double().numpy(),
        method="DOP853",
        t_eval=times,
        rtol=tolerance,
        atol=tolerance,
    )
    if not solved.success:
        raise InvalidInputError(f"the flow cannot be integrated: {solved.message}")
    rows = torch.from_numpy(np.ascontiguousarray(solved.y.T))
    states = [State(k, **unpack(row[None], names)) for k, row in zip(steps, rows, strict=True)]
    return np.array([[float(o(state)[0]) for o in observables] for state in states])
