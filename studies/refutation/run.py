"""The table of planted faults: what each route finds.

    python studies/refutation/run.py                    # all routes, a quarter of an hour
    python studies/refutation/run.py --routes one_step  # half a minute
    python studies/refutation/run.py --only sgd second  # names that start so

Findings are kept in studies/refutation/findings.json, and what Monte Carlo measured in
studies/refutation/sampled.json: both are only computed where they are missing. docs/refutation.md
is written from them, Monte Carlo's verdicts being given anew each time.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import tempfile
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from routes import Finding, Routes, judged, refusal, unchanged
from sizes import SAMPLED_SIZES, SIZES, sized_faults, sizes_page

import sdeverify as sv
from sdeverify.errors import SdeverifyError
from sdeverify.testing.faults import Fault, catalogue, correct_studies

HERE = Path(__file__).parent
FINDINGS, SAMPLED = HERE / "findings.json", HERE / "sampled.json"
LOCK = Path(tempfile.gettempdir()) / "sdeverify-refutation.lock"
PAGE = HERE.parents[1] / "docs" / "refutation.md"
ROUTES = {
    "one_step": "one-step moments",
    "exact": "exact weak errors",
    "sampled": "Monte Carlo",
}
INTRODUCTION = """# What is refuted

A verification tool is worth what it refutes. Below, every correct study and every planted fault of
`sdeverify.testing.faults.catalogue()` is put through three routes:

- **one-step moments** (`consistency`): the moments of one optimizer step, summed over the oracle's
  atoms, against the coded drift and diffusion, while the step shrinks. No sampling, no grid.
- **exact weak errors** (`certify`): both expectations on spectral grids, refined until the errors
  are resolved; no sampling.
- **Monte Carlo**: the weak error from {replicas} replicas on each side, as on real problems.

Each cell has the verdict on the claimed order, and the local slope of log |error| at the two finest
steps, of the observable (or moment) that decided: 0 for an error that does not vanish, 1 or 2 for
the order. "refused" means that the route does not accept the study, with an error that says why;
"-" was not computed. All studies go along SVAG levels but "second ..." and "... along learning
rates", which go along learning rates.

*Inconclusive* by Monte Carlo is an honest answer: the error is too small for the replicas or too
near to what the integrator leaves, a constant error of a tenth of the coarsest rung's is not
excluded, fits contradict each other, or the same data would not refute gradient flow either. A
fault is seen where it moves an expectation that is looked at by more than sampling resolves; the
shares are below.

This page is made by `python studies/refutation/run.py`.
"""


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    correct = [unchanged(study) for study in correct_studies().values()]
    faults = catalogue()
    routes = Routes()
    for route in arguments.routes:
        place = SAMPLED if route == "sampled" else FINDINGS
        sizes = SAMPLED_SIZES if route == "sampled" else SIZES
        sized = [fault[size] for fault in sized_faults().values() for size in sizes]
        for fault in [*correct, *faults, *sized]:
            chosen = not arguments.only or fault.name.startswith(tuple(arguments.only))
            if not chosen or (route in kept(place).get(fault.name, {}) and not arguments.again):
                continue
            found = getattr(_Computed(routes), route)(fault)
            print(f"{fault.name:32s} {ROUTES[route]}", flush=True)
            keep(place, fault.name, route, found)
    findings = kept(FINDINGS)
    for name, measured in kept(SAMPLED).items():
        findings.setdefault(name, {})["sampled"] = plain(asdict(verdict_of(measured["sampled"])))
    PAGE.write_text(page(correct, faults, findings))


@dataclass(frozen=True)
class _Computed:
    """What each route leaves to be kept."""

    routes: Routes

    def one_step(self, fault: Fault) -> dict[str, Any]:
        return plain(asdict(self.routes.one_step(fault)))

    def exact(self, fault: Fault) -> dict[str, Any]:
        return plain(asdict(self.routes.exact(fault)))

    def sampled(self, fault: Fault) -> dict[str, Any]:
        try:
            errors, flow = self.routes.sampled_ladders(fault)
        except SdeverifyError as error:
            return {"refused": str(error)}
        return {"errors": numbers(errors), "flow": numbers(flow)}


MEASURED = ("error", "chain_variance", "path_variance", "integrator_residual")


def numbers(along: xr.Dataset) -> dict[str, Any]:
    """A sampled ladder as plain JSON, six digits of each number."""
    ids = list(dict.fromkeys(map(str, along["path_id"].values)))
    values = {n: along[n].transpose("rung", "step", "observable").values for n in MEASURED}
    axes = {n: along[n].values for n in ("time_per_step", "step", "time")}
    return {
        **{n: _six_digits(v.tolist()) for n, v in (values | axes).items()},
        "observable": [str(name) for name in along["observable"].values],
        "path": [ids.index(str(p)) for p in along["path_id"].values],
        "replicas": int(along.attrs["replicas"]),
        "ladder": along.attrs["ladder"],
        "claimed_order": along.attrs["claimed_order"],
    }


def ladder_of(kept: dict[str, Any]) -> xr.Dataset:
    """The inverse of `numbers`."""
    coords = {
        "step": kept["step"],
        "time": ("step", kept["time"]),
        "observable": np.array(kept["observable"], dtype=object),
    }
    rungs = []
    for i, (step, path) in enumerate(zip(kept["time_per_step"], kept["path"], strict=True)):
        values = {n: np.asarray(kept[n][i]) for n in MEASURED}
        values["standard_error"] = np.sqrt(values["chain_variance"] + values["path_variance"])
        attrs = {"time_per_step": step, "path_id": f"path {path}", "replicas": kept["replicas"]}
        dims = ("step", "observable")
        rungs.append(
            xr.Dataset({n: (dims, v) for n, v in values.items()}, coords=coords, attrs=attrs)
        )
    return sv.ladder(rungs, kept["ladder"], kept["claimed_order"])


def verdict_of(measured: dict[str, Any]) -> Finding:
    """The verdict on what Monte Carlo measured."""
    if "refused" in measured:
        return refusal(SdeverifyError(measured["refused"]))
    return judged(ladder_of(measured["errors"]), ladder_of(measured["flow"]))


def _six_digits(value: Any) -> Any:
    return [_six_digits(v) for v in value] if isinstance(value, list) else float(f"{value:.6g}")


def kept(place: Path) -> dict[str, dict[str, Any]]:
    """What is there so far."""
    return json.loads(place.read_text()) if place.exists() else {}


def keep(place: Path, name: str, route: str, found: dict[str, Any]) -> None:
    """Adds a finding; two runs, of different routes say, may go on at once."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        now = kept(place)
        now.setdefault(name, {})[route] = found
        whole = place.with_suffix(".part")
        indent = None if place == SAMPLED else 1
        text = json.dumps(now, indent=indent, sort_keys=True, separators=(",", ": "))
        whole.write_text((text.replace("}}},", "}}},\n") if indent is None else text) + "\n")
        whole.replace(place)


