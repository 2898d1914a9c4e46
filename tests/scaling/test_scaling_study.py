"""Studies of scaling rules: their jobs, what they assemble, the command line, and the report."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

import sdeverify as sv
from sdeverify.analysis.datasets.schema import chain_dataset
from sdeverify.base.rng import derived_seed
from sdeverify.cli.app import app
from sdeverify.ensembles import measures
from sdeverify.ensembles.job import run_job
from sdeverify.problems.problem import FunctionProblem
from sdeverify.report.scaling.results import ABOVE, AGREES, BELOW, BEYOND, Scaled
from sdeverify.scaling.equilibrium import Constants, balance
from sdeverify.scaling.judging import close_factors
from sdeverify.scaling.reach import chain_log_ratio, crossing
from sdeverify.study.files import load_campaign

STUDIES = Path(__file__).parents[2] / "studies"
SMALL = {
    "linear_scaling": ["kappas=2,4", "momentum_kappas=2,4", "warm=8", "steps=16"],
    "square_root_scaling": ["kappas=2,4", "warm=8", "steps=16"],
    "validity": [
        *("kappas=2,4", "batch_sizes=2", "starts=8", "steps=16", "equilibrium_steps=64"),
        *("equilibrium_replicas=128", "path_replicas=128", "equilibrium_batches=4"),
    ],
}

TOY = '''"""A bowl."""

import torch

import sdeverify as sv
from sdeverify import measures
from sdeverify.problems.problem import FunctionProblem

CENTRES = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def build(replicas: int = 256, rate: float = 0.02, kappas=(2, 4.0), mixed: bool = False):
    problem = FunctionProblem(lambda theta: 0.5 * (theta - CENTRES).square().sum(-1), 2, 64)
    common = dict(
        optimizer=sv.SGD(learning_rate=rate),
        oracle=sv.GradientOracle(problem, sv.MinibatchNoise(2)),
        start=sv.State(0, theta=torch.tensor([1.0, -0.5], dtype=torch.float64)),
        observables=[measures.loss(problem)],
        replicas=replicas,
    )
    one = sv.ScalingStudy(
        name="bowl", title="SGD on a bowl", kappas=kappas, steps=16, prediction_replicas=4, **common
    )
    other = sv.Study(
        name="svag", title="SVAG", steps=4, ladder=sv.SvagLevels([1, 2]), **common
    )
    return [one, other] if mixed else [one]


STUDY = sv.Campaign("bowl", "A bowl", "Does it hold?", build)
'''


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scaling") / "bowl"
    folder.mkdir()
    (folder / "study.py").write_text(TOY)
    return folder


def sdeverify(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def ensemble(series, spread=0.0, seed=0, blocks=8, size=16):
    """Replicas around the given means, `(step, observable)`."""
    rng = np.random.default_rng(seed)
    series = np.asarray(series, dtype=float)
    values = series + spread * rng.normal(size=(blocks, size, *series.shape))
    mean = values.mean(1)
    steps = np.arange(len(series), dtype=float)
    return chain_dataset(
        block_count=np.full(blocks, size),
        block_mean=mean,
        block_comoment=((values - mean[:, None]) ** 2).sum(1),
        step=steps,
        time=steps,
        observables=["squared_parameter_norm", "squared_gradient_norm", "noise_trace"],
        blocks=np.arange(blocks),
        attrs={},
    )


def test_a_crossing_is_interpolated_in_the_logarithm_of_the_factor():
    assert crossing([2, 4], [0.5, 1.5]) == pytest.approx(2**1.5)
    assert crossing([2, 4], [2.0, 3.0]) == pytest.approx(2**0.5)
    assert crossing([2, 4], [0.5, 0.9]) == np.inf
    assert crossing([2, 4], [0.5, np.inf]) == pytest.approx(2)


def test_the_logarithm_of_a_ratio_has_the_error_of_the_delta_method():
    near = ensemble(np.full((2, 3), 2.0), 0.1, seed=1)
    far = ensemble(np.full((2, 3), 6.0), 0.3, seed=2)
    found = chain_log_ratio(far, near)
    wanted = np.sqrt(
        (near.standard_error / near["mean"]) ** 2 + (far.standard_error / far["mean"]) ** 2
    )
    np.testing.assert_allclose(found["distance"], np.log(far["mean"] / near["mean"]))
    np.testing.assert_allclose(found["standard_error"], wanted)
    assert np.abs(found["distance"] - np.log(3)).max() < 5 * wanted.max()


def test_closeness_is_lost_where_the_first_observable_leaves_its_bound():
    """|theta|^2 times 1.2 and 2: sqrt(2) is passed at kappa with log 2 (log sqrt 2 - log 1.2) over
    (log 2 - log 1.2) beyond 2."""
    run = ensemble([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    scaled = [[ensemble([[1.0] * 3, [factor, 1.0, 1.1]]) for factor in (1.2, 2.0)]]
    bounds = dict.fromkeys(("squared_parameter_norm", "noise_trace"), 2**0.5)
    found = close_factors(run, scaled, [2, 4], bounds)
    share = (np.log(2**0.5) - np.log(1.2)) / (np.log(2) - np.log(1.2))
    for end in ("", "_low", "_high"):
        assert float(found[f"close_factor{end}"][0]) == pytest.approx(2 * 2**share)
    gone = close_factors(run, [[None, None]], [2, 4], bounds)
    assert float(gone["close_factor"][0]) == 1


@pytest.mark.slow
def test_the_interval_of_the_close_factor_holds_the_truth():
    """60 pairs of ensembles whose ratio grows as kappa^(1/3): sqrt(2) is passed at kappa = 2^1.5.
    At 95% each, 99.9% of a binomial lie below 10 misses."""
    bounds = {"squared_parameter_norm": 2**0.5}
    missed = 0
    for seed in range(60):
        run = ensemble(np.ones((2, 3)), 0.4, seed=10 * seed)
        scaled = [
            ensemble([[1.0] * 3, [k ** (1 / 3), 1, 1]], 0.4, seed=10 * seed + i)
            for i, k in enumerate((2.0, 4.0, 8.0), 1)
        ]
        at = close_factors(run, [scaled], [2, 4, 8], bounds)
        missed += (
            not float(at["close_factor_low"][0]) <= 2**1.5 <= float(at["close_factor_high"][0])
        )
    assert missed < 10


def test_the_laws_of_equilibrium_are_ones_where_r_g_and_n_meet_them():
    eta, decay, noise = 0.1, 0.2, 0.25
    g, s = 3.0, 40.0
    sgd = eta * (g + noise * s) / ((2 - eta * decay) * decay)
    found = balance(ensemble(np.tile([sgd, g, s], (9, 1)), 1e-3), Constants(eta, decay, noise, 1.0))
    assert found["sgd_balance"] == pytest.approx(1, abs=1e-3)
    assert found["closure"] == pytest.approx(1, abs=1e-3)
    assert found["sde_balance"] == pytest.approx(2 * decay * sgd / (eta * noise * s), rel=1e-3)
    assert abs(found["change"]) < 1e-3


@pytest.fixture(scope="module")
def scale_invariant():
    """Losses of theta/|theta| only, and SGD with weight decay far from equilibrium."""
    rows = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    problem = FunctionProblem(
        lambda theta: (
            torch.tanh(rows @ (theta / theta.norm())).square() + rows @ theta / theta.norm()
        ),
        3,
        12,
    )
    return sv.ScalingStudy(
        name="sphere",
        title="A sphere",
        optimizer=sv.SGD(learning_rate=0.05, weight_decay=0.1),
        oracle=sv.GradientOracle(problem, sv.MinibatchNoise(2)),
        start=sv.State(0, theta=torch.tensor([1.2, 0.8, -0.4], dtype=torch.float64)),
        kappas=[2],
        rules=["auto"],
        steps=range(2, 25, 2),
        observables=[measures.loss(problem)],
        replicas=128,
        block_size=16,
        path_replicas=128,
        substeps=(1, 2),
        prediction_replicas=4,
    )


@pytest.mark.slow
def test_far_from_equilibrium_the_law_with_the_change_still_holds(scale_invariant):
    """128 replicas: 1 lies in the interval of chain, scaled run and SDE, and in none without the
    change of |theta|^2."""
    study = scale_invariant
    tree = study.assemble({name: run_job(job) for name, job in study.jobs().items()})
    at = tree["equilibrium"].to_dataset()
    assert at["kappa"].values.tolist() == [0, 1, 2]
    assert ((at["closure_low"] < 1) & (at["closure_high"] > 1)).all()
    assert (at["closure_high"] - at["closure_low"] < 0.3).all()
    chains = at.sel(kappa=[1, 2])
    assert (chains["sgd_balance_low"] > 1.1).all()
    assert (at["change"] < -5 * at["change_standard_error"]).all()


def test_the_normalised_network_is_scale_invariant_sample_by_sample():
    campaign = load_campaign(str(STUDIES / "validity"))
    small = {
        "batch_sizes": (2,),
        "starts": (8,),
        "equilibrium_steps": 64,
        "kappas": (2,),
        "equilibrium_batches": (4,),
    }
    study = campaign.studies(**small)[-1]
    theta = study.start.expand(1).theta
    problem = study.oracle.problem
    each = problem.per_sample_gradients(theta, torch.arange(64).unsqueeze(0))[0]
    first = slice(0, 64 * 16)
    for part in (slice(None), first, slice(first.stop, None)):
        inner = (each[:, part] * theta[:, part]).sum(1)
        size = each[:, part].norm(dim=1) * theta[:, part].norm()
        assert (inner.abs() <= 1e-5 * size + 1e-6).all()


def test_a_study_is_the_experiment_with_its_prediction(toy):
    study = load_campaign(str(toy)).studies()[0]
    ensembles = {name: run_job(job) for name, job in study.jobs().items()}
    assert list(ensembles) == ["run", "linear-2", "linear-4", "unscaled-2", "unscaled-4"]
    found = study.assemble(ensembles)["scaling"].to_dataset()
    by_hand = sv.scaling_experiment(
        study.optimizer,
        study.oracle,
        study.start,
        [2, 4],
        steps=16,
        observables=study.watched,
        replicas=256,
        seed=derived_seed(study.seed, study.name),
    )
    xr.testing.assert_equal(found, by_hand)
    assert study.watched[0].name == "loss" and len(study.watched) == 4


def test_the_command_line_measures_resumes_and_reports(toy, tmp_path):
    words = ("report", toy, "--output", tmp_path / "out", "--workers", 1)
    first = sdeverify(*words)
    assert first.exit_code == 0, first.output
    assert "SGD on a bowl: the predicted limit is κ = " in " ".join(first.output.split())
    page = (tmp_path / "out" / "report.html").read_bytes()
    blocks = list((tmp_path / "out").glob("jobs/bowl/*.zarr/block_mean/c.*"))
    stamps = {block: block.stat().st_mtime_ns for block in blocks}
    assert len(blocks) == 10
    (tmp_path / "out" / "report.html").unlink()
    assert sdeverify(*words).exit_code == 0
    assert (tmp_path / "out" / "report.html").read_bytes() == page
    assert {block: block.stat().st_mtime_ns for block in blocks} == stamps
    text = (tmp_path / "out" / "report.md").read_text()
    for wanted in ("Predicted before the fact", "How far each rule holds", "unscaled", "command"):
        assert wanted in text
    assert (tmp_path / "out" / "figures" / "bowl-distance.svg").exists()
    assert not re.search(r"\bnan\b", text)


def test_a_rival_that_diverges_is_a_finding_and_not_the_end_of_the_run(toy, tmp_path):
    """At rate 1.2 the run contracts by -0.2 a step; the linear rule's 2.4 and 4.8 diverge."""
    settings = ("--set", "rate=1.2", "--set", "replicas=16", "--output", tmp_path, "--workers", 1)
    found = sdeverify("report", toy, *settings)
    assert found.exit_code == 0, found.output
    at = sv.Store(tmp_path).read_tree()["bowl/scaling"].to_dataset()
    assert at["judgement"].sel(rule="linear", observable="loss").values.tolist() == ["beyond"] * 2


