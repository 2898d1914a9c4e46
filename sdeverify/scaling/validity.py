"""Before the fact: how far the SDE and the scaling rule can hold, from a short run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from sdeverify.analysis.ratio import RatioInterval, ratio_interval
from sdeverify.base.arguments import confidence_level, whole
from sdeverify.base.rng import Blocks, Streams
from sdeverify.base.shapes import Parameters, Tensor, Values
from sdeverify.base.state import State
from sdeverify.ensembles.options import BLOCK_SIZE
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.noise.statistics import NoiseStatistics, noise_statistics
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.sgd import SGD
from sdeverify.scaling.limits import (
    largest_factor,
    published_largest_factor,
    required_noise_to_signal,
)
from sdeverify.scaling.scale import largest_kappa

Array = NDArray[Any]

MOMENT_POINTS = 4
"""End points of replicas at which the whole law of the noise is looked at."""
SPREAD = ("median", "quantile90", "maximum")


def signal_and_noise(first: Parameters, second: Parameters) -> tuple[Values, Values]:
    """Unbiased |grad f|^2 and sigma^2 tr Sigma from two independent noisy gradients at one theta.

    <g1, g2> and |g1 - g2|^2/2. Neither needs the full gradient; the first can be negative.
    """
    first, second = first.double(), second.double()
    return (first * second).sum(1), 0.5 * (first - second).square().sum(1)


def validity(
    optimizer: Optimizer,
    oracle: GradientOracle,
    start: State | Tensor,
    *,
    steps: int = 32,
    replicas: int = 16,
    closeness: float = math.sqrt(2),
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Signal, noise and its shape along a short run, and the largest batch factor they allow.

    At each own step two independent gradients are drawn at each replica's theta; the run goes on
    with the first. The conditions, their derivation and what they suppose are in
    `sdeverify.scaling.limits`; they are necessary, not sufficient.

    Args:
        optimizer, oracle: the run at batch B.
        start: the state that the short run starts from, or theta `(param,)` for plain SGD.
        steps: level-1 steps of the run.
        replicas: independent runs; standard errors are over them.
        closeness: C, the factor within which runs shall agree.
        confidence: of the intervals of ratio and largest factor.
        seed: of all gradients.

    Returns:
        - over step: `signal` G, `noise` N, `squared_parameter_norm`, each with `_standard_error`;
        - numbers: `mean_signal`, `mean_noise` (over the run, with `_standard_error`);
          `noise_to_signal` N/G with `_low`, `_high` (`_high` is infinite where G is not resolved
          from 0); `required_noise_to_signal` for the SDE, and `sde_condition`: "met", "violated"
          or "inconclusive"; `largest_factor` of the scaling rule with `_low`, `_high`;
          `published_largest_factor`; `hyperparameter_limit`, `data_limit`; `prediction`, the
          least of the three, and `limited_by`;
        - over (point, statistic), at the start and the end of the run: `skewness` (absolute) and
          `excess_kurtosis` of one sample's gradient over the coordinates, with standard errors
          over replicas;
        - for SGD with weight decay: `balance`, (2 - eta lambda) lambda R/(eta (G + N)), 1 at the
          equilibrium of a scale-invariant loss, with `_low`, `_high`.

        The attribute `summary` says it in a few sentences.

    Raises:
        InvalidInputError: fewer than 3 replicas, no steps, or a run that diverged.
        UnsupportedError: gradients that are not independent from step to step.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(1))
        >>> sgd, theta0 = sv.SGD(learning_rate=0.05), torch.ones(1).double()
        >>> print(sv.validity(sgd, oracle, theta0, steps=8).attrs["summary"])
        Noise over signal N/G: 0.71 [0.502, 1.02] (95%); the SDE's own condition, ...
    """
    confidence, seed = confidence_level(confidence), whole(seed, "seed")
    if whole(replicas, "replicas") < 3 or whole(steps, "steps") < 1:
        raise InvalidInputError(
            f"validity needs 3 replicas or more and a step or more; got {replicas} and {steps}."
        )
    if not oracle.noise.independent_steps:
        raise UnsupportedError(
            f"{type(oracle.noise).__name__} draws no two independent batches at one point. Use "
            "MinibatchNoise of the same batch size."
        )
    decay = decay_of(optimizer)
    required = required_noise_to_signal(closeness, decay)
    state = start if isinstance(start, State) else State(0, theta=start)
    run, ends = _run(optimizer, oracle, state, int(steps), int(replicas), seed)
    over_time = run.mean(1)
    fields = _measured(run)
    ratio = ratio_interval(over_time[:, 1], over_time[:, 0], confidence)
    fields |= _predictions(ratio, required, closeness, decay, optimizer, oracle)
    if decay:
        lhs = (2 - decay) * (decay / optimizer.learning_rate) * over_time[:, 2]
        rhs = optimizer.learning_rate * over_time[:, :2].sum(1)
        fields |= _interval("balance", ratio_interval(lhs, rhs, confidence))
    fields |= _shape(oracle, state, ends)
    coords = {
        "step": state.step + np.arange(run.shape[1]) / optimizer.refinement,
        "point": np.array(["start", "end"], dtype=object),
        "statistic": np.array(SPREAD, dtype=object),
    }
    attrs = {
        "kind": "validity",
        "name": optimizer.name,
        "noise_model": oracle.noise.describe(oracle.problem),
        "closeness": closeness,
        "confidence": confidence,
        "decay": decay,
        "seed": seed,
        "replicas": replicas,
        "conditions": _conditions(optimizer),
        "summary": _summary(fields, optimizer, closeness, confidence),
    }
    return xr.Dataset(fields, coords=coords, attrs=attrs)


