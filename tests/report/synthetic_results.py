"""Results trees with known errors, built from the schema alone, for the report's tests."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdeverify.schema import chain_dataset, path_dataset

OBSERVABLES = ("loss", "accuracy", "|gradient|", "|theta|^2", "tr Sigma", "theta_0")
STEPS = np.arange(65.0, 101.0, 5.0)
START = 60.0
RMSPROP = {
    "name": "RMSprop, noise-dominated",
    "equations": [
        r"\mathrm{d}\theta = -P^{-1}\left(\nabla f(\theta)\,\mathrm{d}t"
        r" + \sigma_0\,\Sigma(\theta)^{1/2}\,\mathrm{d}W\right)",
        r"\mathrm{d}u = c_2\left(\operatorname{diag}\Sigma(\theta) - u\right)\mathrm{d}t",
        r"P = \sigma_0\sqrt{u} + \varepsilon_0",
    ],
    "plain": ["dtheta = -P^-1 (grad f dt + sigma0 Sigma^1/2 dW)", "du = c2 (diag Sigma - u) dt"],
    "constants": {
        "sigma0": [0.0017677669, "learning rate times noise scale"],
        "epsilon0": [5e-5, "epsilon times learning rate"],
        "c2": [2000.0, "(1 - beta) / learning rate squared"],
    },
    "clock": "t = k eta^2: one optimizer step is 2.5e-05 of SDE time",
    "noise": "mini-batches of 8 of 256, with replacement",
    "assumptions": ["smooth losses", "noise whose skewness falls like 1/sigma"],
    "claim": "weak order 1 in eta^2",
    "source": "Malladi et al. 2022, arXiv 2205.10287, Theorem 4.2",
}
SGD = {
    "name": "SGD, first order",
    "equations": [
        r"\mathrm{d}\theta &= -\nabla f(\theta)\,\mathrm{d}t"
        r" + \sqrt{\eta}\,\sigma\,\Sigma(\theta)^{1/2}\,\mathrm{d}W"
    ],
    "plain": ["dtheta = -grad f dt + sqrt(eta) sigma Sigma^1/2 dW"],
    "constants": {"eta": [0.25, "learning rate"], "sigma": [0.35355, "noise scale"]},
    "clock": "t = k eta: one optimizer step is 0.25 of SDE time",
    "noise": "mini-batches of 8 of 256, with replacement",
    "assumptions": ["smooth losses with bounded derivatives"],
    "claim": "weak order 1 in eta",
    "source": "Li, Tai, E 2017, arXiv 1511.06251, Theorem 1",
}


def ensemble(
    kind: str,
    mean: NDArray[Any],
    spread: NDArray[Any],
    time: NDArray[Any],
    rng: np.random.Generator,
    **attrs: Any,
) -> xr.Dataset:
    """A chain `(step, observable)` or a path (two substeps) with the given mean and spread."""
    blocks, size = 4, 256
    noise = rng.normal(size=(blocks, *mean.shape)) * spread / np.sqrt(size)
    common: dict[str, Any] = {
        "block_count": np.full(blocks, float(size)),
        "step": STEPS,
        "time": time,
        "observables": OBSERVABLES,
        "blocks": np.arange(blocks),
        "attrs": {
            "seed": 0,
            "replicas": blocks * size,
            "block_size": size,
            "device": "cpu",
            "dtype": "float64",
            "noise": "mini-batches of 8",
            **attrs,
        },
    }
    comoment = np.broadcast_to(spread**2 * (size - 1), (blocks, *mean.shape))
    if kind == "chain":
        return chain_dataset(block_mean=mean + noise, block_comoment=comoment, **common)
    moved = np.stack([mean * (1 + 4e-5), mean * (1 + 2e-5)])
    cross = np.broadcast_to(comoment[:, None, None], (blocks, 2, 2, *mean.shape)).copy()
    cross[:, [0, 1], [1, 0]] *= 0.99999
    return path_dataset(
        block_mean=moved + noise[:, None], block_comoment=cross, substeps=[2, 4], **common
    )


def order_dataset(
    verdicts: list[str], order: NDArray[Any], half_width: NDArray[Any], coefficient: NDArray[Any]
) -> xr.Dataset:
    """Fitted orders at the last two steps, the same at both."""
    dims = ("observable", "step")
    count = len(OBSERVABLES)

    def twice(values: Any) -> tuple[tuple[str, ...], NDArray[Any]]:
        return dims, np.repeat(np.asarray(values)[:, None], 2, 1)

    reasons = [
        {"refuted": "the interval ends below the claimed order"}.get(v, f"as expected: {v}")
        for v in verdicts
    ]
    pairs = ("rung_pair", *dims)
    slopes = np.broadcast_to(np.asarray(order)[None, :, None], (4, count, 2))
    return xr.Dataset(
        {
            "order": twice(order),
            "order_low": twice(order - half_width),
            "order_high": twice(order + half_width),
            "order_standard_error": twice(half_width / 2),
            "coefficient": twice(coefficient),
            "second_coefficient": twice(np.zeros(count)),
            "chi2": twice(np.linspace(1, 5, count)),
            "degrees_of_freedom": twice(np.full(count, 3)),
            "p_value": twice(np.linspace(0.8, 0.1, count)),
            "terms": twice(np.ones(count, dtype=int)),
            "verdict": twice(np.array(verdicts, dtype=object)),
            "reason": twice(np.array(reasons, dtype=object)),
            "local_slope": (pairs, slopes + np.linspace(0.2, 0, 4)[:, None, None]),
            "local_slope_standard_error": (pairs, np.full((4, count, 2), 0.08)),
        },
        coords={
            "observable": np.array(OBSERVABLES, dtype=object),
            "step": STEPS[-2:],
            "rung_pair": np.arange(4),
        },
    )


def errors_dataset(
    error: NDArray[Any], scale: NDArray[Any], ladder: str, steps: NDArray[Any], levels: Any
) -> xr.Dataset:
    """A ladder of weak errors `(rung, step, observable)` with standard errors `scale`."""
    dims = ("rung", "step", "observable")
    se = np.broadcast_to(scale, error.shape)
    late = np.abs(error).argmax(1)
    largest = np.abs(error).max(1)
    name = "level" if ladder == "svag" else "learning_rate"
    return xr.Dataset(
        {
            "error": (dims, error),
            "standard_error": (dims, se),
            "integrator_bias": (dims, np.full(error.shape, 1e-5)),
            "integrator_bias_standard_error": (dims, np.full(error.shape, 2e-6)),
            "max_error": (("rung", "observable"), largest),
            "max_error_low": (("rung", "observable"), np.maximum(largest - 2 * se[:, 0], 0)),
            "max_error_high": (("rung", "observable"), largest + 2 * se[:, 0]),
            "max_step": (("rung", "observable"), STEPS[late]),
        },
        coords={
            "rung": np.arange(error.shape[0]),
            "step": STEPS,
            "time": ("step", STEPS * steps[0]),
            "observable": np.array(OBSERVABLES, dtype=object),
            "time_per_step": ("rung", steps),
            name: ("rung", np.asarray(levels, dtype=float)),
        },
        attrs={"ladder": ladder, "claimed_order": 1.0},
    )


def comparison(
    title: str, ladder: str, verdicts: list[str], power: float = 1.0, seed: int = 0
) -> xr.DataTree:
    """One comparison whose errors are `a s^power` with known noise."""
    rng = np.random.default_rng(seed)
    adaptive = ladder == "svag"
    levels = 2.0 ** np.arange(0, 2.5, 0.5) if adaptive else 0.25 / 2.0 ** np.arange(5)
    steps = 2.5e-5 / levels**2 if adaptive else levels
    elapsed = (STEPS - START) / (STEPS[-1] - START)
    base = np.stack(
        [
            1.9 * np.exp(-elapsed),
            0.4 + 0.4 * elapsed,
            0.8 + 0.3 * np.sin(3 * elapsed),
            20 + 9 * elapsed,
            3 - elapsed,
            0.3 - 0.7 * elapsed,
        ],
        -1,
    )
    spread = np.abs(base) * 0.05 + 0.02 * elapsed[:, None]
    size = np.array([-0.03, 0.02, 0.05, 0.3, -0.08, 0.004]) * np.sqrt(elapsed)[:, None]
    scale = np.array([4e-4, 1e-3, 5e-4, 2e-3, 1e-3, 6e-4])
    truth = size * ((steps / steps[0]) ** power)[:, None, None]
    error = truth + rng.normal(size=truth.shape) * scale
    flow = 3 * size * ((steps / steps[0]) ** 0.2)[:, None, None] + rng.normal(size=truth.shape) * (
        2 * scale
    )
    clock = STEPS * steps[0]
    order = np.full(len(OBSERVABLES), power) + np.array([0.02, 0, -0.03, 0.01, 0.04, 0.3])
    half = np.array([0.07, 0.3, 0.05, 0.03, 0.08, 0.9])
    coefficient = size[-1] / steps[0] ** order
    children: dict[str, xr.Dataset] = {
        "errors": errors_dataset(error, scale, ladder, steps, levels),
        "order": order_dataset(verdicts, order, half, coefficient),
        "flow_errors": errors_dataset(flow, 2 * scale, ladder, steps, levels),
        "flow_order": order_dataset(["refuted"] * 6, 0.2 * order, half, coefficient),
        "path_0": ensemble("path", base, spread, clock, rng, name="RMSprop", subsample=16),
        "confirmation": errors_dataset(error * 0.01, scale, ladder, steps, levels)
        .isel(rung=0, drop=True)
        .drop_vars(["max_error", "max_error_low", "max_error_high", "max_step"]),
    }
    for rung, level in enumerate(levels):
        children[f"chain_{rung}"] = ensemble(
            "chain",
            base + truth[rung],
            spread,
            clock,
            rng,
            name="RMSprop",
            refinement=float(level**2) if adaptive else 1.0,
            time_per_step=float(steps[rung]),
            hyperparameters=json.dumps({"learning_rate": 0.005 / float(level), "beta": 0.95}),
        )
    attrs = {
        "title": title,
        "claimed_order": 1.0,
        "ladder": ladder,
        "cannot_tell": "This ladder cannot tell one noise from another."
        if not adaptive
        else "It tests the equation at one fixed set of constants.",
        "description": json.dumps(RMSPROP if adaptive else SGD),
        "noise_skewness": json.dumps({"mean_abs": 0.62, "max_abs": 2.41}),
        "noise_kurtosis": json.dumps({"mean_abs": 1.9, "max_abs": 14.2}),
        "start_note": "Both sides start from one state after 60 warm-up steps.",
    }
    tree = xr.DataTree.from_dict(children)
    tree.attrs = attrs
    return tree


def results() -> xr.DataTree:
    """Three comparisons: one supported, one refuted, one that cannot say."""
    cannot = ["inconclusive"] * 6
    good = ["supported", "inconclusive", *["supported"] * 3, "inconclusive"]
    tree = xr.DataTree(
        children={
            "rmsprop-svag": comparison("RMSprop along SVAG levels", "svag", good),
            "adam-svag": comparison("Adam along SVAG levels", "svag", ["refuted"] * 6, 0.4, 1),
            "sgd-rates": comparison("SGD along learning rates", "learning_rate", cannot, 1.0, 2),
        }
    )
    tree.attrs = {
        "title": "Do SDEs describe training on handwritten digits?",
        "question": "A 64-16-10 tanh network on 256 digits: is each optimizer's SDE of weak order 1?",
        "command": "sdeverify measure studies/digits && sdeverify report studies/digits",
        "created": "2026-01-05",
        "versions": json.dumps({"sdeverify": "0.1.0", "torch": "2.13.0", "numpy": "2.4"}),
        "parameters": json.dumps({"replicas": 1024, "seed": 0, "batch_size": 8}),
    }
    return tree
