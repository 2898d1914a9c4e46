"""A user's optimizer may be built on one of ours."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import sdeverify as sv
from sdeverify.base.state import Components
from sdeverify.errors import InvalidInputError, UnsupportedError


@dataclass(frozen=True, kw_only=True)
class HalfStep(sv.Adam):
    """Adam that goes half of its way."""

    def advance(self, k: int, y: Components, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
        theta = y["theta"].clone()
        whole = super().advance(k, y, gradient)
        return whole | {"theta": (theta + whole["theta"]) / 2}


def test_a_rule_that_calls_the_rule_of_adam_is_taken() -> None:
    ours, half = sv.Adam(learning_rate=0.1), HalfStep(learning_rate=0.1)
    y = ours.init(torch.tensor([[1.0, -2.0]]))
    gradient = torch.tensor([[0.3, 0.1]])
    whole = ours.step(0, y, gradient)["theta"]
    torch.testing.assert_close(half.step(0, y, gradient)["theta"], (y["theta"] + whole) / 2)


def test_a_rule_that_ensembles_would_not_take_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="Write the update rule as `advance`"):
        type("Still", (sv.Adam,), {"step": lambda self, k, y, gradient: dict(y)})


OURS = [
    sv.SGD(learning_rate=0.1, weight_decay=0.1),
    sv.SGDMomentum(learning_rate=0.1, momentum=0.9, nesterov=True),
    sv.RMSprop(learning_rate=0.1, beta=0.9),
    sv.RMSprop(learning_rate=0.1, beta=torch.tensor([0.9, 0.8]), old_v=True),
    sv.Adam(learning_rate=0.1, decoupled_weight_decay=0.1),
]


@pytest.mark.parametrize("optimizer", OURS, ids=lambda o: o.title)
def test_a_step_leaves_state_and_gradient_as_they_are(optimizer: sv.Optimizer) -> None:
    y = {name: torch.full((2, 2), 0.5) for name in optimizer.components}
    gradient = torch.tensor([[0.3, 0.1], [-0.2, 0.4]])
    before = gradient.clone()
    optimizer.step(1, y, gradient)
    assert all(bool((value == 0.5).all()) for value in y.values())
    assert torch.equal(gradient, before)


class Nudge(torch.optim.SGD):
    """A torch class of a user's own."""


def test_of_two_classes_that_read_one_group_the_derived_one_is_taken() -> None:
    @dataclass(frozen=True, kw_only=True)
    class First(sv.SGD):
        torch_classes = (Nudge,)

    @dataclass(frozen=True, kw_only=True)
    class Second(First):
        torch_classes = (Nudge,)

    live = Nudge([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    assert type(sv.optimizer_from_torch(live)) is Second

    class Unrelated(sv.SGD):
        torch_classes = (Nudge,)

    with pytest.raises(UnsupportedError, match="read by First, Second, Unrelated, which do not"):
        sv.optimizer_from_torch(live)
