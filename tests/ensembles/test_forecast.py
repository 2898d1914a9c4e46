"""Time: said before the work, refused beyond a limit, and shown while it passes."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sdeverify as sv
from sdeverify.base.rng import Block, Blocks
from sdeverify.base.state import State
from sdeverify.ensembles import measures
from sdeverify.ensembles.build import chain_job, path_job
from sdeverify.ensembles.forecast import Forecast, forecast
from sdeverify.ensembles.observables import Observable, measured
from sdeverify.ensembles.options import Run
from sdeverify.ensembles.progress import Line, duration
from sdeverify.problems.problem import FunctionProblem

THETA = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
SGD = sv.SGD(learning_rate=0.1)


def test_work_beyond_the_limit_is_refused_before_it_begins(small_oracle: sv.GradientOracle) -> None:
    observables = [measures.loss(small_oracle.problem)]
    for call in (
        lambda **how: sv.simulate(SGD, small_oracle, THETA, 1000, observables, **how),
        lambda **how: sv.solve(sv.derive(SGD, small_oracle), THETA, 1000, observables, **how),
    ):
        began = time.perf_counter()
        with pytest.raises(sv.InvalidInputError, match=r"would take about .* time_limit=3600 sec"):
            call(replicas=10**9)
        assert time.perf_counter() - began < 30
        with pytest.raises(sv.InvalidInputError, match=r"time_limit=1 .*fewer replicas or steps"):
            call(replicas=10**7, time_limit=1)


def test_a_forecast_counts_what_observables_and_steps_take() -> None:
    """An observable that sleeps 2 ms a call, at 11 steps of 400 blocks: 8.8 s and no less."""
    wide = FunctionProblem(lambda theta: theta.square().sum().expand(8), 50, 8)
    slow = Observable("slow", lambda state: time.sleep(0.002) or state.theta[:, 0])
    oracle = sv.GradientOracle(wide, sv.MinibatchNoise(2))
    start = torch.ones(50, dtype=torch.float64)
    jobs = {
        name: chain_job(SGD, oracle, start, 10, [slow], Run.checked(replicas=replicas))
        for name, replicas in (("one", 51200), ("double", 102400), ("trifle", 128))
    }
    expected = forecast(jobs)
    assert set(expected.observing) == {"one", "double"}
    assert expected.observing["one"] >= 0.002 * 11 * 400
    assert expected.observing["double"] == pytest.approx(2 * expected.observing["one"])
    assert expected.stepping["double"] == pytest.approx(2 * expected.stepping["one"])
    assert expected.stepping["one"] > 0
    assert expected.seconds == pytest.approx(3 * sum(x["one"] for x in (
        expected.stepping, expected.observing
    )))  # fmt: skip


def test_a_forecast_says_what_takes_the_time_and_how_to_go_on() -> None:
    expected = Forecast({"SDE": 7200.0, "flow": 1.0}, {"SDE": 3600.0})
    assert str(expected) == "about 3 hours (SDE 2 hours, observables 60 minutes)"
    with pytest.raises(sv.InvalidInputError, match=r"Do less\. Or give a longer time_limit"):
        expected.check(10000.0, "Do less.")
    expected.check(None, "")
    expected.check(20000.0, "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.25, "0.25 s"),
        (90, "90 s"),
        (150, "2.5 minutes"),
        (115200, "32 hours"),
        (1.5e7, "174 days"),
    ],
)
def test_times_are_told_in_units_that_are_read_easily(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_path_counts_the_gradients_of_all_its_step_sizes(small_oracle: sv.GradientOracle) -> None:
    sde, run = sv.derive(SGD, small_oracle), Run.checked(replicas=4)
    seen = [measures.squared_parameter_norm()]
    whole = path_job(sde, THETA, 5, seen, run, substeps=(2, 4), subsample=0)
    drawn = path_job(sde, THETA, 5, seen, run, substeps=(2, 4), subsample=2)
    samples = small_oracle.problem.samples
    assert whole.replica_cost == 5 * (2 + 4) * samples
    assert drawn.replica_cost == 5 * 2 * 4 * 2


def test_blocks_are_made_as_they_are_needed() -> None:
    blocks = Blocks(10**15 + 3, 128)
    assert len(blocks) == -(-(10**15 + 3) // 128)
    assert blocks[0] == Block(0, 128)
    assert blocks[-1] == Block(len(blocks) - 1, (10**15 + 3) % 128)
    assert [b.size for b in Blocks(10, 4)[1:]] == [4, 2]
    with pytest.raises(IndexError):
        Blocks(10, 4)[3]


class Counting(nn.Module):
    """A linear net that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(4, 3), [0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls[0] += 1
        return self.linear(x)


def test_loss_and_accuracy_take_one_pass_and_keep_their_bits() -> None:
    torch.manual_seed(0)
    net, loss = Counting(), nn.CrossEntropyLoss(reduction="none")
    problem = sv.problem_from_module(net, torch.randn(40, 4), torch.arange(40) % 3, loss)
    theta = problem.reference + 0.3 * torch.randn(5, problem.dim)
    observables = [measures.loss(problem), measures.accuracy(problem)]
    calls = problem.model.net.calls
    calls[0] = 0
    together = measured(observables, State(0, theta=theta))
    assert calls[0] == 1
    apart = np.stack([o(State(0, theta=theta)).double().numpy() for o in observables], -1)
    assert calls[0] == 3
    np.testing.assert_array_equal(together, apart)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_is_written_over_on_a_terminal_and_now_and_then_elsewhere(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    line = Line()
    for done in (0, 1, 2, 4):
        line("SDE", done, 4)
    said = capsys.readouterr().err
    if terminal:
        assert said.split("\r")[2:] == [
            "SDE: 1 of 4, 30 s left\033[K", "SDE: 2 of 4, 20 s left\033[K", "SDE: 4 of 4\n",
        ]  # fmt: skip
    else:
        assert said == "SDE: 0 of 4\nSDE: 2 of 4, 20 s left\nSDE: 4 of 4\n"


def test_what_is_done_at_once_shows_no_line_unless_asked(
    capsys: pytest.CaptureFixture[str], small_oracle: sv.GradientOracle
) -> None:
    def run(**progress: Any) -> str:
        sv.simulate(SGD, small_oracle, THETA, 2, [measures.squared_parameter_norm()], **progress)
        return capsys.readouterr().err

    assert run() == run(progress=False) == run(progress=None) == ""
    assert run(progress=True).endswith("SGD: 1,024 of 1,024\n")
