"""What a report on scaling rules says: sentences and tables, made once for page and Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr

from sdeverify.report.formatting import interval, plain, with_error
from sdeverify.report.scaling.results import ABOVE, AGREES, BELOW, BEYOND, Scaled
from sdeverify.report.tables import Cell, Table

_SHORT = {BELOW: "below", AGREES: "at it", ABOVE: "above", BEYOND: "open"}


def in_brief(runs: Sequence[Scaled]) -> tuple[str, ...]:
    """The answer in a few sentences: the prediction, then each comparison of rules."""
    kinds = dict.fromkeys(run.kind for run in runs)
    foreseen = (_foreseen(kind, [run for run in runs if run.kind == kind]) for kind in kinds)
    return (*foreseen, *(_rivals(run) for run in runs if run.compared))


def _foreseen(kind: str, runs: Sequence[Scaled]) -> str:
    """Where the finding lies beside the predicted limit, for runs of one kind."""
    if len(runs) == 1:
        (run,) = runs
        reached = factor_text(*run.found, run.largest_tested)
        limit = factor_text(*run.predicted)
        return (
            f"{run.title}: the predicted limit is κ = {limit}; the scaled runs stay close up to "
            f"κ = {reached}, {run.comparison}."
        ).replace("κ = ≥", "κ ≥")
    counts = [
        f"{sum(run.comparison == lies for run in runs)} {lies}"
        for lies in (BELOW, AGREES, ABOVE, BEYOND)
        if any(run.comparison == lies for run in runs)
    ]
    ratios = [run.found[0] / run.predicted[0] for run in runs if math.isfinite(run.found[0])]
    text = (
        f"{kind}: the batch factor at which the scaled runs stop to be close lies, of {len(runs)} "
        f"runs, {', '.join(counts)}."
    )
    if not ratios:
        return text
    ends = sorted({plain(min(ratios), 2), plain(max(ratios), 2)})
    where = "" if len(ratios) == len(runs) else f" in the {len(ratios)} where it was reached"
    return f"{text} Found over predicted{where}: {' to '.join(ends)}."


def _rivals(run: Scaled) -> str:
    """What the comparison of the rules shows, in a sentence."""
    own, *others = (str(rule) for rule in run.scaling["rule"].values)
    nearer = {rival: float(np.mean(_further(run, own, rival))) for rival in others}
    rivals = ", ".join(f"than {spaced(rival)} in {share:.0%}" for rival, share in nearer.items())
    reached = ", ".join(
        f"{spaced(name)} {reach_text(run.scaling.sel(rule=own, observable=name))}"
        for name in run.observables
    )
    better = [f"'{spaced(rival)}'" for rival, share in nearer.items() if share < 0.5]
    ahead = f" So a rival that does not keep the SDE is nearer here: {', '.join(better)}."
    return (
        f"{run.title}: the rule '{spaced(own)}' holds for {reached}. As measured it is nearer to "
        f"the run {rivals} of all factors and observables.{ahead if better else ''}"
    )


def _further(run: Scaled, own: str, rival: str) -> np.ndarray:
    """Where the rival's largest distance exceeds the rule's own, by factor and observable."""
    near, far = (run.scaling["max_distance"].sel(rule=rule).values for rule in (own, rival))
    return np.asarray(far > near)


def spaced(name: str) -> str:
    """A name as words."""
    return name.replace("_", " ")


def reach_text(at: xr.Dataset) -> str:
    """How far a rule holds, in words."""
    low, high = float(at["how_far_low"]), float(at["how_far_high"])
    status = str(at["how_far_status"].item())
    if status == "at least":
        return f"κ ≥ {low:g}"
    if status == "resolved":
        return f"κ = {low:g}" if low > 1 else "none tested"
    if math.isinf(high):
        return f"κ ≥ {low:g}, then open" if low > 1 else "not resolved"
    return f"between {low:g} and {high:g}"


def factor_text(value: float, low: float, high: float, largest: float = math.inf) -> str:
    """A factor with its interval; what lies beyond the tested factors is open."""
    if math.isinf(value) and math.isinf(low):
        return f"≥ {largest:g}"
    shown = f"≥ {largest:g}" if math.isinf(value) else plain(value, 3)
    ends = [plain(low, 3), "∞" if math.isinf(high) else plain(high, 3)]
    return f"{shown} [{', '.join(ends)}]"


def prediction_table(runs: Sequence[Scaled]) -> Table:
    """Predicted limit and found factor, a row each."""
    rows = []
    for number, run in enumerate(runs, 1):
        prediction = run.prediction
        ratio = [float(prediction[f"noise_to_signal{end}"]) for end in ("", "_low", "_high")]
        rows.append(
            (
                Cell(f"{number}. {run.title}"),
                Cell(spaced(run.rule)),
                Cell(factor_text(ratio[0], ratio[1], ratio[2]), "number"),
                Cell(str(prediction["sde_condition"].item())),
                Cell(factor_text(*run.predicted), "number"),
                Cell(_other_limit(prediction), "number"),
                Cell(factor_text(*run.found, run.largest_tested), "number"),
                Cell(_SHORT[run.comparison]),
            )
        )
    return Table(
        "Predicted before the fact, and found",
        (
            "Run",
            "Rule",
            "N/G [95%]",
            "SDE's condition",
            "Limit of κ [95%]",
            "Other limit",
            "Found κ [95%]",
            "Found is",
        ),
        tuple(rows),
        "N/G: noise over signal of the run's own batches, from a short run. Limit: the largest "
        "factor that they allow, on the conditions named below. Other limit: the "
        "hyperparameters' or the data's, whichever is less. Found: where the scaled runs stop to "
        "be close, between tested factors by "
        "interpolation; at the limit: within errors; open: beyond what was tested.",
    )


def _other_limit(prediction: xr.Dataset) -> str:
    hyper, data = float(prediction["hyperparameter_limit"]), float(prediction["data_limit"])
    least = min(hyper, data)
    if math.isinf(least):
        return "none"
    return f"{plain(least, 3)} ({'data' if data <= hyper else 'β, μ'})"


def reach_table(run: Scaled) -> Table:
    """How far each rule holds, by observable."""
    rows = []
    for rule in run.scaling["rule"].values:
        cells = [
            Cell(reach_text(run.scaling.sel(rule=rule, observable=name)))
            for name in run.observables
        ]
        far = run.scaling.sel(rule=rule)
        close = [float(far[f"close_factor{end}"]) for end in ("", "_low", "_high")]
        text = factor_text(close[0], close[1], close[2], run.largest_tested)
        rows.append((Cell(spaced(str(rule))), *cells, Cell(text, "number")))
    last = run.scaling.isel(step=-1)
    means = [
        f"{with_error(_at(last['reference_mean'], n), _at(last['reference_standard_error'], n))}"
        f" ± {plain(_at(run.scaling['allowed'], n), 2)}"
        for n in run.observables
    ]
    rows.append((Cell("the run's mean at the end ± tolerance"), *map(Cell, means), Cell("")))
    tolerance, confidence = (run.scaling.attrs[k] for k in ("tolerance", "confidence"))
    closeness = plain(float(run.scaling.attrs["closeness"]), 3)
    return Table(
        "How far each rule holds",
        ("Rule", *(spaced(name) for name in run.observables), "Close up to κ [95%]"),
        tuple(rows),
        f"The largest tested κ up to which |E scaled - E run| is at most {tolerance:g} of the "
        "larger of the run's change and its standard deviation between replicas, as far as the "
        f"{confidence:.0%} bands over all compared steps resolve it. Close: {_what(run)} within a "
        f"factor {closeness} of the run's.",
    )


def _at(values: xr.DataArray, observable: str) -> float:
    return float(values.sel(observable=observable))


def _what(run: Scaled) -> str:
    if "mean_u" in run.close:
        return "√v (through the mean of u = v/σ²)"
    return "each of |∇f|², tr Σ and |θ|²"


def noise_table(runs: Sequence[Scaled]) -> Table:
    """Skewness and kurtosis of the noise at the start and the end of the short run."""
    rows = []
    for number, run in enumerate(runs, 1):
        cells = []
        for name in ("skewness", "excess_kurtosis"):
            for point in ("start", "end"):
                at = run.prediction.sel(point=point, statistic="median")
                value, error = float(at[name]), float(at[f"{name}_standard_error"])
                cells.append(Cell(with_error(value, error), "number"))
        signal, noise = (
            with_error(
                float(run.prediction[f"mean_{name}"]),
                float(run.prediction[f"mean_{name}_standard_error"]),
            )
            for name in ("signal", "noise")
        )
        row = (Cell(f"{number}. {run.title}"), Cell(signal, "number"), Cell(noise, "number"))
        rows.append((*row, *cells))
    return Table(
        "Signal and noise of the short run",
        (
            "Run",
            "G",
            "N",
            "Skewness, start",
            "end",
            "Excess kurtosis, start",
            "end",
        ),
        tuple(rows),
        "G and N from two independent batches at each step, without bias, with standard errors "
        "over replicas. Skewness (its size) and excess kurtosis of one sample's gradient, the "
        "median over the parameters; those of a batch of B are smaller by √B and B. At the start "
        "they are exact.",
        folded=len(runs) > 4,
    )


def equilibrium_table(run: Scaled) -> Table:
    """Both laws at each batch factor."""
    assert run.equilibrium is not None
    rows = []
    for kappa in run.equilibrium["kappa"].values:
        at = run.equilibrium.sel(kappa=kappa)
        cells = [
            f"{plain(float(at[n]), 4)} {interval(float(at[f'{n}_low']), float(at[f'{n}_high']))}"
            for n in ("sgd_balance", "sde_balance", "closure")
        ]
        change = with_error(float(at["change"]), float(at["change_standard_error"]))
        label = "the SDE" if kappa == 0 else f"κ = {kappa:g}"
        rows.append((Cell(label), *(Cell(c, "number") for c in (*cells, change))))
    return Table(
        "The balance of |θ|² at equilibrium",
        (
            "Run",
            "SGD: (2−ηλ)λ|θ|²/η(G+N)",
            "SDE: 2λ|θ|²/ηN",
            "its own law with the change",
            "change of |θ|²",
        ),
        tuple(rows),
        "1 where a law holds; intervals 95%, over blocks of replicas, second half of the run. "
        "The change of |θ|², over what weight decay takes from it, says how far from equilibrium "
        "the run is; with it SGD's law is exact for a scale-invariant loss at any time.",
    )


def equilibrium_sentence(run: Scaled) -> str:
    """Whether the laws are met, in a sentence."""
    assert run.equilibrium is not None
    chains = run.equilibrium.sel(kappa=run.equilibrium["kappa"] > 0)

    def met(law: str) -> str:
        inside = (chains[f"{law}_low"] <= 1) & (chains[f"{law}_high"] >= 1)
        return f"{int(inside.sum())} of {inside.size}"

    off = 100 * float(abs(chains["sgd_balance"] - 1).max())
    worst = 100 * float(abs(chains["change"]).max())
    ends = [float(chains["sde_balance"][i]) for i in (0, -1)]
    text = (
        f"SGD's law: 1 lies in the interval at {met('sgd_balance')} batch factors; the largest "
        f"departure is {plain(off, 2)}%. Over the window |θ|² changes by {plain(worst, 2)}% at "
        "most of what weight decay takes from it; with that change, the law holds at "
        f"{met('closure')}. The SDE's law is off by a factor {plain(ends[0], 3)} for the run and "
        f"{plain(ends[1], 3)} at κ = {float(chains['kappa'][-1]):g}: the larger the batch, the "
        "further SGD is from the SDE."
    )
    if 0 not in run.equilibrium["kappa"].values:
        return text
    sde = run.equilibrium.sel(kappa=0)
    value = f"{plain(float(sde['sde_balance']), 3)}"
    ends_of = interval(float(sde["sde_balance_low"]), float(sde["sde_balance_high"]))
    return f"{text} The SDE, solved beside them, obeys its own law: {value} {ends_of}."
