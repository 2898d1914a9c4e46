"""SDE expectations from discrete runs at a few low SVAG levels, by extrapolation in the step.

At level l one step of the optimizer is `refinement` own steps, l for SGD and momentum and l^2 for
RMSprop and Adam. The weak error has an expansion in s = 1/refinement: for adaptive methods, too,
all powers of 1/l are even, since the amplified noise's skewness falls as 1/l. Weights that sum to
1 and let s, ..., s^q vanish leave an error of order s^(q+1) (Talay and Tubaro 1990).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from sdeverify.analysis.bands import block_residuals
from sdeverify.analysis.datasets.axes import BLOCK, OBSERVABLE, STEP
from sdeverify.analysis.datasets.schema import check_chain, fingerprint
from sdeverify.errors import InvalidInputError

Array = NDArray[Any]

DIMS = (STEP, OBSERVABLE)
RUNG = "rung"


def level_weights(
    refinements: ArrayLike, terms: int | None = None, variances: ArrayLike | None = None
) -> Array:
    """Weights w with sum w = 1 and sum w s^j = 0 for j = 1 ... terms, s = 1/refinement.

    Levels 1, 2, 4 of SGD: (1, -6, 8)/3; of an adaptive method, refinements 1, 4, 16:
    (1, -20, 64)/45. With more levels than `terms + 1` the weights of least variance are taken.

    Args:
        refinements: own steps in one step of the optimizer at each level: l, or l^2 (adaptive).
        terms: terms removed, `len(refinements) - 1` where it is left out; 0 removes none.
        variances: of the levels' means, up to a factor; equal ones where it is left out.

    Raises:
        InvalidInputError: equal or non-positive refinements, or too few for the terms.
    """
    r = np.asarray(refinements, dtype=np.float64)
    if r.ndim != 1 or r.size == 0 or np.any(~(r > 0)) or len(np.unique(r)) < r.size:
        raise InvalidInputError(f"levels are different and positive; got refinements {r.tolist()}.")
    q = r.size - 1 if terms is None else terms
    if not 0 <= q < r.size:
        raise InvalidInputError(
            f"{q} terms need {max(q, 0) + 1} levels or more, and 0 terms are the fewest; got "
            f"{r.size} levels."
        )
    v = np.ones_like(r) if variances is None else np.asarray(variances, dtype=np.float64)
    if v.shape != r.shape or np.any(~(v > 0)):
        raise InvalidInputError(f"variances are positive, one a level; got {v.tolist()}.")
    s = r.min() / r
    conditions = s ** np.arange(q + 1)[:, None]
    moments = np.eye(q + 1)[0]
    # Least sum of w^2 v under the conditions: w = sqrt(1/v) x with the least |x|.
    root = np.sqrt(1 / v)
    x, *_ = np.linalg.lstsq(conditions * root, moments, rcond=None)
    return np.asarray(root * x)


def extrapolate_levels(chains: Sequence[xr.Dataset], terms: int | None = None) -> xr.Dataset:
    """The SDE's expectations from chains at low levels, with the error that is left.

    Real levels are fine. The powers come from each chain's `refinement`, so the same call serves
    SGD (1/l) and adaptive methods (1/l^2).

    Args:
        chains: from `simulate` at different SVAG levels and with different seeds, or exact
            datasets; same steps, times and observables.
        terms: terms of the expansion that are removed; one less than there are levels by default.

    Returns:
        Over (step, observable): `mean` and `standard_error`; `last_term`, the change by the last
        removed term, with its standard error: a cautious size of the bias that is left, on which
        the extrapolation should not be trusted to improve by much more than tenfold. Over (rung):
        `weight`, `refinement`, and `level_variance` (of its mean), `level_replicas`, `level_seed`,
        `level_id`; over (level_block): `block_residual` and its `rung_of_block`. With these
        `weak_error` takes it on either side, with the right covariance where the other side holds
        one of its levels. `bound`, the numerical error, where a level is exact. Attributes as the
        first chain's where all levels have them, `kind` "extrapolation".

    Raises:
        InvalidInputError: not chains, axes that differ, two equal levels, or one seed twice,
            since chains of one seed share their mini-batches and are not independent.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> loss, theta0 = sv.measures.loss(circle_problem()), torch.ones(1).double()
        >>> chains = []
        >>> for level in (1, 2):
        ...     run = sv.svag(sv.SGD(learning_rate=0.2), oracle, level)
        ...     chains.append(sv.simulate(*run, theta0, 4, loss, replicas=256, seed=level))
        >>> path = sv.extrapolate_levels(chains)
        >>> path["mean"].dims, float(path["mean"][-1, 0].round(1))
        (('step', 'observable'), -0.7)
    """
    ordered = _checked(chains)
    refinements = np.array([float(c.attrs["refinement"]) for c in ordered])
    q = len(ordered) - 1 if terms is None else terms
    mean = np.stack([c["mean"].transpose(*DIMS).values for c in ordered])
    variance = np.stack([c["standard_error"].transpose(*DIMS).values ** 2 for c in ordered])
    relative = _relative(variance)
    w = level_weights(refinements, q, relative)
    fewer = np.zeros_like(w)
    if q > 0:
        # One term less, from the finest levels.
        fewer[-q:] = level_weights(refinements[-q:], q - 1, relative[-q:])
    else:
        fewer[:] = w
    fields = {
        "mean": np.tensordot(w, mean, axes=1),
        "standard_error": np.sqrt(np.tensordot(w**2, variance, axes=1)),
        "last_term": np.tensordot(fewer - w, mean, axes=1),
        "last_term_standard_error": np.sqrt(np.tensordot((fewer - w) ** 2, variance, axes=1)),
    }
    bounds = [abs(wi) * c["bound"] for wi, c in zip(w, ordered, strict=True) if "bound" in c]
    if bounds:
        fields["bound"] = sum(b.transpose(*DIMS).values for b in bounds)
    ds = xr.Dataset(
        {name: (DIMS, value) for name, value in fields.items()} | _levels(ordered, variance),
        coords={
            **{name: ordered[0][name] for name in (STEP, "time", OBSERVABLE)},
            RUNG: np.arange(len(ordered)),
            "refinement": (RUNG, refinements),
            "weight": (RUNG, w),
        },
    )
    first = ordered[0].attrs
    common = {k: v for k, v in first.items() if all(c.attrs.get(k) == v for c in ordered)}
    ds.attrs = {
        **common,
        "kind": "extrapolation",
        "terms": q,
        "refinements": json.dumps(refinements.tolist()),
    }
    return ds.assign_attrs(fingerprint=fingerprint(ds))


def _levels(ordered: Sequence[xr.Dataset], variance: Array) -> dict[str, Any]:
    """What `weak_error` needs of each level: variance, size, seed, identity, blocks."""
    residuals, owner, replicas, seeds = [], [], [], []
    for rung, chain in enumerate(ordered):
        sampled = "block_mean" in chain
        replicas.append(float(chain["block_count"].sum()) if sampled else 0.0)
        seeds.append(int(chain.attrs.get("seed", -1)))
        if sampled:
            own = block_residuals(chain, chain["block_mean"].transpose(BLOCK, *DIMS))
            residuals.append(own)
            owner += [rung] * len(own)
    every = np.concatenate(residuals) if residuals else np.zeros((0, *variance.shape[1:]))
    ids = [str(c.attrs.get("fingerprint", "")) for c in ordered]
    return {
        "level_variance": ((RUNG, *DIMS), variance),
        "level_replicas": (RUNG, np.array(replicas)),
        "level_seed": (RUNG, np.array(seeds)),
        "level_id": (RUNG, np.array(ids, dtype=object)),
        "block_residual": (("level_block", *DIMS), every),
        "rung_of_block": ("level_block", np.array(owner, dtype=np.int64)),
    }


def _relative(variance: Array) -> Array:
    """The levels' variances in units of their mean, over all steps and observables that vary."""
    total = variance.sum(0)
    varies = total > 0
    if not varies.any():
        return np.ones(len(variance))
    relative = np.mean(variance[:, varies] / total[varies], axis=1)
    return np.asarray(np.maximum(relative, 1e-6))


