from __future__ import annotations

import sys
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdeverify.errors import InvalidInputError
from sdeverify.report.figures import (
    deviation,
    figure_errors,
    figure_moments,
    figure_signed_errors,
    summary_figure,
)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def hollow(axes: Axes) -> int:
    return sum(
        len(line.get_xdata())  # type: ignore[arg-type]
        for line in axes.get_lines()
        if line.get_marker() == "o" and line.get_markerfacecolor() == "white"
    )


def test_each_observable_has_a_panel_and_accuracy_is_marked(shared_results: xr.DataTree) -> None:
    figure = figure_errors(shared_results["rmsprop-svag"])
    assert titles(figure) == [
        "loss", "accuracy (outside the theorem)", "|gradient|^2", "tr Sigma", "theta[0]",
    ]  # fmt: skip


def test_unresolved_errors_are_hollow_with_one_arrow_each(
    make_comparison: Callable[..., xr.DataTree],
) -> None:
    child = make_comparison("svag", "A", 1.0, 2.0, 3)
    last = child["errors"].to_dataset().isel(step=-1)
    unresolved = (abs(last["error"]) < 2 * last["standard_error"]).sum("rung")
    assert 0 < int(unresolved.sum()) < unresolved.size * last.sizes["rung"]
    bare = child.drop_nodes(["flow_errors", "flow_order"])
    for axes, name in zip(figure_errors(bare).axes, last["observable"].values, strict=True):
        count = int(unresolved.sel(observable=name))
        assert hollow(axes) == count
        arrows = [text for text in axes.texts if getattr(text, "arrow_patch", None)]
        assert len(arrows) == count


def test_moments_have_a_mean_and_a_deviation_panel_and_all_rungs(
    shared_results: xr.DataTree,
) -> None:
    child = shared_results["rmsprop-svag"]
    figure = figure_moments(child)
    assert len(figure.axes) == 2 * 5
    top, bottom = figure.axes[:2]
    assert len(top.get_lines()) == 5 + 1 + 1
    assert len(bottom.get_lines()) == 5 + 1
    drawn = top.get_lines()[4].get_ydata()
    expected = child["chain_4"].to_dataset()["mean"].sel(observable="loss")
    np.testing.assert_allclose(drawn, expected)


def test_the_deviation_over_replicas_includes_what_lies_between_blocks() -> None:
    values = np.random.default_rng(0).normal(size=(3, 8))
    means = values.mean(1)
    blocks = xr.Dataset(
        {
            "block_count": ("block", np.full(3, 8.0)),
            "block_mean": (("block", "step"), means[:, None]),
            "block_comoment": (("block", "step"), ((values - means[:, None]) ** 2).sum(1)[:, None]),
        }
    )
    np.testing.assert_allclose(deviation(blocks), [values.std(ddof=1)])


def test_signed_errors_show_each_rung(shared_results: xr.DataTree) -> None:
    figure = figure_signed_errors(shared_results["sgd-rates"])
    assert len(figure.axes) == 5
    assert all(len(axes.get_lines()) == 1 + 5 for axes in figure.axes)
    assert figure.axes[-1].get_xlabel() == "SDE time t"


def test_the_summary_has_a_panel_for_each_comparison_with_its_verdict(
    shared_results: xr.DataTree,
) -> None:
    figure = summary_figure(shared_results)
    assert titles(figure) == [
        "RMSprop along SVAG levels", "Adam along SVAG levels", "SGD along learning rates",
    ]  # fmt: skip
    said = [" ".join(text.get_text() for text in axes.texts) for axes in figure.axes]
    for text, verdict in zip(said, ("supported", "refuted", "inconclusive"), strict=True):
        assert verdict in text
        assert "order" in text


def test_drawing_leaves_matplotlibs_settings_alone(shared_results: xr.DataTree) -> None:
    before = dict(matplotlib.rcParams.items())
    figure_errors(shared_results["rmsprop-svag"])
    assert dict(matplotlib.rcParams.items()) == before
    assert "sdeverify.report.figures" in sys.modules


def test_an_incomplete_comparison_has_no_figure(results: xr.DataTree) -> None:
    with pytest.raises(InvalidInputError, match="group 'errors'"):
        figure_errors(results["adam-svag"].drop_nodes(["errors"]))
