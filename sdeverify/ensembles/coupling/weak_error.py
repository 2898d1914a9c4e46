"""Weak errors by coupling: W = E phi(optimizer) - E phi(SDE) = A + D.

D = E phi(S) - E phi(SDE) compares the optimizer's Gaussian form S with the SDE on one Brownian path
(`paths`), A = E phi(optimizer) - E phi(S) is what noise that is not normal adds (`forks`). Both are
small differences of large means, and neither pays for the spread of the observable.

What is not smooth has no third derivative for the forks to find. There A + D is the difference
between independent runs of the optimizer and the same paths, as in `weak_error`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdeverify.analysis.datasets.axes import OBSERVABLE, STEP
from sdeverify.analysis.rungs import RUNG, RUNG_BIS
from sdeverify.analysis.sides import Ensemble, side_of
from sdeverify.analysis.weak_error import integrator, largest_over_time
from sdeverify.base.arguments import confidence_level, wholes
from sdeverify.base.shapes import Tensor
from sdeverify.base.state import State
from sdeverify.ensembles.build import chain_job, path_job, start_point
from sdeverify.ensembles.coupling.coupled import Coupled, fitting_substeps
from sdeverify.ensembles.coupling.rungs import CoupledRungs, Measurements
from sdeverify.ensembles.coupling.sampling import Sample
from sdeverify.ensembles.job import run_jobs
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.options import Run
from sdeverify.errors import UnsupportedError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.derive import Derivation, derive
from sdeverify.optimizers.ladders import Ladder, Rung
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.problems.smoothness import kinks
from sdeverify.sdes.sde import GradientSDE

Array = NDArray[Any]
DIMS = (STEP, OBSERVABLE)
ESTIMATOR = "coupled paths and forks"
COUPLED, INDEPENDENT = "coupled", "independent runs"
PARTS = (
    *("discretisation", "discretisation_standard_error"),
    *("non_gaussianity", "non_gaussianity_standard_error"),
    *("fourth_cumulant", "fourth_cumulant_standard_error"),
    "degrees_of_freedom",
)
"""What is told of each error beside what `weak_error` tells."""


def coupled_weak_error(
    optimizer: Optimizer,
    oracle: GradientOracle,
    sde: GradientSDE | None,
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Observable | Sequence[Observable],
    *,
    how: Coupled | None = None,
    seed: int = 0,
    memory: int | str | None = None,
    confidence: float = 0.95,
) -> xr.Dataset:
    """The weak error of one run of an optimizer against its SDE, by coupling.

    Args:
        optimizer, oracle: of the run, at any SVAG level.
        sde: None for the one that belongs to the optimizer.
        start, steps, observables: as in `solve`.
        how: how many paths and forks.
        seed: all numbers follow from it, however the work is cut.
        memory: as in `solve`.
        confidence: of the interval of the largest error over time.

    Returns:
        What `weak_error` gives, and over (step, observable): `discretisation` D and
        `non_gaussianity` A with their standard errors, `degrees_of_freedom` (Welch's, of the
        error's standard error), and `fourth_cumulant`, the part of A from the noise's fourth
        cumulant, with its own; cumulants from the fifth on are left out. `form` over (observable)
        is "coupled", or "independent runs" where the observable, or the loss itself, is not smooth
        (attribute `kinks`).

    Raises:
        InvalidInputError: a bad argument, before any work.
        UnsupportedError: no SDE belongs to the optimizer, or its noise depends on earlier steps.
        SdeverifyError: the dynamics diverged.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> loss, theta0 = sv.measures.loss(circle_problem()), torch.ones(1).double()
        >>> sgd, how = sv.SGD(learning_rate=0.5), sv.Coupled(paths=64, trunks=16, chains=64)
        >>> errors = sv.coupled_weak_error(sgd, oracle, None, theta0, [4], loss, how=how)
        >>> float(errors["error"][-1, 0].round(3)), float(errors["standard_error"][-1, 0].round(3))
        (-0.002, 0.002)
    """
    equation = derive(optimizer, oracle) if sde is None else sde
    rungs = [Rung(1.0, optimizer, oracle)]
    work = coupled_rungs(rungs, [equation], start, steps, observables, how, seed, memory)
    measurements = Measurements(work, run_jobs(work.jobs()))
    return rung_error(measurements, 0, own_sde(measurements, 0), confidence_level(confidence))


def coupled_ladder(
    ladder: Ladder,
    optimizer: Optimizer,
    oracle: GradientOracle,
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Observable | Sequence[Observable],
    *,
    sde: type[GradientSDE] | Derivation | None = None,
    how: Coupled | None = None,
    seed: int = 0,
    memory: int | str | None = None,
    confidence: float = 0.95,
) -> xr.Dataset:
    """Weak errors along a ladder, all rungs on the same Brownian paths, for `estimate_order`.

    Args:
        ladder: the rungs.
        optimizer, oracle: the level-1 run.
        sde: another SDE than the optimizer's own, as in `derive`.
        start, steps, observables, how, seed, memory, confidence: as in `coupled_weak_error`.

    Returns:
        What `sv.ladder` gives, with the rungs' full covariance, and beside it what
        `coupled_weak_error` tells of each rung.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> loss, theta0 = sv.measures.loss(circle_problem()), torch.ones(1).double()
        >>> ladder, sgd = sv.SvagLevels([1, 2, 4]), sv.SGD(learning_rate=0.5)
        >>> how = sv.Coupled(paths=64, trunks=16, chains=64)
        >>> errors = sv.coupled_ladder(ladder, sgd, oracle, theta0, [4], loss, how=how)
        >>> errors["error"].dims, errors["level"].values.tolist()
        (('rung', 'step', 'observable'), [1.0, 2.0, 4.0])
    """
    rungs = ladder.rungs(optimizer, oracle)
    equations = [derive(rung.optimizer, rung.oracle, sde) for rung in rungs]
    work = coupled_rungs(rungs, equations, start, steps, observables, how, seed, memory)
    claimed = ladder.claimed_order(equations[0].claimed_order)
    measurements = Measurements(work, run_jobs(work.jobs()))
    references = [own_sde(measurements, i) for i in range(len(rungs))]
    return errors_along(ladder, measurements, references, claimed, confidence)


def errors_along(
    ladder: Ladder,
    measurements: Measurements,
    references: Sequence[Reference],
    claimed_order: float,
    confidence: float = 0.95,
) -> xr.Dataset:
    """What `coupled_ladder` gives, of measurements that are there, against one reference a rung."""
    level, rungs = confidence_level(confidence), measurements.work.rungs
    errors = [rung_error(measurements, i, r, level) for i, r in enumerate(references)]
    ds = ladder.side_by_side(rungs, errors, claimed_order)
    order = np.argsort([-rung.time_per_step for rung in rungs], kind="stable")
    covariance = _shared(measurements, references)[np.ix_(order, order)]
    variance = ds["standard_error"].transpose(RUNG, *DIMS).values ** 2
    covariance[np.diag_indices(len(order))] = variance
    ds["error_covariance"] = ((RUNG, RUNG_BIS, *DIMS), covariance)
    for name in PARTS:
        ds[name] = ((RUNG, *DIMS), np.stack([errors[i][name].values for i in order]))
    return ds.assign_coords(form=(OBSERVABLE, errors[0]["form"].values))


def coupled_rungs(
    rungs: Sequence[Rung],
    sdes: Sequence[GradientSDE],
    start: State | Tensor,
    steps: int | Sequence[float],
    observables: Observable | Sequence[Observable],
    how: Coupled | None,
    seed: int,
    memory: int | str | None,
) -> CoupledRungs:
    """The work, refused here where an argument is wrong."""
    how = Coupled() if how is None else how
    if how.substeps is None:
        how = replace(how, substeps=fitting_substeps([rung.optimizer for rung in rungs]))
    substeps = tuple(wholes(how.substeps, "substeps"))
    for rung, sde in zip(rungs, sdes, strict=True):
        if not rung.oracle.noise.independent_steps:
            raise UnsupportedError(
                f"gradients of {type(rung.oracle.noise).__name__} depend on earlier steps, so one "
                "step cannot be replaced by itself. Use simulate, solve and weak_error."
            )
        runs = Run.checked(replicas=how.chains, seed=seed, memory=memory)
        chain_job(rung.optimizer, rung.oracle, start, steps, observables, runs)
        job = path_job(sde, start, steps, observables, runs, substeps=substeps, subsample=0)
    problem = rungs[0].oracle.problem
    point = start_point(start, problem)
    rough = kinks(problem, point.expand(1).theta)
    return CoupledRungs(
        rungs=rungs,
        sdes=sdes,
        start=point,
        steps=job.steps,
        observables=job.observables,
        independent=[bool(rough) or not o.smooth for o in job.observables],
        kinks=rough,
        how=how,
        substeps=substeps,
        seed=runs.seed,
        memory=runs.memory,
    )


@dataclass(frozen=True)
class Reference:
    """What a rung is compared with: a combination of the paths' channels, and what is known of it.

    Args:
        weights: of the channels, `(channel,)`.
        mean: what is added to their combination, `(step, observable)`.
        integrator: the bias of the finest dt, its standard error, and what extrapolation left.
        model: its name.
    """

    weights: Array
    mean: Array
    integrator: tuple[Array, Array, Array]
    model: str


def own_sde(measurements: Measurements, i: int) -> Reference:
    """The SDE of rung i on the paths that the rung shares."""
    work = measurements.work
    nothing = np.zeros((len(work.steps), len(work.observables)))
    return Reference(work.of_path(i), nothing, _integrator(measurements, i), work.sdes[i].model)


def without_noise(measurements: Measurements, flow: xr.Dataset) -> Reference:
    """A path of an SDE without noise, from `solve`, which no common path takes part in."""
    mean = flow["extrapolated"].transpose(*DIMS).values
    nothing = np.zeros_like(measurements.work.of_form(0))
    return Reference(nothing, mean, integrator(flow), str(flow.attrs["model"]))


def _weights(work: CoupledRungs, i: int, reference: Reference) -> Array:
    """Of the paths' channels in rung i's A + D, `(channel, observable)`."""
    form = work.of_form(i)
    kept = [
        0.0 if own and not work.rungs[i].oracle.noise.normal else 1.0 for own in work.independent
    ]
    return np.stack([k * form - reference.weights for k in kept], axis=1)


def _shared(measurements: Measurements, references: Sequence[Reference]) -> Array:
    """The covariance of the rungs' errors by their common paths, `(rung, rung, step, observable)`.

    Forks and independent runs of one rung have no part in another's.
    """
    each = [_weights(measurements.work, i, r) for i, r in enumerate(references)]
    return measurements.paths.covariance(np.stack(each))


def rung_error(
    measurements: Measurements, i: int, reference: Reference, confidence: float
) -> xr.Dataset:
    """One rung's weak error with its parts."""
    work, paths = measurements.work, measurements.paths
    n = len(work.observables)
    form, path = work.of_form(i), reference.weights
    d, d_variance = _combined(paths, form - path, n)
    d = d - reference.mean
    path_mean, path_variance = _combined(paths, path, n)
    path_mean = path_mean + reference.mean
    form_mean, form_variance = _combined(paths, form, n)
    own = _weights(work, i, reference)
    error = paths.mean(own[None])[0] - reference.mean
    variance = np.maximum(paths.covariance(own[None])[0, 0], 0.0)
    degrees = variance**2 / (paths.count - 1)
    a, a_variance = np.zeros_like(d), np.zeros_like(d)
    parts = {name: np.zeros_like(d) for name in PARTS}
    random = [paths.ensemble(own)]
    forks, chain = measurements.forks(i), measurements.chain(i)
    smooth = ~np.asarray(work.independent)
    if forks is not None:
        a, a_variance = _masked(_combined(forks, np.ones(2), n), smooth)
        error, variance = error + a, variance + a_variance
        degrees = degrees + a_variance**2 / (forks.count - 1)
        random.append(forks.ensemble(np.outer(np.ones(2), smooth)))
        fourth, of_fourth = _masked(_combined(forks, np.array([0.0, 1.0]), n), smooth)
        parts |= {"fourth_cumulant": fourth, "fourth_cumulant_standard_error": np.sqrt(of_fourth)}
    if chain is not None:
        runs = _widened(next(iter(side_of(chain).ensembles.values())), ~smooth)
        mean = np.zeros_like(d)
        mean[:, ~smooth] = chain["mean"].transpose(*DIMS).values
        error, variance = error + mean, variance + runs.variance
        degrees = degrees + runs.variance**2 / (runs.replicas - 1)
        a = a + np.where(smooth, 0.0, mean - form_mean)
        a_variance = a_variance + np.where(smooth, 0.0, runs.variance + form_variance)
        form_variance = np.where(smooth, form_variance, runs.variance)
        random.append(runs)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts["degrees_of_freedom"] = np.where(degrees > 0, variance**2 / degrees, np.inf)
    parts |= {
        "discretisation": d,
        "discretisation_standard_error": np.sqrt(d_variance),
        "non_gaussianity": a,
        "non_gaussianity_standard_error": np.sqrt(a_variance),
    }
    bias, bias_error, residual = reference.integrator
    fields = {
        "error": error,
        "standard_error": np.sqrt(variance),
        "chain_mean": path_mean + error,
        "path_mean": path_mean,
        "chain_variance": form_variance,
        "path_variance": path_variance,
        "side_covariance": (form_variance + path_variance - variance) / 2,
        "integrator_bias": bias,
        "integrator_bias_standard_error": bias_error,
        "integrator_residual": residual,
        **parts,
    }
    ds = xr.Dataset(
        {k: (DIMS, v) for k, v in fields.items()}, **_coordinates(work, i, reference.model)
    )
    noisy = [e for e in random if bool((e.variance > 0).any())]
    replicas = int(min((e.replicas for e in noisy), default=0))
    ds = ds.merge(largest_over_time(ds, noisy, confidence))
    return ds.assign_attrs(confidence=confidence, replicas=replicas)


def _combined(sample: Sample, weights: Array, observables: int) -> tuple[Array, Array]:
    """Mean and variance of the mean of one combination of channels, `(step, observable)` each."""
    wide = np.repeat(weights[:, None], observables, axis=1)[None]
    return sample.mean(wide)[0], np.maximum(sample.covariance(wide)[0, 0], 0.0)


def _masked(pair: tuple[Array, Array], kept: Array) -> tuple[Array, Array]:
    return np.where(kept, pair[0], 0.0), np.where(kept, pair[1], 0.0)


def _widened(e: Ensemble, where: Array) -> Ensemble:
    """An ensemble of some observables among all, without variance for the others."""

    def wide(values: Array) -> Array:
        out = np.zeros((*values.shape[:-1], len(where)))
        out[..., where] = values
        return out

    return Ensemble(e.weight, wide(e.variance), wide(e.residuals), e.replicas, e.seed)


def _integrator(measurements: Measurements, i: int) -> tuple[Array, Array, Array]:
    """The bias of the finest dt, its standard error, and what extrapolation may have left.

    With three step sizes or more that is what the coarsest of them changed, with two the rule of
    `weak_error`, with one it is unknown.
    """
    work, paths = measurements.work, measurements.paths
    n, sizes = len(work.observables), np.asarray(work.substeps)
    if len(sizes) == 1:
        unknown = np.full((len(work.steps), n), np.nan)
        return unknown, unknown, unknown
    bias, variance = _combined(paths, work.of_path(i, 1) - work.of_path(i), n)
    if len(sizes) == 2:
        share = sizes[-1] / np.prod(sizes)
        left, left_variance = share * bias, share**2 * variance
    else:
        fewer = work.of_path(i, len(sizes) - 1)
        left, left_variance = _combined(paths, work.of_path(i) - fewer, n)
    size = np.maximum(np.abs(left), np.sqrt(left_variance))
    return bias, np.sqrt(variance), np.copysign(size, left)


def _coordinates(work: CoupledRungs, i: int, model: str) -> dict[str, Any]:
    """Coordinates and attributes of a rung's errors."""
    rung, sde, how = work.rungs[i], work.sdes[i], work.how
    optimizer, problem = rung.optimizer, rung.oracle.problem
    step = work.start.step + np.asarray(work.steps)
    names = np.asarray([o.name for o in work.observables], dtype=object)
    form = [INDEPENDENT if own else COUPLED for own in work.independent]
    chain_time = optimizer.time_per_step * optimizer.refinement
    return {
        "coords": {
            STEP: step,
            "time": (STEP, step * sde.time_per_level1_step),
            OBSERVABLE: names,
            "form": (OBSERVABLE, np.asarray(form, dtype=object)),
        },
        "attrs": {
            "kind": "weak_error",
            "estimator": ESTIMATOR,
            "name": optimizer.name,
            "model": model,
            "time_per_step": optimizer.time_per_step,
            "time_per_level1_step": chain_time,
            "refinement": float(optimizer.refinement),
            "chain_start_step": float(work.start.step),
            "noise": rung.oracle.noise.describe(problem),
            "kinks": ", ".join(work.kinks),
            "paths": how.paths,
            "trunks": how.trunks,
            "chains": how.chains if any(work.independent) else 0,
            "seed": work.seed,
            "integrator_bias_measured": int(len(work.substeps) > 1),
        },
    }
