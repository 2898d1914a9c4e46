"""What is refused of a live torch optimizer, and how starts are made safe."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from sdeverify.base.state import State
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise import MinibatchNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers import SGD, Adam, RMSprop, SGDMomentum
from sdeverify.optimizers.adaptive import floor_u
from sdeverify.optimizers.from_torch import optimizer_from_torch
from sdeverify.optimizers.start import start_from_torch
from sdeverify.problems.module import problem_from_module
from sdeverify.problems.problem import FunctionProblem, Problem


@pytest.fixture()
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()


def problem_of(net: nn.Module) -> Problem:
    """Squared errors on eight samples whose third input is constant 0."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    inputs[:, 2] = 0.0
    targets = torch.randn(8, 1, generator=generator, dtype=torch.float64)
    return problem_from_module(net, inputs, targets, lambda out, y: (out - y).square().sum(-1))


def oracle_of(problem: Problem) -> GradientOracle:
    return GradientOracle(problem, MinibatchNoise(batch_size=2))


def step(opt: torch.optim.Optimizer, *parameters: nn.Parameter) -> None:
    """One torch step with gradients of 1."""
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    opt.step()
    opt.zero_grad(set_to_none=True)


class MySGD(torch.optim.SGD):
    """A subclass, which may do anything."""


Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

REFUSED: dict[str, tuple[Build, str]] = {
    "amsgrad": (lambda p: torch.optim.Adam(p, amsgrad=True), r"amsgrad=True.*amsgrad=False"),
    "maximize": (lambda p: torch.optim.SGD(p, maximize=True), r"maximize=True.*negative loss"),
    "AdamW, maximize": (lambda p: torch.optim.AdamW(p, maximize=True), r"AdamW\(maximize"),
    "centered": (lambda p: torch.optim.RMSprop(p, centered=True), r"centered=True"),
    "RMSprop with momentum": (
        lambda p: torch.optim.RMSprop(p, momentum=0.9),
        r"momentum=0.9.*RMSprop with momentum",
    ),
    "NAdam": (
        lambda p: torch.optim.NAdam(p),
        r"NAdam is not supported; Adam, AdamW, .*RMSprop, SGD",
    ),
    "Adagrad": (lambda p: torch.optim.Adagrad(p), r"Adagrad is not supported"),
    "a subclass": (lambda p: MySGD(p, lr=0.1), r"MySGD may change the step"),
    "mixed nesterov": (
        lambda p: torch.optim.SGD(
            [{"params": p[:1], "nesterov": True}, {"params": p[1:]}], lr=0.1, momentum=0.9
        ),
        r"different nesterov.*\[True, False\]",
    ),
    "mixed dampening": (
        lambda p: torch.optim.SGD(
            [{"params": p[:1], "dampening": 0.1}, {"params": p[1:]}], lr=0.1, momentum=0.9
        ),
        r"different dampening.*\[0.1, 0\]",
    ),
    "momentum in one group only": (
        lambda p: torch.optim.SGD([{"params": p[:1], "momentum": 0.9}, {"params": p[1:]}], lr=0.1),
        r"some param groups only",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_no_sde_covers_is_refused_by_name(case: tuple[Build, str], net: nn.Sequential) -> None:
    build, message = case
    opt = build(list(net.parameters()))
    with pytest.raises(UnsupportedError, match=message):
        optimizer_from_torch(opt, problem_of(net))


def test_complex_and_sparse_parameters_are_refused() -> None:
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.complex128))
    with pytest.raises(UnsupportedError, match="complex"):
        optimizer_from_torch(torch.optim.Adam([parameter]))
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(UnsupportedError, match="sparse=False"):
        optimizer_from_torch(torch.optim.SGD(embedding.parameters()))


def test_parameters_that_are_not_the_problems_are_refused(net: nn.Sequential) -> None:
    stranger = nn.Parameter(torch.zeros(5))
    opt = torch.optim.SGD([*net.parameters(), stranger], lr=0.1)
    with pytest.raises(InvalidInputError, match=r"\(5,\)"):
        optimizer_from_torch(opt, problem_of(net))


def test_parameters_that_no_group_has_are_named(net: nn.Sequential) -> None:
    opt = torch.optim.SGD([net[0].weight, net[2].weight], lr=0.1)
    with pytest.raises(InvalidInputError, match=r"3 of the problem's 11 .*: 0\.bias, 2\.bias"):
        optimizer_from_torch(opt, problem_of(net))


def test_parameters_that_were_frozen_for_the_problem_only_are_refused(net: nn.Sequential) -> None:
    net[0].requires_grad_(False)
    problem = problem_of(net)
    net[0].requires_grad_(True)
    with pytest.raises(InvalidInputError, match=r"required no gradient when the problem was made"):
        optimizer_from_torch(torch.optim.SGD(net.parameters(), lr=0.1), problem)


