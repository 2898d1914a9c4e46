"""Euler-Maruyama keeps weak order 1 in its step in every form, computed without sampling."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import sdeverify as sv
from sdeverify.ensembles.steppers.increments import FullBatch, Increments, Subsampled
from sdeverify.noise.covariance import centred
from sdeverify.study.certify import default_domain
from sdeverify.testing.faults import correct_studies

CORRECT = correct_studies()
U = sv.Observable("u", lambda s: s.components["u"][:, 0])


def certified(name: str, form: Increments, substeps: tuple[int, ...]) -> xr.DataTree:
    study = CORRECT[name]
    sde = study.sdes()[0][0]
    seen = [*study.observables, *([U] if "u" in sde.components else [])]
    return sv.certify_integrator(
        sde, study.start, [4], substeps, seen, default_domain(study), increments=form, nodes=10
    )


def final_errors(tree: xr.DataTree) -> np.ndarray:
    return np.asarray(tree["errors"]["error"].values[:, -1])


class WithoutBesselsFactor(Subsampled):
    """The subset's normals have s rather than the step's covariance: n/(n - 1) is forgotten."""

    def _weights(self, sde, dt, normals):  # type: ignore[no-untyped-def]
        n = self.samples
        spread = math.sqrt(sde.intensity**2 * dt - dt**2 / n)
        return dt / n + (spread / math.sqrt(n)) * centred(normals)


@pytest.mark.parametrize(
    ("name", "form", "substeps"),
    [
        ("sgd", FullBatch(), (1, 2, 4, 8)),
        ("sgd", Subsampled(3), (1, 2, 4)),
        ("rmsprop", FullBatch(), (1, 2, 4)),
        ("rmsprop", FullBatch(one_gradient=True), (1, 2, 4)),
        ("momentum", FullBatch(), (1, 2, 4)),
    ],
)
def test_every_form_of_the_step_has_weak_order_one(
    name: str, form: Increments, substeps: tuple[int, ...]
) -> None:
    tree = certified(name, form, substeps)
    verdict = sv.overall_verdict(tree["order"].to_dataset())
    assert verdict.verdict == "supported", str(verdict)
    assert verdict.refuted == 0
    slopes = np.log2(np.abs(final_errors(tree)[-2] / final_errors(tree)[-1]))
    assert np.abs(slopes - 1).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("rmsprop", Subsampled(3)),
        ("adam", FullBatch()),
        ("adam", FullBatch(one_gradient=True)),
    ],
)
def test_adaptive_sdes_have_weak_order_one_in_every_form(name: str, form: Increments) -> None:
    errors = final_errors(certified(name, form, (1, 2, 4)))
    slopes = np.log2(np.abs(errors[-2] / errors[-1]))
    assert np.abs(slopes - 1).max() < 0.12


def test_a_subset_without_bessels_factor_leaves_an_error_that_does_not_vanish() -> None:
    tree = certified("sgd", WithoutBesselsFactor(3), (1, 2, 4))
    assert sv.overall_verdict(tree["order"].to_dataset()).verdict == "refuted"


def test_the_one_gradient_form_has_a_larger_constant_for_u_that_extrapolation_removes() -> None:
    full = final_errors(certified("rmsprop", FullBatch(), (2, 4)))
    one = final_errors(certified("rmsprop", FullBatch(one_gradient=True), (2, 4)))
    in_u = abs(one[-1, -1] / full[-1, -1])
    assert 10 < in_u < 30
    extrapolated = 2 * one[1] - one[0]
    assert np.all(np.abs(extrapolated) < 0.06 * np.abs(one[1]))


def test_atoms_of_an_increment_have_its_mean_and_covariance() -> None:
    sde = CORRECT["sgd"].sdes()[0][0]
    theta, dt = torch.tensor([[0.3], [2.0]], dtype=torch.float64), 0.02
    mean, variance = sde.oracle.mean_and_variance(theta)
    for form in (FullBatch(), Subsampled(2), Subsampled(3)):
        weights, drawn = form.atoms(sde, theta, dt, 6)
        repeated = theta.repeat_interleave(len(weights), 0)
        kicks = form.evaluate(sde, repeated, drawn).increment.reshape(2, -1)
        assert weights.sum().item() == pytest.approx(1, abs=1e-14)
        torch.testing.assert_close(kicks @ weights, mean[:, 0] * dt)
        spread = (kicks - mean * dt).square() @ weights
        torch.testing.assert_close(spread, sde.intensity**2 * dt * variance[:, 0])


def test_one_step_size_or_descending_ones_are_refused() -> None:
    study = CORRECT["sgd"]
    sde = study.sdes()[0][0]
    with pytest.raises(sv.InvalidInputError, match="two or more ascending"):
        sv.certify_integrator(sde, study.start, [4], (2,), study.observables, {})


def test_the_form_refuses_what_the_sampled_integrator_refuses() -> None:
    study = CORRECT["sgd"]
    sde = replace(study.sdes()[0][0])
    with pytest.raises(sv.InvalidInputError, match="noisier than the SDE"):
        sv.certify_integrator(
            sde, study.start, [4], (1, 2), study.observables, {}, increments=Subsampled(2)
        )
