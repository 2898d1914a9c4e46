"""Where the time of a step goes, by the profiler, and the least that its arithmetic can take."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from sdeverify.benchmarks.measuring import Effort, Work, interleaved
from sdeverify.benchmarks.nets import MLP, on_digits
from sdeverify.benchmarks.steps import FORMS, SAMPLES, one_step, plain_gradient

REPLICAS = 16
WIDTHS = (64, 64, 10)
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm"),
    "drawing normals": ("normal_",),
    "activations and softmax": ("tanh", "tanh_backward", "exp", "exp_", "_softmax", "_log_softmax"),
}
OTHER, OUTSIDE = "other tensor operations", "Python, between operations"


class Breakdown(NamedTuple):
    """Shares of a step's time by kind, and its seconds a replica in plain gradients."""

    form: str
    ratio: float
    shares: dict[str, float]
    floor: float


def breakdowns(effort: Effort) -> list[Breakdown]:
    """Every form of a step of the MLP, 16 replicas.

    `floor` is the time of the matrix products alone, at the rate that one large product of
    matrices reaches here, in plain gradients.
    """
    problem, net, inputs, targets = on_digits(MLP, SAMPLES, "cpu")
    works: dict[str, Work] = {"plain": plain_gradient(net, inputs, targets)}
    works |= {
        form.name: one_step(form.stepper(problem), problem.reference, REPLICAS) for form in FORMS
    }
    seconds = interleaved(works, effort)
    rate = arithmetic_rate(torch.float32, "cpu")
    found = []
    for form in FORMS:
        least = SAMPLES * sum(products(form.name).values()) / rate / seconds["plain"]
        ratio = seconds[form.name] / REPLICAS / seconds["plain"]
        found.append(Breakdown(form.name, ratio, shares(works[form.name]), least))
    return found


def shares(work: Work, turns: int = 3) -> dict[str, float]:
    """Each kind's share of the time that a work takes."""
    work()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        begin = time.perf_counter()
        for _ in range(turns):
            work()
        total = 1e6 * (time.perf_counter() - begin)
    kind = {f"aten::{name}": kind for kind, names in KINDS.items() for name in names}
    spent = dict.fromkeys([*KINDS, OTHER], 0.0)
    for event in recorded.key_averages():
        spent[kind.get(event.key, OTHER)] += event.self_cpu_time_total
    spent[OUTSIDE] = max(0.0, total - sum(spent.values()))
    whole = sum(spent.values())
    return {name: value / whole for name, value in spent.items()}


def products(form: str) -> dict[str, float]:
    """Floating-point operations of the matrix products, a sample, by what they are for."""
    layers = [2 * a * b for a, b in pairwise(WIDTHS)]
    found = {"outputs": sum(layers), "weights": sum(layers), "signals": sum(layers[1:])}
    if "exact" in form:
        found |= {"mean": sum(layers), "second moments": sum(layers)}
    return {name: float(value) for name, value in found.items()}


def arithmetic_rate(dtype: torch.dtype, device: str, size: int = 1024) -> float:
    """Floating-point operations a second of one product of two square matrices."""
    a = torch.randn(size, size, device=device).to(dtype)
    effort = Effort(rounds=9, seconds=2.0, device=device)
    (seconds,) = interleaved({"product": lambda: a @ a}, effort).values()
    return 2 * size**3 / seconds
