"""What the exact route refuses before it starts, and that the message names the remedy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from sdeverify.base.state import State
from sdeverify.ensembles.observables import Observable
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.exact import (
    Interval,
    Moving,
    Periodic,
    Positive,
    exact_continuous,
    exact_discrete,
    exact_weak_error,
)
from sdeverify.noise import MinibatchNoise, ShuffledEpochs
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers import SGD, Adam, RMSprop, SGDMomentum
from sdeverify.problems.library import circle_problem, line_problem, torus_problem
from sdeverify.sdes import RMSpropSDE, SGDFirstOrder

COS = [Observable("cos", lambda s: torch.cos(s.theta[:, 0]))]
CIRCLE = GradientOracle(circle_problem(), MinibatchNoise(1))
LINE = GradientOracle(line_problem(), MinibatchNoise(1))
CALM = SGD(learning_rate=0.1)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def chain(optimizer: Any, oracle: Any, start: State, domain: Any, steps: Any = 2) -> Any:
    return exact_discrete(optimizer, oracle, start, steps, COS, domain)


def test_an_interval_that_the_chain_leaves_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"out of its Interval.*Widen.*Moving\(\)"):
        chain(CALM, LINE, State(0, theta=tensor(0.1)), {"theta": Interval(-0.2, 0.2, 24)})


def test_an_interval_that_the_sde_leaves_is_refused() -> None:
    sde = SGDFirstOrder.of(CALM, LINE)
    start = State(0, theta=tensor(0.6))
    with pytest.raises(InvalidInputError, match=r"the SDE leaves the Interval.*outward"):
        exact_continuous(sde, start, 2, COS, {"theta": Interval(0.5, 3, 24)})


def test_too_few_points_are_refused() -> None:
    start = State(0, theta=tensor(2.0))
    for axis in (Periodic(6), Periodic(8), Periodic(64, box_points=8)):
        with pytest.raises(InvalidInputError, match="too coarse a grid.*or none at all"):
            chain(CALM, CIRCLE, start, {"theta": axis})
    with pytest.raises(InvalidInputError, match="too coarse a grid"):
        Moving(2)


def test_a_grid_that_does_not_resolve_an_observable_is_refused() -> None:
    sde = SGDFirstOrder.of(CALM, CIRCLE)
    few = {"theta": Periodic(18, box_points=12)}
    wiggly = [Observable("cos 9", lambda s: torch.cos(9 * s.theta[:, 0]))]
    with pytest.raises(InvalidInputError, match=r"observable 'cos 9' is not resolved.*more points"):
        exact_continuous(sde, State(0, theta=tensor(2.0)), 2, wiggly, few)


def test_more_than_three_dimensions_are_refused() -> None:
    oracle = GradientOracle(torus_problem(), MinibatchNoise(1))
    start = State(1, theta=tensor(1, 1), m=tensor(0, 0), u=tensor(1, 1))
    with pytest.raises(UnsupportedError, match="6 dimensions"):
        chain(Adam(learning_rate=0.1), oracle, start, {"theta": Periodic()})


def test_noise_without_atoms_is_refused() -> None:
    start, domain = State(0, theta=tensor(2.0)), {"theta": Periodic()}
    for noise in (CIRCLE.gaussian().noise, ShuffledEpochs(2)):
        with pytest.raises(UnsupportedError, match="MinibatchNoise"):
            chain(CALM, GradientOracle(circle_problem(), noise), start, domain)


def test_a_start_outside_the_domain_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="outside its Interval"):
        chain(CALM, LINE, State(0, theta=tensor(3.0)), {"theta": Interval(-2, 2)})
    rmsprop = RMSprop(learning_rate=0.1)
    still = State(0, theta=tensor(2.0), u=tensor(0.0))
    with pytest.raises(InvalidInputError, match=r"u\[0\] = 0.*warm up"):
        chain(rmsprop, CIRCLE, still, {"theta": Periodic()})
    with pytest.raises(InvalidInputError, match="must be finite"):
        chain(CALM, CIRCLE, State(0, theta=tensor(float("nan"))), {"theta": Periodic()})


def test_a_component_that_is_missing_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="says nothing of 'theta'"):
        chain(CALM, CIRCLE, State(0, theta=tensor(2.0)), {"u": Positive()})
    momentum = SGDMomentum(learning_rate=0.1, momentum=0.5)
    with pytest.raises(InvalidInputError, match="the start has no p"):
        chain(momentum, CIRCLE, State(0, theta=tensor(2.0)), {"theta": Periodic()})


def test_a_component_that_nobody_has_is_refused_by_name() -> None:
    domain = {"theta": Periodic(), "velocity": Moving()}
    with pytest.raises(InvalidInputError, match=r"names velocity.*it has theta"):
        chain(CALM, CIRCLE, State(0, theta=tensor(2.0)), domain)


def test_what_does_not_have_the_period_of_its_axis_is_refused() -> None:
    start, domain = State(0, theta=tensor(2.0)), {"theta": Periodic()}
    straight = [Observable("x", lambda s: s.theta[:, 0])]
    sde = SGDFirstOrder.of(CALM, CIRCLE)
    with pytest.raises(InvalidInputError, match=r"observable 'x' does not have the period.*Moving"):
        exact_discrete(CALM, CIRCLE, start, 2, straight, domain)
    with pytest.raises(InvalidInputError, match=r"observable 'x' does not have the period.*Moving"):
        exact_continuous(sde, start, 2, straight, domain)
    decaying = replace(CALM, weight_decay=0.1)
    with pytest.raises(InvalidInputError, match="the step of SGD does not have the period"):
        chain(decaying, CIRCLE, start, domain)
    with pytest.raises(InvalidInputError, match="drift and noise of SGDFirstOrder do not have"):
        exact_continuous(SGDFirstOrder.of(decaying, CIRCLE), start, 2, COS, domain)
    half = {"theta": Periodic(length=math.pi)}
    with pytest.raises(InvalidInputError, match="period 3.14159"):
        chain(CALM, CIRCLE, start, half)


def test_a_grid_that_cannot_hold_the_law_is_refused_instead_of_giving_noise() -> None:
    momentum = SGDMomentum(learning_rate=0.2, momentum=0.9)
    start = State(0, theta=tensor(2.0), p=tensor(0.0))
    domain = {"theta": Periodic(12, box_points=12), "p": Moving(12)}
    with pytest.raises(InvalidInputError, match=r"too coarse a grid.*more points"):
        chain(momentum, CIRCLE, start, domain, [60])


def test_an_axis_for_each_parameter_is_wanted() -> None:
    oracle = GradientOracle(torus_problem(), MinibatchNoise(1))
    with pytest.raises(InvalidInputError, match="one for each of 2 parameters"):
        chain(CALM, oracle, State(0, theta=tensor(1, 1)), {"theta": [Periodic()]})


def test_an_ensemble_as_start_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="the start is one point"):
        chain(CALM, CIRCLE, State(0, theta=torch.ones(3, 1)), {"theta": Periodic()})


def test_steps_that_are_no_steps_are_refused() -> None:
    start, domain = State(0, theta=tensor(2.0)), {"theta": Periodic()}
    for steps in ([], [-1], 0):
        with pytest.raises(InvalidInputError, match="steps"):
            chain(CALM, CIRCLE, start, domain, steps)
    uneven, _ = CALM.at_level(1.5)
    with pytest.raises(InvalidInputError, match="not a whole number"):
        chain(uneven, CIRCLE, start, domain, [1])


def test_observables_of_the_wrong_shape_or_without_names_are_refused() -> None:
    start, domain = State(0, theta=tensor(2.0)), {"theta": Periodic()}

    @dataclass
    class Wrong:
        name: str

        def __call__(self, state: State) -> torch.Tensor:
            return state.theta

    with pytest.raises(InvalidInputError, match=r"must give\s+one number a replica"):
        exact_discrete(CALM, CIRCLE, start, 2, [Wrong("all")], domain)
    with pytest.raises(InvalidInputError, match="different names"):
        exact_discrete(CALM, CIRCLE, start, 2, [*COS, *COS], domain)


def test_a_problem_in_single_precision_is_refused() -> None:
    single = GradientOracle(replace(circle_problem(), dtype=torch.float32), MinibatchNoise(1))
    with pytest.raises(InvalidInputError, match="float64"):
        chain(CALM, single, State(0, theta=tensor(2.0)), {"theta": Periodic()})


def test_periods_and_intervals_without_sense_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="period"):
        Periodic(length=0)
    with pytest.raises(InvalidInputError, match="low < high"):
        Interval(1, 1)


def test_an_sde_that_is_not_finite_on_the_domain_is_refused() -> None:
    rmsprop = RMSprop(learning_rate=0.1)
    sde = RMSpropSDE.of(rmsprop, CIRCLE)
    start = State(0, theta=tensor(2.0), u=tensor(0.3))
    domain = {"theta": Periodic(), "u": Interval(-1, 1)}
    with pytest.raises(InvalidInputError, match="not finite"):
        exact_continuous(sde, start, 2, COS, domain)


def test_a_plain_parameter_vector_is_a_start_where_there_is_no_other_state() -> None:
    sde = SGDFirstOrder.of(CALM, CIRCLE)
    domain = {"theta": Periodic(128)}
    errors = exact_weak_error(CALM, CIRCLE, sde, tensor(2.0), 2, COS, domain)
    assert list(errors.step.values) == [0, 1, 2]
