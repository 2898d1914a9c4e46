"""What the commands do: compute a study and show it on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import xarray as xr
from rich.console import Console
from rich.text import Text

from sdeverify.cli.bars import counting_bars, study_bars
from sdeverify.cli.tables import terminal_table
from sdeverify.optimizers.ladders import Rung
from sdeverify.report import write_report
from sdeverify.report.formatting import plain
from sdeverify.report.results import read_results
from sdeverify.report.scaling.results import is_scaling, read_scaled
from sdeverify.report.scaling.view import in_brief, prediction_table
from sdeverify.report.sentences import headline
from sdeverify.report.tables import Cell, Table
from sdeverify.study.campaign import weak_error_studies
from sdeverify.study.certify import certify
from sdeverify.study.request import Request
from sdeverify.study.runner import compute, run_campaign
from sdeverify.study.store import Store
from sdeverify.study.study import Study


def solve(request: Request) -> None:
    """The SDE side: explanations and means."""
    studies = weak_error_studies(request.campaign.name, request.studies)
    datasets = compute(request, study_bars)
    for study in studies:
        _show_solution(study, datasets)
    _say(f"Blocks: {request.folder}")


def measure(request: Request) -> xr.DataTree:
    """Both sides: the results, with the verdicts on the terminal."""
    tree = run_campaign(request, study_bars)
    _show_verdicts(tree)
    _say(f"Results: {request.folder}")
    return tree


def report(request: Request) -> None:
    """Both sides and the report."""
    _report(measure(request), request.folder)


def certified(request: Request) -> None:
    """Both sides without sampling, and the report."""
    with counting_bars() as progress:
        tree = certify(request.campaign, progress=progress, **request.parameters)
    _show_verdicts(tree)
    _say(f"Results: {Store(request.folder).write_tree(tree)}")
    _report(tree, request.folder)


def _report(tree: xr.DataTree, folder: Path) -> None:
    _say(f"Report: {write_report(tree, folder).resolve()}")


def _show_solution(study: Study, datasets: Mapping[str, xr.Dataset]) -> None:
    console = Console()
    console.rule(Text(study.title))
    rungs, (sdes, belongs) = study.rungs(), study.sdes()
    for i, sde in enumerate(sdes):
        own = [rung for rung, number in zip(rungs, belongs, strict=True) if number == i]
        console.print(Text(sde.description.text()))
        console.print(Text(_clock(study.ladder.label_name, own)))
        console.print()
        console.print(terminal_table(_means(datasets[f"{study.name}/path_{i}"])))
        console.print()


def _clock(label: str, rungs: Sequence[Rung]) -> str:
    """The rungs that an SDE belongs to, each with its own clock."""
    own = (
        f"{label.replace('_', ' ')} {plain(rung.label)}: "
        f"{plain(rung.optimizer.time_per_step)} of SDE time a step"
        for rung in rungs
    )
    return f"{'rungs':<12} {'; '.join(own)}"


def _means(path: xr.Dataset) -> Table:
    """Means with standard errors, extrapolated to dt = 0."""
    rows = []
    for k, step in enumerate(path["step"].values):
        at = path.isel(step=k)
        pairs = zip(
            at["extrapolated"].values, at["extrapolated_standard_error"].values, strict=True
        )
        means = (f"{mean:.5g} ± {error:.1g}" for mean, error in pairs)
        cells = (f"{step:g}", f"{float(at['time']):.4g}", *means)
        rows.append(tuple(Cell(text, "number") for text in cells))
    replicas = int(path["block_count"].sum())
    return Table(
        f"Means and standard errors, {replicas:,} replicas, extrapolated to dt = 0",
        ("step", "time", *(str(name) for name in path["observable"].values)),
        tuple(rows),
    )


def _show_verdicts(tree: xr.DataTree) -> None:
    if is_scaling(tree):
        runs = read_scaled(tree)
        table, sentences = prediction_table(runs).only(0, 2, 4, 6, 7), list(in_brief(runs))
    else:
        comparisons = read_results(tree).comparisons
        lines = [(c.title, headline(c)) for c in comparisons]
        sentences = [f"{title}. {line.sentence}" for title, line in lines]
        rows = tuple(
            (
                Cell(title),
                Cell(line.verdict, "verdict"),
                Cell(line.order),
                Cell(line.claimed),
                Cell(line.observable),
                Cell(line.step_text),
            )
            for title, line in lines
        )
        heads = ("Study", "Verdict", "Order [95%]", "Claimed", "Observable", "Step")
        table = Table("", heads, rows)
    console = Console()
    console.print(terminal_table(table))
    for sentence in sentences:
        console.print(Text(sentence))


def _say(text: str) -> None:
    """One line that is not wrapped, so that it can be copied."""
    Console().print(Text(text), soft_wrap=True)
