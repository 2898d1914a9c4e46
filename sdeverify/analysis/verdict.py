"""Verdicts: whether errors along a ladder support or refute the order that an SDE claims.

One fit, with 95% interval [low, high] for the order and claim p:
- *refuted*: high < p;
- *supported*: high >= p and low > p - 1/2, and a limit of the error, as the step goes to 0, of more
  than `SMALL_LIMIT` of the error at the coarsest rung is excluded. On a ladder that tests noise,
  support also needs the control, the same fit against the SDE without its noise (gradient flow):
  the error must have a limit there, or the observable does not see the noise at that step, and a
  limit of more than `WARM` of that limit must be excluded, `SMALL_LIMIT` of it where nothing is
  sampled: an error of the temperature;
- *inconclusive* otherwise. An order bounds the error from above, so a higher order supports.

Several observables and steps are judged together by Holm's method at the same 2.5% per side, so
that looking at many fits refutes no true claim, and supports no false one, more often than that:
- *refuted*: a fit refutes;
- *supported*: a fit supports; none refutes, not even at `DOUBT`; and none has a limit that is not 0
  and may exceed `SMALL_LIMIT`;
- *inconclusive* otherwise.
Support is for the observables that support, which the sentence counts; it names the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdeverify.analysis.datasets.axes import OBSERVABLE, STEP
from sdeverify.analysis.limit import share_of
from sdeverify.errors import InconclusiveError, InvalidInputError

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
LEVEL = 0.025
"""One-sided level of a verdict: that of a two-sided 95% interval."""
DOUBT = 0.1
"""Support has to survive fits that refute at this level, adjusted for their number."""
SVAG = "svag"
"""The ladder that tests the noise where a dataset says no more than the ladder's name."""
SMALL_LIMIT = 0.1
"""What support has to exclude: a limit of this share of the coarsest rung's error."""
WARM = 0.5
"""What support from samples has to exclude: a limit of this share of gradient flow's."""


@dataclass(frozen=True)
class Verdict:
    """What all fits of one comparison say together; `str(...)` says it in words.

    Attributes:
        verdict: "supported", "refuted" or "inconclusive".
        text: it in words.
        fits, supported, refuted, inconclusive: how many fits were judged, and how each alone fell.
        refutation_p_value, support_p_value: the smallest, adjusted by Holm's method.
        deciding: number of the fit that shows the verdict, over (observable, step): the narrowest
            interval of the order among those that alone make it, or among all where it is open.
            Support is shown where the error keeps its sign along the ladder and the error of the
            temperature is below `SMALL_LIMIT`, if that is so anywhere.
        obstacle: why fits that support do not make support; empty where nothing stands in the way.
        unresolved: the judged observables that no fit supports or refutes.
    """

    verdict: str
    text: str
    fits: int
    supported: int
    refuted: int
    inconclusive: int
    refutation_p_value: float
    support_p_value: float
    deciding: int
    obstacle: str
    unresolved: tuple[str, ...]

    def __str__(self) -> str:
        return self.text


def interval_verdict(low: float, high: float, claimed: float) -> str:
    """The verdict on one interval of the order."""
    if high < claimed:
        return REFUTED
    return SUPPORTED if low > claimed - 0.5 else INCONCLUSIVE


def overall_verdict(
    order: xr.Dataset, *, exclude: Sequence[str] = ("accuracy",), flow: xr.Dataset | None = None
) -> Verdict:
    """The verdict over all observables and steps of `estimate_order`'s dataset.

    Args:
        order: from `estimate_order`.
        exclude: observables that are shown but not judged: accuracy is not smooth, so the theorems
            say nothing about it.
        flow: the control, unless `estimate_order` had it; see `controlled`. A ladder that tests
            the noise supports nothing without.

    Raises:
        InvalidInputError: not an order dataset, or nothing is left to judge.

    Example:
        >>> from sdeverify.testing.faults import correct_studies
        >>> parts = sv.certify(correct_studies()["sgd"])["sgd"]
        >>> order, flow = parts["order"].to_dataset(), parts["flow_order"].to_dataset()
        >>> sv.overall_verdict(order, flow=flow).verdict
        'supported'
    """
    judged = _judged(order if flow is None else controlled(order, flow), exclude)
    alone = judged["verdict"].values
    refutation = _holm(np.where(alone == REFUTED, judged["refutation_p_value"].values, 1.0))
    support = _holm(np.where(alone == SUPPORTED, judged["support_p_value"].values, 1.0))
    verdict, obstacle, telling = INCONCLUSIVE, "", np.full(len(alone), True)
    if np.min(refutation) < LEVEL:
        verdict, telling = REFUTED, refutation < LEVEL
    elif np.min(support) < LEVEL:
        obstacle = _obstacle(judged, refutation)
        if not obstacle:
            verdict, telling = SUPPORTED, support < LEVEL
            if np.any(telling & _clear(judged)):
                telling = telling & _clear(judged)
    counts = [int(np.sum(alone == v)) for v in (SUPPORTED, REFUTED, INCONCLUSIVE)]
    names = judged[OBSERVABLE].values.astype(str)
    resolved = set(names[alone != INCONCLUSIVE])
    overall = Verdict(
        verdict=verdict,
        text="",
        fits=len(alone),
        supported=counts[0],
        refuted=counts[1],
        inconclusive=counts[2],
        refutation_p_value=float(np.min(refutation)),
        support_p_value=float(np.min(support)),
        deciding=_narrowest(judged, telling),
        obstacle=obstacle,
        unresolved=tuple(n for n in dict.fromkeys(names) if n not in resolved),
    )
    return replace(overall, text=_sentence(judged, overall))


