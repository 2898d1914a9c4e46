"""Whether two results speak of one run: an identity is made of numbers, since words are not enough.

An identity is JSON, name -> a few numbers, such as `sdeverify.ensembles.identity.identity_of` makes
of a problem and a start. Results of one run agree in all of them but for rounding.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import xarray as xr

from sdeverify.errors import InvalidInputError

IDENTITY = "identity"
"""The attribute that carries it."""
DOUBLE, SINGLE = 1e-6, 1e-3
"""Shares of a number's size that rounding may take, on other processors as well."""

_WHAT = {
    "loss": "the losses at the start (data, labels, penalty, loss function)",
    "gradient": "the gradients at the start (the same, or the net itself)",
    "theta": "the start's parameters",
    "inputs": "the inputs",
    "targets": "the targets",
}


def moved(first: str, second: str, tolerance: float) -> list[str]:
    """The names of numbers in which two identities differ by more than a share of their size."""
    a, b = json.loads(first), json.loads(second)
    names = [name for name in a if name in b]
    return [name for name in names if not _close(a[name], b[name], tolerance)]


def same_run(datasets: Sequence[xr.Dataset]) -> None:
    """Refuses results of different problems or starts; those without an identity pass.

    Raises:
        InvalidInputError: with what differs.
    """
    known = [ds.attrs for ds in datasets if ds.attrs.get(IDENTITY)]
    for other in known[1:]:
        first = known[0]
        wide = all(str(attrs.get("dtype", "float64")) == "float64" for attrs in (first, other))
        tolerance = DOUBLE if wide else SINGLE
        differing = moved(str(first[IDENTITY]), str(other[IDENTITY]), tolerance)
        if differing:
            raise InvalidInputError(
                "these results are not of one run. They differ in "
                + "; ".join(explained(name) for name in differing)
                + ". Compute all of them from the same problem and the same start."
            )


def explained(name: str) -> str:
    """A number's name in words."""
    return _WHAT.get(name, f"the start's component {name}")


def _close(a: Sequence[float], b: Sequence[float], tolerance: float) -> bool:
    size = max(map(abs, [*a, *b]), default=0.0)
    if len(a) != len(b):
        return False
    return all(abs(x - y) <= tolerance * size for x, y in zip(a, b, strict=True))
