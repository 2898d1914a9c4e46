"""All tables of `sdeverify bench`."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from sdeverify.benchmarks.discrete import discrete_section
from sdeverify.benchmarks.drawing import drawing_section
from sdeverify.benchmarks.growth import growth_section
from sdeverify.benchmarks.measuring import Effort, Section
from sdeverify.benchmarks.steps import compiled_section, step_section


class Row(NamedTuple):
    """A measured row of a table."""

    labels: tuple[str, ...]
    values: tuple[float | None, ...]


class Measured(NamedTuple):
    """A table with its measured rows."""

    section: Section
    rows: tuple[Row, ...]


def sections(effort: Effort) -> list[Section]:
    """The tables, in the order in which they are shown."""
    return [
        step_section(effort),
        *([] if effort.quick else [compiled_section(effort)]),
        drawing_section(effort),
        discrete_section(effort),
        growth_section(effort),
    ]


def measure(chosen: Sequence[Section], progress: Callable[[str], None]) -> list[Measured]:
    """Measures every row; `progress` is told after each."""
    results = []
    for section in chosen:
        rows = []
        for case in section.cases:
            rows.append(Row(case.labels, tuple(case.measure())))
            progress(f"{section.title}: {', '.join(case.labels)}")
        results.append(Measured(section, tuple(rows)))
    return results


def machine(device: str) -> str:
    """The machine in a line: processor, cores, threads used, versions."""
    import os

    where = _processor()
    if torch.device(device).type == "cuda":
        where = f"{torch.cuda.get_device_name(device)} beside {where}"
    return (
        f"{where}, {os.cpu_count()} cores, {torch.get_num_threads()} thread used; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
