"""Where chain and SDE start: a state after some steps of the discrete optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from sdeverify.base.arguments import whole
from sdeverify.base.rng import Block, Streams
from sdeverify.base.shapes import Vector
from sdeverify.base.state import State
from sdeverify.ensembles.steppers.discrete import DiscreteChain
from sdeverify.errors import InvalidInputError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.adaptive import floor_u
from sdeverify.optimizers.optimizer import Optimizer


def warm_up(
    optimizer: Optimizer,
    oracle: GradientOracle,
    theta0: Vector,
    steps: int = 60,
    *,
    seed: int = 0,
) -> State:
    """The state after one discrete run of `steps` steps from torch's own initial state.

    Adam's SDE is singular at t = 0, and RMSprop's and Adam's need u > 0, so both sides of a
    comparison start from here. Coordinates with v = 0 though diag Sigma > 0 start from
    u = diag Sigma(theta).

    Args:
        optimizer, oracle: of the run.
        theta0: the initial parameters, shape `(param,)`.
        steps: steps of the run; 0 is fine for SGD.
        seed: of the run's gradients.

    Raises:
        InvalidInputError: theta0 has another shape, or the run diverged.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> adam, theta0 = sv.Adam(learning_rate=0.01), torch.ones(1).double()
        >>> start = sv.warm_up(adam, oracle, theta0, steps=20)
        >>> start.step, list(start.components)
        (20.0, ['theta', 'm', 'u'])
    """
    problem = oracle.problem
    if tuple(theta0.shape) != (problem.dim,):
        raise InvalidInputError(
            f"theta0 is one parameter vector of shape ({problem.dim},); got {tuple(theta0.shape)}."
        )
    steps, seed = whole(steps, "steps"), whole(seed, "seed")
    if steps < 0:
        raise InvalidInputError(f"steps must be >= 0; got {steps}.")
    theta = theta0.detach().to(dtype=problem.dtype, device=problem.device).reshape(1, -1)
    state = optimizer.to_sde(0, optimizer.init(theta), oracle)
    for reached in iterate_states(optimizer, oracle, state, steps, seed):
        state = reached
    point = State(state.step, **{k: v[0] for k, v in state.components.items()})
    if not all(v.isfinite().all() for v in point.components.values()):
        raise InvalidInputError(
            f"the warm-up of {optimizer.name} diverged within {steps} steps. Use a smaller "
            "learning rate or a larger epsilon."
        )
    return floor_u(point, oracle)[0] if "u" in point.components else point


def iterate_states(
    optimizer: Optimizer, oracle: GradientOracle, start: State, steps: int, seed: int
) -> Iterator[State]:
    """The states of one discrete run after 0, 1, ..., `steps` own steps, for warm-ups."""
    problem = oracle.problem
    streams = Streams(seed, "warm-up", [Block(0, 1)], problem.device, problem.dtype)
    count = [k / optimizer.refinement for k in range(steps + 1)]
    yield from DiscreteChain(optimizer, oracle).run(start.expand(1), count, streams)
