"""Results of scaling studies as the report reads them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import xarray as xr

BELOW, ABOVE = "below the limit", "above the limit"
AGREES, BEYOND = "at it within errors", "beyond what was tested"


@dataclass(frozen=True)
class Scaled:
    """One run with its scaled runs, as the report reads it.

    Args:
        name: names its figures.
        title, optimizer, hyperparameters, noise, start_note: of the run.
        scaling: distances and how far, see `analysis.scaling`.
        prediction: from the short run, see `validity`.
        equilibrium: the balance of |theta|^2, where weight decay makes one.
        close: the observables that the prediction is about.
    """

    name: str
    title: str
    optimizer: str
    hyperparameters: str
    noise: str
    start_note: str
    scaling: xr.Dataset
    prediction: xr.Dataset
    equilibrium: xr.Dataset | None
    close: tuple[str, ...]

    @property
    def rule(self) -> str:
        """The first rule, the one that the prediction is about."""
        return str(self.scaling["rule"].values[0])

    @property
    def kind(self) -> str:
        """The optimizer, and whether weight decay balances the noise."""
        decay = " with weight decay" if self.equilibrium is not None else ""
        return f"{self.optimizer}{decay}"

    @property
    def compared(self) -> bool:
        """Whether the rule has rivals beside it."""
        return self.scaling.sizes["rule"] > 1

    @property
    def observables(self) -> list[str]:
        """Their names, in order."""
        return [str(name) for name in self.scaling["observable"].values]

    @property
    def predicted(self) -> tuple[float, float, float]:
        """The largest factor that signal and noise allow, with its interval."""
        ends = ("", "_low", "_high")
        value, low, high = (float(self.prediction[f"largest_factor{e}"]) for e in ends)
        return value, low, high

    @property
    def found(self) -> tuple[float, float, float]:
        """The factor up to which the rule stays close, with its interval; infinite: nowhere."""
        at = self.scaling.sel(rule=self.rule)
        value, low, high = (float(at[f"close_factor{end}"]) for end in ("", "_low", "_high"))
        return value, low, high

    @property
    def largest_tested(self) -> float:
        """The largest tested factor."""
        return float(self.scaling["kappa"].values[-1])

    @property
    def comparison(self) -> str:
        """How the found factor stands to the predicted limit."""
        _, low, high = self.predicted
        value, least, most = self.found
        if min(least, self.largest_tested) > high:
            return ABOVE
        if most < low:
            return BELOW
        if math.isinf(value) and self.largest_tested < low:
            return BEYOND
        return AGREES


def is_scaling(tree: xr.DataTree) -> bool:
    """Whether results are those of scaling studies."""
    return any(child.attrs.get("kind") == "scaling" for child in tree.children.values())


def read_scaled(tree: xr.DataTree) -> list[Scaled]:
    """The runs of a results tree, in their campaign's order, which a store does not keep."""
    order = json.loads(str(tree.attrs.get("order", "[]"))) or list(tree.children)
    return [
        Scaled(
            name=str(child.name),
            title=str(child.attrs["title"]),
            optimizer=str(child.attrs["optimizer"]),
            hyperparameters=", ".join(
                f"{k} {v}" for k, v in json.loads(child.attrs["hyperparameters"]).items()
            ),
            noise=str(child.attrs["noise"]),
            start_note=str(child.attrs["start_note"]),
            scaling=child["scaling"].to_dataset(),
            prediction=child["prediction"].to_dataset(),
            equilibrium=child["equilibrium"].to_dataset() if "equilibrium" in child else None,
            close=tuple(json.loads(child.attrs["close_observables"])),
        )
        for child in (tree[name] for name in order)
    ]
