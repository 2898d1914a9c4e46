"""What the numbers say, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from sdeverify.report.formatting import order_with_interval, percent, plain
from sdeverify.report.results import Comparison

if TYPE_CHECKING:
    from sdeverify.analysis import Verdict

VERDICT_SIGNS = {"supported": "✓", "refuted": "✗", "inconclusive": "?"}
"""Beside the word, so that a verdict is never told by colour alone."""


@dataclass(frozen=True)
class Headline:
    """A comparison in one line: the verdict, and the observable that shows it best.

    Args:
        verdict: "supported", "refuted" or "inconclusive".
        sentence: the verdict in one sentence.
        observable: the smooth observable with this verdict whose order has the narrowest interval.
        step: the last step that has an order.
        order: its order with the 95% interval, as text.
        claimed: the claimed order, as text.
    """

    verdict: str
    sentence: str
    observable: str
    step: float
    order: str
    claimed: str

    @property
    def step_text(self) -> str:
        """The step as text."""
        return plain(self.step)


def headline(c: Comparison) -> Headline:
    """The one line of the summary table.

    The verdict is `overall_verdict`'s over all smooth observables and fitted steps. The line shows
    one of the fits that say so: at the last step that has one, that of the narrowest interval.
    """
    from sdeverify.analysis import overall_verdict

    inside = [n for n in c.observables if n not in c.outside_theorem]
    if not inside:
        shown, verdict = c.order, "inconclusive"
        sentence = "Inconclusive: no smooth observable was compared, so no theorem applies."
    else:
        outside = tuple(c.outside_theorem)
        overall = overall_verdict(c.order, exclude=outside, flow=c.flow_order)
        shown, verdict = c.order.sel(observable=inside), overall.verdict
    one = _telling_fit(shown, verdict)
    text = order_with_interval(*(float(one[k].item()) for k in _ENDS))
    name, step = str(one["observable"].item()), float(one["step"].item())
    if inside:
        fit = f"{name} at step {plain(step)} has order {text}"
        if verdict == "supported":
            share = percent(float(one["limit_share"]))
            fit += f", and a limit of more than {share} of the coarsest error is excluded"
        sentence = _sentence(f"Order {plain(c.claimed_order)}", fit, overall, shown)
        if verdict == "inconclusive":
            sentence = f"{sentence} {replicas_hint(c, inside)}".rstrip()
    return Headline(verdict, sentence, name, step, text, plain(c.claimed_order))


_ENDS = ("order", "order_low", "order_high")


def _telling_fit(order: xr.Dataset, verdict: str) -> xr.Dataset:
    """The fit that shows a verdict: the latest step that has one, the narrowest interval."""
    fits = [
        order.sel(observable=name, step=step)
        for step in order["step"].values[::-1]
        for name in order["observable"].values
    ]
    telling = [fit for fit in fits if str(fit["verdict"].item()) == verdict] or fits
    last = max(float(fit["step"]) for fit in telling)

    def uncertainty(fit: xr.Dataset) -> tuple[int, float]:
        ends = np.array([float(fit["order_low"]), float(fit["order_high"])])
        known = np.isfinite(ends)
        return int((~known).sum()), float(np.ptp(ends)) if known.all() else 0.0

    return min((fit for fit in telling if float(fit["step"]) == last), key=uncertainty)


def _sentence(claim: str, fit: str, overall: Verdict, order: xr.Dataset) -> str:
    verdict, total = overall.verdict, overall.fits
    tally = {
        "supported": f"{overall.supported} support it",
        "refuted": f"{overall.refuted} refute it",
        "inconclusive": f"{overall.inconclusive} are open",
    }
    first = tally.pop(verdict)
    rest = " and ".join(tally.values())
    looks = f"{order.sizes['observable']} smooth observables at {order.sizes['step']} times"
    sentence = f"of {total} fits ({looks}) {first}, {rest}"
    if verdict == "supported" and overall.refuted:
        sentence += f", no more than {total} looks allow"
    unresolved = f" Not resolved: {', '.join(overall.unresolved)}." if overall.unresolved else ""
    if verdict != "inconclusive":
        return f"{claim} is {verdict}: {fit}; {sentence}.{unresolved}"
    about = f"Inconclusive about {claim.lower()}: {sentence}"
    if overall.obstacle:
        return f"{about}, but {overall.obstacle}.{unresolved}"
    reasons, often = np.unique(order["reason"].values.astype(str), return_counts=True)
    return f"{about}. Most often: {reasons[often.argmax()]}.{unresolved}"


def replicas_hint(c: Comparison, observables: Sequence[str]) -> str:
    """How many replicas the easiest fit would take; empty where replicas are not what lacks."""
    from sdeverify.analysis import replicas_needed
    from sdeverify.analysis.verdict import SMALL_LIMIT

    if c.computed or c.rungs < 3 or not (c.errors["standard_error"] > 0).any():
        return ""
    budget = replicas_needed(c.errors.sel(observable=list(observables)))
    budget = budget.stack(fit=("observable", "step"))
    near = budget["residual_share"].values > SMALL_LIMIT / 2
    factor = np.fmax(budget["factor"].values, budget["limit_factor"].values)
    factor = np.where(budget["resolved"].values & np.isfinite(factor), factor, np.inf)
    easiest = int(np.argmin(np.where(near, np.inf, factor)))
    if near[easiest] or not np.isfinite(factor[easiest]):
        return (
            "More substeps first: what the integrator left is near the error."
            if np.isfinite(factor).any()
            else ""
        )
    if factor[easiest] <= 1:
        return ""
    one, times = budget.isel(fit=easiest), plain(max(factor[easiest], 1.1), 2)
    return (
        f"About {times} times the replicas on both sides would resolve "
        f"{one['observable'].item()} at step {plain(float(one['step']))}; --set with more replicas "
        "keeps those that are stored."
    )


def limit_sentence(c: Comparison) -> str:
    """The constant error that each smooth observable leaves possible, at the last fitted step."""
    last = c.order.sel(step=c.last_step, method="nearest")
    coarsest = c.chains[0].sel(step=c.last_step, method="nearest")
    sizes = []
    for name in (n for n in c.observables if n not in c.outside_theorem):
        one = last.sel(observable=name)
        size = float(np.maximum(np.abs(one["limit_low"]), np.abs(one["limit_high"])))
        if not np.isfinite(size):
            continue
        share = percent(float(one["limit_share"]))
        text = f"{plain(size, 2)} for {name} ({share} of the coarsest error"
        if not c.computed:
            replicas = float(coarsest["block_count"].sum())
            standard_error = float(coarsest["standard_error"].sel(observable=name))
            if standard_error:
                share = percent(size / (standard_error * np.sqrt(replicas)))
                text += f", {share} of the standard deviation between replicas"
        sizes.append(f"{text})")
    if not sizes:
        return ""
    return (
        "A constant error, the mark of a wrong SDE, is not excluded up to the following sizes, at "
        f"step {plain(c.last_step)}: {'; '.join(sizes)}."
    )


def in_brief(comparisons: Sequence[Comparison]) -> str:
    """How many comparisons came out which way."""
    verdicts = [headline(c).verdict for c in comparisons]
    counts = [
        f"{verdicts.count(verdict)} {verdict}"
        for verdict in ("supported", "refuted", "inconclusive")
        if verdict in verdicts
    ]
    noun = "comparison" if len(verdicts) == 1 else "comparisons"
    return f"{len(verdicts)} {noun}: {', '.join(counts)}."


def bias_sentence(c: Comparison) -> str:
    """The integrator's own weak error beside the weak error under study, at the finest rung."""
    if c.computed:
        return "Nothing was sampled and nothing integrated step by step: no error of either kind."
    if "integrator_bias" not in c.errors or not c.errors["integrator_bias"].notnull().any():
        return "The integrator's own error was not measured."
    last = c.errors.sel(step=c.last_step, method="nearest")
    finest = last.isel(rung=int(np.argmin(last["time_per_step"].values)))
    size = np.maximum(np.abs(finest["error"].values), 2 * finest["standard_error"].values)

    def largest(name: str) -> str:
        shares = np.abs(finest[name].values) / size
        worst = int(np.nanargmax(shares))
        return f"{percent(shares[worst])} of the weak error (for {c.observables[worst]})"

    return (
        "The integrator's own weak error was measured and taken out by extrapolation to dt = 0. "
        f"At the finest rung it was at most {largest('integrator_bias')}; what the extrapolation "
        f"may have left, at most {largest('integrator_residual')}, is allowed for in every "
        "interval. An error below 2 standard errors counts as 2 standard errors here."
    )


