"""RMSprop and Adam at fixed noise with (1 - beta)/eta fixed: which SDE has order 1 there."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import pi

import numpy as np
import pytest
import torch
import xarray as xr

import sdeverify as sv
from sdeverify.exact import Periodic, Positive
from sdeverify.study.certify import certified_order, certify_study, exact_chains, one_step_order
from sdeverify.study.study import Study
from sdeverify.testing.faults import correct_studies
from sdeverify.testing.faults.fault import planted, times

CORRECT = correct_studies()
FINE = {"theta": [Periodic(80, length=2 * pi, box_points=32)], "u": Positive(24)}


def ballistic(name: str, keep_signal: bool, rungs: int = 4) -> Study:
    study = CORRECT[name]
    rates = [study.optimizer.learning_rate / 2**i for i in range(rungs)]
    options = {"keep_signal": keep_signal}
    return replace(study, ladder=sv.BallisticRates(rates), sde_options=options)


def verdict(order: xr.Dataset) -> str:
    return sv.overall_verdict(order).verdict


@cache
def chains() -> list[xr.Dataset]:
    """RMSprop on the four rungs, without sampling."""
    return exact_chains(ballistic("rmsprop", True), FINE)


def certified(study: Study) -> xr.Dataset:
    return certified_order(study, FINE, chains())


def test_the_sde_that_keeps_the_signal_has_order_one_in_the_learning_rate() -> None:
    order = certified(ballistic("rmsprop", True))
    assert set(order["verdict"].values.ravel()) == {"supported"}
    assert np.abs(order["order"].values - 1).max() < 1e-3


def test_the_sde_without_the_signal_does_not_converge() -> None:
    order = certified(ballistic("rmsprop", False))
    assert set(order["verdict"].values.ravel()) == {"refuted"}


def test_the_ladder_tells_the_drift_and_not_the_noise() -> None:
    study = ballistic("rmsprop", True)
    quiet = planted(study, lambda sde, optimizer, oracle: sv.GradientFlow.without_noise(sde))
    assert verdict(certified(replace(study, sde=quiet))) == "supported"
    half = planted(study, times("c2", 0.5))
    assert verdict(certified(replace(study, sde=half))) == "refuted"


@pytest.mark.parametrize("name", ["rmsprop", "rmsprop-old-v", "adam", "adamw"])
@pytest.mark.parametrize("keep_signal", [True, False])
def test_one_step_moments_tell_the_two_forms_apart(name: str, keep_signal: bool) -> None:
    wanted = "supported" if keep_signal else "refuted"
    assert verdict(one_step_order(ballistic(name, keep_signal))) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("keep_signal", [True, False])
def test_adam_is_certified_with_the_signal_and_refuted_without(keep_signal: bool) -> None:
    wanted = "supported" if keep_signal else "refuted"
    assert verdict(certified_order(ballistic("adam", keep_signal))) == wanted


def test_monte_carlo_measures_the_same_errors_on_the_same_clock() -> None:
    """Every deviation within 4.5 standard errors of the 8 compared: 1 in 18,000 by chance."""
    study = replace(ballistic("rmsprop", True, 2), replicas=2048, steps=(4.0,))
    exact = certify_study(study, FINE)["errors"].to_dataset()
    measured = sv.run(study)["rmsprop/errors"].to_dataset()
    for name in ("time", "time_per_step", "learning_rate"):
        np.testing.assert_allclose(measured[name].values, exact[name].values, rtol=1e-12)
    np.testing.assert_allclose(exact["time_per_step"].values, [0.1, 0.05], rtol=1e-12)
    np.testing.assert_allclose(exact["time"].values, 0.1 * exact["step"].values, rtol=1e-12)
    away = measured["error"].isel(step=-1) - exact["error"].isel(step=-1)
    spread = np.hypot(
        measured["standard_error"].isel(step=-1).values,
        np.abs(measured["integrator_residual"].isel(step=-1).values),
    )
    assert (np.abs(away.values) / spread).max() < 4.5


def test_noise_epsilon_and_the_betas_over_the_rate_stay() -> None:
    study = CORRECT["adamw"]
    coarse, fine = sv.BallisticRates([0.1, 0.025]).rungs(study.optimizer, study.oracle)
    assert coarse.optimizer == study.optimizer
    assert fine.oracle is study.oracle
    assert fine.optimizer.epsilon == study.optimizer.epsilon
    assert fine.optimizer.decoupled_weight_decay == study.optimizer.decoupled_weight_decay
    for beta in ("beta1", "beta2"):
        shrink = (1 - getattr(fine.optimizer, beta)) / (1 - getattr(study.optimizer, beta))
        assert shrink == pytest.approx(1 / 4)
    assert fine.optimizer.own_step(3) == 12
    assert fine.time_per_step == pytest.approx(0.025)


def test_optimizers_without_betas_and_other_first_rates_are_refused() -> None:
    oracle = CORRECT["sgd"].oracle
    with pytest.raises(sv.UnsupportedError, match="Use LearningRates"):
        sv.BallisticRates([0.2, 0.1]).rungs(CORRECT["sgd"].optimizer, oracle)
    with pytest.raises(sv.InvalidInputError, match="optimizer's own"):
        sv.BallisticRates([0.2, 0.1]).rungs(CORRECT["adam"].optimizer, oracle)
    with pytest.raises(sv.InvalidInputError, match="coarse to fine"):
        sv.BallisticRates([0.1, 0.1])


def test_betas_by_parameter_move_each_on_its_own() -> None:
    betas = torch.tensor([0.9, 0.98], dtype=torch.float64)
    finer = sv.RMSprop(learning_rate=0.1, beta=betas).at_ballistic_rate(0.05)
    torch.testing.assert_close(finer.beta, 1 - (1 - betas) / 2)
