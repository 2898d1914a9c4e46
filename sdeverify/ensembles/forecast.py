"""How long ensembles will take, told before their work by trials of few replicas and one step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from sdeverify.base.rng import Block
from sdeverify.ensembles.job import Job
from sdeverify.ensembles.observables import Observable
from sdeverify.ensembles.progress import duration
from sdeverify.errors import InvalidInputError

TRIFLE = 1e8
"""Numbers in all gradients of an ensemble up to which it counts as done at once."""
ENOUGH = 0.05
"""Seconds that a trial lasts, at least, before its replicas count as typical."""
FEW, MORE = 8, 32
"""Samples of the two gradients whose difference is the first guess."""
CLEARLY = 4
"""A guess so many times beyond the limit is not looked into further."""

REPEATS, SURE = 2, 1.0
"""Trials of less than `SURE` seconds are repeated, since other processes may disturb them."""

T = TypeVar("T")

_NOTHING = [Observable("nothing", lambda state: state.theta[:, 0])]


@dataclass(frozen=True)
class Forecast:
    """The seconds that ensembles take, each told by its name.

    Attributes:
        stepping: of their steps.
        observing: of their observables.
    """

    stepping: Mapping[str, float]
    observing: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """All together."""
        return sum(self.stepping.values()) + sum(self.observing.values())

    @property
    def time(self) -> str:
        """All together, in words."""
        return duration(self.seconds)

    def __str__(self) -> str:
        parts = {**self.stepping, "observables": sum(self.observing.values())}
        told = [f"{name} {duration(s)}" for name, s in parts.items() if s > 0.05 * self.seconds]
        return f"about {self.time} ({', '.join(told)})"

    def check(self, limit: float | None, remedy: str) -> None:
        """Refuses what takes longer than a limit in seconds.

        Args:
            remedy: what would make it affordable.

        Raises:
            InvalidInputError: with the time it would take.
        """
        if limit is not None and self.seconds > limit:
            raise InvalidInputError(
                f"this would take {self}, more than time_limit={limit:g} seconds. {remedy} Or "
                "give a longer time_limit, in seconds; None for no limit."
            )


def check_time(jobs: Mapping[str, Job], limit: float | None) -> None:
    """Refuses jobs that take longer than a limit in seconds, before their work."""
    if limit is not None:
        forecast(jobs, limit).check(limit, REMEDY)


REMEDY = "Take fewer replicas or steps, fewer observables, or a problem with compiled=True."


def forecast(jobs: Mapping[str, Job], limit: float | None = None) -> Forecast:
    """The time that jobs take in this process, from trials that take a second or so.

    Of each side the costliest job is tried; the others' times follow by their counts of gradients.
    Where a first guess is far beyond a limit no trial follows: it tells the order of magnitude.
    """
    real = {name: job for name, job in jobs.items() if _numbers(job) > TRIFLE}
    costliest: dict[str, str] = {}
    for name in sorted(real, key=lambda name: real[name].replica_cost):
        costliest[real[name].side] = name
    none = dict.fromkeys(real, 0.0)

    def spread(measure: Callable[[Job], float]) -> dict[str, float]:
        """Seconds of one replica of each costliest job, for all replicas of all jobs."""
        each = {side: measure(real[name]) for side, name in costliest.items()}
        return {
            name: each[job.side]
            * job.replicas
            * (job.replica_cost / real[costliest[job.side]].replica_cost)
            for name, job in real.items()
        }

    far = math.inf if limit is None else CLEARLY * limit
    guess = spread(_guess)
    if sum(guess.values()) > far:
        return Forecast(guess, none)
    stepping = spread(_stepping)
    if sum(stepping.values()) > far:
        return Forecast(stepping, none)
    observing = {
        name: seconds * job.replicas
        for side, first in costliest.items()
        for seconds in [_observing(real[first])]
        for name, job in real.items()
        if job.side == side
    }
    return Forecast(stepping, observing)


def _numbers(job: Job) -> float:
    """In all gradients of an ensemble, its observables' among them."""
    if job.work is None:
        return 0.0
    problem = job.work.problem
    each = job.work.gradients + len(job.steps) * max(1, len(job.substeps)) * problem.samples
    return each * job.replicas * problem.dim


def _guess(job: Job) -> float:
    """Seconds of one replica's steps, by what some samples more cost in one gradient."""
    assert job.work is not None
    work, problem = job.work, job.work.problem
    few, more = min(FEW, problem.samples - 1), min(MORE, problem.samples)

    def gradient(samples: int) -> None:
        theta = work.point.reshape(1, -1)
        weights = theta.new_full((1, samples), 1 / samples)
        chosen = torch.arange(samples, device=theta.device).unsqueeze(0)
        find = problem.weighted_moments if work.moments else problem.weighted_gradient
        float(find(theta, weights, chosen)[0].sum())

    if problem.compiled or few < 1:
        return 0.0
    gradient(few)
    timed = partial(_undisturbed, lambda samples: _timed(partial(gradient, samples)))
    difference = timed(more) - timed(few)
    return max(0.0, difference / (more - few) * work.gradients)


def _stepping(job: Job) -> float:
    """Seconds of one replica's steps."""
    assert job.work is not None
    stretch, steps = job.work.stretch, float(job.steps[-1])
    if steps == 0:
        return 0.0

    def move(block: Block) -> float:
        trajectory = job.trajectory(block, (0.0, stretch), _NOTHING)
        next(trajectory)
        return _timed(lambda: next(trajectory))

    return _of_one(job, move) * steps / stretch


def _observing(job: Job) -> float:
    """Seconds of one replica's observables."""

    def look(block: Block) -> float:
        return _timed(lambda: next(job.trajectory(block, (0.0,), job.observables)))

    return _of_one(job, look) * len(job.steps)


def _of_one(job: Job, trial: Callable[[Block], float]) -> float:
    """Seconds of one replica among so many that a trial takes a while, after one to warm up."""
    compiled = job.work is not None and job.work.problem.compiled
    with job.within_budget(job.blocks[0].size) as most:
        size = most if compiled else 1
        trial(Block(0, size))
        seconds = _undisturbed(trial, Block(0, size))
        while seconds < ENOUGH and size < most:
            size = min(4 * size, most)
            seconds = _undisturbed(trial, Block(0, size))
    return seconds / size


def _undisturbed(trial: Callable[[T], float], argument: T) -> float:
    """The least of a few trials, where they are so short that another process can disturb one."""
    seconds = trial(argument)
    for _ in range(REPEATS):
        if seconds < SURE:
            seconds = min(seconds, trial(argument))
    return seconds


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
