"""A study of scaling rules: one run, its scaled runs, and what was predicted of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from sdeverify.base.arguments import whole, wholes
from sdeverify.base.state import State
from sdeverify.ensembles import measures
from sdeverify.ensembles.build import path_job
from sdeverify.ensembles.job import Job
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.options import BLOCK_SIZE, Run
from sdeverify.errors import InvalidInputError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.derive import derive
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.rules import BatchRule
from sdeverify.scaling.equilibrium import Constants, balance
from sdeverify.scaling.experiment import RUN, BatchRuns, Yard, batch_runs, checked_yard, job_name
from sdeverify.scaling.judging import Yardstick, finite
from sdeverify.scaling.scale import scale, scale_batch
from sdeverify.scaling.validity import close_bounds, decay_of, validity

SDE = "sde"
LEAST_BLOCKS = 4


@dataclass(frozen=True)
class ScalingStudy:
    """Batch B against kappa B by some rules, and the prediction from a short run at batch B.

    The observables that `validity` speaks of are watched beside those given.

    Args:
        name: letters, digits and '-'; it names files.
        title: for the report.
        optimizer, oracle: the run at batch B.
        start: the state that all runs start from.
        kappas: batch factors, ascending.
        rules: as in `scaling_experiment`.
        steps: level-1 steps from the start: how many, or which to record.
        observables: what is compared.
        replicas, block_size, tolerance, yardstick, confidence: as in `scaling_experiment`.
        closeness: the factor C of the prediction.
        prediction_steps, prediction_replicas: of the short run, see `validity`.
        path_replicas: also solve the SDE, with so many replicas; 0 for not.
        substeps, subsample: of that solution.
        seed: of the run; the scaled runs take those that follow.
        start_note: how the start was made, for the report.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(1))
        >>> sgd, start = sv.SGD(learning_rate=0.05), sv.State(0, theta=torch.ones(1).double())
        >>> study = sv.ScalingStudy("sgd", "SGD", sgd, oracle, start, kappas=(2, 4), steps=8)
        >>> sorted(study.jobs())
        ['linear-2', 'linear-4', 'run', 'unscaled-2', 'unscaled-4']
    """

    name: str
    title: str
    optimizer: Optimizer
    oracle: GradientOracle
    start: State
    kappas: float | Sequence[float]
    rules: Sequence[str | BatchRule] | None = None
    steps: int | Sequence[float] = 64
    observables: Sequence[Observable] = ()
    replicas: int = 512
    block_size: int = BLOCK_SIZE
    tolerance: float = 0.2
    yardstick: Yardstick = "larger"
    confidence: float = 0.95
    closeness: float = math.sqrt(2)
    prediction_steps: int = 32
    prediction_replicas: int = 32
    path_replicas: int = 0
    substeps: int | Sequence[int] = (1, 2)
    subsample: int = 0
    seed: int = 0
    start_note: str = ""

    def __post_init__(self) -> None:
        for name in (
            "replicas",
            "block_size",
            "prediction_steps",
            "prediction_replicas",
            "path_replicas",
            "subsample",
            "seed",
        ):
            whole(getattr(self, name), name)
        wholes(self.substeps, "substeps")

    @property
    def yard(self) -> Yard:
        """By what the scaled runs are judged."""
        return Yard(self.tolerance, self.yardstick, self.confidence, self.closeness)

    @cached_property
    def watched(self) -> list[Observable]:
        """The observables, those of the prediction included."""
        problem = self.oracle.problem
        known = {
            "squared_gradient_norm": measures.squared_gradient_norm(problem),
            "noise_trace": measures.noise_trace(self.oracle),
            "squared_parameter_norm": measures.squared_parameter_norm(),
            "mean_u": measures.mean_of("u"),
        }
        names = [observable.name for observable in self.observables]
        needed = close_bounds(self.optimizer, self.closeness)
        return [*self.observables, *(known[name] for name in needed if name not in names)]

    @cached_property
    def runs(self) -> BatchRuns:
        """The run and its scaled runs.

        Raises:
            InvalidInputError, UnsupportedError: as `scaling_experiment`, before any work.
        """
        checked_yard(self.yard)
        if self.prediction_replicas < 3 or self.prediction_steps < 1:
            raise InvalidInputError(
                "the prediction needs 3 replicas or more and a step or more; got "
                f"{self.prediction_replicas} and {self.prediction_steps}."
            )
        blocks = min(self.replicas, self.path_replicas or self.replicas) // self.block_size
        if decay_of(self.optimizer) and blocks < LEAST_BLOCKS:
            raise InvalidInputError(
                f"the balance of |theta|^2 takes its error bars from {LEAST_BLOCKS} blocks of "
                f"replicas or more; got {blocks}. Take a smaller block_size or more replicas."
            )
        return batch_runs(
            self.optimizer,
            self.oracle,
            self.start,
            self.kappas,
            self.rules,
            self.steps,
            self.watched,
            self._run(self.replicas),
        )

    def jobs(self) -> dict[str, Job]:
        """All ensembles, by name: "run", "rule-kappa", and "sde" where it is solved."""
        jobs = dict(self.runs.jobs)
        if self.path_replicas:
            jobs[SDE] = path_job(
                derive(self.optimizer, self.oracle),
                self.start,
                jobs[RUN].steps,
                self.watched,
                self._run(self.path_replicas).at(len(jobs)),
                substeps=self.substeps,
                subsample=self.subsample,
            )
        return jobs

    def _run(self, replicas: int) -> Run:
        run = Run.checked(replicas=replicas, seed=self.seed, block_size=self.block_size)
        return run.named(self.name)

    def assemble(self, ensembles: Mapping[str, xr.Dataset]) -> xr.DataTree:
        """The results: `scaling`, `prediction`, `equilibrium` for SGD with weight decay.

        All ensembles are in the tree too.
        """
        groups = dict(ensembles)
        groups["scaling"] = self.runs.dataset(ensembles, self.yard)
        groups["prediction"] = validity(
            self.optimizer,
            self.oracle,
            self.start,
            steps=self.prediction_steps,
            replicas=self.prediction_replicas,
            closeness=self.closeness,
            confidence=self.confidence,
            seed=self.seed,
        )
        if decay_of(self.optimizer):
            groups["equilibrium"] = self._equilibrium(ensembles)
        tree = xr.DataTree.from_dict({f"/{name}": ds for name, ds in groups.items()})
        tree.attrs = {
            "kind": "scaling",
            "title": self.title,
            "optimizer": self.optimizer.name,
            "hyperparameters": str(ensembles[RUN].attrs["hyperparameters"]),
            "noise": self.oracle.noise.describe(self.oracle.problem),
            "start_note": self.start_note,
            "close_observables": json.dumps(list(close_bounds(self.optimizer))),
        }
        return tree

    def _equilibrium(self, ensembles: Mapping[str, xr.Dataset]) -> xr.Dataset:
        """The balance of |theta|^2 at each factor of the first rule, the SDE's at factor 0."""
        rule = self.runs.rules[0]
        rows: list[dict[str, float]] = []
        kappas: list[float] = []
        for kappa in (0.0, 1.0, *self.runs.kappas):
            name = {0.0: SDE, 1.0: RUN}.get(kappa, job_name(rule, kappa))
            if name in ensembles and (name == SDE or finite(ensembles[name])):
                kappas.append(kappa)
                rows.append(balance(ensembles[name], self._constants(kappa), self.confidence))
        fields: dict[str, Any] = {
            name: ("kappa", np.array([row[name] for row in rows])) for name in rows[0]
        }
        return xr.Dataset(fields, coords={"kappa": np.array(kappas)}, attrs={"rule": rule.name})

    def _constants(self, kappa: float) -> Constants:
        at = kappa or 1.0
        optimizer: Any = scale(self.optimizer, at, self.runs.rules[0])
        noise = scale_batch(self.oracle, at).scale ** 2
        own = optimizer.refinement
        return Constants(optimizer.learning_rate, optimizer.weight_decay, noise, own)
