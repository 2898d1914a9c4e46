"""How weak errors are measured by coupling: so many paths, forks and step sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdeverify.base.arguments import whole
from sdeverify.errors import InvalidInputError

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
            extrapolated to dt = 0, three or more tell what that leaves.
        strata: forks of each trunk.
        pairs: of single samples at each fork.
        block_size: replicas in a block, part of the seed's meaning.
    """

    paths: int = 128
    trunks: int = 32
    chains: int = 1024
    substeps: Sequence[int] = (1, 2, 4)
    strata: int = 2
    pairs: int = 2
    block_size: int = 32

    def __post_init__(self) -> None:
        for name, least in (
            *(("paths", LEAST), ("trunks", LEAST), ("chains", LEAST)),
            *(("strata", 1), ("pairs", 1), ("block_size", 1)),
        ):
            value = getattr(self, name)
            if whole(value, name) < least:
                raise InvalidInputError(f"{name} must be at least {least}; got {value}.")
