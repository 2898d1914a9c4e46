"""The answer for one training run: how far is the SDE from it?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn

from sdeverify.analysis import weak_error
from sdeverify.base.shapes import Parameters, PerParameter, Tensor
from sdeverify.base.state import State
from sdeverify.ensembles import measures
from sdeverify.ensembles.build import chain_job, path_job
from sdeverify.ensembles.forecast import Forecast, forecast
from sdeverify.ensembles.job import Job, run_jobs
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.options import Run, RunOptions
from sdeverify.ensembles.plan import PRECISION, Plan, plan, precision_of
from sdeverify.ensembles.progress import duration
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise.minibatch import MinibatchNoise
from sdeverify.noise.noise import Noise
from sdeverify.noise.oracle import GradientOracle
from sdeverify.noise.statistics import NoiseStatistics, noise_statistics, representative
from sdeverify.optimizers.derive import derive
from sdeverify.optimizers.from_torch import optimizer_from_torch
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.schedules import ScheduledRatio
from sdeverify.optimizers.start import start_from_torch
from sdeverify.problems.module import ModuleProblem, problem_from_module
from sdeverify.problems.problem import Problem
from sdeverify.sdes import GradientFlow, GradientSDE

SMALL_SIGNAL = 0.1
"""Below this share of the noise trace, the squared gradient counts as dominated."""


TIME_LIMIT = 600.0
"""Seconds that an answer may take, unless it is told otherwise."""
EVALUATION_SAMPLES = 1024
"""Over which the default observables are means, where the data have more than twice as many."""
FLOW_NUMBERS = 1e9
"""Numbers in gradient flow's gradients up to which it costs seconds."""
NO_FLOW = (
    "Gradient flow, which takes all samples at each step, would cost more than both sides "
    "together and was left out."
)


@dataclass(frozen=True)
class Evaluated:
    """The samples of the default observables, and how far they may be from all of the data.

    Attributes:
        samples, of: samples in the subset, and in the data.
        loss, standard_error: at the start over the subset, and the standard error of this as an
            estimate of the mean over all samples.
        gradient_excess: by which the subset's |grad f|^2 exceeds that of all samples on average.
    """

    samples: int
    of: int
    loss: float
    standard_error: float
    gradient_excess: float

    @classmethod
    def at(cls, problem: Problem, theta: Parameters, of: int, noise_trace: float) -> Evaluated:
        """For the problem of a subset, at one point with tr Sigma = `noise_trace`."""
        losses = problem.losses(theta)[0].double()
        n = problem.samples
        variance = 1 / n - 1 / of
        error = float(losses.std(correction=0)) * variance**0.5
        return cls(n, of, float(losses.mean()), error, noise_trace * variance)

    @property
    def _accuracy_error(self) -> float:
        return 0.5 * math.sqrt(1 / self.samples - 1 / self.of)

    def sentences(self) -> list[str]:
        """What is to be said of a subset; nothing where all samples are taken."""
        if self.samples == self.of:
            return []
        return [
            "",
            f"Loss, gradient and accuracy are those of {self.samples:,} of the {self.of:,} "
            "samples, a fixed random subset and the same on both sides, so the errors are the "
            f"subset's own. As estimates over all samples, at the start: loss {self.loss:.5g} "
            f"± {self.standard_error:.2g}, accuracy ± {self._accuracy_error:.2g} or less, and "
            f"|grad f|^2 is {self.gradient_excess:.2g} larger on average. evaluation_samples= "
            "takes more, 0 all.",
        ]


