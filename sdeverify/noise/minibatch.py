"""Mini-batches of a finite sum: with replacement, without, and in shuffled epochs."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from sdeverify.base.arguments import whole
from sdeverify.base.rng import Streams
from sdeverify.base.shapes import Parameters, Tensor
from sdeverify.errors import InvalidInputError
from sdeverify.noise.covariance import Covariance, SampleCovariance
from sdeverify.noise.noise import Atoms, Cumulants, Noise, no_atoms_above
from sdeverify.problems.problem import Problem

MAX_ATOMS = 200_000


class WeightedSamples(NamedTuple):
    """Samples and their weights, for each replica: the gradient is sum_j w_j grad l_(i_j)."""

    indices: Tensor
    weights: Tensor


def check_batch_size(batch_size: int, problem: Problem, replacement: bool) -> None:
    """Refuses an empty batch, and one larger than the data where samples are not put back."""
    if whole(batch_size, "batch_size") < 1:
        raise InvalidInputError(f"batch_size must be a whole number >= 1; got {batch_size}.")
    if not replacement and batch_size > problem.samples:
        raise InvalidInputError(
            f"a batch of {batch_size} without replacement needs as many samples; the problem has "
            f"{problem.samples}. Use a smaller batch_size or replacement=True."
        )


def whole_batch(batch_size: int, kappa: float, samples: float = math.inf) -> int:
    """kappa B.

    Raises:
        InvalidInputError: it is not a whole number, is below 1, or exceeds the samples.
    """
    size = batch_size * kappa
    nearest = round(size)
    if nearest < 1 or abs(size - nearest) > 1e-9 * size:
        raise InvalidInputError(
            f"kappa = {kappa:g} makes a batch of {size:g} out of one of {batch_size}; a batch is a "
            f"whole number of samples, at least 1. Take kappa as a multiple of 1/{batch_size}."
        )
    if nearest > samples:
        raise InvalidInputError(
            f"kappa = {kappa:g} makes a batch of {nearest} out of one of {batch_size}, more than "
            f"the {samples} samples there are. The largest kappa is {samples / batch_size:.6g}."
        )
    return nearest


@dataclass(frozen=True)
class FiniteSumNoise(Noise):
    """What all ways of picking mini-batches share: the sample covariance and weighted batches."""

    batch_size: int

    @property
    def covariance(self) -> Covariance:
        return SampleCovariance()

    def combine(
        self, coefficients: Sequence[float], draws: Sequence[WeightedSamples]
    ) -> WeightedSamples:
        return WeightedSamples(
            torch.cat([d.indices for d in draws], 1),
            torch.cat([c * d.weights for c, d in zip(coefficients, draws, strict=True)], 1),
        )

    def gradient(self, problem: Problem, theta: Parameters, draw: WeightedSamples) -> Parameters:
        return problem.weighted_gradient(theta, draw.weights.to(theta.dtype), draw.indices)

    def gradient_samples(self, problem: Problem) -> int:
        return self.batch_size

    def of_batch(self, kappa: float, problem: Problem) -> FiniteSumNoise:
        size = whole_batch(self.batch_size, kappa, problem.samples)
        return replace(self, batch_size=size)

    def largest_batch_factor(self, problem: Problem) -> float:
        return problem.samples / self.batch_size

    def _equal_weights(self, indices: Tensor) -> WeightedSamples:
        weights = torch.full_like(indices, 1 / self.batch_size, dtype=torch.float64)
        return WeightedSamples(indices, weights)


@dataclass(frozen=True)
class MinibatchNoise(FiniteSumNoise):
    """Batches drawn afresh at each step.

    With replacement sigma^2 = 1/B; without, sigma^2 = (N - B)/(B (N - 1)).

    Args:
        batch_size: B.
        replacement: whether a sample can come twice in one batch.

    Example:
        >>> sv.MinibatchNoise(4).scale(circle_problem())
        0.5
        >>> sv.MinibatchNoise(6, replacement=False).scale(circle_problem())
        0.0
    """

    replacement: bool = True

    def scale(self, problem: Problem) -> float:
        check_batch_size(self.batch_size, problem, self.replacement)
        n, b = problem.samples, self.batch_size
        if self.replacement:
            return 1 / math.sqrt(b)
        return math.sqrt((n - b) / (b * (n - 1))) if n > 1 else 0.0

    def cumulants(self, problem: Problem) -> Cumulants:
        """Of the mean of B samples, exactly (without replacement: Isserlis 1931)."""
        n, b = problem.samples, self.batch_size
        single = MinibatchNoise(1)
        if self.replacement:
            return Cumulants(single, b**-2, b**-3, -3 * b**-3)
        left = n - b
        third = left * (n - 2 * b) / (b**2 * (n - 1) * (n - 2)) if n > 2 else 0.0
        if n > 3:
            share = left / (b**3 * (n - 1) * (n - 2) * (n - 3))
            fourth = share * (n * (n + 1) - 6 * b * left)
            pairs = share * 3 * n * (b - 1) * (left - 1) - 3 * self.scale(problem) ** 4
            return Cumulants(single, third, fourth, pairs)
        # with three samples or fewer a batch is one of them, the rest of one, or all
        size = min(b, left) ** 4 / b**4
        return Cumulants(single, third, size, -3 * self.scale(problem) ** 4)

    def draw(self, problem: Problem, streams: Streams, k: int) -> WeightedSamples:
        check_batch_size(self.batch_size, problem, self.replacement)
        if self.replacement:
            return self._equal_weights(streams.integers(problem.samples, self.batch_size))
        keys = streams.uniform(problem.samples)
        return self._equal_weights(keys.topk(self.batch_size, dim=1).indices)

    def numbers(self, problem: Problem) -> int:
        return self.batch_size if self.replacement else problem.samples

    def describe(self, problem: Problem) -> str:
        how = "with" if self.replacement else "without"
        return (
            f"mini-batches of {self.batch_size} out of {problem.samples} samples, {how} "
            f"replacement (sigma = {self.scale(problem):.6g})"
        )

    def atoms(self, problem: Problem) -> Atoms:
        check_batch_size(self.batch_size, problem, self.replacement)
        n, b = problem.samples, self.batch_size
        count = math.comb(n + b - 1, b) if self.replacement else math.comb(n, b)
        no_atoms_above(MAX_ATOMS, count, self)
        if self.replacement:
            picks, chances = multisets(n, b)
        else:
            picks = list(itertools.combinations(range(n), b))
            chances = [1 / count] * count
        mixing = torch.zeros(count, n, dtype=problem.dtype, device=problem.device)
        rows = torch.arange(count, device=problem.device).unsqueeze(1).expand(-1, b)
        columns = torch.tensor(picks, device=problem.device)
        mixing.index_put_((rows, columns), torch.full_like(mixing[:1, :1], 1 / b), accumulate=True)
        return Atoms(
            torch.tensor(chances, dtype=problem.dtype, device=problem.device),
            lambda theta: torch.einsum("an,pnd->pad", mixing, problem.per_sample_gradients(theta)),
        )


@dataclass(frozen=True)
class ShuffledEpochs(FiniteSumNoise):
    """Each epoch goes once through a fresh permutation of the data, in batches of `batch_size`.

    A last, smaller batch is left out, as a DataLoader with `drop_last=True` does. Its gradients
    are not independent, so no SDE here is derived from it; it is for the discrete side.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.ShuffledEpochs(2))
        >>> loss, theta0 = sv.measures.loss(circle_problem()), torch.ones(1).double()
        >>> chain = sv.simulate(sv.SGD(learning_rate=0.1), oracle, theta0, 3, loss, replicas=8)
        >>> chain["step"].values.tolist()
        [0.0, 1.0, 2.0, 3.0]
    """

    independent_steps = False

    def scale(self, problem: Problem) -> float:
        return MinibatchNoise(self.batch_size, replacement=False).scale(problem)

    def draw(self, problem: Problem, streams: Streams, k: int) -> WeightedSamples:
        check_batch_size(self.batch_size, problem, replacement=False)
        epoch, position = divmod(k, problem.samples // self.batch_size)
        order = streams.at(epoch).uniform(problem.samples).argsort(1)
        first = position * self.batch_size
        return self._equal_weights(order[:, first : first + self.batch_size])

    def describe(self, problem: Problem) -> str:
        return f"shuffled epochs of {problem.samples} samples in batches of {self.batch_size}"


def multisets(samples: int, size: int) -> tuple[list[tuple[int, ...]], list[float]]:
    """All batches drawn with replacement, apart from their order, and their probabilities."""
    picks = list(itertools.combinations_with_replacement(range(samples), size))
    chances = [
        math.factorial(size) / math.prod(map(math.factorial, Counter(p).values())) / samples**size
        for p in picks
    ]
    return picks, chances
