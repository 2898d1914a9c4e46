"""Numbers given as texts, or as nothing, are refused with what came, was wanted, and to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from jaxtyping import config
from typer.testing import CliRunner

import sdeverify as sv
from sdeverify.base.arguments import count_or_steps, number, numbers, recorded_steps, whole, wholes
from sdeverify.cli.app import app
from sdeverify.ensembles import measures
from sdeverify.problems.library import torus_problem

PROBLEM = torus_problem()
ORACLE = sv.GradientOracle(PROBLEM, sv.MinibatchNoise(2))
SGD = sv.SGD(learning_rate=0.1)
START = sv.State(0, theta=torch.tensor([0.3, 0.4], dtype=torch.float64))
SEEN = [measures.loss(PROBLEM)]
COMMON: dict[str, Any] = {"optimizer": SGD, "oracle": ORACLE, "start": START, "observables": SEEN}


@pytest.fixture(autouse=True)
def annotations_unchecked() -> Iterator[None]:
    """They are checked in tests alone: a user's text comes as far as the package's own checks."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def oracle_of(noise: sv.Noise) -> float:
    return sv.GradientOracle(PROBLEM, noise).scale


def study(**given: Any) -> object:
    usual = {"steps": 4, "ladder": sv.SvagLevels([1, 2]), "replicas": 4, "substeps": (1, 2)}
    return sv.Study(**{"name": "a", "title": "a", **COMMON, **usual, **given}).jobs()


def scaling(**given: Any) -> object:
    usual = {"kappas": [2], "steps": 4, "replicas": 4, "block_size": 2}
    return sv.ScalingStudy(**{"name": "a", "title": "a", **COMMON, **usual, **given}).jobs()


def chain(**given: Any) -> xr.Dataset:
    usual: dict[str, Any] = {"steps": 4, "replicas": 4}
    return sv.simulate(**{**COMMON, **usual, **given})


def path(**given: Any) -> xr.Dataset:
    usual: dict[str, Any] = {"steps": 4, "replicas": 4, "substeps": (1, 2)}
    return sv.solve(sv.derive(SGD, ORACLE), START, observables=SEEN, **{**usual, **given})


def views(**given: Any) -> object:
    return sv.four_views(**{**COMMON, "steps": 2, "replicas": 4, "levels": [2], **given})


ONE_NUMBER: dict[str, Callable[[Any], object]] = {
    "learning_rate": lambda bad: sv.SGD(learning_rate=bad),
    "refinement": lambda bad: sv.SGD(learning_rate=0.1, refinement=bad),
    "momentum": lambda bad: sv.SGDMomentum(learning_rate=0.1, momentum=bad),
    "beta": lambda bad: sv.RMSprop(learning_rate=0.1, beta=bad),
    "epsilon": lambda bad: sv.Adam(learning_rate=0.1, epsilon=bad),
    "weight_decay": lambda bad: sv.SGD(learning_rate=0.1, weight_decay=bad),
    "batch_size": lambda bad: oracle_of(sv.MinibatchNoise(bad)),
    "amplification": lambda bad: sv.AmplifiedNoise(sv.MinibatchNoise(2), bad),
    "sigma": lambda bad: sv.GaussianNoise(torch.eye(2), bad),
    "columns": lambda bad: sv.GaussianNoise(lambda theta: theta, columns=bad or "a"),
    "SVAG's level": lambda bad: sv.svag(SGD, ORACLE, bad),
    "each of levels": lambda bad: sv.SvagLevels([bad]),
    "each of rates": lambda bad: sv.LearningRates([0.1, bad]),
    "kappa": lambda bad: sv.scale(SGD, bad),
    "kappa of a batch": lambda bad: sv.scale_batch(ORACLE, bad),
    "kappa of a state": lambda bad: sv.scale_state(START, SGD, bad),
    "each of kappas": lambda bad: scaling(kappas=[bad]),
    "tolerance": lambda bad: scaling(tolerance=bad),
    "confidence": lambda bad: scaling(confidence=bad),
    "closeness": lambda bad: scaling(closeness=bad),
    "prediction_steps": lambda bad: scaling(prediction_steps=bad),
    "prediction_replicas": lambda bad: scaling(prediction_replicas=bad),
    "block_size": lambda bad: scaling(block_size=bad),
    "replicas of a scaling study": lambda bad: scaling(replicas=bad),
    "steps": lambda bad: study(steps=bad),
    "each of steps": lambda bad: study(steps=[bad]),
    "each of steps of a scaling study": lambda bad: scaling(steps=[bad]),
    "replicas": lambda bad: study(replicas=bad),
    "path_replicas": lambda bad: study(path_replicas=bad or "a"),
    "subsample": lambda bad: study(subsample=bad),
    "confirm_replicas": lambda bad: study(confirm_replicas=bad),
    "seed": lambda bad: study(seed=bad),
    "each of substeps": lambda bad: study(substeps=[bad]),
    "replicas of a chain": lambda bad: chain(replicas=bad),
    "seed of a chain": lambda bad: chain(seed=bad),
    "block_size of a chain": lambda bad: chain(block_size=bad),
    "each of substeps of a path": lambda bad: path(substeps=[bad]),
    "subsample of a path": lambda bad: path(subsample=bad or "a"),
    "precision": lambda bad: sv.plan(sv.derive(SGD, ORACLE), bad),
    "steps of a warm-up": lambda bad: sv.warm_up(SGD, ORACLE, START.theta, steps=bad),
    "a State's step": lambda bad: sv.State(bad, theta=START.theta),
    "steps of a short run": lambda bad: sv.validity(SGD, ORACLE, START, steps=bad),
    "seed of a short run": lambda bad: sv.validity(SGD, ORACLE, START, seed=bad),
    "each of levels of views": lambda bad: views(levels=[bad]),
    "confidence of views": lambda bad: views(confidence=bad),
}
LISTS: dict[str, Callable[[Any], object]] = {
    "levels": sv.SvagLevels,
    "rates": sv.LearningRates,
    "rates of ballistic": sv.BallisticRates,
    "kappas": lambda bad: scaling(kappas=bad),
    "substeps": lambda bad: study(substeps=bad),
    "levels of views": lambda bad: views(levels=bad),
}