@dataclass(frozen=True)
class Answer:
    """How far the SDE is from one training run; print it to read it.

    Attributes:
        errors: signed weak errors with standard errors over (step, observable), and the largest
            over time with a 95% interval; `flow_error` is gradient flow's.
        chain, path: the ensembles of the optimizer and of the SDE.
        optimizer: ours, with the hyperparameters of the live one.
        sde: the SDE.
        start: the state that both start from, that of the live optimizer.
        noise: skewness and kurtosis of one sample's gradient at the start.
        plan: how the SDE was solved, with how many paths and runs, and why.
        evaluated: the samples of the default observables.
        forecast, seconds: the time that was expected before the work, and what it took.
        by_replicas: whether `replicas` were asked for, and not a precision.
    """

    errors: xr.Dataset
    chain: xr.Dataset
    path: xr.Dataset
    optimizer: Optimizer
    sde: GradientSDE
    start: State
    noise: NoiseStatistics
    plan: Plan
    evaluated: Evaluated
    forecast: Forecast
    seconds: float
    by_replicas: bool = False

    def __str__(self) -> str:
        head = (
            f"{self.optimizer.title} against its SDE from step {self.start.step:g} to "
            f"{float(self.errors['step'][-1]):g}: {self.chain.attrs['replicas']} runs, "
            f"{self.path.attrs['replicas']} paths"
        )
        rows = [
            f"{'observable':<24}{'optimizer':>12}{'SDE':>12}{'largest error over time':>38}"
            f"{'in spreads':>12}{'flow error':>12}"
        ]
        spread = self._spread()
        for i, name in enumerate(self.errors["observable"].values):
            at = self.errors.isel(observable=i)
            error = f"{float(at['max_error']):.3g}"
            interval = f"({float(at['max_error_low']):.3g} to {float(at['max_error_high']):.3g})"
            share = f"{float(at['max_error'] / spread[i]):.2g}" if spread[i] > 0 else "-"
            flow = float(np.abs(at["flow_error"]).max())
            rows.append(
                f"{name:<24}{float(at['chain_mean'][-1]):>12.5g}{float(at['path_mean'][-1]):>12.5g}"
                f"{error + ' ' + interval:>38}{share:>12}"
                f"{f'{flow:.3g}' if np.isfinite(flow) else '-':>12}"
            )
        notes = (
            "Optimizer and SDE: means at the last step. In brackets: 95% interval of the largest "
            "error. In spreads: that error over the standard deviation between runs at the last "
            "step. Flow error: the same without the SDE's noise. One step size gives a distance, "
            "not an order: use a Study with SvagLevels for a verdict on the SDE."
        )
        return "\n".join(
            [head, *self._run(), "", *rows, "", notes, "", *self._how(), *self._dominance()]
        )

    def _run(self) -> list[str]:
        """What was read of the training run, for the reader to compare with what was meant."""
        oracle, options = self.sde.oracle, self.optimizer.hyperparameters
        steps = self.start.step, float(self.errors["step"][-1])
        others = [f"{name} {_short(value)}" for name, value in options.items() if name != "lr"]
        return [
            f"learning rate: {_learning_rates(self.optimizer, *steps)}",
            f"other options: {', '.join(others) or 'none'}",
            f"noise: {oracle.noise.describe(oracle.problem)}",
            f"computed in {_dtypes(oracle.problem)}",
        ]

    def _how(self) -> list[str]:
        """The solution, the subset of the data where there is one, and the time."""
        took = f"It took {duration(self.seconds)}; expected were {self.forecast}."
        flow = "" if self.errors["flow_error"].notnull().all() else f" {NO_FLOW}"
        return [f"{self._solved()} {took}{flow}", *self.evaluated.sentences()]

    def _solved(self) -> str:
        """How the SDE was solved, why, and what precision was reached."""
        count = float(self.chain["block_count"].sum())
        spread = self.chain["standard_error"].transpose("step", "observable").values * count**0.5
        moving = spread > 0
        if not moving.any():
            return f"Solved with {self.plan}"
        error, left = (
            float(np.max(np.abs(self.errors[name].values[moving]) / spread[moving]))
            for name in ("standard_error", "integrator_residual")
        )
        wanted = self.plan.precision
        text = (
            f"Solved with {self.plan} Reached, in spreads and at most over observables and time: "
            f"standard error {error:.2g}"
        )
        if np.isnan(left):
            return f"{text}; with one dt the integrator's bias is not known."
        text += f"; extrapolation in dt leaves {left:.2g} or less (wanted: {wanted:.2g} together)."
        if error + left <= wanted:
            return text
        finer = tuple(2 * s for s in self.plan.substeps)
        replicas = "more replicas=" if self.by_replicas else "a smaller precision="
        more = f"substeps={finer}" if left > error else replicas
        return f"{text} For more give {more}."

    def _dominance(self) -> list[str]:
        """For SDEs that drop the signal: how far the run is from noise dominance."""
        if "signal" not in self.sde.constants or self.sde.constants["signal"] != 0:
            return []
        oracle = self.sde.oracle
        if oracle.noise.covariance.of_uniform_samples:
            trace = self.noise.noise_trace
        else:
            trace = float(oracle.variance(self.start.expand(1).theta).sum())
        variance = oracle.scale**2 * trace
        ratio = self.noise.squared_gradient_norm / variance
        meaning = "so it may be far from the run; keep_signal=True keeps it"
        if ratio < SMALL_SIGNAL:
            meaning = "which is what the SDE assumes"
        return [
            "",
            f"This SDE drops the signal beside the noise. At the start |grad f|^2 is {ratio:.2g} "
            f"times the batch's noise trace, {meaning}.",
        ]

    def _spread(self) -> NDArray[np.float64]:
        count = float(self.chain["block_count"].sum())
        spread: NDArray[np.float64] = self.chain["standard_error"].values[-1] * count**0.5
        return spread


