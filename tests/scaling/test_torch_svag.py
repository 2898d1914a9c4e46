"""SVAG in a torch training loop against its ensemble form, fed with the same mini-batches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from sdeverify.base.rng import Block, Streams
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise.minibatch import MinibatchNoise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.adam import Adam
from sdeverify.optimizers.ladders import svag
from sdeverify.optimizers.rmsprop import RMSprop
from sdeverify.optimizers.sgd import SGD, SGDMomentum
from sdeverify.problems.problem import FunctionProblem
from sdeverify.scaling.torch_svag import TorchSVAG

BATCH = 3
ADAM = {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3}
PAIRS = {
    "sgd": (
        lambda p: torch.optim.SGD(p, lr=0.2, weight_decay=0.1),
        SGD(learning_rate=0.2, weight_decay=0.1),
    ),
    "momentum": (
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8),
        SGDMomentum(learning_rate=0.1, momentum=0.8),
    ),
    "nesterov": (
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.05),
        SGDMomentum(learning_rate=0.1, momentum=0.8, nesterov=True, weight_decay=0.05),
    ),
    "rmsprop": (
        lambda p: torch.optim.RMSprop(p, lr=0.02, alpha=0.9, eps=1e-2, weight_decay=0.1),
        RMSprop(learning_rate=0.02, beta=0.9, epsilon=1e-2, weight_decay=0.1),
    ),
    "adam": (
        lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
        Adam(learning_rate=0.02, **ADAM, weight_decay=0.1),
    ),
    "adamw": (
        lambda p: torch.optim.AdamW(p, lr=0.02, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3),
        Adam(learning_rate=0.02, **ADAM, decoupled_weight_decay=0.3),
    ),
}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)
    ).double()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(11, 3, generator=generator, dtype=torch.float64)
    return inputs, inputs[:, 0].sin() + 0.3 * inputs[:, 1]


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def per_sample(outputs, targets):
    return (outputs.squeeze(-1) - targets).square()


def ensemble_problem(net, data):
    shapes = [(name, p.shape) for name, p in net.named_parameters()]

    def function(theta):
        parts = theta.split([shape.numel() for _, shape in shapes])
        named = {n: part.reshape(s) for (n, s), part in zip(shapes, parts, strict=True)}
        return per_sample(torch.func.functional_call(net, named, (data[0],)), data[1])

    return FunctionProblem(function, sum(s.numel() for _, s in shapes), len(data[0]))


def batch_loss(net, data, indices):
    return lambda: per_sample(net(data[0][indices]), data[1][indices]).mean()


def ensemble_run(optimizer, oracle, y, first, last, pairs):
    """Own steps from `first` to `last`; returns the state and the mini-batches that were drawn."""
    streams = Streams(7, "gradients", [Block(0, 1)])
    batches = []
    for k in range(first, last):
        draw = oracle.draw(streams, k)
        batches.append(draw.indices[0].split(BATCH) if pairs else (draw.indices[0],))
        y = optimizer.step(k, y, oracle.sample(y["theta"], draw))
    return y, batches


@pytest.mark.parametrize("level", [1.0, 2**0.5, 2.0, 3.0])
@pytest.mark.parametrize("name", PAIRS)
def test_the_wrapper_is_the_ensemble_form_on_the_same_batches(net, data, name, level):
    make, ours = PAIRS[name]
    oracle = GradientOracle(ensemble_problem(net, data), MinibatchNoise(BATCH))
    refined, amplified = svag(ours, oracle, level)
    y, batches = ensemble_run(
        refined, amplified, refined.init(flat(net).unsqueeze(0)), 0, 12, level > 1
    )
    wrapper = TorchSVAG(make(net.parameters()), level)
    for step in batches:
        wrapper.step(*[batch_loss(net, data, indices) for indices in step])
    torch.testing.assert_close(flat(net), y["theta"][0], rtol=1e-10, atol=1e-12)
    assert wrapper.refinement == pytest.approx(refined.refinement, rel=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_a_run_taken_over_in_mid_training_is_the_ensemble_form_from_that_state(net, data, name):
    make, ours = PAIRS[name]
    oracle = GradientOracle(ensemble_problem(net, data), MinibatchNoise(BATCH))
    start, batches = ensemble_run(ours, oracle, ours.init(flat(net).unsqueeze(0)), 0, 5, False)
    live = make(net.parameters())
    for (indices,) in batches:
        live.zero_grad()
        batch_loss(net, data, indices)().backward()
        live.step()

    refined, amplified = svag(ours, oracle, 2.0)
    moved = refined.from_sde(ours.to_sde(5, start, oracle), amplified)
    first = refined.own_step(5.0)
    y, pairs = ensemble_run(refined, amplified, moved, first, first + 8, True)
    wrapper = TorchSVAG(live, 2.0)
    for pair in pairs:
        wrapper.step(*[batch_loss(net, data, indices) for indices in pair])
    torch.testing.assert_close(flat(net), y["theta"][0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_level_one_is_the_optimizer_bit_for_bit(net, data, name):
    make, _ = PAIRS[name]
    twin = copy.deepcopy(net)
    live, wrapper = make(twin.parameters()), TorchSVAG(make(net.parameters()), 1)
    generator = torch.Generator().manual_seed(3)
    for _ in range(10):
        indices = torch.randint(len(data[0]), (BATCH,), generator=generator)
        live.zero_grad()
        batch_loss(twin, data, indices)().backward()
        live.step()
        wrapper.step(batch_loss(net, data, indices))
    assert torch.equal(flat(net), flat(twin))


def test_the_wrapped_optimizer_and_its_state_are_left_as_they_were(net, data):
    live = torch.optim.Adam(net.parameters(), lr=0.02)
    batch_loss(net, data, torch.arange(4))().backward()
    live.step()
    before = copy.deepcopy(live.state_dict())
    wrapper = TorchSVAG(live, 2)
    wrapper.step(batch_loss(net, data, torch.arange(3)), batch_loss(net, data, torch.arange(5)))
    after = live.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for index, state in before["state"].items():
        assert all(torch.equal(state[key], after["state"][index][key]) for key in state)


def test_param_groups_keep_their_own_rates_and_options(net):
    groups = [
        {"params": net[0].parameters(), "lr": 0.1, "weight_decay": 0.2},
        {"params": net[2].parameters(), "lr": 0.4, "betas": (0.5, 0.75)},
    ]
    refined = TorchSVAG(torch.optim.AdamW(groups, lr=0.3, eps=1e-3), 2).optimizer
    assert [g["lr"] for g in refined.param_groups] == [0.05, 0.2]
    assert refined.param_groups[0]["weight_decay"] == pytest.approx(0.1)
    assert refined.param_groups[1]["betas"] == pytest.approx((0.875, 0.9375))
    assert [g["eps"] for g in refined.param_groups] == [2e-3, 2e-3]


def test_named_parameters_keep_their_names(net):
    refined = TorchSVAG(torch.optim.SGD(net.named_parameters(), lr=0.1), 2).optimizer
    assert refined.param_groups[0]["param_names"] == [n for n, _ in net.named_parameters()]


def test_a_stretched_schedule_is_the_schedule_at_the_optimizers_steps(net, data):
    def ratio(step):
        return 1 / (1 + step)

    wrapper = TorchSVAG(torch.optim.Adam(net.parameters(), lr=0.1), 2)
    schedule = LambdaLR(wrapper.optimizer, wrapper.stretched(ratio))
    for _ in range(wrapper.own_steps(3)):
        wrapper.step(*[batch_loss(net, data, torch.arange(3))] * 2)
        schedule.step()
    assert wrapper.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 2 * ratio(3))


def test_an_optimizer_with_a_scheduler_is_refused_unless_the_stretching_is_confirmed(net):
    live = torch.optim.SGD(net.parameters(), lr=0.1)
    LambdaLR(live, lambda step: 0.5)
    with pytest.raises(UnsupportedError, match="scheduler is attached"):
        TorchSVAG(live, 2)
    confirmed = TorchSVAG(live, 2, schedule_stretched=True).optimizer.param_groups[0]
    assert (confirmed["lr"], confirmed["initial_lr"]) == (0.025, 0.05)


def test_the_weights_serve_a_loop_that_calls_backward_itself(net, data):
    twin = copy.deepcopy(net)
    batches = [torch.arange(0, 3), torch.arange(5, 9)]
    wrapper = TorchSVAG(torch.optim.SGD(net.parameters(), lr=0.1), 3)
    by_hand = TorchSVAG(torch.optim.SGD(twin.parameters(), lr=0.1), 3)
    wrapper.step(*[batch_loss(net, data, b) for b in batches])
    for weight, b in zip(by_hand.weights, batches, strict=True):
        (weight * batch_loss(twin, data, b)()).backward()
    by_hand.optimizer.step()
    assert torch.equal(flat(net), flat(twin))


@pytest.mark.parametrize("level", [0.5, float("nan"), float("inf")])
def test_a_level_below_one_or_not_a_number_is_refused(net, level):
    with pytest.raises(InvalidInputError, match=">= 1"):
        TorchSVAG(torch.optim.SGD(net.parameters(), lr=0.1), level)


def test_the_wrong_number_of_batches_is_refused(net, data):
    loss = batch_loss(net, data, torch.arange(3))
    with pytest.raises(InvalidInputError, match="takes 2 mini-batches; got 1"):
        TorchSVAG(torch.optim.SGD(net.parameters(), lr=0.1), 2).step(loss)
    with pytest.raises(InvalidInputError, match="takes 1 mini-batches; got 2"):
        TorchSVAG(torch.optim.SGD(net.parameters(), lr=0.1), 1).step(loss, loss)


def test_a_function_that_calls_backward_itself_is_refused(net, data):
    wrapper = TorchSVAG(torch.optim.SGD(net.parameters(), lr=0.1), 1)
    with pytest.raises(InvalidInputError, match="without calling backward"):
        wrapper.step(lambda: batch_loss(net, data, torch.arange(3))().detach())


def test_steps_that_are_not_whole_at_a_real_level_are_refused(net):
    wrapper = TorchSVAG(torch.optim.Adam(net.parameters(), lr=0.1), 2**0.5)
    assert wrapper.own_steps(3) == 6
    with pytest.raises(InvalidInputError, match="not a whole"):
        TorchSVAG(torch.optim.Adam(net.parameters(), lr=0.1), 1.1).own_steps(3)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda p: torch.optim.Adagrad(p), "Adagrad"),
        (lambda p: torch.optim.Adam(p, amsgrad=True), "amsgrad"),
        (lambda p: torch.optim.RMSprop(p, centered=True), "centered"),
        (lambda p: torch.optim.RMSprop(p, momentum=0.5), "momentum"),
    ],
)
def test_optimizers_and_options_without_an_sde_are_refused(net, make, what):
    with pytest.raises(UnsupportedError, match=what):
        TorchSVAG(make(net.parameters()), 2)


def test_a_damped_run_without_a_buffer_is_refused(net, data):
    live = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, dampening=0.5)
    with pytest.raises(InvalidInputError, match="buffer"):
        TorchSVAG(live, 2)
    batch_loss(net, data, torch.arange(3))().backward()
    live.step()
    assert TorchSVAG(live, 2).optimizer.param_groups[0]["momentum"] == pytest.approx(0.95)


def test_what_is_no_optimizer_is_refused(net):
    with pytest.raises(InvalidInputError, match="optimizer is wanted here; got Sequential"):
        TorchSVAG(net, 2)


def test_it_says_what_it_does(net):
    told = repr(TorchSVAG(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.8), 2))
    assert told.startswith("TorchSVAG(level=2): 2 own steps of 2 mini-batches for one of SGD's")
    assert "lr=0.025, momentum=0.9" in told
