"""The order of a net's trainable parameters in one flat vector theta."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from sdeverify.base.shapes import Tensor, Vector
from sdeverify.errors import InvalidInputError


@dataclass(frozen=True)
class ParameterLayout:
    """Which part of theta belongs to which parameter.

    The order is that of `net.named_parameters()`, where a tied weight occurs once; parameters with
    `requires_grad=False` are held fixed and are no part of theta.

    Args:
        live: the net's own trainable parameters by name, kept to recognise them by identity.
        frozen: the net's own parameters that require no gradient.
    """

    live: Mapping[str, nn.Parameter]
    frozen: tuple[nn.Parameter, ...]

    @classmethod
    def of(cls, net: nn.Module) -> ParameterLayout:
        """The layout of `net`."""
        named = dict(net.named_parameters())
        return cls(
            {name: value for name, value in named.items() if value.requires_grad},
            tuple(value for value in named.values() if not value.requires_grad),
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in the order of theta."""
        return tuple(self.live)

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """The parameters' shapes by name."""
        return {name: value.shape for name, value in self.live.items()}

    @cached_property
    def sizes(self) -> list[int]:
        """The parameters' numbers of elements, in order."""
        return [math.prod(shape) for shape in self.shapes.values()]

    @cached_property
    def slices(self) -> dict[str, slice]:
        """The part of theta that each parameter fills, by name."""
        ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes))]
        return {
            name: slice(end - size, end)
            for name, end, size in zip(self.names, ends, self.sizes, strict=True)
        }

    @property
    def dim(self) -> int:
        """The number of trainable parameters."""
        return sum(self.sizes)

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """Views of theta `(..., param)` in the parameters' shapes `(..., *shape)`, by name."""
        pieces = theta.split(self.sizes, -1)
        return {
            name: piece.view((*theta.shape[:-1], *shape))
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def flatten(self, parameters: Mapping[str, Tensor], leading: int = 0) -> Tensor:
        """The inverse of `unflatten`, for tensors with `leading` dimensions before the shape."""
        rows = [parameters[name] for name in self.names]
        return torch.cat([x.reshape(*x.shape[:leading], -1) for x in rows], -1)

    def slices_of(self, parameters: Iterable[nn.Parameter]) -> list[slice]:
        """The part of theta that each of these live parameters fills, found by identity.

        A frozen parameter of the net gets the empty slice.

        Raises:
            InvalidInputError: a parameter does not belong to the net.
        """
        known = {id(p): self.slices[name] for name, p in self.live.items()}
        known |= {id(p): slice(0, 0) for p in self.frozen}
        places = []
        for i, parameter in enumerate(parameters):
            if id(parameter) not in known:
                raise InvalidInputError(
                    f"parameter {i}, of shape {tuple(parameter.shape)}, is not one of the net's "
                    "that the problem was made from. Make the optimizer from net.parameters() of "
                    "that same net object (a copy has other parameters)."
                )
            places.append(known[id(parameter)])
        return places


def flatten_parameters(net: nn.Module) -> Vector:
    """theta0: a copy of the net's trainable parameters as one vector, in the problem's order.

    Example:
        >>> sv.flatten_parameters(torch.nn.Linear(3, 2)).shape
        torch.Size([8])
    """
    layout = ParameterLayout.of(net)
    if not layout.names:
        raise InvalidInputError(NO_PARAMETERS.format(type(net).__name__))
    return layout.flatten({name: p.detach() for name, p in layout.live.items()})


def load_parameters(net: nn.Module, theta: Vector) -> None:
    """Writes theta into the net's trainable parameters, in the problem's order."""
    layout = ParameterLayout.of(net)
    if theta.shape != (layout.dim,):
        raise InvalidInputError(
            f"theta must have shape ({layout.dim},), one number for each trainable parameter of "
            f"{type(net).__name__}; got {tuple(theta.shape)}. Pick one replica: theta[r]."
        )
    with torch.no_grad():
        for name, value in layout.unflatten(theta.detach()).items():
            layout.live[name].copy_(value)


NO_PARAMETERS = (
    "{} has no trainable parameters. Set requires_grad_() on those that the optimizer trains."
)
