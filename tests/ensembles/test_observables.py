"""What an observable may not do: write, give complex numbers, give something else than numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sdeverify as sv

THETA = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)


def watched(function: Any, oracle: sv.GradientOracle) -> None:
    observables = [sv.Observable("mine", function), sv.measures.coordinate(0)]
    sv.simulate(sv.SGD(learning_rate=0.1), oracle, THETA, 2, observables, replicas=4)


def test_one_that_writes_into_the_state_is_refused_by_name(small_oracle: sv.GradientOracle) -> None:
    with pytest.raises(sv.InvalidInputError, match=r"'mine' writes into the state's theta.*clone"):
        watched(lambda state: state.theta.mul_(0).sum(1), small_oracle)
    watched(lambda state: state.theta.clone().mul_(0).sum(1), small_oracle)


def test_complex_numbers_are_refused(small_oracle: sv.GradientOracle) -> None:
    with pytest.raises(sv.InvalidInputError, match="real numbers; got torch.complex128"):
        watched(lambda state: (1j * state.theta).exp().sum(1), small_oracle)


@pytest.mark.parametrize("value", [1.0, torch.tensor(1.0), torch.zeros(4, 1)])
def test_one_number_a_replica_is_wanted(small_oracle: sv.GradientOracle, value: Any) -> None:
    with pytest.raises(sv.InvalidInputError, match="one number a replica"):
        watched(lambda state: value, small_oracle)


def test_what_is_not_finite_at_the_start_is_not_called_divergence(
    small_oracle: sv.GradientOracle,
) -> None:
    with pytest.raises(sv.SdeverifyError, match="not finite at the start itself, step 0"):
        watched(lambda state: (0 * state.theta[:, 0]).log() - torch.inf, small_oracle)
