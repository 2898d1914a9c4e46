"""The conformance kit: our own plug-ins, tested because they exist, and wrong ones."""

from __future__ import annotations

import inspect
import runpy
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sdeverify as sv
from sdeverify import noise, optimizers, sdes
from sdeverify.errors import UnsupportedError
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.problems.library import circle_problem, torus_problem
from sdeverify.testing import check_noise, check_optimizer, check_sde, check_weak_order

TABLE = {"learning_rate": 0.1, "beta": 0.95, "epsilon": 0.1}
TYPICAL = {**TABLE, "momentum": 0.8, "beta2": 0.95}
"""Values of the hyperparameters that an optimizer has, by name."""
EXTRA = {"weight_decay": 0.05, "decoupled_weight_decay": 0.1, "dampening": 0.5}
"""Values of those that are 0 by default, tried one at a time; switches are tried as they are."""


def plug_ins(package: Any, base: type) -> dict[str, Any]:
    """The concrete classes that a package offers, by name."""
    return {
        name: kind
        for name in package.__all__
        if inspect.isclass(kind := getattr(package, name))
        and issubclass(kind, base)
        and not inspect.isabstract(kind)
    }


def variants(kind: Any) -> dict[str, Optimizer]:
    """An optimizer class with typical hyperparameters, and with each of its options in turn."""
    usual = {f.name: TYPICAL[f.name] for f in fields(kind) if f.name in TYPICAL}
    switches = {f.name: True for f in fields(kind) if f.default is False}
    extra = {f.name: EXTRA[f.name] for f in fields(kind) if f.name in EXTRA}
    made = {kind.__name__: kind(**usual)}
    for name, value in {**switches, **extra}.items():
        made[f"{kind.__name__}, {name}"] = kind(**usual, **{name: value})
    return made


OPTIMIZERS: dict[str, Optimizer] = {
    name: optimizer
    for kind in plug_ins(optimizers, Optimizer).values()
    for name, optimizer in variants(kind).items()
}


def sde_cases() -> dict[str, tuple[Any, Optimizer, dict[str, Any]]]:
    """Each SDE with each optimizer that it accepts, and with each of its switches."""
    oracle = sv.GradientOracle(torus_problem(), sv.MinibatchNoise(2))
    cases: dict[str, tuple[Any, Optimizer, dict[str, Any]]] = {}
    for sde, kind in plug_ins(sdes, sdes.SDE).items():
        if kind is sdes.GradientFlow:  # a yardstick, no model of the noise
            continue
        switches = [
            n for n, p in inspect.signature(kind.of).parameters.items() if p.default is False
        ]
        for name, optimizer in OPTIMIZERS.items():
            for options in ({}, *({switch: True} for switch in switches)):
                try:
                    kind.of(optimizer, oracle, **options)
                except UnsupportedError:
                    continue
                cases[" ".join([sde, "of", name, *options])] = (kind, optimizer, options)
    return cases


SDES = sde_cases()
QUICK = ["SGDFirstOrder of SGD", "SGDSecondOrder of SGD"]
NOISES: dict[str, noise.Noise] = {
    "MinibatchNoise": sv.MinibatchNoise(2),
    "MinibatchNoise, without replacement": sv.MinibatchNoise(2, replacement=False),
    "ShuffledEpochs": sv.ShuffledEpochs(2),
    "GaussianNoise": sv.GaussianNoise(torch.tensor([[1.0, 0.3], [0.0, 0.7]]).double(), 0.5),
    "GaussianNoise, of theta": sv.GaussianNoise(lambda x: x.cos().unsqueeze(-1), columns=1),
    "GaussianSurrogate": sv.GaussianSurrogate(sv.MinibatchNoise(2)),
    "AmplifiedNoise": sv.AmplifiedNoise(sv.MinibatchNoise(2), 1.7),
}


