from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from sdeverify import (
    SGD,
    Campaign,
    FunctionProblem,
    GradientOracle,
    InvalidInputError,
    LearningRates,
    MinibatchNoise,
    RMSprop,
    State,
    Store,
    Study,
    SvagLevels,
    overall_verdict,
    run,
    warm_up,
)
from sdeverify.ensembles import measures
from sdeverify.sdes import SGDFirstOrder

THETA = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)


def study(oracle: GradientOracle, **changes: object) -> Study:
    options: dict = {
        "name": "toy",
        "title": "a toy",
        "optimizer": SGD(learning_rate=0.2),
        "oracle": oracle,
        "start": State(0, theta=THETA),
        "steps": [2, 4],
        "observables": [measures.loss(oracle.problem), measures.coordinate(0)],
        "ladder": SvagLevels([1, 2, 4]),
        "replicas": 64,
        "path_replicas": 64,
    }
    return Study(**{**options, **changes})


def test_levels_share_one_sde_and_learning_rates_have_one_each(
    small_oracle: GradientOracle,
) -> None:
    shared = study(small_oracle).jobs()
    assert sorted(shared) == ["chain_0", "chain_1", "chain_2", "flow_0", "path_0"]
    rates = study(small_oracle, ladder=LearningRates([0.2, 0.1])).jobs()
    assert sorted(rates) == ["chain_0", "chain_1", "flow_0", "flow_1", "path_0", "path_1"]
    assert rates["path_1"].substeps == (4, 8)


def test_the_results_hold_errors_orders_and_the_explanation(small_oracle: GradientOracle) -> None:
    tree = run(study(small_oracle, subsample=4, confirm_replicas=32))
    child = tree["toy"]
    assert {"errors", "order", "flow_errors", "flow_order", "confirmation"} <= set(child.children)
    assert child["errors"].sizes["rung"] == 3
    np.testing.assert_allclose(child["errors"]["level"], [1, 2, 4])
    assert json.loads(child.attrs["description"])["name"] == "SGD, first-order SDE"
    assert "fixed" in child.attrs["cannot_tell"]
    covariance = child["errors"]["error_covariance"].isel(step=-1, observable=0).values
    path = child["path_0"]["extrapolated_standard_error"].values[-1, 0] ** 2
    np.testing.assert_allclose(covariance[0, 1], path, rtol=1e-9)


class Doubled(SGDFirstOrder):
    """Twice the noise variance: a planted fault."""

    @classmethod
    def of(cls, optimizer: SGD, oracle: GradientOracle) -> SGDFirstOrder:
        right = SGDFirstOrder.of(optimizer, oracle)
        return SGDFirstOrder(oracle, right.time_per_level1_step, 2 * right.temperature)


def test_a_right_sde_is_supported_and_a_wrong_one_refuted_on_the_levels() -> None:
    """One seed, at the 95% level of the verdicts; the coarsest errors are 30 standard errors."""
    problem = FunctionProblem(
        lambda x: (x - torch.tensor([-1.0, 1.0], dtype=torch.float64)) ** 2 / 2, 1, 2
    )
    options = {
        "optimizer": SGD(learning_rate=0.5),
        "start": State(0, theta=torch.tensor([3.0], dtype=torch.float64)),
        "steps": [1, 2],
        "observables": [measures.coordinate(0), measures.squared_parameter_norm()],
        "ladder": SvagLevels([1, 2, 4, 8]),
        "replicas": 12_800,
        "path_replicas": 12_800,
        "substeps": (8, 16),
    }
    oracle = GradientOracle(problem, MinibatchNoise(1))
    right = run(study(oracle, **options))["toy"]["order"].to_dataset()
    wrong = run(study(oracle, sde=Doubled, **options))["toy"]["order"].to_dataset()
    assert overall_verdict(right).verdict == "supported"
    assert overall_verdict(wrong).verdict == "refuted"


def test_parameters_are_checked_and_change_the_studies(small_oracle: GradientOracle) -> None:
    campaign = Campaign(
        "toys", "toys", "?", lambda replicas=64: [study(small_oracle, replicas=replicas)]
    )
    assert campaign.defaults == {"replicas": 64}
    assert campaign.studies(replicas=32)[0].replicas == 32
    with pytest.raises(InvalidInputError, match="no parameter colour. It has replicas"):
        campaign.studies(colour=1)
    twice = Campaign("toys", "toys", "?", lambda: [study(small_oracle), study(small_oracle)])
    with pytest.raises(InvalidInputError, match="different names"):
        twice.studies()


def test_a_warm_up_ends_after_its_steps_with_all_coordinates(small_oracle: GradientOracle) -> None:
    optimizer = RMSprop(learning_rate=0.01, beta=0.9, epsilon=1e-2)
    start = warm_up(optimizer, small_oracle, THETA, steps=30, seed=1)
    assert start.step == 30
    assert (start.u > 0).all()
    assert torch.equal(start.u, warm_up(optimizer, small_oracle, THETA, steps=30, seed=1).u)
    assert not torch.equal(start.u, warm_up(optimizer, small_oracle, THETA, 30, seed=2).u)
    whole = GradientOracle(small_oracle.problem, MinibatchNoise(1))
    with pytest.raises(InvalidInputError, match="shape"):
        warm_up(optimizer, whole, THETA[:2])


def test_a_run_takes_a_store_or_its_folder_and_goes_on_from_it(
    small_oracle: GradientOracle, tmp_path: Path
) -> None:
    toy = study(small_oracle, replicas=64)
    plain = run(toy)
    calls: list[tuple[str, int, int]] = []
    for store in (str(tmp_path / "results"), tmp_path / "results", Store(tmp_path / "results")):
        calls.clear()
        kept = run(toy, store, progress=lambda *call: calls.append(call))
        xr.testing.assert_equal(kept["toy"]["errors"], plain["toy"]["errors"])
    assert calls and all(done == total for _, done, total in calls)
    for wrong in (3, Store(tmp_path / "results").sink):
        with pytest.raises(InvalidInputError, match=r"a store is a sv.Store or the path"):
            run(toy, wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="store and sinks exclude each other"):
        run(toy, tmp_path, sinks=Store(tmp_path).sink)