@pytest.mark.parametrize("bad", ["a", "2", None])
@pytest.mark.parametrize("name", ONE_NUMBER)
def test_a_text_in_place_of_a_number_is_refused_before_any_work(name: str, bad: Any) -> None:
    what = name.split(" of a")[0].split(" of views")[0]
    with pytest.raises(sv.InvalidInputError, match=f"{what} must be a number; got .*Give "):
        ONE_NUMBER[name](bad)


@pytest.mark.parametrize("bad", ["24", None])
@pytest.mark.parametrize("name", LISTS)
def test_a_text_in_place_of_a_list_is_refused(name: str, bad: Any) -> None:
    what = name.split(" of ")[0]
    wanted = rf"{what} must be a number or a list of numbers; .*\[1, 2\]"
    with pytest.raises(sv.InvalidInputError, match=wanted):
        LISTS[name](bad)


def test_one_number_is_as_good_as_a_list_of_it() -> None:
    assert path(substeps=2).equals(path(substeps=[2]))
    assert path(substeps=(2,), steps=4)["step"].values[-1] == 4
    assert views(levels=2).equals(views(levels=[2]))
    assert scaling(kappas=2).keys() == scaling(kappas=[2]).keys()  # type: ignore[attr-defined]
    for ladder, label in ((sv.SvagLevels, 4.0), (sv.LearningRates, 0.1)):
        assert [rung.label for rung in ladder(label).rungs(SGD, ORACLE)] == [label]
    watched = SEEN[0]
    assert chain(observables=watched).equals(chain(observables=[watched]))


@pytest.mark.parametrize("steps", [float("nan"), [1, float("nan")], [float("inf")], [-1], []])
def test_steps_that_lead_nowhere_are_refused(steps: Any) -> None:
    with pytest.raises(sv.InvalidInputError, match="steps"):
        chain(steps=steps)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"replica": 4}, r"simulate\(...\) has no option 'replica'. Did you mean 'replicas'\?"),
        ({"memmory": 4}, "Did you mean 'memory'"),
        ({"nothing": 4}, "It has optimizer, .*, sink."),
        ({"replicas": 1e30}, "at least 2 replicas, at most 1,000,000,000; got 1,000,0"),
        ({"replicas": 1}, "at least 2 replicas"),
        ({"block_size": 0}, "got block_size=0"),
        ({"memory": "much"}, "'500MB' or '2GB'; got 'much'"),
        ({"progress": "yes"}, r"progress is True.*\(name, done, total\); got 'yes'"),
    ],
)
def test_a_bad_option_is_refused_before_any_work(options: dict[str, Any], said: str) -> None:
    with pytest.raises(sv.InvalidInputError, match=said):
        chain(**{"observables": [sv.Observable("never", pytest.fail)], **options})


def test_options_of_one_ensemble_are_no_options_of_several() -> None:
    with pytest.raises(sv.InvalidInputError, match=r"four_views\(...\) has no option 'sink'"):
        views(sink=None)
    with pytest.raises(sv.InvalidInputError, match="option 'substep'. Did you mean 'substeps'"):
        path(substep=2)


