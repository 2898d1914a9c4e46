from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr

from sdeverify.errors import InvalidInputError
from sdeverify.report import write_report
from sdeverify.report.results import read_comparison, read_results


def without(tree: xr.DataTree, *groups: str) -> xr.DataTree:
    return tree.drop_nodes(list(groups))


def test_missing_groups_are_named_and_nothing_is_written(
    results: xr.DataTree, tmp_path: Path
) -> None:
    results["adam-svag"] = without(results["adam-svag"], "order", "path_0")
    with pytest.raises(InvalidInputError, match=r"'adam-svag' lacks group 'order', group 'path_0'"):
        write_report(results, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_missing_variable_is_named(results: xr.DataTree) -> None:
    errors = results["adam-svag/errors"].to_dataset().drop_vars("standard_error")
    results["adam-svag/errors"] = xr.DataTree(errors)
    with pytest.raises(InvalidInputError, match=r"variable 'errors/standard_error'"):
        read_results(results)


@pytest.mark.parametrize("key", ["title", "cannot_tell", "description", "claimed_order"])
def test_a_missing_attribute_is_named(results: xr.DataTree, key: str) -> None:
    del results["adam-svag"].attrs[key]
    with pytest.raises(InvalidInputError, match=f"attribute '{key}'"):
        read_results(results)


def test_a_missing_chain_is_counted(results: xr.DataTree) -> None:
    with pytest.raises(InvalidInputError, match="5 rungs of errors but 4 chains"):
        read_comparison(without(results["adam-svag"], "chain_4"))


def test_no_comparison_and_no_tree_are_refused(results: xr.DataTree) -> None:
    with pytest.raises(InvalidInputError, match="at least one comparison"):
        read_results(without(results, *results.children))
    with pytest.raises(InvalidInputError, match="DataTree"):
        read_results({})  # type: ignore[arg-type]


def test_a_description_that_is_not_json_is_refused(results: xr.DataTree) -> None:
    results["adam-svag"].attrs["description"] = "dx = a dt"
    with pytest.raises(InvalidInputError, match="not JSON"):
        read_results(results)


def test_a_name_that_cannot_name_a_file_is_refused(
    make_comparison: Callable[..., xr.DataTree],
) -> None:
    tree = xr.DataTree(children={"a b": make_comparison("svag", "A")})
    tree.attrs = {"title": "t", "question": "q"}
    with pytest.raises(InvalidInputError, match="cannot name a file"):
        read_results(tree)


def test_observables_outside_the_theorem_are_the_ones_named(results: xr.DataTree) -> None:
    child = results["rmsprop-svag"]
    assert read_comparison(child).outside_theorem == {"accuracy"}
    child.attrs["outside_theorem"] = '["loss", "unknown"]'
    assert read_comparison(child).outside_theorem == {"loss"}
    del child.attrs["outside_theorem"]
    assert read_comparison(child).outside_theorem == {"accuracy"}
