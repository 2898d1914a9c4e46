"""How a study measures its weak errors: which ensembles that takes, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import xarray as xr

from sdeverify.analysis import weak_error
from sdeverify.analysis.sides import confirm
from sdeverify.base.arguments import wholes
from sdeverify.ensembles.build import chain_job, path_job
from sdeverify.ensembles.coupling.coupled import Coupled
from sdeverify.ensembles.coupling.rungs import CoupledRungs, Measurements
from sdeverify.ensembles.coupling.weak_error import (
    coupled_rungs,
    errors_along,
    own_sde,
    without_noise,
)
from sdeverify.ensembles.job import Job
from sdeverify.ensembles.options import Run
from sdeverify.sdes import GradientFlow

if TYPE_CHECKING:
    from sdeverify.study.study import Study

PICTURED = 64
"""Runs of each rung that figures of the means show, where no error is taken from them."""


class Estimator(Protocol):
    """A way to weak errors along a study's ladder."""

    def jobs(self, study: Study) -> dict[str, Job]:
        """All ensembles, by name."""

    def results(self, study: Study, ensembles: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
        """`errors`, `flow_errors` against gradient flow, and chain_i, path_j, flow_j to show."""


def estimator_of(study: Study) -> Estimator:
    """The study's own."""
    return Independent() if study.estimator is None else ByCoupling(study.estimator)


@dataclass(frozen=True)
class Independent:
    """Chain and SDE by independent ensembles."""

    def jobs(self, study: Study) -> dict[str, Job]:
        """chain_i, path_j, flow_j, and full_0 to confirm sub-sampling."""
        common = (study.start, study.steps, study.observables)
        run = options(study)
        jobs: dict[str, Job] = {}
        for i, rung in enumerate(study.rungs()):
            jobs[f"chain_{i}"] = chain_job(rung.optimizer, rung.oracle, *common, run.at(i))
        sdes, _ = study.sdes()
        paths = run.of_size(study.path_replicas or study.replicas)
        flows = flow_jobs(study)
        for i, sde in enumerate(sdes):
            jobs[f"path_{i}"] = path_job(
                sde,
                *common,
                paths.at(i),
                substeps=flows[f"flow_{i}"].substeps,
                subsample=study.subsample,
            )
            jobs[f"flow_{i}"] = flows[f"flow_{i}"]
        if study.subsample and study.confirm_replicas:
            full = run.of_size(study.confirm_replicas).at(len(sdes))
            jobs["full_0"] = path_job(sdes[0], *common, full, substeps=study.substeps, side="full")
        return jobs

    def results(self, study: Study, ensembles: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
        """The ensembles as they are, and their differences."""
        groups = dict(ensembles)
        _, belongs = study.sdes()
        for kind, errors in (("flow", "flow_errors"), ("path", "errors")):
            each = [
                weak_error(ensembles[f"chain_{i}"], ensembles[f"{kind}_{j}"])
                for i, j in enumerate(belongs)
            ]
            groups[errors] = study.along_ladder(each)
        if "full_0" in ensembles:
            groups["confirmation"] = confirm(ensembles["path_0"], ensembles["full_0"])
        return groups


@dataclass(frozen=True)
class ByCoupling:
    """All rungs and their SDEs on common paths, and forks; see `coupled_ladder`."""

    how: Coupled

    def jobs(self, study: Study) -> dict[str, Job]:
        """coupled_0, forks_i, chain_i, flow_j; few chains where only figures show them."""
        work = self._work(study)
        jobs = work.jobs()
        for i in range(len(work.rungs)):
            jobs.setdefault(f"chain_{i}", work.chain_job(i, PICTURED))
        return {**jobs, **flow_jobs(study)}

    def results(self, study: Study, ensembles: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
        """The ensembles, the SDE's paths among those that are coupled, and the errors."""
        measurements = Measurements(self._work(study), ensembles)
        sdes, belongs = study.sdes()
        paths = {f"path_{j}": measurements.path(j) for j in range(len(sdes))}
        references = {
            "flow_errors": [without_noise(measurements, ensembles[f"flow_{j}"]) for j in belongs],
            "errors": [own_sde(measurements, i) for i in range(len(belongs))],
        }
        errors = {
            name: errors_along(study.ladder, measurements, each, study.claimed_order)
            for name, each in references.items()
        }
        return {**ensembles, **paths, **errors}

    def _work(self, study: Study) -> CoupledRungs:
        sdes, belongs = study.sdes()
        return coupled_rungs(
            study.rungs(),
            [sdes[j] for j in belongs],
            study.start,
            study.steps,
            study.observables,
            self.how,
            options(study).seed,
            None,
        )


def options(study: Study) -> Run:
    """How a study's ensembles are run; the seed follows from its own and its name."""
    return Run.checked(replicas=study.replicas, seed=study.seed).named(study.name)


def flow_jobs(study: Study) -> dict[str, Job]:
    """Each SDE of a study without its noise, by name: flow_j."""
    sdes, belongs = study.sdes()
    two = options(study).of_size(2)
    return {
        f"flow_{j}": path_job(
            GradientFlow.without_noise(sde),
            study.start,
            study.steps,
            study.observables,
            two,
            substeps=_substeps(study, belongs.index(j), len(sdes)),
            side="flow",
        )
        for j, sde in enumerate(sdes)
    }


def _substeps(study: Study, rung: int, sdes: int) -> tuple[int, ...]:
    """On a ladder of SDEs the integrator step shrinks as the optimizer's does."""
    finer = round(study.rungs()[rung].optimizer.refinement) if sdes > 1 else 1
    return tuple(s * max(1, finer) for s in wholes(study.substeps, "substeps"))
