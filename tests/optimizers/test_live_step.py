"""What a live run does in a step besides its update rule is modelled, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import sdeverify as sv
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.optimizers.from_torch import optimizer_from_torch
from sdeverify.optimizers.start import start_from_torch
from sdeverify.optimizers.torch_classes import kind_of
from sdeverify.problems.module import ModuleProblem, problem_from_module
from sdeverify.scaling.scale import largest_kappa, scale


class TwoHeads(nn.Module):
    """One head is used, the other is there as well."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.spare = nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 2)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.body(x).tanh()))


class AlwaysUsed(TwoHeads):
    """The other head's gradient is 0, not None."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0 * sum(p.sum() for p in self.spare.parameters())


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randn(8, 1, generator=generator, dtype=torch.float64)


def squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().sum(-1)


def problem_of(net: nn.Module) -> ModuleProblem:
    return problem_from_module(net, *data(), squares)


def train(net: nn.Module, opt: torch.optim.Optimizer, steps: int) -> None:
    inputs, targets = data()
    for _ in range(steps):
        opt.zero_grad()
        squares(net(inputs), targets).mean().backward()
        opt.step()


def squared_norm(net: nn.Module) -> float:
    return sum(float(p.detach().square().sum()) for p in net.parameters() if p.requires_grad)


Build = Callable[[Any], torch.optim.Optimizer]
WITH_MEMORY: dict[str, Build] = {
    "SGD with decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "momentum with decay": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5),
}


@pytest.mark.parametrize("build", WITH_MEMORY.values(), ids=WITH_MEMORY.keys())
def test_parameters_without_a_gradient_are_refused_by_name(build: Build) -> None:
    net = TwoHeads()
    opt = build(net.parameters())
    train(net, opt, 2)
    with pytest.raises(UnsupportedError, match=r"spare\.bias, spare\.weight.*grad stays None"):
        optimizer_from_torch(opt, problem_of(net))


@pytest.mark.parametrize("advice", ["freeze it", "always use it"])
@pytest.mark.parametrize("build", WITH_MEMORY.values(), ids=WITH_MEMORY.keys())
def test_either_advice_gives_the_ten_steps_of_torch(build: Build, advice: str) -> None:
    """Ten steps on all samples, whose gradient has no noise, by the rule and by torch."""
    net = TwoHeads() if advice == "freeze it" else AlwaysUsed()
    net.spare.requires_grad_(advice == "always use it")
    opt = build(net.parameters())
    train(net, opt, 2)
    problem = problem_of(net)
    ours = optimizer_from_torch(opt, problem)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(batch_size=2))
    start = start_from_torch(opt, problem, oracle, ours)
    y = ours.from_sde(start.expand(1), oracle)
    for k in range(10):
        y = ours.step(int(start.step) + k, y, problem.gradient(y["theta"]))
    train(net, opt, 10)
    assert float(y["theta"].square().sum()) == pytest.approx(squared_norm(net), rel=1e-12)


def test_simulated_decay_leaves_out_what_torch_skips() -> None:
    """|theta|^2 of ten full-batch steps: by hand, and of two simulated replicas."""
    net = TwoHeads()
    opt = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.2)
    net.spare.requires_grad_(False)
    problem = problem_of(net)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(batch_size=8, replacement=False))
    ours = sv.optimizer_from_torch(opt, problem)
    start = sv.start_from_torch(opt, problem, oracle, ours)
    chain = sv.simulate(ours, oracle, start, 10, sv.measures.squared_parameter_norm(), replicas=2)
    net.spare.requires_grad_(True)
    train(net, opt, 10)
    net.spare.requires_grad_(False)
    assert float(chain["mean"][-1, 0]) == pytest.approx(squared_norm(net), rel=1e-12)


def test_sgd_without_memory_and_decay_may_have_unused_parameters() -> None:
    net = TwoHeads()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    train(net, opt, 2)
    problem = problem_of(net)
    ours = optimizer_from_torch(opt, problem)
    y = {"theta": sv.flatten_parameters(net).unsqueeze(0).clone()}
    for k in range(10):
        y = ours.step(k, y, problem.gradient(y["theta"]))
    train(net, opt, 10)
    torch.testing.assert_close(y["theta"][0], sv.flatten_parameters(net), rtol=1e-12, atol=0.0)


class Routed(nn.Module):
    """Samples with a positive first input go through one layer, the others through another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(3, 1).double(), nn.Linear(3, 1).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, positive = x.new_zeros(len(x), 1), x[:, 0] > 0
        if positive.any():
            out = out.index_put((positive,), self.right(x[positive]))
        if (~positive).any():
            out = out.index_put((~positive,), self.left(x[~positive]))
        return out


