"""What `sdeverify list` shows."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.text import Text

from sdeverify.cli.tables import terminal_table
from sdeverify.report.tables import Cell, Table
from sdeverify.study.files import available_studies, load_campaign
from sdeverify.study.settings import shown


def show_studies() -> None:
    """The studies that are found by name."""
    studies = available_studies()
    if not studies:
        Console().print("There are no studies here: no folder studies/NAME with a study.py.")
        return
    rows = tuple((Cell(s.name), Cell(s.summary), Cell(_near(s.path))) for s in studies)
    Console().print(terminal_table(Table("", ("Study", "What it is", "File"), rows)))


def show_parameters(source: str) -> None:
    """One study's parameters with their defaults."""
    campaign = load_campaign(source)
    console = Console()
    console.print(Text(campaign.title, style="bold"))
    console.print(Text(campaign.question))
    if not campaign.defaults:
        console.print("It has no parameters.")
        return
    rows = tuple((Cell(name), Cell(shown(value))) for name, value in campaign.defaults.items())
    console.print()
    console.print(terminal_table(Table("", ("Parameter (--set)", "Default"), rows)))


def _near(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