def test_several_groups_need_a_problem_with_a_module(net: nn.Sequential) -> None:
    opt = torch.optim.SGD([{"params": net[0].parameters()}, {"params": net[2].parameters()}], lr=1)
    with pytest.raises(InvalidInputError, match="2 param groups; pass problem="):
        optimizer_from_torch(opt)
    other: Any = FunctionProblem(lambda theta: theta, dim=11, samples=11)
    with pytest.raises(InvalidInputError, match="FunctionProblem has no module"):
        optimizer_from_torch(opt, other)


def test_learning_rates_of_zero_everywhere_and_frozen_nets_are_refused(net: nn.Sequential) -> None:
    with pytest.raises(InvalidInputError, match="some learning rate must be > 0"):
        optimizer_from_torch(torch.optim.SGD(net.parameters(), lr=0.0))
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    net.requires_grad_(False)
    with pytest.raises(InvalidInputError, match="requires_grad=True"):
        optimizer_from_torch(opt)


def test_a_scheduler_that_is_not_passed_on_is_noticed(net: nn.Sequential) -> None:
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    LambdaLR(opt, lambda step: 1.0)
    with pytest.raises(InvalidInputError, match="scheduler is attached"):
        optimizer_from_torch(opt)


def test_the_scheduler_of_another_optimizer_is_refused(net: nn.Sequential) -> None:
    opt, other = (torch.optim.SGD(net.parameters(), lr=0.1) for _ in range(2))
    with pytest.raises(InvalidInputError, match="another optimizer"):
        optimizer_from_torch(opt, schedule=LambdaLR(other, lambda step: 1.0))


def test_a_scheduler_that_is_stepped_once_an_epoch_is_noticed(net: nn.Sequential) -> None:
    opt = torch.optim.Adam(net.parameters(), lr=0.1)
    scheduler = LambdaLR(opt, lambda epoch: 0.5**epoch)
    for _ in range(5):
        step(opt, *net.parameters())
    scheduler.step()
    with pytest.raises(InvalidInputError, match="1 times in 5 optimizer steps"):
        optimizer_from_torch(opt, schedule=scheduler)


def test_a_learning_rate_that_something_else_changed_is_noticed(net: nn.Sequential) -> None:
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = LambdaLR(opt, lambda step: 1.0)
    opt.param_groups[0]["lr"] = 0.05
    with pytest.raises(InvalidInputError, match=r"0\.05, but its LambdaLR says 0\.1"):
        optimizer_from_torch(opt, schedule=scheduler)


def test_a_table_as_schedule_is_refused_between_its_entries(net: nn.Sequential) -> None:
    table = [1.0, 0.5, 0.25]
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    ours = optimizer_from_torch(opt, schedule=lambda step: table[step])  # type: ignore[call-overload]
    assert ours.ratio(1.0) == 0.5
    for outside in (0.5, 3.0):
        with pytest.raises(InvalidInputError, match="interpolate"):
            ours.ratio(outside)


def test_adaptive_runs_without_a_step_have_no_start(net: nn.Sequential) -> None:
    problem = problem_of(net)
    for opt in (torch.optim.Adam(net.parameters()), torch.optim.RMSprop(net.parameters())):
        with pytest.raises(InvalidInputError, match="4 of 4 .*training steps first"):
            start_from_torch(opt, problem, oracle_of(problem))


def test_unequal_step_counters_are_refused(net: nn.Sequential) -> None:
    problem, opt = problem_of(net), torch.optim.Adam(net.parameters())
    step(opt, *net.parameters())
    step(opt, net[0].weight)
    with pytest.raises(InvalidInputError, match=r"step counters differ: \[1, 2\]"):
        start_from_torch(opt, problem, oracle_of(problem))


def test_momentum_buffers_of_some_parameters_only_are_refused(net: nn.Sequential) -> None:
    problem, opt = problem_of(net), torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    step(opt, net[0].weight)
    with pytest.raises(InvalidInputError, match="3 of 4 parameter tensors have no momentum"):
        start_from_torch(opt, problem, oracle_of(problem))


def test_steps_that_contradict_the_run_are_refused(net: nn.Sequential) -> None:
    problem, adam = problem_of(net), torch.optim.Adam(net.parameters())
    oracle = oracle_of(problem)
    step(adam, *net.parameters())
    assert start_from_torch(adam, problem, oracle, step=1).step == 1
    with pytest.raises(InvalidInputError, match="counted 1 steps; got step=7"):
        start_from_torch(adam, problem, oracle, step=7)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    step(sgd, *net.parameters())
    assert start_from_torch(sgd, problem, oracle, step=7).step == 7
    with pytest.raises(InvalidInputError, match="from step 1 on; got step=0"):
        start_from_torch(sgd, problem, oracle, step=0)


