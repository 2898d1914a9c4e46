"""Shared problems; the package's shape annotations are checked at every call."""

from __future__ import annotations

import torch
from jaxtyping import install_import_hook

install_import_hook(
    [
        "sdeverify.noise",
        "sdeverify.optimizers",
        "sdeverify.problems.problem",
        "sdeverify.sdes",
        "sdeverify.ensembles.steppers",
    ],
    "typechecker.checked",
)

import pytest  # noqa: E402

from sdeverify import FunctionProblem, GradientOracle, MinibatchNoise  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_problem() -> FunctionProblem:
    """Seven smooth losses of three parameters."""
    g = torch.Generator().manual_seed(5)
    a = torch.randn(7, 3, generator=g, dtype=torch.float64)
    return FunctionProblem(lambda theta: torch.cos(a @ theta) + 0.1 * (a @ theta) ** 2, 3, 7)


@pytest.fixture(scope="session")
def small_oracle(small_problem: FunctionProblem) -> GradientOracle:
    """The small problem with batches of two."""
    return GradientOracle(small_problem, MinibatchNoise(2))


@pytest.fixture
def theta() -> torch.Tensor:
    """Four points of three parameters."""
    g = torch.Generator().manual_seed(6)
    return torch.randn(4, 3, generator=g, dtype=torch.float64)
