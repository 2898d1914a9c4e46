"""Verdicts: whether errors along a ladder support or refute the order that an SDE claims.

One fit, with 95% interval [low, high] for the order and claim p:
- *refuted*: high < p;
- *supported*: high >= p and low > p - 1/2;
- *inconclusive* otherwise. An order bounds the error from above, so a higher order supports.

Several observables and steps are judged together by Holm's method at the same 2.5% per side, so
that looking at many fits refutes no true claim, and supports no false one, more often than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sdeverify.axes import OBSERVABLE, STEP
from sdeverify.errors import InconclusiveError, InvalidInputError

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
LEVEL = 0.025
"""One-sided level of a verdict: that of a two-sided 95% interval."""


@dataclass(frozen=True)
class Verdict:
    """What all fits of one comparison say together; `str(...)` is the sentence.

    Attributes:
        verdict: "supported", "refuted" or "inconclusive".
        text: one sentence.
        fits, supported, refuted, inconclusive: how many fits were judged, and how each alone fell.
        refutation_p_value, support_p_value: the smallest, adjusted by Holm's method.
    """

    verdict: str
    text: str
    fits: int
    supported: int
    refuted: int
    inconclusive: int
    refutation_p_value: float
    support_p_value: float

    def __str__(self) -> str:
        return self.text


def interval_verdict(low: float, high: float, claimed: float) -> str:
    """The verdict on one interval of the order."""
    if high < claimed:
        return REFUTED
    return SUPPORTED if low > claimed - 0.5 else INCONCLUSIVE


def overall_verdict(order: xr.Dataset, *, exclude: Sequence[str] = ("accuracy",)) -> Verdict:
    """The verdict over all observables and steps of `estimate_order`'s dataset.

    Refuted if any fit is, after Holm's adjustment for the number of fits; else supported if at
    least one fit is, likewise adjusted; else inconclusive.

    Args:
        exclude: observables that are shown but not judged: accuracy is not smooth, so the theorems
            say nothing about it.

    Raises:
        InvalidInputError: not an order dataset, or nothing is left to judge.
    """
    if "verdict" not in order or "refutation_p_value" not in order:
        raise InvalidInputError("overall_verdict takes the dataset of estimate_order(ladder)")
    kept = [o for o in order[OBSERVABLE].values if str(o) not in exclude]
    if not kept:
        raise InvalidInputError(f"nothing is left to judge: every observable is in {exclude}")
    judged = order.sel({OBSERVABLE: kept}).stack(fit=(OBSERVABLE, STEP))
    alone = judged["verdict"].values
    refutation = _holm(np.where(alone == REFUTED, judged["refutation_p_value"].values, 1.0))
    support = _holm(np.where(alone == SUPPORTED, judged["support_p_value"].values, 1.0))
    verdict = INCONCLUSIVE
    if np.min(refutation) < LEVEL:
        verdict = REFUTED
    elif np.min(support) < LEVEL:
        verdict = SUPPORTED
    n_supported, n_refuted, n_open = (
        int(np.sum(alone == v)) for v in (SUPPORTED, REFUTED, INCONCLUSIVE)
    )
    adjusted = {REFUTED: refutation, SUPPORTED: support}.get(verdict)
    text = _sentence(judged, verdict, adjusted, (n_supported, n_refuted, n_open))
    smallest = float(np.min(refutation)), float(np.min(support))
    return Verdict(verdict, text, len(alone), n_supported, n_refuted, n_open, *smallest)


def order_or_raise(order: xr.Dataset, observable: str, step: float | None = None) -> float:
    """The estimated order of one observable, at the last step unless told otherwise.

    Raises:
        InconclusiveError: the fit is inconclusive; its `estimate` is that fit's dataset.
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


def _sentence(
    judged: xr.Dataset, verdict: str, adjusted: NDArray[Any] | None, counts: tuple[int, int, int]
) -> str:
    supported, refuted, open_ = counts
    total = sum(counts)
    claim = f"order {float(judged.attrs['claimed_order']):g}"
    if adjusted is None:
        reasons, often = np.unique(judged["reason"].values.astype(str), return_counts=True)
        hint = f"most often: {reasons[np.argmax(often)]}"
        return (
            f"Inconclusive about {claim}: of {total} fits {supported} support it, {refuted} "
            f"contradict it and {open_} are open; nothing stands out among {total} looks ({hint})."
        )
    i = int(np.argmin(adjusted))
    where = f"'{judged[OBSERVABLE].values[i]}' at step {float(judged[STEP].values[i]):g}"
    low, high = float(judged["order_low"][i]), float(judged["order_high"][i])
    found = f"order {float(judged['order'][i]):.2f} (95% interval {low:.2f} to {high:.2f})"
    if verdict == REFUTED:
        return (
            f"Refuted: {claim} is claimed, {where} has {found}; {refuted} of {total} fits refute."
        )
    against = (
        f"{refuted} contradict it, no more than chance among {total} looks allows"
        if refuted
        else "none contradicts it"
    )
    return (
        f"Supported: {claim} is claimed, {where} has {found}; {supported} of {total} fits support "
        f"it, {open_} are open and {against}."
    )
