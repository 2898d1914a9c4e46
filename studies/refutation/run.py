"""The table of planted faults: what each route finds.

    python studies/refutation/run.py                    # all routes, some minutes
    python studies/refutation/run.py --routes one_step  # half a minute
    python studies/refutation/run.py --only sgd second  # names that start so

Findings are kept in studies/refutation/findings.json and only computed where they are missing;
docs/refutation.md is written from them.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import tempfile
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from sdeverify.faults import Fault, catalogue, correct_studies
from sdeverify.faults.routes import Routes, unchanged

HERE = Path(__file__).parent
KEPT = HERE / "findings.json"
LOCK = Path(tempfile.gettempdir()) / "sdeverify-refutation.lock"
PAGE = HERE.parents[1] / "docs" / "refutation.md"
ROUTES = {
    "one_step": "one-step moments",
    "exact": "exact weak errors",
    "sampled": "Monte Carlo",
}
INTRODUCTION = """# What is refuted

A verification tool is worth what it refutes. Below, every correct study and every planted fault of
`sdeverify.faults.catalogue()` is put through three routes:

- **one-step moments** (`consistency`): the moments of one optimizer step, summed over the oracle's
  atoms, against the coded drift and diffusion, while the step shrinks. No sampling, no grid.
- **exact weak errors** (`certify`): both expectations on spectral grids, no sampling; once more on
  twice as many points along each axis where the first grid leaves the errors unresolved.
- **Monte Carlo**: the weak error from {replicas} replicas on each side, as on real problems.

Each cell has the verdict on the claimed order, and the local slope of log |error| at the two finest
steps, of the observable (or moment) that decided: 0 for an error that does not vanish, 1 or 2 for
the order. "refused" means that the route does not accept the study, with an error that says why;
"-" was not computed. *Inconclusive* by Monte Carlo is an honest answer: the error is too small for
the replicas, or the rungs too few. *Supported* beside a fault means that its effect is smaller than
what these replicas and observables resolve: a verdict speaks of the errors that were measured. All
studies go along SVAG levels but "second ..." and "... along learning rates", which go along
learning rates.

This page is made by `python studies/refutation/run.py`.
"""


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    correct = [unchanged(study) for study in correct_studies().values()]
    faults = catalogue()
    routes = Routes()
    for route in arguments.routes:
        for fault in [*correct, *faults]:
            chosen = not arguments.only or fault.name.startswith(tuple(arguments.only))
            if not chosen or (route in kept().get(fault.name, {}) and not arguments.again):
                continue
            found = plain(asdict(getattr(routes, route)(fault)))
            print(f"{fault.name:32s} {ROUTES[route]:20s} {found['verdict']}", flush=True)
            keep(fault.name, route, found)
    PAGE.write_text(page(correct, faults, kept()))


def kept() -> dict[str, dict[str, Any]]:
    """The findings so far."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def keep(name: str, route: str, found: dict[str, Any]) -> None:
    """Adds a finding; two runs, of different routes say, may go on at once."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        now = kept()
        now.setdefault(name, {})[route] = found
        whole = KEPT.with_suffix(".part")
        whole.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
        whole.replace(KEPT)


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
    counts = {
        route: [found.get(f.name, {}).get(route, {}).get("verdict", "-") for f in faults]
        for route in ROUTES
    }
    parts.append("")
    for route, verdicts in counts.items():
        done = [v for v in verdicts if v != "-"]
        rejected = sum(v in ("refuted", "refused") for v in done)
        parts.append(f"- {ROUTES[route]}: {rejected} of {len(done)} faults are rejected")
    return "\n".join(parts) + "\n"


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
