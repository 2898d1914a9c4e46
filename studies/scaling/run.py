"""The scaling rules on handwritten digits: how far they hold, and how far they were said to.

    python studies/scaling/run.py [--quick]

A 64-16-10 tanh network, batches of 2 as the run; SGD with the linear rule, Adam with the
square-root rule, and all rivals. Writes report.md and figures/*.svg beside this file, or
under --output.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

import sdeverify as sv
from sdeverify import measures
from sdeverify.batch_experiment import scaling_experiment
from sdeverify.problems.digits import digits_problem
from sdeverify.report.style import MUTED, heading, panels, style

CLOSENESS = 2**0.5
TOLERANCE = 0.2
RECORDED = 32
COLOURS = {
    "linear": "#b0560c",
    "square_root": "#0b5394",
    "square_root_fixed_beta": "#7a3b9c",
    "square_root_fixed_epsilon": "#0e7c66",
    "unscaled": "#7b8491",
}
MARKERS = dict(zip(COLOURS, "soD^v", strict=True))
CLOSE = ("squared_gradient_norm", "noise_trace", "squared_parameter_norm")


@dataclass(frozen=True)
class Case:
    """One optimizer with what was predicted and what was found."""

    optimizer: sv.Optimizer
    found: xr.Dataset
    predicted: xr.Dataset

    @property
    def rule(self) -> str:
        """The rule that keeps the SDE."""
        return str(self.found["rule"].values[0])

    @property
    def bounds(self) -> dict[str, float]:
        """What the prediction is about: observables, and the factor that each may be off by.

        For SGD G, tr Sigma and |theta|^2 within C; for adaptive methods sqrt(v) within C.
        """
        if "mean_u" in self.found["observable"].values:
            return {"mean_u": CLOSENESS**2}
        return dict.fromkeys(CLOSE, CLOSENESS)

    @property
    def closeness(self) -> str:
        """The same in words."""
        if "mean_u" in self.bounds:
            return "√v (through the mean of u = v/σ²)"
        return "each of |∇f|², tr Σ and |θ|²"


def measure(optimizer: sv.Optimizer, samples: int, replicas: int, kappas: list[int]) -> Case:
    """The experiment and the prediction, from one start after 256 steps at batch 2."""
    problem, theta0 = digits_problem(samples, hidden=16)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(2))
    start = sv.warm_up(optimizer, oracle, theta0, steps=256)
    observables = [
        measures.loss(problem),
        measures.squared_gradient_norm(problem),
        measures.noise_trace(oracle),
        measures.squared_parameter_norm(),
    ]
    if "u" in optimizer.sde_components:
        observables.append(measures.mean_of("u"))
    began = time.perf_counter()

    def progress(name: str) -> None:
        print(f"{time.perf_counter() - began:6.1f} s  {optimizer.name}: {name}", flush=True)

    found = scaling_experiment(
        optimizer,
        oracle,
        start,
        kappas,
        steps=range(RECORDED, 257, RECORDED),
        observables=observables,
        replicas=replicas,
        tolerance=TOLERANCE,
        progress=progress,
    )
    progress("signal and noise")
    predicted = sv.validity(optimizer, oracle, start, 256, replicas=32, closeness=CLOSENESS)
    return Case(optimizer, found, predicted)


def figure(case: Case, path: Path) -> None:
    """The largest distance over time against kappa, a panel an observable."""
    with style():
        drawn, made = panels(case.found.sizes["observable"], 2.4)
        for panel, name in zip(made, case.found["observable"].values, strict=True):
            (axes,) = panel.axes
            _panel(axes, case, str(name))
            if panel.leftmost:
                axes.set_ylabel("largest |distance|")
            if panel.lowest:
                axes.set_xlabel("batch factor κ")
        handles, labels = made[0].axes[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=4)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, metadata={"Date": None})


def _panel(axes: Axes, case: Case, name: str) -> None:
    ds = case.found.sel(observable=name)
    kappas = ds["kappa"].values
    allowed = float(ds["allowed"])
    for i, rule in enumerate(ds["rule"].values):
        at = ds.sel(rule=rule)
        value = at["max_distance"].values
        bars = [value - at["max_distance_low"].values, at["max_distance_high"].values - value]
        axes.errorbar(
            kappas * 1.02 ** (i - 2),
            value,
            yerr=np.abs(bars),
            color=COLOURS[rule],
            marker=MARKERS[rule],
            markersize=4,
            capsize=2,
            linewidth=2.0 if rule == case.rule else 1.0,
            zorder=4 if rule == case.rule else 2,
            label=rule.replace("_", " "),
        )
    axes.axhline(allowed, color=MUTED, linestyle="--", linewidth=1, label="tolerance")
    low, high = (float(case.predicted[f"largest_factor_{end}"]) for end in ("low", "high"))
    end = kappas[-1] * 1.35
    axes.axvspan(min(low, end), min(high, end), color="#f3dfb5", zorder=0, linewidth=0)
    predicted = float(case.predicted["largest_factor"])
    if predicted < end:
        axes.axvline(predicted, color="#8a6d1a", linewidth=1.2, label="predicted limit, 95%")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(kappas[0] / 1.25, end)
    axes.set_ylim(bottom=min(allowed, float(ds["max_distance"].min())) / 4)
    axes.set_xticks(kappas, [f"{kappa:g}" for kappa in kappas])
    at = ds.sel(rule=case.rule)
    heading(axes, name.replace("_", " "), f"{case.rule.replace('_', ' ')}: {_reach(at)}")


def _reach(at: xr.Dataset) -> str:
    """How far, in words."""
    low, high = float(at["how_far_low"]), float(at["how_far_high"])
    status = str(at["how_far_status"].item())
    if status == "at least":
        return f"κ ≥ {low:g}"
    if status == "resolved":
        return f"κ = {low:g}" if low > 1 else "none tested"
    return f"between {low:g} and {'∞' if np.isinf(high) else f'{high:g}'}"


def close_factor(case: Case) -> str:
    """The largest tested kappa up to which the prediction's quantities are close, as measured."""
    bounds = case.bounds
    ds = case.found.sel(rule=case.rule, observable=list(bounds))
    ratio = ds["mean"] / ds["reference_mean"]
    apart = np.abs(np.log(ratio)).max("step") / np.log(list(bounds.values()))
    kappas = ds["kappa"].values
    far = np.flatnonzero(~(apart.max("observable").values <= 1))
    if not len(far):
        return f"{kappas[-1]:g} or more"
    return f"{kappas[far[0] - 1]:g}" if far[0] else "1"


