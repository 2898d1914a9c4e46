"""Computing a study that was asked for into its store, and assembling its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
import xarray as xr

from sdeverify.base.devices import one_thread
from sdeverify.ensembles.job import Job
from sdeverify.ensembles.progress import Progress, silent
from sdeverify.study.campaign import assemble
from sdeverify.study.engine import HERE, Compute, Local, Pool, Remote, Tally, run_blocks
from sdeverify.study.pools import Processes, cluster
from sdeverify.study.request import Request
from sdeverify.study.store import Store

Shown = Callable[[Mapping[str, Job]], AbstractContextManager[Progress]]
"""What shows how far the ensembles are, for as long as the context lasts."""


def unseen(jobs: Mapping[str, Job]) -> AbstractContextManager[Progress]:
    """Shows nothing."""
    return nullcontext(silent)


def run_campaign(request: Request, shown: Shown = unseen) -> xr.DataTree:
    """Computes what is missing of a study and gives all its results, which the store keeps too.

    The numbers are the same, to the last bit, for every number of workers, and whether the run
    was stopped in between or not.

    Raises:
        SdeverifyError: the study, its parameters or the store are refused, or blocks fail.
    """
    datasets = compute(request, shown)
    with one_thread():
        tree = assemble(request.campaign, request.studies, datasets, request.parameters)
    tree.attrs["command"] = request.command
    Store(request.folder).write_tree(tree)
    return tree


def compute(request: Request, shown: Shown = unseen) -> dict[str, xr.Dataset]:
    """Computes what is missing, with the request's workers, and gives the ensembles.

    Raises:
        SdeverifyError: the study or the store is refused, or blocks fail.
    """
    with one_thread(), ExitStack() as stack:
        jobs = request.jobs
        store = Store(request.folder)
        stack.enter_context(store.locked())
        sinks = {name: store.sink(name, job) for name, job in jobs.items()}
        tally = Tally(jobs, stack.enter_context(shown(jobs)))
        pool: Pool = HERE
        work: Compute = Local(jobs, tally.within)
        if request.executor is not None:
            pool = stack.enter_context(cluster(request.executor))
        elif request.processes > 1:
            pool = Processes(request.processes)
        if pool is not HERE:
            work = Remote(request.portable, torch.get_default_dtype())
        return run_blocks(jobs, sinks, work, pool, tally)
