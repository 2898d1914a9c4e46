"""A study: one optimizer along one ladder, or several of them, and the jobs that it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import xarray as xr

from sdeverify.analysis import estimate_order, weak_error
from sdeverify.analysis.sides import confirm
from sdeverify.base.arguments import whole, wholes
from sdeverify.base.state import State
from sdeverify.ensembles.build import chain_job, path_job
from sdeverify.ensembles.job import Job
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.options import Run
from sdeverify.noise.oracle import GradientOracle
from sdeverify.noise.statistics import noise_statistics
from sdeverify.optimizers.derive import Derivation, derive
from sdeverify.optimizers.ladders import Ladder, Rung
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.sdes import GradientFlow, GradientSDE
from sdeverify.sdes.sde import same_sde


@dataclass(frozen=True)
class Study:
    """The weak error of one optimizer's SDE along one ladder of steps.

    Args:
        name: letters, digits and '-'; it names files.
        title: for the report.
        optimizer, oracle: the level-1 run.
        start: the state that both sides start from.
        steps: level-1 steps from the start: how many, or which to record.
        observables: the test functions.
        ladder: `SvagLevels`, `LearningRates`, `BallisticRates`, or one of your own.
        sde: another SDE than the optimizer's own, as in `derive`; `sde_options` go there too.
        replicas: discrete replicas at each rung.
        path_replicas: replicas of the SDE; None for as many.
        substeps: Euler-Maruyama steps in one level-1 step, on one Brownian path.
        subsample: samples in an SDE step, 0 for all.
        confirm_replicas: with `subsample`, also solve the SDE with all samples, with so many
            replicas, and report the difference.
        seed: all random numbers follow from it and the study's name.
        start_note: how the start was made, for the report.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> study = sv.Study(
        ...     name="sgd",
        ...     title="SGD on the circle",
        ...     optimizer=sv.SGD(learning_rate=0.2),
        ...     oracle=oracle,
        ...     start=sv.State(0, theta=torch.ones(1).double()),
        ...     steps=[4],
        ...     observables=[sv.Observable("cos", lambda state: state.theta[:, 0].cos())],
        ...     ladder=sv.SvagLevels([1, 2]),
        ... )
        >>> list(study.jobs())
        ['chain_0', 'chain_1', 'path_0', 'flow_0']
    """

    name: str
    title: str
    optimizer: Optimizer
    oracle: GradientOracle
    start: State
    steps: int | Sequence[float]
    observables: Sequence[Observable]
    ladder: Ladder
    sde: type[GradientSDE] | Derivation | None = None
    sde_options: Mapping[str, Any] = field(default_factory=dict)
    replicas: int = 1024
    path_replicas: int | None = None
    substeps: int | Sequence[int] = (2, 4)
    subsample: int = 0
    confirm_replicas: int = 0
    seed: int = 0
    start_note: str = ""

    def __post_init__(self) -> None:
        for name in ("replicas", "subsample", "confirm_replicas", "seed"):
            whole(getattr(self, name), name)
        whole(self.path_replicas or 0, "path_replicas")
        wholes(self.substeps, "substeps")

    def rungs(self) -> list[Rung]:
        """The discrete runs, coarsest first."""
        return self.ladder.rungs(self.optimizer, self.oracle)

    def sdes(self) -> tuple[list[GradientSDE], list[int]]:
        """The different SDEs along the ladder, and for each rung the number of its SDE."""
        kinds: list[GradientSDE] = []
        belongs: list[int] = []
        for rung in self.rungs():
            oracle = self.oracle if rung.oracle.noise is self.oracle.noise else rung.oracle
            sde = derive(rung.optimizer, oracle, self.sde, **self.sde_options)
            same = [i for i, other in enumerate(kinds) if same_sde(sde, other)]
            if not same:
                kinds.append(sde)
            belongs.append(same[0] if same else len(kinds) - 1)
        return kinds, belongs

    def jobs(self) -> dict[str, Job]:
        """All ensembles, by name; see `study_jobs`."""
        return study_jobs(self)

    def assemble(self, ensembles: Mapping[str, xr.Dataset]) -> xr.DataTree:
        """The results from all the ensembles; see `assemble_study`."""
        return assemble_study(self, ensembles)


def study_jobs(study: Study) -> dict[str, Job]:
    """All ensembles of a study, by name: chain_i, path_i, flow_i, and full_0 to confirm."""
    common = (study.start, study.steps, study.observables)
    run = Run.checked(replicas=study.replicas, seed=study.seed).named(study.name)
    jobs: dict[str, Job] = {}
    for i, rung in enumerate(study.rungs()):
        jobs[f"chain_{i}"] = chain_job(rung.optimizer, rung.oracle, *common, run.at(i))
    sdes, belongs = study.sdes()
    paths = run.of_size(study.path_replicas or study.replicas)
    for i, sde in enumerate(sdes):
        fine = _substeps(study, belongs.index(i), len(sdes))
        flow = GradientFlow.without_noise(sde)
        jobs[f"path_{i}"] = path_job(
            sde, *common, paths.at(i), substeps=fine, subsample=study.subsample
        )
        jobs[f"flow_{i}"] = path_job(flow, *common, run.of_size(2), substeps=fine, side="flow")
    if study.subsample and study.confirm_replicas:
        full = run.of_size(study.confirm_replicas).at(len(sdes))
        jobs["full_0"] = path_job(sdes[0], *common, full, substeps=study.substeps, side="full")
    return jobs


def assemble_study(study: Study, datasets: Mapping[str, xr.Dataset]) -> xr.DataTree:
    """The results of a study from its ensembles: errors, orders, explanation, provenance."""
    sdes, belongs = study.sdes()
    groups = dict(datasets)
    for kind, errors in (("flow", "flow_errors"), ("path", "errors")):
        each = [
            weak_error(datasets[f"chain_{i}"], datasets[f"{kind}_{j}"])
            for i, j in enumerate(belongs)
        ]
        groups[errors] = along_ladder(study, each)
    groups["flow_order"] = estimate_order(groups["flow_errors"])
    groups["order"] = estimate_order(groups["errors"], flow=groups["flow_order"])
    if "full_0" in datasets:
        groups["confirmation"] = confirm(datasets["path_0"], datasets["full_0"])
    tree = xr.DataTree.from_dict({f"/{name}": ds for name, ds in groups.items()})
    statistics = noise_statistics(study.oracle.problem, study.start.expand(1).theta[0])
    tree.attrs = {
        "title": study.title,
        "claimed_order": claimed_order(study),
        **study.ladder.attributes,
        "description": json.dumps(asdict(sdes[0].description)),
        "start_note": study.start_note,
        "outside_theorem": json.dumps([o.name for o in study.observables if not o.smooth]),
        "noise_skewness": json.dumps(asdict(statistics.skewness)),
        "noise_kurtosis": json.dumps(asdict(statistics.excess_kurtosis)),
    }
    return tree


def along_ladder(study: Study, each: Sequence[xr.Dataset]) -> xr.Dataset:
    """The weak errors of a study's rungs side by side, on its ladder's clock."""
    return study.ladder.side_by_side(study.rungs(), each, claimed_order(study))


def claimed_order(study: Study) -> float:
    """What the SDE claims on the study's ladder."""
    sdes, _ = study.sdes()
    return study.ladder.claimed_order(sdes[0].claimed_order)


def _substeps(study: Study, rung: int, sdes: int) -> tuple[int, ...]:
    """On a ladder of SDEs the integrator step shrinks as the optimizer's does."""
    finer = round(study.rungs()[rung].optimizer.refinement) if sdes > 1 else 1
    return tuple(s * max(1, finer) for s in wholes(study.substeps, "substeps"))