def plain(found: dict[str, Any]) -> dict[str, Any]:
    """Rounded numbers, None where there is none, so that the file is plain JSON."""
    rounded = {n: float(f"{v:.4g}") if isinstance(v, float) else v for n, v in found.items()}
    return {n: None if isinstance(v, float) and not isfinite(v) else v for n, v in rounded.items()}


def page(correct: list[Fault], faults: list[Fault], found: dict[str, dict[str, Any]]) -> str:
    """The page in Markdown."""
    replicas = f"{correct[0].correct.replicas:,}"
    parts = [INTRODUCTION.format(replicas=replicas), "## Correct SDEs\n"]
    parts += [*table(correct, found, lambda fault: fault.correct.title), ""]
    parts += [f"## {len(faults)} planted faults\n", *table(faults, found, lambda fault: fault.what)]
    parts += ["", "## How much each route sees\n"]
    heads = (
        "route",
        "faults rejected",
        "open",
        "supported",
        "correct supported",
        "open",
        "rejected",
    )
    parts += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for route, name in ROUTES.items():
        wrong, right = (tally(group, found, route) for group in (faults, correct))
        cells = [shares(wrong, i) for i in range(3)] + [shares(right, i) for i in (2, 1, 0)]
        parts.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*parts, *sizes_page(found, ROUTES)]) + "\n"


def tally(group: list[Fault], found: dict[str, dict[str, Any]], route: str) -> list[int]:
    """How many are rejected, open and supported."""
    verdicts = [found.get(f.name, {}).get(route, {}).get("verdict", "-") for f in group]
    kinds = (("refuted", "refused"), ("inconclusive",), ("supported",))
    return [sum(v in kind for v in verdicts) for kind in kinds]


def shares(counts: list[int], i: int) -> str:
    """One count of several, with its percentage."""
    total = sum(counts)
    return f"{counts[i]} of {total} ({100 * counts[i] / total:.0f}%)" if total else "-"


def table(faults: list[Fault], found: dict[str, dict[str, Any]], what: Any) -> list[str]:
    """A Markdown table, one fault a row."""
    lines = [
        f"| study | what | {' | '.join(ROUTES.values())} |",
        "|---|---|" + "---|" * len(ROUTES),
    ]
    for fault in faults:
        cells = [cell(found.get(fault.name, {}).get(route)) for route in ROUTES]
        lines.append(f"| {fault.name} | {what(fault)} | {' | '.join(cells)} |")
    return lines


def cell(found: dict[str, Any] | None) -> str:
    """A verdict with its slope."""
    if found is None:
        return "-"
    slope = found["slope"]
    shown = "" if slope is None else f", {slope:.2f}".replace("-0.00", "0.00")
    return found["verdict"] + shown


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The table of planted faults.")
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=list(ROUTES))
    parser.add_argument("--only", nargs="*", default=[], help="names that start so")
    parser.add_argument("--again", action="store_true", help="compute what is there already, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
