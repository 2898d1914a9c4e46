"""A campaign: studies that answer one question together, computed and put together."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import cloudpickle
import torch
import xarray as xr

from sdeverify.base.versions import versions
from sdeverify.ensembles.forecast import check_time
from sdeverify.ensembles.job import Job, Sink
from sdeverify.ensembles.progress import Progress, progress_of
from sdeverify.errors import InvalidInputError, UnsupportedError, did_you_mean
from sdeverify.study.engine import HERE, Compute, Lent, Local, Pool, Remote, Tally, run_blocks
from sdeverify.study.study import Study

if TYPE_CHECKING:
    from sdeverify.study.store import Store


_NAME = re.compile(r"[\w-][\w.-]*")


class Part(Protocol):
    """What a campaign is made of: ensembles to compute, and what they say together.

    `Study` measures weak errors along a ladder, `ScalingStudy` puts scaling rules to the test.
    """

    @property
    def name(self) -> str: ...

    @property
    def seed(self) -> int: ...

    def jobs(self) -> dict[str, Job]:
        """All ensembles, by name."""

    def assemble(self, ensembles: Mapping[str, xr.Dataset]) -> xr.DataTree:
        """The results from all the ensembles."""


@dataclass(frozen=True)
class Campaign:
    """Studies that answer one question together, and the parameters that `--set` changes.

    Args:
        name: its short name.
        title, question: for the report.
        build: keyword parameters with defaults -> the studies, all of one class.
        command: the command that makes the results again.

    Example:
        >>> from dataclasses import replace
        >>> from sdeverify.testing.faults import correct_studies
        >>> def build(replicas: int = 1024):
        ...     return [replace(correct_studies()["sgd"], replicas=replicas)]
        >>> campaign = sv.Campaign("circle", "On the circle", "Does SGD's SDE hold?", build)
        >>> [study.replicas for study in campaign.studies(replicas=64)]
        [64]
    """

    name: str
    title: str
    question: str
    build: Callable[..., Sequence[Part]]
    command: str = ""

    @property
    def defaults(self) -> dict[str, Any]:
        """The parameters of `build` with their defaults."""
        return {n: p.default for n, p in inspect.signature(self.build).parameters.items()}

    def studies(self, **parameters: Any) -> list[Any]:
        """The studies for these parameters.

        Raises:
            InvalidInputError: an unknown parameter, two studies of one name or of two classes.
        """
        unknown = sorted(set(parameters) - set(self.defaults))
        if unknown:
            raise InvalidInputError(
                f"the study '{self.name}' has no parameter {', '.join(unknown)}."
                f"{did_you_mean(unknown[0], self.defaults)} It has {', '.join(self.defaults)}."
            )
        built = list(self.build(**parameters))
        names = [study.name for study in built]
        if not built or len(set(names)) != len(names):
            raise InvalidInputError(f"the studies of '{self.name}' need different names: {names}.")
        wrong = [name for name in names if not _NAME.fullmatch(name) or len(name.encode()) > 100]
        if wrong:
            raise InvalidInputError(
                "a study's name names files: letters, digits, '-', '_' and '.', 100 bytes at most; "
                f"got {wrong[0]!r}."
            )
        kinds = sorted({type(study).__name__ for study in built})
        if len(kinds) > 1:
            raise InvalidInputError(
                f"the studies of '{self.name}' are of the classes {', '.join(kinds)}; one report "
                "shows one class. Make a campaign of each."
            )
        return built


def weak_error_studies(campaign: str, studies: Sequence[Part]) -> list[Study]:
    """The studies, where all of them measure the weak error of an SDE.

    Raises:
        UnsupportedError: one is of another class.
    """
    accepted = [study for study in studies if isinstance(study, Study)]
    if len(accepted) < len(studies):
        raise UnsupportedError(
            f"'{campaign}' is made of studies of the class {type(studies[0]).__name__}, which can "
            "be measured and reported; solve and certify take those of an SDE's weak error."
        )
    return accepted


def assemble(
    campaign: Campaign,
    studies: Sequence[Part],
    datasets: Mapping[str, xr.Dataset],
    parameters: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """The results of a campaign from its ensembles, named "study/job"."""
    children = {}
    for study in studies:
        own = {
            name.removeprefix(f"{study.name}/"): ds
            for name, ds in datasets.items()
            if name.startswith(f"{study.name}/")
        }
        children[study.name] = study.assemble(own)
    return rooted(campaign, children, parameters)


def rooted(
    campaign: Campaign,
    children: Mapping[str, xr.DataTree],
    parameters: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """The studies' results under one root, with the campaign's question and provenance."""
    tree = xr.DataTree(children=dict(children))
    used = {**campaign.defaults, **(parameters or {})}
    tree.attrs = {
        "title": campaign.title,
        "question": campaign.question,
        "command": campaign.command,
        "order": json.dumps(list(children)),
        "versions": json.dumps(versions()),
        "parameters": json.dumps(used, default=str),
    }
    return tree


def campaign_jobs(studies: Sequence[Part]) -> dict[str, Job]:
    """All ensembles of all studies, named "study/job"."""
    return {f"{s.name}/{name}": job for s in studies for name, job in s.jobs().items()}


def as_campaign(study: Campaign | Study) -> Campaign:
    """A single study as a campaign of its own."""
    if isinstance(study, Campaign):
        return study
    return Campaign(study.name, study.title, study.title, lambda: [study])


def run(
    study: Campaign | Study,
    store: str | os.PathLike[str] | Store | None = None,
    *,
    executor: Executor | None = None,
    sinks: Callable[[str, Job], Sink] | None = None,
    progress: Progress | bool | None = None,
    time_limit: float | None = None,
    **parameters: Any,
) -> xr.DataTree:
    """Computes a study and gives its results.

    Args:
        study: one study, or a campaign of several.
        store: a `Store`, or the folder of one, which keeps blocks and results; with it a stopped
            run goes on where it was. One run at a time writes into it.
        executor: any `concurrent.futures.Executor`, a `ProcessPoolExecutor` of "spawn" say, that
            computes the blocks, each on one thread; None for this process. It takes the study
            pickled, with its data.
        sinks: in place of a store, (job name, job) -> where the job's blocks go.
        progress, time_limit: see `RunOptions`; a study has no time limit unless it is given one.
        parameters: of the campaign, as with `--set`.

    Returns:
        A tree with one child a study: `errors`, `order`, `flow_errors`, `flow_order`, all
        ensembles, and the explanation in its attributes.

    Example:
        >>> from dataclasses import replace
        >>> from sdeverify.testing.faults import correct_studies
        >>> study = replace(correct_studies()["sgd"], replicas=256)
        >>> results = sv.run(study)["sgd"]
        >>> sorted(results)[-3:], results["errors"]["error"].dims
        (['flow_order', 'order', 'path_0'], ('rung', 'step', 'observable'))
    """
    campaign = as_campaign(study)
    studies = campaign.studies(**parameters)
    jobs = campaign_jobs(studies)
    place = None if store is None else _store(store)
    if place is not None and sinks is not None:
        raise InvalidInputError("store and sinks exclude each other; got both. Leave one out.")
    sink = sinks if place is None else place.sink
    tally = Tally(jobs, progress_of(progress))
    pool, compute = _pooled(executor, studies, jobs, tally)
    with nullcontext() if place is None else place.locked():
        into = {} if sink is None else {name: sink(name, job) for name, job in jobs.items()}
        check_time(jobs, time_limit)
        datasets = run_blocks(jobs, into, compute, pool, tally)
        tree = assemble(campaign, studies, datasets, parameters)
        if place is not None:
            place.write_tree(tree)
    return tree


@dataclass(frozen=True)
class PickledStudies:
    """Studies on their way to other processes, functions in them included."""

    pickle: bytes

    @staticmethod
    def of(studies: Sequence[Part]) -> PickledStudies:
        """Pickles them.

        Raises:
            InvalidInputError: something in them cannot be pickled.
        """
        try:
            return PickledStudies(cloudpickle.dumps(studies))
        except Exception as error:
            raise InvalidInputError(
                f"this study cannot be sent to the executor's processes: {type(error).__name__}: "
                f"{error}. Leave executor out, or put the study into a file for --workers, which "
                "each process reads for itself."
            ) from error

    @property
    def jobs(self) -> dict[str, Job]:
        """The ensembles by name."""
        return campaign_jobs(cloudpickle.loads(self.pickle))


def _pooled(
    executor: object, studies: Sequence[Part], jobs: Mapping[str, Job], tally: Tally
) -> tuple[Pool, Compute]:
    """Where blocks are computed, and by what."""
    if executor is None:
        return HERE, Local(jobs, tally.within)
    if not isinstance(executor, Executor):
        raise InvalidInputError(
            f"an executor is a concurrent.futures.Executor; got an object of type "
            f"{type(executor).__name__}. Of a dask client it is client.get_executor()."
        )
    return Lent(executor), Remote(PickledStudies.of(studies), torch.get_default_dtype())


def _store(store: object) -> Store:
    from sdeverify.study.store import Store

    if isinstance(store, Store):
        return store
    if isinstance(store, str | os.PathLike):
        return Store(store)
    raise InvalidInputError(
        f"a store is a sv.Store or the path of its folder; got an object of type "
        f"{type(store).__name__}. Functions that give sinks are sinks=..."
    )
