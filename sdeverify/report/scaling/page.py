"""The report on scaling rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import xarray as xr

from sdeverify.report.evidence import settings_table
from sdeverify.report.scaling.results import Scaled, read_scaled
from sdeverify.report.scaling.view import (
    equilibrium_sentence,
    equilibrium_table,
    in_brief,
    noise_table,
    prediction_table,
    reach_table,
)
from sdeverify.report.tables import Table
from sdeverify.report.writing import Document, Picture

READING = (
    (
        "Distance",
        "E scaled - E run of an observable where both have seen equally many samples. How far: "
        "what 'close' or 'within the tolerance' means is a choice that is stated in each table, "
        "and the answer depends on it.",
    ),
    (
        "The predicted limit",
        "κ ≤ C² + (C² − 1) N/G is a necessary condition, not a sufficient one: a rule may fail "
        "before it, and does where the discrete run leaves the SDE for other reasons (steps too "
        "large for the curvature, memories 1/(1−β) of few steps). For SGD it is derived at the "
        "equilibrium of a scale-invariant loss with weight decay; elsewhere it is a rule of thumb, "
        "and a run far from equilibrium, or one with little noise, may stay close beyond it. For "
        "RMSprop and Adam it is about √v at one point.",
    ),
)


@dataclass(frozen=True)
class Chapter:
    """A part of the page, in the order text, picture, tables."""

    title: str
    text: tuple[str, ...] = ()
    picture: Picture | None = None
    tables: tuple[Table, ...] = ()


def scaling_document(results: xr.DataTree) -> Document:
    """The report on the scaling rules of some runs."""
    runs = read_scaled(results)
    chapters = _chapters(runs)
    return Document(
        title=results.attrs["title"],
        question=results.attrs["question"],
        template="scaling",
        content={"sections": chapters, "reading": READING},
        pictures=[chapter.picture for chapter in chapters if chapter.picture is not None],
        provenance=[
            settings_table(caption, json.loads(results.attrs.get(key, "{}")))
            for caption, key in (("Parameters", "parameters"), ("Versions", "versions"))
        ],
        command=results.attrs.get("command", ""),
    )


def _chapters(runs: Sequence[Scaled]) -> list[Chapter]:
    answer = Chapter(
        "The answer",
        in_brief(runs),
        _predicted_picture(runs) if len(runs) > 2 else None,
        (prediction_table(runs),),
    )
    compared = [
        Chapter(run.title, _about(run), _distance_picture(run), (reach_table(run),))
        for run in runs
        if run.compared
    ]
    balanced = [
        Chapter(
            f"Equilibrium: {run.title}",
            (*_about(run), equilibrium_sentence(run)),
            _equilibrium_picture(run),
            (equilibrium_table(run),),
        )
        for run in runs
        if run.equilibrium is not None
    ]
    return [answer, *balanced, *compared, Chapter("The runs", tables=(noise_table(runs),))]


def _about(run: Scaled) -> tuple[str, ...]:
    caveats = [str(c) for c in run.scaling["caveat"].values if c]
    lines = [f"{run.optimizer}: {run.hyperparameters}. {run.noise}. Start: {run.start_note}."]
    if caveats:
        lines.append(f"Caveats: {'; '.join(caveats)}.")
    return tuple(lines)


def _predicted_picture(runs: Sequence[Scaled]) -> Picture:
    from sdeverify.report.scaling.figures import predicted_figure

    return Picture(
        "predicted",
        "Predicted limit and finding, one point a run, numbered as in the table. A limit that "
        "holds leaves the points on or below the line. Bars: 95%; an arrow and a hollow point: "
        "close up to the largest tested factor.",
        "Scatter plot of the batch factor found against the predicted limit.",
        lambda: predicted_figure(runs),
    )


def _distance_picture(run: Scaled) -> Picture:
    from sdeverify.report.scaling.figures import distance_figure

    return Picture(
        f"{run.name}-distance",
        "Distance of the scaled runs to the run where it is largest over the compared steps, by "
        "rule. Bars: bands over all steps at once. Dashed: the tolerance. Shaded: the predicted "
        "limit, where it lies within the tested factors. A run that diverged has no point.",
        f"Distance against batch factor for {', '.join(run.observables)}.",
        lambda: distance_figure(run),
    )


def _equilibrium_picture(run: Scaled) -> Picture:
    from sdeverify.report.scaling.figures import equilibrium_figure

    return Picture(
        f"{run.name}-equilibrium",
        "Left: both sides of each law over one another, by batch factor. Right: how far |θ|² is "
        "from standing still.",
        "The balance of the squared parameter norm against the batch factor.",
        lambda: equilibrium_figure(run),
    )
