"""Scaling rules: the SDE of batch B is the SDE of batch kappa B, in ours and in torch's terms."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from sdeverify.base.state import State
from sdeverify.ensembles.measures import coordinate
from sdeverify.ensembles.solve import simulate
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise.gaussian import GaussianNoise
from sdeverify.noise.minibatch import MinibatchNoise, ShuffledEpochs
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.adam import Adam
from sdeverify.optimizers.derive import derive
from sdeverify.optimizers.ladders import svag
from sdeverify.optimizers.rmsprop import RMSprop
from sdeverify.optimizers.rules import LinearRule, MomentumRule, SquareRootRule
from sdeverify.optimizers.sgd import SGD, SGDMomentum
from sdeverify.problems.library import circle_problem
from sdeverify.problems.problem import FunctionProblem
from sdeverify.scaling.rules import caveat, rule_for
from sdeverify.scaling.scale import largest_kappa, scale, scale_batch, scale_state

OPTIMIZERS = {
    "sgd": SGD(learning_rate=0.1, weight_decay=0.01),
    "momentum": SGDMomentum(learning_rate=0.01, momentum=0.9, weight_decay=0.02),
    "damped": SGDMomentum(learning_rate=0.01, momentum=0.9, dampening=0.4),
    "nesterov": SGDMomentum(learning_rate=0.01, momentum=0.9, nesterov=True),
    "rmsprop": RMSprop(learning_rate=0.01, beta=0.95, epsilon=1e-3, weight_decay=0.1),
    "adam": Adam(learning_rate=0.01, beta1=0.9, beta2=0.99, epsilon=1e-3, weight_decay=0.1),
    "adamw": Adam(learning_rate=0.01, beta1=0.9, beta2=0.99, decoupled_weight_decay=0.3),
}
TORCH = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.02),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.95, eps=1e-3, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, 0.01, (0.9, 0.99), 1e-3, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, (0.9, 0.99), weight_decay=0.3),
}


@pytest.fixture
def problem():
    rows = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return FunctionProblem(lambda theta: torch.cos(rows @ theta) + 0.1 * rows @ theta, 3, 64)


def _gradients(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, dtype=torch.float64, generator=generator)


def same(found, wanted, but=()):
    for name in wanted.keys() - set(but):
        a, b = (torch.as_tensor(c[name], dtype=torch.float64) for c in (found, wanted))
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-300, msg=name)


@pytest.mark.parametrize("kappa", [0.5, 2, 2.5, 8])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_sde_of_the_scaled_run_is_the_sde_of_the_run(problem, name, kappa):
    oracle = GradientOracle(problem, MinibatchNoise(4))
    before = derive(OPTIMIZERS[name], oracle)
    after = derive(scale(OPTIMIZERS[name], kappa), scale_batch(oracle, kappa))
    same(after.constants, before.constants)
    assert after.time_per_level1_step == pytest.approx(before.time_per_level1_step, rel=1e-12)


@pytest.mark.parametrize("kappa", [2, 5])
@pytest.mark.parametrize("name", ["rmsprop", "adam"])
def test_the_kept_signal_is_the_only_constant_that_grows_with_the_batch(problem, name, kappa):
    oracle = GradientOracle(problem, MinibatchNoise(4))
    before = derive(OPTIMIZERS[name], oracle, keep_signal=True).constants
    after = derive(
        scale(OPTIMIZERS[name], kappa), scale_batch(oracle, kappa), keep_signal=True
    ).constants
    same(after, before, but=["signal"])
    assert after["signal"] == pytest.approx(kappa * before["signal"])


RIVALS = [
    ("momentum", "linear", {"temperature", "friction"}),
    ("momentum", "unscaled", {"temperature"}),
    ("sgd", "unscaled", {"temperature"}),
    ("adam", "linear", {"sigma0", "epsilon0", "c1", "c2"}),
    ("adam", "square_root_fixed_beta", {"c1", "c2"}),
    ("adam", "square_root_fixed_epsilon", {"epsilon0"}),
    ("rmsprop", "unscaled", {"sigma0"}),
]


@pytest.mark.parametrize(("name", "rule", "broken"), RIVALS)
def test_a_rival_breaks_just_the_constants_that_it_leaves_behind(problem, name, rule, broken):
    oracle = GradientOracle(problem, MinibatchNoise(4))
    before = derive(OPTIMIZERS[name], oracle).constants
    scaled = scale(OPTIMIZERS[name], 4, rule)
    after = derive(scaled, scale_batch(oracle, 4)).constants
    off = {n for n in before if after[n] != pytest.approx(before[n], rel=1e-9)}
    assert off == broken
    assert caveat(type(OPTIMIZERS[name]), rule_for(type(OPTIMIZERS[name]), rule))


def test_the_customary_momentum_rule_keeps_the_effective_learning_rate_of_a_sample():
    scaled = scale(OPTIMIZERS["momentum"], 4, "linear")
    assert scaled.momentum == 0.9
    assert scaled.learning_rate / (1 - scaled.momentum) == pytest.approx(4 * 0.01 / 0.1)


@pytest.mark.parametrize(
    ("name", "rule"),
    [("sgd", LinearRule()), ("momentum", MomentumRule()), ("adamw", SquareRootRule())],
)
def test_auto_is_the_rule_that_keeps_the_sde(name, rule):
    assert rule_for(type(OPTIMIZERS[name]), "auto") == rule
    assert caveat(type(OPTIMIZERS[name]), rule) == ""
    assert scale(OPTIMIZERS[name], 2, rule) == scale(OPTIMIZERS[name], 2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_kappa_one_is_the_very_optimizer(name):
    assert scale(OPTIMIZERS[name], 1) is OPTIMIZERS[name]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scaling_up_and_down_again_comes_back(name):
    back = scale(scale(OPTIMIZERS[name], 4), 0.25)
    assert back.learning_rate == pytest.approx(OPTIMIZERS[name].learning_rate, rel=1e-12)
    assert back.refinement == pytest.approx(1.0)
    numbers = {k: float(v) for k, v in OPTIMIZERS[name].hyperparameters.items()}
    assert {k: float(v) for k, v in back.hyperparameters.items()} == pytest.approx(numbers)


@pytest.mark.parametrize("name", TORCH)
def test_a_torch_optimizer_gets_the_hyperparameters_and_the_state_of_ours(name):
    ours, kappa = OPTIMIZERS[name], 4
    parameter = torch.nn.Parameter(torch.tensor([0.3, -0.7], dtype=torch.float64))
    live = TORCH[name]([parameter])
    y, gradients = ours.init(parameter.detach().clone().unsqueeze(0)), _gradients(8, 4)
    for k, g in enumerate(gradients):
        parameter.grad = g.clone()
        live.step()
        y = ours.step(k, y, g.unsqueeze(0))
    scaled, scaled_ours = scale(live, kappa), scale(ours, kappa)
    assert type(scaled) is type(live)
    assert scaled.param_groups[0]["params"] == [parameter]

    unit = GradientOracle(circle_problem(), GaussianNoise(torch.ones(1, 1)))
    moved = scaled_ours.from_sde(ours.to_sde(8, y, unit), scale_batch(unit, kappa))
    for k, g in enumerate(_gradients(3, 5)):
        parameter.grad = g.clone()
        scaled.step()
        moved = scaled_ours.step(8 // kappa + k, moved, g.unsqueeze(0))
    torch.testing.assert_close(parameter.detach(), moved["theta"][0], rtol=1e-12, atol=1e-14)


def test_the_torch_optimizer_that_is_scaled_is_left_as_it_was():
    parameter = torch.nn.Parameter(torch.ones(2))
    live = torch.optim.Adam([parameter], lr=0.1)
    parameter.grad = torch.ones(2)
    live.step()
    before = copy.deepcopy(live.state_dict())
    scaled = scale(live, 4)
    parameter.grad = torch.ones(2)
    scaled.step()
    after = live.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(torch.equal(v, after["state"][0][k]) for k, v in before["state"][0].items())


def test_a_torch_optimizer_with_a_scheduler_is_refused_with_the_remedy():
    live = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    StepLR(live, 10)
    with pytest.raises(UnsupportedError, match="schedule_stretched=True"):
        scale(live, 4)
    assert scale(live, 4, schedule_stretched=True).param_groups[0]["initial_lr"] == 0.4


def test_a_group_added_later_gets_the_scaled_defaults():
    live = scale(torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=0.1), 4)
    live.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    first, later = live.param_groups
    for name in ("lr", "betas", "eps", "weight_decay"):
        assert later[name] == first[name]


def test_the_largest_kappa_works_and_a_little_more_is_refused():
    for optimizer, limit in (
        (OPTIMIZERS["momentum"], 10),
        (OPTIMIZERS["rmsprop"], 20),
        (OPTIMIZERS["adam"], 10),
        (TORCH["adamw"]([torch.nn.Parameter(torch.ones(1))]), 10),
        (TORCH["momentum"]([torch.nn.Parameter(torch.ones(1))]), 10),
    ):
        assert largest_kappa(optimizer) == pytest.approx(limit, rel=1e-12)
        scale(optimizer, largest_kappa(optimizer))
        scale(optimizer, limit)
        with pytest.raises(InvalidInputError, match=f"largest kappa that works is {limit}"):
            scale(optimizer, 1.001 * limit)


def test_at_the_largest_kappa_the_fastest_memory_is_gone():
    assert scale(OPTIMIZERS["momentum"], 10).momentum == 0.0
    assert scale(OPTIMIZERS["adam"], 10).beta1 == 0.0


def test_rules_that_leave_beta_alone_have_no_largest_kappa():
    assert largest_kappa(OPTIMIZERS["sgd"]) == math.inf
    assert largest_kappa(OPTIMIZERS["adam"], "square_root_fixed_beta") == math.inf
    assert scale(OPTIMIZERS["momentum"], 64, "linear").learning_rate == pytest.approx(0.64)


def test_the_largest_kappa_is_that_of_the_smallest_beta_over_parameters_and_groups():
    by_parameter = Adam(learning_rate=0.1, beta1=torch.tensor([0.9, 0.75]), beta2=0.99)
    assert largest_kappa(by_parameter) == pytest.approx(4)
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(1))], "alpha": 0.5},
        {"params": [torch.nn.Parameter(torch.ones(1))], "alpha": 0.99},
    ]
    assert largest_kappa(torch.optim.RMSprop(groups)) == pytest.approx(2)


@pytest.mark.parametrize("kappa", [0, -1, float("nan"), float("inf")])
def test_a_factor_that_empties_the_batch_is_refused(problem, kappa):
    with pytest.raises(InvalidInputError, match="leaves no batch"):
        scale(OPTIMIZERS["sgd"], kappa)
    with pytest.raises(InvalidInputError, match="leaves no batch"):
        scale_batch(GradientOracle(problem, MinibatchNoise(4)), kappa)


@pytest.mark.parametrize(
    ("kappa", "what"), [(0.1, "at least 1"), (0.3, "whole number"), (17, "largest kappa is 16")]
)
@pytest.mark.parametrize("noise", [MinibatchNoise(4), MinibatchNoise(4, False), ShuffledEpochs(4)])
def test_a_batch_that_cannot_be_drawn_is_refused(problem, noise, kappa, what):
    with pytest.raises(InvalidInputError, match=what):
        scale_batch(GradientOracle(problem, noise), kappa)


def test_scaled_noises_have_their_scale_divided_by_the_root_of_kappa(problem):
    gaussian = GradientOracle(circle_problem(), GaussianNoise(torch.ones(1, 1), sigma=0.6))
    batches = GradientOracle(problem, MinibatchNoise(4))
    for oracle in (gaussian, batches, batches.gaussian(), batches.amplified(1.5)):
        assert scale_batch(oracle, 4).scale == pytest.approx(oracle.scale / 2, rel=1e-12)


def test_unknown_names_and_rules_of_other_optimizers_are_refused():
    with pytest.raises(InvalidInputError, match="no scaling rule 'cubic'.*square_root"):
        scale(OPTIMIZERS["sgd"], 2, "cubic")
    with pytest.raises(UnsupportedError, match="there are linear"):
        scale(OPTIMIZERS["sgd"], 2, "square_root")
    with pytest.raises(UnsupportedError, match="Adagrad"):
        scale(torch.optim.Adagrad([torch.nn.Parameter(torch.ones(1))]), 2)


def test_groups_with_and_without_momentum_have_no_common_rule():
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(1))], "momentum": 0.9},
        {"params": [torch.nn.Parameter(torch.ones(1))]},
    ]
    with pytest.raises(UnsupportedError, match="different clocks"):
        scale(torch.optim.SGD(groups, lr=0.1), 2)


def test_the_start_of_a_scaled_run_keeps_the_buffer_under_the_customary_rule(problem):
    theta = torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
    base, oracle = OPTIMIZERS["momentum"], GradientOracle(problem, MinibatchNoise(4))
    state = base.to_sde(8, {"theta": theta, "momentum_buffer": 2 * theta}, oracle)
    for rule, factor in (("linear", 1.0), ("auto", 0.25)):
        scaled = scale(base, 4, rule)
        start = scaled.from_sde(scale_state(state, base, 4, rule), scale_batch(oracle, 4))
        torch.testing.assert_close(start["momentum_buffer"], factor * 2 * theta)


def test_the_start_of_an_adaptive_run_divides_v_by_kappa(problem):
    theta = torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
    base, oracle = OPTIMIZERS["adam"], GradientOracle(problem, MinibatchNoise(4))
    state = base.to_sde(8, {"theta": theta, "m": 2 * theta, "v": 3 * theta}, oracle)
    for rule in ("auto", "linear", "square_root_fixed_beta"):
        scaled = scale(base, 4, rule)
        start = scaled.from_sde(scale_state(state, base, 4, rule), scale_batch(oracle, 4))
        torch.testing.assert_close(start["v"], 3 * theta / 4)
        torch.testing.assert_close(start["m"], 2 * theta)


def test_scaled_runs_are_recorded_at_multiples_of_kappa_and_no_others(problem):
    oracle = scale_batch(GradientOracle(problem, MinibatchNoise(4)), 4)
    scaled = scale(OPTIMIZERS["sgd"], 4)
    theta = torch.zeros(3, dtype=torch.float64)
    chain = simulate(scaled, oracle, theta, [4, 12], [coordinate(0)], replicas=4)
    assert chain["step"].values.tolist() == [0.0, 4.0, 12.0]
    assert chain["time"].values == pytest.approx([0.0, 0.4, 1.2])
    with pytest.raises(InvalidInputError, match="not a whole number"):
        simulate(scaled, oracle, theta, [6], [coordinate(0)], replicas=4)


def test_a_start_in_mid_training_begins_on_a_whole_step_of_the_scaled_run(problem):
    oracle = scale_batch(GradientOracle(problem, MinibatchNoise(4)), 4)
    scaled = scale(OPTIMIZERS["adam"], 4)
    parts = {n: torch.ones(3, dtype=torch.float64) for n in ("theta", "m", "u")}
    simulate(scaled, oracle, State(8, **parts), [4], [coordinate(0)], replicas=2)
    with pytest.raises(InvalidInputError, match="not a whole number"):
        simulate(scaled, oracle, State(9, **parts), [4], [coordinate(0)], replicas=2)


def test_a_schedule_stretches_with_the_scaled_run():
    scheduled = SGD(learning_rate=0.1, learning_rate_ratio=lambda step: 1 / (1 + step))
    assert scale(scheduled, 4).rate(3) == pytest.approx(4 * scheduled.rate(12))


def test_scaling_and_svag_commute(problem):
    oracle = GradientOracle(problem, MinibatchNoise(4))
    for optimizer in (OPTIMIZERS["adamw"], OPTIMIZERS["momentum"]):
        one = svag(scale(optimizer, 4), scale_batch(oracle, 4), 2)
        other = svag(optimizer, oracle, 2)
        other = scale(other[0], 4), scale_batch(other[1], 4)
        assert one[1].scale == pytest.approx(other[1].scale)
        assert one[0].hyperparameters == pytest.approx(other[0].hyperparameters)


def test_adam_without_a_memory_of_gradients_is_scaled_and_stays_without():
    ours = scale(Adam(learning_rate=0.1, beta1=0.0, beta2=0.98), 4)
    assert (ours.learning_rate, ours.beta1, ours.beta2) == pytest.approx((0.2, 0.0, 0.92))
    live = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=0.1, betas=(0.0, 0.98))
    for kappa, beta2 in ((4, 0.92), (0.25, 0.995)):
        assert scale(live, kappa).param_groups[0]["betas"] == pytest.approx((0.0, beta2))
    assert largest_kappa(live) == pytest.approx(50)


def test_an_sde_of_adam_without_memory_is_refused(problem):
    with pytest.raises(UnsupportedError, match="beta1 = 0 has no memory"):
        derive(Adam(learning_rate=0.1, beta1=0.0), GradientOracle(problem, MinibatchNoise(4)))


def test_a_live_optimizer_that_maximises_is_not_scaled():
    live = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1, maximize=True)
    with pytest.raises(UnsupportedError, match="maximize=True"):
        scale(live, 2)