def test_what_has_no_sde_side_is_refused_by_solve_and_certify(toy, tmp_path):
    for verb in ("solve", "certify"):
        refused = sdeverify(verb, toy, "--output", tmp_path)
        assert refused.exit_code == 1
        said = " ".join(refused.output.split())
        assert "of the class ScalingStudy, which can be measured" in said
    assert not list(tmp_path.iterdir())


def test_two_classes_of_studies_make_no_campaign(toy):
    with pytest.raises(sv.InvalidInputError, match="one report shows one class"):
        load_campaign(str(toy)).studies(mixed=True)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (["kappas=2,64"], "more than the 64 samples"),
        (["kappas=0.1,2"], "batch factors >= 1"),
        (["kappas=1.25"], "whole number of samples"),
        (["kappas=4,2"], "ascend"),
        (["kappas=2,32"], "multiples of 32 level-1 steps"),
    ],
)
def test_bad_factors_are_refused_before_the_work(toy, tmp_path, settings, match):
    words = [word for setting in settings for word in ("--set", setting)]
    refused = sdeverify("report", toy, *words, "--output", tmp_path, "--workers", 1)
    assert refused.exit_code == 1
    assert re.search(match, refused.output)
    assert not list(tmp_path.rglob("c.*"))


def test_a_finding_is_put_beside_the_prediction_with_both_intervals():
    def verdict(found, predicted=(10.0, 8.0, 12.0), largest=32.0):
        ends = ("", "_low", "_high")
        scaling = xr.Dataset(
            {f"close_factor{e}": ("rule", [v]) for e, v in zip(ends, found, strict=True)},
            coords={"rule": ["linear"], "kappa": [largest]},
        )
        told = xr.Dataset({f"largest_factor{e}": v for e, v in zip(ends, predicted, strict=True)})
        return Scaled("a", "A", "SGD", "", "", "", scaling, told, None, ()).comparison

    assert verdict((5.0, 4.0, 6.0)) == BELOW
    assert verdict((15.0, 13.0, 20.0)) == ABOVE
    assert verdict((9.0, 7.0, 11.0)) == AGREES
    assert verdict((np.inf, np.inf, np.inf)) == ABOVE
    assert verdict((np.inf, np.inf, np.inf), largest=4.0) == BEYOND


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_named_studies_run_and_report(name, tmp_path):
    words = [word for setting in SMALL[name] for word in ("--set", setting)]
    many = [] if name == "validity" else ["--set", "samples=64"]
    found = sdeverify(
        "report", STUDIES / name, "--set", "replicas=16", *many, *words,
        "--output", tmp_path, "--workers", 1,
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert (tmp_path / "report.html").stat().st_size > 20_000


@pytest.mark.slow
def test_on_digits_fixed_beta_hardly_moves_the_sde():
    """RMSprop at 16 times the batch, on the Brownian path of the run: the rule's SDE is the run's,
    to rounding; with beta fixed the loss moves less than a fifth of what fixed epsilon does."""
    study = load_campaign(str(STUDIES / "square_root_scaling")).studies(warm=256)[0]
    loss = [seen for seen in study.observables if seen.name == "loss"]

    def final_loss(optimizer, kappa):
        sde = sv.derive(optimizer, sv.scale_batch(study.oracle, kappa))
        path = sv.solve(
            sde, study.start, [256], loss, replicas=96, substeps=(1, 2), seed=0, subsample=16
        )
        return float(path["extrapolated"][-1, 0])

    own = final_loss(study.optimizer, 1)
    moved = {
        rule: abs(final_loss(sv.scale(study.optimizer, 16, rule), 16) - own)
        for rule in ("square_root", "square_root_fixed_beta", "square_root_fixed_epsilon")
    }
    assert moved["square_root"] < 1e-4
    assert 0 < moved["square_root_fixed_beta"] < 0.2 * moved["square_root_fixed_epsilon"]
