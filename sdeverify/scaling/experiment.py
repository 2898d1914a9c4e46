"""The scaling rules put to the test: batch B against kappa B on a real problem."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, Unpack, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdeverify.base.arguments import confidence_level, count_or_steps, number, numbers
from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.ensembles.build import chain_job
from sdeverify.ensembles.forecast import check_time
from sdeverify.ensembles.job import Job, run_jobs
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.options import Run, RunOptions
from sdeverify.errors import InvalidInputError, SdeverifyError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.rules import BatchRule
from sdeverify.scaling.judging import Yardstick, finite, scaling_dataset
from sdeverify.scaling.rules import caveat, rule_for, rules_for
from sdeverify.scaling.scale import largest_kappa, scale, scale_batch, scale_state
from sdeverify.scaling.validity import close_bounds

Array = NDArray[Any]

RECORDED = 8
RUN = "run"


@dataclass(frozen=True)
class Yard:
    """By what scaled runs are judged; see `scaling_experiment`."""

    tolerance: float = 0.2
    yardstick: Yardstick = "larger"
    confidence: float = 0.95
    closeness: float = math.sqrt(2)


@dataclass(frozen=True)
class BatchRuns:
    """The run and its scaled runs, as jobs: "run", then "rule-kappa" for each rule and factor."""

    optimizer: Optimizer
    rules: tuple[BatchRule, ...]
    kappas: tuple[float, ...]
    jobs: dict[str, Job]

    def dataset(self, ensembles: Mapping[str, xr.Dataset], yard: Yard) -> xr.Dataset:
        """What `scaling_experiment` gives, from all the jobs' ensembles.

        Raises:
            SdeverifyError: the run itself diverged.
        """
        reference = ensembles[RUN]
        if not finite(reference):
            raise SdeverifyError(
                f"{self.optimizer.name}: the observables' moments are not finite. The dynamics "
                "diverged: use a smaller learning rate, a larger epsilon or a longer warm-up."
            )
        scaled = [[ensembles[job_name(r, k)] for k in self.kappas] for r in self.rules]
        bounds = close_bounds(self.optimizer, yard.closeness)
        watched = set(reference["observable"].values)
        ds = scaling_dataset(
            reference,
            scaled,
            [rule.name for rule in self.rules],
            self.kappas,
            bounds if watched.issuperset(bounds) else {},
            yard.tolerance,
            yard.yardstick,
            yard.confidence,
        )
        limits = [largest_kappa(self.optimizer, rule) for rule in self.rules]
        caveats = [caveat(type(self.optimizer), rule) for rule in self.rules]
        return ds.assign(
            largest_kappa=("rule", limits), caveat=("rule", np.array(caveats, dtype=object))
        ).assign_attrs(
            {
                **reference.attrs,
                "kind": "scaling",
                "tolerance": yard.tolerance,
                "yardstick": yard.yardstick,
                "confidence": yard.confidence,
                "closeness": yard.closeness,
                "kappas": json.dumps(self.kappas),
            }
        )


def job_name(rule: BatchRule, kappa: float) -> str:
    """The name of a scaled run."""
    return f"{rule.name}-{kappa:g}"


def scaling_experiment(
    optimizer: Optimizer,
    oracle: GradientOracle,
    start: State | Tensor,
    kappas: float | Sequence[float],
    *,
    rules: Sequence[str | BatchRule] | None = None,
    steps: int | Sequence[float] = 64,
    observables: Observable | Sequence[Observable] = (),
    tolerance: float = 0.2,
    yardstick: Yardstick = "larger",
    confidence: float = 0.95,
    **options: Unpack[RunOptions],
) -> xr.Dataset:
    """Runs with batch kappa B, hyperparameters and state moved by each rule, beside the run itself.

    All start from one state and are compared where they have seen equally many samples: at level-1
    steps of the unscaled run, kappa of which are one step of a scaled run. The distance is signed,
    E scaled - E run, over independent ensembles; the run (kappa = 1) is shared by all distances.

    Args:
        optimizer, oracle, start: the run at batch B, and where it and the scaled runs start from.
        kappas: batch factors > 1, ascending; 1 may stand first.
        rules: names or `BatchRule`s, see `scale`; None for all that fit the optimizer, the one that
            keeps its SDE first.
        steps: level-1 steps from the start, at which all batch factors are at whole own steps: the
            start's step and these are multiples of every kappa. A number is recorded at about
            eight such multiples.
        observables: what is compared.
        tolerance: a rule holds while the largest |distance| over the compared steps is at most this
            share of the yardstick.
        yardstick: "spread", the standard deviation between replicas of the run, at the compared
            step where it is largest; "change", the largest change of the run's expectation since
            the start; or "larger", the larger of the two, so that observables are judged by how
            much they vary at all.
        confidence: of the band of the largest distance, each rule, kappa and observable by itself.
        options: see `RunOptions`; the run takes the seed, the scaled runs those that follow. The
            ensembles are named "run" and "rule-kappa".

    Returns:
        - over (rule, kappa, step, observable): `mean`, `distance`, `standard_error`
          (NaN where the scaled run diverged; its `max_distance` is infinite);
        - over (step, observable), the run: `reference_mean`, `reference_standard_error`,
          `reference_spread`; over (observable) `allowed`, the tolerance in the observable's units;
        - over (rule, kappa, observable): `max_distance` over time with `_low`, `_high`, and
          `judgement`: "within", "beyond" or "open";
        - over (rule, observable): `how_far`, the largest tested kappa up to which the distance
          stays allowed, as measured; `how_far_low`, up to which that is resolved; `how_far_high`,
          after which the contrary is (infinite: nowhere); `how_far_status`: "resolved",
          "not resolved" or "at least" (allowed up to the largest kappa tested);
        - over (rule), where the observables that `validity` speaks of are among those given:
          `close_factor` with `_low`, `_high`, the batch factor up to which they stay within a
          factor sqrt(2) of the run's, see `analysis.scaling.close_factors`;
        - over (rule): `largest_kappa` that the rule's hyperparameters allow, and `caveat`.

    Raises:
        InvalidInputError: before the work: kappas out of order, a batch that is empty, no whole
            number or larger than the data, kappa (1 - beta) > 1 for a rule (each rule is listed
            with its largest kappa), or steps that some kappa does not visit.
        UnsupportedError: a rule that is none for this optimizer.
        SdeverifyError: the run itself diverged.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(1))
        >>> loss, theta0 = sv.measures.loss(circle_problem()), torch.ones(1).double()
        >>> run = sv.SGD(learning_rate=0.05), oracle, theta0
        >>> result = sv.scaling_experiment(*run, 2, steps=8, observables=loss, replicas=64)
        >>> result["rule"].values.tolist(), result["kappa"].values.tolist()
        (['linear', 'unscaled'], [2.0])
    """
    run = Run.of(options, scaling_experiment)
    runs = batch_runs(optimizer, oracle, start, kappas, rules, steps, observables, run)
    yard = checked_yard(Yard(tolerance, yardstick, confidence))
    check_time(runs.jobs, run.time_limit)
    return runs.dataset(run_jobs(runs.jobs, progress=run.progress), yard)


def batch_runs(
    optimizer: Optimizer,
    oracle: GradientOracle,
    start: State | Tensor,
    kappas: float | Sequence[float],
    rules: Sequence[str | BatchRule] | None,
    steps: int | Sequence[float],
    observables: Observable | Sequence[Observable],
    run: Run,
) -> BatchRuns:
    """The work of `scaling_experiment`, refused here where the arguments are wrong."""
    factors = _checked_factors(kappas)
    chosen = _chosen(optimizer, rules)
    _refuse_unreachable(optimizer, chosen, factors)
    for kappa in factors:
        scale_batch(oracle, kappa)
    point = start if isinstance(start, State) else State(0, theta=start)
    recorded = _recorded(steps, point.step, optimizer.refinement, factors)
    jobs = {RUN: chain_job(optimizer, oracle, point, recorded, observables, run)}
    for rule in chosen:
        for kappa in factors:
            job = chain_job(
                scale(optimizer, kappa, rule),
                scale_batch(oracle, kappa),
                scale_state(point, optimizer, kappa, rule),
                recorded,
                observables,
                run.at(len(jobs)),
            )
            jobs[job_name(rule, kappa)] = replace(job, may_diverge=True)
    return BatchRuns(optimizer, tuple(chosen), tuple(factors), jobs)


def checked_yard(yard: Yard) -> Yard:
    """The yard itself.

    Raises:
        InvalidInputError: a tolerance, a yardstick, a confidence or a closeness that is none.
    """
    if not 0 < number(yard.tolerance, "tolerance") < math.inf:
        raise InvalidInputError(f"tolerance is a share > 0 of the yardstick; got {yard.tolerance}.")
    if yard.yardstick not in get_args(Yardstick):
        known = ", ".join(get_args(Yardstick))
        raise InvalidInputError(f"the yardstick is one of {known}; got {yard.yardstick!r}.")
    confidence_level(yard.confidence)
    if not 1 < number(yard.closeness, "closeness") < math.inf:
        raise InvalidInputError(f"closeness is a factor > 1; got {yard.closeness}.")
    return yard


def _checked_factors(kappas: float | Sequence[float]) -> list[float]:
    factors = numbers(kappas, "kappas")
    if not factors or not all(1 <= k < math.inf for k in factors):
        raise InvalidInputError(
            f"kappas are batch factors >= 1; got {factors}. To compare smaller batches, let "
            "the smallest batch be the run."
        )
    if any(b <= a for a, b in pairwise(factors)):
        raise InvalidInputError(f"kappas are different and ascend; got {factors}.")
    factors = [kappa for kappa in factors if kappa != 1]
    if not factors:
        raise InvalidInputError("kappa = 1 is the run itself; give at least one larger factor.")
    return factors


def _chosen(optimizer: Optimizer, rules: Sequence[str | BatchRule] | None) -> Sequence[BatchRule]:
    kind = type(optimizer)
    if isinstance(rules, str) or not isinstance(rules, Sequence | None):
        raise InvalidInputError(f"rules are a list of names; got {rules!r}. Give ['auto'], say.")
    chosen = rules_for(kind) if rules is None else [rule_for(kind, rule) for rule in rules]
    names = [rule.name for rule in chosen]
    if not chosen or len(set(names)) < len(names):
        raise InvalidInputError(f"rules are different and at least one; got {names}.")
    return chosen


def _refuse_unreachable(
    optimizer: Optimizer, rules: Sequence[BatchRule], kappas: Sequence[float]
) -> None:
    """kappa (1 - beta) <= 1 for every rule and kappa, or one error that lists all rules."""
    limits = {rule.name: largest_kappa(optimizer, rule) for rule in rules}
    worst = max(kappas)
    if all(worst <= limit * (1 + 1e-9) for limit in limits.values()):
        return
    listed = "; ".join(
        f"'{name}' {'any' if math.isinf(limit) else f'{limit:.6g}'}"
        for name, limit in limits.items()
    )
    raise InvalidInputError(
        f"kappa = {worst:g} is too large: kappa (1 - beta) <= 1 must hold for every beta (or mu) "
        f"that a rule moves. The largest kappa of each rule: {listed}. Leave out the larger kappas "
        "or the rules that cannot follow."
    )


def _recorded(
    steps: int | Sequence[float], start: float, refinement: float, kappas: Sequence[float]
) -> tuple[float, ...]:
    """Steps from the start that are whole own steps for every factor; the start's is too."""
    parts = [Fraction(refinement / kappa).limit_denominator(10**6) for kappa in (1.0, *kappas)]
    unit = math.lcm(*(part.denominator for part in parts))
    meet = f"all batch factors meet at multiples of {unit} level-1 steps"
    if start % unit:
        raise InvalidInputError(
            f"{meet}, but the start is at step {start:g}. Let it be a multiple, with "
            f"warm_up(..., steps={unit * max(1, round(start / unit))}) say, or take other kappas."
        )
    requested = count_or_steps(steps)
    if isinstance(requested, int):
        if requested < unit:
            raise InvalidInputError(f"{meet}; got steps={requested}. Take {unit} or more.")
        most = requested // unit
        counts = np.unique(np.linspace(0, most, min(most, RECORDED) + 1).round())
        return tuple(float(unit * count) for count in counts)
    if not requested or any(step % unit for step in requested):
        raise InvalidInputError(f"{meet}; got steps {requested}.")
    return tuple(requested)
