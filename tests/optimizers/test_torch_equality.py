"""Our pure steps against torch.optim on the same gradients, and runs that go on from live state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from sdeverify.noise import MinibatchNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers import SGD, Adam, Optimizer, RMSprop, SGDMomentum
from sdeverify.optimizers.from_torch import optimizer_from_torch
from sdeverify.optimizers.start import start_from_torch
from sdeverify.problems.gradients.parameters import flatten_parameters
from sdeverify.problems.module import problem_from_module
from sdeverify.problems.problem import Problem

STEPS = 100


def small_net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Three inputs, four hidden units, one output; 21 parameters."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype)
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return net


def live_problem(net: nn.Module, features: int = 3) -> Problem:
    """The squared error of a net on eight fixed samples."""
    generator = torch.Generator().manual_seed(1)
    dtype = next(net.parameters()).dtype
    inputs = torch.randn(8, features, generator=generator, dtype=dtype)
    targets = torch.randn(8, 1, generator=generator, dtype=dtype)
    return problem_from_module(net, inputs, targets, lambda out, y: (out - y).square().sum(-1))


def flat(net: nn.Module) -> torch.Tensor:
    return flatten_parameters(net).clone()


def feed(net: nn.Module, gradient: torch.Tensor) -> None:
    """Sets the net's gradients to the parts of a flat one."""
    parameters = list(net.parameters())
    parts = gradient.split([p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.reshape(parameter.shape).clone()


Build = Callable[[nn.Sequential], torch.optim.Optimizer]


def groups(net: nn.Sequential, *options: dict[str, Any]) -> list[dict[str, Any]]:
    """Three groups that cut across the net's order: biases, last weight, first weight."""
    first, last = net[0], net[2]
    members = ([first.bias, last.bias], [last.weight], [first.weight])
    return [{"params": p, **o} for p, o in zip(members, options, strict=True)]


CASES: dict[str, Build] = {
    "SGD": lambda net: torch.optim.SGD(net.parameters(), lr=0.05),
    "SGD with decay": lambda net: torch.optim.SGD(net.parameters(), lr=0.05, weight_decay=0.1),
    "SGD with momentum": lambda net: torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9),
    "SGD damped with decay": lambda net: torch.optim.SGD(
        net.parameters(), lr=0.05, momentum=0.8, dampening=0.3, weight_decay=0.1
    ),
    "SGD with Nesterov momentum": lambda net: torch.optim.SGD(
        net.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "SGD with groups": lambda net: torch.optim.SGD(
        groups(net, {"lr": 0.02}, {"lr": 0.0}, {"weight_decay": 0.2}), lr=0.05
    ),
    "momentum with groups": lambda net: torch.optim.SGD(
        groups(net, {"lr": 0.02}, {"momentum": 0.5}, {"weight_decay": 0.2}), lr=0.01, momentum=0.9
    ),
    "RMSprop": lambda net: torch.optim.RMSprop(net.parameters(), lr=0.01),
    "RMSprop with decay": lambda net: torch.optim.RMSprop(
        net.parameters(), lr=0.01, alpha=0.9, eps=1e-3, weight_decay=0.1
    ),
    "RMSprop with groups": lambda net: torch.optim.RMSprop(
        groups(net, {"lr": 0.002, "alpha": 0.9}, {"eps": 0.1}, {"weight_decay": 0.3}), lr=0.01
    ),
    "Adam": lambda net: torch.optim.Adam(net.parameters(), lr=0.01),
    "Adam with decay": lambda net: torch.optim.Adam(
        net.parameters(), lr=0.01, betas=(0.8, 0.95), eps=1e-2, weight_decay=0.1
    ),
    "Adam with groups": lambda net: torch.optim.Adam(
        groups(
            net,
            {"lr": 0.002, "betas": (0.7, 0.9)},
            {"eps": 0.1, "weight_decay": 0.2},
            {"decoupled_weight_decay": True, "weight_decay": 0.3},
        ),
        lr=0.01,
    ),
    "Adam of one tensor learning rate": lambda net: torch.optim.Adam(
        net.parameters(), lr=torch.tensor(0.01, dtype=torch.float64)
    ),
    "AdamW": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1),
    "AdamW with groups": lambda net: torch.optim.AdamW(
        groups(net, {"lr": 0.02, "weight_decay": 0.0}, {"betas": (0.5, 0.99)}, {}), lr=0.01
    ),
    "AdamW, foreach": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, foreach=True),
}

BUFFERS = {"momentum_buffer": "momentum_buffer", "m": "exp_avg"}


def gradients(count: int, dim: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64).to(dtype)


