"""How an SDE is solved for a wanted precision: step sizes, samples in a step, paths.

`studies/cost` measures what is best: Euler-Maruyama with two step sizes on one Brownian path, each
step over a fresh subset of about as many samples as a batch has, needs fewer gradients than SVAG
levels, alone or combined, than all samples, and than the one-gradient form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sdeverify.analysis.allocation import best_allocation
from sdeverify.base.arguments import number, whole, wholes
from sdeverify.ensembles.steppers.increments import Subsampled
from sdeverify.errors import InvalidInputError, SdeverifyError
from sdeverify.sdes.sde import GradientSDE

PRECISION = 0.1
"""Wanted unless another is asked for: a tenth of a spread."""
NOISE_SHARE = 2 / 3
"""The standard error's share of the precision; the rest is left to the bias."""
REACH = 0.04
"""Precision down to which dt of 1/2 and 1/4 of an optimizer step serve."""
FINEST = 64
"""Most Euler-Maruyama steps in one step of the optimizer that are planned."""
SAVES = 2
"""A subset is taken where all samples are at least so many times as many."""


@dataclass(frozen=True)
class Plan:
    """How to solve an SDE; print it to read why. `solve` and `verify` follow it by default.

    Attributes:
        precision: standard error plus bias, in spreads (standard deviations between paths).
        substeps: Euler-Maruyama steps in one step of the optimizer, on one Brownian path.
        subsample: samples in a step; 0 for all.
        replicas: paths.
        runs: of the optimizer, where its expectation is compared with the SDE's; else 0.
        reason: why the samples and the step sizes are these.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> plan = sv.plan(sv.derive(sv.SGD(learning_rate=0.1), oracle), precision=0.05)
        >>> plan.replicas, plan.substeps
        (900, (2, 4))
    """

    precision: float
    substeps: tuple[int, ...]
    subsample: int
    replicas: int
    runs: int
    reason: str

    def __str__(self) -> str:
        sizes = ", ".join("1" if s == 1 else f"1/{s}" for s in self.substeps)
        samples = f"fresh subsets of {self.subsample} samples" if self.subsample else "all samples"
        compared = f" against {self.runs} runs" if self.runs else ""
        return (
            f"{self.replicas} paths{compared}, dt = {sizes} of an optimizer step on one Brownian "
            f"path, {samples} in each step, because {self.reason}."
        )


def plan(
    sde: GradientSDE,
    precision: float = PRECISION,
    *,
    compared: bool = False,
    substeps: int | Sequence[int] | None = None,
    subsample: int | None = None,
) -> Plan:
    """The cheapest way that is known to find the SDE's expectations to a precision.

    The precision is that of each observable's mean: standard error plus bias in units of the
    observable's standard deviation between paths. Two thirds of it are the standard error's.

    Args:
        sde: from `derive`.
        precision: of the SDE's means, or where `compared` of the weak errors.
        compared: whether the means are compared with runs of the optimizer; replicas are then
            split between the two sides so that the cost in gradients is least.
        substeps, subsample: where they are given beforehand, as for `solve`.

    Raises:
        InvalidInputError: a precision that is not positive.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> print(sv.plan(sv.derive(sv.SGD(learning_rate=0.1), oracle), precision=0.05))
        900 paths, dt = 1/2, 1/4 of an optimizer step on one Brownian path, ...
    """
    if not number(precision, "the precision") > 0:
        raise InvalidInputError(
            f"the precision is a positive share of an observable's spread, 0.1 say; got "
            f"{precision}."
        )
    why, fine = "the samples were asked for", "the dt were asked for"
    if substeps is not None:
        sizes = tuple(wholes(substeps, "substeps"))
    else:
        sizes = _substeps(precision)
        fine = f"these dt serve a precision of {precision:.2g} spreads"
    if subsample is not None:
        subsample = whole(subsample, "subsample")
    else:
        subsample, why = _subsample(sde, max(sizes, default=1))
    wanted = NOISE_SHARE * precision
    weights, costs = [1.0], [_cost(sde, sizes, subsample)]
    if compared:
        weights, costs = [1.0, -1.0], [*costs, 1.0]
    split = best_allocation(weights, costs, standard_error=wanted).replicas
    runs = split[1] if compared else 0
    return Plan(precision, sizes, subsample, split[0], runs, f"{why}, and {fine}")


def precision_of(replicas: int) -> float:
    """The precision for which so many paths are the plan's."""
    return 1 / (NOISE_SHARE * math.sqrt(replicas))


def _substeps(precision: float) -> tuple[int, ...]:
    """Two step sizes: 1/2 and 1/4 of an optimizer step from REACH on.

    What their extrapolation leaves falls as dt^2, so a quarter of the precision takes half the dt.
    """
    halvings = math.ceil(0.5 * math.log2(REACH / precision) - 1e-9)
    coarse = 2 ** max(0, 1 + halvings)
    return min(coarse, FINEST // 2), min(2 * coarse, FINEST)


def _noise_samples(sde: GradientSDE) -> int:
    """The samples whose mean gradient has the noise of one optimizer step, 1/sigma^2."""
    if sde.intensity == 0:
        return 0
    return math.ceil(sde.time_per_level1_step / sde.intensity**2 - 1e-9)


def _subsample(sde: GradientSDE, finest: int) -> tuple[int, str]:
    """Samples in a step, 0 for all, and why."""
    size, samples = max(2, _noise_samples(sde)), sde.oracle.problem.samples
    if sde.intensity == 0:
        return 0, "an SDE without noise is one curve"
    try:
        Subsampled(size).check(sde, sde.time_per_level1_step / finest)
    except SdeverifyError as refusal:
        return 0, f"no subset serves ({str(refusal).split(';')[0].rstrip('.')})"
    if SAVES * size > samples:
        return 0, f"a subset of {size} out of {samples} samples would save little"
    return size, f"{size} samples, with the noise of one batch, cost least for an error"


def _cost(sde: GradientSDE, substeps: Sequence[int], subsample: int) -> float:
    """Of one path, in gradients of the optimizer."""
    samples = sde.oracle.problem.samples
    batch = min(max(1, _noise_samples(sde)), samples)
    if subsample:
        return len(substeps) * max(substeps, default=1) * subsample / batch
    return max(1, sum(substeps)) * samples / batch
