"""Forms of nets and losses, one by one: the product against plain torch, or the words of a refusal.

Plain torch is the user's own loop: the net itself, `backward()` and `torch.optim`. Where a form is
accepted its gradient, its noise (the diagonal of the covariance of one sample's gradient) and ten
steps of Adam must be the loop's.
"""

from __future__ import annotations

import copy
import functools
import os
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import sdeverify as sv
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.problems.gradients.parameters import flatten_parameters
from sdeverify.problems.gradients.samples import Samples
from sdeverify.problems.module import problem_from_module

N, BATCH, STEPS = 14, 4, 10
CE = nn.CrossEntropyLoss(reduction="none")
CLASSES = torch.arange(N) % 3


class Net(nn.Module):
    """A layer, what a form does to its output, and a head."""

    def __init__(self, middle: Callable[[torch.Tensor], torch.Tensor], *own: nn.Module) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        self.middle, self.own = middle, nn.ModuleList(own)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(self.first(x)))


class Positions(nn.Module):
    """A layer on `(sample, position, feature)`, and a head on the last position."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        y = y[0] if isinstance(y, tuple) else y
        return self.head(y[:, -1])


def written_in_place(x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(len(x), 5, dtype=x.dtype)
    out[:, :3] = x[:, :3].tanh()
    out[:, 3:] = x[:, 3:]
    return out


def branches(x: torch.Tensor) -> torch.Tensor:
    return x.tanh() if not x.isnan().any() else torch.zeros_like(x)


def masked(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[x < 0] = 0.0
    return y


class Swish(torch.autograd.Function):
    """A function in the style of before `setup_context`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, signal: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return signal * (s + x * s * (1 - s))


