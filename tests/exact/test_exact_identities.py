"""Identities of SVAG and of the scaling rules on the exact route, without sampling."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import sdeverify as sv
from sdeverify.analysis.extrapolation import extrapolate_levels
from sdeverify.exact.spectral.spectral import exact_continuous
from sdeverify.study.certify import default_domain, exact_chains
from sdeverify.study.study import Study
from sdeverify.testing.faults import correct_studies

CORRECT = correct_studies()
KEEPS = ["sgd", "momentum", "nesterov", "rmsprop"]
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


PUBLISHED = replace(
    CORRECT["sgd"],
    optimizer=sv.SGD(learning_rate=0.1),
    oracle=sv.GradientOracle(CORRECT["sgd"].oracle.problem, sv.MinibatchNoise(1)),
    start=sv.State(0, theta=torch.tensor([2.0], dtype=torch.float64)),
    observables=(
        *CORRECT["sgd"].observables,
        sv.Observable("exp cos x", lambda s: s.theta[:, 0].cos().exp()),
    ),
)


def biases(study: Study, steps: float) -> tuple[np.ndarray, np.ndarray]:
    """|E phi - SDE| of levels 1, 2, 4 combined, and of level 16 alone, both without sampling."""
    study = replace(study, ladder=sv.SvagLevels([1, 2, 4, 16]), steps=(steps,))
    path = exact_continuous(
        study.sdes()[0][0], study.start, study.steps, study.observables, default_domain(study)
    )
    chains = exact_chains(study)
    assert max(float(c["bound"].max()) for c in [*chains, path]) < 1e-9
    truth = path["mean"].values[-1]
    together = extrapolate_levels(chains[:3])["mean"].values[-1]
    return np.abs(together - truth), np.abs(chains[3]["mean"].values[-1] - truth)


def test_sgd_at_levels_1_2_and_4_combined_is_a_thousand_times_nearer_than_level_16_alone() -> None:
    together, alone = biases(PUBLISHED, 20)
    assert np.all(together < [5e-8, 9e-7, 3e-7])
    assert abs(alone[0] - 5.7222e-4) < 1e-8
    assert np.all(alone > 700 * together)


@pytest.mark.slow
def test_rmsprop_at_levels_1_2_and_4_combined_is_far_nearer_than_level_16_alone() -> None:
    together, alone = biases(CORRECT["rmsprop"], 4)
    assert np.all(alone > 50 * together)


def test_adaptive_levels_have_order_two_in_the_level() -> None:
    levels = [1, math.sqrt(2), 2, 2 * math.sqrt(2)]
    chains, truth = at_levels("rmsprop", levels)
    errors = np.array([c["mean"].values[-1] - truth for c in chains])
    slopes = np.log(np.abs(errors[-2] / errors[-1])) / math.log(math.sqrt(2))
    assert np.abs(slopes - 2).max() < 0.05
