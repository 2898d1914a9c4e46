"""Schedules of live runs: every scheduler of torch as torch steps it, and what disagrees."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise import MinibatchNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers import Adam
from sdeverify.optimizers.from_torch import optimizer_from_torch
from sdeverify.optimizers.start import start_from_torch
from sdeverify.problems.module import ModuleProblem, problem_from_module

INITIAL = 0.05


def a_net() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 1).double()


def problem_of(net: nn.Module) -> ModuleProblem:
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return problem_from_module(net, inputs, inputs[:, :1], lambda out, y: (out - y).square().sum(1))


def oracle_of(problem: ModuleProblem) -> GradientOracle:
    return GradientOracle(problem, MinibatchNoise(batch_size=2))


def train(opt: torch.optim.Optimizer, steps: int, scheduler: Any = None) -> list[float]:
    """Steps with gradients of 1; the learning rates that they were made with."""
    rates = []
    for _ in range(steps):
        rates.append(float(opt.param_groups[0]["lr"]))
        for group in opt.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        opt.step()
        if scheduler is not None:
            scheduler.step()
    return rates


Build = Callable[[torch.optim.Optimizer], schedulers.LRScheduler]
READ: dict[str, Build] = {
    "StepLR": lambda o: schedulers.StepLR(o, 4, 0.5),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [3, 8, 13], 0.3),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 0.5, 9),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.1, 1.0, 12),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda step: 1 - 1 / (step + 2)),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 20, 2.0),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 15),
    "warm restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 6),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.05, 4, cycle_momentum=False),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.05, 40, cycle_momentum=False),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, 1.0, 5), schedulers.ExponentialLR(o, 0.8)], [5]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o, 0.1, 1.0, 5), schedulers.ExponentialLR(o, 0.95)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("before", [0, 7])
def test_a_scheduler_is_read_as_torch_will_step_it(name: str, before: int) -> None:
    net = a_net()
    opt = torch.optim.Adam(net.parameters(), lr=INITIAL)
    scheduler = READ[name](opt)
    train(opt, before, scheduler)
    ours = optimizer_from_torch(opt, problem_of(net), scheduler)
    states = [dict(g) for g in opt.param_groups], scheduler.state_dict()["_last_lr"]
    read = [ours.rate(k) for k in range(before, before + 12)]
    assert ([dict(g) for g in opt.param_groups], scheduler.state_dict()["_last_lr"]) == states
    assert read == pytest.approx(train(opt, 12, scheduler), rel=1e-12)
    assert len(set(read)) > 1


def test_the_rate_of_a_scheduler_holds_between_the_steps_of_a_refined_chain() -> None:
    net = a_net()
    opt = torch.optim.SGD(net.parameters(), lr=INITIAL)
    ours = optimizer_from_torch(opt, None, schedulers.StepLR(opt, 1, 0.5))
    finer, _ = ours.at_level(4.0)
    assert [finer.ratio(k / 4) for k in range(9)] == [1.0] * 4 + [0.5] * 4 + [0.25]


def test_groups_of_a_scheduler_have_rates_of_their_own() -> None:
    net = a_net()
    groups = [{"params": [net.weight], "lr": 0.1}, {"params": [net.bias], "lr": 0.02}]
    opt = torch.optim.SGD(groups, lr=1.0)
    ours = optimizer_from_torch(opt, problem_of(net), schedulers.StepLR(opt, 2, 0.5))
    rates = torch.tensor([0.05, 0.05, 0.05, 0.01], dtype=torch.float64)
    torch.testing.assert_close(ours.rate(2), rates)


def test_ten_scheduled_steps_with_momentum_equal_torchs() -> None:
    """The values of a live run that goes on under OneCycleLR, at its own pace, from step 5."""
    net = a_net()
    opt = torch.optim.SGD(net.parameters(), lr=INITIAL, momentum=0.9)
    scheduler = schedulers.OneCycleLR(opt, 0.05, 40, cycle_momentum=False)
    train(opt, 5, scheduler)
    problem = problem_of(net)
    oracle = oracle_of(problem)
    ours = optimizer_from_torch(opt, problem, scheduler)
    start = start_from_torch(opt, problem, oracle, ours, schedule=scheduler)
    y = ours.from_sde(start.expand(1), oracle)
    for k in range(5, 15):
        y = ours.step(k, y, torch.ones(1, 4, dtype=torch.float64))
    train(opt, 10, scheduler)
    theta = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    torch.testing.assert_close(y["theta"][0], theta, rtol=1e-12, atol=1e-14)


REFUSED_SCHEDULERS: dict[str, tuple[Build, str]] = {
    "OneCycleLR": (lambda o: schedulers.OneCycleLR(o, 0.05, 40), "cycle_momentum=False"),
    "CyclicLR": (lambda o: schedulers.CyclicLR(o, 0.01, 0.05), "cycle_momentum=False"),
}


@pytest.mark.parametrize("name", REFUSED_SCHEDULERS)
@pytest.mark.parametrize("passed", ["the scheduler", "a function"])
def test_cycled_momentum_and_betas_are_refused(name: str, passed: str) -> None:
    build, message = REFUSED_SCHEDULERS[name]
    for opt in (
        torch.optim.Adam(a_net().parameters(), lr=INITIAL),
        torch.optim.SGD(a_net().parameters(), lr=INITIAL, momentum=0.9),
    ):
        scheduler = build(opt)
        schedule: Any = scheduler if passed == "the scheduler" else lambda step: 1.0
        with pytest.raises(UnsupportedError, match=message):
            optimizer_from_torch(opt, schedule=schedule)


class MovesDecay(schedulers.LRScheduler):
    """A scheduler of the user's own that moves the weight decay too."""

    def get_lr(self) -> list[float]:  # type: ignore[override]
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.1 * self.last_epoch
        return [float(rate) for rate in self.base_lrs]


