"""One-step moments of optimizer and SDE, without sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sdeverify import (
    SGD,
    GradientOracle,
    InvalidInputError,
    LearningRates,
    State,
    derive,
    estimate_order,
    overall_verdict,
    sdes,
)
from sdeverify.exact.consistency import consistency
from sdeverify.exact.local_moments import LocalMoments, generated
from sdeverify.study.certify import one_step_order
from sdeverify.testing.faults import correct_studies

CORRECT = correct_studies()


@pytest.mark.parametrize("name", CORRECT)
def test_every_correct_sde_is_consistent_in_one_step(name: str) -> None:
    order = one_step_order(CORRECT[name])
    verdict = overall_verdict(order)
    assert verdict.verdict == "supported", str(verdict)
    assert verdict.refuted == 0


def test_the_moments_of_sgd_are_those_of_its_formula(small_oracle: GradientOracle) -> None:
    """theta+ - theta = -eta g: moments over eta are -grad f and eta (sigma^2 Sigma + f f^T)."""
    optimizer = SGD(learning_rate=0.1)
    theta = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    sde = derive(optimizer, small_oracle)
    along = consistency(optimizer, small_oracle, sde, State(0, theta=theta))
    f = small_oracle.mean(theta[None])[0]
    first = along["chain_mean"].sel(observable="E d theta[1]").values[:, 0]
    np.testing.assert_allclose(first, -float(f[1]), rtol=1e-12)
    gap = along["error"].sel(observable="E d theta[0] d theta[1]").values[:, 0]
    np.testing.assert_allclose(gap, along.time_per_step * float(f[0] * f[1]), rtol=1e-9)


def test_the_first_order_sde_does_not_pass_for_order_two(small_oracle: GradientOracle) -> None:
    """Its drift lacks the second-order correction; its other moments are right."""
    optimizer = SGD(learning_rate=0.1)
    order = estimate_order(
        consistency(
            optimizer,
            small_oracle,
            derive,
            State(0, theta=torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)),
            ladder=LearningRates([0.1 / 2**i for i in range(6)]),
            claimed_order=2,
        )
    )
    refuted = order.observable.values[order["verdict"].values[:, 0] == "refuted"]
    assert {"E d theta[0]", "E d theta[1]", "E d theta[2]"} == set(refuted)


def test_the_generator_of_a_monomial_is_that_of_calculus() -> None:
    """L(x^2 y) = 2xy f_x + x^2 f_y + y a_xx + 2x a_xy."""
    x, y = 0.7, -1.3
    f, a = np.array([[0.4, 0.9]]), np.array([[[1.1, 0.2], [0.2, 0.5]]])
    want = 2 * x * y * 0.4 + x**2 * 0.9 + y * 1.1 + 2 * x * 0.2
    got = generated([0, 0, 1], np.array([[x, y]]), f, a)
    assert got[0] == pytest.approx(want, rel=1e-14)


def test_second_local_moments_are_those_of_an_ornstein_uhlenbeck_process() -> None:
    """dX = -X dt + s dW: E d = x (exp(-h) - 1), variance s^2 (1 - exp(-2h))/2."""

    class OrnsteinUhlenbeck(sdes.SDE):
        components = ("theta",)
        dim, noise_dim, description, time_per_level1_step = 1, 1, None, 1.0

        def f(self, t, y):
            return -y

        def g_prod(self, t, y, v):
            return 0.5 * v

    x, h = 0.8, 1e-3
    local = LocalMoments(OrnsteinUhlenbeck(), 0.0, torch.tensor([[x]], dtype=torch.float64), True)
    mean = x * math.expm1(-h)
    second = 0.25 * -math.expm1(-2 * h) / 2 + mean**2
    for which, want in (((0,), mean), ((0, 0), second)):
        value, bound = local.rate(which, h)
        assert value == pytest.approx(want / h, abs=2 * h**2)
        assert bound < 1e-9


def test_what_cannot_be_checked_is_refused(small_oracle: GradientOracle) -> None:
    optimizer = SGD(learning_rate=0.1)
    sde = derive(optimizer, small_oracle)
    start = State(0, theta=torch.zeros(3, dtype=torch.float64))
    for claimed in (0.5, 1.4, 3):
        with pytest.raises(InvalidInputError, match=f"order 1 or 2; got a claim of {claimed:g}"):
            consistency(optimizer, small_oracle, sde, start, claimed_order=claimed)
    adam = CORRECT["adam"]
    with pytest.raises(InvalidInputError, match="the state lacks m, u"):
        wrong = State(5, theta=adam.start.theta)
        consistency(adam.optimizer, adam.oracle, derive, wrong)
