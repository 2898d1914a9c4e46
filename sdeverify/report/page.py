"""Reports of results: the page on weak errors, and that on scaling rules."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from sdeverify.report.evidence import settings_table
from sdeverify.report.results import Results, read_results
from sdeverify.report.scaling.page import scaling_document
from sdeverify.report.scaling.results import is_scaling
from sdeverify.report.sentences import in_brief
from sdeverify.report.view import comparison_view, summary_picture
from sdeverify.report.writing import Document

READING = (
    (
        "Weak error",
        "The difference between an observable's expectation over the chain and over the SDE, at "
        "the same SDE time, estimated from replicas or computed on grids. It has a sign. A sampled "
        "SDE's mean is extrapolated to an integrator step of 0.",
    ),
    (
        "Weak order p",
        "The error is at most a constant times sᵖ, s the SDE time in one optimizer step. It is an "
        "upper bound: an error that falls faster does not refute it.",
    ),
    (
        "Supported",
        "One fit: the order's 95% interval reaches the claimed p, its lower end is above p − ½, "
        "and a limit of the error, as the step goes to 0, of more than a tenth of the error at the "
        "coarsest rung is excluded.",
    ),
    ("Refuted", "One fit: the interval's upper end is below the claimed p."),
    (
        "Inconclusive",
        "Anything else: the error is not resolved from sampling noise, or from the integrator's "
        "own error, or the steps are not yet small enough for a power of the step to fit.",
    ),
    (
        "A comparison",
        "All fits of a comparison (smooth observables at several times) are judged together, by "
        "Holm's method at the same level, so that looking often neither refutes nor supports too "
        "easily. Refuted goes before supported. Support also needs that no fit has a limit that is "
        "not 0 and may exceed that tenth and, along SVAG levels, that the same data refute "
        "gradient flow, the SDE without its noise. It is support for the observables that support; "
        "the sentence names those that are not resolved.",
    ),
)


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

    Example:
        >>> import tempfile
        >>> from dataclasses import replace
        >>> from sdeverify.testing.faults import correct_studies
        >>> study = replace(correct_studies()["sgd"], ladder=sv.SvagLevels([1, 2]), replicas=64)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sv.write_report(sv.run(study), folder).name
        'report.html'
    """
    if isinstance(results, xr.DataTree) and is_scaling(results):
        return scaling_document(results).write(folder)
    return comparisons_document(read_results(results)).write(folder)


def comparisons_document(results: Results) -> Document:
    """The report on weak errors."""
    sections = [comparison_view(c) for c in results.comparisons]
    summary = summary_picture(results)
    return Document(
        title=results.title,
        question=results.question,
        template="report",
        content={
            "sections": sections,
            "brief": in_brief(results.comparisons),
            "summary": summary,
            "reading": READING,
        },
        pictures=[summary, *(p for s in sections for p in s.pictures.values())],
        provenance=[
            settings_table(caption, settings)
            for caption, settings in (
                ("Parameters", results.parameters),
                ("Versions", results.versions),
            )
            if settings
        ],
        command=results.command,
    )
