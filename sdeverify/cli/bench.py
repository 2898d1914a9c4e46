"""`sdeverify bench`: the table of costs on the user's own machine."""

from __future__ import annotations

from rich.console import Console
from rich.progress import TextColumn
from rich.text import Text

from sdeverify.base.devices import check_device, one_thread
from sdeverify.benchmarks.measuring import Goal, Section, efforts, figure
from sdeverify.benchmarks.sections import Row, machine, measure, sections
from sdeverify.cli.bars import bars
from sdeverify.cli.tables import terminal_table
from sdeverify.report.formatting import DASH
from sdeverify.report.tables import Cell, Table


def bench(quick: bool, device: str) -> None:
    """Measures all tables and prints each when it is done."""
    check_device(device)
    effort = efforts(quick, device)
    console = Console()
    with one_thread(), bars(TextColumn("{task.fields[row]}")) as shown:
        console.print(Text(machine(device)))
        chosen = sections(effort)
        total = sum(len(section.cases) for section in chosen)
        task = shown.add_task("rows measured", total=total, counted="", row="")

        def advance(row: str) -> None:
            shown.update(task, advance=1, row=row)
            shown.update(task, counted=f"{shown.tasks[0].completed:g}/{total}")

        for section in chosen:
            (measured,) = measure([section], advance)
            console.print(terminal_table(table(section, measured.rows)))


def table(section: Section, rows: tuple[Row, ...]) -> Table:
    """A measured table; a goal stands behind the value that it is for."""
    cells = [
        (
            *map(Cell, row.labels),
            *(_cell(value, section.goal(row.labels, i)) for i, value in enumerate(row.values)),
        )
        for row in rows
    ]
    heads = (*section.headings, *section.columns)
    return Table(section.title, heads, tuple(cells), f"Unit: {section.unit}.")


def _cell(value: float | None, goal: Goal | None) -> Cell:
    if value is None:
        return Cell(DASH, "faint")
    if goal is None:
        return Cell(figure(value), "number")
    return Cell(f"{figure(value)} ({goal})", "met" if goal.met(value) else "missed")
