from __future__ import annotations

import pytest
import torch

from sdeverify import (
    AmplifiedNoise,
    FunctionProblem,
    GaussianNoise,
    GaussianSurrogate,
    GradientOracle,
    InvalidInputError,
    MinibatchNoise,
    Noise,
    ShuffledEpochs,
    UnsupportedError,
)
from sdeverify.base.rng import Block, Streams
from sdeverify.noise.amplified import amplification_weights


def sigma_dense(problem: FunctionProblem, theta: torch.Tensor) -> torch.Tensor:
    g = problem.per_sample_gradients(theta)
    centred = g - g.mean(1, keepdim=True)
    return torch.einsum("rnd,rne->rde", centred, centred) / problem.samples


def moments_of_atoms(
    oracle: GradientOracle, theta: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    atoms = oracle.atoms()
    g = atoms.gradients(theta)
    mean = torch.einsum("a,pad->pd", atoms.weights, g)
    centred = g - mean.unsqueeze(1)
    return mean, torch.einsum("a,pad,pae->pde", atoms.weights, centred, centred)


def every_noise() -> list[Noise]:
    factor = torch.tensor([[1.0, 0.2], [0.0, 0.5], [-0.3, 0.1]], dtype=torch.float64)
    return [
        MinibatchNoise(1),
        MinibatchNoise(3),
        MinibatchNoise(3, replacement=False),
        MinibatchNoise(7, replacement=False),
        AmplifiedNoise(MinibatchNoise(2), 1.7),
        AmplifiedNoise(MinibatchNoise(2, replacement=False), 2.0),
        GaussianNoise(factor, sigma=0.7),
        GaussianNoise(torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64), sigma=0.7, nodes=5),
        AmplifiedNoise(GaussianNoise(factor, sigma=0.7, nodes=5), 3.0),
    ]


@pytest.mark.parametrize("noise", every_noise(), ids=lambda n: n.describe(_problem())[:60])
def test_the_atoms_have_the_oracles_mean_and_covariance(
    noise: Noise, small_problem: FunctionProblem, theta: torch.Tensor
) -> None:
    oracle = GradientOracle(small_problem, noise)
    mean, covariance = moments_of_atoms(oracle, theta)
    torch.testing.assert_close(mean, oracle.mean(theta))
    unit = torch.eye(oracle.noise_dim, dtype=torch.float64)
    columns = [oracle.noise_product(theta, e.expand(4, -1)) for e in unit]
    factor = torch.stack(columns, -1)
    wanted = oracle.scale**2 * factor @ factor.mT
    torch.testing.assert_close(covariance, wanted, rtol=1e-9, atol=1e-12)
    diagonal = oracle.scale**2 * oracle.variance(theta)
    torch.testing.assert_close(diagonal, covariance.diagonal(dim1=1, dim2=2), rtol=1e-9, atol=1e-12)


def _problem() -> FunctionProblem:
    return FunctionProblem(lambda theta: theta.sum().expand(7), 3, 7)


def test_the_weighted_gradient_is_the_dense_noise_product(
    small_oracle: GradientOracle, theta: torch.Tensor
) -> None:
    problem = small_oracle.problem
    z = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    g = problem.per_sample_gradients(theta)
    dense = torch.einsum("rnd,rn->rd", g - g.mean(1, keepdim=True), z) / 7**0.5
    torch.testing.assert_close(small_oracle.noise_product(theta, z), dense)
    values = small_oracle.increment(theta, 0.1, 0.5, z, with_variance=True)
    torch.testing.assert_close(values.increment, 0.1 * g.mean(1) + 0.5 * dense)
    wanted = sigma_dense(problem, theta).diagonal(dim1=1, dim2=2)  # type: ignore[arg-type]
    torch.testing.assert_close(values.variance, wanted)


@pytest.mark.parametrize("with_variance", [False, True])
def test_a_diagonal_a_matrix_and_a_function_give_the_same_gaussian_increment(
    small_problem: FunctionProblem, theta: torch.Tensor, with_variance: bool
) -> None:
    sizes = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
    matrix = torch.diag(sizes)
    forms = [
        GaussianNoise(lambda x: matrix.expand(len(x), -1, -1), sigma=0.7, columns=3),
        GaussianNoise(matrix, sigma=0.7),
        GaussianNoise(sizes, sigma=0.7),
    ]
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept = z.clone()
    oracles = [GradientOracle(small_problem, noise) for noise in forms]
    values = [o.increment(theta, 0.1, 0.5, z, with_variance) for o in oracles]
    torch.testing.assert_close(
        values[0].increment, 0.1 * small_problem.gradient(theta) + 0.5 * z * sizes
    )
    for other in values[1:]:
        torch.testing.assert_close(other.increment, values[0].increment)
        assert (other.variance is not None) == with_variance
        if with_variance:
            torch.testing.assert_close(other.variance, sizes.square().expand(4, -1))
            torch.testing.assert_close(other.mean, small_problem.gradient(theta))
    assert torch.equal(z, kept)


