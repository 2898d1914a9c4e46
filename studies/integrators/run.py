"""The weak error of Euler-Maruyama in its own step, in every form as coded, without sampling.

    python studies/integrators/run.py    # about two minutes, one thread

It writes the table of docs/mathematics.md between its two marks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import sdeverify as sv
from sdeverify.ensembles.steppers.increments import FullBatch, Increments, Subsampled
from sdeverify.study.certify import default_domain
from sdeverify.testing.faults import correct_studies

PAGE = Path(__file__).parents[2] / "docs" / "mathematics.md"
BEGIN, END = "<!-- integrators: begin -->", "<!-- integrators: end -->"
SUBSTEPS = (1, 2, 4)
LEVEL1_STEPS = 4
NODES = 10
U = sv.Observable("u", lambda s: s.components["u"][:, 0])
FORMS: dict[str, tuple[Increments, ...]] = {
    "sgd": (FullBatch(), Subsampled(3)),
    "momentum": (FullBatch(),),
    "rmsprop": (FullBatch(), FullBatch(one_gradient=True), Subsampled(3)),
    "adam": (FullBatch(), FullBatch(one_gradient=True)),
}
HEAD = (
    "| SDE | form | observable | error, dt | dt/2 | dt/4 | order | over full form | two dt |",
    "|---|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Row:
    """One observable's errors at the last step, at dt, dt/2, dt/4, and their numerical error."""

    name: str
    errors: np.ndarray
    bound: float

    @property
    def order(self) -> float:
        """The local slope at the two finest dt."""
        return float(np.log2(abs(self.errors[-2] / self.errors[-1])))

    @property
    def extrapolated(self) -> float:
        """2 E(dt/4) - E(dt/2), less the SDE's value."""
        return float(2 * self.errors[-1] - self.errors[-2])


def measured(name: str, form: Increments) -> list[Row]:
    """The rows of one SDE in one form."""
    study = correct_studies()[name]
    sde = study.sdes()[0][0]
    seen = [*study.observables, *([U] if "u" in sde.components else [])]
    tree = sv.certify_integrator(
        sde,
        study.start,
        [LEVEL1_STEPS],
        SUBSTEPS,
        seen,
        default_domain(study),
        increments=form,
        nodes=NODES,
    )
    along = tree["errors"].isel(step=-1)
    return [
        Row(
            str(label),
            along["error"].sel(observable=label).values,
            float(along["bound"].sel(observable=label).max()),
        )
        for label in along["observable"].values
    ]


def described(form: Increments) -> str:
    """The form in words."""
    if isinstance(form, Subsampled):
        return f"{form.samples} of 6 samples"
    return "one gradient" if getattr(form, "one_gradient", False) else "full"


def table() -> str:
    """The table in Markdown."""
    lines = [*HEAD]
    for name, forms in FORMS.items():
        full: dict[str, Row] = {}
        for form in forms:
            rows = measured(name, form)
            full = full or {row.name: row for row in rows}
            for row in rows:
                ratio = abs(row.errors[-1] / full[row.name].errors[-1])
                cells = [f"{e:.2e}" for e in row.errors]
                beside = "" if form is forms[0] else f"{ratio:.3g}"
                lines.append(
                    f"| {name} | {described(form)} | {row.name} | {' | '.join(cells)} "
                    f"| {row.order:.2f} | {beside} | {row.extrapolated:.1e} |"
                )
                print(lines[-1], f"bound {row.bound:.0e}", flush=True)
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    made = table()
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
