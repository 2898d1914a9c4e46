"""What makes a problem's gradient noisy: a scale, a covariance, and how one gradient is drawn."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sdeverify.base.rng import Streams
from sdeverify.base.shapes import Parameters, Tensor
from sdeverify.errors import UnsupportedError
from sdeverify.noise.covariance import Covariance
from sdeverify.problems.problem import Problem


class Atoms(NamedTuple):
    """A finite distribution of the noisy gradient: weights `(atom,)` that sum to 1, and the values.

    `gradients` maps theta `(point, param)` to the gradients `(point, atom, param)`.
    """

    weights: Tensor
    gradients: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cumulants:
    """Cumulants of z = g - grad f by independent v, v' of a noise of gradients grad f + v.

        E z z z = third E v v v,
        E z z z z - 3 E z z z' z' = fourth E v v v v + pairs E v v v' v'    (symmetrised)

    Both are 0 for normal z.
    """

    noise: Noise
    third: float
    fourth: float
    pairs: float

    def scaled(self, third: float, fourth: float) -> Cumulants:
        """Those of a noise whose cumulants are so many times these."""
        return Cumulants(self.noise, third * self.third, fourth * self.fourth, fourth * self.pairs)


class Noise(ABC):
    """g = grad f + sigma z with E z = 0 and cov z = Sigma(theta).

    A *draw* is the randomness of one gradient for each replica, apart from theta: the same draw
    can be evaluated at any theta, and draws can be combined linearly (SVAG's two batches).

    Example:
        >>> noise = sv.MinibatchNoise(4, replacement=False)
        >>> isinstance(noise, sv.Noise), round(noise.scale(circle_problem()), 6)
        (True, 0.316228)
    """

    independent_steps: bool = True
    """Whether gradients of different steps are independent, as an SDE supposes."""

    @property
    def normal(self) -> bool:
        """Whether z is normal, so that the optimizer is its own Gaussian form."""
        return False

    @property
    @abstractmethod
    def covariance(self) -> Covariance:
        """Sigma(theta)."""

    @abstractmethod
    def scale(self, problem: Problem) -> float:
        """sigma."""

    @abstractmethod
    def draw(self, problem: Problem, streams: Streams, k: int) -> Any:
        """The randomness of the gradients of step k, one for each replica of `streams`."""

    @abstractmethod
    def combine(self, coefficients: Sequence[float], draws: Sequence[Any]) -> Any:
        """The draw of sum_j c_j g^(j), for coefficients that sum to 1."""

    def part(self, draw: Any, replicas: slice | Tensor) -> Any:
        """The draw of some of the replicas, for draws that are tensors or named tuples of them.

        `replicas` are a slice, or numbers that may come more than once. A noise with draws of
        another kind writes its own.
        """
        if isinstance(draw, Tensor):
            return draw[replicas]
        return type(draw)(*(self.part(field, replicas) for field in draw))

    @abstractmethod
    def gradient(self, problem: Problem, theta: Parameters, draw: Any) -> Parameters:
        """The noisy gradients of a draw at theta."""

    @abstractmethod
    def describe(self, problem: Problem) -> str:
        """The noise in words, with this run's numbers."""

    def numbers(self, problem: Problem) -> int:
        """How many numbers the draw of one gradient takes, at most; a budget of memory counts them.

        A noise that draws more than a number a sample or a column of F writes its own.
        """
        return max(problem.samples, self.covariance.dimension(problem))

    def gradient_samples(self, problem: Problem) -> int:
        """The samples whose gradients make one noisy gradient; a forecast of time counts them."""
        return problem.samples

    def rescaled(self, factor: float) -> Noise:
        """The same noise with `factor` times the scale sigma.

        Raises:
            UnsupportedError: sigma is not free.
        """
        raise UnsupportedError(
            f"the scale of {type(self).__name__} is fixed, so its noise cannot become {factor:.4g} "
            "times as large. Use GaussianNoise, or write the noise's rescaled(factor)."
        )

    def of_batch(self, kappa: float, problem: Problem) -> Noise:
        """The noise of a batch of kappa B, or with sigma^2/kappa where there is no batch.

        Raises:
            InvalidInputError: kappa B is not a whole number, is below 1, or exceeds the data.
            UnsupportedError: the noise does not say how it changes with a batch.
        """
        raise UnsupportedError(
            f"{type(self).__name__} has no batch size that could be scaled. Use MinibatchNoise or "
            "GaussianNoise, or write the noise's of_batch(kappa, problem)."
        )

    def largest_batch_factor(self, problem: Problem) -> float:
        """The factor kappa at which a batch holds all samples; infinite where there is no batch."""
        return math.inf

    def cumulants(self, problem: Problem) -> Cumulants:
        """Third and fourth cumulants of z, from products of the simplest noise that tells them.

        A finite sum takes single samples, of which a batch is a mean: their products have a far
        smaller variance.
        """
        return Cumulants(self, 1.0, 1.0, -3.0)

    def atoms(self, problem: Problem) -> Atoms:
        """The finite distribution of g, for the exact route.

        Raises:
            UnsupportedError: the noise has no atoms, or more than can be listed.
        """
        raise UnsupportedError(
            f"{type(self).__name__} has no finite list of atoms, so the exact route cannot use it. "
            "Use MinibatchNoise with a small batch of a small finite sum, or GaussianNoise."
        )


def no_atoms_above(limit: int, count: int, noise: Noise) -> None:
    """Refuses a list of atoms that would not fit into memory."""
    if count > limit:
        raise UnsupportedError(
            f"{type(noise).__name__} has {count} atoms here, more than {limit}: the exact route "
            "lists them all. Use fewer samples or a smaller batch."
        )
