"""How figures look: colours that the colour-blind can tell apart, plain axes, fixed fonts."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

INK = "#1c2430"
MUTED = "#626c7a"
GRID = "#e3e7ec"
SDE = "#c4500c"
CHAIN = "#0b5394"
FLOW = "#9aa2ad"
EXACT = "#0e7c66"
VERDICT_COLOURS = {"supported": "#0b6e4f", "refuted": "#a8320a", "inconclusive": "#6a5a12"}

WIDTH = 9.0
"""Width of a figure in inches; on the page it fills the text's width."""

_RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.0,
    "axes.edgecolor": "#9aa2ad",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 5),
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.minor.visible": False,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.4,
    "svg.fonttype": "path",
    "svg.hashsalt": "sdeverify",
    "pdf.fonttype": 42,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "path.simplify": True,
}


def style() -> AbstractContextManager[None]:
    """The settings in which a figure is drawn and saved, from matplotlib's defaults."""
    settings: Any = {k: v for k, v in matplotlib.rcParamsDefault.items() if "backend" not in k}
    context: AbstractContextManager[None] = matplotlib.rc_context(settings | _RC)
    return context


def ramp(count: int, dark: str = "#08306b", light: str = "#8fbde0") -> list[str]:
    """`count` colours from light to dark; one alone is dark."""
    if count == 1:
        return [dark]
    colours = LinearSegmentedColormap.from_list("ramp", [light, dark])
    return [to_hex(colours(i / (count - 1))) for i in range(count)]


@dataclass(frozen=True)
class Panel:
    """A panel of a figure: its axes from top to bottom, and where in the figure it stands."""

    axes: tuple[Axes, ...]
    leftmost: bool
    lowest: bool


def panels(
    count: int, height: float, split: tuple[float, ...] = (1.0,)
) -> tuple[Figure, list[Panel]]:
    """A figure with `count` panels in rows of 3 or 2, each of `len(split)` axes."""
    columns = 2 if count in (1, 2, 4) else 3
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, height * rows + 0.5), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05, hspace=0.03, wspace=0.02)  # type: ignore[union-attr,call-arg]
    grid = GridSpec(rows * len(split), columns, figure=figure, height_ratios=list(split) * rows)
    grid_panels = []
    for i in range(count):
        row, column = divmod(i, columns)
        first = figure.add_subplot(grid[row * len(split), column])
        rest = [
            figure.add_subplot(grid[row * len(split) + k, column], sharex=first)
            for k in range(1, len(split))
        ]
        for axes in (first, *rest)[:-1]:
            axes.tick_params(labelbottom=False)
        lowest = i + columns >= count
        grid_panels.append(Panel((first, *rest), leftmost=column == 0, lowest=lowest))
    return figure, grid_panels


def heading(axes: Axes, title: str, subtitle: str = "", colour: str = MUTED) -> None:
    """A panel's title with a smaller line under it."""
    axes.set_title(title, pad=15 if subtitle else 5)
    if subtitle:
        axes.text(
            0, 1.025, subtitle, transform=axes.transAxes, fontsize=7.3, color=colour,
            va="bottom",
        )  # fmt: skip
