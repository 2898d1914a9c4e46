"""The observables that every training run has: loss, accuracy, gradient norm, noise, parameters."""

from __future__ import annotations

from typing import Any

from sdeverify.ensembles.observables import Observable
from sdeverify.noise.oracle import GradientOracle
from sdeverify.problems.problem import Problem


def loss(problem: Problem) -> Observable:
    """f(theta), the mean loss over the data."""
    return Observable("loss", lambda state: problem.loss(state.theta))


def accuracy(problem: Any) -> Observable:
    """The share of samples classified rightly; not smooth, so outside the theorems."""
    return Observable("accuracy", lambda state: problem.accuracy(state.theta), smooth=False)


def squared_gradient_norm(problem: Problem) -> Observable:
    """|grad f(theta)|^2, smooth where the norm itself is not."""
    return Observable(
        "squared_gradient_norm", lambda state: problem.gradient(state.theta).square().sum(1)
    )


def gradient_norm(problem: Problem) -> Observable:
    """|grad f(theta)|."""
    return Observable("gradient_norm", lambda state: problem.gradient(state.theta).norm(dim=1))


def noise_trace(oracle: GradientOracle) -> Observable:
    """tr Sigma(theta), the noise of a single sample's gradient."""
    return Observable("noise_trace", lambda state: oracle.variance(state.theta).sum(1))


def squared_parameter_norm() -> Observable:
    """|theta|^2."""
    return Observable("squared_parameter_norm", lambda state: state.theta.square().sum(1))


def parameter_norm() -> Observable:
    """|theta|."""
    return Observable("parameter_norm", lambda state: state.theta.norm(dim=1))


def coordinate(index: int, component: str = "theta") -> Observable:
    """One coordinate of a component of the state."""
    name = f"{component}[{index}]"
    return Observable(name, lambda state: getattr(state, component)[:, index])


def mean_of(component: str) -> Observable:
    """The mean over the parameters of a component, `u` say."""
    return Observable(f"mean_{component}", lambda state: getattr(state, component).mean(1))