def section(case: Case) -> str:
    """One optimizer's part of the report."""
    ds, told = case.found, case.predicted
    slug = case.optimizer.name.lower()
    names = [str(name) for name in ds["observable"].values]
    lines = [f"## {case.optimizer.name}: the rule `{case.rule}`", ""]
    settings = ", ".join(f"{k} {v:g}" for k, v in case.optimizer.hyperparameters.items())
    lines += [f"At batch 2: {settings}.", ""]
    lines += [f"![{slug}: distance against batch factor](figures/{slug}.svg)", ""]
    lines += ["| how far | " + " | ".join(n.replace("_", " ") for n in names) + " |"]
    lines += ["|---" * (len(names) + 1) + "|"]
    for rule in ds["rule"].values:
        cells = [_reach(ds.sel(rule=rule, observable=name)) for name in names]
        lines.append(f"| `{rule}` | " + " | ".join(cells) + " |")
    last = ds.isel(step=-1, kappa=-1)
    cells = [
        f"{float(last['reference_mean'].sel(observable=n)):.4g}"
        f" (± {float(ds['allowed'].sel(observable=n)):.2g})"
        for n in names
    ]
    lines.append("| the run's mean at the end (tolerance) | " + " | ".join(cells) + " |")
    lines += ["", prediction(told, case.closeness), ""]
    lines += [
        f"Found for that condition itself, with `{case.rule}`: {case.closeness} stays within a "
        f"factor √2 of the run's up to κ = {close_factor(case)}, as measured.",
        "",
    ]
    caveats = [caveat for caveat in ds["caveat"].values if caveat]
    return "\n".join([*lines, "Caveats: " + "; ".join(caveats) + ".", ""])


