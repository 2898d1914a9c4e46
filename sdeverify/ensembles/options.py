"""How ensembles are run: the options that all public functions share, their defaults and checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from sdeverify.base.arguments import memory_budget, number, unknown_names, whole
from sdeverify.base.rng import derived_seed
from sdeverify.ensembles.job import Sink
from sdeverify.ensembles.progress import Progress, progress_of, silent
from sdeverify.errors import InvalidInputError

BLOCK_SIZE = 128
TIME_LIMIT = 3600.0
"""Seconds that one call computes, unless it is told otherwise."""
MOST_REPLICAS = 10**9
_COUNTS = ("replicas", "seed", "block_size")


class RunOptions(TypedDict, total=False):
    """How ensembles are run, by keyword; `Run` has the defaults.

    replicas: size of each ensemble, 2 or more.
    seed: all random numbers follow from it, however the work is cut.
    block_size: replicas in a block, the unit of work; part of the seed's meaning.
    memory: what the call may hold beyond what is there already (data, libraries), in bytes or as a
        text, "2GB". Replicas and samples are cut to fit, which changes the results by no more than
        rounding.
    progress: called with (ensemble's name, replicas done, replicas in all) before an ensemble,
        between its steps and after each of its blocks; True prints a line on stderr; None does so
        on a terminal, for what takes more than a moment.
    time_limit: seconds that the work may take by a forecast, which comes from a trial of a second
        or so before it; None for no limit and no trial.
    """

    replicas: int
    seed: int
    block_size: int
    memory: int | str | None
    progress: Progress | bool | None
    time_limit: float | None


class EnsembleOptions(RunOptions, total=False):
    """`RunOptions`, and what a single ensemble has besides.

    keep_replicas: also keep every replica's values.
    sink: where blocks go as they come; with it a stopped run goes on where it was.
    """

    keep_replicas: bool
    sink: Sink | None


@dataclass(frozen=True)
class Run:
    """The options of `RunOptions` and `EnsembleOptions` with their defaults, checked."""

    replicas: int = 1024
    seed: int = 0
    block_size: int = BLOCK_SIZE
    memory: int | None = None
    progress: Progress = field(default=silent, compare=False)
    time_limit: float | None = TIME_LIMIT
    keep_replicas: bool = False
    sink: Sink | None = None

    @classmethod
    def of(
        cls,
        options: Mapping[str, Any],
        caller: Callable[..., Any],
        kind: type[RunOptions] = RunOptions,
    ) -> Run:
        """The options that a caller was given.

        Raises:
            InvalidInputError: an option that the caller does not have, or a bad value.
        """
        names = [*inspect.signature(caller).parameters, *kind.__annotations__]
        known = [name for name in names if name != "options"]
        unknown_names(options, kind.__annotations__, known, f"{caller.__name__}(...)", "option")
        return cls.checked(**options)

    @classmethod
    def checked(cls, **options: Any) -> Run:
        """The options, whole numbers as such and a budget in bytes.

        Raises:
            InvalidInputError: a bad value.
        """
        memory = options.get("memory")
        counts = {n: whole(options[n], n) for n in _COUNTS if n in options}
        limit = options.get("time_limit", TIME_LIMIT)
        fitting = {
            "time_limit": None if limit is None else number(limit, "time_limit"),
            "memory": None if memory is None else memory_budget(memory),
            "progress": progress_of(options.get("progress")),
        }
        run = cls(**{**options, **counts, **fitting})
        if not 2 <= run.replicas <= MOST_REPLICAS:
            raise InvalidInputError(
                f"an ensemble has at least 2 replicas, at most {MOST_REPLICAS:,}; got "
                f"{run.replicas:,}."
            )
        if run.block_size < 1:
            raise InvalidInputError(
                f"a block has at least 1 replica; got block_size={run.block_size}."
            )
        return run

    def of_size(self, replicas: int) -> Run:
        """The same for an ensemble of another size."""
        return replace(self, replicas=Run.checked(replicas=replicas).replicas)

    def named(self, *key: str) -> Run:
        """The options with a seed of their own, which follows from the seed and a name."""
        return replace(self, seed=derived_seed(self.seed, *key))

    def at(self, place: int) -> Run:
        """The options of a call's ensemble number `place`: each has a seed of its own."""
        return replace(self, seed=self.seed + place)
