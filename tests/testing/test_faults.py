"""Every planted fault is refuted, and nothing that is correct."""

from __future__ import annotations

from pathlib import Path

import pytest
from routes import Routes, unchanged

from sdeverify.analysis import overall_verdict
from sdeverify.optimizers.ladders import LearningRates
from sdeverify.study.certify import certified_order
from sdeverify.testing.faults import Fault, catalogue, correct_studies
from sdeverify.testing.faults.fault import noise_times

CORRECT = correct_studies()
FAULTS = {fault.name: fault for fault in catalogue()}
ROUTES = Routes()

QUICK = ["sgd-hot", "sgd-eta-not-root", "sgd-levels-quiet", "second-half", "sgd-decay-sign"]
"""By the exact route in a second or two each; the whole catalogue is marked slow."""
SAMPLED = ["sgd-cold", "sgd-fast-clock", "sgd-decay-forgotten", "sgd-levels-loud"]
"""Faults whose weak error is many standard errors large at the studies' sizes."""


def test_the_catalogue_has_different_faults_with_a_description_each() -> None:
    faults = catalogue()
    assert len(faults) >= 60
    assert len(FAULTS) == len(faults)
    assert len({fault.what + fault.correct.name for fault in faults}) == len(faults)
    for fault in faults:
        assert len(fault.what) > 10
        changes = (fault.sde, fault.levels, fault.optimizer, fault.start)
        assert sum(change is not None for change in changes) == 1
        assert fault.what in fault.study.title


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_refuted_by_one_step_moments(name: str) -> None:
    found = ROUTES.one_step(FAULTS[name])
    assert found.verdict == "refuted", found.text


@pytest.mark.parametrize("name", QUICK)
def test_faults_of_sgd_are_refuted_by_exact_weak_errors(name: str) -> None:
    found = ROUTES.exact(FAULTS[name])
    assert found.rejects, found.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "factor"),
    [("adam", 0.8), ("adam", 1.05), ("adam", 1.1), ("adam", 1.15), ("momentum", 1.02)],
)
def test_a_small_error_of_the_noise_is_refuted_by_exact_weak_errors(
    name: str, factor: float
) -> None:
    """Its limit is below 5% of the finest error, and resolved."""
    fault = Fault(name, "noise", CORRECT[name], noise_times(factor, f"noise times {factor}"))
    verdict = overall_verdict(certified_order(fault.study))
    assert verdict.verdict == "refuted", verdict.text


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_no_fault_passes_the_exact_route(name: str) -> None:
    found = ROUTES.exact(FAULTS[name])
    assert found.rejects, found.text


def test_the_learning_rate_ladder_does_not_see_sgds_noise() -> None:
    rates = CORRECT["sgd-rates"]
    assert isinstance(rates.ladder, LearningRates)
    for name in ("sgd-hot", "sgd-no-noise", "sgd-batch-forgotten"):
        blind = Fault(name, "on a ladder that cannot see it", rates, FAULTS[name].sde)
        assert ROUTES.exact(blind).verdict == "supported"
    seen = Fault("sgd-fast-clock", "the clock is seen", rates, FAULTS["sgd-fast-clock"].sde)
    assert ROUTES.exact(seen).verdict == "refuted"


@pytest.mark.parametrize("name", SAMPLED)
def test_large_faults_are_refuted_by_monte_carlo(name: str) -> None:
    """Fixed seeds. The verdict's false-alarm rate is 2.5%; these faults lie far beyond it."""
    found = ROUTES.sampled(FAULTS[name])
    assert found.verdict == "refuted", found.text


@pytest.mark.parametrize("name", ["momentum", pytest.param("nesterov", marks=pytest.mark.slow)])
def test_correct_sdes_are_supported_by_monte_carlo(name: str) -> None:
    """Fixed seeds; a true claim is refuted with probability 2.5% over seeds."""
    found = ROUTES.sampled(unchanged(CORRECT[name]))
    assert found.verdict == "supported", found.text


def test_what_does_not_see_the_temperature_does_not_support_by_monte_carlo() -> None:
    """The order of SGD with weight decay is known, but not that a hotter SDE would do worse."""
    found = ROUTES.sampled(unchanged(CORRECT["sgd-decay"]))
    assert found.verdict == "inconclusive"
    assert "does not see the noise" in found.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("adam-no-noise", "do not refute the SDE without its noise"),
        ("adam-frozen-u", "contradicts it"),
        ("sgd-diagonal-noise", "Not resolved: cos x, cos 2y, sin x sin y"),
    ],
)
def test_faults_too_small_for_sampling_are_not_supported_by_it(name: str, why: str) -> None:
    """Fixed seeds; their orders alone come out as the claimed one, with error bars of 5 to 20%."""
    found = ROUTES.sampled(FAULTS[name])
    assert found.verdict == "inconclusive"
    assert why in found.text


def test_in_the_table_of_the_docs_nothing_wrong_is_supported_and_nothing_right_rejected() -> None:
    page = (Path(__file__).parents[2] / "docs" / "refutation.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    verdicts = {row[0].strip(): [cell.split(",")[0].strip() for cell in row[2:]] for row in rows}
    for name in FAULTS:
        assert "supported" not in verdicts[name], name
    for name in CORRECT:
        assert not {"refuted", "refused"} & set(verdicts[name]), name