def verify(
    net: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    torch_optimizer: torch.optim.Optimizer,
    *,
    batch_size: int = 32,
    steps: int | Sequence[float] = 40,
    precision: float = PRECISION,
    path_replicas: int | None = None,
    substeps: int | Sequence[int] | None = None,
    subsample: int | None = None,
    observables: Observable | Sequence[Observable] | None = None,
    evaluation_samples: int = EVALUATION_SAMPLES,
    replacement: bool = True,
    noise: Noise | None = None,
    keep_signal: bool = False,
    schedule: Any = None,
    step: int | None = None,
    **options: Unpack[RunOptions],
) -> Answer:
    """How far the SDE is from this training run over its next steps, per observable.

    Both sides start from the state of the live optimizer and parameters; neither is changed.

    Args:
        net, inputs, targets, loss: as for `problem_from_module`; `loss` gives one value a sample.
        torch_optimizer: a `torch.optim` SGD, RMSprop, Adam or AdamW over the net's parameters;
            adaptive ones after some steps of training, since their SDEs have no start at v = 0.
        batch_size: of the training run.
        steps: how many of its next steps are compared.
        precision: wanted of each weak error, standard error plus integrator's bias, in units of the
            observable's standard deviation between runs; `plan` chooses all below from it.
        path_replicas: paths of the SDE; None for those planned, or as many as `replicas`.
        substeps, subsample: step sizes, and samples in a step, as for `solve`.
        observables: by default loss, squared norms of gradient and parameters, and accuracy where
            targets are classes.
        evaluation_samples: over which the default observables are means where the data have more
            than twice as many: a fixed random subset, the same on both sides, so that the errors
            are exactly those of the subset's loss. The answer says how far it is from all samples.
            0 for all.
        replacement: whether batches are drawn with replacement.
        noise: of the training run's gradients, instead of batches of `batch_size`.
        keep_signal: for RMSprop and Adam, the form of the SDE that keeps (grad f)^2 in du; it is
            solved with all samples.
        schedule, step: the learning-rate schedule and the present step, as for
            `optimizer_from_torch` and `start_from_torch`.
        options: see `RunOptions`. `replicas` are runs of the optimizer; None for those planned.
            `memory` bounds each ensemble. `time_limit` is 600 seconds unless it is given.

    Raises:
        UnsupportedError, InvalidInputError: see `problem_from_module`, `optimizer_from_torch`; and
            where it would take longer than the time limit, with the time and what would help.

    Example:
        >>> net, loss = torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss(reduction="none")
        >>> data = torch.randn(8, 3), torch.tensor([0, 1] * 4)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> sizes = {"batch_size": 2, "steps": 4, "precision": 0.5}
        >>> answer = sv.verify(net, *data, loss, optimizer, **sizes)
        >>> answer.errors["error"].dims, answer.start.step
        (('step', 'observable'), 0.0)
    """
    replicas = options.pop("replicas", None)
    run = Run.of({"time_limit": TIME_LIMIT, **options}, verify)
    problem = problem_from_module(net, inputs, targets, loss)
    batches = MinibatchNoise(batch_size, replacement) if noise is None else noise
    oracle = GradientOracle(problem, batches)
    optimizer = optimizer_from_torch(torch_optimizer, problem, schedule)
    start = start_from_torch(
        torch_optimizer, problem, oracle, optimizer, schedule=schedule, step=step
    )
    form: dict[str, Any] = {"keep_signal": True} if keep_signal else {}
    sde = derive(optimizer, oracle, **form)
    evaluated = problem
    if observables is None:
        evaluated = _evaluated(problem, evaluation_samples)
        observables = _default_observables(evaluated)
    if replicas is not None:
        replicas = run.of_size(replicas).replicas
        precision = precision_of(replicas) * 2**0.5
    how = plan(sde, precision, compared=True, substeps=substeps, subsample=subsample)
    runs = how.runs if replicas is None else replicas
    paths = path_replicas or (how.replicas if replicas is None else replicas)
    fine, common = how.substeps, (start, steps, observables)
    few, many = run.of_size(2), (replace(run, replicas=n) for n in (runs, paths))
    jobs = {
        "optimizer": chain_job(optimizer, oracle, *common, next(many)),
        "SDE": path_job(sde, *common, next(many), substeps=fine, subsample=how.subsample),
    }
    flow_job = path_job(GradientFlow.without_noise(sde), *common, few, substeps=fine, side="flow")
    if _affordable(flow_job, jobs.values(), problem.dim):
        jobs["gradient flow"] = flow_job
    optimizer.ratio(start.step + jobs["optimizer"].steps[-1] - 1)  # refused if there is none
    expected = forecast(jobs, run.time_limit)
    expected.check(run.time_limit, _remedy(expected, run.time_limit, precision, replicas))
    began = time.perf_counter()
    ensembles = run_jobs(jobs, progress=run.progress)
    took = time.perf_counter() - began
    chain, path = ensembles["optimizer"], ensembles["SDE"]
    errors = weak_error(chain, path)
    errors["flow_error"] = errors["error"] * np.nan
    if "gradient flow" in ensembles:
        errors["flow_error"] = weak_error(chain, ensembles["gradient flow"])["error"]
    at_start = start.expand(1).theta
    statistics = noise_statistics(representative(problem), at_start[0])
    return Answer(
        errors,
        chain,
        path,
        optimizer,
        sde,
        start,
        statistics,
        replace(how, replicas=paths, runs=runs),
        Evaluated.at(evaluated, at_start, problem.samples, statistics.noise_trace),
        expected,
        took,
        by_replicas=replicas is not None,
    )