def close_bounds(optimizer: Optimizer, closeness: float = math.sqrt(2)) -> dict[str, float]:
    """The observables that the largest factor is about, and the factor each may be off by.

    SGD and momentum: |grad f|^2, tr Sigma and |theta|^2 within C. RMSprop, Adam: sqrt(v) in sum
    within C, so the mean of u = v/sigma^2 within C^2.
    """
    if optimizer.refinement_power == 2:
        return {"mean_u": closeness**2}
    names = ("squared_gradient_norm", "noise_trace", "squared_parameter_norm")
    return dict.fromkeys(names, closeness)


def _run(
    optimizer: Optimizer, oracle: GradientOracle, start: State, steps: int, replicas: int, seed: int
) -> tuple[Array, Tensor]:
    """Per replica and own step (G, N, |theta|^2), and the parameters at the end."""
    problem = oracle.problem
    first = optimizer.own_step(start.step)
    stop = optimizer.own_step(start.step + steps)
    pieces, ends = [], []
    for block in Blocks(replicas, BLOCK_SIZE):
        streams = Streams(seed, "validity", [block], problem.device, problem.dtype)
        parts = {
            name: value.detach().to(problem.device, problem.dtype)
            for name, value in start.expand(block.size).components.items()
        }
        y = optimizer.from_sde(State(start.step, **parts), oracle)
        rows = []
        for k in range(first, stop):
            theta = y["theta"]
            pair = [oracle.sample(theta, oracle.draw(streams, k)).detach() for _ in range(2)]
            size = theta.double().square().sum(1)
            rows.append(torch.stack([*signal_and_noise(pair[0], pair[1]), size], -1).cpu())
            y = optimizer.step(k, y, pair[0])
        pieces.append(torch.stack(rows, 1).numpy())
        ends.append(y["theta"])
    run = np.concatenate(pieces)
    if not np.isfinite(run).all():
        step = int(np.argwhere(~np.isfinite(run).all(axis=(0, 2)))[0, 0])
        raise InvalidInputError(
            f"{optimizer.name} diverged: signal or noise is not finite after {step} own steps. Use "
            "a smaller learning rate or a longer warm-up."
        )
    return run, torch.cat(ends)


def _measured(run: Array) -> dict[str, Any]:
    """The means over replicas, at each own step and over the whole run."""
    fields: dict[str, Any] = {}
    for i, name in enumerate(("signal", "noise", "squared_parameter_norm")):
        mean, error = _mean_and_error(run[:, :, i])
        fields |= {name: ("step", mean), f"{name}_standard_error": ("step", error)}
    for i, name in enumerate(("mean_signal", "mean_noise")):
        whole, spread = _mean_and_error(run[:, :, i].mean(1))
        fields |= {name: float(whole), f"{name}_standard_error": float(spread)}
    return fields


