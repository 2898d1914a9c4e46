"""How weak errors are measured by coupling: so many paths, forks and step sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sdeverify.base.arguments import whole
from sdeverify.errors import InvalidInputError
from sdeverify.optimizers.optimizer import Optimizer

LEAST = 16
"""Paths, and trunks of forks, at least: fewer do not tell their own standard deviation."""


@dataclass(frozen=True, kw_only=True)
class Coupled:
    """The sizes of a measurement by coupling.

    Args:
        paths: Brownian paths, for D.
        trunks: paths of the Gaussian form from which forks start, for A.
        chains: runs of the optimizer, for what is not smooth.
        substeps: Euler-Maruyama steps in one level-1 step, all on the same path; two or more are
            extrapolated to dt = 0, three or more tell what that leaves. None for three that suit
            the optimizer, see `fitting_substeps`.
        strata: forks of each trunk.
        pairs: of single samples at each fork.
        block_size: replicas in a block, part of the seed's meaning.

    Example:
        >>> sv.Coupled(paths=256).paths
        256
    """

    paths: int = 128
    trunks: int = 32
    chains: int = 1024
    substeps: Sequence[int] | None = None
    strata: int = 2
    pairs: int = 1
    block_size: int = 32

    def __post_init__(self) -> None:
        for name, least in (
            *(("paths", LEAST), ("trunks", LEAST), ("chains", LEAST)),
            *(("strata", 1), ("pairs", 1), ("block_size", 1)),
        ):
            value = getattr(self, name)
            if whole(value, name) < least:
                raise InvalidInputError(f"{name} must be at least {least}; got {value}.")


def fitting_substeps(optimizers: Sequence[Optimizer]) -> tuple[int, ...]:
    """Three step sizes for some rungs of a ladder.

    A form of SGD differs from Euler-Maruyama at its own step by little, so there they should be of
    the finest rung's size: half, once and twice its steps. Those of adaptive optimizers stay near
    the SDE at all levels, and the coarse ones serve.
    """
    finest = max(o.refinement if o.refinement_power == 1 else 1.0 for o in optimizers)
    middle = int(2 ** max(1, round(math.log2(finest))))
    return middle // 2, middle, 2 * middle
