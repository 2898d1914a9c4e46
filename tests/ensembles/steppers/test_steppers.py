from __future__ import annotations

import math

import pytest
import torch

from sdeverify import (
    SGD,
    Adam,
    GaussianNoise,
    GradientOracle,
    InvalidInputError,
    Optimizer,
    RMSprop,
    SGDMomentum,
    State,
    UnsupportedError,
    derive,
)
from sdeverify.base.rng import Block, Streams
from sdeverify.ensembles.steppers.discrete import DiscreteChain
from sdeverify.ensembles.steppers.euler_maruyama import EulerMaruyama
from sdeverify.ensembles.steppers.increments import FullBatch, Subsampled
from sdeverify.ensembles.steppers.torchsde import Sdeint

OPTIMIZERS: list[Optimizer] = [
    SGD(learning_rate=0.1),
    SGDMomentum(learning_rate=0.1, momentum=0.8),
    RMSprop(learning_rate=0.02, beta=0.95, epsilon=1e-2),
    Adam(learning_rate=0.02, beta2=0.95, epsilon=1e-2),
]


def start_of(components: tuple[str, ...], replicas: int) -> State:
    theta = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    return State(20, **{c: theta.abs() if c == "u" else theta for c in components}).expand(replicas)


def streams(replicas: int) -> Streams:
    return Streams(0, "brownian", [Block(0, replicas)])


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.name)
def test_our_loop_and_torchsde_agree_to_rounding_on_the_same_increments(
    optimizer: Optimizer, small_oracle: GradientOracle
) -> None:
    sde = derive(optimizer, small_oracle)
    start = start_of(sde.components, 6)
    theirs = list(Sdeint(sde, (2, 4)).run(start, 5, streams(6)))
    ours = list(EulerMaruyama(sde, (2, 4), FullBatch()).run(start, 5, streams(6)))
    assert len(theirs) == len(ours) == 6
    for these, those in zip(theirs, ours, strict=True):
        for a, b in zip(these, those, strict=True):
            for name in sde.components:
                torch.testing.assert_close(
                    getattr(a, name), getattr(b, name), rtol=1e-12, atol=1e-13
                )


def test_one_step_of_length_eta_is_the_gaussian_surrogates_step(
    small_oracle: GradientOracle,
) -> None:
    optimizer, surrogate = SGD(learning_rate=0.1), small_oracle.gaussian()
    sde, start = derive(optimizer, small_oracle), start_of(("theta",), 6)
    *_, (after,) = EulerMaruyama(sde, (1,), FullBatch()).run(start, 1, streams(6))
    gradient = surrogate.sample(start.theta, surrogate.draw(streams(6), 20))
    discrete = optimizer.step(20, start.components, gradient)
    torch.testing.assert_close(after.theta, discrete["theta"], rtol=1e-13, atol=1e-14)


def test_two_step_sizes_share_one_brownian_path(small_oracle: GradientOracle) -> None:
    """With one fixed point of evaluation the coarse increment is the sum of the fine ones."""
    sde, theta = derive(OPTIMIZERS[0], small_oracle), start_of(("theta",), 5).theta
    for how in (FullBatch(), Subsampled(6)):
        source = streams(5)
        parts = [how.draw(source, sde, 0.05) for _ in range(3)]
        whole = how.evaluate(sde, theta, how.merge(parts)).increment
        summed = sum(how.evaluate(sde, theta, p).increment for p in parts)
        torch.testing.assert_close(whole, summed, rtol=1e-12, atol=1e-14)


def test_the_subsets_step_has_exactly_the_mean_and_covariance_of_the_full_step(
    small_oracle: GradientOracle,
) -> None:
    """Enumerated, not sampled: all ordered pairs of samples, the normals by hand."""
    sde = derive(OPTIMIZERS[2], small_oracle)
    problem, n, dt = small_oracle.problem, 2, 0.3 * 0.02**2
    point = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64)
    g = problem.per_sample_gradients(point)[0]
    spread = sde.intensity**2 * dt - dt**2 / n
    spread *= n / (n - 1)
    mean, second = torch.zeros(3).double(), torch.zeros(3, 3).double()
    estimate = torch.zeros(3).double()
    how = Subsampled(n)
    for i in range(7):
        for j in range(7):
            pair = g[[i, j]]
            centred = pair - pair.mean(0)
            drift = dt * pair.mean(0)
            mean += drift / 49
            second += (torch.outer(drift, drift) + spread * centred.mT @ centred / n) / 49
            weights = torch.full((1, 2), dt / n, dtype=torch.float64)
            values = how.evaluate(
                sde,
                point,
                how.draw(streams(1), sde, dt)._replace(
                    noise=weights, indices=torch.tensor([[i, j]])
                ),
            )
            assert values.variance is not None
            estimate += values.variance[0] / 49
    full = g - g.mean(0)
    covariance = sde.intensity**2 * dt * full.mT @ full / 7
    torch.testing.assert_close(mean, dt * g.mean(0))
    torch.testing.assert_close(second - torch.outer(mean, mean), covariance)
    torch.testing.assert_close(estimate, small_oracle.variance(point)[0])


