"""How costs are measured and shown; what they come to is for `sdeverify bench` to say."""

from __future__ import annotations

import io
import time

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from sdeverify.benchmarks import sections as all_sections
from sdeverify.benchmarks.measuring import Case, Effort, Goal, Section, efforts, interleaved
from sdeverify.benchmarks.nets import CNN, MLP, TRANSFORMER, on_digits, residual_network
from sdeverify.benchmarks.sections import Row, measure, sections
from sdeverify.cli.app import app
from sdeverify.cli.bench import table
from sdeverify.cli.tables import terminal_table

SHORT = Effort(rounds=1, seconds=0.0, quick=True)


def spin(seconds: float) -> None:
    """Takes so much processor time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_works_take_turns_after_one_untimed_turn_each() -> None:
    turns: list[str] = []
    found = interleaved(
        {"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, Effort(rounds=3)
    )
    assert turns == ["a", "b"] * 4
    assert set(found) == {"a", "b"}


def test_the_slower_work_takes_longer_and_time_is_kept() -> None:
    found = interleaved(
        {"short": lambda: spin(0.005), "long": lambda: spin(0.02)},
        Effort(rounds=50, seconds=0.1),
    )
    assert found["long"] > 2 * found["short"] > 0.005


def test_a_change_of_the_machines_speed_changes_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(Effort, "now", lambda effort: clock.seconds)
    works = {"a": lambda: clock.run(1.0), "b": lambda: clock.run(2.0), "c": clock.slow_down}
    found = interleaved(works, Effort(rounds=9, patience=1e9))
    assert found["b"] / found["a"] == pytest.approx(2.0)


class Clock:
    """Time on a machine that is slowed down in turns."""

    seconds, slowness = 0.0, 1.0

    def run(self, work: float) -> None:
        self.seconds += work * self.slowness

    def slow_down(self) -> None:
        self.slowness *= 1.5


def test_waiting_takes_no_processor_time() -> None:
    found = interleaved({"wait": lambda: time.sleep(0.05)}, Effort(rounds=1))
    assert found["wait"] < 0.04


def test_a_first_turn_that_takes_long_is_the_only_one() -> None:
    turns: list[str] = []
    found = interleaved(
        {"a": lambda: turns.append("a") or spin(0.03)}, Effort(rounds=5, patience=0.01)
    )
    assert turns == ["a"]
    assert found["a"] >= 0.03


def test_a_goal_is_met_by_what_is_shown() -> None:
    assert Goal(1.0).met(1.004)
    assert not Goal(1.0).met(1.006)
    assert Goal(9, at_most=False).met(9.0)
    assert not Goal(9, at_most=False).met(8.99)
    assert [str(Goal(1.25)), str(Goal(9, at_most=False))] == ["≤ 1.25", "≥ 9"]


@pytest.mark.parametrize("quick", [True, False])
def test_every_section_has_a_heading_for_each_label_and_goals_for_rows_that_it_has(
    quick: bool,
) -> None:
    for section in sections(efforts(quick, "cpu")):
        assert section.cases
        assert all(len(case.labels) == len(section.headings) for case in section.cases)
        assert set(section.goals) == {case.labels[0] for case in section.cases}
        assert all(set(goals) <= set(section.columns) for goals in section.goals.values())


@pytest.mark.parametrize("number", range(4))
def test_a_row_of_each_section_can_be_measured(number: int) -> None:
    section = sections(SHORT)[number]
    values = section.cases[0].measure()
    assert len(values) == len(section.columns)
    assert all(value is None or value > 0 for value in values)


def test_the_networks_have_the_sizes_that_their_names_say() -> None:
    sizes = {s.name: on_digits(s, 3, "cpu")[0].dim for s in (MLP, CNN, TRANSFORMER)}
    assert sizes == {"MLP 64-64-10": 4810, "CNN 19k": 19_454, "transformer 9k": 9_162}
    assert sum(p.numel() for p in residual_network().parameters()) == 269_722
    assert residual_network(8, 1)(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


def test_the_command_shows_each_value_with_its_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    section = Section(
        "A title", "a unit", ("net",), ("x", "y"), (Case(("small",), lambda: (1.5, None)),),
        {"small": {"x": Goal(2.0)}},
    )  # fmt: skip
    monkeypatch.setattr(all_sections, "step_section", lambda effort: section)
    for name in ("drawing_section", "discrete_section", "growth_section"):
        monkeypatch.setattr(all_sections, name, lambda effort: Section("", "", (), (), (), {}))
    shown = CliRunner().invoke(app, ["bench", "--quick"])
    assert shown.exit_code == 0, shown.output
    assert "1.50 (≤ 2)" in shown.stdout
    assert "small" in shown.stdout
    assert "–" in shown.stdout


def test_a_device_that_is_not_there_is_refused_before_any_work() -> None:
    shown = CliRunner().invoke(app, ["bench", "--device", "nowhere"])
    assert shown.exit_code == 1
    assert "the device 'nowhere' cannot be used" in shown.stderr


def test_progress_is_told_of_every_row() -> None:
    section = Section("t", "u", ("n",), ("x",), tuple(Case((n,), lambda: (1.0,)) for n in "ab"), {})
    told: list[str] = []
    (measured,) = measure([section], told.append)
    assert measured.rows == (Row(("a",), (1.0,)), Row(("b",), (1.0,)))
    assert told == ["t: a", "t: b"]
    console = Console(file=io.StringIO(), width=80)
    console.print(terminal_table(table(section, measured.rows)))
    assert "Unit: u." in console.file.getvalue()  # type: ignore[attr-defined]