def test_parameters_that_only_some_samples_use_are_refused() -> None:
    net = Routed()
    opt = torch.optim.AdamW(net.parameters(), lr=0.01)
    with pytest.warns(UserWarning, match="plain autograd"):
        problem = problem_of(net)
    train(net, opt, 2)
    with pytest.raises(UnsupportedError, match="let the net always use it"):
        optimizer_from_torch(opt, problem)
    assert optimizer_from_torch(torch.optim.SGD(net.parameters(), lr=0.1), problem).rate(0) == 0.1


def test_a_loss_that_lacks_what_training_had_is_refused() -> None:
    """The loop trains the spare head with an auxiliary loss that is not passed on."""
    net = TwoHeads()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    inputs, _ = data()
    net.spare(net.body(inputs)).square().mean().backward()
    opt.step()
    with pytest.raises(UnsupportedError, match=r"spare\.bias.*auxiliary losses included"):
        optimizer_from_torch(opt, problem_of(net))
    opt.zero_grad()
    assert optimizer_from_torch(opt, problem_of(net)).rate(0) == 0.1


def test_parameters_that_are_skipped_by_hand_are_refused_under_every_optimizer() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    train(net, opt, 1)
    for parameter in net[0].parameters():
        parameter.grad = None
    with pytest.raises(UnsupportedError, match=r"0\.bias, 0\.weight: grad is None though other"):
        optimizer_from_torch(opt, problem_of(net))
    opt.zero_grad()
    assert optimizer_from_torch(opt, problem_of(net)).rate(0) == 0.1


def a_net() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 1).double()


def halve(gradient: torch.Tensor) -> torch.Tensor:
    return gradient / 2


def clip(opt: torch.optim.Optimizer, *_: Any) -> None:
    nn.utils.clip_grad_norm_(opt.param_groups[0]["params"], 0.1)


Register = Callable[[nn.Linear, torch.optim.Optimizer], Any]
HOOKS: dict[str, tuple[Register, str]] = {
    "of a gradient": (
        lambda net, opt: net.weight.register_hook(halve),
        r"shape \(1, 3\) has the hook halve \(register_hook\)",
    ),
    "after accumulation": (
        lambda net, opt: net.bias.register_post_accumulate_grad_hook(partial(halve)),
        r"hook halve \(register_post_accumulate_grad_hook\)",
    ),
    "before a step": (
        lambda net, opt: opt.register_step_pre_hook(clip),
        r"the step of this SGD has the hook clip \(register_step_pre_hook\)",
    ),
    "after a step": (
        lambda net, opt: opt.register_step_post_hook(clip),
        r"hook clip \(register_step_post_hook\)",
    ),
    "of all optimizers": (
        lambda net, opt: register_optimizer_step_post_hook(clip),
        r"hook clip \(register_optimizer_step_post_hook\)",
    ),
}


@pytest.mark.parametrize("case", HOOKS.values(), ids=HOOKS.keys())
def test_hooks_are_refused_by_name_until_they_are_taken_off(case: tuple[Register, str]) -> None:
    register, message = case
    net = a_net()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    handle = register(net, opt)
    try:
        with pytest.raises(UnsupportedError, match=f"(?s){message}.*handle.remove"):
            optimizer_from_torch(opt, problem_of(net))
    finally:
        handle.remove()
    assert optimizer_from_torch(opt, problem_of(net)).rate(0) == 0.1


@pytest.mark.parametrize("name", ["of a gradient", "before a step"])
def test_a_run_with_hooks_is_not_scaled(name: str) -> None:
    """The rules are of unclipped gradients, and a new optimizer would not have the step's hooks."""
    register, message = HOOKS[name]
    net = a_net()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    register(net, opt)
    with pytest.raises(UnsupportedError, match=message):
        scale(opt, 4)


SCALED: dict[str, Build] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.02, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, dampening=0.2),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.9)),
    "Adam without memory": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.0, 0.9)),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.9), weight_decay=0.1),
}


