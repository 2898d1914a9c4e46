"""Writing a report: one self-contained page, the same in Markdown, and the figures as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from sdeverify.errors import InvalidInputError
from sdeverify.report import markdown, mathml
from sdeverify.report.evidence import settings_table
from sdeverify.report.results import Results, read_results
from sdeverify.report.scaling.page import write_scaling_report
from sdeverify.report.scaling.results import is_scaling
from sdeverify.report.sentences import VERDICT_SIGNS, in_brief
from sdeverify.report.templating import environment_of
from sdeverify.report.view import Section, section, summary_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(results: xr.DataTree, folder: str | Path) -> Path:
    """Write `report.html`, `report.md`, `figures/*.svg` and `figures/*.pdf`.

    The page needs nothing but itself: figures, styles and equations are in it. The same results
    give the same bytes. Each file is written whole or not at all, the page last.

    Args:
        results: one child a comparison, as `run` returns it.
        folder: where to write; made if it is not there.

    Returns:
        The path of `report.html`.

    Raises:
        InvalidInputError: the results lack groups, variables or attributes, which are named, or
            `folder` is a file.
    """
    from sdeverify.report.rendering import inline_svg, pdf_bytes, svg_text, write_whole

    if isinstance(results, xr.DataTree) and is_scaling(results):
        return write_scaling_report(results, folder)
    read = read_results(results)
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise InvalidInputError(f"{place} is a file; a report is written into a folder, name one")
    sections = [section(c) for c in read.comparisons]
    (place / "figures").mkdir(parents=True, exist_ok=True)
    inline = {}
    for i, (stem, label, figure) in enumerate(_figures(read, sections)):
        svg = svg_text(figure)
        write_whole(place / "figures" / f"{stem}.svg", svg)
        write_whole(place / "figures" / f"{stem}.pdf", pdf_bytes(figure))
        inline[stem] = inline_svg(svg, f"f{i}", label)
    content = _content(read, sections)
    write_whole(place / "report.md", _markdown(content))
    return write_whole(place / "report.html", _html(content, inline))


def _figures(read: Results, sections: list[Section]) -> list[tuple[str, str, Figure]]:
    from sdeverify.report import figures

    summary = summary_picture(read)
    made = [(summary.stem, summary.alternative, figures.summary_figure(read))]
    for c, part in zip(read.comparisons, sections, strict=True):
        draw = {
            "errors": figures.figure_errors,
            "moments": figures.figure_moments,
            "signed": figures.figure_signed_errors,
        }
        made += [(p.stem, p.alternative, draw[key](c)) for key, p in part.pictures.items()]
    return made


def _content(read: Results, sections: list[Section]) -> dict[str, Any]:
    provenance = [
        settings_table(caption, settings)
        for caption, settings in (("Parameters", read.parameters), ("Versions", read.versions))
        if settings
    ]
    return {
        "results": read,
        "sections": sections,
        "brief": in_brief(read.comparisons),
        "summary": summary_picture(read),
        "provenance": provenance,
        "signs": VERDICT_SIGNS,
    }


def _html(content: dict[str, Any], inline: dict[str, str]) -> str:
    import markupsafe

    environment = environment_of(autoescape=True)
    source = environment.loader.get_source(environment, "report.css")[0]  # type: ignore[union-attr]
    environment.filters["display"] = lambda e: markupsafe.Markup(mathml.display(e))
    environment.filters["inline_math"] = lambda e: markupsafe.Markup(mathml.inline(e))
    return environment.get_template("report.html.j2").render(
        **content,
        css=markupsafe.Markup(source),
        figures={stem: markupsafe.Markup(svg) for stem, svg in inline.items()},
    )


def _markdown(content: dict[str, Any]) -> str:
    environment = environment_of(autoescape=False)
    environment.filters["md"] = markdown.escape
    environment.filters["md_table"] = markdown.table
    environment.filters["aligned"] = mathml.aligned_latex
    return environment.get_template("report.md.j2").render(**content)
