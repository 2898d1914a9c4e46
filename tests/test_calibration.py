"""Monte Carlo against the exact route: do the intervals cover the exact values at their rate?

One ensemble of many blocks is as many independent small ensembles: a block owns its streams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

import sdeverify as sv
from sdeverify.ensembles import chain_job, path_job
from sdeverify.problems.library import circle_problem
from sdeverify.reference import Periodic, Positive
from sdeverify.rng import Block
from sdeverify.schema import finish_chain, finish_path

BLOCKS, SIZE = 60, 1024
STEPS = [1, 2, 4]
LEVELS = [1, 2, 4]
PLACES = {"theta": 2.0, "u": 0.8}
NAMES = ("sgd", "rmsprop")
OBSERVABLES = [
    sv.Observable("cos", lambda s: torch.cos(s.theta[:, 0])),
    sv.Observable("sin2", lambda s: torch.sin(2 * s.theta[:, 0])),
]


@cache
def setting(name: str = "sgd") -> tuple[sv.Optimizer, sv.GradientOracle]:
    """SGD or RMSprop with a large step on six losses on the circle."""
    optimizers: dict[str, sv.Optimizer] = {
        "sgd": sv.SGD(learning_rate=0.4),
        "rmsprop": sv.RMSprop(learning_rate=0.3, beta=0.8, epsilon=0.5),
    }
    return optimizers[name], sv.GradientOracle(circle_problem(), sv.MinibatchNoise(1))


def start(name: str = "sgd") -> sv.State:
    """Where both sides start."""
    components = setting(name)[0].sde_components
    return sv.State(0, **{n: torch.tensor([PLACES[n]]).double() for n in components})


@cache
def exact(name: str = "sgd") -> list[xr.Dataset]:
    """The weak errors of the three levels without sampling."""
    optimizer, oracle = setting(name)
    sde = sv.derive(optimizer, oracle)
    domains = {
        "sgd": {"theta": Periodic(128)},
        "rmsprop": {"theta": Periodic(64), "u": Positive(18)},
    }
    return [
        sv.exact_weak_error(
            *sv.svag(optimizer, oracle, level),
            sde,
            start(name),
            STEPS,
            OBSERVABLES,
            domains[name],
        )
        for level in LEVELS
    ]


@cache
def sampled(name: str = "sgd") -> list[list[xr.Dataset]]:
    """`BLOCKS` independent measurements of the same, of `SIZE` replicas: [measurement][level]."""
    optimizer, oracle = setting(name)
    point, blocks = start(name), BLOCKS * SIZE
    chains = [
        chain_job(*sv.svag(optimizer, oracle, lv), point, STEPS, OBSERVABLES, blocks, i, SIZE)
        for i, lv in enumerate(LEVELS)
    ]
    path = path_job(
        sv.derive(optimizer, oracle), point, STEPS, OBSERVABLES, blocks, (8, 16), 0, block_size=SIZE
    )
    jobs = [*chains, path]
    computed = [j.dataset({b.index: j.compute(b, False) for b in j.blocks}) for j in jobs]
    parts = [
        [_part(ds, i, finish_path if ds is computed[-1] else finish_chain) for ds in computed]
        for i in range(BLOCKS)
    ]
    return [[sv.weak_error(chain, path) for chain in part] for *part, path in parts]


def _part(ds: xr.Dataset, i: int, finish: Callable[[xr.Dataset], xr.Dataset]) -> xr.Dataset:
    return finish(ds.isel(block=[i]).assign_attrs(replicas=SIZE))


def covers(hits: int, trials: int, rate: float = 0.95) -> bool:
    """Whether the count fits the rate: not below its 1-in-10,000 binomial quantile."""
    return hits >= stats.binom.ppf(1e-4, trials, rate)


@pytest.mark.parametrize("name", NAMES)
def test_the_error_bars_cover_the_exact_weak_errors_at_their_rate(name: str) -> None:
    """Two-sided, for each level and observable at the last step; 6 tests, 1 in 10,000 a side."""
    for level in range(len(LEVELS)):
        truth = exact(name)[level]["error"].values[-1]
        assert exact(name)[level]["bound"].max() < 1e-5
        errors = np.stack([m[level]["error"].values[-1] for m in sampled(name)])
        bars = np.stack([m[level]["standard_error"].values[-1] for m in sampled(name)])
        quantile = stats.t.ppf(0.975, SIZE - 1)
        hits = (np.abs(errors - truth) < quantile * bars).sum(0)
        for count in hits:
            low, high = stats.binom.ppf([1e-4, 1 - 1e-4], BLOCKS, 0.95)
            assert low <= count <= high


@pytest.mark.parametrize("name", NAMES)
def test_the_interval_of_the_largest_error_covers_the_exact_maximum(name: str) -> None:
    for level in range(len(LEVELS)):
        truth = np.abs(exact(name)[level]["error"].values).max(0)
        low = np.stack([m[level]["max_error_low"].values for m in sampled(name)])
        high = np.stack([m[level]["max_error_high"].values for m in sampled(name)])
        for hits in ((low <= truth) & (truth <= high)).sum(0):
            assert covers(int(hits), BLOCKS)


def test_orders_cover_one_and_a_correct_sde_is_hardly_ever_refuted() -> None:
    """At most the false-alarm rate of the verdict, 2.5% a look, over all looks together."""
    refuted = inside = resolved = 0
    for measurement in sampled():
        along = sv.ladder(measurement, "svag", level=LEVELS)
        order = sv.estimate_order(along, steps=[4])
        refuted += sv.overall_verdict(order).verdict == "refuted"
        low, high = order["order_low"].values[:, 0], order["order_high"].values[:, 0]
        clear = order["signal_p_value"].values[:, 0] < 1e-3
        resolved += int(clear.sum())
        inside += int(((low <= 1) & (high >= 1))[clear].sum())
    assert refuted <= stats.binom.ppf(1 - 1e-4, BLOCKS, 0.05)
    assert resolved >= 20
    assert covers(inside, resolved, 0.9)


def test_pure_noise_is_called_inconclusive() -> None:
    """Both sides are the SDE itself: there is no error, so nothing may be found in it."""
    optimizer, oracle = setting()
    sde = sv.derive(optimizer, oracle)
    verdicts = []
    paths = [
        path_job(sde, start(), STEPS, OBSERVABLES, 60 * 64, (2, 4), seed, block_size=64)
        for seed in (11, 12, 13, 14)
    ]
    for i in range(60):
        each = [
            p.dataset({b.index: p.compute(b, False) for b in p.blocks}) for p in _only(paths, i)
        ]
        reference, *others = each
        errors = [
            sv.weak_error(_as_chain(other, level), reference)
            for other, level in zip(others, LEVELS, strict=True)
        ]
        along = sv.ladder(errors, "svag", level=LEVELS)
        verdicts.append(sv.overall_verdict(sv.estimate_order(along, steps=[4])).verdict)
    found = sum(v != "inconclusive" for v in verdicts)
    assert found <= stats.binom.ppf(1 - 1e-4, len(verdicts), 0.01)


def _only(jobs: list, i: int) -> list:
    return [replace(job, blocks=[Block(i, 64)]) for job in jobs]


def _as_chain(path: xr.Dataset, level: float) -> xr.Dataset:
    """The finest discretisation of a path as if it were a chain of that level."""
    finest = path.isel(substeps=-1, substeps_bis=-1, drop=True)
    keep = finest[["block_count", "block_mean", "block_comoment"]]
    step = path.attrs["time_per_level1_step"] / level
    return finish_chain(keep.assign_attrs({**path.attrs, "kind": "chain", "time_per_step": step}))
