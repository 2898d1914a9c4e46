"""Progress bars on the terminal, one a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from sdeverify.ensembles.job import Job


class StudyBars:
    """One bar a study: replicas done, time elapsed and remaining.

    A bar's length counts the work, so that a costly ensemble does not seem to stand still.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.done: Counter[str] = Counter()
        self.total: Counter[str] = Counter()
        self._cost: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bars: Progress | None = None

    @contextmanager
    def begin(self, jobs: Mapping[str, Job], done: Mapping[str, int]) -> Iterator[None]:
        """Shows the bars for as long as the context lasts."""
        self._cost = {name: job.replica_cost for name, job in jobs.items()}
        work: Counter[str] = Counter()
        for name, job in jobs.items():
            self.total[_study(name)] += job.replicas
            work[_study(name)] += round(job.replicas * self._cost[name])
        self._bars = _bars(self.console)
        with self._bars:
            for study, total in work.items():
                self._tasks[study] = self._bars.add_task(study, total=total, replicas="")
            for name, replicas in done.items():
                self.advance(name, replicas)
            yield

    def advance(self, name: str, replicas: int) -> None:
        """So many replicas more of an ensemble are done."""
        study = _study(name)
        self.done[study] += replicas
        if self._bars is not None:
            self._bars.update(
                self._tasks[study],
                advance=replicas * self._cost[name],
                replicas=f"{self.done[study]:,}/{self.total[study]:,} replicas",
            )


def _study(name: str) -> str:
    return name.partition("/")[0]


def _bars(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[replicas]}"),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
    )
