"""A noise from a user's own file is drawn, solved, scaled, laddered and verified like ours."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sdeverify as sv
from sdeverify.exact.spectral.spectral import exact_continuous, exact_discrete
from sdeverify.study.certify import default_domain
from sdeverify.testing import check_noise
from sdeverify.testing.faults import correct_studies

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "own_noise.py"
NOISE: Any = runpy.run_path(str(EXAMPLE))["ImportanceNoise"]
SGD = correct_studies()["sgd"]
ORACLE = replace(SGD.oracle, noise=NOISE(2, torch.tensor([3, 1, 2, 1, 1, 2]).double() / 10))


def test_the_example_is_short_and_its_sde_is_supported(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 80
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert capsys.readouterr().out.startswith("Supported: order 1 is claimed")


def test_equal_probabilities_are_mini_batches_with_replacement() -> None:
    equal = replace(SGD.oracle, noise=NOISE(2, torch.ones(6).double() / 6))
    batches = replace(SGD.oracle, noise=sv.MinibatchNoise(2))
    theta = torch.tensor([[0.3], [-1.2]]).double()
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(equal.noise_product(theta, z), batches.noise_product(theta, z))
    torch.testing.assert_close(equal.variance(theta), batches.variance(theta))
    assert equal.scale == pytest.approx(batches.scale, rel=1e-15)


def test_wrong_probabilities_in_the_covariance_are_told() -> None:
    class Wrong(NOISE):
        @property
        def covariance(self) -> Any:
            return sv.MinibatchNoise(2).covariance

    with pytest.raises(AssertionError, match="covariance of Wrong's atoms"):
        check_noise(Wrong(2, ORACLE.noise.p), ORACLE.problem)


def test_ensembles_of_both_sides_have_the_means_of_the_exact_route() -> None:
    """32 means within 5 standard errors: a false alarm in 1 of 50,000 seeds; one is fixed."""
    sde = sv.derive(SGD.optimizer, ORACLE)
    domain = default_domain(SGD)
    common = (SGD.start, 8, SGD.observables)
    chain = sv.simulate(SGD.optimizer, ORACLE, *common, replicas=4096)
    path = sv.solve(sde, *common, replicas=4096, substeps=(4, 8))
    sides = (
        (
            chain["mean"],
            chain["standard_error"],
            exact_discrete(SGD.optimizer, ORACLE, *common, domain),
        ),
        (
            path["extrapolated"],
            path["extrapolated_standard_error"],
            exact_continuous(sde, *common, domain),
        ),
    )
    for mean, error, exact in sides:
        within = np.abs(mean - exact["mean"]) <= 5 * error + 1e-12
        assert within.size == 18
        assert bool(within.all())


def test_it_grows_with_a_batch_and_refuses_what_is_no_batch() -> None:
    doubled = sv.scale_batch(ORACLE, 2)
    assert doubled.noise.batch_size == 4
    assert doubled.scale == pytest.approx(ORACLE.scale / 2**0.5)
    assert sv.scale_batch(ORACLE.amplified(3.0), 0.5).scale == pytest.approx(3.0)
    with pytest.raises(sv.InvalidInputError, match="whole number"):
        sv.scale_batch(ORACLE, 0.3)


def test_what_it_cannot_do_is_refused_by_name() -> None:
    rmsprop = sv.RMSprop(learning_rate=0.1, beta=0.95)
    with pytest.raises(sv.UnsupportedError, match="scale of ImportanceNoise is fixed.*SvagLevels"):
        sv.LearningRates([0.1, 0.05]).rungs(rmsprop, ORACLE)
    sde = sv.derive(SGD.optimizer, ORACLE)
    with pytest.raises(sv.UnsupportedError, match="sub-sampling.*ImportanceNoise"):
        sv.solve(sde, SGD.start, 2, SGD.observables, replicas=4, subsample=2)


def test_a_live_run_is_verified_against_the_sde_of_its_own_noise() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(6, 2).double(), torch.randn(6, 1).double()
    net = nn.Linear(2, 1).double()
    sgd = torch.optim.SGD(net.parameters(), lr=0.05)

    def loss(outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return (outputs - wanted).square().flatten(1).mean(1)

    own = {"noise": ORACLE.noise, "steps": 4, "replicas": 64}
    answer = sv.verify(net, inputs, targets, loss, sgd, **own)
    assert answer.sde.oracle.noise is ORACLE.noise
    assert answer.sde.constants["temperature"] == pytest.approx(0.05 / 2)
    assert "SGD against its SDE" in str(answer)