def test_every_plug_in_goes_through_the_kit() -> None:
    """Optimizers and SDEs are found; noises are too different and are held against those found."""
    assert set(plug_ins(noise, noise.Noise)) == {n.split(",")[0] for n in NOISES}
    assert len(OPTIMIZERS) >= 12
    checked = {kind.__name__ for kind, _, _ in SDES.values()}
    assert checked | {"GradientFlow"} == set(plug_ins(sdes, sdes.SDE))
    taken = {type(optimizer) for _, optimizer, _ in SDES.values()}
    assert taken == set(plug_ins(optimizers, Optimizer).values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_our_optimizers_conform(name: str) -> None:
    check_optimizer(OPTIMIZERS[name])


@pytest.mark.parametrize("case", SDES)
def test_our_sdes_conform(case: str) -> None:
    kind, optimizer, options = SDES[case]
    check_sde(kind, optimizer, **options)


@pytest.mark.parametrize("case", QUICK)
def test_our_sdes_have_their_weak_order_over_a_horizon(case: str) -> None:
    kind, optimizer, options = SDES[case]
    check_weak_order(kind, optimizer, **options)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in SDES if case not in QUICK])
def test_all_our_sdes_have_their_weak_order_over_a_horizon(case: str) -> None:
    kind, optimizer, options = SDES[case]
    check_weak_order(kind, optimizer, **options)


def test_an_sde_that_is_wrong_away_from_the_start_is_refuted_over_a_horizon() -> None:
    start = sv.State(0, theta=torch.tensor([2.0], dtype=torch.float64))

    class WrongElsewhere(sdes.SGDFirstOrder):
        def rest(self, t: float, y: Any, mean: Any, variance: Any) -> dict[str, torch.Tensor]:
            return {"theta": 0.5 * (1 - (y["theta"] - 2).cos()) ** 2}

    sgd = sv.SGD(learning_rate=0.2)
    oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
    check_sde(WrongElsewhere, sgd, oracle, start)
    with pytest.raises(AssertionError, match=r"(?s)WrongElsewhere is not seen.*cos x at step 8"):
        check_weak_order(WrongElsewhere, sgd, oracle, start)


@pytest.mark.parametrize("name", NOISES)
def test_our_noises_conform(name: str) -> None:
    """Fixed seed; a correct noise is refused with probability 1e-6 over seeds."""
    check_noise(NOISES[name])


def test_gradient_flow_is_told_that_it_lacks_the_noise() -> None:
    with pytest.raises(AssertionError, match=r"E d theta\[0\] d theta\[0\] per unit of time"):
        check_sde(sdes.GradientFlow, sv.SGD(learning_rate=0.1))


def test_a_wrong_sde_is_told_which_moment_differs_and_by_how_much() -> None:
    def cold(optimizer: Any, oracle: Any) -> sdes.GradientSDE:
        sde = sdes.derive(optimizer, oracle)
        return replace(sde, sigma0=sde.constants["sigma0"] ** 2)

    with pytest.raises(AssertionError, match="RMSprop does not have weak order 1") as caught:
        check_sde(cold, OPTIMIZERS["RMSprop"])
    assert "the optimizer has" in str(caught.value)
    assert "E d theta[0] per unit of time" in str(caught.value)


def test_a_wrong_clock_and_a_false_claim_are_named() -> None:
    optimizer = sv.SGD(learning_rate=0.1)

    def slow(optimizer: Any, oracle: Any) -> sdes.GradientSDE:
        sde = sdes.derive(optimizer, oracle)
        return replace(sde, time_per_level1_step=1.0)

    with pytest.raises(AssertionError, match="wrong clock at level 1"):
        check_sde(slow, optimizer)

    class Boastful(sdes.SGDFirstOrder):
        claimed_order = 2.0

    with pytest.raises(AssertionError, match="Boastful does not have weak order 2"):
        check_sde(Boastful, optimizer)


