"""Monte Carlo against the exact route: do the intervals cover the exact values at their rate?

One ensemble of many blocks is as many independent small ensembles: a block owns its streams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

import sdeverify as sv
from sdeverify.analysis.datasets.schema import finish_chain, finish_path
from sdeverify.analysis.power_law import fit, whiten
from sdeverify.base.rng import Block
from sdeverify.ensembles.build import chain_job, path_job
from sdeverify.ensembles.options import Run
from sdeverify.exact import Moving, Periodic, Positive
from sdeverify.problems.library import circle_problem

BLOCKS, SIZE = 60, 1024
STEPS = [1, 2, 4]
OBSERVABLES = [
    sv.Observable("cos", lambda s: torch.cos(s.theta[:, 0])),
    sv.Observable("sin2", lambda s: torch.sin(2 * s.theta[:, 0])),
]


@dataclass(frozen=True)
class Setting:
    """A run with large steps on six losses on the circle, and the grid for its exact weak errors.

    Both ladders of levels have the same steps on the SDE's clock.
    """

    optimizer: sv.Optimizer
    domain: dict[str, Any]
    levels: tuple[float, ...]
    start: sv.State
    batch: int = 1

    @property
    def oracle(self) -> sv.GradientOracle:
        return sv.GradientOracle(circle_problem(), sv.MinibatchNoise(self.batch))


def at(step: int = 0, **parts: float) -> sv.State:
    """Where both sides start."""
    return sv.State(step, **{n: torch.tensor([v]).double() for n, v in parts.items()})


SETTINGS = {
    "sgd": Setting(sv.SGD(learning_rate=0.4), {"theta": Periodic(128)}, (1, 2, 4), at(theta=2.0)),
    "momentum": Setting(
        sv.SGDMomentum(learning_rate=0.1, momentum=0.7),
        {"theta": Periodic(48, box_points=24), "p": Moving(24)},
        (1, 2, 4),
        at(theta=-0.4, p=-0.5),
        batch=2,
    ),
    "rmsprop": Setting(
        sv.RMSprop(learning_rate=0.3, beta=0.8, epsilon=0.5),
        {"theta": Periodic(64), "u": Positive(18)},
        (1, 2, 4),
        at(theta=2.0, u=0.8),
    ),
    "adam": Setting(
        sv.Adam(learning_rate=0.1, beta1=0.8, beta2=0.98, epsilon=0.5),
        {"theta": Periodic(32, box_points=20), "m": Moving(20), "u": Positive(12)},
        (1, 2**0.5, 2),
        at(10, theta=-0.4, m=0.3, u=0.8),
        batch=2,
    ),
}
NAMES = ["sgd", *(pytest.param(n, marks=pytest.mark.slow) for n in ("rmsprop", "momentum", "adam"))]


@cache
def exact(name: str) -> list[xr.Dataset]:
    """The weak errors of the three levels without sampling."""
    s = SETTINGS[name]
    sde = sv.derive(s.optimizer, s.oracle)
    return [
        sv.exact_weak_error(
            *sv.svag(s.optimizer, s.oracle, level), sde, s.start, STEPS, OBSERVABLES, s.domain
        )
        for level in s.levels
    ]


@cache
def sampled(name: str) -> list[list[xr.Dataset]]:
    """`BLOCKS` independent measurements of the same, of `SIZE` replicas: [measurement][level]."""
    s, replicas = SETTINGS[name], BLOCKS * SIZE
    common: tuple[Any, ...] = (s.start, STEPS, OBSERVABLES)
    run = Run(replicas=replicas, block_size=SIZE)
    jobs = [
        chain_job(*sv.svag(s.optimizer, s.oracle, level), *common, run.at(i))
        for i, level in enumerate(s.levels)
    ]
    jobs.append(path_job(sv.derive(s.optimizer, s.oracle), *common, run, substeps=(8, 16)))
    computed = [j.dataset({b.index: j.compute(b, False) for b in j.blocks}) for j in jobs]
    parts = [
        [_part(ds, i, finish_path if ds is computed[-1] else finish_chain) for ds in computed]
        for i in range(BLOCKS)
    ]
    return [[sv.weak_error(chain, path) for chain in part] for *part, path in parts]


@cache
def orders(name: str) -> list[xr.Dataset]:
    """The order of each measurement, at the last step."""
    levels = list(SETTINGS[name].levels)
    along = [sv.ladder(each, "svag", level=levels) for each in sampled(name)]
    return [sv.estimate_order(one, steps=[one["step"].values[-1]]) for one in along]


def _part(ds: xr.Dataset, i: int, finish: Callable[[xr.Dataset], xr.Dataset]) -> xr.Dataset:
    return finish(ds.isel(block=[i]).assign_attrs(replicas=SIZE))


def covers(hits: int, trials: int, rate: float = 0.95) -> bool:
    """Whether the count fits the rate: not below its 1-in-10,000 binomial quantile."""
    return hits >= stats.binom.ppf(1e-4, trials, rate)


@pytest.mark.parametrize("name", NAMES)
def test_the_error_bars_cover_the_exact_weak_errors_at_their_rate(name: str) -> None:
    """95% of 60: 49 to 60 hits, by the 1-in-10,000 quantiles of the binomial on either side."""
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], BLOCKS, 0.95)
    assert (low, high) == (49, 60)
    for level, truth in enumerate(exact(name)):
        errors = np.stack([m[level]["error"].values[-1] for m in sampled(name)])
        bars = np.stack([m[level]["standard_error"].values[-1] for m in sampled(name)])
        assert truth["bound"].values[-1].max() < 0.05 * bars.min()
        quantile = stats.t.ppf(0.975, SIZE - 1)
        hits = (np.abs(errors - truth["error"].values[-1]) < quantile * bars).sum(0)
        assert np.all((low <= hits) & (hits <= high)), hits


@pytest.mark.parametrize("name", NAMES)
def test_the_interval_of_the_largest_error_covers_the_exact_maximum(name: str) -> None:
    """At 95% or more: 49 of 60 at least."""
    for level, one in enumerate(exact(name)):
        truth = np.abs(one["error"].values).max(0)
        low = np.stack([m[level]["max_error_low"].values for m in sampled(name)])
        high = np.stack([m[level]["max_error_high"].values for m in sampled(name)])
        for hits in ((low <= truth) & (truth <= high)).sum(0):
            assert covers(int(hits), BLOCKS)


@pytest.mark.parametrize("name", NAMES)
def test_the_intervals_of_orders_and_limits_cover_the_true_ones(name: str) -> None:
    """Order and limit 0, each observable on its own: 49 of 60 at least, where all are resolved.

    The true order of three levels is the one that the same fit finds in the exact errors, or 1,
    to which it tends: a pure power has the ladder's own order (1.15 for momentum's sin 2x). Orders
    are counted among the measurements whose error is resolved; how many are is asserted too.
    """
    found = xr.concat(orders(name), dim="measurement", data_vars="all").isel(step=0)
    own = effective_order(name)
    for o, observable in enumerate(found["observable"].values):
        one = found.sel(observable=observable)
        clear = one["signal_p_value"] < 1e-3
        count = int(clear.sum())
        assert count >= 10
        inside = (one["order_low"] <= max(1, own[o])) & (one["order_high"] >= min(1, own[o]))
        hits = int((inside & clear).sum())
        assert covers(hits, count), (observable, hits, count)
        limit = (one["limit_low"] <= 0) & (one["limit_high"] >= 0)
        assert covers(int(limit.sum()), BLOCKS), (observable, int(limit.sum()))


def effective_order(name: str) -> NDArray[Any]:
    """The pure power's order in the exact errors, weighted as in the first measurement."""
    measured = sv.ladder(sampled(name)[0], "svag", level=list(SETTINGS[name].levels))
    truth = np.stack([one["error"].values for one in exact(name)])
    step = measured["time_per_step"].values
    cov = measured["error_covariance"].isel(step=-1).transpose("observable", "rung", "rung_bis")
    data, usable = whiten(step, truth[:, -1].T, cov.values, 1.0)
    assert usable.all()
    return fit(data, 1.0).order