def buffer(opt: torch.optim.Optimizer, net: nn.Module, name: str) -> torch.Tensor:
    return torch.cat([opt.state[p][name].reshape(-1) for p in net.parameters()])


def assert_same(ours: dict[str, torch.Tensor], opt: Any, net: nn.Module) -> None:
    torch.testing.assert_close(ours["theta"][0], flat(net), rtol=1e-12, atol=1e-14)
    second = "square_avg" if isinstance(opt, torch.optim.RMSprop) else "exp_avg_sq"
    for name, theirs in {**BUFFERS, "v": second}.items():
        if name in ours:
            wanted = buffer(opt, net, theirs)
            torch.testing.assert_close(ours[name][0], wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("build", CASES.values(), ids=CASES.keys())
def test_a_hundred_steps_equal_those_of_torch(build: Build) -> None:
    net = small_net()
    opt, problem = build(net), live_problem(net)
    ours = optimizer_from_torch(opt, problem)
    y = ours.init(flat(net).unsqueeze(0))
    for k, g in enumerate(gradients(STEPS, problem.dim)):
        y = ours.step(k, y, g.unsqueeze(0))
        feed(net, g)
        opt.step()
        assert_same(y, opt, net)
    assert set(y) == set(ours.components)


def factor(step: float) -> float:
    """A warm-up from 0 and a decay, different at each step."""
    return min(step / 10, 1.0) / (1 + 0.05 * step)


def slower(step: float) -> float:
    return 0.5 + 0.5 * factor(step)


SCHEDULED = ["SGD", "SGD with groups", "momentum with groups", "RMSprop with groups", "AdamW"]


@pytest.mark.parametrize("name", SCHEDULED)
@pytest.mark.parametrize("read", ["one lambda", "a lambda of each group", "a function"])
def test_scheduled_steps_equal_those_of_torch(name: str, read: str) -> None:
    net = small_net()
    opt, problem = CASES[name](net), live_problem(net)
    count = len(opt.param_groups)
    lambdas: Any = factor
    if read == "a lambda of each group":
        lambdas = [factor if i % 2 else slower for i in range(count)]
    scheduler = LambdaLR(opt, lambdas)
    ours = optimizer_from_torch(opt, problem, factor if read == "a function" else scheduler)
    y = ours.init(flat(net).unsqueeze(0))
    for k, g in enumerate(gradients(STEPS, problem.dim)):
        y = ours.step(k, y, g.unsqueeze(0))
        feed(net, g)
        opt.step()
        scheduler.step()
        assert_same(y, opt, net)


def oracle_of(problem: Any) -> GradientOracle:
    return GradientOracle(problem, MinibatchNoise(batch_size=2))


@pytest.mark.parametrize("scheduled", [False, True], ids=["constant", "scheduled"])
@pytest.mark.parametrize("build", CASES.values(), ids=CASES.keys())
def test_a_run_goes_on_from_live_state_as_torch_does(build: Build, scheduled: bool) -> None:
    net = small_net()
    opt, problem = build(net), live_problem(net)
    scheduler = LambdaLR(opt, factor) if scheduled else None
    fed = gradients(30, problem.dim)
    for g in fed[:10]:
        feed(net, g)
        opt.step()
        if scheduler is not None:
            scheduler.step()
    ours = optimizer_from_torch(opt, problem, scheduler)
    start = start_from_torch(opt, problem, oracle_of(problem), schedule=scheduler)
    counted = scheduled or isinstance(ours, (RMSprop, Adam))
    assert start.step == (10 if counted else 1 if isinstance(ours, SGDMomentum) else 0)
    assert tuple(start.components) == ours.sde_components
    y = ours.from_sde(start.expand(1), oracle_of(problem))
    assert_same(y, opt, net)
    for k, g in enumerate(fed[10:], start=int(start.step)):
        y = ours.step(k, y, g.unsqueeze(0))
        feed(net, g)
        opt.step()
        if scheduler is not None:
            scheduler.step()
    assert_same(y, opt, net)


VECTOR = torch.tensor([0.9, 0.5], dtype=torch.float64)
OURS: list[Optimizer] = [
    SGD(learning_rate=0.1),
    SGDMomentum(learning_rate=0.1, momentum=VECTOR, dampening=0.2),
    SGDMomentum(learning_rate=0.1, momentum=0.9, nesterov=True),
    RMSprop(learning_rate=0.1, beta=VECTOR),
    Adam(learning_rate=0.1, beta1=VECTOR),
]


@pytest.mark.parametrize("level", [1.0, 2.0])
@pytest.mark.parametrize("optimizer", OURS, ids=lambda o: o.name)
def test_the_coordinates_of_the_sde_are_a_change_of_variables(
    optimizer: Optimizer, level: float
) -> None:
    problem = live_problem(small_net())
    refined, amplification = optimizer.at_level(level)
    oracle = oracle_of(problem).amplified(amplification)
    rows = {
        name: 0.1 + torch.rand(4, problem.dim, dtype=torch.float64, generator=_generator(i))
        for i, name in enumerate(refined.components)
    }
    state = refined.to_sde(6, rows, oracle)
    assert state.step == pytest.approx(6 / refined.refinement)
    back = refined.from_sde(state, oracle)
    assert set(back) == set(rows)
    for name, values in rows.items():
        torch.testing.assert_close(back[name], values, rtol=1e-14, atol=0.0)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_group_needs_no_problem() -> None:
    net = small_net()
    opt = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    assert optimizer_from_torch(opt) == Adam(
        learning_rate=0.01, epsilon=1e-8, decoupled_weight_decay=0.1
    )


def test_groups_that_agree_give_numbers_and_others_vectors() -> None:
    net = small_net()
    opt = CASES["RMSprop with groups"](net)
    ours = optimizer_from_torch(opt, live_problem(net))
    assert isinstance(ours, RMSprop)
    assert ours.learning_rate == 0.01
    wanted = {"beta": (0.9, 0.99, 0.99), "epsilon": (1e-8, 0.1, 1e-8), "weight_decay": (0, 0, 0.3)}
    for name, (biases, last, first) in wanted.items():
        vector = torch.tensor([first] * 12 + [biases] * 4 + [last] * 4 + [biases])
        torch.testing.assert_close(getattr(ours, name), vector.double())
    ratios = torch.tensor([1.0] * 12 + [0.2] * 4 + [1.0] * 4 + [0.2], dtype=torch.float64)
    torch.testing.assert_close(ours.ratio(3), ratios)
    same = torch.optim.RMSprop(groups(net, {}, {}, {}), lr=0.01)
    assert optimizer_from_torch(same, live_problem(net)) == RMSprop(learning_rate=0.01)


def test_single_precision_stays_single_with_groups_and_a_schedule() -> None:
    net = small_net(torch.float32)
    opt, problem = CASES["AdamW with groups"](net), live_problem(net)
    ours = optimizer_from_torch(opt, problem, factor)
    y = ours.init(flat(net).unsqueeze(0))
    for k, g in enumerate(gradients(3, problem.dim, torch.float32)):
        y = ours.step(k, y, g.unsqueeze(0))
    assert {name: value.dtype for name, value in y.items()} == dict.fromkeys(y, torch.float32)


def test_a_schedule_gets_whole_steps_as_ints_and_the_fractions_of_a_refined_chain() -> None:
    seen: list[float] = []

    def recording(step: float) -> float:
        seen.append(step)
        return 1.0

    opt = torch.optim.SGD(small_net().parameters(), lr=0.1)
    fine, _ = optimizer_from_torch(opt, None, recording).at_level(2.0)
    y = {"theta": torch.ones(1, 21, dtype=torch.float64)}
    for k in range(3):
        fine.step(k, y, y["theta"])
    assert seen == [0, 0.5, 1]
    assert [type(step) for step in seen] == [int, float, int]


def test_frozen_parameters_in_a_group_do_not_matter() -> None:
    net = small_net()
    net[0].requires_grad_(False)
    frozen = {"params": list(net[0].parameters()), "lr": 5.0}
    opt = torch.optim.SGD([frozen, {"params": list(net[2].parameters())}], lr=0.1)
    assert optimizer_from_torch(opt, live_problem(net[2], features=4)) == SGD(learning_rate=0.1)


def test_reading_leaves_the_live_run_as_it_was() -> None:
    net = small_net()
    opt, problem = CASES["Adam"](net), live_problem(net)
    feed(net, gradients(1, problem.dim)[0])
    opt.step()
    before = flat(net)
    state = start_from_torch(opt, problem, oracle_of(problem))
    state.theta.add_(1.0)
    state.m.add_(1.0)
    torch.testing.assert_close(flat(net), before)
    assert float(buffer(opt, net, "exp_avg").abs().max()) < 1.0


def test_a_start_before_the_first_step_of_sgd_has_zero_momentum() -> None:
    net = small_net()
    opt, problem = CASES["SGD with momentum"](net), live_problem(net)
    state = start_from_torch(opt, problem, oracle_of(problem))
    assert state.step == 0
    torch.testing.assert_close(state.theta, flat(net))
    assert not state.p.any()
