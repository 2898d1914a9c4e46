"""A memory budget is kept, and cutting the work to fit it changes no result."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import sdeverify as sv
from sdeverify.base.arguments import memory_budget
from sdeverify.base.compiling import has_compiler
from sdeverify.base.cutting import COMPILER, OVERHEAD
from sdeverify.base.rng import Block, Streams
from sdeverify.ensembles.memory import Footprint
from sdeverify.problems.digits import digits_problem
from sdeverify.problems.gradients.chunks import Chunks, Cost, memory_limit

MB = 1 << 20
ADAM = sv.Adam(learning_rate=1e-3, epsilon=1e-2)

PEAK = """
import json, sys
from dataclasses import replace
import torch
import sdeverify as sv
from sdeverify import measures
from sdeverify.problems.digits import digits_problem

torch.set_num_threads(1)
case = json.loads(sys.argv[1])

def run(samples, hidden, replicas, memory):
    problem, theta = digits_problem(samples, hidden)
    problem = replace(problem, compiled=case.get("compiled", False))
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(32))
    rate = dict(learning_rate=1e-3)
    optimizer = sv.SGD(**rate) if case["optimizer"] == "SGD" else sv.Adam(**rate, epsilon=1e-2)
    state = theta.abs() + 1e-3
    start = sv.State(5, theta=theta, m=state, u=state) if case["optimizer"] != "SGD" else theta
    seen = [measures.loss(problem), measures.squared_gradient_norm(problem)]
    how = dict(replicas=replicas, memory=memory)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is counted from here
    before = status("VmRSS")
    if case["side"] == "chain":
        sv.simulate(optimizer, oracle, start, 2, seen, **how)
    else:
        subsample = case["subsample"]
        sv.solve(sv.derive(optimizer, oracle), start, 1, seen, subsample=subsample, **how)
    return status("VmHWM") - before

def status(name):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))

if not case.get("compiled"):
    run(64, 8, 4, None)
print(run(400, case["hidden"], case["replicas"], case["memory"]))
"""


def peak(**case: object) -> int:
    """Bytes that a run adds at its peak to what its process held before."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, json.dumps(case)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


BUDGET = 56 * MB
CASES = [
    {"side": "path", "optimizer": "SGD", "subsample": 0, "hidden": 1024},
    {"side": "path", "optimizer": "Adam", "subsample": 0, "hidden": 512},
    {"side": "path", "optimizer": "Adam", "subsample": 32, "hidden": 512},
    {"side": "chain", "optimizer": "Adam", "subsample": 0, "hidden": 512},
]
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_budget_is_never_exceeded_where_it_binds(case: dict[str, object]) -> None:
    assert peak(**case, memory=BUDGET, replicas=64) <= BUDGET
    assert peak(**case, memory=None, replicas=64) > BUDGET


@LINUX
@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(torch.device("cpu")), reason="there is no C++ compiler")
@pytest.mark.parametrize("case", CASES)
def test_a_budget_has_room_for_the_compiler(case: dict[str, object]) -> None:
    """All that the compiler loads counts, since nothing is compiled before."""
    budget = BUDGET + COMPILER
    assert peak(**case, compiled=True, memory=budget, replicas=64) <= budget


@LINUX
def test_a_path_stays_within_its_budget() -> None:
    assert peak(**CASES[2], memory=BUDGET, replicas=32) <= BUDGET


def ensembles(memory: int | None, subsample: int = 0) -> list[np.ndarray]:
    """The replicas of a chain and of a path."""
    problem, theta = digits_problem(64, 128, dtype=torch.float64)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(4))
    state = theta.abs() + 1e-3
    start = sv.State(5, theta=theta, m=state, u=state)
    how = {"replicas": 20, "block_size": 16, "memory": memory, "keep_replicas": True}
    seen = [sv.measures.loss(problem), sv.measures.squared_parameter_norm()]
    chain = sv.simulate(ADAM, oracle, start, 2, seen, **how)
    path = sv.solve(sv.derive(ADAM, oracle), start, 2, seen, subsample=subsample, **how)
    return [chain["replicas"].values, path["replicas"].values]


