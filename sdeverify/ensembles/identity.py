"""What an ensemble is of, in numbers: words cannot tell one run from another."""

from __future__ import annotations

import json

import torch

from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.problems.problem import Problem

MANY, SOME = 2048, 64
"""Of more than `MANY` samples `SOME` are taken."""


def identity_of(problem: Problem, start: State) -> str:
    """Numbers, as JSON, in which another problem, other data or another start shows.

        loss      mean l_i, sum_i w_i l_i / N
        gradient  |G| and <G, w> with G = sum_i w_i grad l_i / N
        theta, ...  norm and product with w of each component of the start

    all at the start, with weights w_i = cos i, no two of which are equal. Samples in another order,
    other labels, inputs in other units, an edited loss or activation, a penalty: each moves one.
    Where there are more than `MANY` samples, losses and gradient are those of some from all over
    the data, and inputs and targets themselves are added up.

    Args:
        problem: whose losses and gradients are taken.
        start: a point, shape `(param,)`.
    """
    point = start.expand(1)
    chosen, data = None, {}
    if problem.samples > MANY:
        chosen = torch.linspace(0, problem.samples - 1, SOME, device=point.theta.device)
        chosen = chosen.long().unsqueeze(0)
        sizes = [_sizes(x) for x in problem.arguments()]
        parts = {"inputs": sizes[:-1], "targets": sizes[-1:]}
        data = {k: _size_and_direction(torch.stack(v).sum(0)) for k, v in parts.items() if v}
    losses = problem.losses(point.theta, chosen)
    weights = _weights(losses) / losses.shape[1]
    gradient = problem.weighted_gradient(point.theta, weights, chosen)
    numbers = {
        "loss": [float(losses.double().mean()), float((weights * losses).double().sum())],
        "gradient": _size_and_direction(gradient),
        **data,
        **{name: _size_and_direction(value) for name, value in point.components.items()},
    }
    return json.dumps(numbers)


def _sizes(x: Tensor) -> Tensor:
    """One number a sample, in which each entry counts by its place; few samples at a time."""
    rows = x.reshape(len(x), -1)
    weights = _weights(torch.zeros(rows.shape[1], dtype=torch.float64, device=x.device))[0]
    return torch.cat([part.double() @ weights for part in rows.split(1 << 10)])


def _weights(like: Tensor) -> Tensor:
    index = torch.arange(1, like.shape[-1] + 1, dtype=torch.float64, device=like.device)
    return torch.cos(index).to(like.dtype).unsqueeze(0)


def _size_and_direction(vector: Tensor) -> list[float]:
    wide = vector.double()
    return [float(wide.norm()), float((_weights(wide) * wide).sum())]
