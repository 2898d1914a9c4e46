"""Options that the commands share, and errors as messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sdeverify.errors import SdeverifyError, StoreError
from sdeverify.study.request import MOST_WORKERS

STOPPED = "Stopped. The blocks that are done are kept; the same command goes on from there."


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
        help=f"Processes of one thread each; by default one a core, at most {MOST_WORKERS}, and "
        "one on a GPU. The results do not depend on it.",
        show_default=False,
    ),
]


ExecutorOption = Annotated[
    str | None,
    typer.Option(
        metavar="dask:ADDRESS",
        help="Compute on a cluster, dask:tcp://10.0.0.1:8786 say, in the place of --workers. The "
        "results do not depend on it.",
        show_default=False,
    ),
]


MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES",
        help="What all workers together may hold beyond libraries and data, e.g. 500MB or 2GB. "
        "The results depend on it by no more than rounding.",
        show_default=False,
    ),
]


DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def clean(debug: bool = False) -> Iterator[None]:
    """Errors and Ctrl-C as one message on stderr, and an exit status; no traceback."""
    try:
        yield
    except SdeverifyError as error:
        if debug:
            raise
        hint = " (--output names the folder of the results.)" if type(error) is StoreError else ""
        typer.echo(f"Error: {error}{hint}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo(f"\n{STOPPED}", err=True)
        raise typer.Exit(130) from None
