"""Markdown's own rules: tables with pipes, text that is text."""

from __future__ import annotations

import re

from sdeverify.report.sentences import VERDICT_SIGNS
from sdeverify.report.tables import Cell, Table


def escape(text: str) -> str:
    """Text that Markdown shows as it is, also within a table's cell."""
    escaped = re.sub(r"([\\`*_{}\[\]<>|$#~])", r"\\\1", str(text))
    return re.sub(r"\s*\n\s*", " ", escaped)


def table(content: Table) -> str:
    """A table with its caption above and its note below."""
    lines = [
        f"**{escape(content.caption)}**",
        "",
        _row([escape(head) for head in content.columns]),
        _row(["---:" if i and content.numeric(i) else "---" for i in range(len(content.columns))]),
        *(_row([_cell(cell) for cell in row]) for row in content.rows),
    ]
    if content.note:
        lines += ["", f"*{escape(content.note)}*"]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.kind == "faint":
        return f"*{text}*"
    if cell.kind == "verdict":
        return f"{VERDICT_SIGNS.get(cell.text, '')} **{text}**".strip()
    return text
