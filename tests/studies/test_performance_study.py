"""The study of performance: what is compared is the same step, and the page says what was found."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import network_size
import numpy as np
import precision
import pytest
import torch
from breakdown import Breakdown, products, shares
from network_size import (
    CHOLESKY,
    EIGEN,
    NOISE,
    OURS,
    PER_SAMPLE,
    STEP,
    Point,
    cholesky_noise,
    dense_step,
    eigen_noise,
    per_sample_step,
    point,
)
from precision import Change, changes, settings

from sdeverify.benchmarks.measuring import Case, Effort, Goal, Section
from sdeverify.benchmarks.nets import MLP, on_digits, perceptron
from sdeverify.benchmarks.sections import Measured, Row

STUDY = Path(__file__).parents[2] / "studies" / "performance"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The study's modules, found as its own scripts find them."""
    monkeypatch.syspath_prepend(str(STUDY))
    names = ("page", "figure", "gpu")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in names:
        sys.modules.pop(name)


@pytest.mark.parametrize(("noise", "shift"), [(eigen_noise, 0.0), (cholesky_noise, 1e-4)])
def test_dense_noise_has_the_covariance(
    monkeypatch: pytest.MonkeyPatch, noise: object, shift: float
) -> None:
    """Normals are replaced by unit vectors, so that the noise is a column of the root."""
    a = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covariance, columns = a @ a.T, []
    for unit in torch.eye(5, dtype=torch.float64):
        monkeypatch.setattr(torch, "randn", lambda *_, unit=unit, **__: unit)
        columns.append(noise(covariance))  # type: ignore[operator]
    root = torch.stack(columns, 1)
    wanted = covariance + shift * covariance.diagonal().mean() * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(root @ root.T, wanted, rtol=1e-10, atol=1e-12)


def test_the_three_ways_make_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same normals per-sample gradients and the weighted loss agree, and so does the dense
    step's drift."""
    samples = 30
    monkeypatch.setattr(network_size, "SAMPLES", samples)
    problem = on_digits(MLP, samples, "cpu", torch.float64)[0]
    theta = problem.reference
    every = problem.per_sample_gradients(theta.unsqueeze(0))[0]
    monkeypatch.setattr(network_size, "CHUNK", 7 * theta.numel() * 8)
    xi = torch.randn(samples, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = STEP / samples + NOISE / samples**0.5 * (xi - xi.mean())
    ours = theta - problem.weighted_gradient(theta.unsqueeze(0), weights.unsqueeze(0))[0]
    drift = STEP * problem.gradient(theta.unsqueeze(0))[0]
    monkeypatch.setattr(torch, "randn", lambda *_, **__: xi)
    torch.testing.assert_close(per_sample_step(theta, lambda part: every[part]), ours)
    still = dense_step(theta, lambda part: every[part], lambda c: torch.zeros(len(c)).to(c))
    torch.testing.assert_close(still, theta - drift)


def test_a_point_of_the_figure_has_every_way_that_its_size_allows() -> None:
    found = point(1, Effort(rounds=1, seconds=0.0))
    assert found.parameters == 85
    assert set(found.seconds) == {EIGEN, CHOLESKY, PER_SAMPLE, OURS}
    assert min(found.plain, *found.seconds.values()) > 0


def test_float32_changes_a_weak_error_by_far_less_than_its_error_bar() -> None:
    circle = settings(quick=True)[2]._replace(replicas=512)
    found = list(changes(circle, steps=10))
    assert [c.observable for c in found] == ["cos x", "sin 2x"]
    for change in found:
        assert 0 < change.change_se < 1e-3 * change.error_se
        assert change.share < 1e-2


def test_a_change_of_the_precision_is_paired() -> None:
    """Independent samples of one law would differ by their error bars; the same draws do not."""
    a, b = np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0])
    mean, error = precision._difference(a, b)
    assert mean == pytest.approx(7 / 3 - 0.5)
    assert error == pytest.approx((7 / 3 / 3 + 0.5 / 2) ** 0.5)


def test_the_counted_operations_are_those_of_a_gradient() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net, inputs = perceptron(64, 64, 10), torch.randn(3, 64)
    with FlopCounterMode(display=False) as counter:
        net(inputs).sum().backward()
    assert sum(products("SGD").values()) == counter.get_total_flops() / 3
    assert sum(products("Adam, exact diag Σ").values()) > sum(products("SGD").values())


@pytest.mark.filterwarnings("ignore")
def test_the_shares_of_a_profile_are_of_the_whole() -> None:
    a = torch.randn(256, 256)
    found = shares(lambda: a @ a, turns=5)
    assert sum(found.values()) == pytest.approx(1)
    assert found["matrix products"] > 0.3


def synthetic(page: ModuleType, missed: bool, change: float) -> object:
    """Findings with one number of each kind."""
    section = Section(
        "A table", "a unit", ("net",), ("x", "y"), (Case(("small",), lambda: (1.0, None)),),
        {"small": {"x": Goal(1.0)}},
    )  # fmt: skip
    value = 1.5 if missed else 0.5
    return page.Findings(
        "a machine",
        [Measured(section, (Row(("small",), (value, None)),))],
        [Change("circle", "cos x", 1e-2, 1e-3, change, 1e-9)],
        [
            Point(100, 0.5, {EIGEN: 2.0, CHOLESKY: 1.0, PER_SAMPLE: 3.0, OURS: 0.25}),
            Point(10_000, 5.0, {PER_SAMPLE: 30.0, OURS: 5.0}),
        ],
        [Breakdown("SGD", 0.7, {"matrix products": 0.6, "rest": 0.4}, 0.2)],
    )


def test_the_page_marks_a_missed_goal_and_draws_its_conclusion_from_the_numbers(
    study: SimpleNamespace,
) -> None:
    good = study.page.page(synthetic(study.page, False, 1e-8), "f.svg")
    bad = study.page.page(synthetic(study.page, True, 5e-3), "f.svg")
    assert "| small | 0.50 (≤ 1) | – |" in good
    assert "| small | 1.50 (≤ 1 ✗) | – |" in bad
    assert "| 10,000 | 5 s | – | – | 6.00 | 1.00 |" in good
    assert "computes in the network's own precision" in good
    assert "use float64" in bad
    assert "| SGD | 0.70 | 60% | 40% | 0.20 |" in good
    assert "(f.svg)" in good


def test_the_figure_is_the_same_byte_for_byte(study: SimpleNamespace, tmp_path: Path) -> None:
    points = synthetic(study.page, False, 0.0).points  # type: ignore[attr-defined]
    for name in ("a.svg", "b.svg"):
        study.figure.figure_network_size(points, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_gpu_script_runs_at_a_tiny_size_on_a_cpu(
    study: SimpleNamespace, tmp_path: Path
) -> None:
    place = tmp_path / "found.json"
    tiny = "--device cpu --images 8 --size 8 --width 8 --blocks 1 --rounds 1 --no-tables"
    assert study.gpu.main([*tiny.split(), "--output", str(place)]) == 0
    found = json.loads(place.read_text())
    assert found["parameters"] == 19_218
    assert len(found["steps"]) == 3
    for step in found["steps"].values():
        assert step["seconds"] > 0
        assert 0 < step["share of the achievable rate"] < 1


def test_the_gpu_script_says_that_there_is_no_gpu(
    study: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert study.gpu.main([]) == 1
    assert "finds no GPU" in capsys.readouterr().err
