"""The figure and the report of the study."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from methods import COARSE, ONE_GRADIENT, PAIR, Method, full_name

from sdeverify.report.style import heading, panels, style

PLANNED = "dt 1/2, 1/4, n = B"
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
    "dt 1, 1/2, n = B": ("#f0cf7a", "-"),
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

    def cheapest(self, error: float) -> Method | None:
        """The method that reaches an error for the fewest mini-batch gradients."""
        able = [m for m in self.methods if math.isfinite(m.cost_for(error))]
        return min(able, key=lambda m: m.cost_for(error)) if able else None


HEAD = """# What does an expectation under the SDE cost?

E φ(X_T) of an SDE can be taken from SVAG levels, alone or extrapolated, or from Euler-Maruyama with
two step sizes on one Brownian path, extrapolated, over all samples in each step or over a fresh
subset of n. Which gives the smallest error for its cost?

- **Error**: root of bias² + variance, in *spreads* (an observable's standard deviation between
  paths at the horizon), root mean square over the observables.
- **Cost**: mini-batch gradients, that is sample gradients over the batch size, counted as they are
  asked for; a SVAG step above level 1 costs two, a step over all samples N/B, and two dt on one
  path both. A pass that gives diag Σ too counts once; the seconds show what it takes.
- **Seconds**: processor time on one thread, observables included.
- Replicas are split among extrapolated levels at the least variance for the cost.

On the *circle* (six losses, batches of one) biases are exact: the laws of chain and integrator are
pushed forward as coded, merged subsets included. On *digits* (a 64-16-10 tanh network, 256 samples,
batches of 8, 60 steps into training; loss, |∇f|², |θ|²) they are against a reference: many paths
with dt of 1 and 1/2 steps over all samples, and on fewer paths their difference to dt of 1/2, 1/4,
1/8 (multilevel Monte Carlo), whose error bars are carried. The biases of forms over all samples
come from those common paths.

![Error against cost](figures/cost.svg)

*One line a method. dt in optimizer steps; n samples in a step, B the batch size. On digits a line
is drawn thin where the bias, at the upper end of its 95% interval, would be the larger part.*

## The cheapest method, and its cost in mini-batch gradients
"""

READING = """On digits a bias that is not told from 0 counts as 0 here, so that for small errors the
cost is a lower limit.

## Recommendation

{recommendation}

## All numbers

*Variance × cost* is for one step of the optimizer, in spreads² × mini-batch gradients: the cost of
a variance of one. *Bias* on digits with its 95% interval. The last columns: mini-batch gradients,
and seconds, until the error is reached; "-" where the bias alone is larger.
"""


RECOMMENDATION = """What the others need for the variance that *dt 1/2, 1/4, n = B* has, in units of
its gradients and of its seconds:

{table}

So an SDE expectation is taken from two dt on one Brownian path, over fresh subsets as large as the
batch (all samples where that saves little). With dt of 1/2 and 1/4 the bias on digits is below
{limits} spreads over all samples (95%, on common paths), and over subsets it is not told from 0.
dt of 1 and 1/2 need half the gradients; over subsets of n = B their bias is {coarse}, so they are
left to coarse answers. What extrapolation may leave is bounded from each run itself, and a quarter
of the error takes half the dt.

SVAG levels 1, 2, 4 combined have by far the smallest bias where it is exact, but more variance for
their cost than an ordinary precision gives back: on the circle they win below the bias of two dt
alone, a few ten-thousandths of a spread. Levels 1, 2 and level 4 alone come near subsets in cost
and have larger biases. Their use is that they need nothing but the optimizer. The one-gradient form
saves time over the form with exact diag Σ, not gradients as counted here, and subsets save more.
On a network as small as this one a gradient takes longer in a small subset, so subsets gain less in
seconds than in gradients. `sv.plan` chooses so, and `solve` and `verify` follow it.
"""


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
    cost = np.logspace(3, 7, 401)
    for method in case.methods:
        colour, dashes = LOOKS[method.name]
        line = {"color": colour, "linestyle": dashes}
        error = method.error(cost)
        # Beyond this cost the bias may be the larger part, and is not known well enough.
        known = cost <= float(np.mean(method.product)) / method.limits[1] ** 2
        known |= case.exact
        axes.plot(cost[known], error[known], label=method.name, linewidth=1.8, **line)
        axes.plot(cost[~known], error[~known], linewidth=0.6, alpha=0.7, **line)
    for axis, low, high in (("x", cost[0], cost[-1]), ("y", 1e-3, 2)):
        getattr(axes, f"set_{axis}scale")("log")
        getattr(axes, f"set_{axis}lim")(low, high)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    how = "bias exact" if case.exact else "thin: the bias may be more than this"
    heading(axes, case.name, f"{case.steps} steps; {how}")


def report(cases: Sequence[Case], command: str) -> str:
    """The whole report."""
    made = f"Made by `{command}`."
    tables = "\n".join(_table(case) for case in cases)
    reading = READING.replace("{recommendation}", _recommendation(cases))
    return "\n".join([HEAD, _cheapest(cases), "", reading, tables, made, ""])


def _recommendation(cases: Sequence[Case]) -> str:
    """What the numbers say for the planned form, and what `sv.plan` makes of it."""
    real = [case for case in cases if not case.exact]
    rows = ["| method | " + " | ".join(f"{c.name}: gradients | seconds" for c in real) + " |"]
    rows.append("|---" * (1 + 2 * len(real)) + "|")
    for name in (name for name in LOOKS if name != PLANNED):
        cells = []
        for case in real:
            one, ours = (_named(case, wanted) for wanted in (name, PLANNED))
            if one is None or ours is None:
                cells += ["-", "-"]
                continue
            times = float(np.mean(one.product) / np.mean(ours.product))
            cells += [f"{times:.2g}", f"{times * one.seconds / ours.seconds:.2g}"]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    found = [_named(case, full_name(PAIR)) for case in real]
    limits = " and ".join(f"{m.limits[1]:.2g}" for m in found if m is not None)
    coarse = [(_named(case, "dt 1, 1/2, n = B"), case.exact) for case in real]
    shown = " and ".join(_bias(m, exact) for m, exact in coarse if m is not None)
    return RECOMMENDATION.format(table="\n".join(rows), limits=limits, coarse=shown)


def _named(case: Case, name: str) -> Method | None:
    return next((m for m in case.methods if m.name == name), None)


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