def test_the_one_gradient_form_has_the_variance_as_its_mean_up_to_dt(
    small_oracle: GradientOracle,
) -> None:
    sde = derive(OPTIMIZERS[2], small_oracle)
    point = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64)
    dt = sde.time_per_level1_step / 4
    nodes = math.sqrt(7) * math.sqrt(dt) * torch.eye(7, dtype=torch.float64)
    both = torch.cat([nodes, -nodes])
    how = FullBatch(one_gradient=True)
    drawn = how.draw(streams(14), sde, dt)._replace(noise=both)
    values = how.evaluate(sde, point.expand(14, -1), drawn)
    assert values.variance is not None
    wanted = small_oracle.variance(point)[0] + (
        dt / sde.intensity**2 * small_oracle.mean(point)[0].square()
    )
    torch.testing.assert_close(values.variance.mean(0), wanted)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.name)
def test_a_chain_does_not_depend_on_how_its_replicas_are_grouped(
    optimizer: Optimizer, small_oracle: GradientOracle
) -> None:
    gaussian = GradientOracle(
        small_oracle.problem, GaussianNoise(torch.eye(3, dtype=torch.float64), 0.3)
    )
    for oracle in (small_oracle, small_oracle.amplified(2.0), gaussian):
        start = start_of(optimizer.sde_components, 7)
        ends = [
            list(DiscreteChain(optimizer, oracle, cache).run(start, [3, 8], streams(7)))
            for cache in (1, 50, 80, 1 << 20)
        ]
        for end in ends[1:]:
            for a, b in zip(ends[0], end, strict=True):
                for name in optimizer.sde_components:
                    torch.testing.assert_close(
                        getattr(a, name), getattr(b, name), rtol=1e-12, atol=0.0
                    )
        assert len(set(ends[0][-1].theta[:, 0].tolist())) == 7


class Frozen(Adam):
    """Its own step, on an optimizer that also has an in-place one."""

    def advance(self, k, y, gradient):
        return dict(y)


def test_a_step_of_one_s_own_is_the_one_that_a_chain_takes(small_oracle: GradientOracle) -> None:
    start = start_of(Adam.sde_components, 3)
    (end,) = DiscreteChain(Frozen(learning_rate=0.1), small_oracle).run(start, [4], streams(3))
    torch.testing.assert_close(end.theta, start.theta)


def test_states_along_a_chain_are_those_of_its_pure_steps(small_oracle: GradientOracle) -> None:
    adam, start = OPTIMIZERS[3], start_of(Adam.sde_components, 3)
    before = start.theta.clone()
    found = list(DiscreteChain(adam, small_oracle).run(start, [1, 2], streams(3)))
    y, draws = adam.from_sde(start, small_oracle), streams(3)
    for k, state in zip((20, 21), found, strict=True):
        y = adam.step(k, y, small_oracle.sample(y["theta"], small_oracle.draw(draws, k)))
        torch.testing.assert_close(state.theta, y["theta"])
        torch.testing.assert_close(state.m, y["m"])
    assert torch.equal(start.theta, before)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.name)
def test_a_path_does_not_depend_on_how_its_replicas_are_grouped(
    optimizer: Optimizer, small_oracle: GradientOracle
) -> None:
    sde = derive(optimizer, small_oracle)
    start = start_of(sde.components, 7)
    for increments in (FullBatch(), FullBatch(one_gradient=True), Subsampled(5)):
        ends = [
            list(EulerMaruyama(sde, (1, 2), increments, cache).run(start, 3, streams(7)))[-1]
            for cache in (1, 50, 80, 1 << 20)
        ]
        for end in ends[1:]:
            for a, b in zip(ends[0], end, strict=True):
                for name in sde.components:
                    torch.testing.assert_close(
                        getattr(a, name), getattr(b, name), rtol=1e-12, atol=0.0
                    )
        assert len(set(ends[0][-1].theta[:, 0].tolist())) == 7


def test_bad_steps_and_subsets_are_refused_before_any_work(small_oracle: GradientOracle) -> None:
    sde = derive(OPTIMIZERS[0], small_oracle)
    for substeps in ((), (0,), (4, 2), (2, 3)):
        with pytest.raises(InvalidInputError, match="substeps"):
            EulerMaruyama(sde, substeps, FullBatch())
    with pytest.raises(InvalidInputError, match="at least 2 samples"):
        EulerMaruyama(sde, (1,), Subsampled(1))
    quiet = derive(
        SGD(learning_rate=10.0), GradientOracle(small_oracle.problem, type(small_oracle.noise)(500))
    )
    with pytest.raises(InvalidInputError, match="noisier than the SDE"):
        EulerMaruyama(quiet, (1,), Subsampled(2))
    gaussian = GradientOracle(small_oracle.problem, GaussianNoise(torch.eye(3).double()))
    with pytest.raises(UnsupportedError, match="finite sum"):
        EulerMaruyama(derive(OPTIMIZERS[0], gaussian), (1,), Subsampled(4))
    kept = derive(OPTIMIZERS[2], small_oracle, keep_signal=True)
    with pytest.raises(UnsupportedError, match="signal"):
        EulerMaruyama(kept, (1,), Subsampled(4))
    with pytest.raises(UnsupportedError, match="signal"):
        EulerMaruyama(kept, (1,), FullBatch(one_gradient=True))
