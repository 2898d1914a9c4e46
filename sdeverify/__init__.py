"""sdeverify: does the SDE of your optimizer hold for your run?

Derive the SDE of a `torch.optim` optimizer, solve it with the exact covariance of the gradient
noise, measure the weak error against the optimizer and SVAG, and report its order.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "sdeverify.analysis": (
        "estimate_order",
        "ladder",
        "order_or_raise",
        "overall_verdict",
        "replicas_needed",
        "weak_error",
    ),
    "sdeverify.errors": (
        "InconclusiveError",
        "InvalidInputError",
        "SdeverifyError",
        "StoreError",
        "UnsupportedError",
    ),
    "sdeverify.noise": (
        "AmplifiedNoise",
        "GaussianNoise",
        "GaussianSurrogate",
        "MinibatchNoise",
        "Noise",
        "ShuffledEpochs",
    ),
    "sdeverify.noise_statistics": ("noise_statistics",),
    "sdeverify.observables": ("Observable",),
    "sdeverify.optimizers": ("SGD", "Adam", "Optimizer", "RMSprop", "SGDMomentum"),
    "sdeverify.optimizers.from_torch": ("optimizer_from_torch",),
    "sdeverify.optimizers.start": ("start_from_torch",),
    "sdeverify.oracle": ("GradientOracle",),
    "sdeverify.problems.module": ("ModuleProblem", "problem_from_module"),
    "sdeverify.problems.parameters": ("flatten_parameters",),
    "sdeverify.problems.problem": ("FunctionProblem", "Problem"),
    "sdeverify.report": ("write_report",),
    "sdeverify.scalings": ("Ladder", "LearningRates", "SvagLevels", "svag"),
    "sdeverify.sdes": ("SDE", "GradientFlow", "GradientSDE", "derive"),
    "sdeverify.simulate": ("simulate", "solve"),
    "sdeverify.state": ("State",),
    "sdeverify.store": ("Store",),
    "sdeverify.study": ("Campaign", "Study", "run"),
    "sdeverify.verify": ("verify",),
    "sdeverify.warm_up": ("warm_up",),
}
_MODULES = ("measures", "sdes", "testing")
_WHERE = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_WHERE, *_MODULES])

if TYPE_CHECKING:
    from sdeverify import measures, sdes
    from sdeverify.analysis import (
        estimate_order,
        ladder,
        order_or_raise,
        overall_verdict,
        replicas_needed,
        weak_error,
    )
    from sdeverify.errors import (
        InconclusiveError,
        InvalidInputError,
        SdeverifyError,
        StoreError,
        UnsupportedError,
    )
    from sdeverify.noise import (
        AmplifiedNoise,
        GaussianNoise,
        GaussianSurrogate,
        MinibatchNoise,
        Noise,
        ShuffledEpochs,
    )
    from sdeverify.observables import Observable
    from sdeverify.optimizers import SGD, Adam, Optimizer, RMSprop, SGDMomentum
    from sdeverify.oracle import GradientOracle
    from sdeverify.problems.problem import FunctionProblem, Problem
    from sdeverify.scalings import Ladder, LearningRates, SvagLevels, svag
    from sdeverify.sdes import SDE, GradientFlow, GradientSDE, derive
    from sdeverify.simulate import simulate, solve
    from sdeverify.state import State
    from sdeverify.study import Campaign, Study, run
    from sdeverify.warm_up import warm_up


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that the command line starts at once."""
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"sdeverify.{name}")
    else:
        raise AttributeError(f"module 'sdeverify' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