def test_the_weights_of_amplification_keep_the_mean_and_raise_the_scale() -> None:
    for a in (1.0, 1.3, 2.0, 5.5):
        r1, r2 = amplification_weights(a)
        assert r1 + r2 == pytest.approx(1, abs=1e-14)
        assert r1**2 + r2**2 == pytest.approx(a**2, rel=1e-14)
    with pytest.raises(InvalidInputError, match="at least 1"):
        amplification_weights(0.9)


def test_drawn_batches_have_the_right_form(small_problem: FunctionProblem) -> None:
    streams = Streams(0, "gradients", [Block(0, 50)])
    without = MinibatchNoise(4, replacement=False).draw(small_problem, streams, 0)
    assert all(len(set(row.tolist())) == 4 for row in without.indices)
    amplified = AmplifiedNoise(MinibatchNoise(4), 2.0).draw(small_problem, streams, 0)
    assert amplified.indices.shape == (50, 8)
    torch.testing.assert_close(amplified.weights.sum(1), torch.ones(50, dtype=torch.float64))


def test_an_epoch_goes_once_through_the_data_and_the_next_is_shuffled_anew(
    small_problem: FunctionProblem,
) -> None:
    noise, streams = ShuffledEpochs(2), Streams(0, "gradients", [Block(0, 20)])
    epochs = [
        torch.cat([noise.draw(small_problem, streams, 3 * e + i).indices for i in range(3)], 1)
        for e in range(2)
    ]
    for rows in epochs:
        assert all(len(set(row.tolist())) == 6 for row in rows)
    assert not torch.equal(*epochs)


def test_sampled_minibatch_gradients_have_the_mean_and_variance_of_the_atoms(
    small_problem: FunctionProblem,
) -> None:
    """Four standard errors in six numbers: a false alarm in 1 of 2,600 seeds; one is fixed."""
    point = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64)
    for noise in (MinibatchNoise(2), GaussianSurrogate(MinibatchNoise(2))):
        oracle = GradientOracle(small_problem, noise)
        streams = Streams(1, "gradients", [Block(0, 20_000)])
        g = oracle.sample(point.expand(20_000, -1), oracle.draw(streams, 0))
        variance = oracle.scale**2 * oracle.variance(point)[0]
        assert ((g.mean(0) - oracle.mean(point)[0]).abs() < 4 * (variance / 20_000).sqrt()).all()
        fourth = (g - g.mean(0)).pow(4).mean(0)
        error = ((fourth - variance**2) / 20_000).sqrt()
        assert ((g.var(0) - variance).abs() < 4 * error).all()


def test_bad_batches_are_refused(small_problem: FunctionProblem) -> None:
    for noise in (MinibatchNoise(0), MinibatchNoise(8, replacement=False)):
        with pytest.raises(InvalidInputError, match=r"batch"):
            noise.scale(small_problem)
    with pytest.raises(InvalidInputError, match="not independent"):
        AmplifiedNoise(ShuffledEpochs(2), 2.0)
    with pytest.raises(UnsupportedError, match="no finite list of atoms"):
        GaussianSurrogate(MinibatchNoise(2)).atoms(small_problem)


def test_what_wraps_a_noise_scales_it_counts_it_and_knows_its_data(
    small_problem: FunctionProblem,
) -> None:
    batches = MinibatchNoise(2)
    amplified, surrogate = AmplifiedNoise(batches, 3.0), GaussianSurrogate(batches)
    assert amplified.of_batch(3, small_problem) == AmplifiedNoise(MinibatchNoise(6), 3.0)
    assert surrogate.of_batch(0.5, small_problem) == GaussianSurrogate(MinibatchNoise(1))
    assert [n.largest_batch_factor(small_problem) for n in (amplified, surrogate)] == [3.5, 3.5]
    assert [n.numbers(small_problem) for n in (batches, amplified, surrogate)] == [2, 4, 7]
    assert MinibatchNoise(2, replacement=False).numbers(small_problem) == 7
    assert GaussianNoise(torch.ones(9)).largest_batch_factor(small_problem) == float("inf")
    assert GaussianNoise(torch.ones(9)).numbers(small_problem) == 9


def test_a_free_scale_is_rescaled_through_what_wraps_it_and_a_fixed_one_is_refused(
    small_problem: FunctionProblem,
) -> None:
    free = GaussianNoise(torch.ones(3), sigma=0.5)
    for noise in (free, AmplifiedNoise(free, 2.0), GaussianSurrogate(free)):
        assert noise.rescaled(4.0).scale(small_problem) == 4 * noise.scale(small_problem)
    with pytest.raises(UnsupportedError, match="MinibatchNoise is fixed.*rescaled"):
        AmplifiedNoise(MinibatchNoise(2), 2.0).rescaled(2.0)
