"""The figure and the report of the study."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from methods import COARSE, ONE_GRADIENT, PAIR, Method, full_name

from sdeverify.report.style import heading, panels, style

PRECISIONS = (0.3, 0.1, 0.03, 0.01)
LOOKS = {
    "level 4 alone": ("#9aa2ad", "-"),
    "level 16 alone": ("#5b6573", "-"),
    "levels 1, 2": ("#7fb2df", "-"),
    "levels 1, 2, 4": ("#0b5394", "-"),
    full_name(PAIR): ("#0e7c66", "-"),
    full_name(COARSE): ("#6cc0a8", "-"),
    ONE_GRADIENT: ("#0e7c66", (0, (1, 1.2))),
    "dt 1/2, 1/4, n = 2B": ("#8a2f5c", "-"),
    "dt 1, 1/2, n = 2B": ("#c4500c", "-"),
    "dt 1/2, 1/4, n = B": ("#e0a02a", "-"),
}
"""Colour and dashes of each method."""


@dataclass(frozen=True)
class Case:
    """A panel: one optimizer on one problem."""

    name: str
    settings: str
    steps: int
    observables: list[str]
    methods: tuple[Method, ...]
    exact: bool
    seconds: float

    def cheapest(self, error: float) -> Method | None:
        """The method that reaches an error for the fewest mini-batch gradients."""
        able = [m for m in self.methods if math.isfinite(m.cost_for(error))]
        return min(able, key=lambda m: m.cost_for(error)) if able else None


def save(cases: Sequence[Case], path: Path) -> None:
    """All numbers, so that figure and report can be made again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(case) for case in cases], default=np.ndarray.tolist, indent=1)
    path.write_text(text, encoding="utf-8")


def load(path: Path) -> list[Case]:
    """The numbers that `save` wrote."""
    cases = []
    for each in json.loads(path.read_text(encoding="utf-8")):
        made = [
            Method(**{k: np.array(v) if isinstance(v, list) else v for k, v in one.items()})
            for one in each.pop("methods")
        ]
        cases.append(Case(**each, methods=tuple(made)))
    return cases


def figure(cases: Sequence[Case], path: Path) -> None:
    """Error against cost, a panel a case, a line a method."""
    with style():
        drawn, made = panels(len(cases), 3.0)
        for panel, case in zip(made, cases, strict=True):
            (axes,) = panel.axes
            _panel(axes, case)
            if panel.leftmost:
                axes.set_ylabel("error, in spreads")
            if panel.lowest:
                axes.set_xlabel("mini-batch gradients")
        labelled = {}
        for panel in made:
            handles, labels = panel.axes[0].get_legend_handles_labels()
            labelled |= dict(zip(labels, handles, strict=True))
        ordered = [name for name in LOOKS if name in labelled]
        drawn.legend(
            [labelled[name] for name in ordered], ordered, loc="outside lower center", ncols=4
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, metadata={"Date": None})


def _panel(axes: Axes, case: Case) -> None:
    cost = np.logspace(3, 8, 201)
    for method in case.methods:
        colour, dashes = LOOKS[method.name]
        line = {"color": colour, "linestyle": dashes, "linewidth": 1.6}
        axes.plot(cost, method.error(cost), label=method.name, **line)
        if not case.exact:
            low, high = (method.error(cost, limit) for limit in method.limits)
            axes.fill_between(cost, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(cost[0], cost[-1])
    axes.set_ylim(3e-4, 3)
    how = "bias exact" if case.exact else "bias from a reference run; bands: its 95%"
    heading(axes, case.name, f"{case.steps} steps; {how}")


def report(cases: Sequence[Case], command: str) -> str:
    """The whole report."""
    text = Path(__file__).with_name("report.md.in").read_text(encoding="utf-8")
    parts = {
        "{tables}": "\n".join(_table(case) for case in cases),
        "{cheapest}": _cheapest(cases),
        "{command}": command,
        "{seconds}": f"{sum(case.seconds for case in cases):.0f}",
    }
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text


def _table(case: Case) -> str:
    lines = [f"### {case.name}", "", f"{case.settings}; {case.steps} steps.", ""]
    wanted = [f"{p:g}" for p in PRECISIONS]
    lines.append(
        "| method | variance × cost | bias | µs a gradient | cost for "
        + " | ".join(wanted)
        + " | seconds for "
        + " | ".join(wanted)
        + " |"
    )
    lines.append("|---" * (4 + 2 * len(wanted)) + "|")
    for m in case.methods:
        costs = [m.cost_for(p) for p in PRECISIONS]
        cells = [m.name, f"{float(np.mean(m.product)) / case.steps:.3g}", _bias(m, case.exact)]
        cells.append(f"{1e6 * m.seconds:.3g}")
        cells += ["-" if math.isinf(c) else f"{c:.2g}" for c in costs]
        cells += ["-" if math.isinf(c) else f"{c * m.seconds:.2g}" for c in costs]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _bias(method: Method, exact: bool) -> str:
    if exact:
        return f"{math.sqrt(float(np.mean(method.bias**2))):.2g}"
    low, high = method.limits
    return f"{method.size:.2g} [{low:.2g}, {high:.2g}]"


def _cheapest(cases: Sequence[Case]) -> str:
    lines = ["| error wanted | " + " | ".join(case.name for case in cases) + " |"]
    lines.append("|---" * (1 + len(cases)) + "|")
    for p in PRECISIONS:
        cells = []
        for case in cases:
            best = case.cheapest(p)
            cells.append("-" if best is None else f"{best.name} ({best.cost_for(p):.2g})")
        lines.append(f"| {p:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