def ladder_sentence(c: Comparison) -> str:
    """The ladder in words, with its ends."""
    steps_text = ", ".join(plain(float(step)) for step in c.order["step"].values)
    steps = np.asarray(c.errors["time_per_step"].values, dtype=np.float64)
    return (
        f"The ladder: {c.rungs} rungs along {c.along}; SDE time per "
        f"optimizer step from {plain(steps.max(), 3)} down to {plain(steps.min(), 3)}, compared at "
        f"{c.errors.sizes['step']} times, fitted at steps {steps_text}."
    )


def unresolved_sentence(c: Comparison) -> str:
    """Observables of which a rung's error is not resolved; empty where all are."""
    last = c.errors.sel(step=c.last_step, method="nearest")
    limit = "its numerical bound" if c.computed else "2 standard errors"
    unresolved = np.abs(last["error"].values) < 2 * last["standard_error"].values
    named = [
        f"{name} ({int(count)} of {c.rungs})"
        for name, count in zip(c.observables, unresolved.sum(0), strict=True)
        if count
    ]
    if not named:
        return f"Every error is resolved (at least {limit} from 0)."
    return f"Not resolved, that is within {limit} of 0: rungs of {', '.join(named)}."


def noise_text(values: Mapping[str, float]) -> str:
    """Skewness or kurtosis over the parameters in words."""
    words = ((name.replace("quantile90", "90% quantile"), value) for name, value in values.items())
    return ", ".join(f"{name} {plain(value, 3)}" for name, value in words)
