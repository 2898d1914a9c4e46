"""Results trees with known errors, built from datasets alone, for the report's tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from sdeverify.analysis import estimate_order, ladder, weak_error
from sdeverify.analysis.datasets.schema import chain_dataset, path_dataset
from sdeverify.report import write_report

OBSERVABLES = ("loss", "accuracy", "|gradient|^2", "tr Sigma", "theta[0]")
STEPS = np.arange(65.0, 101.0, 5.0)
START = 60.0
BLOCKS, BLOCK_SIZE = 16, 64
ERROR = np.array([-0.03, 0.02, 0.05, -0.08, 0.0015])
RMSPROP = {
    "name": "RMSprop, first-order SDE",
    "equations": [
        r"d\theta &= -P^{-1}\left(\nabla f(\theta)\,dt"
        r"+\sigma_0\,\Sigma(\theta)^{1/2}\,dW_t\right),\quad P=\sigma_0\sqrt{u}+\epsilon_0",
        r"du &= c_2\left(\operatorname{diag}\Sigma(\theta)-u\right)dt",
    ],
    "constants": {
        "sigma_0": ["0.00176777", "sigma eta"],
        "epsilon_0": ["5e-05", "epsilon eta"],
        "c_2": ["2000", "(1 - beta)/eta^2"],
    },
    "clock": "t = k eta^2; one optimizer step is 2.5e-05 of SDE time",
    "noise": "mini-batches of 8 of 256, with replacement",
    "assumptions": ["smooth losses", "noise dominance, sigma >> |grad f|"],
    "claim": "weak order 1 in eta^2, with sigma_0, epsilon_0 and c_2 held fixed",
    "source": "Malladi, Lyu, Panigrahi, Arora 2022 (arXiv 2205.10287), theorem 4.2",
}
SGD = {
    "name": "SGD, first-order SDE",
    "equations": [
        r"d\theta &= -\nabla f(\theta)\,dt + \sqrt{\eta}\,\sigma\,\Sigma(\theta)^{1/2}\,dW_t"
    ],
    "constants": {"sqrt(eta) sigma": ["0.176777", "size of the noise"]},
    "clock": "t = k eta; one optimizer step is 0.25 of SDE time",
    "noise": "mini-batches of 8 of 256, with replacement",
    "assumptions": ["smooth losses with bounded derivatives"],
    "claim": "weak order 1 in eta",
    "source": "Li, Tai, E 2017 (arXiv 1511.06251)",
}


def elapsed() -> NDArray[Any]:
    return (STEPS - START) / (STEPS[-1] - START)


def sde_means() -> NDArray[Any]:
    """The SDE's means, `(step, observable)`."""
    t = elapsed()
    curves = [1.9 * np.exp(-t), 0.4 + 0.4 * t, 0.8 + 0.3 * np.sin(3 * t), 3 - t, 0.3 - 0.7 * t]
    return np.stack(curves, -1)


def ensemble(
    kind: str, mean: NDArray[Any], noise: float, rng: np.random.Generator, **attrs: Any
) -> xr.Dataset:
    """A chain or a path (two substeps) of the given means; `noise` scales the replicas' spread."""
    spread = noise * (0.05 * np.abs(mean) + 0.02) * np.sqrt(elapsed())[:, None]
    blocks = mean + rng.normal(size=(BLOCKS, *mean.shape)) * spread / np.sqrt(BLOCK_SIZE)
    comoment = np.broadcast_to(spread**2 * (BLOCK_SIZE - 1), blocks.shape)
    common: dict[str, Any] = {
        "block_count": np.full(BLOCKS, float(BLOCK_SIZE)),
        "step": STEPS,
        "observables": OBSERVABLES,
        "blocks": np.arange(BLOCKS),
    }
    attrs = {"seed": 0, "replicas": BLOCKS * BLOCK_SIZE, "block_size": BLOCK_SIZE, **attrs}
    common["attrs"] = {"device": "cpu", "dtype": "float64", "start_step": START, **attrs}
    common["time"] = STEPS * attrs["time_per_level1_step"]
    if kind == "chain":
        return chain_dataset(block_mean=blocks, block_comoment=comoment, **common)
    biased = np.stack([blocks * (1 + 4e-5), blocks * (1 + 2e-5)], 1)
    cross = np.broadcast_to(comoment[:, None, None], (BLOCKS, 2, 2, *mean.shape))
    return path_dataset(block_mean=biased, block_comoment=cross, substeps=[2, 4], **common)