class Cells(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state: Any = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return (state[0] if isinstance(state, tuple) else state).unsqueeze(1)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lengths = torch.full((len(x),), 2)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


class Physics(nn.Module):
    """A net whose output is a residual with a derivative by its input."""

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.requires_grad_()
        u = self.u(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return slope.sum(1) + u.squeeze(1)


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.tensor(1.5)), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.head(x)


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.activations = self.head(x)
        return self.activations


class OwnFunc(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slope = torch.func.vmap(torch.func.grad(lambda v: self.head(v).tanh().sum()))(x)
        return self.head(x) + slope.sum(1, keepdim=True)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.left(a) * torch.sigmoid(self.right(b))


class Penalised(nn.Module):
    """A penalty as one more column of the outputs, as the refusal of penalties advises."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        penalty = sum(p.abs().sum() for p in self.net.parameters())
        return torch.cat([self.net(x), penalty.expand(len(x), 1)], 1)


def warm(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        net(rows())
    return net


def rows(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(N, *(shape or (4,)), generator=generator)


def words() -> torch.Tensor:
    return torch.randint(1, 6, (N, 3), generator=torch.Generator().manual_seed(5))


def text(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3))


def residual(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 6, 1, stride=2),
        nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


def ctc(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    n, length, _ = outputs.shape
    lengths = torch.full((n,), length), torch.full((n,), targets.shape[1])
    logs = outputs.log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(logs, targets, *lengths, reduction="none")


@dataclass(frozen=True)
class Form:
    """A net, its data and its loss; `loop` is what the user's own loop takes the gradient of."""

    net: Callable[[], nn.Module]
    inputs: Any = None
    targets: torch.Tensor = None  # type: ignore[assignment]
    loss: Any = CE
    loop: Any = None
    slow: bool = False

    def data(self) -> tuple[Any, torch.Tensor]:
        inputs = rows() if self.inputs is None else self.inputs
        return inputs, CLASSES if self.targets is None else self.targets


ACCEPTED: dict[str, Form] = {
    "linear": Form(lambda: nn.Linear(4, 3)),
    "chain": Form(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))),
    "in-place activation": Form(
        lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    ),
    "PReLU": Form(lambda: nn.Sequential(nn.Linear(4, 5), nn.PReLU(), nn.Linear(5, 3))),
    "convolution": Form(lambda: residual(8), rows(2, 4, 4)),
    "narrow strided 1 x 1 convolution": Form(lambda: residual(4), rows(2, 4, 4)),
    "batch norm in eval mode": Form(
        lambda: warm(
            nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
        ).eval()
    ),
    "layer norm": Form(lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3))),
    "dropout in eval mode": Form(
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3)).eval()
    ),
    "transformer": Form(
        lambda: Positions(nn.TransformerEncoderLayer(5, 1, 6, dropout=0.0, batch_first=True)),
        rows(2, 5),
    ),
    "LSTM": Form(lambda: Positions(nn.LSTM(4, 5, batch_first=True)), rows(2, 4)),
    "GRU": Form(lambda: Positions(nn.GRU(4, 5, batch_first=True)), rows(2, 4)),
    "LSTMCell": Form(lambda: Positions(Cells(nn.LSTMCell(4, 5))), rows(2, 4)),
    "GRUCell": Form(lambda: Positions(Cells(nn.GRUCell(4, 5))), rows(2, 4)),
    "packed sequence": Form(lambda: Positions(Packed()), rows(2, 4), slow=True),
    "embedding": Form(lambda: text(nn.Embedding(6, 4)), words()),
    "sparse embedding": Form(lambda: text(nn.Embedding(6, 4, sparse=True)), words()),
    "embedding bag": Form(lambda: nn.EmbeddingBag(6, 3, mode="sum"), words()),
    "writes into zeros": Form(lambda: Net(written_in_place), slow=True),
    "mask assignment": Form(lambda: Net(masked), slow=True),
    "branches on data": Form(lambda: Net(branches), slow=True),
    "old autograd function": Form(lambda: Net(Swish.apply), slow=True),
    "checkpoint": Form(
        lambda: Net(lambda x: checkpoint(torch.tanh, x, use_reentrant=False)), slow=True
    ),
    "reentrant checkpoint": Form(
        lambda: Net(lambda x: checkpoint(torch.tanh, x, use_reentrant=True)), slow=True
    ),
    "derivative by the input": Form(
        Physics, None, rows()[:, 0], lambda o, t: (o - t).square(), slow=True
    ),
    "torch.func inside": Form(OwnFunc),
    "TorchScript": Form(
        lambda: traced(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))), slow=True
    ),
    "DataParallel": Form(lambda: nn.DataParallel(nn.Linear(4, 3))),
    "scalar parameter": Form(Scalar),
    "cached activation": Form(lambda: warm_with_graph(Cached())),
    "weight norm": Form(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))),
    "weight norm of before parametrizations": Form(lambda: old_weight_norm(nn.Linear(4, 3))),
    "two inputs": Form(TwoInputs, (rows(), rows().flip(0))),
    "frozen layer": Form(lambda: frozen()),
    "double precision": Form(lambda: nn.Linear(4, 3).double(), rows().double()),
    "squared error": Form(
        lambda: nn.Linear(4, 2), None, rows(2),
        lambda o, t: nn.MSELoss(reduction="none")(o, t).flatten(1).mean(1), nn.MSELoss(),
    ),
    "squared error of one output": Form(
        lambda: nn.Linear(4, 1), None, rows(1),
        lambda o, t: (o - t).square().squeeze(1), nn.MSELoss(),
    ),
    "one logit": Form(
        lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), None, (CLASSES > 0).float(),
        nn.BCEWithLogitsLoss(reduction="none"), nn.BCEWithLogitsLoss(),
    ),
    "Poisson": Form(
        lambda: nn.Linear(4, 1), None, (CLASSES.float()).unsqueeze(1),
        lambda o, t: nn.PoissonNLLLoss(reduction="none")(o, t).squeeze(1), nn.PoissonNLLLoss(),
    ),
    "KLDiv as advised": Form(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1)), None, rows(3).softmax(1),
        lambda o, t: nn.KLDivLoss(reduction="none")(o, t).flatten(1).sum(1),
        nn.KLDivLoss(reduction="batchmean"),
    ),
    "sum as advised": Form(
        lambda: nn.Linear(4, 3), loss=lambda o, t: BATCH * CE(o, t),
        loop=nn.CrossEntropyLoss(reduction="sum"),
    ),
    "class weights, normalised as advised": Form(
        lambda: nn.Linear(4, 3),
        loss=lambda o, t: CE_WEIGHTED(o, t) / WEIGHT[CLASSES].mean(),
        loop=lambda o, t: (CE_WEIGHTED(o, t) / WEIGHT[CLASSES].mean()).mean(),
    ),
    "label smoothing": Form(
        lambda: nn.Linear(4, 3),
        loss=nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1),
        loop=nn.CrossEntropyLoss(label_smoothing=0.1),
    ),
    "soft targets": Form(
        lambda: nn.Linear(4, 3), None, rows(3).softmax(1), CE, nn.CrossEntropyLoss()
    ),
    "a partial function": Form(
        lambda: nn.Linear(4, 3), loss=functools.partial(F.cross_entropy, reduction="none"),
        loop=F.cross_entropy,
    ),
    "tokens": Form(
        lambda: nn.Linear(4, 3), rows(2, 4), torch.stack([CLASSES, CLASSES.flip(0)], 1),
        lambda o, t: CE(o.mT, t).mean(1), lambda o, t: F.cross_entropy(o.mT, t),
    ),
    "uint8 classes": Form(lambda: nn.Linear(4, 3), None, CLASSES.to(torch.uint8)),
    "CTC": Form(
        lambda: nn.Linear(4, 4), rows(5, 4), 1 + torch.stack([CLASSES, (CLASSES + 1) % 3], 1), ctc
    ),
    "a penalty as a column": Form(
        Penalised, loss=lambda o, t: CE(o[:, :-1], t) + 0.05 * o[:, -1],
        loop=lambda o, t: F.cross_entropy(o[:, :-1], t) + 0.05 * o[0, -1],
    ),
}  # fmt: skip

