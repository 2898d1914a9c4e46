"""The page on performance, from what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from breakdown import REPLICAS, Breakdown
from network_size import CHOLESKY, EIGEN, OURS, PER_SAMPLE, Point
from precision import Change, box_muller_moments

from sdeverify.benchmarks.measuring import Section, figure
from sdeverify.benchmarks.sections import Measured


class Findings(NamedTuple):
    """All that the page shows."""

    machine: str
    tables: Sequence[Measured]
    changes: Sequence[Change]
    points: Sequence[Point]
    breakdowns: Sequence[Breakdown]


def page(found: Findings, figure_path: str) -> str:
    """The page as Markdown."""
    parts = [
        "# Performance",
        INTRODUCTION.format(machine=found.machine),
        *(_table(measured) for measured in found.tables),
        COMPILING,
        _network_size(found.points, figure_path),
        _breakdown(found.breakdowns),
        _precision(found.changes),
        MEMORY,
        GPU,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


INTRODUCTION = """
Written by `python studies/performance/run.py`, with all its numbers. `sdeverify bench` measures
the tables of this page on your machine, `sdeverify bench --quick` in about half a minute.

Numbers are ratios of processor time on one thread, within one process, the works taking turns,
each compared with the first of the same turn, medians over 5 seconds of turns. Where a first turn
takes over 15 seconds there is no second, nor for torchsde with its own Brownian motion.
The goal stands behind the number, and ✗ marks one that is missed.

Machine: {machine}.
"""

COMPILING = """
## Compiling

`problem_from_module(..., compiled=True)`, or `dataclasses.replace(problem, compiled=True)` for a
problem in closed form, traces an Euler–Maruyama step to one graph, weights, gradient, moments and
the state's update, and lets torch's inductor make code of it. Normals stay outside; time and
learning rate are arguments, the SDE's other numbers and the step size are constants, so that each
SDE and step size is compiled by itself (seconds; a code that was made before is taken from torch's
own cache). Chains of linear layers are compiled so as long as a replica's samples fit one chunk, in
pieces that stay in the cache. Other networks, and larger data, have their gradients compiled by
themselves, once for all SDEs, and the state's update beside them. tanh is left to torch's own
kernel, which is faster than the generated one.

The compiled numbers are compared with the plain ones on the first use of each shape, and are not
used where they differ: a warning says so. This is no formality: torch 2.13 made wrong code of a
concatenation that an earlier form of the dense chain had.
"""

MEMORY = """
## Memory

`sv.solve(..., memory="2GB")`, `sv.simulate(..., memory=...)` and `--memory 2GB` bound what a run
holds beyond what is there before it (Python, the libraries, the data); on the command line the
workers share it. A block of replicas is then moved in parts through all its steps, and each
gradient is cut over samples. A part draws the numbers of its whole block and keeps its own, so
that results change by no more than rounding. A budget into which not even one replica fits is
refused before any work, with what is needed; where steps are compiled, 128 MiB of it are left to
the compiler. Without a budget states and gradients get 2 GiB.
`tests/test_memory.py` runs ensembles that want more than their budget in a process of their own
and compares the peak of its resident memory with the budget.
"""

GPU = """
## On a GPU

No GPU was at hand, so this page has no figure from one. `python studies/performance/gpu.py`
measures it in one command: a step of the SDEs of SGD and Adam for a ResNet-20-sized network
(269,722 parameters, GroupNorm) on 50,000 random images of CIFAR-10's shape with the exact
covariance (seconds, share of the arithmetic rate that a product of large matrices reaches, peak
memory), and the tables above with `device="cuda"`. The tests run it at a tiny size on a CPU.
"""


def _table(measured: Measured) -> str:
    section = measured.section
    lines = [f"## {section.title}", "", f"Unit: {section.unit}.", ""]
    rows = [
        [*row.labels, *(_cell(section, row.labels, i, v) for i, v in enumerate(row.values))]
        for row in measured.rows
    ]
    return "\n".join([*lines, *_markdown([*section.headings, *section.columns], rows)])


def _cell(section: Section, labels: Sequence[str], column: int, value: float | None) -> str:
    if value is None:
        return "–"
    goal = section.goal(labels, column)
    if goal is None:
        return figure(value)
    return f"{figure(value)} ({goal}{'' if goal.met(value) else ' ✗'})"


def _network_size(points: Sequence[Point], figure_path: str) -> str:
    ways = (EIGEN, CHOLESKY, PER_SAMPLE, OURS)
    rows = [
        [
            f"{p.parameters:,}",
            f"{p.plain:.2g} s",
            *(figure(p.seconds[w] / p.plain) if w in p.seconds else "–" for w in ways),
        ]
        for p in points
    ]
    table = "\n".join(_markdown(["parameters", "plain gradient", *ways], rows))
    return f"""
