"""Certificates without sampling: a study's ladder by the exact route, and by one-step moments."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from sdeverify.analysis import estimate_order
from sdeverify.ensembles.progress import Progress, progress_of
from sdeverify.exact.consistency import consistency
from sdeverify.exact.spectral.checks import Domain
from sdeverify.exact.spectral.domain import Axis, Moving, Periodic, Positive
from sdeverify.exact.spectral.refinement import accuracy_to_resolve, better
from sdeverify.exact.spectral.spectral import exact_continuous, exact_difference, exact_discrete
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.derive import derive
from sdeverify.optimizers.ladders import Rung
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.sdes import GradientFlow, GradientSDE
from sdeverify.study.campaign import Campaign, as_campaign, rooted, weak_error_studies
from sdeverify.study.study import Study


def certify(
    study: Campaign | Study,
    domain: Domain | None = None,
    progress: Progress | bool | None = None,
    **parameters: Any,
) -> xr.DataTree:
    """The results of a study without sampling: the tree that `run` gives, with bounds for errors.

    `write_report` makes the same report of it.

    Args:
        study: all its states with up to three dimensions, and noise with atoms.
        domain: an axis for each component of the state; `default_domain` of each study unless
            given.
        progress: called with a study's name, its sides that are computed, and all of them;
            True prints.
        parameters: of the campaign, as with `--set`.

    Returns:
        A tree with one child a study, see `certify_study`.

    Raises:
        InvalidInputError, UnsupportedError: the exact route cannot take this study; it says why.

    Example:
        >>> from sdeverify.testing.faults import correct_studies
        >>> parts = sv.certify(correct_studies()["sgd"])["sgd"]
        >>> parts["order"]["order"][:, -1].values.round(1)
        array([1., 1.])
    """
    campaign = as_campaign(study)
    studies = weak_error_studies(campaign.name, campaign.studies(**parameters))
    children = {each.name: certify_study(each, domain, progress) for each in studies}
    return rooted(campaign, children, parameters)


def certify_study(
    study: Study,
    domain: Domain | None = None,
    progress: Progress | bool | None = None,
) -> xr.DataTree:
    """The whole ladder of one study without sampling: exact weak errors and their order.

    Both sides are expectations on spectral grids of the optimizer's step and of the SDE's drift and
    diffusion as coded (`sdeverify.exact`), with a bound on the numerical error.

    Args:
        study: with up to three state dimensions, and noise with atoms.
        domain: an axis for each component of the state; `default_domain` unless given.
        progress: see `certify`.

    Returns:
        A tree with the groups of a study's results by Monte Carlo: `errors`, `order`,
        `flow_errors`, `flow_order`, and every side by its name; standard errors are 0.

    Raises:
        InvalidInputError, UnsupportedError: the exact route cannot take this study; it says why.
    """
    began = time.perf_counter()
    axes = default_domain(study) if domain is None else domain
    rungs, (sdes, belongs) = study.rungs(), study.sdes()
    groups: dict[str, xr.Dataset] = {}
    report, sides = progress_of(progress), len(rungs) + 2 * len(sdes)
    report(study.name, 0, sides)

    def done(name: str, side: xr.Dataset) -> None:
        groups[name] = side
        report(study.name, len(groups), sides)

    for i, sde in enumerate(sdes):
        flow = GradientFlow.without_noise(sde)
        done(f"path_{i}", exact_path(study, sde, axes))
        done(f"flow_{i}", exact_path(study, flow, axes))
    for i, rung in enumerate(rungs):
        done(f"chain_{i}", exact_chain(study, rung, axes))
    resolve(study, axes, groups)
    for kind, errors in (("flow", "flow_errors"), ("path", "errors")):
        groups[errors] = study.along_ladder(differences(groups, kind, belongs))
    groups["flow_order"] = estimate_order(groups["flow_errors"])
    groups["order"] = estimate_order(groups["errors"], flow=groups["flow_order"])
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {**_attrs(study, sdes[0]), "seconds": time.perf_counter() - began}
    return tree


def exact_path(
    study: Study, sde: GradientSDE, domain: Domain, accuracy: float | None = None
) -> xr.Dataset:
    """One SDE of a study by the exact route."""
    return exact_continuous(sde, study.start, study.steps, study.observables, domain, accuracy)


def exact_chain(
    study: Study, rung: Rung, domain: Domain, accuracy: float | None = None
) -> xr.Dataset:
    """The discrete side of one rung by the exact route."""
    sides = rung.optimizer, rung.oracle
    return exact_discrete(*sides, study.start, study.steps, study.observables, domain, accuracy)


def differences(
    sides: Mapping[str, xr.Dataset], kind: str, belongs: Sequence[int]
) -> list[xr.Dataset]:
    """The weak errors of all rungs, each against its own "path" or "flow"."""
    return [
        exact_difference(sides[f"chain_{i}"], sides[f"{kind}_{j}"]) for i, j in enumerate(belongs)
    ]


def exact_chains(study: Study, domain: Domain | None = None) -> list[xr.Dataset]:
    """The discrete side of every rung by the exact route."""
    axes = default_domain(study) if domain is None else domain
    return [exact_chain(study, rung, axes) for rung in study.rungs()]


def certified_order(
    study: Study, domain: Domain | None = None, chains: Sequence[xr.Dataset] | None = None
) -> xr.Dataset:
    """The orders of a study's SDE by the exact route, with gradient flow for their control.

    Args:
        chains: from `exact_chains`, where several SDEs are compared with one optimizer.
    """
    axes = default_domain(study) if domain is None else domain
    sdes, belongs = study.sdes()
    chains = exact_chains(study, axes) if chains is None else chains
    sides = {f"chain_{i}": chain for i, chain in enumerate(chains)}
    for i, sde in enumerate(sdes):
        sides[f"path_{i}"] = exact_path(study, sde, axes)
        sides[f"flow_{i}"] = exact_path(study, GradientFlow.without_noise(sde), axes)
    resolve(study, axes, sides)
    errors, flow = (study.along_ladder(differences(sides, k, belongs)) for k in ("path", "flow"))
    return estimate_order(errors, flow=estimate_order(flow))


def resolve(study: Study, domain: Domain, sides: dict[str, xr.Dataset]) -> None:
    """Computes sides again, in place, where a weak error is not resolved yet and can be."""
    sdes, belongs = study.sdes()
    wanted = accuracy_to_resolve(differences(sides, "path", belongs))
    if wanted is None:
        return
    again = {f"path_{i}": partial(exact_path, study, sde, domain) for i, sde in enumerate(sdes)}
    for i, rung in enumerate(study.rungs()):
        again[f"chain_{i}"] = partial(exact_chain, study, rung, domain)
    for name, compute in again.items():
        sides[name] = better(sides[name], compute, wanted)


def one_step_order(study: Study) -> xr.Dataset:
    """The orders of one-step moments at a study's start, along a finer ladder of its kind.

    It takes a second in any dimension and refutes every SDE whose drift, noise or clock is wrong
    there; it says nothing about the size of weak errors at the study's own steps.

    Returns:
        `estimate_order`'s dataset with the moments for observables, see `consistency`.
    """

    def sde(optimizer: Optimizer, oracle: GradientOracle) -> GradientSDE:
        return derive(optimizer, oracle, study.sde, **study.sde_options)

    def flow(optimizer: Optimizer, oracle: GradientOracle) -> GradientSDE:
        return GradientFlow.without_noise(sde(optimizer, oracle))

    fine, claimed = study.ladder.fine(study.optimizer), study.claimed_order
    errors, control = (
        consistency(
            study.optimizer, study.oracle, each, study.start, ladder=fine, claimed_order=claimed
        )
        for each in (sde, flow)
    )
    return estimate_order(errors, flow=estimate_order(control))


def default_domain(study: Study) -> Domain:
    """Periodic where the problem gives a period of theta, a box that follows it elsewhere.

    Weight decay has no period, so with it theta lives on the line.
    """
    hyperparameters = study.optimizer.hyperparameters
    decays = any(
        "decay" in name and np.any(np.asarray(value)) for name, value in hyperparameters.items()
    )
    periods = getattr(study.oracle.problem, "periods", (None,) * study.oracle.dim)
    components = study.optimizer.sde_components
    axes: list[Axis] = [
        Moving() if period is None or decays else Periodic(length=period) for period in periods
    ]
    others = {n: Positive() if n == "u" else Moving() for n in components[1:]}
    return {"theta": axes, **others}


def _attrs(study: Study, sde: GradientSDE) -> dict[str, Any]:
    return {
        "title": study.title,
        "claimed_order": study.claimed_order,
        **study.ladder.attributes,
        "description": json.dumps(asdict(sde.description)),
        "start_note": study.start_note,
        "outside_theorem": json.dumps([o.name for o in study.observables if not o.smooth]),
        "route": "exact",
    }
