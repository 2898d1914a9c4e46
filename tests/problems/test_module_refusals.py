"""What problem_from_module refuses, with the culprit's name and the remedy."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.problems.gradients.parameters import flatten_parameters
from sdeverify.problems.module import problem_from_module

CROSS_ENTROPY = nn.CrossEntropyLoss(reduction="none")


class Wrapped(nn.Module):
    """A head after something; `first` maps a batch of inputs to features."""

    def __init__(self, first: nn.Module, features: int = 4) -> None:
        super().__init__()
        self.first = first
        self.head = nn.Linear(features, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y = y[0] if isinstance(y, tuple) else y
        return self.head(y.mean(1) if y.dim() == 3 else y)


class Attention(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, dropout=dropout, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x)[0]


class FunctionalDropout(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.5, training=True)


class BatchMean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return x


def data(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(5, *(shape or (4,))), torch.tensor([0, 1, 2, 0, 1])


def refused(net: nn.Module, *shape: int) -> str:
    with pytest.raises(UnsupportedError) as caught:
        problem_from_module(net, *data(*shape), CROSS_ENTROPY)
    return str(caught.value)


@pytest.mark.parametrize(
    ("layer", "shape", "says"),
    [
        (nn.BatchNorm1d(4), (4,), "net.first: BatchNorm1d in train mode"),
        (nn.Dropout(0.3), (4,), "net.first: Dropout with dropout 0.3 in train mode"),
        (nn.Sequential(nn.Tanh(), nn.AlphaDropout(0.2)), (4,), "net.first.1: AlphaDropout"),
        (nn.RReLU(), (4,), "net.first: RReLU in train mode is random"),
        (Attention(0.1), (2, 4), "net.first.attention: MultiheadAttention with dropout 0.1"),
        (
            nn.InstanceNorm1d(2, track_running_stats=True),
            (2, 4),
            "net.first: InstanceNorm1d in train mode updates",
        ),
        (
            nn.LSTM(4, 4, num_layers=2, dropout=0.4, batch_first=True),
            (2, 4),
            "net.first: LSTM with dropout 0.4",
        ),
        (
            nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
            (2, 4),
            "net.first.self_attn: MultiheadAttention with dropout 0.1",
        ),
    ],
)
def test_a_layer_that_is_random_or_ties_samples_is_named(
    layer: nn.Module, shape: tuple[int, ...], says: str
) -> None:
    message = refused(Wrapped(layer), *shape)
    assert says in message
    assert "Use " in message or "net.eval()" in message


def test_batch_norm_without_running_statistics_is_refused_in_eval_mode_too() -> None:
    layer = nn.BatchNorm1d(4, track_running_stats=False)
    assert "in train mode ties the samples" in refused(Wrapped(layer))
    message = refused(Wrapped(layer).eval())
    assert "without running statistics" in message and "nn.GroupNorm" in message


def test_all_culprits_are_named_at_once() -> None:
    message = refused(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.Dropout(0.1)))
    assert "net.0: BatchNorm1d" in message and "net.2: Dropout" in message


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Dropout(0.3).eval(), (4,)),
        (nn.Dropout(0.0), (4,)),
        (nn.BatchNorm1d(4).eval(), (4,)),
        (Attention(0.1).eval(), (2, 4)),
        (nn.LSTM(4, 4, dropout=0.0, batch_first=True), (2, 4)),
        (nn.InstanceNorm1d(2), (2, 4)),
        (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval(), (2, 4)),
        (nn.RNN(4, 4, batch_first=True), (2, 4)),
    ],
)
def test_the_same_layers_are_accepted_where_they_are_harmless(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    net = Wrapped(layer)
    problem = problem_from_module(net, *data(*shape), CROSS_ENTROPY)
    theta = flatten_parameters(net).expand(2, -1)
    x, y = data(*shape)
    loss = F.cross_entropy(net(x), y)
    trainable = [p for p in net.parameters() if p.requires_grad]
    want = torch.cat([g.flatten() for g in torch.autograd.grad(loss, trainable)])
    torch.testing.assert_close(problem.loss(theta)[1], loss.detach())
    torch.testing.assert_close(problem.gradient(theta)[1], want)
    torch.testing.assert_close(problem.weighted_moments(theta, torch.ones(2, 5)).mean[1], want)


@pytest.mark.parametrize("layer", [BatchMean(), nn.LSTM(4, 4)], ids=["mean", "lstm"])
def test_samples_that_depend_on_each_other_are_found_by_trying(layer: nn.Module) -> None:
    shape = (2, 4) if isinstance(layer, nn.LSTM) else (4,)
    message = refused(Wrapped(layer), *shape)
    assert "alone" in message and "batch_first=True" in message


def test_a_net_that_draws_random_numbers_is_found_by_trying() -> None:
    assert "draws random numbers" in refused(Wrapped(FunctionalDropout()))


def test_a_buffer_that_changes_at_every_pass_is_refused() -> None:
    assert "net.first.passes changes at every pass" in refused(Wrapped(Counter()))


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (nn.CrossEntropyLoss(), "CrossEntropyLoss has reduction='mean'"),
        (nn.MSELoss(reduction="sum"), "MSELoss has reduction='sum'"),
        (F.cross_entropy, "cross_entropy is already reduced"),
        (functools.partial(F.cross_entropy, reduction="mean"), "reduction='mean'"),
        (lambda o, t: F.cross_entropy(o, t), "already reduced"),
    ],
)
def test_a_reduced_loss_is_refused_with_the_remedy(loss, says: str) -> None:
    x, y = data()
    targets = torch.randn(5, 3) if isinstance(loss, nn.MSELoss) else y
    with pytest.raises(UnsupportedError, match='reduction="none"') as caught:
        problem_from_module(nn.Linear(4, 3), x, targets, loss)
    assert says in str(caught.value)


def test_a_loss_with_several_values_a_sample_is_refused() -> None:
    x, _ = data()
    with pytest.raises(UnsupportedError, match=r"MSELoss returns shape \(5, 3\) for 5 samples"):
        problem_from_module(nn.Linear(4, 3), x, torch.randn(5, 3), nn.MSELoss(reduction="none"))


def test_a_loss_with_trainable_parameters_is_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

    with pytest.raises(UnsupportedError, match="Scaled has trainable parameters"):
        problem_from_module(nn.Linear(4, 3), *data(), Scaled())


def test_data_that_do_not_fit_are_refused() -> None:
    x, y = data()
    net = nn.Linear(4, 3)
    bad = x.clone()
    bad[1, 2] = torch.nan
    cases = [
        (x[:4], y, "inputs: 4, targets: 5"),
        ((x, x[:3]), y, r"inputs\[1\]: 3"),
        (bad, y, "inputs has 1 values that are not finite"),
        (x[:0], y[:0], "no sample"),
        ((), y, "inputs are empty"),
        (x.long(), y, r"inputs.float\(\)"),
        (x[:, :3], y, "does not take these inputs"),
        (x, y.float(), "the loss fails on outputs"),
        (x, y + 5, "the loss fails on outputs"),
        (x, torch.tensor(1), "leading sample dimension"),
        (x.numpy(), y, "torch.as_tensor"),
    ]
    for inputs, targets, says in cases:
        with pytest.raises(InvalidInputError, match=says):
            problem_from_module(net, inputs, targets, CROSS_ENTROPY)
    with pytest.raises(UnsupportedError, match="complex64"):
        problem_from_module(net, x.to(torch.complex64), y, CROSS_ENTROPY)


def test_integer_inputs_are_fine_for_an_embedding() -> None:
    net = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 3))
    problem = problem_from_module(net, torch.randint(7, (5, 2)), data()[1], CROSS_ENTROPY)
    assert problem.loss(flatten_parameters(net).unsqueeze(0)).shape == (1,)


def test_inputs_by_name_are_passed_by_name() -> None:
    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, *, plus: torch.Tensor, minus: torch.Tensor) -> torch.Tensor:
            return self.head(plus - minus)

    x, y = data()
    net = Difference()
    problem = problem_from_module(net, {"minus": x.flip(0), "plus": x}, y, CROSS_ENTROPY)
    want = CROSS_ENTROPY(net(plus=x, minus=x.flip(0)), y).mean()
    theta = flatten_parameters(net).expand(2, -1)
    torch.testing.assert_close(problem.loss(theta)[1], want.detach())


def test_nets_without_usable_parameters_are_refused() -> None:
    x, y = data()
    with pytest.raises(InvalidInputError, match="Tanh has no trainable parameters"):
        problem_from_module(nn.Tanh(), x, y, CROSS_ENTROPY)
    net = nn.Linear(4, 3)
    torch.nn.init.constant_(net.weight, torch.inf)
    with pytest.raises(InvalidInputError, match="net.weight has 12 values that are not finite"):
        problem_from_module(net, x, y, CROSS_ENTROPY)
    with pytest.raises(InvalidInputError, match="not initialised yet"):
        problem_from_module(nn.LazyLinear(3), x, y, CROSS_ENTROPY)
    mixed = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3).double())
    with pytest.raises(InvalidInputError, match="dtype=torch.float32"):
        problem_from_module(mixed, x, y, CROSS_ENTROPY)
    with pytest.raises(UnsupportedError, match=r"torch.float32 or torch.float64; got torch.int64"):
        problem_from_module(nn.Linear(4, 3), x, y, CROSS_ENTROPY, dtype=torch.int64)
    with pytest.raises(UnsupportedError, match="returns a tuple"):
        problem_from_module(nn.LSTM(4, 3, batch_first=True), *data(2, 4), CROSS_ENTROPY)


def test_a_device_that_is_not_there_and_a_budget_that_is_none_are_refused() -> None:
    net, data = nn.Linear(2, 1), torch.zeros(3, 2)
    loss = nn.MSELoss(reduction="none")
    for device in ("nowhere", "cuda:99"):
        with pytest.raises(InvalidInputError, match=f"the device '{device}' cannot be used"):
            problem_from_module(net, data, torch.zeros(3), loss, device=device)
    with pytest.raises(InvalidInputError, match="'500MB' or '2GB'; got 'much'"):
        problem_from_module(net, data, torch.zeros(3), loss, memory="much")