def test_scheduled_sgd_needs_to_be_told_its_step(net: nn.Sequential) -> None:
    problem, opt = problem_of(net), torch.optim.SGD(net.parameters(), lr=0.1)
    oracle = oracle_of(problem)
    with pytest.raises(InvalidInputError, match="counts no steps.*step="):
        start_from_torch(opt, problem, oracle, schedule=lambda step: 1 / (1 + step))
    scheduler = LambdaLR(opt, lambda step: 1.0)
    step(opt, *net.parameters())
    scheduler.step()
    assert start_from_torch(opt, problem, oracle, schedule=scheduler).step == 1
    ours = optimizer_from_torch(opt, problem, scheduler)
    assert start_from_torch(opt, problem, oracle, ours, step=4).step == 4


def test_a_refined_optimizer_cannot_be_started_from_torch(net: nn.Sequential) -> None:
    problem, opt = problem_of(net), torch.optim.SGD(net.parameters(), lr=0.1)
    fine, _ = optimizer_from_torch(opt, problem).at_level(2.0)
    with pytest.raises(InvalidInputError, match="refined 2 times"):
        start_from_torch(opt, problem, oracle_of(problem), fine)


def test_coordinates_without_a_second_moment_start_from_the_variance(
    net: nn.Sequential, caplog: pytest.LogCaptureFixture
) -> None:
    """The weights of the constant input have no noise; of the others two were silenced by hand."""
    problem, opt = problem_of(net), torch.optim.Adam(net.parameters())
    oracle = oracle_of(problem)
    step(opt, *net.parameters())
    state_of_weight = opt.state[net[0].weight]
    state_of_weight["exp_avg_sq"][:, 1:] = 0.0
    with caplog.at_level(logging.WARNING, logger="sdeverify"):
        state = start_from_torch(opt, problem, oracle)
    assert "2 of 11 coordinates have v = 0" in caplog.text
    variance = oracle.variance(state.theta.unsqueeze(0))[0]
    u = state.u[:6].reshape(2, 3)
    torch.testing.assert_close(u[:, 1], variance[:6].reshape(2, 3)[:, 1])
    assert (u[:, 1] > 0).all()
    torch.testing.assert_close(u[:, 0], state_of_weight["exp_avg_sq"][:, 0] / oracle.scale**2)
    assert not u[:, 2].any()


def test_the_floor_counts_the_coordinates_of_each_replica_and_leaves_the_rest(
    net: nn.Sequential,
) -> None:
    oracle = oracle_of(problem_of(net))
    theta = torch.randn(2, 11, dtype=torch.float64)
    u = torch.ones_like(theta)
    u[0, 0] = u[1, 0] = u[1, 1] = u[1, 2] = 0.0
    state, count = floor_u(State(3, theta=theta, u=u), oracle)
    variance = oracle.variance(theta)
    assert (count, state.step) == (3, 3)
    wanted = torch.where((u == 0) & (variance > 0), variance, u)
    torch.testing.assert_close(state.u, wanted)
    again, none = floor_u(state, oracle)
    assert none == 0
    torch.testing.assert_close(again.u, state.u)
    plain = State(0, theta=theta)
    assert floor_u(plain, oracle) == (plain, 0)


BAD_HYPERPARAMETERS: dict[str, tuple[Callable[[], object], str]] = {
    "learning rate 0": (lambda: SGD(learning_rate=0.0), "learning rate must be > 0"),
    "learning rate nan": (lambda: SGD(learning_rate=float("nan")), "learning rate must be > 0"),
    "momentum 1": (lambda: SGDMomentum(learning_rate=0.1, momentum=1.0), r"momentum .*\[0, 1\)"),
    "dampening 1": (
        lambda: SGDMomentum(learning_rate=0.1, momentum=0.9, dampening=1.0),
        r"dampening .*\[0, 1\)",
    ),
    "damped Nesterov": (
        lambda: SGDMomentum(learning_rate=0.1, momentum=0.9, dampening=0.1, nesterov=True),
        "nesterov needs dampening = 0",
    ),
    "beta 1": (lambda: RMSprop(learning_rate=0.1, beta=1.0), r"beta .*\[0, 1\)"),
    "epsilon < 0": (lambda: RMSprop(learning_rate=0.1, epsilon=-1e-8), "epsilon must lie"),
    "beta1 < 0": (lambda: Adam(learning_rate=0.1, beta1=-0.1), r"beta1 .*\[0, 1\)"),
    "a beta2 of 1 in a vector": (
        lambda: Adam(learning_rate=0.1, beta2=torch.tensor([0.9, 1.0])),
        r"beta2 .*\[0, 1\)",
    ),
}


@pytest.mark.parametrize("case", BAD_HYPERPARAMETERS.values(), ids=BAD_HYPERPARAMETERS.keys())
def test_hyperparameters_out_of_range_are_refused(case: tuple[Callable[[], object], str]) -> None:
    build, message = case
    with pytest.raises(InvalidInputError, match=message):
        build()
