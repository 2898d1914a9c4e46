"""The figure of cost against network size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator
from network_size import CHOLESKY, EIGEN, OURS, PER_SAMPLE, Point

from sdeverify.report.style import CHAIN, EXACT, FLOW, INK, SDE, heading, panels, style

LOOKS = {
    EIGEN: {"color": FLOW, "marker": "s", "ls": (0, (3, 1.6))},
    CHOLESKY: {"color": CHAIN, "marker": "D", "ls": (0, (3, 1.6))},
    PER_SAMPLE: {"color": EXACT, "marker": "^", "ls": "-"},
    OURS: {"color": SDE, "marker": "o", "ls": "-"},
}
PLAIN = "one plain gradient"


def figure_network_size(points: Sequence[Point], place: Path) -> None:
    """Seconds a step, and their ratio to a plain gradient, against the parameters; saved."""
    with style():
        figure, (left, right) = panels(2, 3.1)
        sizes = [point.parameters for point in points]
        plain = [point.plain for point in points]
        seconds, ratios = left.axes[0], right.axes[0]
        seconds.plot(sizes, plain, color=INK, lw=1.0, ls=(0, (1, 1.5)), label=PLAIN)
        ratios.axhline(1, color=INK, lw=1.0, ls=(0, (1, 1.5)))
        for name, look in LOOKS.items():
            there = [p for p in points if name in p.seconds]
            x = [p.parameters for p in there]
            line = {**look, "markersize": 4}
            seconds.plot(x, [p.seconds[name] for p in there], **line, label=name)
            ratios.plot(x, [p.seconds[name] / p.plain for p in there], **line)
        heading(seconds, "Seconds a step", "one Euler–Maruyama step with 1797 samples, one replica")
        heading(ratios, "In plain gradients", "the same, over one full-batch gradient")
        for axes in (seconds, ratios):
            _logarithmic(axes)
        figure.legend(loc="outside lower center", ncols=3)
        figure.savefig(place, metadata={"Date": None})


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.set_xlabel("parameters of the network")
