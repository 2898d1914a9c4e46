"""Four views of one run on handwritten digits: where does the gap to the SDE come from?

    python studies/views/run.py [--replicas 1024]

SGD and Adam, the latter with and without the signal in its SDE, on a 64-16-10 tanh network. Writes
report.md and figures/views.svg beside this file, or under --output. The docs show the figure too.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes

import sdeverify as sv
from sdeverify.ensembles import measures
from sdeverify.problems.digits import digits_problem
from sdeverify.report.style import CHAIN, MUTED, SDE, heading, panels, style

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "figures"
STEPS, WARM, BATCH = 20, 60, 8
PARTS = {"total": (MUTED, "-"), "non-Gaussianity": (SDE, "-"), "time discretisation": (CHAIN, "-")}
FINER = {"SVAG level 2": "#0e7c66", "SVAG level 4": "#6cc0a8"}
SGD, ADAM = (
    sv.SGD(learning_rate=0.25),
    sv.Adam(learning_rate=0.004, beta1=0.9, beta2=0.97, epsilon=1e-2),
)
CASES: dict[str, tuple[sv.Optimizer, dict[str, bool]]] = {
    "SGD": (SGD, {}),
    "Adam": (ADAM, {}),
    "Adam, signal kept": (ADAM, {"keep_signal": True}),
}


def measured(replicas: int) -> dict[str, xr.Dataset]:
    """The views of each case, from one start after a warm-up."""
    problem, theta0 = digits_problem(256, hidden=16)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(BATCH))
    observables = [
        measures.loss(problem),
        measures.squared_gradient_norm(problem),
        measures.squared_parameter_norm(),
    ]
    began = time.perf_counter()
    found = {}
    for name, (optimizer, options) in CASES.items():

        def progress(view: str, done: int, total: int, case: str = name) -> None:
            if done == total:
                print(f"{time.perf_counter() - began:6.1f} s  {case}: {view}", flush=True)

        start = sv.warm_up(optimizer, oracle, theta0, steps=WARM)
        found[name] = sv.four_views(
            optimizer, oracle, start, STEPS, observables,
            levels=(1,) if options else (1, 2, 4), replicas=replicas, sde_options=options,
            progress=progress,
        )  # fmt: skip
    return found


def figure(found: Mapping[str, xr.Dataset], path: Path) -> None:
    """The parts of the gap over time, a row a case, a column an observable."""
    with style():
        names = [str(name) for name in next(iter(found.values()))["observable"].values]
        drawn, made = panels(len(found) * len(names), 2.1)
        places = [(case, name) for case in found for name in names]
        for panel, (case, name) in zip(made, places, strict=True):
            (axes,) = panel.axes
            _panel(axes, found[case].sel(observable=name))
            heading(axes, name.replace("_", " "), case)
            if panel.leftmost:
                axes.set_ylabel("gap to the SDE, in spreads")
            if panel.lowest:
                axes.set_xlabel("step")
        handles, labels = made[0].axes[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=5)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, metadata={"Date": None})


def _panel(axes: Axes, ds: xr.Dataset) -> None:
    moving = ds["spread"].values > 0
    step, spread = ds["step"].values[moving], ds["spread"].values[moving]
    axes.axhline(0, color=MUTED, linewidth=0.7)
    for part, (colour, line) in PARTS.items():
        value, error = (
            ds[field].sel(part=part).values[moving] / spread
            for field in ("gap_part", "gap_part_standard_error")
        )
        width = 2.2 if part == "total" else 1.4
        axes.plot(step, value, color=colour, linestyle=line, linewidth=width, label=part)
        if part != "total":
            axes.fill_between(
                step, value - 2 * error, value + 2 * error, color=colour, alpha=0.15, linewidth=0
            )
    for view, colour in FINER.items():
        if view not in ds["view"].values:
            continue
        value = ds["gap"].sel(view=view).values[moving] / spread
        axes.plot(step, value, color=colour, linestyle="--", linewidth=1.0, label=view)
    axes.set_xticks(np.linspace(step[0], step[-1], 4).round())


def report(found: Mapping[str, xr.Dataset], command: str) -> str:
    """The whole report."""
    first = next(iter(found.values()))
    lines = [
        "# Where does the gap between a run and its SDE come from?",
        "",
        f"A 64-16-10 tanh network on 256 of scikit-learn's digits, batches of {BATCH}, the next "
        f"{STEPS} steps after {WARM} of training; {first.attrs['replicas']} replicas of each view. "
        "The gap E optimizer - E SDE is the sum of *non-Gaussianity*, optimizer less its Gaussian "
        "surrogate (normal noise of the same mean and covariance), and *time discretisation*, "
        "surrogate less SDE. SVAG levels are the same run refined, with the same SDE.",
        "",
        "![The gap and its parts over time](figures/views.svg)",
        "",
        "*In spreads, standard deviations between runs at that step. Bands of the parts: two "
        "standard errors.*",
    ]
    for name, ds in found.items():
        optimizer, _ = CASES[name]
        settings = ", ".join(f"{k} {v:g}" for k, v in optimizer.hyperparameters.items())
        lines += ["", f"## {name}", "", f"{settings}. At step {float(ds['step'][-1]):g}:", ""]
        lines += [sv.views_table(ds)]
    lines += [
        "",
        "Gaps in spreads with their standard errors, bold where they are more than two of them; "
        "the last column is what extrapolation in dt may have left in the SDE's mean, at most. "
        "Adam's SDE drops (∇f)² beside the noise, and the second part of its gap then holds that "
        "too; with the signal kept it is time discretisation alone. SVAG levels do not keep that "
        "second SDE, whose weight 1/σ² of the signal changes with the noise, so they are left out "
        "there.",
        "",
        f"Made by `{command}`.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures, then writes the report and its figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, default=1024)
    parser.add_argument("--output", type=Path, default=HERE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(options.replicas)
    drawn = options.output / "figures" / "views.svg"
    figure(found, drawn)
    if options.output == HERE:
        shutil.copy(drawn, DOCS)
    command = "python studies/views/run.py"
    if options.replicas != 1024:
        command += f" --replicas {options.replicas}"
    (options.output / "report.md").write_text(report(found, command), encoding="utf-8")
    print(f"Wrote {options.output / 'report.md'}")


if __name__ == "__main__":
    main()
