"""Writing a report: one self-contained page, the same in Markdown, and the figures as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdeverify.errors import InvalidInputError
from sdeverify.report import markdown, mathml
from sdeverify.report.sentences import VERDICT_SIGNS
from sdeverify.report.tables import Table

if TYPE_CHECKING:
    import jinja2
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure and its place in the report.

    Args:
        stem: its file's name without ending.
        caption: what it shows.
        alternative: the same for those who cannot see it.
        draw: draws it.
    """

    stem: str
    caption: str
    alternative: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Document:
    """A report before it is written.

    Args:
        title, question: what was asked.
        template: the templates `template.html.j2` and `template.md.j2` say how it is laid out.
        content: what these show besides.
        pictures: all figures, in the order of the page.
        provenance: parameters and versions.
        command: what to type to make the results again.
    """

    title: str
    question: str
    template: str
    content: Mapping[str, Any]
    pictures: Sequence[Picture]
    provenance: Sequence[Table]
    command: str = ""

    def write(self, folder: str | Path) -> Path:
        """Writes `report.html`, `report.md`, `figures/*.svg` and `figures/*.pdf`.

        Each file is written whole or not at all, the page last.

        Returns:
            The path of `report.html`.

        Raises:
            InvalidInputError: `folder` is a file.
        """
        from sdeverify.report.rendering import inline_svg, pdf_bytes, svg_text, write_whole

        place = Path(folder)
        if place.exists() and not place.is_dir():
            raise InvalidInputError(f"{place} is a file; a report is written into a folder.")
        (place / "figures").mkdir(parents=True, exist_ok=True)
        inline = {}
        for i, picture in enumerate(self.pictures):
            figure = picture.draw()
            svg = svg_text(figure)
            write_whole(place / "figures" / f"{picture.stem}.svg", svg)
            write_whole(place / "figures" / f"{picture.stem}.pdf", pdf_bytes(figure))
            inline[picture.stem] = inline_svg(svg, f"f{i}", picture.alternative)
        write_whole(place / "report.md", self._markdown())
        return write_whole(place / "report.html", self._html(inline))

    def _html(self, figures: Mapping[str, str]) -> str:
        import markupsafe

        marked = markupsafe.Markup
        environment = _environment(autoescape=True)
        environment.filters["display"] = lambda e: marked(mathml.display(e))
        environment.filters["inline_math"] = lambda e: marked(mathml.inline(e))
        drawings = {stem: marked(svg) for stem, svg in figures.items()}
        return self._rendered(environment, "html", figures=drawings)

    def _markdown(self) -> str:
        environment = _environment(autoescape=False)
        environment.filters["md"] = markdown.escape
        environment.filters["md_table"] = markdown.table
        environment.filters["aligned"] = mathml.aligned_latex
        return self._rendered(environment, "md")

    def _rendered(self, environment: jinja2.Environment, kind: str, **more: Any) -> str:
        template = environment.get_template(f"{self.template}.{kind}.j2")
        return template.render(**self.content, document=self, signs=VERDICT_SIGNS, **more)


def _environment(autoescape: bool) -> jinja2.Environment:
    """The environment of templates; a name that is not given is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("sdeverify.report"),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
