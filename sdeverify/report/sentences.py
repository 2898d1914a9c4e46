"""What the numbers say, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdeverify.report.formatting import anything, order_with_interval, plain
from sdeverify.report.results import Comparison

VERDICT_SIGNS = {"supported": "✓", "refuted": "✗", "inconclusive": "?"}
"""Beside the word, so that a verdict is never told by colour alone."""

LADDERS = {
    "svag": "SVAG levels (the chain refines, its SDE stays)",
    "learning_rate": "learning rates (the step goes to 0, and with it the noise)",
}


@dataclass(frozen=True)
class Headline:
    """A comparison in one line: the verdict, and the observable that shows it best.

    Args:
        verdict: "supported", "refuted" or "inconclusive".
        sentence: the verdict in one sentence.
        observable: the smooth observable with this verdict whose order is known best.
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
    """The one line of the summary table."""
    last = c.order.sel(step=c.last_step)
    inside = [n for n in c.observables if n not in c.outside_theorem] or c.observables
    verdicts = {n: str(last["verdict"].sel(observable=n).item()) for n in inside}
    verdict = _overall(list(verdicts.values()))
    widths = {n: float((last.order_high - last.order_low).sel(observable=n)) for n in inside}
    candidates = [n for n in inside if verdicts[n] == verdict] or inside
    best = min(candidates, key=lambda n: widths[n] if np.isfinite(widths[n]) else np.inf)
    one = last.sel(observable=best)
    text = order_with_interval(
        float(one["order"].item()), float(one["order_low"].item()), float(one["order_high"].item())
    )
    return Headline(verdict, _sentence(c, verdict, verdicts), best, c.last_step, text, plain(c.claimed_order))


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
    if "integrator_bias" not in c.errors:
        return "The integrator's own error was not measured."
    last = c.errors.sel(step=c.last_step, method="nearest")
    steps = np.asarray(last["time_per_step"].values, dtype=np.float64)
    finest = last.isel(rung=int(steps.argmin()))
    ratio = np.abs(finest["integrator_bias"].values) / np.maximum(
        np.abs(finest["error"].values), 2 * finest["standard_error"].values
    )
    worst = int(np.nanargmax(ratio)) if np.isfinite(ratio).any() else 0
    return (
        "The integrator's own weak error (its finest time step against the extrapolated value, "
        f"already taken out of the errors above) is at most {plain(float(ratio[worst]), 2)} of the "
        f"smallest rung's weak error or its resolution, for {c.observables[worst]}."
    )


def ladder_sentence(c: Comparison) -> str:
    """The ladder in words, with its ends."""
    steps = np.asarray(c.errors["time_per_step"].values, dtype=np.float64)
    return (
        f"The ladder: {c.rungs} rungs along {LADDERS.get(c.ladder, c.ladder)}; SDE time per "
        f"optimizer step from {plain(steps.max(), 3)} down to {plain(steps.min(), 3)}, compared at "
        f"{c.errors.sizes['step']} times, fitted at step {plain(c.last_step)}."
    )


def unresolved_sentence(c: Comparison) -> str:
    """Observables of which a rung's error is not resolved; empty where all are."""
    last = c.errors.sel(step=c.last_step, method="nearest")
    unresolved = np.abs(last["error"].values) < 2 * last["standard_error"].values
    named = [
        f"{name} ({int(count)} of {c.rungs})"
        for name, count in zip(c.observables, unresolved.sum(0), strict=True)
        if count
    ]
    if not named:
        return "Every error is resolved (at least 2 standard errors from 0)."
    return f"Not resolved, that is within 2 standard errors of 0: rungs of {', '.join(named)}."


def _overall(verdicts: Sequence[str]) -> str:
    if "refuted" in verdicts:
        return "refuted"
    return "supported" if "supported" in verdicts else "inconclusive"


def _sentence(c: Comparison, verdict: str, verdicts: dict[str, str]) -> str:
    claim = f"Weak order {plain(c.claimed_order)}"
    named = [name for name, found in verdicts.items() if found == verdict]
    listed = ", ".join(named)
    if verdict == "inconclusive":
        return f"{claim} is neither supported nor refuted: no observable resolves it."
    return f"{claim} is {verdict} by {len(named)} of {len(verdicts)} smooth observables: {listed}."


_NOISE_WORDS = {
    "mean_abs": "mean absolute value",
    "max_abs": "largest absolute value",
    "mean": "mean",
    "max": "largest",
}


def noise_text(value: object) -> str:
    """Skewness or kurtosis in words."""
    if isinstance(value, dict):
        return ", ".join(
            f"{_NOISE_WORDS.get(str(key), str(key).replace('_', ' '))} {anything(entry)}"
            for key, entry in value.items()
        )
    return anything(value)
