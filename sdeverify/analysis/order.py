"""The order of a ladder of weak errors, with its interval and its verdict.

Signed errors are fitted in linear scale by generalised least squares with their full covariance
(`power_law`). For each observable and step:

1. Two terms `a s^p (1 + b s)` of a plausible curvature (`power_law`). Where chi-squared rejects
   them at 1%, two free terms; where it rejects those as well, the same beside a third term, unknown
   but no larger than the second at the coarsest rung, which enters as a covariance. With three
   rungs the free terms fit exactly: an interval remains, a test of the fit does not.
2. A curvature that chi-squared cannot see shifts p. So where the plausible one would refute, two
   free terms must refute as well, and two terms beside the third as well; where one of them does
   not, the interval is the hull with its own, and the estimate stays unless that excludes it: two
   free terms that do not identify an order do not give one.
3. What the integrator's extrapolation may have left (`integrator_residual`), and the numerical
   error of an exact side, shift all errors up and down; the interval is the hull of the three
   fits and every test takes the worst. Where it may exceed `LARGEST_RESIDUAL` of the finest rung's
   error, or of two standard errors where these are larger, nothing is supported.
4. No verdict without a signal: "no error at all" must be rejected at `SIGNAL_LEVEL`. None with
   fewer than three rungs or an unmeasured integrator bias. Where even two terms are rejected at
   1%, a refutation needs the interval, widened by chi-squared over its degrees of freedom, to end
   below p - 1/2; anything else is inconclusive.
5. No support where the error may have a limit: a constant error of more than `SMALL_LIMIT` of the
   error at the coarsest rung must be excluded (`limit`), at `verdict.LEVEL`.

Errors without sampling noise go to `exact_order` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from sdeverify.analysis.datasets.axes import OBSERVABLE, STEP
from sdeverify.analysis.exact_order import ExactOrder, exact_order
from sdeverify.analysis.limit import limit_columns, limits, share_of, third_term
from sdeverify.analysis.power_law import (
    INTERVAL_DROP,
    Fits,
    Whitened,
    fit,
    local_slopes,
    whiten,
)
from sdeverify.analysis.rungs import RUNG, RUNG_BIS
from sdeverify.analysis.verdict import (
    INCONCLUSIVE,
    LEVEL,
    REFUTED,
    SMALL_LIMIT,
    SUPPORTED,
    controlled,
    interval_verdict,
)
from sdeverify.errors import InvalidInputError

Array = NDArray[Any]
Columns = dict[str, Array]

MISFIT_LEVEL = 0.01
SIGNAL_LEVEL = 1e-3
LARGEST_RESIDUAL = 0.5
DIMS = (OBSERVABLE, STEP)


def estimate_order(
    ladder: xr.Dataset,
    *,
    flow: xr.Dataset | None = None,
    steps: Sequence[float] | None = None,
    claimed_order: float | None = None,
    spacing: float = 1.0,
) -> xr.Dataset:
    """The order of every observable at a few steps that are fixed beforehand.

    Args:
        ladder: from `ladder(...)`; its rungs' step is `time_per_step`.
        flow: the orders of the same chains against the SDE without its noise (gradient flow), the
            control without which a ladder that tests the noise supports nothing; see `controlled`.
        steps: values of the `step` coordinate; by default those nearest to a quarter, a half,
            three quarters and the whole of the compared range.
        claimed_order: p in `time_per_step`; the ladder's unless given.
        spacing: the power of s between the first and the second term.

    Returns:
        Over (observable, step): `order`, `order_low`, `order_high` (95%, infinite where the search
        range -1 to 6 ends first), `order_standard_error` (the interval's width over 3.92),
        `coefficient` a and `second_coefficient` b in units of `time_per_step`, `chi2`,
        `degrees_of_freedom`, `p_value`, `terms` (0 for exact errors), `signal_p_value` (of no
        error at all), `refutation_p_value`, `support_p_value` (one-sided, of this fit alone),
        `verdict`, `reason`; `local_slope`, `local_slope_standard_error` over (rung_pair, ...);
        `limit`, `limit_low`, `limit_high` (95%; for exact errors the estimated uncertainty) of the
        error as the step goes to 0, `limit_share`, the largest size in that interval in units of
        the coarsest rung's error, and `limit_p_value` (two-sided, of no limit). With `flow` also
        `flow_share`, the largest size in that interval in units of the limit against gradient flow,
        and `flow_p_value`, of no such limit.

    Raises:
        InvalidInputError: not a ladder, or steps that it does not have.

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
        >>> float(sv.estimate_order(errors)["order"][0, -1].round(1))
        1.0
    """
    if ladder.attrs.get("kind") != "ladder":
        raise InvalidInputError(
            "estimate_order takes a ladder of weak errors: ladder([errors at each step], 'svag')"
        )
    claimed = float(ladder.attrs["claimed_order"] if claimed_order is None else claimed_order)
    chosen = ladder.sel({STEP: default_steps(ladder) if steps is None else _known(ladder, steps)})
    s = ladder["time_per_step"].values.astype(np.float64)
    error = _flat(chosen["error"], RUNG)
    covariance = _flat(chosen["error_covariance"], RUNG, RUNG_BIS)
    sampled = np.any(np.einsum("nii->ni", covariance) > 0, axis=-1)
    columns = _sampled_columns(chosen, s, error, covariance, claimed, spacing)
    if "bound" in chosen and not sampled.all():
        exact = _exact_columns(s, error, _flat(chosen["bound"], RUNG), claimed)
        columns = {
            name: np.where(sampled, columns[name], exact[name])
            if name in columns
            else np.where(sampled, np.nan, exact[name])
            for name in exact
        }
    slope, slope_error = local_slopes(s, error, covariance)
    shape = (chosen.sizes[OBSERVABLE], chosen.sizes[STEP])
    fields: dict[str, Any] = {n: (DIMS, v.reshape(shape)) for n, v in columns.items()}
    for name, value in (("local_slope", slope), ("local_slope_standard_error", slope_error)):
        fields[name] = (("rung_pair", *DIMS), value.T.reshape(len(s) - 1, *shape))
    attrs = {**ladder.attrs, "kind": "order", "claimed_order": claimed, "spacing": spacing}
    coords = {
        OBSERVABLE: chosen[OBSERVABLE],
        STEP: chosen[STEP],
        "time": chosen["time"],
        "time_per_step": ladder["time_per_step"],
    }
    order = xr.Dataset(fields, coords=coords, attrs=attrs)
    return order if flow is None else controlled(order, flow)


def default_steps(ladder: xr.Dataset) -> list[float]:
    """The compared steps nearest to 1/4, 1/2, 3/4 and all of the way from the start to the last."""
    steps = ladder[STEP].values.astype(np.float64)
    start = float(ladder.attrs.get("chain_start_step", 0.0 if len(steps) == 1 else steps[0]))
    wanted = start + (steps[-1] - start) * np.array([0.25, 0.5, 0.75, 1.0])
    after = steps[steps > start] if np.any(steps > start) else steps
    return sorted({float(after[np.argmin(np.abs(after - w))]) for w in wanted})


def _known(ladder: xr.Dataset, steps: Sequence[float]) -> list[float]:
    have = ladder[STEP].values.astype(np.float64)
    nearest = [float(have[np.argmin(np.abs(have - s))]) for s in steps]
    if not nearest or not np.allclose(nearest, list(steps), rtol=1e-9, atol=1e-9):
        raise InvalidInputError(
            f"the ladder was compared at the steps {have.tolist()}; got steps = {list(steps)}"
        )
    return nearest


def _flat(values: xr.DataArray, *last: str) -> Array:
    """`(fit, *last)`, fits over observables, then steps."""
    ordered = values.transpose(*DIMS, *last).values.astype(np.float64)
    return ordered.reshape(-1, *ordered.shape[2:])


def _sampled_columns(
    chosen: xr.Dataset, s: Array, error: Array, covariance: Array, claimed: float, spacing: float
) -> Columns:
    residual = _flat(chosen["integrator_residual"], RUNG)
    if "bound" in chosen:
        residual = residual + np.copysign(_flat(chosen["bound"], RUNG), residual)
    measured = np.all(np.isfinite(residual), axis=-1)
    shift = np.where(measured[:, None], residual, 0.0)
    fits, at_zero, signals, usable = [], [], [], np.ones(len(error), dtype=bool)
    signs = (0.0, 1.0, -1.0) if np.any(shift) else (0.0,)
    for sign in signs:
        shifted = error + sign * shift
        data, usable = whiten(s, shifted, covariance, spacing)
        wide, _ = whiten(s, shifted, covariance + third_term(data, claimed), spacing)
        fits.append(_selected(data, wide, claimed))
        at_zero.append(limits(wide, np.abs(shifted[:, 0]), claimed, SMALL_LIMIT))
        signals.append(stats.chi2.sf(data.zero, len(s)))
    columns = {**_combined(fits, s[0], spacing), **limit_columns(at_zero)}
    columns["signal_p_value"] = np.max(signals, axis=0)
    size = np.maximum(np.abs(error[:, -1]), 2 * np.sqrt(covariance[:, -1, -1]))
    columns["residual_share"] = np.abs(shift[:, -1]) / np.where(size > 0, size, np.inf)
    judged = [
        _judge({k: v[i] for k, v in columns.items()}, claimed, len(s), usable[i], measured[i])
        for i in range(len(error))
    ]
    columns["verdict"] = np.array([j[0] for j in judged], dtype=object)
    columns["reason"] = np.array([j[1] for j in judged], dtype=object)
    for name in _UNUSABLE:
        columns[name] = np.where(usable, columns[name], np.nan)
    small = columns.pop("small_limit_p_value")
    columns["support_p_value"] = np.maximum(columns["support_p_value"], small)
    for name in ("clear", "residual_share"):
        del columns[name]
    return columns


_UNUSABLE = (
    *("order", "order_standard_error", "coefficient", "second_coefficient"),
    *("limit", "limit_low", "limit_high", "limit_share"),
)


def _selected(data: Whitened, wide: Whitened, claimed: float) -> Fits:
    """Rules 1 and 2: which of the models is the estimate, and the worst case for a refutation."""
    selected = fit(data, claimed)
    if len(data.step) < 3:
        return selected
    free, third = fit(data, claimed, free=True), fit(wide, claimed, free=True)
    misfit = (free.p_value < MISFIT_LEVEL) & (third.p_value >= MISFIT_LEVEL)
    selected = third.where(misfit, free).where(selected.p_value < MISFIT_LEVEL, selected)
    above = selected.above
    for richer in (free, third):
        doubtful = selected.high < claimed
        above = np.where(doubtful, np.minimum(above, richer.above), above)
        selected = _hull(selected, richer).where(doubtful & (richer.high >= claimed), selected)
    return replace(selected, above=above)


def _hull(estimate: Fits, richer: Fits) -> Fits:
    """The richer fit; its interval reaches to the estimate's, which stays where it holds it."""
    held = (richer.low <= estimate.order) & (estimate.order <= richer.high)
    kept = estimate.where(held, richer)
    return replace(
        kept,
        low=np.minimum(estimate.low, richer.low),
        high=np.maximum(estimate.high, richer.high),
        below=np.minimum(estimate.below, richer.below),
    )


def _combined(fits: Sequence[Fits], coarsest: float, spacing: float) -> Columns:
    """Rule 3: the estimate from the errors as they are, the intervals' hull, the worst tests."""
    one = fits[0]
    low, high = np.min([f.low for f in fits], axis=0), np.max([f.high for f in fits], axis=0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        second = one.second / one.first / coarsest**spacing
    stretch = [np.fmax(f.chi2 / np.maximum(f.degrees_of_freedom, 1), 1.0) for f in fits]
    clear = [f.half_above > INTERVAL_DROP * w for f, w in zip(fits, stretch, strict=True)]
    return {
        "order": one.order,
        "order_low": low,
        "order_high": high,
        "order_standard_error": (high - low) / 3.92,
        "coefficient": one.first * coarsest**-one.order,
        "second_coefficient": second,
        "chi2": one.chi2,
        "degrees_of_freedom": one.degrees_of_freedom,
        "p_value": one.p_value,
        "terms": np.full(one.order.shape, 2),
        "refutation_p_value": stats.norm.sf(np.sqrt(np.min([f.above for f in fits], axis=0))),
        "support_p_value": stats.norm.sf(np.sqrt(np.min([f.below for f in fits], axis=0))),
        "clear": np.all(clear, axis=0),
    }


def _judge(
    row: dict[str, Any], claimed: float, rungs: int, usable: bool, measured: bool
) -> tuple[str, str]:
    """Rule 4 and the interval's verdict, with the reason in words."""
    if not usable:
        return INCONCLUSIVE, "the errors have no spread, or a singular covariance"
    if not measured:
        return INCONCLUSIVE, "the integrator's bias was not measured (give solve two substeps)"
    if row["signal_p_value"] > SIGNAL_LEVEL:
        return INCONCLUSIVE, "the weak error is not resolved from sampling noise"
    if rungs < 3:
        return INCONCLUSIVE, "two rungs cannot tell a power from a pre-asymptotic range"
    verdict = interval_verdict(row["order_low"], row["order_high"], claimed)
    if row["p_value"] < MISFIT_LEVEL:
        if verdict == REFUTED and row["clear"]:
            return REFUTED, f"far below order {claimed:g}, though neither one nor two powers fit"
        return INCONCLUSIVE, "neither one nor two powers fit: not in the asymptotic range"
    if verdict != REFUTED and row["residual_share"] > LARGEST_RESIDUAL:
        return INCONCLUSIVE, (
            f"what the integrator left may be {row['residual_share']:.2g} times the finest rung's "
            "error: give solve finer substeps"
        )
    if verdict == SUPPORTED and row["small_limit_p_value"] >= LEVEL:
        return INCONCLUSIVE, _open_limit(row["limit_share"])
    return verdict, _interval_reason(verdict, claimed)


def _exact_columns(s: Array, error: Array, bound: Array, claimed: float) -> Columns:
    rows: list[dict[str, Any]] = []
    for e, b in zip(error, bound, strict=True):
        exact = exact_order(s, e, b, claimed)
        low, high = exact.limit - exact.limit_uncertainty, exact.limit + exact.limit_uncertainty
        share = float(share_of(np.array(low), np.array(high), np.abs(e[0])))
        verdict, reason = _exact_verdict(exact, share, claimed)
        rows.append(
            {
                "order": exact.order,
                "order_low": exact.low,
                "order_high": exact.high,
                "order_standard_error": 0.0,
                "coefficient": e[-1] * s[-1] ** -exact.order,
                "second_coefficient": np.nan,
                "chi2": np.nan,
                "degrees_of_freedom": 0,
                "p_value": np.nan,
                "terms": 0,
                "signal_p_value": float(np.all(np.abs(e) <= b)),
                "refutation_p_value": float(verdict != REFUTED),
                "support_p_value": float(verdict != SUPPORTED),
                "verdict": verdict,
                "reason": reason,
                "limit": exact.limit,
                "limit_low": low,
                "limit_high": high,
                "limit_share": share,
                "limit_p_value": float(not abs(exact.limit) > exact.limit_uncertainty),
            }
        )
    text = ("verdict", "reason")
    return {n: np.array([r[n] for r in rows], dtype=object if n in text else None) for n in rows[0]}


def _exact_verdict(exact: ExactOrder, limit_share: float, claimed: float) -> tuple[str, str]:
    """The verdict on an order without sampling, with the reason in words."""
    if exact.unresolved:
        return INCONCLUSIVE, exact.unresolved
    if exact.order == 0.0 == exact.low == exact.high:
        return REFUTED, f"the error tends to {exact.limit:.3g}, not to 0"
    verdict = interval_verdict(exact.low, exact.high, claimed)
    if verdict == SUPPORTED and not limit_share < SMALL_LIMIT:
        return INCONCLUSIVE, f"{_open_limit(limit_share)}: add finer rungs"
    return verdict, _interval_reason(verdict, claimed)


def _interval_reason(verdict: str, claimed: float) -> str:
    return {
        REFUTED: f"the order's interval ends below {claimed:g}",
        SUPPORTED: f"the order's interval reaches {claimed:g}, from above {claimed - 0.5:g}",
        INCONCLUSIVE: f"the order's interval reaches down to {claimed - 0.5:g} or below",
    }[verdict]


def _open_limit(share: float) -> str:
    return f"a limit of {share:.2g} times the coarsest error is not excluded"
