"""Identities of SVAG and of the scaling rules on the exact route, without sampling."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import sdeverify as sv
from sdeverify.analysis.extrapolation import extrapolate_levels
from sdeverify.certificate import default_domain, exact_chains
from sdeverify.faults import correct_studies
from sdeverify.reference.spectral import exact_continuous
from sdeverify.study import Study

CORRECT = correct_studies()
KEEPS = ["sgd", "momentum", "rmsprop"]
WITH_REPLACEMENT = sv.MinibatchNoise(2)
"""sigma^2 = 1/B exactly, as the rules suppose."""


def sde_expectations(study: Study, kappa: float, rule: str) -> tuple[np.ndarray, float]:
    optimizer = sv.scale(study.optimizer, kappa, rule)
    oracle = sv.scale_batch(replace(study.oracle, noise=WITH_REPLACEMENT), kappa)
    start = sv.scale_state(study.start, study.optimizer, kappa, rule)
    sde = sv.derive(optimizer, oracle, **study.sde_options)
    side = exact_continuous(sde, start, study.steps, study.observables, default_domain(study))
    return side["mean"].values, float(side["bound"].max())


@pytest.mark.parametrize("kappa", [2, 3])
@pytest.mark.parametrize("name", KEEPS)
def test_the_rule_keeps_the_sde_of_the_scaled_run(name: str, kappa: int) -> None:
    study = CORRECT[name]
    before, bound = sde_expectations(study, 1, "auto")
    after, other = sde_expectations(study, kappa, "auto")
    assert np.abs(after - before).max() <= bound + other


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_square_root_rule_keeps_the_sde_of_adam(name: str) -> None:
    study = CORRECT[name]
    before, bound = sde_expectations(study, 1, "auto")
    after, other = sde_expectations(study, 2, "auto")
    assert np.abs(after - before).max() <= bound + other


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("momentum", "linear"),
        ("rmsprop", "linear"),
        ("rmsprop", "square_root_fixed_beta"),
        ("rmsprop", "square_root_fixed_epsilon"),
        ("sgd", "unscaled"),
    ],
)
def test_rival_rules_change_the_sde(name: str, rule: str) -> None:
    study = CORRECT[name]
    before, bound = sde_expectations(study, 1, "auto")
    after, other = sde_expectations(study, 2, rule)
    assert np.abs(after - before).max() > 100 * (bound + other)


def at_levels(name: str, levels: list[float]) -> tuple[list[xr.Dataset], np.ndarray]:
    study = replace(CORRECT[name], ladder=sv.SvagLevels(levels), steps=(8.0,))
    domain = default_domain(study)
    sde = study.sdes()[0][0]
    path = exact_continuous(sde, study.start, study.steps, study.observables, domain)
    return exact_chains(study), path["mean"].values[-1]


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_levels_1_2_and_4_together_beat_level_16_alone_in_bias(name: str) -> None:
    chains, truth = at_levels(name, [1, 2, 4])
    together = extrapolate_levels(chains)["mean"].values[-1]
    single = chains[-1]["mean"].values[-1]
    order = {"sgd": 1, "rmsprop": 2}[name]
    level_16 = np.abs(single - truth) / 4**order
    assert np.all(np.abs(together - truth) < level_16 / 10)


def test_adaptive_levels_have_order_two_in_the_level() -> None:
    levels = [1, math.sqrt(2), 2, 2 * math.sqrt(2)]
    chains, truth = at_levels("rmsprop", levels)
    errors = np.array([c["mean"].values[-1] - truth for c in chains])
    slopes = np.log(np.abs(errors[-2] / errors[-1])) / math.log(math.sqrt(2))
    assert np.abs(slopes - 2).max() < 0.05