def _evaluated(problem: ModuleProblem, samples: int) -> ModuleProblem:
    """On a subset of so many samples where there are more than twice as many; 0 for all."""
    if samples <= 0 or problem.samples <= 2 * samples:
        return problem
    return problem.subset(samples)


def _affordable(flow: Job, sides: Iterable[Job], dim: int) -> bool:
    """Whether gradient flow, which takes all samples at each step, adds little to the cost."""
    gradients = flow.replicas * flow.replica_cost
    others = sum(job.replicas * job.replica_cost for job in sides)
    return gradients <= others or gradients * dim <= FLOW_NUMBERS


def _remedy(expected: Forecast, limit: float | None, precision: float, replicas: int | None) -> str:
    """What would make an answer affordable."""
    if limit is None or expected.seconds <= limit:
        return ""
    share = expected.seconds / limit
    more = "fewer steps=, fewer observables or a problem that is smaller"
    if replicas is not None:
        return f"Take replicas={max(2, int(replicas / share))}, or {more}."
    coarser = float(f"{precision * share**0.5 * 1.05:.1e}")
    if coarser > 1:
        least = duration(expected.seconds * precision**2)
        return f"Even precision=1, a whole spread, would take {least}: take {more}."
    return f"Take precision={coarser:g} (the time falls with its square), or {more}."


def _learning_rates(optimizer: Optimizer, first: float, last: float) -> str:
    """The learning rates of the first and the last compared step, where they are scheduled."""
    ratio = optimizer.learning_rate_ratio
    at = [_short(optimizer.learning_rate * optimizer.ratio(step)) for step in (first, last - 1)]
    if ratio is None or (isinstance(ratio, ScheduledRatio) and ratio.schedules is None):
        return f"{at[0]}, constant"
    return f"{at[0]} at step {first:g}, {at[1]} at step {last - 1:g} (scheduled)"


def _dtypes(problem: Problem) -> str:
    """The dtype of the computation, and the net's own where that is another."""
    computed, own = str(problem.dtype), {str(d) for d in getattr(problem, "net_dtypes", ())}
    if own <= {computed}:
        return computed
    return f"{computed} (the net is in {', '.join(sorted(own))}, whose rounding is left out)"


def _short(value: PerParameter) -> str:
    """A number, or the range of a vector."""
    if not isinstance(value, Tensor):
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    low, high = value.min(), value.max()
    return f"{float(low):.6g}" if low == high else f"{float(low):.6g} to {float(high):.6g}"


def _default_observables(problem: ModuleProblem) -> list[Observable]:
    usual = [
        measures.loss(problem),
        measures.squared_gradient_norm(problem),
        measures.squared_parameter_norm(),
    ]
    try:
        problem.accuracy(torch.zeros(1, problem.dim, dtype=problem.dtype, device=problem.device))
    except (InvalidInputError, UnsupportedError):
        return usual
    return [*usual, measures.accuracy(problem)]