def _checked(chains: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """The chains from the coarsest to the finest."""
    if len(chains) < 2:
        raise InvalidInputError(f"extrapolation takes two levels or more; got {len(chains)}.")
    for chain in chains:
        check_chain(chain)
        if "refinement" not in chain.attrs:
            raise InvalidInputError("each chain says its `refinement` (own steps in one step).")
    ordered = sorted(chains, key=lambda c: float(c.attrs["refinement"]))
    first = ordered[0]
    for other in ordered[1:]:
        for axis in (STEP, "time"):
            a, b = first[axis].values, other[axis].values
            if a.shape != b.shape or not np.allclose(a, b, rtol=1e-6, atol=1e-12):
                raise InvalidInputError(
                    f"the chains have one {axis} axis; got {a.tolist()[:4]}... and "
                    f"{b.tolist()[:4]}... Record steps that every level visits."
                )
        if list(first[OBSERVABLE].values) != list(other[OBSERVABLE].values):
            raise InvalidInputError(
                f"the chains have the same observables; got {first[OBSERVABLE].values.tolist()} "
                f"and {other[OBSERVABLE].values.tolist()}."
            )
    seeds = [c.attrs.get("seed") for c in ordered if c.attrs["kind"] != "exact"]
    if len(set(seeds)) < len(seeds):
        raise InvalidInputError(
            f"the chains need different seeds, got {seeds}: chains of one seed share mini-batches, "
            "and the standard error takes them for independent."
        )
    return ordered