@pytest.mark.parametrize("name", NAMES)
def test_a_correct_sde_is_hardly_ever_refuted(name: str) -> None:
    """At 2.5% a comparison: 8 of 60 or fewer, by the 1-in-10,000 quantile of the binomial."""
    refuted = sum(sv.overall_verdict(order).verdict == "refuted" for order in orders(name))
    assert refuted <= stats.binom.ppf(1 - 1e-4, BLOCKS, 0.025)


@pytest.mark.parametrize("name", NAMES)
def test_pure_noise_is_called_inconclusive(name: str) -> None:
    """Both sides are the SDE itself: there is no error, so nothing may be found in it.

    At most 1% of 60 comparisons: 5 or fewer, by the 1-in-10,000 quantile of the binomial.
    """
    s = SETTINGS[name]
    sde = sv.derive(s.optimizer, s.oracle)
    verdicts = []
    paths = [
        path_job(
            sde,
            s.start,
            STEPS,
            OBSERVABLES,
            Run(replicas=60 * 64, seed=seed, block_size=64),
            substeps=(2, 4),
        )
        for seed in (11, 12, 13, 14)
    ]
    for i in range(60):
        each = [
            p.dataset({b.index: p.compute(b, False) for b in p.blocks}) for p in _only(paths, i)
        ]
        reference, *others = each
        errors = [
            sv.weak_error(_as_chain(other, ratio), reference)
            for other, ratio in zip(others, (1, 2, 4), strict=True)
        ]
        order = sv.estimate_order(sv.ladder(errors, "svag"), steps=[s.start.step + STEPS[-1]])
        verdicts.append(sv.overall_verdict(order).verdict)
    found = sum(v != "inconclusive" for v in verdicts)
    assert found <= stats.binom.ppf(1 - 1e-4, len(verdicts), 0.01)


def _only(jobs: list, i: int) -> list:
    return [replace(job, blocks=[Block(i, 64)]) for job in jobs]


def _as_chain(path: xr.Dataset, ratio: float) -> xr.Dataset:
    """The finest discretisation of a path as if it were a chain with so many times finer steps."""
    finest = path.isel(substeps=-1, substeps_bis=-1, drop=True)
    keep = finest[["block_count", "block_mean", "block_comoment"]]
    step = path.attrs["time_per_level1_step"] / ratio
    return finish_chain(keep.assign_attrs({**path.attrs, "kind": "chain", "time_per_step": step}))