WEIGHT = torch.tensor([1.0, 3.0, 0.5])
CE_WEIGHTED = nn.CrossEntropyLoss(weight=WEIGHT, reduction="none")


def warm_with_graph(net: nn.Module) -> nn.Module:
    net(rows())
    return net


def traced(net: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(net, rows())


def old_weight_norm(net: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(net)


def frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    net[0].requires_grad_(False)
    return net


def pick(inputs: Any, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    every = inputs if isinstance(inputs, tuple) else (inputs,)
    return tuple(x[batch].clone() for x in every)


def loop_gradient(
    form: Form, net: nn.Module, batch: torch.Tensor, keep: bool = False
) -> torch.Tensor:
    """The gradient of the user's own loss of a batch, by `backward()` on the net."""
    inputs, targets = form.data()
    net.zero_grad()
    values = (form.loop or (lambda o, t: form.loss(o, t).mean()))(
        net(*pick(inputs, batch)), targets[batch]
    )
    values.backward()
    parts = []
    for p in net.parameters():
        if p.requires_grad:
            grad = torch.zeros_like(p) if p.grad is None else p.grad.to_dense()
            parts.append(grad.reshape(-1))
            p.grad = grad
    return torch.cat(parts).clone()


@pytest.mark.parametrize("name", ACCEPTED)
def test_gradient_noise_and_ten_steps_are_those_of_the_user_s_own_loop(name: str) -> None:
    form = ACCEPTED[name]
    torch.manual_seed(0)
    net = form.net()
    if any(isinstance(m, nn.LazyLinear) for m in net.modules()):
        net(form.data()[0][:1])
    inputs, targets = form.data()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        problem = problem_from_module(net, inputs, targets, form.loss)
    told = [str(w.message) for w in caught if "torch.func does not take" in str(w.message)]
    assert ("loop" in (problem.gradient_route, problem.moments_route)) == bool(told)
    if form.slow:
        assert told
    assert problem.gradient_route in repr(problem)
    close = functools.partial(torch.testing.assert_close, rtol=2e-4, atol=2e-6)
    theta = flatten_parameters(net).repeat(2, 1)
    everything = torch.arange(N)

    scale = BATCH if name == "sum as advised" else 1
    per_batch = scale / N if name == "sum as advised" else 1.0
    close(problem.gradient(theta)[1], loop_gradient(form, net, everything) * per_batch)
    each = torch.stack([loop_gradient(form, net, everything[i : i + 1]) for i in range(N)])
    noise = sv.GradientOracle(problem, sv.MinibatchNoise(BATCH)).variance(theta)
    close(noise[1], scale**2 * each.var(0, correction=0))

    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 1e-2, eps=1e-3)
    ours = sv.optimizer_from_torch(optimizer, problem)
    y = ours.init(theta[:1])
    generator = torch.Generator().manual_seed(6)
    for k in range(STEPS):
        batch = torch.randint(N, (BATCH,), generator=generator)
        weights = torch.full((1, BATCH), 1 / BATCH, dtype=theta.dtype)
        gradient = problem.weighted_gradient(y["theta"], weights, batch.unsqueeze(0))
        loop_gradient(form, net, batch)
        y = ours.step(k, y, gradient)
        optimizer.step()
    torch.testing.assert_close(y["theta"][0], flatten_parameters(net), rtol=1e-3, atol=1e-4)


class StochasticDepth(nn.Module):
    def __init__(self, drop: float) -> None:
        super().__init__()
        self.drop, self.body, self.head = drop, nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x if random.random() < self.drop else x + self.body(x))


class OwnGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seed, self.head = 0, nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seed += 1
        generator = torch.Generator().manual_seed(self.seed)
        return self.head(x + torch.randn(x.shape, generator=generator))


class BackwardOfBatch(nn.Module):
    """Losses of one sample each, but gradients that are divided by the batch's size."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(x)
        small = y / len(x)
        return small + (y - small).detach()


NET = functools.partial(nn.Linear, 4, 3)
PENALISED = NET()
IGNORED = torch.where(torch.arange(N) == 3, -100, CLASSES)
TOKENS = torch.stack([CLASSES, IGNORED], 1)
ALIKE = torch.cat([torch.zeros(5, 4), rows()[5:]])


def with_penalty(o: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return CE(o, t) + 0.05 * sum(p.square().sum() for p in PENALISED.parameters())


REFUSED: dict[str, tuple[Form, str]] = {
    "mean": (Form(NET, loss=nn.CrossEntropyLoss()), 'Use reduction="none", as in nn.CrossEntropy'),
    "mean of squares": (
        Form(NET, targets=rows(3), loss=nn.MSELoss()), r"flatten\(1\).mean\(1\)"
    ),
    "batchmean": (
        Form(lambda: nn.Sequential(NET(), nn.LogSoftmax(1)), None, rows(3).softmax(1),
             nn.KLDivLoss(reduction="batchmean")),
        r"flatten\(1\).sum\(1\)",
    ),
    "sum": (Form(NET, loss=nn.CrossEntropyLoss(reduction="sum")), r"batch_size \* each"),
    "class weights": (Form(NET, loss=nn.CrossEntropyLoss(weight=WEIGHT)), "is no mean over samp"),
    "class weights of log-probabilities": (
        Form(lambda: nn.Sequential(NET(), nn.LogSoftmax(1)), loss=nn.NLLLoss(weight=WEIGHT)),
        "constant in the divisor's place",
    ),
    "class weights in a function": (
        Form(NET, loss=lambda o, t: F.cross_entropy(o, t, weight=WEIGHT)), "is no mean over samp"
    ),
    "ignored labels": (Form(NET, None, IGNORED, nn.CrossEntropyLoss()), "targets that are not ign"),
    "ignored tokens": (
        Form(NET, rows(2, 4), TOKENS, lambda o, t: F.cross_entropy(o.mT, t)), "is no mean over sam"
    ),
    "ignored tokens, one by one": (
        Form(lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Conv1d(2, 3, 1)), None, TOKENS, CE),
        "is no mean over samples",
    ),
    "a penalty on the net": (Form(lambda: PENALISED, loss=with_penalty), r"weight_decay=2 \* c"),
    "a trainable tensor elsewhere": (
        Form(NET, loss=lambda o, t: CE(o, t) * ELSEWHERE.exp()), "trainable tensors besides"
    ),
    "(N, 1) against (N,)": (
        Form(lambda: nn.Linear(4, 1), None, rows()[:, 0], nn.MSELoss()), r"targets.unsqueeze\(1\)"
    ),
    "(N, 1) against (N,), one by one": (
        Form(lambda: nn.Linear(4, 1), None, rows()[:, 0], nn.MSELoss(reduction="none")),
        r"targets.unsqueeze\(1\)",
    ),
    "(N, 1) against (N,), averaged": (
        Form(lambda: nn.Linear(4, 1), None, rows()[:, 0],
             lambda o, t: F.mse_loss(o, t, reduction="none").mean(1)),
        r"ties the samples .* targets.unsqueeze\(1\)",
    ),
    "a float": (Form(NET, loss=lambda o, t: float(CE(o, t).mean())), "returns a float"),
    "no gradient": (Form(NET, loss=lambda o, t: CE(o.detach(), t)), "has no gradient"),
    "a bad label further on": (
        Form(NET, None, torch.where(torch.arange(N) == 9, 7, CLASSES)), "Sample 9 is the first"
    ),
    "log of 0 further on": (
        Form(lambda: nn.Sequential(NET(), nn.ReLU()),
             torch.where(torch.arange(N)[:, None] == 9, -1e3 * torch.ones(N, 4), rows().abs() + 1),
             loss=lambda o, t: -(o.sum(1)).log()),
        "is inf at the net's parameters",
    ),
    "stochastic depth": (Form(lambda: StochasticDepth(0.5)), "draws random numbers"),
    "rare stochastic depth": (Form(lambda: StochasticDepth(0.001)), "draws random numbers"),
    "a generator of its own": (Form(OwnGenerator), "other losses when it is called again"),
    "samples that see each other, the first alike": (
        Form(lambda: nn.Sequential(Centred(), NET()), ALIKE), "the net ties the samples"
    ),
    "a backward pass that sees the batch": (Form(BackwardOfBatch), "backward pass"),
    "squeeze without a dimension": (
        Form(lambda: Squeezed(), None, rows()[:, 0].sigmoid(), nn.BCELoss(reduction="none")),
        r"squeeze\(1\)",
    ),
    "embedding with max_norm": (
        Form(lambda: text(nn.Embedding(6, 4, max_norm=1.0)), words()), "net.0: .* max_norm"
    ),
    "embedding scaled by frequency": (
        Form(lambda: text(nn.Embedding(6, 4, scale_grad_by_freq=True)), words()),
        "net.0: .* scale_grad_by_freq",
    ),
    "many batch norms": (
        Form(lambda: nn.Sequential(*(nn.BatchNorm1d(4) for _ in range(21)), NET())),
        "net.0, net.1, net.2 and 18 more: BatchNorm1d in train mode",
    ),
    "a DataLoader": (
        Form(NET, DataLoader(TensorDataset(rows(), CLASSES))), "got DataLoader. All samples"
    ),
    "a lock in the net": (Form(lambda: Locked()), "cannot be copied.*locks"),
}  # fmt: skip
ELSEWHERE = torch.zeros((), requires_grad=True)


class Centred(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x).sigmoid().squeeze()


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.lock = nn.Linear(4, 3), threading.Lock()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_mean_over_samples_is_refused_with_what_to_do(name: str) -> None:
    form, words_of_it = REFUSED[name]
    torch.manual_seed(0)
    net = form.net()
    if any(isinstance(m, nn.LazyLinear) for m in net.modules()):
        net(form.data()[0][:1])
    before = torch.get_rng_state()
    with pytest.raises((UnsupportedError, InvalidInputError), match=words_of_it):
        problem_from_module(net, *form.data(), form.loss)
    assert torch.equal(before, torch.get_rng_state())


def test_weight_decay_in_place_of_a_penalty_is_the_loop_with_the_penalty() -> None:
    """What the refusal of a penalty advises, over ten steps of Adam."""
    net = copy.deepcopy(PENALISED)
    problem = problem_from_module(net, rows(), CLASSES, CE)
    decayed = torch.optim.Adam(net.parameters(), 1e-2, eps=1e-3, weight_decay=0.1)
    ours = sv.optimizer_from_torch(decayed, problem)
    y = ours.init(flatten_parameters(net).unsqueeze(0))
    loop = torch.optim.Adam(net.parameters(), 1e-2, eps=1e-3)
    for k in range(STEPS):
        y = ours.step(k, y, problem.gradient(y["theta"]))
        loop.zero_grad()
        penalty = 0.05 * sum(p.square().sum() for p in net.parameters())
        (F.cross_entropy(net(rows()), CLASSES) + penalty).backward()
        loop.step()
    torch.testing.assert_close(y["theta"][0], flatten_parameters(net), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("outputs", "targets", "loss"),
    [
        (1, CLASSES.clamp(max=1), lambda o, t: F.mse_loss(o.squeeze(1), t * 1.0, reduction="none")),
        (3, CLASSES + 1, lambda o, t: CE(o, t - 1)),
        (3, IGNORED, nn.CrossEntropyLoss(reduction="none")),
        (3, CLASSES, nn.CrossEntropyLoss(reduction="none", ignore_index=1)),
    ],
    ids=["one output", "counts", "ignored labels", "an ignored class"],
)
def test_accuracy_is_not_offered_where_the_largest_output_is_not_the_class(
    outputs: int, targets: torch.Tensor, loss: Any
) -> None:
    net = nn.Linear(4, outputs)
    problem = problem_from_module(net, rows(), targets, loss)
    with pytest.raises(UnsupportedError, match="Observable of your own"):
        problem.accuracy(flatten_parameters(net).unsqueeze(0))


def test_a_second_derivative_that_a_net_lacks_is_refused_in_a_sentence() -> None:
    net = Net(lambda x: checkpoint(torch.tanh, x, use_reentrant=True))
    with pytest.warns(UserWarning, match="replica by replica"):
        problem = problem_from_module(net, rows(), CLASSES, CE)
    with pytest.raises(UnsupportedError, match="differentiated twice"):
        problem.squared_gradient_drift(flatten_parameters(net).unsqueeze(0))


def test_second_derivatives_by_a_loop_are_the_usual_ones() -> None:
    net = Net(masked)
    with pytest.warns(UserWarning, match="replica by replica"):
        problem = problem_from_module(net.double(), rows().double(), CLASSES, CE)
    usual = problem_from_module(Net(torch.relu).double(), rows().double(), CLASSES, CE)
    theta = flatten_parameters(net).unsqueeze(0)
    torch.testing.assert_close(
        problem.squared_gradient_drift(theta), usual.squared_gradient_drift(theta)
    )


def test_the_user_s_net_is_left_as_it_was() -> None:
    net = Net(branches)
    before = flatten_parameters(net)
    with pytest.warns(UserWarning, match="replica by replica"):
        problem = problem_from_module(net, rows(), CLASSES, CE)
    problem.gradient(before.unsqueeze(0) + 1)
    assert torch.equal(flatten_parameters(net), before)
    assert all(p.grad is None for p in net.parameters())


class ResidualBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.shortcut = nn.Conv2d(4, 8, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.shortcut(x) + self.second(torch.relu(self.first(x))))


NARROW = """
import torch
from test_forms import ResidualBlock
from torch import nn
import sdeverify as sv
torch.set_num_threads({threads})
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), ResidualBlock(), nn.AdaptiveAvgPool2d(1),
                    nn.Flatten(), nn.Linear(8, 3))
