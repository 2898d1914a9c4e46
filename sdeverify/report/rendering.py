"""Figures as bytes that depend on the results alone, and files that are whole or absent."""

from __future__ import annotations

import html
import io
import os
import re
import tempfile
from pathlib import Path

from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from sdeverify.report.style import style


def svg_text(figure: Figure) -> str:
    """The figure as an SVG file, the same bytes for the same figure."""
    with style():
        buffer = io.StringIO()
        _laid_out(figure)
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": "sdeverify"})
    return buffer.getvalue()


def pdf_bytes(figure: Figure) -> bytes:
    """The figure as a PDF file, the same bytes for the same figure."""
    with style():
        buffer = io.BytesIO()
        metadata = {"CreationDate": None, "Creator": "sdeverify", "Producer": None}
        _laid_out(figure)
        FigureCanvasPdf(figure).print_pdf(buffer, metadata=metadata)
    return buffer.getvalue()


def _laid_out(figure: Figure) -> None:
    """Place the panels once; every format then has the same places."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine(None)


def inline_svg(svg: str, prefix: str, label: str) -> str:
    """An SVG file as an element of a page: own ids, a text alternative, no file header."""
    start = svg.index("<svg")
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", svg[start:], flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    opening, rest = body.split(">", 1)
    opening = re.sub(r'\s(width|height)="[^"]*"', "", opening)
    return f'{opening} role="img" aria-label="{html.escape(label)}">{rest.strip()}'


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file in one go: a killed process leaves the old file or the new one, never half."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