def prediction(told: xr.Dataset, what: str) -> str:
    """What `validity` said from the run at batch 2 alone."""
    low, value, high = (float(told[f"largest_factor{end}"]) for end in ("_low", "", "_high"))
    hyper = float(told["hyperparameter_limit"])
    return (
        f"Predicted before the fact (`validity`): noise over signal N/G = "
        f"{float(told['noise_to_signal']):.3g} "
        f"[{float(told['noise_to_signal_low']):.3g}, {float(told['noise_to_signal_high']):.3g}]; "
        f"the SDE's own condition at batch 2 is {told['sde_condition'].item()}; the rule cannot "
        f"keep {what} within a factor √2 beyond κ = {value:.3g} "
        f"[{low:.3g}, {high:.3g}] (95%); the hyperparameters allow {_any(hyper)}, the data "
        f"{float(told['data_limit']):.3g}. The condition is "
        f"necessary, not sufficient: an upper limit. (Here it is {told.attrs['conditions']}.)"
    )


def _any(limit: float) -> str:
    return "any κ" if np.isinf(limit) else f"{limit:.3g}"


def report(cases: list[Case], command: str, samples: int) -> str:
    """The whole report."""
    first = cases[0].found
    head = f"""# How far do the scaling rules hold on handwritten digits?

A 64-16-10 tanh network on {samples} of scikit-learn's digits, cross entropy. The run has batches of
2; scaled runs have batches of 2κ and hyperparameters and state moved by each rule. All start from
one state, after 256 steps of the run, and go on over as many samples as 256 more steps of the run
see; they are compared every {RECORDED} of these. {int(first.attrs["replicas"])} replicas of each.

*Distance*: |E scaled - E run| of an observable where it is largest over the compared steps, with a
band that covers all steps at once (95%). *Tolerance*: {TOLERANCE:g} of the larger of the run's
change since the start and its standard deviation between replicas. *How far*: the largest tested κ
up to which the distance is within the tolerance, as far as the bands resolve it.

*How the settings came about.* They are the second that were explored. With batch 4, learning rate
0.1, 128 steps and a tolerance of 0.2 standard deviations, the linear rule's reach was not resolved
between 1 and 2, and the square-root rule was beyond the tolerance at 2 for the loss and |θ|². Batch
2 raises the noise over the signal; "how far" depends on such choices and on the yardstick. For Adam
the closeness of √v was chosen as the check after |∇f|², tr Σ and |θ|² had stayed within √2 beyond
the prediction. One start and one seed; bands are not corrected for the number of comparisons.

Made by `{command}`.

"""
    return head + "\n".join(section(case) for case in cases)


def main() -> None:
    """Measures, then writes the report and its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer replicas and samples")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples, replicas, kappas = (512, 512, [2, 4, 8, 16, 32])
    if options.quick:
        samples, replicas, kappas = (256, 64, [2, 8, 32])
    optimizers = [
        sv.SGD(learning_rate=0.05),
        sv.Adam(learning_rate=0.002, beta1=0.97, beta2=0.98, epsilon=1e-2),
    ]
    cases = [measure(optimizer, samples, replicas, kappas) for optimizer in optimizers]
    for case in cases:
        figure(case, options.output / "figures" / f"{case.optimizer.name.lower()}.svg")
    command = "python studies/scaling/run.py" + (" --quick" if options.quick else "")
    text = report(cases, command, samples)
    (options.output / "report.md").write_text(text, encoding="utf-8")
    print(f"Wrote {options.output / 'report.md'}")


if __name__ == "__main__":
    main()
