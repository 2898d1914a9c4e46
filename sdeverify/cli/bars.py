"""Progress bars on the terminal: one look for every command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from sdeverify.ensembles.job import Job
    from sdeverify.ensembles.progress import Progress


WORTH_SAYING = 10.0
"""Seconds from which the time is said before the work."""


def bars(*more: ProgressColumn) -> Bars:
    """Bars on stderr with what is counted beside them."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[counted]}"),
        TimeElapsedColumn(),
        *more,
    )
    return Bars(*columns, console=Console(stderr=True))


@contextmanager
def study_bars(jobs: Mapping[str, Job]) -> Iterator[Progress]:
    """The time that all of it takes, then one bar a study: replicas done, time gone and left.

    A bar's length counts the work, so that a costly ensemble does not seem to stand still.
    """
    from rich.progress import TimeRemainingColumn

    from sdeverify.ensembles.forecast import forecast

    expected = forecast(jobs)
    if expected.seconds > WORTH_SAYING:
        Console(stderr=True).print(f"From the beginning: about {expected.time} on one core.")

    work: Counter[str] = Counter()
    replicas: Counter[str] = Counter()
    for name, job in jobs.items():
        work[_study(name)] += round(job.replicas * job.replica_cost)
        replicas[_study(name)] += job.replicas
    done: dict[str, int] = {}

    def advance(name: str, count: int, total: int) -> None:
        done[name] = count
        study = _study(name)
        own = {other: n for other, n in done.items() if _study(other) == study}
        shown.update(
            tasks[study],
            completed=sum(n * jobs[other].replica_cost for other, n in own.items()),
            counted=f"{sum(own.values()):,}/{replicas[study]:,} replicas",
        )

    with bars(TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("left")) as shown:
        tasks = {
            study: shown.add_task(study, total=total, counted="") for study, total in work.items()
        }
        yield advance


@contextmanager
def counting_bars() -> Iterator[Progress]:
    """One bar a name that is reported: how many of how many are done."""
    with bars() as shown:
        tasks = {}

        def advance(name: str, count: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = shown.add_task(name, total=total, counted="")
            shown.update(tasks[name], completed=count, counted=f"{count}/{total}")

        yield advance


def _study(name: str) -> str:
    return name.partition("/")[0]
