"""The scaling rules put to the test: batch B against kappa B on a real problem."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdeverify.analysis.reach import chain_distance, judge, reach
from sdeverify.axes import OBSERVABLE, STEP
from sdeverify.batch_scaling import largest_kappa, scale, scale_batch, scale_state
from sdeverify.ensembles import BLOCK_SIZE, Job, chain_job, run_job
from sdeverify.errors import InvalidInputError, SdeverifyError
from sdeverify.observables import Observable
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.oracle import GradientOracle
from sdeverify.scaling_rules import BatchRule, rule_for, rules_for
from sdeverify.shapes import Tensor
from sdeverify.state import State

Array = NDArray[Any]
Yardstick = Literal["larger", "spread", "change"]

RECORDED = 8
_RUN, _BEST = ("rule", "kappa"), ("rule", OBSERVABLE)


def scaling_experiment(
    optimizer: Optimizer,
    oracle: GradientOracle,
    start: State | Tensor,
    kappas: Sequence[float],
    rules: Sequence[str | BatchRule] | None = None,
    steps: int | Sequence[float] = 64,
    observables: Sequence[Observable] = (),
    replicas: int = 1024,
    seed: int = 0,
    tolerance: float = 0.2,
    yardstick: Yardstick = "larger",
    confidence: float = 0.95,
    block_size: int = BLOCK_SIZE,
    progress: Callable[[str], None] | None = None,
) -> xr.Dataset:
    """Runs with batch kappa B, hyperparameters and state moved by each rule, beside the run itself.

    All start from one state and are compared where they have seen equally many samples: at level-1
    steps of the unscaled run, kappa of which are one step of a scaled run. The distance is signed,
    E scaled - E run, over independent ensembles; the run (kappa = 1) is shared by all distances.

    Args:
        kappas: batch factors > 1, ascending; 1 may stand first.
        rules: names or `BatchRule`s, see `scale`; None for all that fit the optimizer, the one that
            keeps its SDE first.
        steps: level-1 steps from the start, at which all batch factors are at whole own steps: the
            start's step and these are multiples of every kappa. A number is recorded at about
            eight such multiples.
        replicas: of each ensemble.
        seed: the run takes it, the scaled runs the seeds that follow.
        tolerance: a rule holds while the largest |distance| over the compared steps is at most this
            share of the yardstick.
        yardstick: "spread", the standard deviation between replicas of the run, at the compared
            step where it is largest; "change", the largest change of the run's expectation since
            the start; or "larger", the larger of the two, so that observables are judged by how
            much they vary at all.
        confidence: of the band of the largest distance, each rule, kappa and observable by itself.
        progress: called with each run's name before its work.

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
        - over (rule): `largest_kappa` that the rule's hyperparameters allow, and `caveat`.

    Raises:
        InvalidInputError: before the work: kappas out of order, a batch that is empty, no whole
            number or larger than the data, kappa (1 - beta) > 1 for a rule (each rule is listed
            with its largest kappa), or steps that some kappa does not visit.
        UnsupportedError: a rule that is none for this optimizer.
        SdeverifyError: the run itself diverged.
    """
    factors = _checked_factors(kappas, tolerance, yardstick)
    chosen = _chosen(optimizer, rules)
    _refuse_unreachable(optimizer, chosen, factors)
    for kappa in factors:
        scale_batch(oracle, kappa)
    point = start if isinstance(start, State) else State(0, theta=start)
    recorded = _recorded(steps, point.step, optimizer.refinement, factors)
    common: dict[str, Any] = {
        "steps": recorded,
        "observables": observables,
        "replicas": replicas,
        "block_size": block_size,
    }
    jobs = {"kappa = 1": chain_job(optimizer, oracle, point, seed=seed, **common)}
    for rule in chosen:
        for kappa in factors:
            jobs[f"{rule.name}, kappa = {kappa:g}"] = chain_job(
                scale(optimizer, kappa, rule),
                scale_batch(oracle, kappa),
                scale_state(point, optimizer, kappa, rule),
                seed=seed + len(jobs),
                **common,
            )
    reference, *scaled = _computed(jobs, progress)
    assert reference is not None
    ds = _measured(reference, scaled, chosen, factors, confidence)
    ds = ds.merge(_judged(ds, tolerance, yardstick))
    limits = [largest_kappa(optimizer, rule) for rule in chosen]
    caveats = np.array([rule.caveat(type(optimizer)) for rule in chosen], dtype=object)
    return ds.assign(largest_kappa=("rule", limits), caveat=("rule", caveats)).assign_attrs(
        {
            **reference.attrs,
            "kind": "scaling",
            "tolerance": tolerance,
            "yardstick": yardstick,
            "confidence": confidence,
            "kappas": json.dumps(factors),
        }
    )


def _computed(
    jobs: dict[str, Job], progress: Callable[[str], None] | None
) -> list[xr.Dataset | None]:
    """The ensembles, the run first; None for a scaled run that diverged, which is a finding."""
    found: list[xr.Dataset | None] = []
    for name, job in jobs.items():
        if progress is not None:
            progress(name)
        try:
            found.append(_ensemble(job))
        except SdeverifyError as error:
            if not found or isinstance(error, InvalidInputError):
                raise
            found.append(None)
    return found


def _ensemble(job: Job) -> xr.Dataset:
    """The ensemble; values whose squares overflow count as diverged, like those not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        ds = run_job(job)
    if not (np.isfinite(ds["mean"]).all() and np.isfinite(ds["standard_error"]).all()):
        raise SdeverifyError(
            f"{job.attrs['name']}: the observables' moments are not finite. The dynamics diverged: "
            "use a smaller learning rate, a larger epsilon or a longer warm-up."
        )
    return ds


