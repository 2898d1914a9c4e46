"""What an ensemble is of shows in its identity, and sides of two runs are not compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import sdeverify as sv
from sdeverify.analysis.datasets.identity import moved
from sdeverify.ensembles import measures
from sdeverify.ensembles.identity import identity_of

INPUTS = torch.randn(24, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.arange(24) % 3


def net(activation: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(2)
    layers = nn.Sequential(nn.Linear(5, 4), activation or nn.Tanh(), nn.Linear(4, 3))
    return layers.double()


def cross_entropy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


def problem(
    inputs: torch.Tensor = INPUTS,
    labels: torch.Tensor = LABELS,
    loss: Callable[..., Any] = cross_entropy,
    activation: nn.Module | None = None,
) -> sv.Problem:
    return sv.problem_from_module(net(activation), inputs, labels, loss)


def smoothed(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, labels, reduction="none", label_smoothing=1e-3)


EDITS: dict[str, dict[str, Any]] = {
    "inputs in other units": {"inputs": INPUTS * 1.001},
    "two labels exchanged": {"labels": LABELS[[1, 0, *range(2, 24)]]},
    "samples in another order": {"inputs": INPUTS.flip(0), "labels": LABELS.flip(0)},
    "an edited loss": {"loss": smoothed},
    "another activation": {"activation": nn.Softsign()},
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_data_or_code_moves_the_identity(edit: str) -> None:
    start = sv.State(0, theta=sv.flatten_parameters(net()))
    before, after = identity_of(problem(), start), identity_of(problem(**EDITS[edit]), start)
    assert moved(before, after, 1e-6)
    assert not moved(before, identity_of(problem(), start), 0.0)


def test_single_precision_is_the_same_run() -> None:
    start = sv.State(0, theta=sv.flatten_parameters(net()))
    single = problem().to(dtype=torch.float32)  # type: ignore[attr-defined]
    rounded = sv.State(0, theta=start.theta.float())
    assert not moved(identity_of(problem(), start), identity_of(single, rounded), 1e-3)


def sides(of: sv.Problem, start: torch.Tensor, seed: int) -> tuple[Any, Any]:
    oracle = sv.GradientOracle(of, sv.MinibatchNoise(4))
    sgd = sv.SGD(learning_rate=0.1)
    observables = [measures.loss(of)]
    chain = sv.simulate(sgd, oracle, start, 2, observables, replicas=8, seed=seed)
    path = sv.solve(sv.derive(sgd, oracle), start, 2, observables, replicas=8, seed=seed)
    return chain, path


@pytest.mark.parametrize(
    ("other", "shift", "words"),
    [({}, 1e-3, "start's parameters"), ({"labels": LABELS.flip(0)}, 0.0, "losses at the start")],
)
def test_sides_of_different_problems_or_starts_are_refused(
    other: dict[str, Any], shift: float, words: str
) -> None:
    start = sv.flatten_parameters(net())
    chain, path = sides(problem(), start, seed=0)
    assert sv.weak_error(chain, path).attrs["identity"] == chain.attrs["identity"]
    _, foreign = sides(problem(**other), start + shift, seed=0)
    with pytest.raises(sv.InvalidInputError, match=f"not of one run.*{words}"):
        sv.weak_error(chain, foreign)


def test_rungs_of_different_starts_make_no_ladder() -> None:
    start = sv.flatten_parameters(net())
    places = ((0, 0.0), (1, 0.1))
    one, two = (sv.weak_error(*sides(problem(), start + by, seed)) for seed, by in places)
    two = two.assign_attrs(time_per_step=0.05)
    with pytest.raises(sv.InvalidInputError, match="not of one run"):
        sv.ladder([one, two], "svag")
