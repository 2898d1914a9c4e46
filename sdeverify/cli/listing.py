"""What `sdeverify list` shows."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdeverify.cli.settings import shown
from sdeverify.study.files import available_studies, load_campaign


def show_studies() -> None:
    """The studies that are found by name."""
    found = available_studies()
    if not found:
        Console().print("There are no studies here: no folder studies/NAME with a study.py.")
        return
    table = Table("Study", "What it is", "File", box=None, pad_edge=False)
    for study in found:
        table.add_row(Text(study.name), Text(study.summary), Text(_near(study.path)))
    Console().print(table)


def show_parameters(source: str) -> None:
    """One study's parameters with their defaults."""
    campaign = load_campaign(source)
    console = Console()
    console.print(Text(campaign.title, style="bold"))
    console.print(Text(campaign.question))
    if not campaign.defaults:
        console.print("It has no parameters.")
        return
    table = Table("Parameter (--set)", "Default", box=None, pad_edge=False)
    for name, default in campaign.defaults.items():
        table.add_row(Text(name), Text(shown(default)))
    console.print()
    console.print(table)


def _near(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