def test_what_is_no_optimizer_and_no_sde_is_refused_with_what_makes_one() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2))]
    live: Any = torch.optim.Adam(weights)
    with pytest.raises(sv.InvalidInputError, match="torch's Adam. Take sv.optimizer_from_torch"):
        chain(optimizer=live)
    for wrong, said in (
        (live, r"torch's Adam. Take sv.derive\(sv.optimizer_from_torch"),
        (SGD, r"the optimizer SGD. Take sv.derive\(optimizer, oracle\)"),
        (object(), "as sv.derive"),
    ):
        with pytest.raises(sv.InvalidInputError, match=said):
            sv.solve(wrong, START, 2, SEEN)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("loss", r"got the text 'loss'. Use one of sv.measures, sv.measures.loss\(problem\)"),
        (["loss"], "got the text 'loss'"),
        ([lambda state: state.theta[:, 0]], r"got a function. .*sv.Observable\('name', function\)"),
        ([3], "got 3"),
        (3, "observables are a list; got 3"),
        ([], "different names, at least one"),
        ([SEEN[0], SEEN[0]], "different names"),
    ],
)
def test_what_is_no_observable_is_refused(wrong: Any, said: str) -> None:
    with pytest.raises(sv.InvalidInputError, match=said):
        chain(observables=wrong)


def test_a_text_is_not_read_digit_by_digit() -> None:
    """The text "20" is a sequence of "2" and "0", which float() would take for two numbers."""
    for call in (study, scaling, chain):
        with pytest.raises(sv.InvalidInputError, match="steps must be a number; got the text '20'"):
            call(steps="20")


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    assert number(np.float32(0.5), "x") == number(torch.tensor(0.5), "x") == 0.5
    assert numbers(np.array([1.0, 2.5]), "x") == [1.0, 2.5]
    assert wholes(range(2), "x") == [0, 1]
    assert (whole(np.int64(3), "x"), type(whole(np.int64(3), "x"))) == (3, int)
    assert recorded_steps(np.int64(2)) == recorded_steps(2.0) == (0.0, 1.0, 2.0)  # type: ignore[arg-type]
    assert count_or_steps((1, 2.5)) == [1.0, 2.5]
    for bad in (torch.zeros(2), np.zeros(2), 1j, object()):
        with pytest.raises(sv.InvalidInputError, match="x must be a number"):
            number(bad, "x")


def test_a_count_is_whole() -> None:
    for bad in (2.5, float("nan"), float("inf")):
        with pytest.raises(sv.InvalidInputError, match="replicas must be a whole number"):
            study(replicas=bad)


@pytest.mark.parametrize("bad", [0.0, -0.1, float("nan")])
def test_rates_that_do_not_stay_positive_are_refused(bad: float) -> None:
    for ladder in (sv.LearningRates, sv.BallisticRates):
        with pytest.raises(sv.InvalidInputError, match="all of them > 0"):
            ladder([0.1, bad])


def test_infinite_rates_and_levels_are_refused() -> None:
    with pytest.raises(sv.InvalidInputError, match="> 0 and finite; got inf"):
        sv.SGD(learning_rate=float("inf"))
    with pytest.raises(sv.InvalidInputError, match="a real number >= 1 .* got inf"):
        study(ladder=sv.SvagLevels([1, float("inf")]))


STUDY = """
import torch

import sdeverify as sv
from sdeverify import measures
from sdeverify.problems.library import torus_problem


def build(levels=(), rate=None, replicas=4, kappas=(), rules=None):
    problem = torus_problem()
    common = {
        "name": "toy",
        "title": "A toy",
        "optimizer": sv.SGD(learning_rate=rate or 0.1),
        "oracle": sv.GradientOracle(problem, sv.MinibatchNoise(2)),
        "start": sv.State(0, theta=torch.tensor([0.3, 0.4], dtype=torch.float64)),
        "steps": 4,
        "observables": [measures.loss(problem)],
        "replicas": replicas,
    }
    if kappas:
        return [sv.ScalingStudy(kappas=kappas, rules=rules, block_size=2, **common)]
    return [sv.Study(ladder=sv.SvagLevels(levels or [1, 2]), **common)]


STUDY = sv.Campaign("toy", "A toy", "Is it refused?", build)
"""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["levels=a"], "each of levels must be a number; got the text 'a'"),
        (["levels=1,b"], "each of levels must be a number; got the text 'b'"),
        (["rate=fast"], "learning_rate must be a number; got the text 'fast'"),
        (["kappas=a"], "each of kappas must be a number; got the text 'a'"),
        (["kappas=2", "rules=linear"], "rules are a list of names; got 'linear'"),
        (["kappas=2", "rules=3"], "rules are a list of names; got 3"),
    ],
)
def test_a_text_on_the_command_line_is_refused_in_one_message(
    tmp_path: Path, settings: list[str], said: str
) -> None:
    (tmp_path / "study.py").write_text(STUDY)
    words = [word for setting in settings for word in ("--set", setting)]
    output = ["--output", str(tmp_path / "out"), "--workers", "1"]
    shown = CliRunner().invoke(app, ["measure", str(tmp_path), *words, *output])
    assert shown.exit_code == 1
    assert shown.stderr.startswith("Error: ")
    assert said in " ".join(shown.stderr.split())
    assert not list(tmp_path.rglob("done"))