x, y = torch.randn(64, 3, 32, 32), torch.arange(64) % 3
loss = nn.CrossEntropyLoss(reduction="none")
loss(net(x), y).mean().backward()
want = torch.cat([p.grad.flatten() for p in net.parameters()])
problem = sv.problem_from_module(net, x, y, loss)
got = problem.gradient(sv.flatten_parameters(net).unsqueeze(0))[0]
torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_narrow_strided_convolutions_are_right_on_avx2(threads: int) -> None:
    """oneDNN crashes, hangs or is wrong there where weights have their channels last."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", NARROW.format(threads=threads)],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": path},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()[-500:]


def test_a_net_that_torch_compiles_is_taken_as_the_net_itself() -> None:
    net = nn.Linear(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what torch imports
        compiled = torch.compile(net)
    problem = problem_from_module(compiled, rows(), CLASSES, CE)
    theta = flatten_parameters(net).unsqueeze(0)
    want = loop_gradient(Form(NET), net, torch.arange(N))
    torch.testing.assert_close(problem.gradient(theta)[0], want)
    assert problem.slices_of(net.parameters()) == [slice(0, 12), slice(12, 15)]


def test_samples_of_the_trial_hold_the_extremes_and_come_from_all_over_the_data() -> None:
    inputs, targets = torch.zeros(100, 2), torch.arange(100) // 20
    inputs[37], targets[61] = 5.0, 9
    chosen = Samples.of(inputs, targets).spread(12).tolist()
    assert {0, 37, 61, 99} <= set(chosen) and len(chosen) == len(set(chosen)) <= 12
    assert {int(targets[i]) for i in chosen} >= {0, 4, 9}


@pytest.mark.parametrize("kind", [tuple, list])
def test_several_inputs_come_as_a_tuple_or_a_list(kind: type) -> None:
    net = TwoInputs()
    problem = problem_from_module(net, kind([rows(), rows()]), CLASSES, CE)
    assert problem.gradient(flatten_parameters(net).unsqueeze(0)).shape == (1, 30)