def test_a_scheduler_that_moves_other_options_is_refused() -> None:
    opt = torch.optim.SGD(a_net().parameters(), lr=INITIAL)
    ours = optimizer_from_torch(opt, schedule=MovesDecay(opt))
    with pytest.raises(UnsupportedError, match="other options than the learning rate at step 1"):
        ours.rate(1)


def test_a_scheduler_that_waits_for_losses_is_refused_and_constant_rates_are_read() -> None:
    opt = torch.optim.SGD(a_net().parameters(), lr=INITIAL)
    plateau = schedulers.ReduceLROnPlateau(opt)
    with pytest.raises(UnsupportedError, match="decides from the losses to come.*leave schedule="):
        optimizer_from_torch(opt, schedule=plateau)
    assert optimizer_from_torch(opt).rate(3) == INITIAL


def test_a_scheduler_that_ends_and_one_that_was_not_seen_from_its_beginning_say_so() -> None:
    opt = torch.optim.SGD(a_net().parameters(), lr=INITIAL)
    scheduler = schedulers.OneCycleLR(opt, 0.05, 10, cycle_momentum=False)
    train(opt, 4, scheduler)
    ours = optimizer_from_torch(opt, schedule=scheduler)
    with pytest.raises(InvalidInputError, match="no learning rate for step 11.*fewer"):
        ours.rate(15)
    with pytest.raises(InvalidInputError, match="is at step 4; what it set at step 3"):
        ours.rate(3)


def cosine(step: float) -> float:
    return 0.5 + 0.5 * math.cos(step / 20)


def live_adam(steps: int = 10) -> tuple[nn.Linear, Any, Any]:
    net = a_net()
    opt = torch.optim.Adam(net.parameters(), lr=INITIAL)
    scheduler = schedulers.LambdaLR(opt, cosine)
    train(opt, steps, scheduler)
    return net, opt, scheduler


