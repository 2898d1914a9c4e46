"""Order certificates: whole ladders by the exact route."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sdeverify import (
    GradientOracle,
    MinibatchNoise,
    SdeverifyError,
    State,
    overall_verdict,
    write_report,
)
from sdeverify.exact.spectral.domain import Moving, Periodic
from sdeverify.problems.digits import digits_problem
from sdeverify.study.certify import certified_order, certify, certify_study, default_domain
from sdeverify.testing.faults import correct_studies

CORRECT = correct_studies()
QUICK = ["sgd", "sgd-rates", "sgd-decay", "sgd-second", "rmsprop"]
HERE = Path(__file__).parents[2]
COMMITTED = runpy.run_path(str(HERE / "studies" / "certificates" / "study.py"))["STUDY"]
CERTIFICATES = {study.name: study for study in COMMITTED.studies()}
GOALS = {1: 1e-12, 2: 1e-8, 3: 1e-6}
"""The largest numerical error, by dimension of the state."""


def assert_certified(order: xr.Dataset, claimed: float) -> None:
    verdict = overall_verdict(order)
    assert verdict.verdict == "supported", str(verdict)
    assert verdict.refuted == 0
    supported = order["order"].values[order["verdict"].values == "supported"]
    assert np.abs(supported - claimed).min() < 0.02
    assert order.attrs["claimed_order"] == claimed


@pytest.mark.parametrize("name", QUICK)
def test_the_claimed_order_is_certified(name: str) -> None:
    assert_certified(certified_order(CORRECT[name]), 2.0 if name == "sgd-second" else 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", CERTIFICATES)
def test_a_committed_certificate_reaches_its_order_and_its_accuracy(name: str) -> None:
    study = CERTIFICATES[name]
    tree = certify_study(study)
    assert_certified(tree["order"].to_dataset(), 2.0 if name == "sgd-second" else 1.0)
    errors = tree["errors"].to_dataset().isel(step=slice(1, None))
    dimensions = len(study.optimizer.sde_components) * study.oracle.dim
    assert float(errors["bound"].max()) <= 2 * GOALS[dimensions]
    assert bool((errors["bound"] <= 0.01 * abs(errors["error"])).all())


def test_the_page_of_certificates_has_every_study_supported_and_resolved() -> None:
    page = (HERE / "docs" / "certificates.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if "(`" in line]
    assert [line.split("(`")[1].split("`)")[0] for line in rows] == list(CERTIFICATES)
    for line in rows:
        cells = [cell.strip() for cell in line.split("|")]
        assert cells[5] == "supported"
        done, total = cells[6].split(" of ")
        assert done == total


def test_a_certificate_has_the_groups_of_a_measured_study() -> None:
    calls: list[tuple[str, int, int]] = []
    tree = certify_study(CORRECT["sgd"], progress=lambda *call: calls.append(call))
    assert set(tree.children) >= {"errors", "order", "flow_errors", "flow_order", "path_0"}
    assert calls == [("sgd", done, 6) for done in range(7)]
    errors = tree["errors"].to_dataset()
    assert not errors["standard_error"].any()
    assert bool((errors["bound"] >= 0).all())
    assert list(errors["level"].values) == [1, 2, 4, 8]
    assert "first-order" in json.loads(tree.attrs["description"])["name"]
    assert tree.attrs["route"] == "exact"
    assert overall_verdict(tree["order"].to_dataset()).verdict == "supported"


def test_gradient_flow_has_order_one_along_rates_and_none_along_levels() -> None:
    flow = certify_study(CORRECT["sgd-rates"])["flow_order"].to_dataset()
    assert overall_verdict(flow).verdict == "supported"
    flow = certify_study(CORRECT["sgd"])["flow_order"].to_dataset()
    assert overall_verdict(flow).verdict == "refuted"


def test_an_angle_is_periodic_and_weight_decay_puts_it_on_the_line() -> None:
    assert isinstance(default_domain(CORRECT["sgd"])["theta"][0], Periodic)
    assert isinstance(default_domain(CORRECT["sgd-decay"])["theta"][0], Moving)
    assert len(list(default_domain(CORRECT["sgd-torus"])["theta"])) == 2


def test_a_certificate_makes_the_report_of_a_measured_study(tmp_path: Path) -> None:
    page = write_report(certify(CORRECT["sgd"]), tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "computed without sampling" in text
    assert "Nothing was sampled" in text
    assert "standard error of" not in text
    assert "supported" in text
    assert not list((tmp_path / "figures").glob("*moments*"))


def test_a_study_of_too_many_dimensions_is_refused_with_the_remedy() -> None:
    problem, theta = digits_problem(64, 4)
    oracle = GradientOracle(problem, MinibatchNoise(2))
    big = replace(CORRECT["sgd"], oracle=oracle, start=State(0, theta=theta))
    with pytest.raises(SdeverifyError, match="dimension"):
        certify(big)
