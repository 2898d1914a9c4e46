"""Whether weak errors stand out from their numerical error, and what it takes that they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import xarray as xr

SHARE = 0.01
"""Largest bound, as a share of a weak error, at which it counts as resolved."""
REACH = 0.01
"""How much more accuracy than the usual one is tried for, to resolve a weak error."""
ROUNDING = 1e-13
"""An accuracy that rounding does not allow to better."""


def accuracy_to_resolve(errors: Sequence[xr.Dataset]) -> float | None:
    """The accuracy of each side at which the errors are resolved, as far as it can be reached.

    None where all of them are, or where nothing better can be had.
    """
    later = [e.isel(step=slice(1, None)) for e in errors]
    if all(bool(e["resolved"].all()) for e in later):
        return None
    smallest = min(float(abs(e["error"]).min()) for e in later)
    had = min(float(e.attrs["accuracy"]) for e in errors)
    wanted = max(0.5 * SHARE * smallest, REACH * had, ROUNDING)
    return wanted if wanted < had else None


def better(
    side: xr.Dataset, compute: Callable[[float | None], xr.Dataset], accuracy: float
) -> xr.Dataset:
    """A side, computed again where it is not accurate enough."""
    return side if float(side["bound"].max()) <= accuracy else compute(accuracy)
