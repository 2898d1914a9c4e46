"""The conformance kit: our own plug-ins, tested because they exist, and wrong ones."""

from __future__ import annotations

import inspect
import pkgutil
import runpy
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
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


NOISE_VALUES: dict[str, Any] = {
    "batch_size": 2,
    "base": sv.MinibatchNoise(2),
    "of": sv.MinibatchNoise(2),
    "amplification": 1.7,
    "factor": torch.tensor([[1.0, 0.3], [0.0, 0.7]]).double(),
    "sigma": 0.5,
}
"""What noises are made of, by the name of the argument."""
NOISE_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "factor": [
        {"factor": torch.tensor([1.0, 0.7]).double()},
        {"factor": lambda x: x.cos().unsqueeze(-1), "columns": 1},
    ],
}
"""Other forms of an argument, tried one at a time; switches are tried as they are."""


def plug_ins(package: Any, base: type) -> dict[str, Any]:
    """The concrete subclasses of `base` that a package's modules define, by name."""
    modules = [
        import_module(found.name)
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return {
        kind.__name__: kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind)
        and kind.__module__ == module.__name__
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
        for name, optimizer in OPTIMIZERS.items():
            builder = kind.of if "of" in vars(kind) else optimizer.sde
            parameters = inspect.signature(builder).parameters
            switches = [n for n, p in parameters.items() if p.default is False]
            for options in ({}, *({switch: True} for switch in switches)):
                try:
                    kind.of(optimizer, oracle, **options)
                except UnsupportedError:
                    continue
                cases[" ".join([sde, "of", name, *options])] = (kind, optimizer, options)
    return cases


SDES = sde_cases()
QUICK = ["SGDFirstOrder of SGD", "SGDSecondOrder of SGD"]
NOISES = plug_ins(noise, noise.Noise)


def examples(kind: Any) -> list[noise.Noise]:
    """A noise class with the values above, and with each of its options in turn."""
    parameters = inspect.signature(kind).parameters
    needed = [n for n, p in parameters.items() if p.default is p.empty and n not in NOISE_VALUES]
    assert not needed, (
        f"{kind.__name__} has no example to be checked with: "
        f"add a value of {', '.join(needed)} to NOISE_VALUES."
    )
    usual = {n: NOISE_VALUES[n] for n in parameters if n in NOISE_VALUES}
    switches = [{n: not p.default} for n, p in parameters.items() if isinstance(p.default, bool)]
    other = [options for n in parameters for options in NOISE_OPTIONS.get(n, [])]
    return [kind(**{**usual, **options}) for options in ({}, *switches, *other)]


def test_every_plug_in_goes_through_the_kit() -> None:
    """All are found in the package's modules; what is found is also what the package offers."""
    for package, base in ((noise, noise.Noise), (optimizers, Optimizer), (sdes, sdes.SDE)):
        assert set(plug_ins(package, base)) <= set(package.__all__)
    assert len(NOISES) >= 5
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


def test_a_fault_away_from_what_a_short_run_visits_is_refuted() -> None:
    """The drift is half as large again around x = 2.6."""

    class Bumpy(sdes.SGDFirstOrder):
        def inject(self, t: float, y: Any, increment: Any) -> dict[str, torch.Tensor]:
            return {"theta": -increment}

        def rest(self, t: float, y: Any, mean: Any, variance: Any) -> dict[str, torch.Tensor]:
            bump = (-((y["theta"] - 2.6) / 0.3).square()).exp()
            return {"theta": -0.5 * bump * mean}

        uses_moments = True

    with pytest.raises(AssertionError, match="Bumpy does not have weak order 1"):
        check_sde(Bumpy, sv.SGD(learning_rate=0.1))


@pytest.mark.parametrize("claimed", [0.5, 1.4, 3.0])
def test_an_order_that_cannot_be_checked_is_refused(claimed: float) -> None:
    class Between(sdes.SGDFirstOrder):
        claimed_order = claimed

        @property
        def intensity(self) -> float:
            return 10 * super().intensity

    for check in (check_sde, check_weak_order):
        with pytest.raises(sv.InvalidInputError, match=f"got a claim of {claimed:g}"):
            check(Between, sv.SGD(learning_rate=0.1))
    Between.claimed_order = 1.0
    with pytest.raises(AssertionError, match="Between does not have weak order 1"):
        check_sde(Between, sv.SGD(learning_rate=0.1))


@pytest.mark.parametrize("name", ["f", "g_prod"])
def test_an_sde_that_overrides_what_follows_from_its_parts_is_refused(name: str) -> None:
    with pytest.raises(sv.InvalidInputError, match=f"Own overrides {name}"):
        type("Own", (sdes.SGDFirstOrder,), {name: lambda self, t, y, *v: y})


@pytest.mark.parametrize("factor", [0.0, 2.0, 10.0])
def test_an_observable_that_cannot_see_the_noise_does_not_support(factor: float) -> None:
    """Losses (x - c)^2/2: the mean of x does not depend on the noise."""

    class Scaled(sdes.SGDFirstOrder):
        @property
        def intensity(self) -> float:
            return factor * super().intensity

    centres = torch.tensor([[-1.0], [0.2], [0.5], [1.1]], dtype=torch.float64)
    problem = sv.FunctionProblem(lambda x: 0.5 * (x - centres).square().sum(-1), dim=1, samples=4)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(2))
    x = sv.Observable("x", lambda state: state.theta[:, 0])
    start = sv.State(0, theta=torch.tensor([1.5], dtype=torch.float64))
    with pytest.raises(AssertionError, match="does not see the noise"):
        check_weak_order(
            Scaled, sv.SGD(learning_rate=0.1), oracle, start=start, observables=[x], steps=(4, 8)
        )


