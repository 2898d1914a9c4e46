"""Faults of growing size: what each route still sees."""

from __future__ import annotations

from typing import Any

from routes import REFUSED

from sdeverify.analysis.verdict import REFUTED, SUPPORTED
from sdeverify.testing.faults import Fault, correct_studies
from sdeverify.testing.faults.fault import noise_times, times

SIZES = (0.8, 0.9, 0.95, 0.98, 1.02, 1.05, 1.1, 1.2)
"""Factors of the noise or of a constant of the drift."""
SAMPLED_SIZES = (0.8, 0.9, 1.1, 1.2)
NOISE = ("sgd", "momentum", "rmsprop", "adam")
DRIFT = {"sgd-decay": "weight_decay", "momentum": "friction", "rmsprop": "c2"}
SIGNS = {REFUTED: "refuted", REFUSED: "refused", SUPPORTED: "supported"}
INTRODUCTION = """
## How small a fault each route sees

One constant of a correct SDE times a factor, of the noise or of the drift. The noise times 1.05 is
an error of the temperature of 10%. *Sees from*: the smallest change from which on the route refutes
every larger one of the table, below and above; "-" where it misses the largest. The correct SDEs
stand under the factor 1, and "-" was not computed.

Sampling supports wrong SDEs of momentum in this table: what the noise does to these observables is
small beside the weak error itself, so that a tenth of the coarsest error, the limit which support
excludes, is a large error of the temperature. The verdict's sentence says how large; for the noise
itself the other two routes are the ones to trust.
"""


def sized_faults() -> dict[str, dict[float, Fault]]:
    """What is multiplied -> factor -> the fault."""
    correct = correct_studies()
    kinds = {f"{correct[n].title}: the noise": (n, "noise") for n in NOISE}
    kinds |= {f"{correct[n].title}: {c.replace('_', ' ')}": (n, c) for n, c in DRIFT.items()}
    return {
        kind: {size: _sized(name, constant, size) for size in SIZES}
        for kind, (name, constant) in kinds.items()
    }


def _sized(study: str, constant: str, size: float) -> Fault:
    what = f"{constant.replace('_', ' ')} times {size:g}"
    change = noise_times(size, what) if constant == "noise" else times(constant, size)
    name = f"{study}-{constant.replace('_', '-')}-times-{size:g}"
    return Fault(name, what, correct_studies()[study], change)


def sizes_page(found: dict[str, dict[str, Any]], routes: dict[str, str]) -> list[str]:
    """The section of the page, in Markdown."""
    columns = sorted([*SIZES, 1.0])
    heads = ["what", "route", *(f"{size:g}" for size in columns), "sees from"]
    lines = [INTRODUCTION, f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for kind, faults in sized_faults().items():
        correct = next(iter(faults.values())).correct.name
        names = {1.0: correct, **{size: fault.name for size, fault in faults.items()}}
        for route, title in routes.items():
            verdicts = {s: found.get(n, {}).get(route, {}).get("verdict") for s, n in names.items()}
            cells = [_word(verdicts[size]) for size in columns]
            lines.append(f"| {kind} | {title} | {' | '.join(cells)} | {_smallest(verdicts)} |")
    return lines


def _word(verdict: str | None) -> str:
    return "-" if verdict is None else SIGNS.get(verdict, "open")


def _smallest(verdicts: dict[float, str | None]) -> str:
    """The smallest change from which on all are rejected."""
    changes = sorted({round(abs(size - 1), 6) for size in SIZES}, reverse=True)
    smallest = None
    for change in changes:
        both = [v for size, v in verdicts.items() if v and round(abs(size - 1), 6) == change]
        if not both:
            continue
        if not all(v in (REFUTED, REFUSED) for v in both):
            break
        smallest = change
    return "-" if smallest is None else f"{100 * smallest:g}%"