@pytest.mark.parametrize("subsample", [0, 8])
def test_a_tight_budget_changes_results_by_rounding_only(subsample: int) -> None:
    free, tight = ensembles(None, subsample), ensembles(OVERHEAD + 14 * MB, subsample)
    for one, other in zip(free, tight, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11)


def test_a_part_of_a_block_draws_what_it_draws_within_the_whole() -> None:
    whole = Streams(3, "brownian", [Block(2, 10)])
    parts = [Streams(3, "brownian", [part]) for part in Block(2, 10).parts(4)]
    assert [s.replicas for s in parts] == [4, 4, 2]
    for draw in (lambda s: s.normal(5), lambda s: s.integers(9, 3), lambda s: s.uniform(2)):
        assert torch.equal(draw(whole), torch.cat([draw(s) for s in parts]))


def test_a_block_that_fits_is_not_cut_and_others_are_cut_evenly() -> None:
    assert Block(1, 8).parts(8) == [Block(1, 8)]
    assert [b.wanted for b in Block(1, 128).parts(50)] == [43, 43, 42]


@pytest.mark.parametrize(
    ("given", "size"),
    [(5, 5), ("7", 7), ("2GB", 2 << 30), ("1.5 GiB", 3 << 29), ("500mb", 500 * MB), ("4k", 4096)],
)
def test_a_budget_is_bytes_or_a_text(given: int | str, size: int) -> None:
    assert memory_budget(given) == size


@pytest.mark.parametrize("given", [0, -1, "much", "3 apples", "", True])
def test_what_is_no_budget_is_refused(given: int | str) -> None:
    with pytest.raises(sv.InvalidInputError, match="'500MB' or '2GB'"):
        memory_budget(given)


def test_a_budget_into_which_no_replica_fits_is_refused_before_any_work() -> None:
    problem, theta = digits_problem(16, 16)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(4))

    def never(state: sv.State) -> torch.Tensor:
        raise AssertionError("work was begun")

    seen = [sv.Observable("never", never)]
    with pytest.raises(sv.InvalidInputError, match="at least .* are needed for one replica"):
        sv.simulate(sv.SGD(learning_rate=0.1), oracle, theta, 1, seen, memory="20MB")
    sde = sv.derive(sv.SGD(learning_rate=0.1), oracle)
    with pytest.raises(sv.InvalidInputError, match="at least .* are needed for one replica"):
        sv.solve(sde, theta, 1, seen, memory="20MB")


def test_what_is_said_to_be_enough_is_enough() -> None:
    footprint = Footprint(replica=3 * MB, drawn=1000)
    compiled = Footprint(replica=3 * MB, drawn=1000, compiled=True)
    with pytest.raises(sv.InvalidInputError, match=r"and the compiler.*or compiled=False"):
        compiled.plan(COMPILER, 128)
    with pytest.raises(sv.InvalidInputError) as refused:
        footprint.plan(OVERHEAD, 128)
    least = int(str(refused.value).split("at least ")[1].split(" ")[0].replace(",", ""))
    assert footprint.plan(least, 128).replicas >= 1


def test_without_a_budget_a_replica_of_any_size_is_moved() -> None:
    assert Footprint(replica=1 << 40, drawn=0).plan(None, 128).replicas == 1


def test_a_limit_holds_for_every_problem_while_it_lasts() -> None:
    chunks = Chunks.on(torch.device("cpu"), None)
    cost = Cost(replica=1000, sample=10_000)
    before = chunks.sizes(64, 2000, cost)
    with memory_limit(3 * MB):
        replicas, samples = chunks.sizes(64, 2000, cost)
        assert replicas * (cost.replica + samples * cost.sample) <= MB
    with memory_limit(3000), pytest.raises(sv.InvalidInputError, match="memory budget"):
        chunks.sizes(64, 2000, cost)
    assert chunks.sizes(64, 2000, cost) == before
