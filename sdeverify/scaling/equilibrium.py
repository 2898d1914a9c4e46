"""The balance of |theta|^2 for scale-invariant losses with weight decay, from ensembles.

Scale invariance gives <g, theta> = 0 for every mini-batch gradient g, so that at every own step of
SGD, with R = E|theta|^2, G = E|grad f|^2, N = sigma^2 E tr Sigma,

    change of R = eta^2 (G + N) - (2 - eta lambda) eta lambda R,

and in the SDE dR/dt = eta N - 2 lambda R. At equilibrium the left-hand sides are 0 (Li, Malladi,
Arora 2021, section 5; derived again in `scaling_limits`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from sdeverify.analysis.datasets.axes import BLOCK, OBSERVABLE, STEP, SUBSTEPS
from sdeverify.analysis.datasets.moments import extrapolation_weights
from sdeverify.analysis.ratio import RatioInterval, ratio_interval

Array = NDArray[Any]

_SEEN = ("squared_parameter_norm", "squared_gradient_norm", "noise_trace")


class Constants(NamedTuple):
    """What the balance of one ensemble depends on.

    Attributes:
        learning_rate, weight_decay: eta and lambda.
        noise: sigma^2.
        own_steps: own steps in one level-1 step.
    """

    learning_rate: float
    weight_decay: float
    noise: float
    own_steps: float


def balance(ds: xr.Dataset, constants: Constants, confidence: float = 0.95) -> dict[str, float]:
    """How well the laws hold over the second half of the recorded steps.

    Time means are by the trapezoid rule, intervals Fieller's, over blocks of replicas.

    Args:
        ds: a chain, or a path of the SDE (extrapolated to dt = 0), that observes |theta|^2,
            |grad f|^2 and tr Sigma.

    Returns:
        With `_low`, `_high` each: `sgd_balance` (2 - eta lambda) lambda R / (eta (G + N)) and
        `sde_balance` 2 lambda R / (eta N), each 1 where its law holds; `closure`, the same with
        the change of R over the window, which is 1 for a scale-invariant loss near equilibrium or
        far from it: SGD's for a chain, the SDE's for a path. `change`, the mean change of R over
        what weight decay takes, with `change_standard_error`: 0 at equilibrium.
    """
    eta, decay, noise, own = constants
    continuous = SUBSTEPS in ds.dims
    r, g, s, change, steps = _windows(ds, own)
    lost = (1.0 if continuous else 1 - eta * decay / 2) * 2 * decay * r
    gained = {"sgd_balance": eta * (g + noise * s), "sde_balance": eta * noise * s}
    drift = change / (steps * own * eta)
    law = "sde_balance" if continuous else "sgd_balance"
    balances = {
        "sgd_balance": ratio_interval(
            (2 - eta * decay) * decay * r, gained["sgd_balance"], confidence
        ),
        "sde_balance": ratio_interval(2 * decay * r, gained["sde_balance"], confidence),
        "closure": ratio_interval(lost + drift, gained[law], confidence),
    }
    moved = drift / lost.mean()
    return {
        **{k: v for name, interval in balances.items() for k, v in _named(name, interval).items()},
        "change": float(moved.mean()),
        "change_standard_error": float(moved.std(ddof=1) / np.sqrt(len(moved))),
    }


def _windows(ds: xr.Dataset, own: float) -> tuple[Array, Array, Array, Array, float]:
    """Per block the time means of R, G, tr Sigma, and R's change over the window's steps.

    A chain's means are over the points from which its own steps start.
    """
    values = ds["block_mean"].sel({OBSERVABLE: list(_SEEN)})
    if SUBSTEPS in ds.dims:
        weights = xr.DataArray(extrapolation_weights(ds[SUBSTEPS].values), dims=SUBSTEPS)
        values = (values * weights).sum(SUBSTEPS)
    step = ds[STEP].values
    late = step >= (step[0] + step[-1]) / 2
    series = values.transpose(OBSERVABLE, BLOCK, STEP).values[:, :, late]
    length = float(step[late][-1] - step[late][0])
    means = trapezoid(series, step[late], axis=-1) / length
    change = series[:, :, -1] - series[:, :, 0]
    if SUBSTEPS not in ds.dims:
        means = means - change / (2 * length * own)
    r, g, s = means
    return r, g, s, change[0], length


def _named(name: str, interval: RatioInterval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
