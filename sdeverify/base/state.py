"""The state that chains and paths have in common: the SDE's coordinates at one training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sdeverify.base.arguments import number
from sdeverify.base.shapes import Packed, Tensor
from sdeverify.errors import InvalidInputError

Time = float | Tensor
"""SDE time: a number, or a tensor without dimensions (as torchsde and compiled steps have it)."""
Components = Mapping[str, Tensor]
"""Named parts of a state, each of shape `(replica, param)`: `theta`, and `p`, `m`, `u`, `v`, ..."""


class State:
    """The SDE's coordinates (theta, p | m, u) at `step`, for one point or for an ensemble.

    Args:
        step: level-1 optimizer steps since the beginning of training (real, since a refined
            chain visits fractions of a step).
        components: tensors of shape `(param,)` for a point or `(replica, param)` for an ensemble;
            `theta` is always among them. They are read as attributes: `state.theta`, `state.u`.

    Observables, stores and domains see these coordinates for every chain, level and SDE.

    Example:
        >>> state = sv.State(3, theta=torch.zeros(2, 1), u=torch.ones(2, 1))
        >>> tuple(state.theta.shape), list(state.components)
        ((2, 1), ['theta', 'u'])
    """

    def __init__(self, step: float, **components: Tensor) -> None:
        if "theta" not in components:
            raise InvalidInputError(
                f"a State needs the component 'theta'; got {sorted(components)}. "
                "Pass State(step, theta=...)."
            )
        if len({value.shape for value in components.values()}) != 1:
            shapes = {name: tuple(value.shape) for name, value in components.items()}
            raise InvalidInputError(
                "all components of a State have one shape, (param,) or (replica, param); "
                f"got {shapes}"
            )
        self.step = number(step, "a State's step")
        self.components = dict(components)

    def __getattr__(self, name: str) -> Any:
        components = self.__dict__.get("components", {})
        if name in components:
            return components[name]
        raise AttributeError(
            f"this state has no component '{name}'; it has {', '.join(components) or 'none'}"
        )

    def __repr__(self) -> str:
        shape = tuple(self.components["theta"].shape)
        return f"State(step={self.step:g}, {', '.join(self.components)}; shape {shape})"

    def expand(self, replicas: int) -> State:
        """`replicas` copies of a point: components of shape `(replica, param)`."""
        return State(
            self.step,
            **{k: v.reshape(1, -1).repeat(replicas, 1) for k, v in self.components.items()},
        )


def pack(components: Components, names: tuple[str, ...]) -> Packed:
    """The components side by side, in the order of `names`: torchsde's state `y`."""
    return torch.cat([components[name] for name in names], dim=-1)


def unpack(y: Packed, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The inverse of `pack`; the parts are views of `y`."""
    return dict(zip(names, y.chunk(len(names), dim=-1), strict=True))
