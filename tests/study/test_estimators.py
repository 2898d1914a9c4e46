"""A study that measures by coupling: the errors of `coupled_ladder`, through jobs and stores."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import sdeverify as sv
from sdeverify.base.rng import derived_seed
from sdeverify.problems.digits import digits_problem
from sdeverify.problems.library import circle_problem
from sdeverify.report.results import read_comparison
from sdeverify.report.sentences import estimator_sentence, headline
from sdeverify.study.campaign import campaign_jobs

ORACLE = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(1))
SGD = sv.SGD(learning_rate=0.1)
COS = sv.Observable("cos", lambda s: torch.cos(s.theta[:, 0]))
EXPCOS = sv.Observable("expcos", lambda s: torch.exp(torch.cos(s.theta[:, 0])))
BEHIND = sv.Observable("behind", lambda s: (s.theta[:, 0] > 0.5).double(), smooth=False)
SMALL = sv.Coupled(paths=48, trunks=32, chains=40, block_size=16)
START = sv.State(0, theta=torch.tensor([2.0], dtype=torch.float64))


def study(**changes: object) -> sv.Study:
    options: dict = {
        "name": "circle",
        "title": "SGD on the circle",
        "optimizer": SGD,
        "oracle": ORACLE,
        "start": START,
        "steps": [2, 4],
        "observables": [COS, BEHIND],
        "ladder": sv.SvagLevels([1, 2, 4]),
        "estimator": SMALL,
    }
    return sv.Study(**{**options, **changes})


def hot(optimizer: sv.Optimizer, oracle: sv.GradientOracle) -> sv.GradientSDE:
    """A temperature of 1.3 times the right one: a planted fault."""
    right = sv.derive(optimizer, oracle)
    return replace(right, temperature=1.3 * right.temperature)


def same_bits(first: xr.DataTree, second: xr.DataTree) -> bool:
    """Whether all numbers of two results are equal."""
    return all(
        np.array_equal(ds[name].values, second[group][name].values, equal_nan=True)
        for group, node in first.children.items()
        for ds in [node.to_dataset()]
        for name in ds.data_vars
        if ds[name].dtype.kind == "f"
    )


@pytest.mark.parametrize(
    "ladder", [sv.SvagLevels([1, 2, 4]), sv.LearningRates([0.1, 0.05, 0.025])], ids=str
)
def test_the_errors_are_those_of_the_coupled_ladder(ladder: sv.Ladder) -> None:
    coupled = study(ladder=ladder)
    results = sv.run(coupled)["circle"]
    expected = sv.coupled_ladder(
        ladder,
        SGD,
        ORACLE,
        START,
        [2, 4],
        [COS, BEHIND],
        how=SMALL,
        seed=derived_seed(coupled.seed, "circle"),
    )
    for name in ("error", "standard_error", "error_covariance", "discretisation"):
        np.testing.assert_allclose(results["errors"][name], expected[name], rtol=1e-12, atol=1e-15)
    assert list(results["errors"]["form"].values) == ["coupled", "independent runs"]
    assert {"order", "flow_order", "chain_2", "path_0"} <= set(results.children)


def test_the_path_to_show_is_the_one_that_is_coupled() -> None:
    results = sv.run(study())["circle"]
    shown, errors = results["path_0"].to_dataset(), results["errors"].to_dataset()
    np.testing.assert_allclose(shown["extrapolated"], errors["path_mean"][1], rtol=1e-12)
    variance = shown["extrapolated_standard_error"] ** 2
    np.testing.assert_allclose(variance, errors["path_variance"][1], rtol=1e-9, atol=1e-30)


def test_errors_against_gradient_flow_hold_the_same_optimizer() -> None:
    """E phi(optimizer) - phi(flow) is W + (E phi(SDE) - phi(flow)), with the spread of S."""
    results = sv.run(study(observables=[COS]))["circle"]
    errors, flow = results["errors"].to_dataset(), results["flow_errors"].to_dataset()
    exact = results["flow_0"]["extrapolated"].values
    np.testing.assert_allclose(flow.error, errors.error + errors.path_mean - exact, atol=1e-13)
    np.testing.assert_allclose(flow.chain_mean, errors.chain_mean, atol=1e-13)
    last = flow.isel(step=-1, observable=0)
    assert np.all(last.standard_error > 3 * errors.standard_error.isel(step=-1, observable=0))
    assert float(last.error_covariance[0, 2]) > 0.5 * float(last.error_covariance[0, 0])


def test_a_run_that_was_stopped_gives_the_same_bits(tmp_path: Path) -> None:
    whole = sv.run(study())
    store = sv.Store(tmp_path)
    jobs = campaign_jobs([study()])
    for name, job in jobs.items():
        sink = store.sink(name, job)
        for block in job.blocks[1::2]:
            sink.save(block.index, job.compute(block, keep=False))
    assert same_bits(whole["circle"], sv.run(study(), tmp_path)["circle"])
    assert same_bits(whole["circle"], sv.Store(tmp_path).read_tree()["circle"])


@pytest.mark.parametrize("name", ["coupled_0", "forks_1", "chain_1"])
def test_results_do_not_depend_on_how_blocks_are_cut(name: str) -> None:
    job = study().jobs()[name]
    block = job.blocks[1] if len(job.blocks) > 1 else job.blocks[0]
    parts = block.parts(5)
    assert len(parts) > 3
    cut = np.concatenate([job.run_block(part) for part in parts])
    np.testing.assert_allclose(job.run_block(block), cut, rtol=1e-9, atol=1e-13)


def test_more_paths_keep_the_blocks_that_are_there(tmp_path: Path) -> None:
    sv.run(study(), tmp_path)
    larger = study(estimator=replace(SMALL, paths=64, trunks=48))
    jobs = campaign_jobs([larger])
    stored = {name: sv.Store(tmp_path).sink(name, job).done() for name, job in jobs.items()}
    assert stored["circle/coupled_0"] == {0, 1, 2}
    assert stored["circle/forks_1"] == {0, 1}


def test_another_optimizer_s_blocks_are_refused(tmp_path: Path) -> None:
    sv.run(study(), tmp_path)
    with pytest.raises(sv.StoreError, match="other settings"):
        sv.run(study(optimizer=sv.SGD(learning_rate=0.11)), tmp_path)


def test_an_edited_observable_is_seen_by_the_probe(tmp_path: Path) -> None:
    sv.run(study(), tmp_path)
    edited = sv.Observable("cos", lambda s: 1.001 * torch.cos(s.theta[:, 0]))
    with pytest.raises(sv.StoreError, match="does not compute any more"):
        sv.run(study(observables=[edited, BEHIND]), tmp_path)


@pytest.mark.slow
def test_a_right_sde_is_supported_and_a_wrong_noise_refuted_where_sampling_says_nothing() -> None:
    """One seed, at the 95% level of the verdicts. As many independent replicas as there are paths
    leave all fits open, of the right SDE and of the wrong one.
    """
    options: dict = {
        "observables": [COS, EXPCOS],
        "steps": [10, 20],
        "ladder": sv.SvagLevels([1, 2, 4, 8]),
    }
    coupled = {"estimator": sv.Coupled(paths=4000, trunks=256, block_size=1000)}
    independent = {"estimator": None, "replicas": 4000}

    def verdict(**changes: object) -> str:
        results = sv.run(study(**{**options, **changes}))["circle"]
        return sv.overall_verdict(results["order"].to_dataset()).verdict

    assert verdict(**coupled) == "supported"
    assert verdict(**coupled, sde=hot) == "refuted"
    assert verdict(**independent) == "inconclusive"
    assert verdict(**independent, sde=hot) == "inconclusive"


@pytest.mark.slow
def test_the_circle_s_published_values() -> None:
    """Of `docs/mathematics.md`, eta = 0.1 at level 1 and T = 2; two z, each below 3.5: false alarms
    in 1 of 1000 runs.
    """
    how = sv.Coupled(paths=40_000, trunks=2000, block_size=4000)
    two = study(observables=[COS, EXPCOS], steps=[20], ladder=sv.SvagLevels([1, 2]), estimator=how)
    at = sv.run(two)["circle"]["errors"].to_dataset().isel(rung=0, step=-1)
    left = np.abs(at.integrator_residual.values)
    gap = np.abs(at.error.values - np.array([9.19174e-3, 2.0584e-2]))
    assert np.all(gap < 3.5 * at.standard_error.values + left)
    assert np.all(at.standard_error.values < 0.05 * at.error.values)


def test_the_report_says_which_estimator(tmp_path: Path) -> None:
    coupled = sv.run(study())
    page = sv.write_report(coupled, tmp_path).parent.joinpath("report.md").read_text()
    assert "48 Brownian paths" in page and "32 trunks of forks" in page
    assert "40 independent runs a rung for behind" in page
    assert "Parts of the errors" in page
    plain = sv.run(study(estimator=None, replicas=16))
    sentence = estimator_sentence(read_comparison(plain["circle"]))
    assert sentence == "Independent ensembles of the optimizer and the SDE."


def test_an_open_verdict_says_how_many_paths_and_trunks_would_close_it() -> None:
    sizes = sv.Coupled(paths=256, trunks=64, block_size=64)
    results = sv.run(study(observables=[COS], steps=[20], estimator=sizes))
    sentence = headline(read_comparison(results["circle"])).sentence
    hint = re.search(r"About ([\d.]+) times the paths and forks, ([\d,]+) paths, ", sentence)
    assert hint is not None, sentence
    times, paths = float(hint[1]), int(hint[2].replace(",", ""))
    assert abs(paths / 256 - times) < 0.1 * times + 0.1
    assert "--set with more paths and forks keeps" in sentence


def test_sub_sampling_and_another_kind_of_estimator_are_refused() -> None:
    with pytest.raises(sv.InvalidInputError, match="take all samples at each step"):
        study(subsample=4)
    with pytest.raises(sv.InvalidInputError, match="sv.Coupled"):
        study(estimator="coupled")


def test_solving_alone_takes_ensembles_of_the_sdes() -> None:
    sides = {job.side for job in study().solving().jobs().values()}
    assert sides == {"chain", "path", "flow"}


def test_rounding_of_small_differences_in_single_precision_is_no_edit(tmp_path: Path) -> None:
    """Forks take third differences: what the grouping of replicas rounds is large beside them."""
    problem, theta0 = digits_problem(64, 4)
    single = study(
        oracle=sv.GradientOracle(problem, sv.MinibatchNoise(8)),
        start=sv.State(0, theta=theta0),
        observables=[sv.measures.loss(problem), sv.measures.squared_parameter_norm()],
        ladder=sv.LearningRates([0.1, 0.05, 0.025]),
    )
    first = sv.run(single, tmp_path)
    again = sv.run(single, tmp_path)
    assert same_bits(first["circle"], again["circle"])
    scale = single.jobs()["forks_2"].sizes
    assert scale[0] == pytest.approx(float(problem.loss(theta0.unsqueeze(0))), rel=1e-5)
