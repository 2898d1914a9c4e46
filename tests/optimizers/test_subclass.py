"""A user's optimizer may be built on one of ours."""

from __future__ import annotations

from dataclasses import dataclass

import torch

import sdeverify as sv
from sdeverify.base.state import Components


@dataclass(frozen=True, kw_only=True)
class HalfStep(sv.Adam):
    """Adam that goes half of its way."""

    def step(self, k: int, y: Components, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
        whole = super().step(k, y, gradient)
        return whole | {"theta": (y["theta"] + whole["theta"]) / 2}


def test_a_step_that_calls_the_step_of_adam_is_taken_in_ensembles_too() -> None:
    ours, half = sv.Adam(learning_rate=0.1), HalfStep(learning_rate=0.1)
    y = ours.init(torch.tensor([[1.0, -2.0]]))
    gradient = torch.tensor([[0.3, 0.1]])
    moved = half.advance(0, {n: v.clone() for n, v in y.items()}, gradient)
    torch.testing.assert_close(
        moved["theta"], (y["theta"] + ours.step(0, y, gradient)["theta"]) / 2
    )
