"""The fast forms of second moments against per-sample gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sdeverify.problems.gradients.chain import DenseChain
from sdeverify.problems.gradients.general import General, sums_over_samples
from sdeverify.problems.gradients.layerwise import Layerwise
from sdeverify.problems.gradients.losses import cross_entropy, cross_entropy_signal
from sdeverify.problems.gradients.parameters import flatten_parameters
from sdeverify.problems.gradients.samples import Batch
from sdeverify.problems.module import problem_from_module
from sdeverify.problems.module_problem import ModuleProblem

SAMPLES = 6


class Residual(nn.Module):
    """A net that is no chain: two branches, one of them skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + torch.tanh(self.inner(x)))


class Twice(nn.Module):
    """One layer used twice in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Bypass(nn.Module):
    """Two layers that a chain would call in another order than the net does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x) + torch.nn.functional.linear(x, self.inner.weight[:3])


NETS = {
    "residual": (Residual, (4,)),
    "linear_at_positions": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Flatten(), nn.Linear(10, 3)),
        (2, 4),
    ),
    "dilated_conv": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
            nn.Tanh(),
            nn.Flatten(),
            nn.LazyLinear(3),
        ),
        (2, 6, 5),
    ),
    "group_norm": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.LayerNorm(4), nn.Linear(4, 3),
        ),
        (2, 5, 5),
    ),
    "layer_norm_of_an_image": (
        lambda: nn.Sequential(nn.LayerNorm((3, 4)), nn.Flatten(), nn.Linear(24, 3)),
        (2, 3, 4),
    ),
}  # fmt: skip


def make(name: str) -> tuple[ModuleProblem, torch.Tensor]:
    torch.manual_seed(0)
    build, shape = NETS[name]
    net, x = build(), torch.randn(SAMPLES, *shape)
    net(x[:1])
    problem = problem_from_module(
        net.double(),
        x.double(),
        torch.randint(3, (SAMPLES,)),
        nn.CrossEntropyLoss(reduction="none"),
    )
    theta = flatten_parameters(net) + 0.3 * torch.randn(3, problem.dim).double()
    return problem, theta


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_the_layerwise_sums_equal_those_of_per_sample_gradients(
    name: str, replicas: int, shared: bool
) -> None:
    problem, theta = make(name)
    fast = Layerwise.of(problem.model)
    assert fast is not None and problem.moments_route == "layerwise"
    indices = None if shared else torch.randint(SAMPLES, (replicas, 4))
    batch = problem.data.batch(indices, slice(replicas), slice(SAMPLES))
    n = SAMPLES if shared else 4
    weights = torch.randn(replicas, n).double()
    want = General(problem.model).sums(theta[:replicas], weights, batch)
    got = fast.sums(theta[:replicas], weights, batch)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_embeddings_add_up_repeated_words_and_leave_padding_out() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Embedding(5, 4, padding_idx=1), nn.LayerNorm(4), nn.Flatten(), nn.Linear(12, 3)
    ).double()
    words = torch.tensor([[0, 0, 3], [1, 2, 1], [4, 4, 4], [1, 1, 1]])
    problem = problem_from_module(
        net, words, torch.tensor([0, 1, 2, 0]), nn.CrossEntropyLoss(reduction="none")
    )
    assert problem.moments_route == "layerwise"
    theta = flatten_parameters(net).expand(2, -1)
    weights = torch.randn(2, 4).double()
    moments = problem.weighted_moments(theta, weights)
    each = problem.per_sample_gradients(theta)
    torch.testing.assert_close(moments.second, each.square().mean(1))
    torch.testing.assert_close(moments.weighted, torch.einsum("rn,rnd->rd", weights, each))
    assert bool((moments.second[:, 4:8] == 0).all())


