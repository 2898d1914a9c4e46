from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sdeverify import (
    SGD,
    FunctionProblem,
    GradientOracle,
    InvalidInputError,
    MinibatchNoise,
    Observable,
    RMSprop,
    SdeverifyError,
    State,
    derive,
    simulate,
    solve,
    svag,
)
from sdeverify.analysis.datasets.moments import BlockResult
from sdeverify.ensembles import measures

THETA = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)


def seen(oracle: GradientOracle) -> list[Observable]:
    return [measures.loss(oracle.problem), measures.coordinate(1)]


def test_level_one_is_the_optimizer_bit_for_bit(small_oracle: GradientOracle) -> None:
    optimizer = SGD(learning_rate=0.1)
    plain = simulate(optimizer, small_oracle, THETA, 5, seen(small_oracle), replicas=20)
    level = svag(optimizer, small_oracle, 1)
    again = simulate(*level, THETA, 5, seen(small_oracle), replicas=20)
    np.testing.assert_array_equal(plain["block_mean"], again["block_mean"])


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    small_oracle: GradientOracle,
) -> None:
    sde = derive(SGD(learning_rate=0.1), small_oracle)
    runs = [
        solve(sde, THETA, 4, seen(small_oracle), replicas=20, seed=s)["mean"] for s in (1, 1, 2)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).values[:, 1:].all()


def test_more_replicas_leave_the_first_blocks_as_they_were(small_oracle: GradientOracle) -> None:
    optimizer = SGD(learning_rate=0.1)
    few, many = (
        simulate(optimizer, small_oracle, THETA, 3, seen(small_oracle), replicas=n, block_size=8)
        for n in (16, 28)
    )
    np.testing.assert_array_equal(few["block_mean"], many["block_mean"][:2])
    assert many["block_count"].values.tolist() == [8, 8, 8, 4]


def test_kept_replicas_have_the_reported_means(small_oracle: GradientOracle) -> None:
    sde = derive(SGD(learning_rate=0.1), small_oracle)
    path = solve(
        sde, THETA, [1, 3], seen(small_oracle), replicas=10, block_size=4, keep_replicas=True
    )
    assert path["replicas"].shape == (10, 2, 3, 2)
    np.testing.assert_allclose(path["replicas"].mean("replica"), path["mean"], rtol=1e-12)
    error = path["replicas"].std("replica", ddof=1) / np.sqrt(10)
    np.testing.assert_allclose(error, path["standard_error"], rtol=1e-9, atol=1e-15)


def test_sgd_on_a_quadratic_has_the_exact_mean(small_oracle: GradientOracle) -> None:
    """|z| < 4.5 for 5 numbers: a false alarm in about 1 of 29,000 seeds; one is fixed."""
    a = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    problem = FunctionProblem(
        lambda x: ((x - a) ** 2 / 2).sum() + torch.stack([x[0], -x[0], x[1], -x[1]]), 3, 4
    )
    oracle = GradientOracle(problem, MinibatchNoise(1))
    chain = simulate(
        SGD(learning_rate=0.1),
        oracle,
        THETA,
        [1, 2, 4, 6, 8],
        [measures.coordinate(0)],
        replicas=2000,
    )
    exact = 0.5 + (0.3 - 0.5) * 0.9 ** chain["step"]
    z = ((chain["mean"][:, 0] - exact) / chain["standard_error"][:, 0])[1:]
    assert (np.abs(z) < 4.5).all()


def test_a_saved_block_is_not_computed_again(small_oracle: GradientOracle) -> None:
    class Memory(dict):
        saved = 0

        def check(self, job: Job) -> None:
            """Any job is right."""

        def load(self) -> dict:
            return dict(self)

        def save(self, block: int, result: object) -> None:
            self[block] = result
            self.saved += 1

    memory = Memory()
    arguments = (SGD(learning_rate=0.1), small_oracle, THETA, 3, seen(small_oracle))
    first = simulate(*arguments, replicas=16, block_size=8, sink=memory)
    del memory[1]
    second = simulate(*arguments, replicas=16, block_size=8, sink=memory)
    assert memory.saved == 3
    assert first.identical(second)