def test_an_sde_that_is_not_a_function_of_its_arguments_is_refused() -> None:
    class InPlace(sdes.SGDFirstOrder):
        def inject(self, t: float, y: Any, increment: Any) -> Any:
            return {"theta": -increment * y["theta"].mul_(1.0 + 1e-3)}

    with pytest.raises(AssertionError, match="InPlace"):
        check_sde(InPlace, sv.SGD(learning_rate=0.1))

    class Mixing(sdes.SGDFirstOrder):
        def inject(self, t: float, y: Any, increment: Any) -> Any:
            return {"theta": -increment.mean(0, keepdim=True).expand_as(increment)}

    with pytest.raises(AssertionError, match="alone"):
        check_sde(Mixing, sv.SGD(learning_rate=0.1))


@dataclass(frozen=True, kw_only=True)
class InPlaceSGD(sv.SGD):
    def step(self, k: int, y: Any, gradient: Any) -> dict[str, torch.Tensor]:
        return {"theta": y["theta"].sub_(self.rate(k) * gradient)}


@dataclass(frozen=True, kw_only=True)
class MixingSGD(sv.SGD):
    def step(self, k: int, y: Any, gradient: Any) -> dict[str, torch.Tensor]:
        return {"theta": y["theta"] - self.rate(k) * gradient.mean(0, keepdim=True)}


@dataclass(frozen=True, kw_only=True)
class OneWay(sv.SGDMomentum):
    def from_sde(self, state: Any, oracle: Any) -> dict[str, torch.Tensor]:
        return {"theta": state.theta, "momentum_buffer": state.p}


@dataclass(frozen=True, kw_only=True)
class OtherLevels(sv.RMSprop):
    def at_level(self, level: float) -> tuple[sv.RMSprop, float]:
        return replace(super().at_level(level)[0], beta=self.beta), level


@dataclass(frozen=True, kw_only=True)
class Relabelled(sv.SGD):
    def at_level(self, level: float) -> tuple[sv.SGD, float]:
        finer, amplification = super().at_level(level)
        return replace(finer, refinement=self.refinement), amplification


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (InPlaceSGD(learning_rate=0.1), "changes its input in place"),
        (MixingSGD(learning_rate=0.1), "of one replica, alone and among others"),
        (OneWay(learning_rate=0.1, momentum=0.8), r"from_sde\(to_sde"),
        (OtherLevels(**TABLE), "another SDE"),
        (Relabelled(learning_rate=0.1), "has refinement 1"),
    ],
)
def test_wrong_optimizers_are_told_why(optimizer: Optimizer, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_optimizer(optimizer)


@dataclass(frozen=True)
class Louder(sv.MinibatchNoise):
    def scale(self, problem: Any) -> float:
        return 1.1 * super().scale(problem)


@dataclass(frozen=True)
class LouderWithoutAtoms(Louder):
    def atoms(self, problem: Any) -> Any:
        raise UnsupportedError("no atoms")


@dataclass(frozen=True)
class NotLinear(sv.MinibatchNoise):
    def combine(self, coefficients: Sequence[float], draws: Sequence[Any]) -> Any:
        return draws[0]


@dataclass(frozen=True)
class Global(sv.MinibatchNoise):
    def draw(self, problem: Any, streams: Any, k: int) -> Any:
        return self._equal_weights(torch.randint(4, (streams.replicas, self.batch_size)))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (Louder(2), "the covariance of Louder's atoms"),
        (LouderWithoutAtoms(2), "the covariance of 40000 draws .* standard errors"),
        (NotLinear(2), "a combined draw"),
        (Global(2), "with one seed"),
    ],
)
def test_wrong_noises_are_told_why(wrong: noise.Noise, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_noise(wrong)


def test_the_example_of_a_new_sde_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example = Path(__file__).parents[1] / "docs" / "examples" / "new_sde.py"
    assert len(example.read_text().splitlines()) < 40
    runpy.run_path(str(example))
    assert capsys.readouterr().out.startswith("Supported: order 1 is claimed")
