"""The weak order of the integrator in its own step, without sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr

from sdeverify.analysis import estimate_order, ladder
from sdeverify.base.arguments import wholes
from sdeverify.base.shapes import Tensor
from sdeverify.base.state import Components, State
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.steppers.euler_maruyama import EulerMaruyama
from sdeverify.ensembles.steppers.increments import FullBatch, Increments
from sdeverify.errors import InvalidInputError
from sdeverify.exact.spectral.checks import Domain
from sdeverify.exact.spectral.spectral import exact_continuous, exact_difference, exact_discrete
from sdeverify.noise.covariance import GradientValues
from sdeverify.noise.noise import Atoms
from sdeverify.sdes.sde import GradientSDE


def certify_integrator(
    sde: GradientSDE,
    start: State | Tensor,
    steps: int | Sequence[float],
    substeps: int | Sequence[int],
    observables: Sequence[Observable],
    domain: Domain,
    *,
    increments: Increments | None = None,
    nodes: int = 12,
) -> xr.DataTree:
    """E phi(Euler-Maruyama) - E phi(SDE) for several step sizes, and its order, without sampling.

    A step of the integrator is a random map, as a step of an optimizer is: its coded `evaluate` and
    `euler` are called on grid points x the atoms of its increments, and the law is pushed forward.

    Args:
        sde: with up to three state dimensions.
        start, steps, observables, domain: as for `exact_weak_error`.
        substeps: integrator steps in one level-1 step, at least two values, ascending.
        increments: the form of the step; `FullBatch()`, `FullBatch(one_gradient=True)`,
            `Subsampled(n)`.
        nodes: Gauss-Hermite nodes for each normal.

    Returns:
        A tree with `errors` over (rung, step, observable), coarsest first, `order`, and every side.

    Raises:
        InvalidInputError, UnsupportedError: as `exact_weak_error`, or fewer than two step sizes.

    Example:
        >>> from sdeverify.exact import Periodic
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(1))
        >>> cosine = sv.Observable("cos", lambda state: state.theta[:, 0].cos())
        >>> sde, theta0 = sv.derive(sv.SGD(learning_rate=0.2), oracle), torch.ones(1).double()
        >>> domain = {"theta": Periodic()}
        >>> parts = sv.certify_integrator(sde, theta0, [2], [1, 2, 4], [cosine], domain)
        >>> float(parts["order"]["order"][0, -1].round(1))
        1.0
    """
    sizes = wholes(substeps, "substeps")
    if len(sizes) < 2 or sizes != sorted(set(sizes)):
        raise InvalidInputError(
            f"an order needs two or more ascending substeps, e.g. (1, 2, 4); got {substeps!r}."
        )
    form = FullBatch() if increments is None else increments
    oracles = [IntegratorOracle(sde, form, EulerMaruyama(sde, (s,), form).dt, nodes) for s in sizes]
    path = exact_continuous(sde, start, steps, observables, domain)
    sides = [
        exact_discrete(Integrator(sde, s), oracle, start, steps, observables, domain)
        for s, oracle in zip(sizes, oracles, strict=True)
    ]
    each = [exact_difference(side, path) for side in sides]
    along = ladder(each, "integrator", claimed_order=1.0, substeps=sizes)
    named = {f"substeps_{s}": side for s, side in zip(sizes, sides, strict=True)}
    return xr.DataTree.from_dict(
        {"path": path, **named, "errors": along, "order": estimate_order(along)}
    )


@dataclass(frozen=True)
class Integrator:
    """An integrator of an SDE in the shape of an optimizer, as the exact route moves it."""

    sde: GradientSDE
    substeps: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"Euler-Maruyama, {self.substeps} substeps"

    @property
    def sde_components(self) -> Sequence[str]:
        """The state's parts."""
        return self.sde.components

    @property
    def refinement(self) -> float:
        """Integrator steps in one level-1 step."""
        return float(self.substeps)

    @property
    def time_per_step(self) -> float:
        """dt."""
        return self.sde.time_per_level1_step / self.substeps

    @property
    def hyperparameters(self) -> Mapping[str, Any]:
        """The SDE's constants, and the substeps."""
        return {**self.sde.constants, "substeps": self.substeps}

    def own_step(self, step: float) -> int:
        """The number of integrator steps until a level-1 step."""
        own = step * self.substeps
        if own != round(own):
            raise InvalidInputError(f"level-1 steps are whole here; got {step}.")
        return round(own)

    def from_sde(self, state: State, oracle: Any) -> dict[str, Tensor]:
        """The state itself."""
        return {name: state.components[name] for name in self.sde.components}

    def to_sde(self, k: int, y: Components, oracle: Any) -> State:
        """The state itself, on the level-1 axis."""
        return State(k / self.substeps, **y)

    def step(self, k: int, y: Components, gradient: Tensor) -> dict[str, Tensor]:
        """One Euler-Maruyama step; `gradient` holds dG, grad f and diag Sigma side by side."""
        increment, mean, variance = gradient.tensor_split(3, dim=1)
        dt = self.time_per_step
        return self.sde.euler(k * dt, y, dt, GradientValues(increment, mean, variance))


@dataclass(frozen=True)
class IntegratorOracle:
    """The increments of an integrator in the shape of a gradient oracle with atoms."""

    sde: GradientSDE
    increments: Increments
    dt: float
    nodes: int

    @property
    def problem(self) -> Any:
        """The SDE's problem."""
        return self.sde.oracle.problem

    @property
    def dim(self) -> int:
        """The number of parameters."""
        return self.sde.dim

    @property
    def noise(self) -> IntegratorOracle:
        """Itself: it describes its noise."""
        return self

    def describe(self, problem: Any) -> str:
        """For the datasets' attributes."""
        return f"{self.increments} over dt = {self.dt:.6g}, {self.nodes} nodes a normal"

    def atoms(self) -> Atoms:
        """Weights, and (dG, grad f, diag Sigma) at theta: `(point, atom, 3 * param)`."""
        probe = torch.zeros(1, self.dim, dtype=torch.float64)
        weights, _ = self.increments.atoms(self.sde, probe, self.dt, self.nodes)

        def values(theta: Tensor) -> Tensor:
            _, drawn = self.increments.atoms(self.sde, theta, self.dt, self.nodes)
            repeated = theta.repeat_interleave(len(weights), 0)
            evaluation = self.increments.evaluate(self.sde, repeated, drawn)
            zero = torch.zeros_like(evaluation.increment)
            parts = [zero if part is None else part for part in evaluation]
            return torch.cat(parts, 1).reshape(len(theta), len(weights), -1)

        return Atoms(weights, values)
