"""The three routes that a fault is put through: one-step moments, exact weak errors, sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from sdeverify.analysis import estimate_order, overall_verdict, weak_error
from sdeverify.analysis.datasets.axes import STEP
from sdeverify.analysis.verdict import REFUTED
from sdeverify.ensembles.build import chain_job, path_job
from sdeverify.ensembles.job import run_job
from sdeverify.ensembles.options import Run
from sdeverify.errors import SdeverifyError
from sdeverify.sdes import GradientFlow, GradientSDE
from sdeverify.study.certify import certified_order, exact_chains, one_step_order
from sdeverify.study.study import Study
from sdeverify.testing.faults.fault import Fault

BLOCK = 8192
REFUSED = "refused"


@dataclass(frozen=True)
class Finding:
    """What one route says of a study.

    Attributes:
        verdict: "supported", "refuted", "inconclusive", or "refused" where the route does not
            accept the study; `text` says why.
        slope: local slope of log |error| at the two finest rungs, of the observable that decided.
        order, low, high: the order there, with its interval.
        text: one sentence.
    """

    verdict: str
    slope: float
    order: float
    low: float
    high: float
    text: str

    @property
    def rejects(self) -> bool:
        """Whether the study does not pass."""
        return self.verdict in (REFUTED, REFUSED)


def finding(orders: xr.Dataset, flow: xr.Dataset | None = None) -> Finding:
    """The overall verdict of an order dataset, and the fit that decided it.

    Args:
        flow: the orders against gradient flow, which support has to refute.
    """
    verdict = overall_verdict(orders, flow=flow)
    one = orders.stack(fit=("observable", STEP)).isel(fit=verdict.deciding)
    slope = float(one["local_slope"].values[-1])
    order, low, high = (float(one[n]) for n in ("order", "order_low", "order_high"))
    return Finding(verdict.verdict, slope, order, low, high, verdict.text)


def guarded(route: Callable[[], xr.Dataset]) -> Finding:
    """The finding of a route; a refusal is one too."""
    try:
        return finding(route())
    except SdeverifyError as error:
        return refusal(error)


def refusal(error: SdeverifyError) -> Finding:
    """The finding of a route that does not accept the study."""
    return Finding(REFUSED, np.nan, np.nan, np.nan, np.nan, str(error))


def judged(errors: xr.Dataset, flow: xr.Dataset) -> Finding:
    """The finding of sampled ladders of errors, against the SDE and against gradient flow."""
    return finding(estimate_order(errors), estimate_order(flow))


def sampled_chains(study: Study) -> list[xr.Dataset]:
    """The discrete ensemble of every rung."""
    run = Run.checked(replicas=study.replicas, seed=study.seed, block_size=BLOCK)
    common = (study.start, study.steps, study.observables)
    return [
        run_job(chain_job(rung.optimizer, rung.oracle, *common, run.at(i)))
        for i, rung in enumerate(study.rungs())
    ]


def sampled_ladders(
    study: Study, chains: Sequence[xr.Dataset] | None = None
) -> tuple[xr.Dataset, xr.Dataset]:
    """The weak errors of a study's ladder by Monte Carlo, against its SDE and against its flow.

    Args:
        chains: from `sampled_chains`, where several SDEs are compared with one optimizer.
    """
    sdes, belongs = study.sdes()
    ensembles = sampled_chains(study) if chains is None else chains

    def against(each: Sequence[GradientSDE], replicas: int) -> xr.Dataset:
        run = Run.checked(replicas=replicas, seed=study.seed, block_size=BLOCK)
        common = (study.start, study.steps, study.observables, run)
        paths = [run_job(path_job(sde, *common, substeps=study.substeps)) for sde in each]
        errors = [weak_error(c, paths[j]) for c, j in zip(ensembles, belongs, strict=True)]
        return study.along_ladder(errors)

    flows = [GradientFlow.without_noise(sde) for sde in sdes]
    return against(sdes, study.path_replicas or study.replicas), against(flows, 2)


class Routes:
    """The routes, with the discrete sides of correct studies kept for all their faults."""

    def __init__(self) -> None:
        self._exact: dict[str, list[xr.Dataset]] = {}
        self._sampled: dict[str, list[xr.Dataset]] = {}

    def one_step(self, fault: Fault) -> Finding:
        """By one-step moments at the start."""
        return guarded(lambda: one_step_order(fault.study))

    def exact(self, fault: Fault) -> Finding:
        """By exact weak errors."""

        def order() -> xr.Dataset:
            if not fault.keeps_chain:
                return certified_order(fault.study)
            name = fault.correct.name
            if name not in self._exact:
                self._exact[name] = exact_chains(fault.correct)
            return certified_order(fault.study, chains=self._exact[name])

        return guarded(order)

    def sampled(self, fault: Fault) -> Finding:
        """By Monte Carlo."""
        try:
            return judged(*self.sampled_ladders(fault))
        except SdeverifyError as error:
            return refusal(error)

    def sampled_ladders(self, fault: Fault) -> tuple[xr.Dataset, xr.Dataset]:
        """What the Monte Carlo route judges, see `sampled_ladders`."""
        if not fault.keeps_chain:
            return sampled_ladders(fault.study)
        name = fault.correct.name
        if name not in self._sampled:
            self._sampled[name] = sampled_chains(fault.correct)
        return sampled_ladders(fault.study, self._sampled[name])


def unchanged(study: Study) -> Fault:
    """A correct study in the form of a fault that changes nothing."""
    return Fault(study.name, "nothing: the correct SDE", study)
