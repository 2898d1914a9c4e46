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
        observable, step: where the order has the narrowest interval of those that make the
            verdict, or of all smooth ones where it is open.
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
        sentence = "Inconclusive: no smooth observable was compared, so no theorem applies."
        one = c.order.isel(observable=0, step=-1)
        return _line(c, one, "inconclusive", sentence)
    shown = c.order.sel(observable=inside)
    overall = overall_verdict(c.order, exclude=tuple(c.outside_theorem))
    one = shown.stack(fit=("observable", "step")).isel(fit=overall.deciding)
    fit = f"{_place(one)} has order {_order_text(one)}"
    if overall.verdict == "supported":
        share = percent(float(one["limit_share"]))
        fit += f", and a limit of more than {share} of the coarsest error is excluded"
        fit += f"{_warmth(one, ', that is ')}"
    sentence = _sentence(f"Order {plain(c.claimed_order)}", fit, overall, shown)
    if overall.verdict == "inconclusive":
        sentence = f"{sentence} {replicas_hint(c, inside)}".rstrip()
    return _line(c, one, overall.verdict, sentence)


def _line(c: Comparison, one: xr.Dataset, verdict: str, sentence: str) -> Headline:
    name, step = str(one["observable"].item()), float(one["step"].item())
    return Headline(verdict, sentence, name, step, _order_text(one), plain(c.claimed_order))


def _order_text(one: xr.Dataset) -> str:
    return order_with_interval(*(float(one[k]) for k in ("order", "order_low", "order_high")))


def _place(one: xr.Dataset) -> str:
    return f"{one['observable'].item()} at step {plain(float(one['step']))}"


def _warmth(one: xr.Dataset, before: str) -> str:
    """The largest limit as an error of the temperature, where the ladder tests the noise."""
    share = float(one["flow_share"]) if "flow_share" in one else np.inf
    return f"{before}an error of the temperature of {percent(share)}" if share < np.inf else ""


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
    factor = np.where(np.isfinite(factor), factor, np.inf)
    resolved = budget["resolved"].values
    if not np.isfinite(factor[~near]).any():
        blunt = "More substeps first: what the integrator left is near the error."
        return blunt if np.isfinite(factor).any() else ""
    easiest = int(np.lexsort((factor, ~resolved, near))[0])
    one = budget.isel(fit=easiest)
    if factor[easiest] <= 1:
        return ""
    times = plain(max(factor[easiest], 1.1), 2)
    about = "About" if resolved[easiest] else "No error is resolved yet: at least"
    sizes = ", ".join(
        f"{_rounded(factor[easiest] * held)} {what}".rstrip() for what, held in _sizes(c)
    )
    what, whose = "replicas", "replicas on both sides"
    if coupled(c):
        what = whose = "paths and forks"
    return (
        f"{about} {times} times the {whose}, {sizes}, "
        f"would resolve {_place(one)}; --set with more {what} keeps those that are stored."
    )


def coupled(c: Comparison) -> bool:
    """Whether the errors come from paths and forks that share their noise."""
    return "estimator" in c.errors.attrs


def _sizes(c: Comparison) -> list[tuple[str, float]]:
    """How many replicas there are, of what."""
    if not coupled(c):
        return [("", float(c.errors.attrs["replicas"]))]
    held = [(name, float(c.errors.attrs[name])) for name in ("paths", "trunks", "chains")]
    return [(name, count) for name, count in held if count]


def estimator_sentence(c: Comparison) -> str:
    """How the errors were measured."""
    if c.computed:
        return "Both sides on grids, without sampling."
    if not coupled(c):
        return "Independent ensembles of the optimizer and the SDE."
    paths, trunks, chains = (int(c.errors.attrs[n]) for n in ("paths", "trunks", "chains"))
    text = (
        f"Coupling: {paths:,} Brownian paths, each shared by the SDE and all rungs with normal "
        f"noise (D), and {trunks:,} trunks of forks a rung for what noise that is not normal adds "
        "(A)"
    )
    form = c.errors["form"]
    apart = [str(name) for name in form["observable"].values[form.values != "coupled"]]
    if apart:
        text += f"; {chains:,} independent runs a rung for {', '.join(apart)}"
    return f"{text}."


def _rounded(count: float) -> str:
    """A number of replicas to two digits, upwards."""
    unit = 10.0 ** (np.floor(np.log10(count)) - 1)
    return f"{int(np.ceil(count / unit) * unit):,}"


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
        text = f"{plain(size, 2)} for {name} ({share} of the coarsest error{_warmth(one, ', ')}"
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
        "At the finest rung the integrator may have left "
        f"{largest('integrator_residual')} at most, which every interval allows for: its own weak "
        f"error, {largest('integrator_bias')} at most, was measured and taken out by extrapolation "
        "to dt = 0. An error below 2 standard errors counts as 2 standard errors here."
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
