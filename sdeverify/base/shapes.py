"""Shape annotations.

An alias says what a tensor holds and how it is laid out: replicas come first everywhere. With
jaxtyping installed (as in the tests, where the shapes are checked at every call) these are
jaxtyping's types; without it they are plain `Tensor`, so that the numerical core needs no further
dependency.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:

        class _Unchecked:
            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Bool = Float = Int = _Unchecked

Vector: TypeAlias = Float[Tensor, " param"]
"""One number for each parameter: one point, or one gradient."""
Parameters: TypeAlias = Float[Tensor, "replica param"]
"""The parameters of each replica, or its gradient."""
Packed: TypeAlias = Float[Tensor, "replica packed"]
"""A state's components side by side, as torchsde wants them."""
Normals: TypeAlias = Float[Tensor, "replica noise"]
"""Standard normals, or increments of the Brownian motions."""
Values: TypeAlias = Float[Tensor, " replica"]
"""One number for each replica."""
Indices: TypeAlias = Int[Tensor, "replica n"]
"""Samples that each replica picks."""
Weights: TypeAlias = Float[Tensor, "replica n"]
"""A weight for each of them."""
SampleLosses: TypeAlias = Float[Tensor, "replica n"]
"""The loss of each of them."""
SampleGradients: TypeAlias = Float[Tensor, "replica n param"]
"""The gradient of each of them."""

PerParameter: TypeAlias = float | Tensor
"""A hyperparameter or constant: one number, or one for each parameter, of shape `(param,)`."""

__all__ = [
    "Bool",
    "Float",
    "Indices",
    "Int",
    "Normals",
    "Packed",
    "Parameters",
    "PerParameter",
    "SampleGradients",
    "SampleLosses",
    "Tensor",
    "Values",
    "Vector",
    "Weights",
    "is_set",
]


def is_set(value: PerParameter) -> bool:
    """Whether a hyperparameter is there at all: a number that is not 0, or a vector."""
    return isinstance(value, Tensor) or value != 0
