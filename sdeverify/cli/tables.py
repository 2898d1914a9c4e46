"""Tables on the terminal: every command shows its own in this one look."""

from __future__ import annotations

from rich import box
from rich.table import Table as TerminalTable
from rich.text import Text

from sdeverify.report.sentences import VERDICT_SIGNS
from sdeverify.report.tables import Cell, Table

_STYLES = {"faint": "dim", "met": "green", "missed": "yellow"}


def terminal_table(table: Table) -> TerminalTable:
    """A report's table for the terminal; the text of its cells is shown as it is."""
    shown = TerminalTable(
        title=Text(table.caption) if table.caption else None,
        caption=Text(table.note) if table.note else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for i, heading in enumerate(table.columns):
        shown.add_column(Text(heading), justify="right" if table.numeric(i) else "left")
    for row in table.rows:
        shown.add_row(*map(_text, row))
    return shown


def _text(cell: Cell) -> Text:
    sign = f"{VERDICT_SIGNS.get(cell.text, '')} " if cell.kind == "verdict" else ""
    return Text(sign + cell.text, style=_STYLES.get(cell.kind, ""))
