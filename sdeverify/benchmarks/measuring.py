"""How costs are measured: in one process, in turn, so that only ratios are told."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Effort:
    """How long a case is measured, and where.

    Args:
        rounds: how often each work is timed, at most.
        seconds: no further round begins after so long.
        patience: a first turn that takes so many seconds counts, and is the only one.
        quick: smaller sizes, for a first look.
        device: where the tensors live.
    """

    rounds: int = 999
    seconds: float = 5.0
    patience: float = 15.0
    quick: bool = False
    device: str = "cpu"

    def now(self) -> float:
        """Seconds: processor time on a CPU, which other programs do not change; else real time."""
        if torch.device(self.device).type == "cpu":
            return time.process_time()
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def efforts(quick: bool, device: str) -> Effort:
    """The effort of a quick look, or of a whole measurement."""
    effort = Effort(device=device)
    return replace(effort, rounds=25, seconds=1.0, quick=True) if quick else effort


def interleaved(works: Mapping[str, Work], effort: Effort) -> dict[str, float]:
    """Seconds of each work on one thread, after one turn that does not count.

    The works take turns, and each is compared with the first one of the same turn: the median of
    these ratios, times the first work's median. So a machine whose speed changes from one second to
    the next (a neighbour on the same core, say) changes no ratio.
    """
    untimed = _turn(works, effort)
    if sum(untimed.values()) > effort.patience:
        return untimed
    begin = time.perf_counter()
    turns: list[dict[str, float]] = []
    while len(turns) < effort.rounds:
        turns.append(_turn(works, effort))
        if time.perf_counter() - begin > effort.seconds:
            break
    first = next(iter(works))
    size = statistics.median(turn[first] for turn in turns)
    return {
        name: size * statistics.median(_ratio(turn[name], turn[first]) for turn in turns)
        for name in works
    }


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan


def _turn(works: Mapping[str, Work], effort: Effort) -> dict[str, float]:
    taken = {}
    for name, work in works.items():
        begin = effort.now()
        work()
        taken[name] = effort.now() - begin
    return taken


class Case(NamedTuple):
    """A row of a table: its labels, and what measures its values (None: does not apply)."""

    labels: tuple[str, ...]
    measure: Callable[[], Sequence[float | None]]


class Goal(NamedTuple):
    """What a column is to reach, on some rows of it."""

    limit: float
    at_most: bool = True

    def met(self, value: float) -> bool:
        """Whether a value, as it is shown, reaches the goal."""
        shown = float(figure(value))
        return shown <= self.limit if self.at_most else shown >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}"


@dataclass(frozen=True)
class Section:
    """A table that can be measured row by row.

    Args:
        title: what is measured.
        unit: what a number means.
        headings: of the labels.
        columns: of the values.
        cases: the rows.
        goals: by the first label of the rows that they are for, then by column.
    """

    title: str
    unit: str
    headings: tuple[str, ...]
    columns: tuple[str, ...]
    cases: tuple[Case, ...]
    goals: Mapping[str, Mapping[str, Goal]]

    def goal(self, labels: Sequence[str], column: int) -> Goal | None:
        """The goal of one value, where it has one."""
        return self.goals.get(labels[0], {}).get(self.columns[column])


def figure(value: float) -> str:
    """A ratio with two places below 10, with one above."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
