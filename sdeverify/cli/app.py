"""The command line: `sdeverify solve|measure|report|list STUDY`, `sdeverify scale` and `bench`.

What a command needs is imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sdeverify.cli.options import (
    DebugOption,
    DeviceOption,
    MemoryOption,
    Options,
    OutputOption,
    SeedOption,
    SetOption,
    StudyArgument,
    WorkersOption,
    clean,
)

app = typer.Typer(
    name="sdeverify",
    help="Does the SDE of your optimizer hold for your run? Solve it, measure the weak error, "
    "report the order.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _hyper(who: str) -> Any:
    return typer.Option(help=f"{who}; torch's default where left out.", show_default=False)


@app.command()
def solve(
    study: StudyArgument,
    settings: SetOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    output: OutputOption = None,
    workers: WorkersOption = None,
    memory: MemoryOption = None,
    debug: DebugOption = False,
) -> None:
    """Solve the study's SDEs: explain them and show their means."""
    with clean(debug):
        source = _found(study)
        from sdeverify.cli import commands

        given = Options(study, source, settings or [], device, seed, output, workers, memory)
        commands.solve(given)


@app.command()
def measure(
    study: StudyArgument,
    settings: SetOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    output: OutputOption = None,
    workers: WorkersOption = None,
    memory: MemoryOption = None,
    debug: DebugOption = False,
) -> None:
    """Run both sides and show the orders of the weak error with their verdicts."""
    with clean(debug):
        source = _found(study)
        from sdeverify.cli import commands

        given = Options(study, source, settings or [], device, seed, output, workers, memory)
        commands.measure(given)


@app.command()
def report(
    study: StudyArgument,
    settings: SetOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    output: OutputOption = None,
    workers: WorkersOption = None,
    memory: MemoryOption = None,
    debug: DebugOption = False,
) -> None:
    """Measure what is still missing and write the report: HTML, Markdown, figures."""
    with clean(debug):
        source = _found(study)
        from sdeverify.cli import commands

        given = Options(study, source, settings or [], device, seed, output, workers, memory)
        commands.report(given)


@app.command()
def certify(
    study: StudyArgument,
    settings: SetOption = None,
    output: OutputOption = None,
    debug: DebugOption = False,
) -> None:
    """Compute a study without sampling (up to three state dimensions) and write the report."""
    with clean(debug):
        source = _found(study)
        from sdeverify.cli import commands

        commands.certified(Options(study, source, settings or [], None, None, output, 1))


@app.command()
def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller sizes and fewer rounds: about half a minute.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    debug: DebugOption = False,
) -> None:
    """Measure on this machine what steps and ensembles cost, in ratios; takes a few minutes."""
    with clean(debug):
        from sdeverify.cli.bench import bench as measured

        measured(quick, device)


@app.command(name="list")
def list_studies(
    study: Annotated[
        str | None,
        typer.Argument(metavar="[STUDY]", help="Show this study's parameters.", show_default=False),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """List the studies that are here, or one study's parameters with their defaults."""
    with clean(debug):
        if study is None:
            from sdeverify.cli.listing import show_studies

            show_studies()
        else:
            from sdeverify.cli.listing import show_parameters

            show_parameters(study)


@app.command(name="scale")
def scale_batch(
    optimizer: Annotated[
        str, typer.Option(help="sgd, rmsprop, adam or adamw.", show_default=False)
    ],
    lr: Annotated[float, typer.Option(help="The learning rate at batch B.", show_default=False)],
    kappa: Annotated[
        float,
        typer.Option(
            help="The batch grows from B to kappa B; below 1 it shrinks.", show_default=False
        ),
    ],
    rule: Annotated[
        str,
        typer.Option(
            help="auto keeps the SDE: linear for sgd, momentum for sgd with momentum, square_root "
            "for the others. Or by name: these, square_root_fixed_beta, "
            "square_root_fixed_epsilon, unscaled."
        ),
    ] = "auto",
    momentum: Annotated[float | None, _hyper("sgd")] = None,
    beta: Annotated[float | None, _hyper("rmsprop, torch's alpha")] = None,
    beta1: Annotated[float | None, _hyper("adam, adamw")] = None,
    beta2: Annotated[float | None, _hyper("adam, adamw")] = None,
    eps: Annotated[float | None, _hyper("rmsprop, adam, adamw")] = None,
    weight_decay: Annotated[
        float | None, _hyper("All; decoupled for adamw, coupled for the others")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="B, to see and check the new batch.", show_default=False),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Samples in the data, with --batch-size.", show_default=False),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Show what to set when the batch grows, the largest factor that works, and the caveat.

    Example: sdeverify scale --optimizer adamw --lr 1e-3 --beta2 0.95 --kappa 4
    """
    given = {
        "momentum": momentum,
        "beta": beta,
        "beta1": beta1,
        "beta2": beta2,
        "eps": eps,
        "weight_decay": weight_decay,
    }
    with clean(debug):
        from sdeverify.cli.scale import Batch, show_scaled

        show_scaled(optimizer, lr, given, kappa, rule, Batch(batch_size, samples))


def _found(study: str) -> Path:
    from sdeverify.study.files import find_study

    return find_study(study)


def main() -> None:
    """The entry point."""
    app()