def _predictions(
    ratio: RatioInterval,
    required: float,
    closeness: float,
    decay: float,
    optimizer: Optimizer,
    oracle: GradientOracle,
) -> dict[str, Any]:
    """What follows from N/G: the SDE's condition and the largest batch factor."""
    met, violated = ratio.low >= required, ratio.high < required
    factor = RatioInterval(*(largest_factor(r, closeness, decay) for r in ratio))
    limits = {
        "signal and noise": factor.value,
        "hyperparameters": largest_kappa(optimizer),
        "data": oracle.noise.largest_batch_factor(oracle.problem),
    }
    limited_by = min(limits, key=lambda name: limits[name])
    return {
        **_interval("noise_to_signal", ratio),
        "required_noise_to_signal": required,
        "sde_condition": "met" if met else "violated" if violated else "inconclusive",
        **_interval("largest_factor", factor),
        "published_largest_factor": published_largest_factor(ratio.value, closeness),
        "hyperparameter_limit": limits["hyperparameters"],
        "data_limit": limits["data"],
        "prediction": limits[limited_by],
        "limited_by": limited_by,
    }


def _shape(oracle: GradientOracle, start: State, ends: Tensor) -> dict[str, Any]:
    """Skewness and kurtosis of one sample's gradient at the start and at some ends."""
    problem = oracle.problem
    places = [start.expand(1).theta, ends[:MOMENT_POINTS]]
    statistics = [[noise_statistics(problem, theta) for theta in place] for place in places]
    fields: dict[str, Any] = {}
    for name in ("skewness", "excess_kurtosis"):
        pairs = [
            _mean_and_error(np.array([_spread(s, name) for s in place])) for place in statistics
        ]
        mean, error = (np.stack(part) for part in zip(*pairs, strict=True))
        dims = ("point", "statistic")
        fields |= {name: (dims, mean), f"{name}_standard_error": (dims, error)}
    return fields


def _spread(statistics: NoiseStatistics, name: str) -> list[float]:
    spread = getattr(statistics, name)
    return [getattr(spread, part) for part in SPREAD]


def _mean_and_error(values: Array) -> tuple[Array, Array]:
    """Mean over the leading axis and its standard error; 0 for the single start."""
    n = len(values)
    if n == 1:
        return values[0], np.zeros_like(values[0])
    return values.mean(0), values.std(0, ddof=1) / math.sqrt(n)


def _interval(name: str, interval: RatioInterval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def decay_of(optimizer: Optimizer) -> float:
    """eta lambda of plain SGD; 0 where the balance of |theta|^2 does not apply."""
    if not isinstance(optimizer, SGD) or isinstance(optimizer.weight_decay, Tensor):
        return 0.0
    return optimizer.learning_rate * optimizer.weight_decay


def _conditions(optimizer: Optimizer) -> str:
    if isinstance(optimizer, SGD):
        return (
            "balance of |theta|^2 at the equilibrium of a scale-invariant loss with weight decay; "
            "a rule of thumb for other losses"
        )
    if optimizer.refinement_power == 2:
        return "the preconditioner sqrt(v) of the run, its SDE and the scaled run at one theta"
    return "those of SGD, as a rule of thumb: the balance of momentum has a further term"


def _summary(
    fields: dict[str, Any], optimizer: Optimizer, closeness: float, confidence: float
) -> str:
    """The answer in a few sentences."""

    def shown(name: str) -> str:
        value, low, high = (float(fields[f"{name}{end}"]) for end in ("", "_low", "_high"))
        return f"{value:.3g} [{low:.3g}, {high:.3g}]"

    what = "sqrt(v)" if optimizer.refinement_power == 2 else "|grad f|^2, tr Sigma and |theta|^2"
    return (
        f"Noise over signal N/G: {shown('noise_to_signal')} ({confidence:.0%}); the SDE's own "
        f"condition, at least {fields['required_noise_to_signal']:.3g}, is "
        f"{fields['sde_condition']}. The scaling rule can keep {what} within a factor "
        f"{closeness:.3g} up to kappa = {shown('largest_factor')} at most; the hyperparameters "
        f"allow {fields['hyperparameter_limit']:.3g}, the data {fields['data_limit']:.3g}. "
        f"Condition: {_conditions(optimizer)}. It is necessary, not sufficient."
    )
