"""`sdeverify bench`: the table of costs on the user's own machine."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sdeverify.base.devices import check_device, one_thread
from sdeverify.benchmarks.measuring import Goal, Section, efforts, figure
from sdeverify.benchmarks.sections import Row, machine, measure, sections


def bench(quick: bool, device: str) -> None:
    """Measures all tables and prints each when it is done."""
    check_device(device)
    effort = efforts(quick, device)
    console = Console()
    with one_thread(), _bars() as bars:
        console.print(Text(machine(device)))
        chosen = sections(effort)
        task = bars.add_task("rows measured", total=sum(len(s.cases) for s in chosen), row="")
        for section in chosen:
            (measured,) = measure([section], lambda row: bars.update(task, advance=1, row=row))
            console.print(table(section, measured.rows))


def table(section: Section, rows: tuple[Row, ...]) -> Table:
    """A measured table; a value is green where it reaches its goal, which stands behind it."""
    shown = Table(
        title=Text(section.title), caption=Text(f"Unit: {section.unit}."), title_justify="left"
    )
    for heading in section.headings:
        shown.add_column(Text(heading))
    for column in section.columns:
        shown.add_column(Text(column), justify="right")
    for row in rows:
        cells = [_cell(value, section.goal(row.labels, i)) for i, value in enumerate(row.values)]
        shown.add_row(*map(Text, row.labels), *cells)
    return shown


def _cell(value: float | None, goal: Goal | None) -> Text:
    if value is None:
        return Text("–", style="dim")
    cell = Text(figure(value))
    if goal is not None:
        cell.stylize("green" if goal.met(value) else "yellow")
        cell.append(f" ({goal})", style="dim")
    return cell


def _bars() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[row]}"),
    )
    return Progress(*columns, console=Console(stderr=True))
