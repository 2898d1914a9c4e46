"""ModuleProblem against loops of plain autograd."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.problems.gradients.chunks import Chunks
from sdeverify.problems.gradients.parameters import flatten_parameters, load_parameters
from sdeverify.problems.module import ModuleProblem, problem_from_module

SAMPLES = 7
CROSS_ENTROPY = nn.CrossEntropyLoss(reduction="none")


class Sentence(nn.Module):
    """Embedding, LayerNorm, self-attention and a head on the mean over positions."""

    def __init__(self, training: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 8)
        self.norm = nn.LayerNorm(8)
        self.block = nn.TransformerEncoderLayer(
            8, 2, 12, dropout=0.0 if training else 0.1, batch_first=True
        )
        self.head = nn.Linear(8, 3)
        self.train(training)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.norm(self.embedding(words))).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.left(a) * torch.sigmoid(self.right(b))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.GELU(),
                         nn.Sequential(nn.Linear(4, 3, bias=False)))  # fmt: skip


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, 3, stride=2, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    net[0].weight.requires_grad_(False)
    net[2].bias.requires_grad_(False)
    return net


def evaluated_batch_norm() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    net(torch.randn(20, 4))
    return net.eval()


NETS = {
    "mlp": (mlp, lambda: torch.randn(SAMPLES, 2, 3)),
    "linear": (lambda: nn.Linear(4, 3), lambda: torch.randn(SAMPLES, 4)),
    "conv": (conv, lambda: torch.randn(SAMPLES, 1, 6, 6)),
    "attention_train": (lambda: Sentence(True), lambda: torch.randint(6, (SAMPLES, 5))),
    "attention_eval": (lambda: Sentence(False), lambda: torch.randint(6, (SAMPLES, 5))),
    "lstm": (Recurrent, lambda: torch.randn(SAMPLES, 3, 4)),
    "tied": (Tied, lambda: torch.randn(SAMPLES, 5)),
    "frozen": (frozen, lambda: torch.randn(SAMPLES, 4)),
    "batch_norm_eval": (evaluated_batch_norm, lambda: torch.randn(SAMPLES, 4)),
    "two_inputs": (TwoInputs, lambda: (torch.randn(SAMPLES, 4), torch.randn(SAMPLES, 2))),
    "layer_norm_positions": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm((5, 6)), nn.Tanh(), nn.Flatten(),
                              nn.Linear(30, 3)),
        lambda: torch.randn(SAMPLES, 5, 4),
    ),
}  # fmt: skip

ROUTES = {
    "mlp": "dense chain",
    "linear": "dense chain",
    "frozen": "dense chain",
    "conv": "layerwise",
    "two_inputs": "layerwise",
    "layer_norm_positions": "layerwise",
    "attention_train": "per sample",
    "attention_eval": "per sample",
    "lstm": "per sample",
    "tied": "per sample",
    "batch_norm_eval": "per sample",
}


@functools.cache
def case(name: str) -> tuple[nn.Module, ModuleProblem, torch.Tensor, torch.Tensor]:
    """A net, its problem, parameters of three replicas, and their per-sample gradients by loop."""
    torch.manual_seed(0)
    make, data = NETS[name]
    net = make().double()
    inputs = data()
    inputs = tuple(x.double() for x in inputs) if isinstance(inputs, tuple) else inputs
    inputs = (
        inputs.double()
        if isinstance(inputs, torch.Tensor) and inputs.is_floating_point()
        else inputs
    )
    targets = torch.randint(3, (SAMPLES,))
    problem = problem_from_module(net, inputs, targets, CROSS_ENTROPY)
    theta = flatten_parameters(net) + 0.3 * torch.randn(3, problem.dim).double()
    return net, problem, theta, by_loop(net, inputs, targets, theta)


def by_loop(
    net: nn.Module, inputs: torch.Tensor | tuple, targets: torch.Tensor, theta: torch.Tensor
) -> torch.Tensor:
    twin = copy.deepcopy(net)
    trainable = [p for p in twin.parameters() if p.requires_grad]
    every = inputs if isinstance(inputs, tuple) else (inputs,)
    rows = []
    for point in theta:
        load_parameters(twin, point)
        for i in range(SAMPLES):
            outputs = twin(*(x[i : i + 1] for x in every))
            loss = F.cross_entropy(outputs, targets[i : i + 1])
            grads = torch.autograd.grad(loss, trainable)
            rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows).view(len(theta), SAMPLES, -1)


@pytest.mark.parametrize("name", NETS)
def test_per_sample_gradients_equal_a_loop_of_autograd(name: str) -> None:
    _, problem, theta, loop = case(name)
    torch.testing.assert_close(problem.per_sample_gradients(theta), loop)
    subset = torch.tensor([[0, 3, 3], [6, 1, 0], [2, 2, 5]])
    chosen = loop[torch.arange(3).unsqueeze(1), subset]
    torch.testing.assert_close(problem.per_sample_gradients(theta, subset), chosen)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("replicas", [1, 3])
def test_the_weighted_gradient_equals_the_dense_product(name: str, replicas: int) -> None:
    _, problem, theta, loop = case(name)
    weights = torch.randn(replicas, SAMPLES, dtype=torch.float64)
    want = torch.einsum("rn,rnd->rd", weights, loop[:replicas])
    torch.testing.assert_close(problem.weighted_gradient(theta[:replicas], weights), want)
    torch.testing.assert_close(problem.gradient(theta[:replicas]), loop[:replicas].mean(1))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("replicas", [1, 3])
def test_a_subset_of_each_replica_s_own_may_repeat_samples(name: str, replicas: int) -> None:
    _, problem, theta, loop = case(name)
    subset = torch.tensor([[0, 3, 3, 4], [6, 1, 0, 0], [2, 2, 2, 5]])[:replicas]
    weights = torch.randn(replicas, 4, dtype=torch.float64)
    chosen = loop[torch.arange(replicas).unsqueeze(1), subset]
    want = torch.einsum("rn,rnd->rd", weights, chosen)
    torch.testing.assert_close(problem.weighted_gradient(theta[:replicas], weights, subset), want)
    moments = problem.weighted_moments(theta[:replicas], weights, subset)
    torch.testing.assert_close(moments.weighted, want)
    torch.testing.assert_close(moments.mean, chosen.mean(1))
    torch.testing.assert_close(moments.second, chosen.square().mean(1))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("replicas", [1, 3])
def test_the_moments_equal_those_of_the_per_sample_gradients(name: str, replicas: int) -> None:
    _, problem, theta, loop = case(name)
    loop = loop[:replicas]
    weights = torch.randn(replicas, SAMPLES, dtype=torch.float64)
    moments = problem.weighted_moments(theta[:replicas], weights)
    torch.testing.assert_close(moments.weighted, torch.einsum("rn,rnd->rd", weights, loop))
    torch.testing.assert_close(moments.mean, loop.mean(1))
    torch.testing.assert_close(moments.second, loop.square().mean(1))
    torch.testing.assert_close(
        moments.second - moments.mean.square(), loop.var(1, correction=0), atol=1e-12, rtol=1e-7
    )


@pytest.mark.parametrize("name", NETS)
def test_each_net_gets_the_fast_form_that_it_admits(name: str) -> None:
    _, problem, _, _ = case(name)
    assert problem.moments_route == ROUTES[name]
    assert (problem.gradient_route == "dense chain") == (ROUTES[name] == "dense chain")


@pytest.mark.parametrize("name", NETS)
def test_the_squared_gradient_drift_is_the_slope_of_half_the_squared_gradient(name: str) -> None:
    _, problem, theta, _ = case(name)
    direction = torch.randn_like(theta)
    h = 1e-5

    def half_square(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * problem.gradient(x).square().sum(1)

    slope = (half_square(theta + h * direction) - half_square(theta - h * direction)) / (2 * h)
    drift = problem.squared_gradient_drift(theta)
    torch.testing.assert_close((drift * direction).sum(1), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NETS)
def test_cutting_the_work_changes_nothing_but_rounding(name: str) -> None:
    _, problem, theta, _ = case(name)
    weights = torch.randn(3, SAMPLES, dtype=torch.float64)
    cut = replace(problem, chunks=Chunks(1, 1, 1))
    assert cut.chunks.sizes(3, SAMPLES, cut._cost) == (1, 1)
    for got, want in (
        (cut.losses(theta), problem.losses(theta)),
        (cut.outputs(theta), problem.outputs(theta)),
        (cut.weighted_gradient(theta, weights), problem.weighted_gradient(theta, weights)),
        (cut.per_sample_gradients(theta), problem.per_sample_gradients(theta)),
        (cut.squared_gradient_drift(theta), problem.squared_gradient_drift(theta)),
    ):
        torch.testing.assert_close(got, want)
    both = zip(
        cut.weighted_moments(theta, weights), problem.weighted_moments(theta, weights), strict=True
    )
    for got, want in both:
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", NETS)
def test_losses_and_outputs_are_those_of_the_net(name: str) -> None:
    net, problem, theta, _ = case(name)
    twin = copy.deepcopy(net)
    load_parameters(twin, theta[1])
    args = problem.data.data.args
    outputs = twin(*args).detach()
    torch.testing.assert_close(problem.outputs(theta)[1], outputs)
    targets = problem.data.data.targets
    losses = F.cross_entropy(outputs, targets, reduction="none")
    torch.testing.assert_close(problem.losses(theta)[1], losses)
    torch.testing.assert_close(problem.loss(theta)[1], losses.mean())
    share = (outputs.argmax(1) == targets).double().mean()
    torch.testing.assert_close(problem.accuracy(theta)[1], share)
    subset = torch.tensor([[0, 1], [4, 4], [2, 3]])
    torch.testing.assert_close(problem.losses(theta, subset)[1], losses[subset[1]])


def test_the_net_is_left_as_it_was() -> None:
    net = conv()
    state = copy.deepcopy(net.state_dict())
    problem = problem_from_module(
        net, torch.randn(3, 1, 6, 6), torch.tensor([0, 1, 2]), CROSS_ENTROPY
    )
    problem.weighted_moments(flatten_parameters(net).expand(2, -1), torch.randn(2, 3))
    assert net.training and net[2].inplace
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not net[0]._forward_hooks
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name])


def test_later_changes_of_the_net_do_not_reach_the_problem() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).eval()
    problem = problem_from_module(net, torch.randn(5, 4), torch.randint(3, (5,)), CROSS_ENTROPY)
    theta = flatten_parameters(net).unsqueeze(0)
    before = problem.losses(theta)
    net.train()
    load_parameters(net, torch.zeros(problem.dim))
    assert torch.equal(problem.losses(theta), before)


@pytest.mark.parametrize("replicas", [1, 2])
def test_constant_inputs_have_a_second_moment_of_exactly_zero(replicas: int) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    x = torch.randn(6, 4)
    x[:, 2] = 0
    problem = problem_from_module(net, x, torch.randint(2, (6,)), CROSS_ENTROPY)
    theta = flatten_parameters(net).expand(replicas, -1)
    second = problem.weighted_moments(theta, torch.randn(replicas, 6)).second
    dead = second[:, :12].view(-1, 3, 4)
    assert bool((dead[..., 2] == 0).all())
    assert bool((dead[..., [0, 1, 3]] > 0).all())


def test_losses_other_than_the_cross_entropy_are_used_as_they_are() -> None:
    def absolute(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs - targets).square().mean(1) + 0.1 * outputs.abs().sum(1)

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.SiLU(), nn.Linear(5, 2), nn.Sigmoid()).double()
    x, y = torch.randn(6, 4).double(), torch.randn(6, 2).double()
    problem = problem_from_module(net, x, y, absolute)
    assert problem.moments_route == "dense chain"
    theta = flatten_parameters(net).expand(2, -1)
    weights = torch.randn(2, 6).double()
    total = weights[1] @ absolute(net(x), y)
    want = torch.cat([g.flatten() for g in torch.autograd.grad(total, list(net.parameters()))])
    torch.testing.assert_close(problem.weighted_gradient(theta, weights)[1], want)
    torch.testing.assert_close(problem.weighted_moments(theta, weights).weighted[1], want)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(reduction="none"),
        functools.partial(F.cross_entropy, reduction="none"),
        nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1),
        nn.CrossEntropyLoss(reduction="none", weight=torch.tensor([1.0, 2.0, 0.5])),
        nn.CrossEntropyLoss(reduction="none", ignore_index=1),
    ],
)
def test_the_cross_entropy_keeps_its_options(loss) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3))
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    problem = problem_from_module(net, x, y, loss)
    theta = flatten_parameters(net).unsqueeze(0)
    each = loss(net(x), y)
    torch.testing.assert_close(problem.losses(theta)[0], each.detach())
    want = torch.autograd.grad(each.sum(), list(net.parameters()))
    got = problem.weighted_gradient(theta, torch.ones(1, 6))[0]
    torch.testing.assert_close(got, torch.cat([g.flatten() for g in want]))


def test_parameters_are_recognised_by_identity() -> None:
    net = frozen()
    problem = problem_from_module(net, torch.randn(4, 4), torch.randint(3, (4,)), CROSS_ENTROPY)
    assert problem.parameter_names == ("0.bias", "2.weight")
    assert problem.parameter_slices == {"0.bias": slice(0, 5), "2.weight": slice(5, 20)}
    optimizer = torch.optim.SGD(
        [{"params": [net[2].weight, net[2].bias]}, {"params": net[0].parameters()}], lr=0.1
    )
    groups = [problem.slices_of(group["params"]) for group in optimizer.param_groups]
    assert groups == [[slice(5, 20), slice(0, 0)], [slice(0, 0), slice(0, 5)]]
    with pytest.raises(InvalidInputError, match="same net object"):
        problem.slices_of(copy.deepcopy(net).parameters())


def test_theta_goes_back_into_the_net() -> None:
    net = Tied()
    theta = torch.arange(float(flatten_parameters(net).numel()))
    load_parameters(net, theta)
    assert torch.equal(flatten_parameters(net), theta)
    assert net.second.weight is net.first.weight
    with pytest.raises(InvalidInputError, match="Pick one replica"):
        load_parameters(net, theta.unsqueeze(0))


def test_another_precision_gives_the_same_problem() -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    problem = problem_from_module(
        net, torch.randn(5, 4), torch.randint(3, (5,)), CROSS_ENTROPY, dtype=torch.float64
    )
    assert (problem.dtype, problem.samples, problem.dim) == (torch.float64, 5, 15)
    theta = flatten_parameters(net).unsqueeze(0)
    single = problem.to(dtype=torch.float32, device="cpu")
    assert single.device == torch.device("cpu") and single.dtype == torch.float32
    torch.testing.assert_close(single.gradient(theta).double(), problem.gradient(theta.double()))
    assert single.slices_of(net.parameters()) == problem.slices_of(net.parameters())


def test_misshapen_arguments_are_refused() -> None:
    net = nn.Linear(4, 3)
    problem = problem_from_module(net, torch.randn(5, 4), torch.randint(3, (5,)), CROSS_ENTROPY)
    theta = flatten_parameters(net)
    with pytest.raises(InvalidInputError, match=r"theta must have shape \(replica, 15\)"):
        problem.gradient(torch.zeros(2, 14))
    with pytest.raises(InvalidInputError, match="computes in"):
        problem.gradient(theta.double().unsqueeze(0))
    with pytest.raises(InvalidInputError, match="weights must have shape"):
        problem.weighted_gradient(theta.unsqueeze(0), torch.ones(1, 4))
    with pytest.raises(InvalidInputError, match="indices must have shape"):
        problem.losses(theta.unsqueeze(0), torch.zeros(2, 3, dtype=torch.int64))
    regression = problem_from_module(
        net, torch.randn(5, 4), torch.randn(5, 3), lambda o, t: (o - t).square().sum(1)
    )
    with pytest.raises(UnsupportedError, match="class index"):
        regression.accuracy(theta.unsqueeze(0))


def test_the_work_is_cut_to_fit_the_memory_budget() -> None:
    net = nn.Sequential(nn.Linear(50, 200), nn.Tanh(), nn.Linear(200, 3))
    problem = problem_from_module(
        net, torch.randn(500, 50), torch.randint(3, (500,)), CROSS_ENTROPY, memory=1 << 20
    )
    replicas, part = problem.chunks.sizes(64, 500, problem._cost)
    held = replicas * (problem._cost.replica + part * problem._cost.sample)
    assert held <= (1 << 20) // 3
    assert replicas == 1 and part < 500
    with pytest.raises(InvalidInputError, match="1 MiB"):
        problem_from_module(
            net, torch.randn(5, 50), torch.randint(3, (5,)), CROSS_ENTROPY, memory=1000
        )
