from __future__ import annotations

import math

import pytest
import torch

from sdeverify import (
    SGD,
    Adam,
    GradientFlow,
    GradientOracle,
    MinibatchNoise,
    Optimizer,
    RMSprop,
    SGDMomentum,
    ShuffledEpochs,
    State,
    UnsupportedError,
    derive,
    sdes,
    svag,
)
from sdeverify.base.state import pack

OPTIMIZERS: list[Optimizer] = [
    SGD(learning_rate=0.1, weight_decay=0.01),
    SGDMomentum(learning_rate=0.1, momentum=0.8, weight_decay=0.01),
    RMSprop(learning_rate=0.02, beta=0.95, epsilon=1e-2, weight_decay=0.01),
    Adam(learning_rate=0.02, beta2=0.95, epsilon=1e-2, decoupled_weight_decay=0.1),
]


def state_for(sde: sdes.GradientSDE, theta: torch.Tensor) -> torch.Tensor:
    parts = {name: theta if name == "theta" else theta.abs() + 0.1 for name in sde.components}
    return pack(parts, sde.components)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.name)
def test_dense_diffusion_and_product_agree_and_the_noise_can_be_left_out(
    optimizer: Optimizer, small_oracle: GradientOracle, theta: torch.Tensor
) -> None:
    sde = derive(optimizer, small_oracle)
    y, v = state_for(sde, theta), torch.randn(4, 7, dtype=torch.float64)
    product = torch.einsum("rdm,rm->rd", sde.g(1.0, y), v)
    torch.testing.assert_close(product, sde.g_prod(1.0, y, v))
    flow = GradientFlow.without_noise(sde)
    torch.testing.assert_close(flow.f(1.0, y), sde.f(1.0, y))
    assert not flow.g(1.0, y).any()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.name)
def test_the_sde_has_the_one_step_mean_and_covariance_of_the_optimizer(
    optimizer: Optimizer, small_oracle: GradientOracle
) -> None:
    """Over one step of SVAG at level l, (mean change)/tau -> f and covariance/tau -> g g^T."""
    point = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64)
    sde = derive(optimizer, small_oracle)
    start = State(400, **{c: point if c == "theta" else point.abs() + 0.1 for c in sde.components})
    gaps = []
    for level in (16, 64):
        fine, oracle = svag(optimizer, small_oracle, level)
        k, y = fine.own_step(400), fine.from_sde(start, oracle)
        atoms = oracle.atoms()
        g = atoms.gradients(point)[0]
        wide = {name: value.expand(len(g), -1) for name, value in y.items()}
        after = fine.to_sde(k + 1, fine.step(k, wide, g), oracle)
        change = pack(after.components, sde.components) - pack(start.components, sde.components)
        tau = fine.time_per_step
        mean = torch.einsum("a,ad->d", atoms.weights, change) / tau
        second = torch.einsum("a,ad,ae->de", atoms.weights, change, change) / tau
        covariance = second - tau * torch.outer(mean, mean)
        t = 400 * sde.time_per_level1_step
        y0 = pack(start.components, sde.components)
        diffusion = sde.g(t, y0)[0]
        f = sde.f(t, y0)[0]
        gaps.append(
            [
                float((mean - f).norm() / f.norm()),
                float((covariance - diffusion @ diffusion.mT).norm() / diffusion.square().sum()),
            ]
        )
    assert max(gaps[1]) < 0.05
    for coarse, fine_gap in zip(*gaps, strict=True):
        assert fine_gap < 0.4 * coarse or fine_gap < 1e-10


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.name)
def test_printing_an_sde_explains_it_with_this_runs_numbers(
    optimizer: Optimizer, small_oracle: GradientOracle
) -> None:
    sde = derive(optimizer, small_oracle)
    text = str(sde)
    for word in ("clock", "noise", "claim", "assumptions", "source", "mini-batches of 2 out of 7"):
        assert word in text
    assert f"{sde.time_per_level1_step:.6g} of SDE time" in text
    assert sde._repr_latex_().startswith("$$")


