"""What the study of error against cost rests on: counted gradients, and the exact coarse step."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "studies" / "cost"
PARTS = ("ensembles", "methods", "circle", "pages")


@pytest.fixture(scope="module")
def study():
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in PARTS}
    finally:
        sys.path.remove(str(FOLDER))
        for name in PARTS:
            sys.modules.pop(name, None)


@pytest.mark.parametrize("adaptive", [False, True])
def test_gradients_are_counted_as_they_are_asked_for(study, adaptive):
    """Six samples, batches of one: per step, 2 l (2 l^2) at level l, 6 N with all samples and dt of
    1/2 and 1/4, 2 x 4 x n with subsets of n, whose coarse step merges two."""
    level_run, path_run = study["ensembles"].level_run, study["ensembles"].path_run
    at = study["circle"].setting(adaptive)
    power = 2 if adaptive else 1
    for level in (1, 2):
        steps = 1 if level == 1 else 2 * level**power
        assert level_run(at, level, 2, 0).cost == at.steps * steps
    assert path_run(at, (2, 4), 2, 0, subsample=0).cost == at.steps * 6 * 6
    assert path_run(at, (2, 4), 2, 0, subsample=2).cost == at.steps * 2 * 4 * 2


def test_the_merged_coarse_step_has_the_mean_and_covariance_of_the_sde(study):
    circle = study["circle"]
    sde = circle.setting(False).sde
    theta, dt = torch.tensor([[0.7], [2.1]], dtype=torch.float64), 0.05
    form = circle.Merged(2)
    weights, increment = form.atoms(sde, theta, dt, 4)
    repeated = theta.repeat_interleave(len(weights), 0)
    moved = form.evaluate(sde, repeated, increment).increment.reshape(2, -1)
    mean = (moved * weights).sum(1)
    variance = ((moved - mean[:, None]).square() * weights).sum(1)
    assert float(weights.sum()) == pytest.approx(1, rel=1e-12)
    slope, diagonal = sde.oracle.mean_and_variance(theta)
    np.testing.assert_allclose(mean, dt * slope[:, 0], rtol=1e-10)
    np.testing.assert_allclose(variance, sde.intensity**2 * dt * diagonal[:, 0], rtol=1e-10)


def test_two_levels_at_the_best_split_cost_what_theory_says(study):
    """(sum |w| sd sqrt(cost))^2 with w = (-1, 2), costs 1 and 4, sd 1: 25 a step."""
    methods, ensembles = study["methods"], study["ensembles"]
    at = study["circle"].setting(False)
    values = np.array([[-1.0] * 3, [1.0] * 3]) / 2**0.5
    runs = {
        level: ensembles.Run(values, (), cost * at.steps, 1e-6 * cost)
        for level, cost in ((1, 1), (2, 4))
    }
    found = methods._together(runs, (1, 2), at, np.ones(3), lambda mean, variance: (mean, variance))
    np.testing.assert_allclose(found.product / at.steps, 25, rtol=1e-5)


def test_what_is_saved_is_what_is_loaded(study, tmp_path):
    methods, pages = study["methods"], study["pages"]
    three = np.array([0.1, 0.2, 0.3])
    method = methods.Method("level 4 alone", three, three, 0.1 * three, 1e-6)
    case = pages.Case("digits, SGD", "lr 1", 4, ["a", "b", "c"], (method,), False)
    pages.save([case], tmp_path / "results.json")
    (again,) = pages.load(tmp_path / "results.json")
    np.testing.assert_array_equal(again.methods[0].bias, three)
    assert again.methods[0].cost_for(0.3) == pytest.approx(method.cost_for(0.3))
    assert method.cost_for(0.2) == float("inf")
