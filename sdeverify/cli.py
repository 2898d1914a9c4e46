"""The command line: `sdeverify solve|measure|report|list STUDY`.

What a command needs is imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from sdeverify.errors import SdeverifyError

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console

    from sdeverify.progress import StudyBars
    from sdeverify.study import Study

MOST_WORKERS = 8

app = typer.Typer(
    name="sdeverify",
    help="Does the SDE of your optimizer hold for your run? Solve it, measure the weak error, "
    "report the order.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="A study file, a folder with a study.py, or the name of a folder under studies.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change a parameter of the study; lists are a,b,c. `sdeverify list STUDY` shows "
        "them. May be given several times.",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...", show_default=False)
]
SeedOption = Annotated[
    int | None, typer.Option(help="The seed that all numbers follow from.", show_default=False)
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="The folder for the results; a stopped run goes on from it. By default results/STUDY.",
        show_default=False,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"Processes of one thread each; by default one a core, at most {MOST_WORKERS}. The "
        "results do not depend on it.",
        show_default=False,
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class Options:
    """What the commands that compute have in common, as given."""

    study: str
    settings: list[str]
    device: str | None
    seed: int | None
    output: Path | None
    workers: int | None
    debug: bool


@app.command()
def solve(
    study: StudyArgument,
    settings: SetOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    output: OutputOption = None,
    workers: WorkersOption = None,
    debug: DebugOption = False,
) -> None:
    """Solve the study's SDEs: explain them and show their means."""
    run = Run(Options(study, settings or [], device, seed, output, workers, debug))
    with run.clean():
        run.solve()


@app.command()
def measure(
    study: StudyArgument,
    settings: SetOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    output: OutputOption = None,
    workers: WorkersOption = None,
    debug: DebugOption = False,
) -> None:
    """Run both sides, and show the order of the weak error with its verdict."""
    run = Run(Options(study, settings or [], device, seed, output, workers, debug))
    with run.clean():
        run.measure("measure")


@app.command()
def report(
    study: StudyArgument,
    settings: SetOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    output: OutputOption = None,
    workers: WorkersOption = None,
    debug: DebugOption = False,
) -> None:
    """Measure what is still missing, and write the report: HTML, Markdown, figures."""
    run = Run(Options(study, settings or [], device, seed, output, workers, debug))
    with run.clean():
        run.report()


@app.command(name="list")
def list_studies(
    study: Annotated[
        str | None,
        typer.Argument(metavar="[STUDY]", help="Show this study's parameters.", show_default=False),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """List the studies that are here, or one study's parameters with their defaults."""
    with _clean(debug, "Stopped."):
        if study is None:
            _show_studies()
        else:
            _show_parameters(study)


class Run:
    """One command that computes: where its results go, and what it shows."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.bars: StudyBars | None = None

    @contextmanager
    def clean(self) -> Iterator[None]:
        """Errors and Ctrl-C as one message, without a traceback."""
        stopped = (
            "Stopped. The blocks that are done are kept; the same command goes on from there."
        )
        with _clean(self.options.debug, stopped):
            yield

    def solve(self) -> None:
        """The SDE side."""
        from sdeverify.loading import Request
        from sdeverify.runner import compute
        from sdeverify.worker import Work

        source, parameters = self._asked()
        request = Request(source, parameters, self.options.seed, self.options.device)
        work = Work(request, str(self._output(source)), sde_only=True)
        computed = compute(work, self._workers(source, parameters), self._progress())
        for study in computed.prepared.built.studies:
            _show_solution(study, computed.datasets)

    def measure(self, verb: str) -> tuple[xr.DataTree, Path]:
        """Both sides, with the verdicts."""
        from sdeverify.runner import run_campaign

        source, parameters = self._asked()
        output = self._output(source)
        tree = run_campaign(
            source,
            parameters,
            output,
            workers=self._workers(source, parameters),
            device=self.options.device,
            seed=self.options.seed,
            progress=self._progress(),
            command=self._command("report"),
        )
        _show_verdicts(tree)
        if verb == "measure":
            _out().print(f"Results: {output}", highlight=False, soft_wrap=True)
        return tree, output

    def report(self) -> None:
        """Both sides, and the report."""
        from sdeverify.report import write_report

        tree, output = self.measure("report")
        page = write_report(tree, output)
        _out().print(f"Report: {page.resolve()}", highlight=False, soft_wrap=True)

    def _asked(self) -> tuple[str, dict[str, Any]]:
        from sdeverify.loading import find_study, load_campaign, parse_settings

        source = str(find_study(self.options.study))
        return source, parse_settings(load_campaign(source).defaults, self.options.settings)

    def _output(self, source: str) -> Path:
        from sdeverify.loading import study_name

        return self.options.output or Path("results") / study_name(Path(source))

    def _workers(self, source: str, parameters: dict[str, Any]) -> int:
        from sdeverify.loading import load_campaign

        if self.options.workers is not None:
            return self.options.workers
        default = load_campaign(source).defaults.get("device", "cpu")
        device = str(self.options.device or parameters.get("device", default))
        return min(_cores(), MOST_WORKERS) if device.startswith("cpu") else 1

    def _progress(self) -> StudyBars:
        from rich.console import Console

        from sdeverify.progress import StudyBars

        self.bars = StudyBars(Console(stderr=True))
        return self.bars

    def _command(self, verb: str) -> str:
        given = self.options
        words = ["sdeverify", verb, given.study]
        words += [word for setting in given.settings for word in ("--set", setting)]
        words += ["--device", given.device] if given.device is not None else []
        words += ["--seed", str(given.seed)] if given.seed is not None else []
        return shlex.join(words)
