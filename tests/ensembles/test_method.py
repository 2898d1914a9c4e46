"""Paths through torchsde: the same numbers as by our loop, the same refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import sdeverify as sv
from sdeverify.ensembles.build import path_job
from sdeverify.ensembles.options import Run

THETA = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)


def replicas(oracle: sv.GradientOracle, **how: Any) -> np.ndarray[Any, Any]:
    adam = sv.Adam(learning_rate=0.02, beta2=0.95, epsilon=1e-2)
    start = sv.State(20, theta=THETA, m=THETA, u=THETA.abs())
    observables = [sv.measures.coordinate(1, part) for part in ("theta", "m", "u")]
    options = {"replicas": 10, "block_size": 4, "substeps": (2, 4), "keep_replicas": True, **how}
    path = sv.solve(sv.derive(adam, oracle), start, 6, observables, **options)
    values: np.ndarray[Any, Any] = path["replicas"].values
    return values


def test_torchsde_gives_the_numbers_of_our_loop(small_oracle: sv.GradientOracle) -> None:
    ours = replicas(small_oracle, subsample=0)
    theirs = replicas(small_oracle, method="euler")
    np.testing.assert_allclose(theirs, ours, rtol=1e-11, atol=1e-13)
    assert not np.allclose(replicas(small_oracle, method="euler", seed=1), ours, rtol=1e-3)


def test_parts_of_a_block_have_the_numbers_of_the_whole(small_oracle: sv.GradientOracle) -> None:
    sde = sv.derive(sv.SGD(learning_rate=0.1), small_oracle)
    watched = [sv.measures.coordinate(1)]
    job = path_job(sde, THETA, 3, watched, Run(replicas=7), substeps=2, method="euler")
    whole = job.blocks[0]
    parts = [job.run_block(part) for part in whole.parts(3)]
    assert [len(part) for part in parts] == [3, 3, 1]
    np.testing.assert_allclose(np.concatenate(parts), job.run_block(whole), rtol=1e-13)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"method": "milstein"}, "needs the dense diffusion and noise that is diagonal.*order 2"),
        ({"method": "srk"}, "'srk' needs"),
        ({"method": "heun"}, "Stratonovich.*Use method='euler'"),
        ({"method": "Euler"}, "got 'Euler'. Did you mean 'euler'"),
        ({"method": "euler", "subsample": 3}, "with subsample=3. Leave out"),
        ({"method": "euler", "one_gradient": True}, "with one_gradient. Leave out"),
        ({"method": "euler", "substeps": (2, 3)}, "each a divisor of the last"),
    ],
)
def test_what_torchsde_cannot_do_here_is_refused(
    small_oracle: sv.GradientOracle, how: dict[str, Any], said: str
) -> None:
    with pytest.raises((sv.InvalidInputError, sv.UnsupportedError), match=said):
        replicas(small_oracle, **how)