def test_divergence_is_named(small_oracle: GradientOracle) -> None:
    problem = FunctionProblem(lambda x: (x**4).sum().expand(2) * torch.tensor([1.0, 2.0]), 3, 2)
    oracle = GradientOracle(problem, MinibatchNoise(1))
    with pytest.raises(SdeverifyError, match="'loss' is not finite at step .* smaller"):
        simulate(SGD(learning_rate=5.0), oracle, THETA, 20, [measures.loss(problem)], replicas=4)


def test_bad_arguments_are_refused_before_any_work(small_oracle: GradientOracle) -> None:
    optimizer, watch = SGD(learning_rate=0.1), seen(small_oracle)
    with pytest.raises(InvalidInputError, match="shape"):
        simulate(optimizer, small_oracle, THETA[:2], 3, watch)
    with pytest.raises(InvalidInputError, match="at least 2 replicas"):
        simulate(optimizer, small_oracle, THETA, 3, watch, replicas=1)
    with pytest.raises(InvalidInputError, match="different names"):
        simulate(optimizer, small_oracle, THETA, 3, [watch[0], watch[0]])
    with pytest.raises(InvalidInputError, match="not a whole number"):
        simulate(*svag(optimizer, small_oracle, 1.5), THETA, [1, 2], watch)
    with pytest.raises(InvalidInputError, match="warm_up"):
        simulate(RMSprop(learning_rate=0.1), small_oracle, THETA, 3, watch)
    with pytest.raises(InvalidInputError, match="warm_up"):
        solve(derive(RMSprop(learning_rate=0.1), small_oracle), State(3, theta=THETA), 3, watch)
    with pytest.raises(InvalidInputError, match="one number a replica"):
        simulate(optimizer, small_oracle, THETA, 3, [Observable("bad", lambda s: s.theta)])


@pytest.mark.parametrize("subsample", [0, 3])
def test_a_path_in_double_precision_has_the_increments_of_one_in_single_precision(
    subsample: int,
) -> None:
    """Two independent Brownian paths would differ by the noise, of size 0.1 here."""
    ends = []
    for dtype in (torch.float32, torch.float64):
        a = torch.tensor([[1.0, 0.3], [-0.5, 1.0], [0.2, -1.0], [0.7, 0.7]], dtype=dtype)
        problem = FunctionProblem(lambda x, a=a: ((x - a) ** 2).sum(1), 2, 4, dtype)
        sde = derive(SGD(learning_rate=0.1), GradientOracle(problem, MinibatchNoise(1)))
        path = solve(
            sde,
            torch.zeros(2, dtype=dtype),
            5,
            [measures.coordinate(0)],
            replicas=32,
            subsample=subsample,
            keep_replicas=True,
        )
        assert path.attrs["dtype"] == str(dtype).removeprefix("torch.")
        ends.append(path["replicas"].values[:, :, -1, 0])
    assert ends[0].std() > 0.05
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-5)


def test_progress_counts_replicas_from_what_an_earlier_run_left(
    small_oracle: GradientOracle, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = SGD(learning_rate=0.1)
    calls: list[tuple[str, int, int]] = []
    kept: dict[int, BlockResult] = {}

    class Kept:
        def check(self, job: Job) -> None:
            """Any job is right."""

        def load(self) -> dict[int, BlockResult]:
            return dict(kept)

        def save(self, block: int, result: BlockResult) -> None:
            kept[block] = result

    def watch(replicas: int, progress: Any) -> None:
        simulate(
            optimizer,
            small_oracle,
            THETA,
            1,
            seen(small_oracle),
            replicas=replicas,
            block_size=4,
            sink=Kept(),
            progress=progress,
        )

    watch(8, lambda *call: calls.append(call))
    assert calls == [(optimizer.name, done, 8) for done in (0, 4, 8)]
    calls.clear()
    watch(12, lambda *call: calls.append(call))
    assert calls == [(optimizer.name, done, 12) for done in (8, 12)]
    watch(16, True)
    assert capsys.readouterr().err.endswith("16 of 16\n")
