"""The observables that every training run has: loss, accuracy, gradient norm, noise, parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sdeverify.base.shapes import Tensor
from sdeverify.ensembles.observables import Evaluation, Observable
from sdeverify.noise.oracle import GradientOracle
from sdeverify.problems.problem import Problem, Quantity


def loss(problem: Problem) -> Observable:
    """f(theta), the mean loss over the data.

    Example:
        >>> loss = sv.measures.loss(circle_problem())
        >>> loss.function(sv.State(0, theta=torch.zeros(2, 1).double())).shape
        torch.Size([2])
    """
    return _shared("loss", problem, "loss", lambda loss: loss)


def accuracy(problem: Any) -> Observable:
    """The share of samples classified rightly; not smooth, so outside the theorems.

    Example:
        >>> net, loss = torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss(reduction="none")
        >>> problem = sv.problem_from_module(net, torch.randn(8, 3), torch.tensor([0, 1] * 4), loss)
        >>> accuracy = sv.measures.accuracy(problem)
        >>> accuracy.name, accuracy.smooth
        ('accuracy', False)
    """
    return _shared("accuracy", problem, "accuracy", lambda share: share, smooth=False)


def squared_gradient_norm(problem: Problem) -> Observable:
    """|grad f(theta)|^2, smooth where the norm itself is not.

    Example:
        >>> observable = sv.measures.squared_gradient_norm(circle_problem())
        >>> observable.function(sv.State(0, theta=torch.ones(1, 1).double())).round(decimals=3)
        tensor([0.3610], dtype=torch.float64)
    """
    name = "squared_gradient_norm"
    return _shared(name, problem, "gradient", lambda gradient: gradient.square().sum(1))


def gradient_norm(problem: Problem) -> Observable:
    """|grad f(theta)|.

    Example:
        >>> observable = sv.measures.gradient_norm(circle_problem())
        >>> observable.function(sv.State(0, theta=torch.ones(1, 1).double())).round(decimals=3)
        tensor([0.6010], dtype=torch.float64)
    """
    return _shared("gradient_norm", problem, "gradient", lambda gradient: gradient.norm(dim=1))


def noise_trace(oracle: GradientOracle) -> Observable:
    """tr Sigma(theta), the noise of a single sample's gradient.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> state = sv.State(0, theta=torch.ones(1, 1).double())
        >>> sv.measures.noise_trace(oracle).function(state).round(decimals=3)
        tensor([0.2620], dtype=torch.float64)
    """
    return Observable("noise_trace", lambda state: oracle.variance(state.theta).sum(1))


def squared_parameter_norm() -> Observable:
    """|theta|^2.

    Example:
        >>> state = sv.State(0, theta=torch.tensor([[3.0, 4.0]]))
        >>> sv.measures.squared_parameter_norm().function(state)
        tensor([25.])
    """
    return Observable("squared_parameter_norm", lambda state: state.theta.square().sum(1))


def parameter_norm() -> Observable:
    """|theta|.

    Example:
        >>> state = sv.State(0, theta=torch.tensor([[3.0, 4.0]]))
        >>> sv.measures.parameter_norm().function(state)
        tensor([5.])
    """
    return Observable("parameter_norm", lambda state: state.theta.norm(dim=1))


def coordinate(index: int, component: str = "theta") -> Observable:
    """One coordinate of a component of the state.

    Example:
        >>> state = sv.State(0, theta=torch.tensor([[3.0, 4.0]]))
        >>> sv.measures.coordinate(1).function(state)
        tensor([4.])
    """
    name = f"{component}[{index}]"
    return Observable(name, lambda state: getattr(state, component)[:, index])


def mean_of(component: str) -> Observable:
    """The mean over the parameters of a component, `u` say.

    Example:
        >>> state = sv.State(0, theta=torch.zeros(1, 2), u=torch.tensor([[1.0, 3.0]]))
        >>> sv.measures.mean_of("u").function(state)
        tensor([2.])
    """
    return Observable(f"mean_{component}", lambda state: getattr(state, component).mean(1))


def _shared(
    name: str,
    problem: Problem,
    quantity: Quantity,
    read: Callable[[Tensor], Tensor],
    smooth: bool = True,
) -> Observable:
    """An observable that reads a quantity of a problem, found in one pass with others of it."""
    of = Evaluation(problem, quantity, read)
    return Observable(name, of.of_state, smooth, of)
