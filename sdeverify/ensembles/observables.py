"""Observables: the test functions phi in E phi(x_k) - E phi(X_t)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sdeverify.base.shapes import Tensor, Values
from sdeverify.base.state import State
from sdeverify.errors import InvalidInputError
from sdeverify.problems.problem import Problem, Quantity


class Evaluation(NamedTuple):
    """What is read from a quantity of a problem over all its samples."""

    problem: Problem
    quantity: Quantity
    read: Callable[[Tensor], Tensor]

    def of_state(self, state: State) -> Tensor:
        """The same as a function of a state."""
        return self.read(self.problem.evaluate(state.theta, [self.quantity])[self.quantity])


@dataclass(frozen=True)
class Observable:
    """A function of the state in the SDE's coordinates.

    Args:
        name: its name in datasets and reports.
        function: maps a State of an ensemble to one number a replica, shape `(replica,)`.
        smooth: whether the theorems' assumption of smoothness covers it.
        of: the same as read from a problem's quantity; all those of a problem share its pass over
            the data.

    Example:
        >>> square = sv.Observable("square", lambda state: state.theta.square().sum(1))
        >>> square.function(sv.State(0, theta=torch.tensor([[1.0, 2.0], [0.0, 3.0]])))
        tensor([5., 9.])
    """

    name: str
    function: Callable[[State], Tensor]
    smooth: bool = True
    of: Evaluation | None = None

    def __call__(self, state: State) -> Values:
        before = {part: value._version for part, value in state.components.items()}
        value: Any = self.function(state)
        for part, version in before.items():
            if state.components[part]._version != version:
                raise InvalidInputError(
                    f"observable '{self.name}' writes into the state's {part}, which the others "
                    f"read as well. Let it work on a copy, state.{part}.clone()."
                )
        return self.checked(value, state)

    def checked(self, value: Any, state: State) -> Values:
        """A value at a state, refused where it is not one number a replica."""
        wanted = state.theta.shape[:1]
        if not isinstance(value, Tensor) or value.shape != wanted:
            got = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
            raise InvalidInputError(
                f"observable '{self.name}' must give one number a replica, a tensor of shape "
                f"{tuple(wanted)}; got {got}."
            )
        if value.is_complex():
            raise InvalidInputError(
                f"observable '{self.name}' must give real numbers; got {value.dtype}. Take the "
                "real and the imaginary part as two observables."
            )
        return value


def measured(observables: Sequence[Observable], state: State) -> NDArray[np.float64]:
    """All observables at a state, `(replica, observable)`."""
    values = _values(observables, state)
    columns = [value.detach().to("cpu", torch.float64).numpy() for value in values]
    return np.stack(columns, axis=-1)


def _values(observables: Sequence[Observable], state: State) -> list[Values]:
    """Each observable's values, with one pass over the data of each problem."""
    read = [o.of for o in observables if o.of is not None]
    problems = {id(one.problem): one.problem for one in read}
    passes = {
        key: problem.evaluate(state.theta, [o.quantity for o in read if o.problem is problem])
        for key, problem in problems.items()
    }
    return [
        o(state)
        if o.of is None
        else o.checked(o.of.read(passes[id(o.of.problem)][o.of.quantity]), state)
        for o in observables
    ]


def checked_observables(observables: Any) -> list[Observable]:
    """The observables as a list; a single one as a list of itself.

    Raises:
        InvalidInputError: none, two of one name, or something that is no observable.
    """
    if isinstance(observables, Observable):
        return [observables]
    listed: Any = [observables] if isinstance(observables, str) else observables
    if not isinstance(listed, Sequence):
        raise InvalidInputError(f"observables are a list; got {observables!r}.")
    for one in listed:
        if not isinstance(one, Observable):
            raise InvalidInputError(f"each of the observables is an Observable; {_remedy(one)}")
    names = [observable.name for observable in listed]
    if not names or len(set(names)) != len(names):
        raise InvalidInputError(f"observables need different names, at least one; got {names}.")
    return list(listed)


def _remedy(one: object) -> str:
    if isinstance(one, str):
        return f"got the text {one!r}. Use one of sv.measures, sv.measures.loss(problem) say."
    if callable(one):
        return "got a function. Give it a name: sv.Observable('name', function)."
    return f"got {one!r}. Use one of sv.measures, or sv.Observable(name, function)."
