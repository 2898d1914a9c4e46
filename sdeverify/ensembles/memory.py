"""A budget of memory for an ensemble: how many replicas of a block are moved at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sdeverify.base.cutting import COMPILER, ENSEMBLE, LEAST_GRADIENTS, OVERHEAD
from sdeverify.errors import InvalidInputError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.problems.module_problem import ModuleProblem
from sdeverify.problems.problem import Problem
from sdeverify.sdes.sde import GradientSDE


class MemoryPlan(NamedTuple):
    """Replicas that are moved at a time, and bytes for their gradients' temporaries."""

    replicas: int
    gradients: int


@dataclass(frozen=True)
class Footprint:
    """What an ensemble holds, in bytes, apart from its gradients' temporaries.

    Args:
        replica: for each replica that is moved: states, increments and what a step makes of them.
        drawn: for each replica of a block: the numbers that are drawn for the whole block at once.
        compiled: whether the compiler is used.
    """

    replica: int
    drawn: int
    compiled: bool = False

    def plan(self, memory: int | None, block_size: int) -> MemoryPlan:
        """The cut of a block; half of what is free goes to states, the rest to gradients.

        Raises:
            InvalidInputError: not even one replica fits into a given budget.
        """
        budget = ENSEMBLE if memory is None else memory
        kept = OVERHEAD + (COMPILER if self.compiled else 0) + self.drawn * block_size
        free = budget - kept
        fitting = min(block_size, max(0, free) // 2 // max(self.replica, 1))
        if memory is None:
            fitting = max(fitting, 1)
        gradients = free - fitting * self.replica
        if memory is None:
            gradients = max(gradients, ENSEMBLE // 4)
        if fitting < 1 or gradients < LEAST_GRADIENTS:
            least = kept + 2 * max(self.replica, LEAST_GRADIENTS)
            compiler = " and the compiler" if self.compiled else ""
            raise InvalidInputError(
                f"memory={memory:,} bytes are too few here: at least {least:,} are needed for one "
                f"replica beside the draws of a block of {block_size}{compiler}. Give more, or use "
                f"a smaller block_size{' or compiled=False' if self.compiled else ''}."
            )
        return MemoryPlan(fitting, gradients)


STEP = 6
"""Vectors that a step makes of a gradient, apart from the state's own."""
MOMENTS = 8
"""Vectors more where mean and variance are wanted."""
INDEX = 8
"""Bytes of an index, and of a number drawn in double precision."""


def path_footprint(sde: GradientSDE, sizes: Sequence[int], subsample: int) -> Footprint:
    """Of a path: states before and after a step at each step size, and the increments."""
    problem = sde.oracle.problem
    item = problem.dtype.itemsize
    vectors = (2 * len(sizes) + 1) * len(sde.components) + STEP
    vectors += MOMENTS if sde.uses_moments else 0
    columns = subsample or sde.noise_dim
    entry = item + (INDEX if subsample else 0)
    increments = (2 * sizes[-1] + 4) * columns * entry
    replica = vectors * problem.dim * item + increments + _evaluation(problem)
    return Footprint(replica, columns * (entry + INDEX), problem.compiled)


def chain_footprint(oracle: GradientOracle, components: int) -> Footprint:
    """Of a discrete optimizer: its state whole, in groups and in the SDE's coordinates."""
    problem = oracle.problem
    vectors = 6 * components + STEP
    drawn = 2 * INDEX * oracle.noise.numbers(problem)
    replica = vectors * problem.dim * problem.dtype.itemsize + drawn + _evaluation(problem)
    return Footprint(replica, drawn, problem.compiled)


def _evaluation(problem: Problem) -> int:
    """What observables, and problems that do not cut their own work, hold for a replica."""
    item = problem.dtype.itemsize
    losses = 2 * problem.samples * item
    if isinstance(problem, ModuleProblem):
        return losses
    return losses + 4 * problem.samples * problem.dim * item