def _clear(judged: xr.Dataset) -> NDArray[Any]:
    """Fits that show support well: one sign along the ladder, no large error of the temperature."""
    step = float(judged["time_per_step"].max()) if "time_per_step" in judged.coords else 0.0
    bend = judged["second_coefficient"].fillna(0.0).values * step ** judged.attrs.get("spacing", 1)
    share = judged["flow_share"].values if "flow_share" in judged else np.zeros(len(bend))
    return np.asarray((1 + bend > 0) & (share < SMALL_LIMIT))


def _narrowest(judged: xr.Dataset, telling: NDArray[Any]) -> int:
    """The fit with the narrowest interval among some; one open end is better than two."""
    ends = np.stack([judged["order_low"].values, judged["order_high"].values])
    width = np.where(np.isfinite(ends).all(0), ends[1] - ends[0], np.inf)
    return int(np.lexsort((width, (~np.isfinite(ends)).sum(0), ~telling))[0])


def _judged(order: xr.Dataset, exclude: Sequence[str]) -> xr.Dataset:
    """The fits that are judged, over `fit`."""
    if "verdict" not in order or "refutation_p_value" not in order:
        raise InvalidInputError("overall_verdict takes the dataset of estimate_order(ladder)")
    kept = [o for o in order[OBSERVABLE].values if str(o) not in exclude]
    if not kept:
        raise InvalidInputError(f"nothing is left to judge: every observable is in {exclude}")
    return order.sel({OBSERVABLE: kept}).stack(fit=(OBSERVABLE, STEP))


def controlled(order: xr.Dataset, flow: xr.Dataset) -> xr.Dataset:
    """Orders with their control: no fit supports that does not see the noise.

    An observable's limit against gradient flow is what the noise does to its expectation; so the
    limit against the SDE, as a share of that, is to first order an error of the temperature.

    Args:
        order: from `estimate_order`.
        flow: the same chains' orders against the SDE without its noise.

    Raises:
        InvalidInputError: observables or steps that differ.
    """
    if not _tests_noise(order):
        return order
    fits = [
        (ds[OBSERVABLE].values.astype(str).tolist(), ds[STEP].values.tolist())
        for ds in (order, flow)
    ]
    if fits[0] != fits[1]:
        raise InvalidInputError(
            f"the control has the observables and steps of the orders, {fits[0]}; got {fits[1]}"
        )
    aligned = flow.transpose(*order["verdict"].dims, ...)
    low, high, p = (aligned[n].values for n in ("limit_low", "limit_high", "limit_p_value"))
    least = np.where(low * high > 0, np.minimum(np.abs(low), np.abs(high)), 0.0)
    share = share_of(order["limit_low"].values, order["limit_high"].values, least)
    supports = order["verdict"].values == SUPPORTED
    blind = supports & ~(p < 2 * LEVEL)
    most = np.where(order["terms"].values == 0, SMALL_LIMIT, WARM)
    warm = supports & ~blind & ~(share < most)
    reason = order["reason"].values.copy()
    reason[blind] = "gradient flow has no limit here either: the observable does not see the noise"
    reason[warm] = [
        f"an error of the temperature of {_percent(s)} is not excluded: add finer rungs or replicas"
        for s in share[warm]
    ]
    dims = order["verdict"].dims
    return order.assign(
        verdict=(dims, np.where(blind | warm, INCONCLUSIVE, order["verdict"].values)),
        reason=(dims, reason),
        support_p_value=(
            dims,
            np.fmax(order["support_p_value"].values, np.where(warm, 1.0, p / 2)),
        ),
        flow_share=(dims, share),
        flow_p_value=(dims, p),
    )


def _tests_noise(order: xr.Dataset) -> bool:
    return bool(order.attrs.get("tests_noise", order.attrs.get("ladder") == SVAG))