WRONG: dict[str, tuple[Callable[[float], float], str]] = {
    "learning rates": (lambda step: INITIAL * cosine(step), "gives learning rates; factors"),
    "counted from now": (lambda step: cosine(step + 10), "seems to count steps from now"),
    "another function": (lambda step: 1 / (1 + step), "Correct the function or step="),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_a_function_that_disagrees_with_the_live_rate_is_refused(
    case: tuple[Callable[[float], float], str],
) -> None:
    function, message = case
    net, opt, _ = live_adam()
    with pytest.raises(InvalidInputError, match=message):
        optimizer_from_torch(opt, problem_of(net), function)
    assert optimizer_from_torch(opt, problem_of(net), cosine).rate(10) == pytest.approx(
        opt.param_groups[0]["lr"]
    )


def test_a_function_without_initial_rates_to_refer_to_is_refused_until_they_are_set() -> None:
    net = a_net()
    opt = torch.optim.Adam(net.parameters(), lr=INITIAL)
    train(opt, 10)
    opt.param_groups[0]["lr"] = INITIAL * cosine(10)
    with pytest.raises(InvalidInputError, match=r"no 'initial_lr'.*Set group\['initial_lr'\]"):
        optimizer_from_torch(opt, problem_of(net), cosine)
    opt.param_groups[0]["initial_lr"] = INITIAL
    ours = optimizer_from_torch(opt, problem_of(net), cosine)
    assert ours.rate(20) == pytest.approx(INITIAL * cosine(20))


def test_a_wrong_step_is_refused_where_torch_counts_none() -> None:
    net = a_net()
    problem, opt = problem_of(net), torch.optim.SGD(net.parameters(), lr=INITIAL)
    scheduler = schedulers.LambdaLR(opt, cosine)
    train(opt, 10, scheduler)
    common = opt, problem, oracle_of(problem)
    assert start_from_torch(*common, schedule=cosine, step=10).step == 10
    with pytest.raises(InvalidInputError, match="the schedule says .* at step 7.*step="):
        start_from_torch(*common, schedule=cosine, step=7)
    with pytest.raises(InvalidInputError, match="stepped 10 times; got step=7"):
        start_from_torch(*common, schedule=scheduler, step=7)


def test_skipped_optimizer_steps_get_an_advice_that_gives_the_live_rates() -> None:
    net, opt, scheduler = live_adam()
    for _ in range(3):  # what a GradScaler does where gradients overflow
        scheduler.step()
    with pytest.raises(InvalidInputError, match=r"13 times in 10 .*factor\(step \+ 3\)"):
        optimizer_from_torch(opt, problem_of(net), scheduler)
    ours = optimizer_from_torch(opt, problem_of(net), lambda step: cosine(step + 3))
    assert [ours.rate(k) for k in range(10, 15)] == pytest.approx(train(opt, 5, scheduler))


def test_a_scheduler_that_lags_behind_by_one_step_is_to_be_stepped_first() -> None:
    net, opt, scheduler = live_adam()
    train(opt, 1)
    with pytest.raises(InvalidInputError, match=r"10 times in 11 .*scheduler\.step\(\)"):
        optimizer_from_torch(opt, problem_of(net), scheduler)
    scheduler.step()
    ours = optimizer_from_torch(opt, problem_of(net), scheduler)
    assert isinstance(ours, Adam)
    assert ours.rate(11) == pytest.approx(INITIAL * cosine(11))


def test_an_initial_rate_of_zero_is_no_unit() -> None:
    opt = torch.optim.SGD(a_net().parameters(), lr=INITIAL)
    opt.param_groups[0]["initial_lr"] = 0.0
    with pytest.raises(InvalidInputError, match=r"some initial learning rate must be > 0"):
        optimizer_from_torch(opt, schedule=lambda step: 1.0)
    net = a_net()
    groups = [{"params": [net.weight]}, {"params": [net.bias], "initial_lr": 0.0}]
    adam = torch.optim.Adam(groups, lr=INITIAL)
    train(adam, 2)
    with pytest.raises(
        InvalidInputError, match=r"schedule says 0 at step 2: the factor 1 on 0\. Steps are"
    ):
        optimizer_from_torch(adam, problem_of(net), lambda step: 1.0)


def test_an_optimizer_that_was_read_from_other_groups_is_refused() -> None:
    net = a_net()
    groups = [{"params": [net.weight]}, {"params": [net.bias]}]
    two, one = torch.optim.SGD(groups, lr=0.1), torch.optim.SGD(net.parameters(), lr=0.1)
    problem = problem_of(net)
    ours = optimizer_from_torch(two, problem, schedulers.StepLR(two, 2))
    with pytest.raises(InvalidInputError, match="2 param groups, the live optimizer 1 groups"):
        start_from_torch(one, problem, oracle_of(problem), ours, step=0)


def test_a_scheduled_optimizer_that_was_read_earlier_goes_on_with_the_run() -> None:
    net = a_net()
    problem, opt = problem_of(net), torch.optim.SGD(net.parameters(), lr=INITIAL)
    scheduler = schedulers.ExponentialLR(opt, 0.9)
    train(opt, 5, scheduler)
    ours = optimizer_from_torch(opt, problem, scheduler)
    train(opt, 4, scheduler)
    common = opt, problem, oracle_of(problem), ours
    assert start_from_torch(*common, schedule=scheduler).step == 9
    opt.param_groups[0]["lr"] = 0.5
    with pytest.raises(InvalidInputError, match="learning rate is 0.5, but.*Correct the function"):
        start_from_torch(*common, schedule=scheduler)
