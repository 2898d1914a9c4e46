"""Observables: the test functions phi in E phi(x_k) - E phi(X_t)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sdeverify.base.shapes import Tensor, Values
from sdeverify.base.state import State
from sdeverify.errors import InvalidInputError


@dataclass(frozen=True)
class Observable:
    """A function of the state in the SDE's coordinates.

    Args:
        name: its name in datasets and reports.
        function: maps a State of an ensemble to one number a replica, shape `(replica,)`.
        smooth: whether the theorems' assumption of smoothness covers it.
    """

    name: str
    function: Callable[[State], Tensor]
    smooth: bool = True

    def __call__(self, state: State) -> Values:
        value = self.function(state)
        if value.shape != state.theta.shape[:1]:
            raise InvalidInputError(
                f"observable '{self.name}' must give one number a replica, shape "
                f"{tuple(state.theta.shape[:1])}; got {tuple(value.shape)}."
            )
        return value
