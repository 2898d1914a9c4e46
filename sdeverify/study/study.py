"""A study: one optimizer along one ladder, or several of them, and the jobs that it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import xarray as xr

from sdeverify.analysis import estimate_order
from sdeverify.base.arguments import whole, wholes
from sdeverify.base.state import State
from sdeverify.ensembles.coupling.coupled import Coupled
from sdeverify.ensembles.job import Job
from sdeverify.ensembles.observables import Observable
from sdeverify.errors import InvalidInputError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.noise.statistics import noise_statistics
from sdeverify.optimizers.derive import Derivation, derive
from sdeverify.optimizers.ladders import Ladder, Rung
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.sdes import GradientSDE
from sdeverify.sdes.sde import same_sde
from sdeverify.study.estimators import estimator_of


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
        estimator: how errors are measured: `Coupled(...)` by paths and forks that share their
            noise, as `coupled_ladder` does; None by independent ensembles of the following sizes.
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
    estimator: Coupled | None = None
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
        if not isinstance(self.estimator, Coupled | None):
            raise InvalidInputError(
                f"estimator is sv.Coupled(paths=..., ...) or None; got a "
                f"{type(self.estimator).__name__}."
            )
        if self.estimator is not None and (self.subsample or self.confirm_replicas):
            raise InvalidInputError(
                "coupled paths take all samples at each step; got "
                f"subsample={self.subsample}, confirm_replicas={self.confirm_replicas} beside an "
                "estimator. Leave these out."
            )

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

    @property
    def claimed_order(self) -> float:
        """What the SDE claims on the study's ladder."""
        sdes, _ = self.sdes()
        return self.ladder.claimed_order(sdes[0].claimed_order)

    def along_ladder(self, each: Sequence[xr.Dataset]) -> xr.Dataset:
        """The weak errors of the rungs side by side, on the ladder's clock."""
        return self.ladder.side_by_side(self.rungs(), each, self.claimed_order)

    def jobs(self) -> dict[str, Job]:
        """All ensembles, by name, as the estimator wants them."""
        return estimator_of(self).jobs(self)

    def solving(self) -> Study:
        """The study whose SDEs are solved alone, each by an ensemble of its own."""
        return replace(self, estimator=None)

    def assemble(self, ensembles: Mapping[str, xr.Dataset]) -> xr.DataTree:
        """The results from all the ensembles: errors, orders, explanation, provenance."""
        groups = estimator_of(self).results(self, ensembles)
        groups["flow_order"] = estimate_order(groups["flow_errors"])
        groups["order"] = estimate_order(groups["errors"], flow=groups["flow_order"])
        tree = xr.DataTree.from_dict({f"/{name}": ds for name, ds in groups.items()})
        statistics = noise_statistics(self.oracle.problem, self.start.expand(1).theta[0])
        sdes, _ = self.sdes()
        tree.attrs = {
            "title": self.title,
            "claimed_order": self.claimed_order,
            **self.ladder.attributes,
            "description": json.dumps(asdict(sdes[0].description)),
            "start_note": self.start_note,
            "outside_theorem": json.dumps([o.name for o in self.observables if not o.smooth]),
            "noise_skewness": json.dumps(asdict(statistics.skewness)),
            "noise_kurtosis": json.dumps(asdict(statistics.excess_kurtosis)),
        }
        return tree