@pytest.mark.parametrize("build", [Twice, Bypass])
def test_a_net_that_a_fast_form_gets_wrong_falls_back(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = build()
    problem = problem_from_module(
        net, torch.randn(5, 4), torch.randint(3, (5,)), nn.CrossEntropyLoss(reduction="none")
    )
    assert Layerwise.of(problem.model) is not None
    assert problem.moments_route == "per sample"
    theta = flatten_parameters(net).expand(2, -1)
    each = problem.per_sample_gradients(theta)
    moments = problem.weighted_moments(theta, torch.ones(2, 5))
    torch.testing.assert_close(moments.second, each.square().mean(1))


def test_nets_without_a_rule_for_every_layer_have_no_layerwise_form() -> None:
    x, y = torch.randn(5, 4, 6), torch.randint(3, (5,))
    net = nn.Sequential(nn.Conv1d(4, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    problem = problem_from_module(net, x, y, nn.CrossEntropyLoss(reduction="none"))
    assert Layerwise.of(problem.model) is None and DenseChain.of(problem.model) is None


def test_the_chain_agrees_with_the_layerwise_form_and_with_autograd() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4), nn.Softplus(), nn.Linear(4, 3))
    problem = problem_from_module(
        net.double(), torch.randn(SAMPLES, 4).double(), torch.randint(3, (SAMPLES,)),
        nn.CrossEntropyLoss(reduction="none"),
    )  # fmt: skip
    theta = flatten_parameters(net) + 0.3 * torch.randn(3, problem.dim).double()
    weights = torch.randn(3, SAMPLES).double()
    batch = problem.data.batch(None, slice(3), slice(SAMPLES))
    chain, layers = DenseChain.of(problem.model), Layerwise.of(problem.model)
    assert chain is not None and layers is not None
    for a, b in zip(
        chain.sums(theta, weights, batch), layers.sums(theta, weights, batch), strict=True
    ):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(
        chain.weighted(theta, weights, batch)[0],
        General(problem.model).weighted(theta, weights, batch)[0],
    )


def test_the_written_out_cross_entropy_is_torch_s() -> None:
    torch.manual_seed(0)
    logits = (20 * torch.randn(50, 7)).double().requires_grad_()
    targets, weights = torch.randint(7, (50,)), torch.randn(50).double()
    want = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, targets), want)
    (signal,) = torch.autograd.grad(weights @ want, logits)
    got = cross_entropy_signal(logits.detach().mT.unsqueeze(0), targets.unsqueeze(0), weights[None])
    torch.testing.assert_close(got[0].mT, signal)


def test_sums_over_samples_are_sums_not_means() -> None:
    each = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    weighted, total, second = sums_over_samples(each.clone(), torch.tensor([2.0, -1.0]))
    assert weighted.tolist() == [-1.0, 8.0]
    assert total.tolist() == [4.0, -2.0]
    assert second.tolist() == [10.0, 20.0]


def test_a_batch_gives_each_replica_its_own_samples() -> None:
    problem, _ = make("residual")
    indices = torch.tensor([[0, 1, 2], [3, 3, 5]])
    batch = problem.data.batch(indices, slice(1, 2), slice(1, 3))
    assert isinstance(batch, Batch) and not batch.shared
    torch.testing.assert_close(batch.of(0).args[0], problem.data.data.args[0][[3, 5]])


@pytest.mark.parametrize("replicas", [1, 3])
def test_moments_do_not_depend_on_whether_gradients_are_recorded(replicas: int) -> None:
    problem, theta = make("residual")
    weights = torch.randn(replicas, SAMPLES).double()
    want = problem.weighted_moments(theta[:replicas], weights)
    with torch.no_grad():
        got = problem.weighted_moments(theta[:replicas], weights)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_per_sample_products_in_small_pieces_give_the_same_sums(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem, theta = make("dilated_conv")
    weights = torch.randn(1, SAMPLES).double()
    want = problem.weighted_moments(theta[:1], weights)
    monkeypatch.setattr("sdeverify.problems.gradients.layers.PRODUCTS", 2 * 8 * 3 * 2 * 3 * 2)
    got = problem.weighted_moments(theta[:1], weights)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