@pytest.mark.parametrize("kappa", [2.0, 4.0, 0.5])
@pytest.mark.parametrize("build", SCALED.values(), ids=SCALED.keys())
def test_the_first_steps_after_scaling_equal_torchs_own(build: Build, kappa: float) -> None:
    net = a_net()
    opt = build(net.parameters())
    train(net, opt, 8)
    scaled = scale(opt, kappa)
    problem = problem_of(net)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(batch_size=2))
    ours = optimizer_from_torch(scaled, problem)
    start = start_from_torch(scaled, problem, oracle, ours)
    y = ours.from_sde(start.expand(1), oracle)
    for k in range(10):
        y = ours.step(int(start.step) + k, y, problem.gradient(y["theta"]))
        train(net, scaled, 1)
        torch.testing.assert_close(
            y["theta"][0], sv.flatten_parameters(net), rtol=1e-12, atol=1e-15
        )


def test_a_replaced_step_is_refused() -> None:
    opt: Any = torch.optim.SGD(a_net().parameters(), lr=0.1)
    for step in (partial(clip, opt), MethodType(clip, opt)):
        opt.step = step
        with pytest.raises(UnsupportedError, match="step of this SGD was replaced by clip"):
            optimizer_from_torch(opt)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1)  # which wraps the replaced step
    with pytest.raises(UnsupportedError, match="step of this SGD was replaced by clip"):
        optimizer_from_torch(opt, schedule=scheduler)


def test_the_packages_own_hooks_only_read() -> None:
    net = a_net()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with sv.NoiseMeter(opt, micro_batch_size=2, micro_batches=2, loss_scale=2.0, every=1):
        assert net.weight._backward_hooks
        assert optimizer_from_torch(opt, problem_of(net)).rate(0) == 0.1


class Wrapper:
    """As libraries of distributed training have them."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.optimizer = inner


class WrappingOptimizer(torch.optim.SGD):
    """A wrapper that is an optimizer as well."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner.param_groups[0]["params"])
        self.inner = inner


def test_a_wrapped_optimizer_is_to_be_passed_itself() -> None:
    adam = torch.optim.Adam(a_net().parameters())
    wrapper: Any = Wrapper(adam)
    with pytest.raises(InvalidInputError, match=r"got Wrapper. It wraps Adam: pass \.optimizer,"):
        kind_of(wrapper)
    with pytest.raises(UnsupportedError, match=r"WrappingOptimizer is not supp.*pass \.inner, pro"):
        optimizer_from_torch(WrappingOptimizer(adam))


@pytest.mark.parametrize("groups", [1, 2])
def test_adam_without_memory_has_no_sde_and_the_advice_gives_torchs_ten_steps(groups: int) -> None:
    """beta1 = 0, in one param group or in all; the steps of RMSprop once beta2^k is 0."""
    net = a_net()
    memory = {"betas": (0.9 if groups == 2 else 0.0, 0.5)}
    members = [{"params": [net.weight], "betas": (0.0, 0.5)}, {"params": [net.bias], **memory}]
    opt = torch.optim.Adam(members, lr=0.01, eps=1e-3, weight_decay=0.1)
    train(net, opt, 80)
    problem = problem_of(net)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(batch_size=2))
    ours = optimizer_from_torch(opt, problem)
    with pytest.raises(
        UnsupportedError, match="beta1 = 0 has no memory.*RMSprop with beta = beta2"
    ):
        sv.derive(ours, oracle)
    if groups == 2:
        return
    start = start_from_torch(opt, problem, oracle, ours)
    rmsprop = sv.RMSprop(learning_rate=0.01, beta=0.5, epsilon=1e-3, weight_decay=0.1)
    assert "RMSprop" in str(sv.derive(rmsprop, oracle))
    y = rmsprop.from_sde(start.expand(1), oracle)
    for k in range(10):
        y = rmsprop.step(k, y, problem.gradient(y["theta"]))
    train(net, opt, 10)
    torch.testing.assert_close(y["theta"][0], sv.flatten_parameters(net), rtol=1e-12, atol=0.0)


def test_adamw_without_memory_is_not_sent_to_rmsprop_which_has_no_decoupled_decay() -> None:
    adamw = sv.Adam(learning_rate=0.1, beta1=0.0, decoupled_weight_decay=0.1)
    oracle = sv.GradientOracle(problem_of(a_net()), sv.MinibatchNoise(batch_size=2))
    with pytest.raises(UnsupportedError, match=r"not offered\. Use beta1 > 0"):
        sv.derive(adamw, oracle)


def test_groups_with_and_without_memory_scale_by_the_memory_that_there_is() -> None:
    ours = sv.Adam(learning_rate=0.1, beta1=torch.tensor([0.0, 0.9]), beta2=0.99)
    assert largest_kappa(ours) == pytest.approx(10)
    scaled = sv.scale(ours, 4)
    torch.testing.assert_close(scaled.beta1, torch.tensor([0.0, 0.6]))