def test_the_second_order_sde_adds_half_the_gradient_of_the_squared_gradient(
    small_oracle: GradientOracle, theta: torch.Tensor
) -> None:
    optimizer = SGD(learning_rate=0.1)
    first = derive(optimizer, small_oracle)
    second = derive(optimizer, small_oracle, sdes.SGDSecondOrder)
    h = 1e-6
    for i in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[i] = h

        def energy(x: torch.Tensor) -> torch.Tensor:
            return small_oracle.mean(x).square().sum(1)

        slope = (energy(theta + shift) - energy(theta - shift)) / (2 * h)
        extra = (second.f(0.0, theta) - first.f(0.0, theta))[:, i]
        torch.testing.assert_close(extra, -0.1 / 4 * slope, rtol=1e-6, atol=1e-8)


def test_keeping_the_signal_adds_the_squared_gradient_over_sigma_squared(
    small_oracle: GradientOracle, theta: torch.Tensor
) -> None:
    optimizer = RMSprop(learning_rate=0.02, beta=0.95, epsilon=1e-2)
    plain, kept = (derive(optimizer, small_oracle, keep_signal=k) for k in (False, True))
    y = state_for(plain, theta)
    c2 = 0.05 / 0.02**2
    wanted = c2 * small_oracle.mean(theta).square() * 2
    torch.testing.assert_close((kept.f(0.0, y) - plain.f(0.0, y))[:, 3:], wanted)


def test_what_no_sde_covers_is_refused_with_the_reason(small_oracle: GradientOracle) -> None:
    problem = small_oracle.problem
    with pytest.raises(UnsupportedError, match="independent"):
        derive(OPTIMIZERS[0], GradientOracle(problem, ShuffledEpochs(2)))
    whole = GradientOracle(problem, MinibatchNoise(7, replacement=False))
    with pytest.raises(UnsupportedError, match="sigma = 0"):
        derive(OPTIMIZERS[2], whole)
    with pytest.raises(UnsupportedError, match="AdamSDE is no SDE of SGD"):
        derive(OPTIMIZERS[0], small_oracle, sdes.AdamSDE)
    with pytest.raises(UnsupportedError, match="second-order"):
        derive(OPTIMIZERS[0], small_oracle, sdes.SGDSecondOrder)


def test_adam_refuses_the_singular_start(small_oracle: GradientOracle, theta: torch.Tensor) -> None:
    sde = derive(OPTIMIZERS[3], small_oracle)
    with pytest.raises(ValueError, match="singular at t = 0"):
        sde.f(0.0, state_for(sde, theta))


def test_param_groups_and_schedules_multiply_the_equation_of_theta(
    small_oracle: GradientOracle, theta: torch.Tensor
) -> None:
    ratio = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)

    def schedule(step: float) -> torch.Tensor:
        return ratio * math.exp(-step / 10)

    plain = SGD(learning_rate=0.1)
    sde = derive(SGD(learning_rate=0.1, learning_rate_ratio=schedule), small_oracle)
    wanted = derive(plain, small_oracle).f(0.0, theta) * ratio * math.exp(-0.5)
    torch.testing.assert_close(sde.f(0.5, theta), wanted)


def test_a_store_knows_the_equations_by_the_names_that_it_always_had(
    small_oracle: GradientOracle,
) -> None:
    models = [derive(optimizer, small_oracle).model for optimizer in OPTIMIZERS[:4]]
    assert models == ["SGDFirstOrder", "SGDMomentum", "RMSprop", "Adam"]


def test_a_function_and_a_class_give_the_same_sde(small_oracle: GradientOracle) -> None:
    of_class = derive(OPTIMIZERS[0], small_oracle, sdes.SGDFirstOrder)
    of_function = derive(
        OPTIMIZERS[0], small_oracle, lambda optimizer, oracle: optimizer.sde(oracle)
    )
    assert of_class == of_function == derive(OPTIMIZERS[0], small_oracle)
