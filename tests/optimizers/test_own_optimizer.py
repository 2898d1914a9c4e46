"""An optimizer of a user's own, in one file outside the package, goes wherever ours go."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import xarray as xr
from torch import nn
from typer.testing import CliRunner

import sdeverify as sv
from sdeverify.analysis import overall_verdict
from sdeverify.cli.app import app
from sdeverify.noise.oracle import GradientOracle
from sdeverify.problems.library import circle_problem
from sdeverify.study.certify import certified_order
from sdeverify.testing import check_optimizer, check_sde

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "own_optimizer.py"
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(24, 3, dtype=torch.float64, generator=GENERATOR)
TARGETS = torch.randn(24, 1, dtype=torch.float64, generator=GENERATOR)


@pytest.fixture(scope="module")
def own() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_optimizer", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_optimizer"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().mean(1)


def trained(own: ModuleType, steps: int = 5) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    live = own.TorchSoftSignum(net.parameters(), lr=0.02, beta=0.8)
    for k in range(steps):
        live.zero_grad()
        squared(net(INPUTS[k::5]), TARGETS[k::5]).mean().backward()
        live.step()
    return net, live


def typical(own: ModuleType) -> sv.Optimizer:
    optimizer: sv.Optimizer = own.SoftSignum(learning_rate=0.1, beta=0.7, delta=0.5)
    return optimizer


def test_the_example_is_one_short_file() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 80


def test_it_is_read_from_the_live_optimizer_and_steps_as_that_does(own: ModuleType) -> None:
    net, live = trained(own)
    problem = sv.problem_from_module(net, INPUTS, TARGETS, squared)
    oracle = GradientOracle(problem, sv.MinibatchNoise(4))
    ours = sv.optimizer_from_torch(live, problem)
    assert ours == own.SoftSignum(learning_rate=0.02, beta=0.8, delta=0.1)
    y = ours.from_sde(sv.start_from_torch(live, problem, oracle).expand(1), oracle)
    for k in range(3):
        live.zero_grad()
        squared(net(INPUTS), TARGETS).mean().backward()
        y = ours.step(5 + k, y, problem.gradient(y["theta"]))
        live.step()
    torch.testing.assert_close(y["theta"][0], sv.flatten_parameters(net))


def test_it_and_its_sde_pass_the_conformance_kit(own: ModuleType) -> None:
    check_optimizer(typical(own))
    check_sde(own.SoftSignumSDE, typical(own))


def with_half_the_noise(optimizer: sv.Optimizer, oracle: sv.GradientOracle) -> Any:
    sde = optimizer.sde(oracle)
    return replace(sde, intensity=0.5 * sde.intensity)


def test_a_wrong_sde_of_it_does_not_pass(own: ModuleType) -> None:
    with pytest.raises(AssertionError, match="SoftSignumSDE does not have weak order 1"):
        check_sde(with_half_the_noise, typical(own))


LADDER = sv.SvagLevels([1, 2, 4, 8])
OBSERVABLES = (
    sv.Observable("sin 2x", lambda s: (2 * s.theta[:, 0]).sin()),
    sv.Observable("m^2", lambda s: s.m[:, 0].square()),
)


@pytest.fixture(scope="module")
def study(own: ModuleType) -> sv.Study:
    """On the circle; delta is several standard deviations of m, so that grids resolve phi."""
    return sv.Study(
        name="soft-signum",
        title="SoftSignum",
        optimizer=own.SoftSignum(learning_rate=0.1, beta=0.7, delta=2.0),
        oracle=GradientOracle(circle_problem(), sv.MinibatchNoise(1)),
        start=sv.State(0, theta=torch.tensor([2.0]).double(), m=torch.tensor([0.5]).double()),
        steps=[8.0],
        observables=OBSERVABLES,
        ladder=LADDER,
        replicas=16384,
    )


@pytest.fixture(scope="module")
def certificate(study: sv.Study) -> xr.DataTree:
    return sv.certify(study).children["soft-signum"]


@pytest.mark.slow
def test_its_sde_is_certified(certificate: xr.DataTree) -> None:
    order = certificate["order"].to_dataset()
    assert (order["verdict"] == "supported").all()
    assert abs(order["order"] - 1).max() < 0.02


@pytest.mark.slow
def test_half_the_noise_is_refuted_without_sampling(
    study: sv.Study, certificate: xr.DataTree
) -> None:
    chains = [certificate[f"chain_{i}"].to_dataset() for i in range(4)]
    order = certified_order(replace(study, sde=with_half_the_noise), chains=chains)
    assert (order["verdict"] == "refuted").all()


@pytest.mark.slow
def test_its_ladder_is_measured_and_agrees_with_the_certificate(
    study: sv.Study, certificate: xr.DataTree
) -> None:
    """Eight sampled errors within 4.5 standard errors: a false alarm in 1.8e4 seeds."""
    sampled = sv.run(study)["soft-signum"]
    error, exact = (tree["errors"].to_dataset().isel(step=-1) for tree in (sampled, certificate))
    assert (abs(error["error"] - exact["error"]) < 4.5 * error["standard_error"]).all()
    assert overall_verdict(sampled["order"].to_dataset()).verdict != "refuted"


def test_its_ladder_refutes_half_the_noise(study: sv.Study) -> None:
    wrong = replace(study, sde=with_half_the_noise, replicas=4096)
    assert overall_verdict(sv.run(wrong)["soft-signum/order"].to_dataset()).verdict == "refuted"


def test_its_levels_and_its_rule_keep_the_sde(own: ModuleType) -> None:
    optimizer, oracle = typical(own), GradientOracle(circle_problem(), sv.MinibatchNoise(2))
    sde = sv.derive(optimizer, oracle)
    finer = sv.derive(*sv.svag(optimizer, oracle, 2))
    larger = sv.derive(sv.scale(optimizer, 2), sv.scale_batch(oracle, 2))
    for other in (finer, larger):
        assert other.constants == pytest.approx(sde.constants)
        assert other.time_per_level1_step == pytest.approx(sde.time_per_level1_step)


def test_a_live_one_is_scaled_and_refined_with_its_state(own: ModuleType) -> None:
    _, live = trained(own)
    scaled = sv.scale(live, 2)
    assert type(scaled) is own.TorchSoftSignum
    group = scaled.param_groups[0]
    assert (group["lr"], group["beta"]) == pytest.approx((0.04, 0.6))
    for parameter in group["params"]:
        assert torch.equal(scaled.state[parameter]["momentum"], live.state[parameter]["momentum"])
    fine = sv.TorchSVAG(live, 2).optimizer.param_groups[0]
    assert (fine["lr"], fine["beta"]) == pytest.approx((0.01, 0.9))


def test_it_is_solved_and_verified(own: ModuleType) -> None:
    net, live = trained(own)
    answer = sv.verify(
        net, INPUTS, TARGETS, squared, live, batch_size=4, steps=5, replicas=200, substeps=[1, 2]
    )
    assert isinstance(answer.sde, own.SoftSignumSDE)
    errors = answer.errors
    spread = answer.chain["standard_error"].isel(step=-1) * 200**0.5
    assert bool((abs(errors["error"].isel(step=-1)) < 0.5 * spread).all())


def test_the_command_line_takes_it_by_its_dotted_path(own: ModuleType) -> None:
    arguments = ["--optimizer", "own_optimizer.SoftSignum", "--lr", "0.1", "--kappa", "2"]
    result = CliRunner().invoke(app, ["scale", *arguments])
    assert result.exit_code == 0, result.output
    assert "SoftSignum" in result.output and "rule 'signum'" in result.output
