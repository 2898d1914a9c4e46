"""A ladder from a user's own file certifies, is controlled and is reported like ours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr

import sdeverify as sv
from sdeverify.optimizers.ladders import Rung
from sdeverify.study.certify import certified_order, one_step_order
from sdeverify.testing.faults import correct_studies


@dataclass(frozen=True)
class LouderNoise(sv.Ladder):
    """The learning rate falls by f^2 while the noise grows by f: SGD's SDE stays."""

    factors: tuple[float, ...]

    kind = "louder"
    label_name = "noise_factor"
    along = "noise that grows as the learning rate falls"
    cannot_tell = "Nothing is said of noise that is not free."

    def rungs(self, optimizer: Any, oracle: Any) -> list[Rung]:
        return [
            Rung(
                factor,
                optimizer.at_learning_rate(optimizer.learning_rate / factor**2),
                replace(oracle, noise=oracle.noise.rescaled(factor)),
            )
            for factor in self.factors
        ]


NORMAL = sv.GaussianNoise(torch.tensor([[1.0]]).double(), sigma=0.5)
SGD = correct_studies()["sgd"]
STUDY = replace(
    SGD, oracle=replace(SGD.oracle, noise=NORMAL), ladder=LouderNoise((1.0, 2**0.5, 2.0, 8**0.5))
)


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    """The certificate of the right SDE."""
    return sv.certify(STUDY)


def verdict(order: xr.Dataset, flow: xr.Dataset) -> str:
    return sv.overall_verdict(order, flow=flow).verdict


def halved(optimizer: Any, oracle: Any) -> Any:
    sde = sv.derive(optimizer, oracle)
    return replace(sde, temperature=sde.constants["temperature"] / 2)


def test_its_rungs_share_one_sde_whose_right_form_is_certified_and_reported(
    tree: xr.DataTree, tmp_path: Path
) -> None:
    sdes, belongs = STUDY.sdes()
    assert [len(sdes), *belongs] == [1, 0, 0, 0, 0]
    order, flow = (tree[f"sgd/{name}"].to_dataset() for name in ("order", "flow_order"))
    assert verdict(order, flow) == "supported"
    assert order.attrs["tests_noise"] is True
    sv.write_report(tree, tmp_path)
    (page,) = tmp_path.glob("**/report.html")
    text = page.read_text()
    for words in ("noise that grows as the", "noise factor = 2", "noise that is not free"):
        assert words in text


def test_half_the_noise_is_refuted_along_it() -> None:
    order = certified_order(replace(STUDY, sde=halved))
    assert sv.overall_verdict(order).verdict == "refuted"


def test_one_step_moments_are_compared_along_its_own_rungs() -> None:
    order = one_step_order(STUDY)
    assert STUDY.ladder.fine(STUDY.optimizer) is STUDY.ladder
    assert "refuted" not in order["verdict"].values
    assert "refuted" in one_step_order(replace(STUDY, sde=halved))["verdict"].values


def test_a_ladder_that_says_nothing_of_the_noise_is_asked_for_the_control(
    tree: xr.DataTree,
) -> None:
    order = tree["sgd/order"].to_dataset()
    assert verdict(order, flow=order) == "inconclusive"


@pytest.mark.parametrize(
    ("name", "wanted"), [("svag", "inconclusive"), ("learning_rate", "supported")]
)
def test_results_that_only_name_their_ladder_are_judged_as_before(
    tree: xr.DataTree, name: str, wanted: str
) -> None:
    old = tree["sgd/order"].to_dataset()
    old.attrs = {"ladder": name, "claimed_order": 1.0}
    assert verdict(old, flow=old) == wanted
