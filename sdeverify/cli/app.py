"""The command line: `sdeverify solve|measure|report|list STUDY`, `sdeverify scale` and `bench`.

What a command needs is imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdeverify.cli.options import (
    DebugOption,
    DeviceOption,
    ExecutorOption,
    MemoryOption,
    OutputOption,
    SeedOption,
    SetOption,
    StudyArgument,
    WorkersOption,
    clean,
)

if TYPE_CHECKING:
    from sdeverify.study.request import Request

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


def _computing(verb: str, explanation: str) -> None:
    """Adds a command that computes a study; what it does is in `commands`, under its name."""

    @app.command(verb, help=explanation)
    def command(
        study: StudyArgument,
        settings: SetOption = None,
        device: DeviceOption = None,
        seed: SeedOption = None,
        output: OutputOption = None,
        workers: WorkersOption = None,
        executor: ExecutorOption = None,
        memory: MemoryOption = None,
        debug: DebugOption = False,
    ) -> None:
        with clean(debug):
            request = _request(
                study,
                settings,
                output,
                seed=seed,
                device=device,
                workers=workers,
                executor=executor,
                memory=memory,
                sde_only=verb == "solve",
            )
            from sdeverify.cli import commands

            getattr(commands, verb)(request)


_computing("solve", "Solve the study's SDEs: explain them and show their means.")
_computing("measure", "Run both sides and show the orders of the weak error with their verdicts.")
_computing("report", "Measure what is still missing and write the report: HTML, Markdown, figures.")


@app.command()
def certify(
    study: StudyArgument,
    settings: SetOption = None,
    output: OutputOption = None,
    debug: DebugOption = False,
) -> None:
    """Compute a study without sampling (up to three state dimensions) and write the report."""
    with clean(debug):
        request = _request(study, settings, output)
        if output is None:
            request = replace(request, output=f"{request.folder}-exact")
        from sdeverify.cli import commands

        commands.certified(request)


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
        str,
        typer.Option(
            help="A torch optimizer in lower case, sgd or adamw say, or the dotted path of your "
            "own class, my_module.MyOptimizer.",
            show_default=False,
        ),
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
        from sdeverify.cli.scale import BatchAndData, show_scaled

        show_scaled(optimizer, lr, given, kappa, rule, BatchAndData(batch_size, samples))


def _request(
    study: str, settings: list[str] | None, output: Path | None, **options: Any
) -> Request:
    """What the options ask for; a study that is not there is refused before torch is imported."""
    from sdeverify.study.files import find_study
    from sdeverify.study.request import Request

    find_study(study)
    place = None if output is None else str(output)
    return Request(study, tuple(settings or ()), output=place, **options)


def main() -> None:
    """The entry point."""
    app()
