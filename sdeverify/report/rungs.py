"""What the rungs of a ladder are called in tables and figures."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sdeverify.report.formatting import level, plain

_STEP = "time_per_step"
_SYMBOLS = {"level": "ℓ", "learning_rate": "η", _STEP: "s"}


def rung_labels(ds: xr.Dataset) -> list[str]:
    """`ℓ = 2`, `η = 0.1`, or the ladder's own label, for each rung; its step where it has none."""
    name = label_name(ds)
    symbol = _SYMBOLS.get(name, name.replace("_", " "))
    return [f"{symbol} = {_value(name, float(v))}" for v in np.atleast_1d(ds[name].values)]


def labelled_apart_from_the_step(ds: xr.Dataset) -> bool:
    """Whether the label says more than the step on the axis does."""
    return label_name(ds) not in (_STEP, "learning_rate")


def label_name(ds: xr.Dataset) -> str:
    """The coordinate that tells the rungs apart.

    A dataset that does not name it has a level, a learning rate, or the step alone.
    """
    names = (str(ds.attrs.get("label_name", "")), "level", "learning_rate")
    return next((name for name in names if name in ds.coords), _STEP)


def _value(name: str, value: float) -> str:
    return level(value) if name == "level" else plain(value, 3 if name == _STEP else 4)
