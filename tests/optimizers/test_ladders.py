"""SVAG levels and learning-rate ladders: what moves, what stays, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from sdeverify.base.rng import Block, Streams
from sdeverify.base.state import State
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise.gaussian import GaussianNoise
from sdeverify.noise.minibatch import MinibatchNoise, ShuffledEpochs
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.adam import Adam
from sdeverify.optimizers.derive import derive
from sdeverify.optimizers.ladders import LearningRates, SvagLevels, svag
from sdeverify.optimizers.rmsprop import RMSprop
from sdeverify.optimizers.sgd import SGD, SGDMomentum
from sdeverify.problems.library import torus_problem

RATES = torch.tensor([0.4, 0.1], dtype=torch.float64)
OPTIMIZERS = {
    "sgd": SGD(learning_rate=0.1, weight_decay=0.01),
    "momentum": SGDMomentum(learning_rate=0.05, momentum=0.8, dampening=0.3, weight_decay=0.02),
    "nesterov": SGDMomentum(learning_rate=0.05, momentum=0.8, nesterov=True),
    "rmsprop": RMSprop(learning_rate=0.02, beta=0.9, epsilon=1e-3, weight_decay=0.1),
    "adam": Adam(learning_rate=0.02, beta1=0.8, beta2=0.95, epsilon=1e-3, weight_decay=0.1),
    "adamw": Adam(learning_rate=0.02, beta1=0.8, beta2=0.95, decoupled_weight_decay=0.3),
    "adam by parameter": Adam(
        learning_rate=0.02, beta1=1 - RATES, beta2=1 - RATES / 4, epsilon=RATES
    ),
}
LEVELS = [2**0.5, 2.0, 3.7]


@pytest.fixture
def oracle():
    return GradientOracle(torus_problem(), MinibatchNoise(2))


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        a, b = (torch.as_tensor(c[name], dtype=torch.float64) for c in (found, wanted))
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-300, msg=name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_level_one_is_the_very_optimizer_and_the_very_oracle(oracle, name):
    optimizer, unchanged = svag(OPTIMIZERS[name], oracle, 1)
    assert optimizer is OPTIMIZERS[name]
    assert unchanged is oracle


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_level_has_one_and_the_same_sde_and_clock(oracle, name, level):
    at_one = derive(OPTIMIZERS[name], oracle)
    at_level = derive(*svag(OPTIMIZERS[name], oracle, level))
    same(at_level.constants, at_one.constants)
    assert at_level.time_per_level1_step == pytest.approx(at_one.time_per_level1_step, rel=1e-12)
    assert type(at_level) is type(at_one)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_own_steps_in_one_step_are_level_or_its_square(oracle, name):
    optimizer = OPTIMIZERS[name]
    refined, amplified = svag(optimizer, oracle, 2.0)
    power = 1 if isinstance(optimizer, SGD | SGDMomentum) else 2
    assert refined.refinement == pytest.approx(2.0**power)
    assert refined.own_step(5) == 5 * 2**power
    assert amplified.scale == pytest.approx(oracle.scale * 2 ** (power / 2), rel=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_start_has_the_buffers_that_the_level_asks_for(oracle, name):
    """b -> l b for momentum; v -> l^2 v and m as it is for adaptive methods."""
    optimizer = OPTIMIZERS[name]
    theta = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    own = {n: theta.abs() + i for i, n in enumerate(optimizer.components)}
    refined, amplified = svag(optimizer, oracle, 3.0)
    moved = refined.from_sde(optimizer.to_sde(4, own, oracle), amplified)
    factors = {"momentum_buffer": 3.0, "v": 9.0}
    for n, value in own.items():
        torch.testing.assert_close(moved[n], value * factors.get(n, 1.0), rtol=1e-12, atol=0)


def test_adams_bias_correction_runs_on_the_levels_own_steps():
    """1 - beta^(k+1) is one function of training time up to the step: 1 - exp(-c t)."""
    base = OPTIMIZERS["adam"]
    errors = []
    for level in (1.0, 4.0, 16.0):
        fine = base.at_level(level)[0]
        k = fine.own_step(5) - 1
        corrected = 1 - fine.beta1 ** (k + 1)
        errors.append(abs(corrected - (1 - math.exp(-base.relaxation(base.beta1) * 5 * 0.02**2))))
    assert errors[1] < errors[0] / 12
    assert errors[2] < errors[1] / 12


def test_a_schedule_is_stretched_with_the_level(oracle):
    optimizer = SGD(learning_rate=0.1, learning_rate_ratio=lambda step: 1 / (1 + step))
    refined, _ = svag(optimizer, oracle, 4)
    assert refined.rate(4 * 6) == pytest.approx(optimizer.rate(6) / 4)
    assert refined.rate(4 * 6 + 2) == pytest.approx(0.1 / 4 / 7.5)


@pytest.mark.parametrize("level", [0.99, 0.0, -1.0, float("nan")])
def test_a_level_below_one_is_refused_before_any_work(oracle, level):
    with pytest.raises(InvalidInputError, match="real number >= 1"):
        svag(OPTIMIZERS["sgd"], oracle, level)


def test_shuffled_epochs_are_refused_above_level_one():
    oracle = GradientOracle(torus_problem(), ShuffledEpochs(2))
    assert svag(OPTIMIZERS["sgd"], oracle, 1)[1] is oracle
    with pytest.raises(InvalidInputError, match="not independent"):
        svag(OPTIMIZERS["sgd"], oracle, 2)


def test_a_compared_step_that_a_real_level_does_not_visit_is_refused(oracle):
    refined, _ = svag(OPTIMIZERS["sgd"], oracle, 2**0.5)
    with pytest.raises(InvalidInputError, match="not a whole number"):
        refined.own_step(10)


def test_a_damped_run_from_step_zero_is_refused_at_finer_levels(oracle):
    start = State(0, theta=torch.zeros(1, 2), p=torch.zeros(1, 2))
    refined, amplified = svag(OPTIMIZERS["momentum"], oracle, 2)
    with pytest.raises(InvalidInputError, match="damped"):
        refined.from_sde(start, amplified)


def test_svag_levels_give_their_rungs_from_coarse_to_fine(oracle):
    rungs = SvagLevels([1, 2, 4]).rungs(OPTIMIZERS["adam"], oracle)
    assert [r.label for r in rungs] == [1.0, 2.0, 4.0]
    assert [r.time_per_step for r in rungs] == pytest.approx([4e-4, 1e-4, 2.5e-5])
    assert rungs[0].optimizer is OPTIMIZERS["adam"]
    assert [r.oracle.scale / oracle.scale for r in rungs] == pytest.approx([1, 2, 4])


@pytest.mark.parametrize("name", ["sgd", "momentum"])
def test_a_learning_rate_ladder_keeps_the_noise_and_the_clock(oracle, name):
    optimizer = OPTIMIZERS[name]
    eta = optimizer.learning_rate
    rungs = LearningRates([eta, eta / 4]).rungs(optimizer, oracle)
    assert rungs[1].oracle is oracle
    coarse, fine = (derive(r.optimizer, r.oracle) for r in rungs)
    assert fine.time_per_level1_step == pytest.approx(coarse.time_per_level1_step, rel=1e-12)
    ratio = fine.constants["temperature"] / coarse.constants["temperature"]
    assert ratio == pytest.approx(1 / 4 if name == "sgd" else 1 / 2)
    if name == "momentum":
        assert fine.constants["friction"] == pytest.approx(coarse.constants["friction"])


def test_an_adaptive_learning_rate_ladder_keeps_the_sde_where_sigma_is_free():
    oracle = GradientOracle(torus_problem(), GaussianNoise(torch.eye(2), sigma=0.5))
    rungs = LearningRates([0.02, 0.005]).rungs(OPTIMIZERS["adamw"], oracle)
    coarse, fine = (derive(r.optimizer, r.oracle) for r in rungs)
    same(fine.constants, coarse.constants)


def test_an_adaptive_learning_rate_ladder_on_real_data_is_refused(oracle):
    with pytest.raises(UnsupportedError, match="SvagLevels"):
        LearningRates([0.02, 0.01]).rungs(OPTIMIZERS["rmsprop"], oracle)


@pytest.mark.parametrize("levels", [[2, 1], [1, 1], []])
def test_levels_that_do_not_ascend_are_refused(levels):
    with pytest.raises(InvalidInputError, match="from coarse to fine"):
        SvagLevels(levels)


def test_a_learning_rate_ladder_starts_at_the_optimizers_own_rate(oracle):
    with pytest.raises(InvalidInputError, match="optimizer's own"):
        LearningRates([0.2, 0.1]).rungs(OPTIMIZERS["sgd"], oracle)


def test_amplified_gradients_have_the_mean_and_the_scaled_covariance(oracle):
    """Over all pairs of mini-batches, exactly."""
    theta = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    moments = []
    for fed in (oracle, svag(OPTIMIZERS["sgd"], oracle, 3.0)[1]):
        atoms = fed.atoms()
        g = atoms.gradients(theta)[0]
        mean = atoms.weights @ g
        moments.append((mean, torch.einsum("a,ai,aj->ij", atoms.weights, g - mean, g - mean)))
    torch.testing.assert_close(moments[1][0], moments[0][0])
    torch.testing.assert_close(moments[1][1], 3.0 * moments[0][1])


def test_a_draw_of_an_amplified_oracle_is_two_batches_of_the_base(oracle):
    amplified = svag(OPTIMIZERS["sgd"], oracle, 2.0)[1]
    theta = torch.tensor([[0.3, -0.8]], dtype=torch.float64).repeat(5, 1)
    found = amplified.sample(theta, amplified.draw(Streams(0, "g", [Block(0, 5)]), 0))
    streams = Streams(0, "g", [Block(0, 5)])
    first, second = (oracle.sample(theta, oracle.draw(streams, 0)) for _ in range(2))
    r = (1 + math.sqrt(3)) / 2
    torch.testing.assert_close(found, r * first + (1 - r) * second)
