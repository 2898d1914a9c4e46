"""What the page and the Markdown both show, put together once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdeverify.base.notation import prose
from sdeverify.report.evidence import comparison_tables
from sdeverify.report.formatting import anything, plain
from sdeverify.report.mathml import symbol_latex
from sdeverify.report.results import Comparison, Results
from sdeverify.report.sentences import (
    Headline,
    bias_sentence,
    estimator_sentence,
    headline,
    ladder_sentence,
    limit_sentence,
    noise_text,
    unresolved_sentence,
)
from sdeverify.report.tables import Table
from sdeverify.report.writing import Picture


@dataclass(frozen=True)
class Constant:
    """A constant of the SDE: its symbol as text and, if it is one, as LaTeX."""

    symbol: str
    latex: str | None
    value: str
    meaning: str


@dataclass(frozen=True)
class ComparisonView:
    """One comparison as the report shows it."""

    name: str
    title: str
    headline: Headline
    model: str
    equations: tuple[str, ...]
    constants: tuple[Constant, ...]
    facts: Mapping[str, str]
    assumptions: tuple[str, ...]
    ladder: str
    cannot_tell: str
    limit: str
    unresolved: str
    bias: str
    noise: Mapping[str, str]
    pictures: Mapping[str, Picture]
    tables: Mapping[str, list[Table]]
    outside: tuple[str, ...]


def comparison_view(c: Comparison) -> ComparisonView:
    """What the report shows of a comparison."""
    d = c.description
    facts = {
        "Claim": str(d["claim"]),
        "Clock": str(d["clock"]),
        "Noise": str(d.get("noise", "")),
        "Start": c.start_note,
        "Estimator": estimator_sentence(c),
        "Source": str(d["source"]),
    }
    return ComparisonView(
        name=c.name,
        title=c.title,
        headline=headline(c),
        model=str(d["name"]),
        equations=tuple(map(str, d["equations"])),
        constants=_constants(d),
        facts={key: prose(value) for key, value in facts.items() if value},
        assumptions=tuple(prose(str(line)) for line in d["assumptions"]),
        ladder=ladder_sentence(c),
        cannot_tell=prose(c.cannot_tell),
        limit=limit_sentence(c),
        unresolved=unresolved_sentence(c),
        bias=bias_sentence(c),
        noise={label: noise_text(value) for label, value in c.noise.items()},
        pictures=_pictures(c),
        tables=comparison_tables(c),
        outside=tuple(n for n in c.observables if n in c.outside_theorem),
    )


def summary_picture(r: Results) -> Picture:
    """The figure that shows all comparisons."""
    from sdeverify.report.figures import summary_figure

    verdicts = "; ".join(
        f"{c.title}: order {headline(c).order}, {headline(c).verdict}" for c in r.comparisons
    )
    return Picture(
        "summary",
        "Weak error against the step, log-log, one observable for each comparison. A right SDE's "
        "errors fall at least as steeply as the dashed line. Bars: 2 standard errors.",
        f"Error against step for each comparison. {verdicts}.",
        lambda: summary_figure(r),
    )


def _constants(description: Mapping[str, Any]) -> tuple[Constant, ...]:
    constants = []
    for name, entry in description["constants"].items():
        value, meaning = entry if isinstance(entry, (list, tuple)) else (entry, "")
        latex, text = symbol_latex(name), prose(anything(value))
        constants.append(Constant(str(name), latex, text, prose(str(meaning))))
    return tuple(constants)


def _pictures(c: Comparison) -> dict[str, Picture]:
    from sdeverify.report import figures

    listed = ", ".join(c.observables)
    flow = (
        " Grey squares: the same chain against gradient flow, the SDE without its noise."
        if c.flow_errors is not None
        else ""
    )
    orders = "; ".join(
        f"{name}: {c.order['verdict'].sel(observable=name, step=c.last_step).item()}"
        for name in c.observables
    )
    bars = "the numerical bounds" if c.computed else "2 standard errors"
    limit = "|error| + its bound" if c.computed else "|error| + 2 standard errors"
    pictures = {
        "errors": Picture(
            f"{c.name}-errors",
            f"Size of the weak error at step {plain(c.last_step)} against the ladder's step, "
            "log-log. Triangles point up where the chain's mean lies above the SDE's; bars are "
            f"{bars}; a hollow circle with an arrow is the upper limit ({limit}) "
            "of an error that is not resolved. Solid: the fit. Dashed: the "
            f"claimed slope {plain(c.claimed_order)}.{flow}",
            f"Log-log plots of weak error against step for {listed}. Verdicts: {orders}.",
            lambda: figures.figure_errors(c),
        ),
        "signed": Picture(
            f"{c.name}-signed-errors",
            f"Signed weak error over time at each rung, with bands of {bars}.",
            f"Signed weak error over time at {c.rungs} rungs, for {listed}.",
            lambda: figures.figure_signed_errors(c),
        ),
    }
    if not c.computed:
        pictures["moments"] = Picture(
            f"{c.name}-moments",
            "Mean (large) and standard deviation over replicas (small) of the chain at each rung, "
            "light to dark as the step falls, and of the SDE, dashed. Bands: 2 standard errors of "
            "the mean.",
            f"Mean and standard deviation over time, chain and SDE, of {listed}.",
            lambda: figures.figure_moments(c),
        )
    return pictures
