"""What an ensemble is of, in numbers: words cannot tell one run from another."""

from __future__ import annotations

import json

import torch

from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.problems.problem import Problem


def identity_of(problem: Problem, start: State) -> str:
    """Numbers, as JSON, in which another problem, other data or another start shows.

        loss      mean l_i, sum_i w_i l_i / N
        gradient  |G| and <G, w> with G = sum_i w_i grad l_i / N
        theta, ...  norm and product with w of each component of the start

    all at the start, with weights w_i = cos i, no two of which are equal. Samples in another order,
    other labels, inputs in other units, an edited loss or activation, a penalty: each moves one.

    Args:
        problem: whose losses and gradients are taken, over all its samples.
        start: a point, shape `(param,)`.
    """
    point = start.expand(1)
    losses = problem.losses(point.theta)
    weights = _weights(losses) / problem.samples
    gradient = problem.weighted_gradient(point.theta, weights)
    numbers = {
        "loss": [float(losses.double().mean()), float((weights * losses).double().sum())],
        "gradient": _size_and_direction(gradient),
        **{name: _size_and_direction(value) for name, value in point.components.items()},
    }
    return json.dumps(numbers)


def _weights(like: Tensor) -> Tensor:
    index = torch.arange(1, like.shape[-1] + 1, dtype=torch.float64, device=like.device)
    return torch.cos(index).to(like.dtype).unsqueeze(0)


def _size_and_direction(vector: Tensor) -> list[float]:
    wide = vector.double()
    return [float(wide.norm()), float((_weights(wide) * wide).sum())]
