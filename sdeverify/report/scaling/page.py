"""Writing a report on scaling rules: a page, the same in Markdown, and the figures as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdeverify.report import markdown
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
from sdeverify.report.templating import environment_of
from sdeverify.report.view import Picture

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

READING = (
    "Distance: E scaled - E run of an observable where both have seen equally many samples. How "
    "far: what 'close' or 'within the tolerance' means is a choice that is stated in each table, "
    "and the answer depends on it.",
    "The predicted limit, κ ≤ C² + (C² − 1) N/G, is a necessary condition, not a sufficient one: "
    "a rule may fail before it, and does where the discrete run leaves the SDE for other reasons "
    "(steps too large for the curvature, memories 1/(1−β) of few steps). For SGD it is derived "
    "at the equilibrium of a scale-invariant loss with weight decay; elsewhere it is a rule of "
    "thumb, and a run far from equilibrium, or one with little noise, may stay close beyond it. "
    "For RMSprop and Adam it is about √v at one point.",
)


@dataclass(frozen=True)
class Section:
    """A section of the page, in the order text, picture, tables."""

    title: str
    text: tuple[str, ...] = ()
    picture: Picture | None = None
    tables: tuple[Table, ...] = ()


def write_scaling_report(results: xr.DataTree, folder: str | Path) -> Path:
    """Write `report.html`, `report.md`, `figures/*.svg` and `figures/*.pdf`, as `write_report`.

    Returns:
        The path of `report.html`.
    """
    from sdeverify.report.rendering import inline_svg, pdf_bytes, svg_text, write_whole

    place = Path(folder)
    (place / "figures").mkdir(parents=True, exist_ok=True)
    runs = read_scaled(results)
    sections = _sections(runs)
    inline = {}
    for i, (picture, figure) in enumerate(_figures(runs, sections)):
        svg = svg_text(figure)
        write_whole(place / "figures" / f"{picture.stem}.svg", svg)
        write_whole(place / "figures" / f"{picture.stem}.pdf", pdf_bytes(figure))
        inline[picture.stem] = inline_svg(svg, f"f{i}", picture.alternative)
    content = {
        "title": results.attrs["title"],
        "question": results.attrs["question"],
        "command": results.attrs.get("command", ""),
        "sections": sections,
        "reading": READING,
        "provenance": [
            settings_table(caption, json.loads(results.attrs.get(key, "{}")))
            for caption, key in (("Parameters", "parameters"), ("Versions", "versions"))
        ],
    }
    write_whole(place / "report.md", _markdown(content))
    return write_whole(place / "report.html", _html(content, inline))


def _sections(runs: Sequence[Scaled]) -> list[Section]:
    answer = Section(
        "The answer",
        in_brief(runs),
        _predicted_picture() if len(runs) > 2 else None,
        (prediction_table(runs),),
    )
    compared = [
        Section(run.title, _about(run), _distance_picture(run), (reach_table(run),))
        for run in runs
        if run.compared
    ]
    balanced = [
        Section(
            f"Equilibrium: {run.title}",
            (*_about(run), equilibrium_sentence(run)),
            _equilibrium_picture(run),
            (equilibrium_table(run),),
        )
        for run in runs
        if run.equilibrium is not None
    ]
    return [answer, *balanced, *compared, Section("The runs", tables=(noise_table(runs),))]


def _about(run: Scaled) -> tuple[str, ...]:
    caveats = [str(c) for c in run.scaling["caveat"].values if c]
    made = [f"{run.optimizer}: {run.hyperparameters}. {run.noise}. Start: {run.start_note}."]
    if caveats:
        made.append(f"Caveats: {'; '.join(caveats)}.")
    return tuple(made)


def _figures(runs: Sequence[Scaled], sections: Sequence[Section]) -> list[tuple[Picture, Figure]]:
    from sdeverify.report.scaling import figures as draw

    made: dict[str, Any] = {"predicted": lambda: draw.predicted_figure(runs)}
    for run in runs:
        made[f"{run.name}-distance"] = lambda run=run: draw.distance_figure(run)
        made[f"{run.name}-equilibrium"] = lambda run=run: draw.equilibrium_figure(run)
    pictures = [s.picture for s in sections if s.picture is not None]
    return [(picture, made[picture.stem]()) for picture in pictures]


def _predicted_picture() -> Picture:
    return Picture(
        "predicted",
        "Predicted limit and finding, one point a run, numbered as in the table. A limit that "
        "holds leaves the points on or below the line. Bars: 95%; an arrow and a hollow point: "
        "close up to the largest tested factor.",
        "Scatter plot of the batch factor found against the predicted limit.",
    )


def _distance_picture(run: Scaled) -> Picture:
    return Picture(
        f"{run.name}-distance",
        "Distance of the scaled runs to the run where it is largest over the compared steps, by "
        "rule. Bars: bands over all steps at once. Dashed: the tolerance. Shaded: the predicted "
        "limit, where it lies within the tested factors. A run that diverged has no point.",
        f"Distance against batch factor for {', '.join(run.observables)}.",
    )


def _equilibrium_picture(run: Scaled) -> Picture:
    return Picture(
        f"{run.name}-equilibrium",
        "Left: both sides of each law over one another, by batch factor. Right: how far |θ|² is "
        "from standing still.",
        "The balance of the squared parameter norm against the batch factor.",
    )


def _html(content: dict[str, Any], inline: dict[str, str]) -> str:
    import markupsafe

    environment = environment_of(autoescape=True)
    css = environment.loader.get_source(environment, "report.css")[0]  # type: ignore[union-attr]
    return environment.get_template("scaling.html.j2").render(
        **content,
        css=markupsafe.Markup(css),
        figures={stem: markupsafe.Markup(svg) for stem, svg in inline.items()},
    )


def _markdown(content: dict[str, Any]) -> str:
    environment = environment_of(autoescape=False)
    environment.filters["md"] = markdown.escape
    environment.filters["md_table"] = markdown.table
    return environment.get_template("scaling.md.j2").render(**content)
