"""What a replica of a chain or of a path holds in memory: upper bounds, checked by the tests."""

from __future__ import annotations

from sdeverify.memory import Footprint
from sdeverify.noise import AmplifiedNoise, MinibatchNoise, Noise
from sdeverify.oracle import GradientOracle
from sdeverify.problems.module_problem import ModuleProblem
from sdeverify.problems.problem import Problem
from sdeverify.steppers.euler_maruyama import EulerMaruyama

STEP = 6
"""Vectors that a step makes of a gradient, apart from the state's own."""
MOMENTS = 8
"""Vectors more where mean and variance are wanted."""
INDEX = 8
"""Bytes of an index, and of a number drawn in double precision."""


def path_footprint(stepper: EulerMaruyama, subsample: int) -> Footprint:
    """Of Euler-Maruyama: states before and after a step at each step size, and the increments."""
    sde, sizes = stepper.sde, stepper.substeps
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
    drawn = 2 * INDEX * _numbers(oracle.noise, problem)
    replica = vectors * problem.dim * problem.dtype.itemsize + drawn + _evaluation(problem)
    return Footprint(replica, drawn, problem.compiled)


def _numbers(noise: Noise, problem: Problem) -> int:
    """How many numbers one gradient's randomness takes, at most."""
    if isinstance(noise, AmplifiedNoise):
        return 2 * _numbers(noise.base, problem)
    if isinstance(noise, MinibatchNoise) and noise.replacement:
        return noise.batch_size
    return max(problem.samples, noise.covariance.dimension(problem))


def _evaluation(problem: Problem) -> int:
    """What observables, and problems that do not cut their own work, hold for a replica."""
    item = problem.dtype.itemsize
    losses = 2 * problem.samples * item
    if isinstance(problem, ModuleProblem):
        return losses
    return losses + 4 * problem.samples * problem.dim * item