def _obstacle(judged: xr.Dataset, refutation: NDArray[Any]) -> str:
    """What keeps fits that support from making support, in words."""
    if np.min(refutation) < DOUBT:
        one = judged.isel(fit=int(np.argmin(refutation)))
        p = float(np.min(refutation))
        return f"{_place(one)} contradicts it (p = {p:.2g}, adjusted for the number of fits)"
    large = judged["limit_share"] > SMALL_LIMIT
    limited = _holm(judged["limit_p_value"].where(large, 1.0).fillna(1.0).values)
    if np.min(limited) < 2 * LEVEL:
        one = judged.isel(fit=int(np.argmin(limited)))
        low, high = float(one["limit_low"]), float(one["limit_high"])
        return f"{_place(one)} the error tends to {low:.2g} to {high:.2g}, not to 0"
    if _tests_noise(judged) and "flow_share" not in judged:
        return "without the control: give the same chains' orders against gradient flow as flow="
    return ""


def order_or_raise(order: xr.Dataset, observable: str, step: float | None = None) -> float:
    """The estimated order of one observable, at the last step unless told otherwise.

    Raises:
        InconclusiveError: the fit is inconclusive; its `estimate` is that fit's dataset.

    Example:
        >>> from sdeverify.exact import Periodic
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(1))
        >>> cosine = sv.Observable("cos", lambda state: state.theta[:, 0].cos())
        >>> theta0, domain = torch.ones(1).double(), {"theta": Periodic()}
        >>> def error(level):
        ...     run = sv.svag(sv.SGD(learning_rate=0.2), oracle, level)
        ...     return sv.exact_weak_error(*run, sv.derive(*run), theta0, [4], [cosine], domain)
        >>> levels = [1, 2, 4]
        >>> errors = sv.ladder([error(level) for level in levels], "svag", level=levels)
        >>> round(sv.order_or_raise(sv.estimate_order(errors), "cos"), 1)
        1.0
    """
    one = order.sel({OBSERVABLE: observable})
    one = one.isel({STEP: -1}) if step is None else one.sel({STEP: step})
    if str(one["verdict"].item()) == INCONCLUSIVE:
        low, high = float(one["order_low"]), float(one["order_high"])
        raise InconclusiveError(
            f"the order of '{observable}' at step {float(one[STEP]):g} is not resolved: "
            f"{one['reason'].item()} (95% interval {low:.2f} to {high:.2f}). Use more replicas or "
            "more rungs; replicas_needed(...) says how many.",
            estimate=one,
        )
    return float(one["order"])


def _holm(p: NDArray[Any]) -> NDArray[Any]:
    """P-values adjusted for their number by Holm (1979)."""
    rank = np.argsort(p)
    stepped = np.maximum.accumulate(p[rank] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(stepped)
    adjusted[rank] = np.minimum(stepped, 1.0)
    return adjusted


def _sentence(judged: xr.Dataset, v: Verdict) -> str:
    claim = f"order {float(judged.attrs['claimed_order']):g}"
    open_ = f" Not resolved: {', '.join(v.unresolved)}." if v.unresolved else ""
    tally = f"of {v.fits} fits {v.supported} support it, {v.refuted} contradict it and "
    tally += f"{v.inconclusive} are open"
    if v.verdict == INCONCLUSIVE and not v.obstacle:
        reasons, often = np.unique(judged["reason"].values.astype(str), return_counts=True)
        hint = f"most often: {reasons[np.argmax(often)]}"
        return (
            f"Inconclusive about {claim}: {tally}; nothing stands out among {v.fits} looks "
            f"({hint}).{open_}"
        )
    if v.obstacle:
        return f"Inconclusive about {claim}: {tally}, but {v.obstacle}.{open_}"
    one = judged.isel(fit=v.deciding)
    low, high = float(one["order_low"]), float(one["order_high"])
    order = f"order {float(one['order']):.2f} (95% interval {low:.2f} to {high:.2f})"
    if v.verdict == REFUTED:
        return (
            f"Refuted: {claim} is claimed, {_place(one)} has {order}; {v.refuted} of {v.fits} fits "
            "refute."
        )
    against = (
        f"{v.refuted} contradict it, no more than chance among {v.fits} looks allows"
        if v.refuted
        else "none contradicts it"
    )
    return (
        f"Supported: {claim} is claimed, {_place(one)} has {order}, and a limit of more than "
        f"{_percent(float(one['limit_share']))} of the coarsest error is excluded{_warmth(one)}; "
        f"{v.supported} of {v.fits} fits support it, {v.inconclusive} are open and "
        f"{against}.{open_}"
    )


def _warmth(one: xr.Dataset) -> str:
    """The excluded limit as an error of the temperature, where the ladder tests the noise."""
    share = float(one["flow_share"]) if "flow_share" in one else np.inf
    return f", that is an error of the temperature of {_percent(share)}" if share < np.inf else ""


def _percent(share: float) -> str:
    return f"{float(f'{100 * share:.2g}'):g}%"


def _place(one: xr.Dataset) -> str:
    return f"'{one[OBSERVABLE].item()}' at step {float(one[STEP]):g}"
