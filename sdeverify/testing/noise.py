"""The check of a noise."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from scipy import stats

from sdeverify.base.rng import Block, Streams
from sdeverify.base.shapes import Tensor
from sdeverify.errors import SdeverifyError, UnsupportedError
from sdeverify.noise import Noise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.problems.problem import Problem
from sdeverify.testing.require import require, same, toy_problem

DRAWS = 40_000
FALSE_ALARM = 1e-6
"""How often a correct noise is refused, over all comparisons and over seeds."""


def check_noise(noise: Noise, problem: Problem | None = None, seed: int = 0) -> None:
    """Raises where a noise's draws or atoms do not have the mean and covariance that it declares.

    Checked: `F F^T`, `diag Sigma` and `increment` agree; atoms have the mean grad f and the
    covariance sigma^2 Sigma to rounding; `draws` do within sampling error (40,000 draws at two
    points, wrong alarm with probability 1e-6); draws are reproducible, do not depend on which
    blocks are drawn together, combine linearly and can be split; another scale or batch, where the
    noise has one, keeps Sigma.

    Args:
        noise: that is checked.
        problem: by default four losses on the torus.
        seed: of the draws.

    Example:
        >>> sv.testing.check_noise(sv.MinibatchNoise(2))
    """
    oracle = GradientOracle(toy_problem() if problem is None else problem, noise)
    points = torch.linspace(-1.3, 1.7, 2 * oracle.dim, dtype=oracle.problem.dtype)
    points = points.reshape(2, oracle.dim).to(oracle.problem.device)
    _check_covariance(oracle, points)
    _check_atoms(oracle, points)
    _check_draws(oracle, points, seed)
    _check_scales(oracle, points)


def _check_covariance(oracle: GradientOracle, points: Tensor) -> None:
    name = type(oracle.noise).__name__
    factor = _factor(oracle, points)
    mean, variance = oracle.mean_and_variance(points)
    same(mean, oracle.mean(points), f"the mean of {name} and the gradient of the problem")
    same(variance, factor.square().sum(-1), f"diag Sigma of {name} and the diagonal of F F^T")
    dW = torch.linspace(-1, 1, 2 * oracle.noise_dim, dtype=points.dtype).reshape(2, -1).to(points)
    moved = oracle.increment(points, 0.3, 0.7, dW, with_variance=True)
    want = 0.3 * mean + 0.7 * oracle.noise_product(points, dW)
    same(moved.increment, want, f"the increment of {name} and (grad f) dt + s F dW")
    for got, what, value in (
        (moved.mean, "grad f", mean),
        (moved.variance, "diag Sigma", variance),
    ):
        require(got is not None, f"{name}'s increment with_variance=True gives no {what}.")
        if got is not None:
            same(got, value, f"{what} of {name}'s increment and of mean_and_variance")


def _factor(oracle: GradientOracle, points: Tensor) -> Tensor:
    eye = torch.eye(oracle.noise_dim, dtype=points.dtype, device=points.device)
    columns = [oracle.noise_product(points, unit.expand(len(points), -1)) for unit in eye]
    return torch.stack(columns, -1)


def _check_atoms(oracle: GradientOracle, points: Tensor) -> None:
    name = type(oracle.noise).__name__
    try:
        weights, gradients = oracle.atoms()
    except UnsupportedError:
        return
    g = gradients(points)
    same(weights.sum(), torch.ones_like(weights[0]), f"the sum of the weights of {name}'s atoms")
    mean = torch.einsum("a,pad->pd", weights, g)
    same(mean, oracle.mean(points), f"the mean of {name}'s atoms and grad f")
    centred = g - mean.unsqueeze(1)
    covariance = torch.einsum("a,pad,pae->pde", weights, centred, centred)
    factor = _factor(oracle, points)
    want = oracle.scale**2 * factor @ factor.mT
    same(covariance, want, f"the covariance of {name}'s atoms and sigma^2 F F^T")


def _check_draws(oracle: GradientOracle, points: Tensor, seed: int) -> None:
    name, problem = type(oracle.noise).__name__, oracle.problem
    blocks = [Block(0, 3), Block(1, 2)]

    def drawn(*blocks: Block) -> Any:
        return oracle.draw(Streams(seed, "check", blocks, problem.device, problem.dtype), 0)

    many = points[:1].expand(5, -1)
    both = oracle.sample(many, drawn(*blocks))
    same(oracle.sample(many, drawn(*blocks)), both, f"two draws of {name} with one seed")
    apart = [oracle.sample(many[: b.size], drawn(b)) for b in blocks]
    same(torch.cat(apart), both, f"draws of {name} of two blocks, apart and together")
    some = slice(1, 4)
    part = oracle.sample(many[some], oracle.noise.part(drawn(*blocks), some))
    same(part, both[some], f"a part of a draw of {name} and the same replicas of the whole")
    streams = Streams(seed, "pair", [Block(0, 5)], problem.device, problem.dtype)
    pair = [oracle.draw(streams, k) for k in (0, 1)]
    mixed = oracle.sample(many, oracle.noise.combine((1.7, -0.7), pair))
    want = 1.7 * oracle.sample(many, pair[0]) - 0.7 * oracle.sample(many, pair[1])
    same(mixed, want, f"a combined draw of {name} and the combination of its gradients")
    for point in points:
        draw = oracle.draw(
            Streams(seed, "law", [Block(0, DRAWS)], problem.device, problem.dtype), 0
        )
        _check_law(oracle, point.expand(DRAWS, -1), draw, name)


def _check_scales(oracle: GradientOracle, points: Tensor) -> None:
    """Three times the scale, and the double batch, of a noise that has them."""
    name, noise, factor = type(oracle.noise).__name__, oracle.noise, _factor(oracle, points)
    with suppress(SdeverifyError):
        louder = replace(oracle, noise=noise.rescaled(3.0))
        same(torch.tensor(louder.scale), torch.tensor(3 * oracle.scale), f"the scale of {name} x 3")
        same(_factor(louder, points), factor, f"F of {name} and of the same noise rescaled")
    with suppress(SdeverifyError):
        larger = replace(oracle, noise=noise.of_batch(2, oracle.problem))
        require(
            0 <= larger.scale < oracle.scale or oracle.scale == 0,
            f"the scale of {name} goes from {oracle.scale:.5g} to {larger.scale:.5g} with the "
            "double batch; it must fall.",
        )
        same(_factor(larger, points), factor, f"F of {name} and of the double batch")


def _check_law(oracle: GradientOracle, theta: Tensor, draw: Any, name: str) -> None:
    """Mean and covariance of many draws within their sampling error, by a Bonferroni bound."""
    g = oracle.sample(theta, draw) - oracle.mean(theta[:1])
    factor = _factor(oracle, theta[:1])[0]
    covariance = oracle.scale**2 * factor @ factor.mT
    d = oracle.dim
    values = torch.cat([g, (g.unsqueeze(2) * g.unsqueeze(1)).flatten(1)], 1)
    want = torch.cat([torch.zeros(d).to(g), covariance.flatten()])
    limit = float(stats.norm.isf(FALSE_ALARM / (4 * len(want))))
    error = values.mean(0) - want
    standard_error = values.std(0) / DRAWS**0.5 + 1e-12
    z = (error / standard_error).abs()
    worst = int(z.argmax())
    what = "mean" if worst < d else "covariance"
    require(
        float(z[worst]) <= limit,
        f"the {what} of {DRAWS} draws of {name} is {float(values.mean(0)[worst]):.5g} "
        f"where {float(want[worst]):.5g} is declared: {float(z[worst]):.1f} standard errors.",
    )