def test_the_check_over_a_horizon_keeps_to_its_time() -> None:
    with pytest.raises(UnsupportedError, match="in the time that it was given"):
        check_weak_order(sdes.AdamSDE, OPTIMIZERS["Adam"], seconds=0.5)


@pytest.mark.parametrize("name", NOISES)
def test_our_noises_conform(name: str) -> None:
    """Fixed seed; a correct noise is refused with probability 1e-6 over seeds."""
    for example in examples(NOISES[name]):
        check_noise(example)


@dataclass(frozen=True)
class Heated(sv.MinibatchNoise):
    temperature: float = field(kw_only=True)


def test_a_noise_without_an_example_is_named_with_what_it_needs() -> None:
    with pytest.raises(AssertionError, match="Heated has no example.* a value of temperature to"):
        examples(Heated)


def test_gradient_flow_is_told_that_it_lacks_the_noise() -> None:
    with pytest.raises(AssertionError, match=r"E d theta\[0\] d theta\[0\] per unit of time"):
        check_sde(sdes.GradientFlow, sv.SGD(learning_rate=0.1))


def test_a_wrong_sde_is_told_which_moment_differs_and_by_how_much() -> None:
    def cold(optimizer: Any, oracle: Any) -> sdes.GradientSDE:
        sde = sv.derive(optimizer, oracle)
        return replace(sde, sigma0=sde.constants["sigma0"] ** 2)

    with pytest.raises(AssertionError, match="RMSpropSDE does not have weak order 1") as caught:
        check_sde(cold, OPTIMIZERS["RMSprop"])
    assert "the optimizer has" in str(caught.value)
    assert "E d theta[0] per unit of time" in str(caught.value)


def test_a_wrong_clock_and_a_false_claim_are_named() -> None:
    optimizer = sv.SGD(learning_rate=0.1)

    def slow(optimizer: Any, oracle: Any) -> sdes.GradientSDE:
        sde = sv.derive(optimizer, oracle)
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
    def advance(self, k: int, y: Any, gradient: Any) -> dict[str, torch.Tensor]:
        return {"theta": y["theta"] - gradient.mul_(self.rate(k))}


@dataclass(frozen=True, kw_only=True)
class MixingSGD(sv.SGD):
    def advance(self, k: int, y: Any, gradient: Any) -> dict[str, torch.Tensor]:
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
        (InPlaceSGD(learning_rate=0.1), "changes the gradient in place"),
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


@dataclass(frozen=True)
class Parted(sv.MinibatchNoise):
    def part(self, draw: Any, replicas: slice) -> Any:
        return super().part(draw, slice(0, replicas.stop - replicas.start))


@dataclass(frozen=True)
class LouderWhenLarger(sv.MinibatchNoise):
    def of_batch(self, kappa: float, problem: Any) -> Any:
        return replace(self, batch_size=1)


@dataclass(frozen=True)
class OtherWhenLouder(sv.GaussianNoise):
    def rescaled(self, factor: float) -> Any:
        return replace(self, sigma=self.sigma * factor, factor=2 * self.factor)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (Parted(2), "a part of a draw of Parted"),
        (LouderWhenLarger(2), "it must fall"),
        (OtherWhenLouder(torch.eye(2).double()), "F of OtherWhenLouder"),
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
    example = Path(__file__).parents[2] / "docs" / "examples" / "new_sde.py"
    assert len(example.read_text().splitlines()) < 40
    runpy.run_path(str(example))
    assert capsys.readouterr().out.startswith("Supported: order 1 is claimed")