def comparison(
    kind: str, title: str, power: float = 1.0, noise: float = 0.1, seed: int = 0
) -> xr.DataTree:
    """One comparison whose errors are `a s^power`, against an SDE that is known but for noise."""
    rng = np.random.default_rng(seed)
    svag = kind == "svag"
    labels = 2.0 ** np.arange(0, 2.5, 0.5) if svag else 0.25 / 2.0 ** np.arange(5)
    steps = 2.5e-5 / labels**2 if svag else labels
    clock = {"time_per_level1_step": float(steps[0])}
    error = ERROR * np.sqrt(elapsed())[:, None]
    path = ensemble("path", sde_means(), noise, rng, model="RMSprop", subsample=16, **clock)
    still = {"model": "GradientFlow", "subsample": 0, **clock}
    flow = ensemble("path", sde_means() - 3 * error, 0.0, rng, **still)
    chains = [
        ensemble(
            "chain", sde_means() + error * (s / steps[0]) ** power, noise, rng,
            name="RMSprop", time_per_step=float(s), refinement=round(steps[0] / s),
            hyperparameters=json.dumps({"learning_rate": 0.005, "beta": 0.95}), **clock,
        )
        for s in steps
    ]  # fmt: skip
    along = {"level" if svag else "learning_rate": labels}
    children = {"path_0": path, "flow_0": flow}
    children |= {f"chain_{i}": chain for i, chain in enumerate(chains)}
    for side, prefix in ((path, ""), (flow, "flow_")):
        rungs = ladder([weak_error(chain, side) for chain in chains], kind, **along)
        children |= {f"{prefix}errors": rungs, f"{prefix}order": estimate_order(rungs)}
    spread = path["extrapolated_standard_error"]
    children["confirmation"] = xr.Dataset({"error": 0.5 * spread, "standard_error": spread})
    tree = xr.DataTree.from_dict(children)
    tree.attrs = {
        "title": title,
        "claimed_order": 1.0,
        "ladder": kind,
        "cannot_tell": "It says nothing of other learning rates, batch sizes or horizons.",
        "description": json.dumps(RMSPROP if svag else SGD),
        "noise_skewness": json.dumps({"median": 0.62, "maximum": 2.41}),
        "noise_kurtosis": json.dumps({"median": 1.9, "maximum": 14.2}),
        "start_note": "Both sides start from one state after 60 warm-up steps.",
        "outside_theorem": json.dumps(["accuracy"]),
    }
    return tree


def tree_of(children: dict[str, xr.DataTree]) -> xr.DataTree:
    """Results with the given comparisons."""
    tree = xr.DataTree(children=children)
    tree.attrs = {
        "title": "Do SDEs describe training on handwritten digits?",
        "question": "A 64-16-10 tanh network on 256 digits: is each SDE of weak order 1?",
        "command": "sdeverify report studies/digits/study.py",
        "versions": json.dumps({"sdeverify": "0.1.0", "torch": "2.13.0", "numpy": "2.4"}),
        "parameters": json.dumps({"replicas": 1024, "seed": 0, "note": "<b>a|b</b> $x$"}),
    }
    return tree


@pytest.fixture(scope="session")
def make_comparison() -> Callable[..., xr.DataTree]:
    """`comparison(kind, title, power, noise, seed)`."""
    return comparison


@pytest.fixture(scope="session")
def shared_results() -> xr.DataTree:
    """Three comparisons: one of order 1, one of order 0.4, one drowned in noise. Read only."""
    return tree_of(
        {
            "rmsprop-svag": comparison("svag", "RMSprop along SVAG levels"),
            "adam-svag": comparison("svag", "Adam along SVAG levels", 0.4, seed=1),
            "sgd-rates": comparison("learning_rate", "SGD along learning rates", 1.0, 8.0, 2),
        }
    )


@pytest.fixture()
def results(shared_results: xr.DataTree) -> xr.DataTree:
    """A copy of the three comparisons, to be changed at will."""
    return shared_results.copy(deep=True)


@pytest.fixture(scope="session")
def small_results() -> xr.DataTree:
    """One comparison."""
    return tree_of({"rmsprop-svag": comparison("svag", "RMSprop along SVAG levels")})


@pytest.fixture(scope="session")
def report(shared_results: xr.DataTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the written report of the three comparisons."""
    return write_report(shared_results, tmp_path_factory.mktemp("report")).parent
