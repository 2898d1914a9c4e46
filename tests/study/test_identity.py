"""A study is known by its numbers: whatever is edited, old and new blocks are not mixed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sdeverify as sv
from sdeverify.base.shapes import Tensor
from sdeverify.ensembles import measures
from sdeverify.ensembles.options import Run
from sdeverify.sdes import SGDFirstOrder

INPUTS = torch.randn(24, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.arange(24) % 3


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


def penalised(outputs: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(outputs, labels) + 1e-3 * outputs.square().sum(1)


def problem_of(
    inputs: Tensor = INPUTS,
    labels: Tensor = LABELS,
    loss: Any = cross_entropy,
    activation: nn.Module | None = None,
) -> sv.ModuleProblem:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(5, 4), activation or nn.Tanh(), nn.Linear(4, 3)).double()
    return sv.problem_from_module(net, inputs, labels, loss)


THETA = problem_of().reference


def study_of(problem: sv.Problem | None = None, **changes: Any) -> sv.Study:
    problem = problem or problem_of()
    settings: dict[str, Any] = {
        "name": "toy",
        "title": "a toy",
        "optimizer": sv.SGD(learning_rate=0.1),
        "oracle": sv.GradientOracle(problem, sv.MinibatchNoise(4)),
        "start": sv.State(0, theta=THETA),
        "steps": [2, 4],
        "observables": [sv.Observable("size", lambda s: s.theta.square().sum(1))],
        "ladder": sv.SvagLevels([1, 2]),
        "replicas": 128,
    }
    return sv.Study(**{**settings, **changes})


class Leaky(SGDFirstOrder):
    """The SDE of SGD with a drift that was edited in the user's file."""

    pull = 1e-3

    def rest(self, t: Any, y: Any, mean: Any, variance: Any) -> Any:
        return {"theta": -self.pull * y["theta"]}


class Leakier(Leaky):
    pull = 2e-3


Leakier.__name__ = Leaky.__name__


@dataclass(frozen=True, kw_only=True)
class Clipped(sv.SGD):
    """SGD with an edited step, under the same name."""

    def advance(self, k: int, y: Any, gradient: Tensor) -> dict[str, Tensor]:
        return super().advance(k, y, gradient.clamp(-0.3, 0.3))


@dataclass(frozen=True)
class Doubled(sv.MinibatchNoise):
    """Mini-batches that are drawn in another way, under the same description."""

    def draw(self, problem: Any, streams: Any, k: int) -> Any:
        return (
            super()
            .draw(problem, streams, k + 1)
            ._replace(indices=super().draw(problem, streams, k).indices.flip(1).remainder(7))
        )


def halving(step: float) -> float:
    return 0.5 ** (step / 4)


def falling(step: float) -> float:
    return 0.5 ** (step / 4.01)


def decayed(by: float) -> sv.SGD:
    """Weight decay of one size on one parameter or on its neighbour."""
    decay = torch.zeros_like(THETA)
    decay[0], decay[1] = 0.1 + by, 0.2 - by
    return sv.SGD(learning_rate=0.1, weight_decay=decay)


EDITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an observable under the same name": (
        {},
        {"observables": [sv.Observable("size", lambda s: 10 + s.theta.abs().sum(1))]},
    ),
    "an SDE's rest": ({"sde": Leaky.of}, {"sde": Leakier.of}),
    "an optimizer's step": ({}, {"optimizer": Clipped(learning_rate=0.1)}),
    "the noise": ({}, {"oracle": sv.GradientOracle(problem_of(), Doubled(4))}),
    "a schedule": (
        {"optimizer": sv.SGD(learning_rate=0.1, learning_rate_ratio=halving)},
        {"optimizer": sv.SGD(learning_rate=0.1, learning_rate_ratio=falling)},
    ),
    "inputs in other units": ({}, {"problem": problem_of(inputs=INPUTS * 1.0001)}),
    "two labels": ({}, {"problem": problem_of(labels=LABELS[[1, 0, *range(2, 24)]])}),
    "a penalty": ({}, {"problem": problem_of(loss=penalised)}),
    "weight decay of single parameters": ({"optimizer": decayed(0)}, {"optimizer": decayed(0.01)}),
    "an activation": ({}, {"problem": problem_of(activation=nn.Softsign())}),
    "the start, in its seventh digit": ({}, {"start": sv.State(0, theta=THETA * (1 + 1e-5))}),
    "the learning rate, in its eighth digit": ({}, {"optimizer": sv.SGD(learning_rate=0.1 + 1e-6)}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_blocks_of_an_edited_study_are_not_mixed_with_the_old_ones(
    edit: str, tmp_path: Path
) -> None:
    before, after = EDITS[edit]
    sinks = sv.Store(tmp_path).sink
    sv.run(study_of(**before), sinks=sinks)
    with pytest.raises(sv.StoreError, match=r"other settings|does not compute any more"):
        sv.run(study_of(**{**before, **after}), sinks=sinks)
    sv.run(study_of(**before, replicas=256), sinks=sinks)
    with pytest.raises(sv.StoreError, match=r"other settings|does not compute any more"):
        sv.run(study_of(**{**before, **after}, replicas=384), sinks=sinks)


def test_two_studies_of_one_seed_share_no_mini_batches() -> None:
    one, two = (study_of(name=name).jobs()["chain_0"] for name in ("one", "two"))
    again = study_of(name="one").jobs()["chain_0"]
    values = [job.run_block(job.blocks[0]) for job in (one, two, again)]
    assert (values[0][:, 1:] != values[1][:, 1:]).any()
    assert (values[0] == values[2]).all()


def test_the_probe_is_the_first_two_replicas_of_the_first_block() -> None:
    for job in study_of().jobs().values():
        torch.testing.assert_close(
            job.probe(), job.run_block(job.blocks[0])[:2], rtol=1e-12, atol=0
        )


def test_a_sink_of_one_ensemble_refuses_another(tmp_path: Path) -> None:
    study = study_of()
    job = study.jobs()["chain_0"]
    sink = sv.Store(tmp_path).sink("chain", job)
    common = (study.optimizer, study.oracle, study.start, [2, 4], study.observables)
    with pytest.raises(sv.StoreError, match="seed"):
        sv.simulate(*common, replicas=128, seed=5, sink=sink)
    ours = Run.checked(replicas=128, seed=study.seed).named(study.name).seed
    sv.simulate(*common, replicas=128, seed=ours, sink=sink)


def test_measures_of_the_same_study_go_on_where_they_were(tmp_path: Path) -> None:
    sinks = sv.Store(tmp_path).sink
    small = study_of(observables=[measures.squared_parameter_norm()])
    sv.run(small, sinks=sinks)
    grown = sv.run(replace(small, replicas=256), sinks=sinks)
    assert int(grown["toy"]["chain_0"]["block_count"].sum()) == 256
