"""What the commands do: compute a study and show it on the terminal."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sdeverify.cli.bars import StudyBars
from sdeverify.cli.options import MOST_WORKERS, Options
from sdeverify.cli.settings import parse_settings
from sdeverify.report import write_report
from sdeverify.report.results import read_results
from sdeverify.report.scaling.results import is_scaling, read_scaled
from sdeverify.report.scaling.view import in_brief, prediction_table
from sdeverify.report.sentences import VERDICT_SIGNS, headline
from sdeverify.study.campaign import weak_error_studies
from sdeverify.study.certify import certify
from sdeverify.study.files import Request, load_campaign, study_name
from sdeverify.study.runner import compute, run_campaign, share
from sdeverify.study.store import Store
from sdeverify.study.study import Study
from sdeverify.study.worker import Work

_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
)


class _Asked(NamedTuple):
    source: str
    parameters: dict[str, Any]
    output: Path
    workers: int


def solve(options: Options) -> None:
    """The SDE side: explanations and means."""
    asked = _asked(options)
    request = Request(asked.source, asked.parameters, options.seed, options.device)
    studies = weak_error_studies(asked.source, request.build().studies)
    memory = share(options.memory, asked.workers)
    work = Work(request, str(asked.output), sde_only=True, memory=memory)
    computed = compute(work, asked.workers, StudyBars(Console(stderr=True)))
    for study in studies:
        _show_solution(study, computed.datasets)
    _say(f"Blocks: {asked.output}")


def measure(options: Options) -> tuple[xr.DataTree, Path]:
    """Both sides: the results, with the verdicts on the terminal, and where they are."""
    asked = _asked(options)
    tree = run_campaign(
        asked.source,
        asked.parameters,
        asked.output,
        workers=asked.workers,
        device=options.device,
        seed=options.seed,
        progress=StudyBars(Console(stderr=True)),
        command=_command(options),
        memory=options.memory,
    )
    _show_verdicts(tree)
    _say(f"Results: {asked.output}")
    return tree, asked.output


def report(options: Options) -> None:
    """Both sides and the report."""
    tree, output = measure(options)
    page = write_report(tree, output)
    _say(f"Report: {page.resolve()}")


def certified(options: Options) -> None:
    """Both sides without sampling, and the report."""
    campaign = load_campaign(str(options.source))
    parameters = parse_settings(campaign.defaults, options.settings)
    output = options.output or Path("results") / f"{study_name(options.source)}-exact"
    studies = weak_error_studies(campaign.name, campaign.studies(**parameters))
    total = sum(len(s.rungs()) + 2 * len(s.sdes()[0]) for s in studies)
    console = Console(stderr=True)
    with Progress(*_COLUMNS, console=console) as bars:
        task = bars.add_task("sides computed", total=total)
        tree = certify(campaign, progress=lambda _, n: bars.advance(task, n), **parameters)
    _show_verdicts(tree)
    _say(f"Results: {Store(output).write_tree(tree)}")
    page = write_report(tree, output)
    _say(f"Report: {page.resolve()}")


def _asked(options: Options) -> _Asked:
    source = options.source
    defaults = load_campaign(str(source)).defaults
    parameters = parse_settings(defaults, options.settings)
    output = options.output or Path("results") / study_name(source)
    device = options.device or parameters.get("device", defaults.get("device", "cpu"))
    workers = options.workers or (_cores() if str(device).startswith("cpu") else 1)
    return _Asked(str(source), parameters, output, workers)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    return min(os.cpu_count() or 1, MOST_WORKERS)


def _command(options: Options) -> str:
    """The command that makes the same results, whatever verb was typed."""
    words = ["sdeverify", "report", options.study]
    words += [word for setting in options.settings for word in ("--set", setting)]
    words += ["--device", options.device] if options.device is not None else []
    words += ["--seed", str(options.seed)] if options.seed is not None else []
    return shlex.join(words)


def _show_solution(study: Study, datasets: Mapping[str, xr.Dataset]) -> None:
    console = Console()
    console.rule(Text(study.title))
    for i, sde in enumerate(study.sdes()[0]):
        path = datasets[f"{study.name}/path_{i}"]
        console.print(Text(sde.description.text()))
        console.print()
        console.print(_means(path))
        console.print()


def _means(path: xr.Dataset) -> Table:
    """Means with standard errors, extrapolated to dt = 0."""
    replicas = int(path["block_count"].sum())
    title = f"Means and standard errors, {replicas:,} replicas, extrapolated to dt = 0"
    table = Table(title=Text(title), title_justify="left")
    for heading in ("step", "time", *(str(name) for name in path["observable"].values)):
        table.add_column(Text(heading), justify="right")
    for k, step in enumerate(path["step"].values):
        at = path.isel(step=k)
        pairs = zip(
            at["extrapolated"].values, at["extrapolated_standard_error"].values, strict=True
        )
        cells = [f"{mean:.5g} ± {error:.1g}" for mean, error in pairs]
        table.add_row(f"{step:g}", f"{float(at['time']):.4g}", *cells)
    return table


def _show_verdicts(tree: xr.DataTree) -> None:
    if is_scaling(tree):
        _show_scaling(tree)
        return
    table = Table("Study", "Verdict", "Order [95%]", "Claimed", "Observable", "Step")
    sentences = []
    for comparison in read_results(tree).comparisons:
        line = headline(comparison)
        verdict = f"{VERDICT_SIGNS[line.verdict]} {line.verdict}"
        cells = (comparison.title, verdict, line.order, line.claimed, line.observable)
        table.add_row(*map(Text, cells), line.step_text)
        sentences.append(f"{comparison.title}. {line.sentence}")
    console = Console()
    console.print(table)
    for sentence in sentences:
        console.print(Text(sentence))


def _show_scaling(tree: xr.DataTree) -> None:
    runs = read_scaled(tree)
    made = prediction_table(runs)
    short = [0, 2, 4, 6, 7]
    table = Table(*(made.columns[i] for i in short))
    for row in made.rows:
        table.add_row(*(Text(row[i].text) for i in short))
    console = Console()
    console.print(table)
    for sentence in in_brief(runs):
        console.print(Text(sentence))


def _say(text: str) -> None:
    """One line that is not wrapped, so that it can be copied."""
    Console().print(Text(text), soft_wrap=True)
