"""Error against cost: from which runs should an expectation under the SDE be taken?

    python studies/cost/run.py [--scale 0.25]

SGD and RMSprop, on the circle, where biases are exact, and on handwritten digits, where they come
from a long reference run. Writes report.md and figures/cost.svg beside this file, or under
--output. The docs show the figure too. `--scale` multiplies all numbers of replicas.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch
from circle import exact_biases
from circle import setting as circle_setting
from ensembles import Setting
from methods import Method, Sizes, measured, methods
from pages import Case, figure, load, report, save

import sdeverify as sv
from sdeverify.ensembles import measures
from sdeverify.problems.digits import digits_problem

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "figures"
CASES = ("circle, SGD", "circle, RMSprop", "digits, SGD", "digits, RMSprop")
HEAVIEST_FIRST = (3, 2, 1, 0)


def digits_setting(adaptive: bool) -> Setting:
    """A 64-16-10 tanh network on 256 digits, batches of 8, after 60 steps of training."""
    problem, theta0 = digits_problem(256, hidden=16)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(8))
    optimizer: sv.Optimizer = sv.SGD(learning_rate=0.25)
    if adaptive:
        optimizer = sv.RMSprop(learning_rate=0.004, beta=0.97, epsilon=1e-2)
    start = sv.warm_up(optimizer, oracle, theta0, steps=60)
    observables = [
        measures.loss(problem),
        measures.squared_gradient_norm(problem),
        measures.squared_parameter_norm(),
    ]
    return Setting(optimizer, oracle, start, 20, observables, 8)


def sizes_of(name: str, scale: float) -> Sizes:
    """Replicas; on the circle only variances are measured."""
    if name.startswith("circle"):
        return Sizes(*(int(4096 * scale) for _ in range(5)))
    many, finest = (3072, 192) if "RMSprop" in name else (4096, 2048)
    return Sizes(*(int(n * scale) for n in (many, finest, many, many, 256)))


def case(arguments: tuple[str, float]) -> Case:
    """One panel."""
    name, scale = arguments
    torch.set_num_threads(1)
    done = _progress(name, time.perf_counter())
    adaptive = "RMSprop" in name
    on_circle = name.startswith("circle")
    at = circle_setting(adaptive) if on_circle else digits_setting(adaptive)
    runs = measured(at, sizes_of(name, scale), done)
    found = methods(at, runs)
    if on_circle:
        exact = exact_biases(at, done)
        found = [_exactly(method, exact[method.name], runs.spread) for method in found]
    observables = [observable.name for observable in at.observables]
    settings = ", ".join(f"{k} {v:g}" for k, v in at.optimizer.hyperparameters.items())
    return Case(name, settings, at.steps, observables, tuple(found), on_circle)


def _exactly(method: Method, exact: tuple[object, object], spread: object) -> Method:
    bias, bound = (value / spread for value in exact)  # type: ignore[operator]
    return dataclasses.replace(method, bias=bias, bias_error=bound)


def _progress(name: str, began: float) -> Callable[[str], None]:
    def done(what: str) -> None:
        print(f"{time.perf_counter() - began:6.1f} s  {name}: {what}", flush=True)

    return done


def main() -> None:
    """Measures, then writes the report and its figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of replicas")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--redraw", action="store_true", help="from results.json, without work")
    options = parser.parse_args()
    results = options.output / "results.json"
    if not options.redraw:
        work = [(CASES[i], options.scale) for i in HEAVIEST_FIRST]
        with get_context("spawn").Pool(options.workers) as pool:
            found = {each.name: each for each in pool.imap_unordered(case, work, chunksize=1)}
        save([found[name] for name in CASES], results)
    cases = load(results)
    drawn = options.output / "figures" / "cost.svg"
    figure(cases, drawn)
    if options.output == HERE:
        shutil.copy(drawn, DOCS)
    command = "python studies/cost/run.py"
    if options.scale != 1:
        command += f" --scale {options.scale:g}"
    (options.output / "report.md").write_text(report(cases, command), encoding="utf-8")
    print(f"Wrote {options.output / 'report.md'}")


if __name__ == "__main__":
    main()