def _measured(
    reference: xr.Dataset,
    scaled: Sequence[xr.Dataset | None],
    rules: Sequence[BatchRule],
    kappas: Sequence[float],
    confidence: float,
) -> xr.Dataset:
    """Means and distances, a row for each rule and a column for each kappa."""
    parts = [
        chain_distance(ds, reference, confidence).assign(mean=ds["mean"].reset_coords(drop=True))
        if ds is not None
        else _nowhere(reference)
        for ds in scaled
    ]
    rows = [
        xr.concat(parts[i : i + len(kappas)], "kappa", coords="minimal", compat="override")
        for i in range(0, len(parts), len(kappas))
    ]
    ds = xr.concat(rows, "rule", coords="minimal", compat="override", data_vars="all")
    n = float(reference.block_count.sum())
    return ds.assign(
        reference_mean=reference["mean"],
        reference_standard_error=reference["standard_error"],
        reference_spread=reference["standard_error"] * math.sqrt(n),
    ).assign_coords(
        rule=np.array([rule.name for rule in rules], dtype=object), kappa=np.asarray(kappas)
    )


def _nowhere(reference: xr.Dataset) -> xr.Dataset:
    """The distance of a run that diverged: infinite."""
    gone = xr.full_like(reference["mean"].reset_coords(drop=True), np.nan)
    far = xr.full_like(gone.isel({STEP: 0}, drop=True), np.inf)
    names = ("max_distance", "max_distance_low", "max_distance_high")
    return xr.Dataset(
        {**dict.fromkeys(("distance", "standard_error", "mean"), gone), **dict.fromkeys(names, far)}
    )


def _judged(ds: xr.Dataset, tolerance: float, yardstick: Yardstick) -> xr.Dataset:
    """What is allowed, each run's judgement, and how far each rule goes."""
    spread = ds["reference_spread"].max(STEP)
    change = abs(ds["reference_mean"] - ds["reference_mean"].isel({STEP: 0})).max(STEP)
    units = {"spread": spread, "change": change, "larger": spread.where(spread > change, change)}
    allowed = tolerance * units[yardstick]
    dims = (*_RUN, OBSERVABLE)
    names = ("max_distance", "max_distance_low", "max_distance_high")
    largest, low, high = (ds[name].transpose(*dims).values for name in names)
    judged, holds = judge(low, high, allowed.values), largest <= allowed.values
    kappas = ds["kappa"].values.tolist()
    every = [
        [
            reach(kappas, holds[r, :, o].tolist(), judged[r, :, o].tolist())
            for o in range(ds.sizes[OBSERVABLE])
        ]
        for r in range(len(judged))
    ]
    fields: dict[str, Any] = {"allowed": allowed, "judgement": (dims, judged)}
    for name, part in (("", "value"), ("_low", "low"), ("_high", "high"), ("_status", "status")):
        values = [[getattr(found, part) for found in row] for row in every]
        kind: Any = object if part == "status" else float
        fields[f"how_far{name}"] = (_BEST, np.array(values, dtype=kind))
    return xr.Dataset(fields)


def _checked_factors(kappas: Sequence[float], tolerance: float, yardstick: str) -> list[float]:
    factors = [float(kappa) for kappa in kappas]
    if not factors or not all(1 <= k < math.inf for k in factors):
        raise InvalidInputError(
            f"kappas are batch factors >= 1; got {list(kappas)}. To compare smaller batches, let "
            "the smallest batch be the run."
        )
    if any(b <= a for a, b in pairwise(factors)):
        raise InvalidInputError(f"kappas are different and ascend; got {list(kappas)}.")
    factors = [kappa for kappa in factors if kappa != 1]
    if not factors:
        raise InvalidInputError("kappa = 1 is the run itself; give at least one larger factor.")
    if not (tolerance > 0 and math.isfinite(tolerance)):
        raise InvalidInputError(f"the tolerance is a share > 0 of the yardstick; got {tolerance}.")
    if yardstick not in get_args(Yardstick):
        known = ", ".join(get_args(Yardstick))
        raise InvalidInputError(f"the yardstick is one of {known}; got {yardstick!r}.")
    return factors


def _chosen(optimizer: Optimizer, rules: Sequence[str | BatchRule] | None) -> list[BatchRule]:
    kind = type(optimizer)
    found = rules_for(kind) if rules is None else [rule_for(kind, rule) for rule in rules]
    names = [rule.name for rule in found]
    if not found or len(set(names)) < len(names):
        raise InvalidInputError(f"rules are different and at least one; got {names}.")
    return found


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
    if isinstance(steps, int):
        if steps < unit:
            raise InvalidInputError(f"{meet}; got steps={steps}. Take {unit} or more.")
        whole = steps // unit
        counts = np.unique(np.linspace(0, whole, min(whole, RECORDED) + 1).round())
        return tuple(float(unit * count) for count in counts)
    off = [step for step in steps if step % unit]
    if off or not len(steps):
        raise InvalidInputError(f"{meet}; got steps {list(steps)}.")
    return tuple(float(step) for step in steps)
