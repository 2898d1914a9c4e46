"""What is asked for: a study, its parameters, how it is computed and where its results go."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdeverify.base.arguments import memory_budget
from sdeverify.errors import InvalidInputError
from sdeverify.study.files import (
    explained,
    find_study,
    load_campaign,
    study_name,
    study_text,
)
from sdeverify.study.settings import parse_settings

if TYPE_CHECKING:
    from sdeverify.ensembles.job import Job
    from sdeverify.study.campaign import Campaign

MOST_WORKERS = 8


@dataclass(frozen=True)
class Request:
    """A study as it is asked for; its file is executed once.

    Args:
        source: a study file, a folder with a `study.py`, or a name under `studies`.
        settings: parameters of the study's `build`, each a text "name=value".
        seed, device: the parameters of these names, where `build` has them. A study without a
            parameter `seed` has it added to the seeds of its comparisons.
        output: the folder of the results; results/STUDY unless given.
        workers: processes of one thread; one a core, at most `MOST_WORKERS`, unless given, and
            one on a GPU.
        memory: what all workers together may hold beyond libraries and data, as in `sv.solve`.
        sde_only: leave out the discrete runs and the check of sub-sampling.
        executor: a cluster in the place of workers, see `cluster`.
        text: the study file's text, where the file may not be at hand.
    """

    source: str
    settings: tuple[str, ...] = ()
    seed: int | None = None
    device: str | None = None
    output: str | None = None
    workers: int | None = None
    memory: int | str | None = None
    sde_only: bool = False
    executor: str | None = None
    text: str | None = None

    @cached_property
    def file(self) -> Path:
        """The study file.

        Raises:
            InvalidInputError: there is none.
        """
        return find_study(self.source) if self.text is None else Path(self.source)

    @cached_property
    def code(self) -> str:
        """The file's text, which is read once.

        Raises:
            InvalidInputError: it cannot be read.
        """
        return study_text(self.file) if self.text is None else self.text

    @cached_property
    def campaign(self) -> Campaign:
        """What the file sets as its `STUDY`.

        Raises:
            SdeverifyError: the file is refused, or its own code fails.
        """
        return load_campaign(self.file, self.code)

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The parameters that are set, by `settings`, `seed` or `device`.

        Raises:
            InvalidInputError: one is unknown, of another type, or given twice.
        """
        defaults = self.campaign.defaults
        parameters = parse_settings(defaults, self.settings)
        options = {"seed": self.seed, "device": self.device}
        named = {k: v for k, v in options.items() if v is not None and k in defaults}
        for name, value in named.items():
            if parameters.get(name, value) != value:
                raise InvalidInputError(f"{name} is given twice, by --{name} and by --set.")
        if self.device is not None and "device" not in defaults:
            raise InvalidInputError(
                f"the study '{self.campaign.name}' has no parameter 'device'; it runs where its "
                "file says. Give its build(...) the parameter, or leave --device out."
            )
        return {**parameters, **named}

    @cached_property
    def studies(self) -> list[Any]:
        """The studies for these parameters.

        Raises:
            SdeverifyError: a parameter is refused, or the study's own code fails.
        """
        from sdeverify.base.devices import check_device

        check_device(self._device)
        where = f"{self.file}, building the study"
        studies: list[Any] = explained(where, self.campaign.studies, **self.parameters)
        if self.seed is None or "seed" in self.campaign.defaults:
            return studies
        return [replace(study, seed=study.seed + self.seed) for study in studies]

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """The ensembles to compute, within their memory.

        Raises:
            SdeverifyError: the study is refused.
        """
        from sdeverify.study.campaign import campaign_jobs

        where = f"{self.file}, preparing the runs"
        studies = [s.solving() for s in self.studies] if self.sde_only else self.studies
        jobs: dict[str, Job] = explained(where, campaign_jobs, studies)
        if self.sde_only:
            jobs = {name: job for name, job in jobs.items() if job.side in ("path", "flow")}
        return {name: job.within(self.memory_of_one) for name, job in jobs.items()}

    @property
    def portable(self) -> Request:
        """The same ensembles asked for from elsewhere, without a file."""
        place, workers = str(self.file.absolute()), self.processes
        return replace(self, source=place, text=self.code, output=None, workers=workers)

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return Path("results") / study_name(self.file) if self.output is None else Path(self.output)

    @property
    def processes(self) -> int:
        """How many processes compute."""
        if self.workers is not None or self.executor is not None:
            return self.workers or 1
        return _cores() if str(self._device or "cpu").startswith("cpu") else 1

    @property
    def memory_of_one(self) -> int | None:
        """One process's part of the budget in bytes.

        Raises:
            InvalidInputError: it is less than a byte each.
        """
        if self.memory is None:
            return None
        part = memory_budget(self.memory) // self.processes
        if not part:
            raise InvalidInputError(
                f"a memory of {self.memory} bytes is too little for {self.processes} workers; give "
                "more memory or fewer workers."
            )
        return part

    @property
    def command(self) -> str:
        """The command that makes the same results, whatever verb was typed."""
        words = ["sdeverify", "report", self.source]
        words += [word for setting in self.settings for word in ("--set", setting)]
        words += ["--device", self.device] if self.device is not None else []
        words += ["--seed", str(self.seed)] if self.seed is not None else []
        return shlex.join(words)

    @property
    def _device(self) -> Any:
        return self.parameters.get("device", self.campaign.defaults.get("device"))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    return min(os.cpu_count() or 1, MOST_WORKERS)