## Cost against the size of the network

A step of the SDE of SGD, one replica, 1797 digits, 64-h-10 tanh networks. The dense ways form all
per-sample gradients and the covariance matrix and take its root by an eigendecomposition (up to
1,000 parameters) or by Cholesky (up to 5,000); beyond, a step takes minutes. `vmap(grad)` weights
per-sample gradients with normals, at most 128 MiB of them at a time. Ours is the gradient of one
weighted loss. In plain gradients:

{table}

![Seconds a step and plain gradients against parameters]({figure_path})
"""


def _breakdown(found: Sequence[Breakdown]) -> str:
    kinds = list(found[0].shares)
    rows = [
        [b.form, figure(b.ratio), *(f"{100 * b.shares[k]:.0f}%" for k in kinds), figure(b.floor)]
        for b in found
    ]
    headings = ["step", "plain gradients a replica", *kinds, "floor"]
    table = "\n".join(_markdown(headings, rows))
    return f"""
## Where the time goes, and the floor

A step of the MLP 64-64-10 with {REPLICAS} replicas under torch's profiler. The floor is the time
of the step's matrix products alone at the rate of one product of two 1024 × 1024 matrices, in
plain gradients: outputs, weights' gradients and signals, and for exact diag Σ the mean gradient
and the second moments besides.

{table}

What lies between a step and its floor: the products are narrow (10 and 64 columns) and so run
below that rate; tanh and softmax; passes over activations and over states that do arithmetic as
fast as memory gives; and Python, which more replicas or wider layers hide.
"""


def _precision(changes: Sequence[Change]) -> str:
    rows = [
        [
            c.setting,
            c.observable,
            f"{c.error:.2e} ± {c.error_se:.0e}",
            f"{c.change:.1e} ± {c.change_se:.0e}",
            f"{c.share:.1e}",
        ]
        for c in changes
    ]
    headings = ["run", "observable", "weak error in float64", "change in float32", "share"]
    table = "\n".join(_markdown(headings, rows))
    most = max(c.share for c in changes)
    verdict = (
        f"The largest is {most:.0e} of a standard error, so it is not seen: `problem_from_module` "
        "computes in the network's own precision, float32 as torch makes it, and the closed-form "
        "problems in float64, for the exact route's sake."
        if most < 0.1
        else f"The largest is {most:.0e} of a standard error, which is not negligible: use float64 "
        "(`dtype=torch.float64`) where errors as small as this are wanted."
    )
    second, fourth = 1 - box_muller_moments(24)[2], 1 - box_muller_moments(24)[4] / 3
    return f"""
## Precision

The weak error after 20 steps (optimizer minus SDE, as in the digits study and on the circle), in
float64 and float32 with the same mini-batches and the same Brownian increments. The change is
paired replica by replica, hence its small error bars. The share is |change| plus two standard
errors, in standard errors of the weak error.

{table}

{verdict}

A path's increments are drawn in float32 whatever the state's precision. The normals' law,
enumerated: the
variance is {second:.1e} below 1, the fourth moment {fourth:.0e} of itself below 3, and none is
beyond 5.77 standard deviations. An SDE's error from its variance is then that of a noise scale
that is off by {second / 2:.0e} of itself.
"""


def _markdown(headings: Iterable[str], rows: Iterable[Sequence[str]]) -> list[str]:
    head = list(headings)
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
