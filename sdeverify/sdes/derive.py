"""From an optimizer and an oracle to the SDE."""

from __future__ import annotations

from typing import Any

from sdeverify.errors import UnsupportedError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.adam import Adam as DiscreteAdam
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.rmsprop import RMSprop as DiscreteRMSprop
from sdeverify.optimizers.sgd import SGD as DiscreteSGD
from sdeverify.optimizers.sgd import SGDMomentum as DiscreteMomentum
from sdeverify.sdes.adam import Adam
from sdeverify.sdes.rmsprop import RMSprop
from sdeverify.sdes.sde import GradientSDE
from sdeverify.sdes.sgd import SGDFirstOrder
from sdeverify.sdes.sgd_momentum import SGDMomentum

_FIRST_ORDER: tuple[tuple[type[Optimizer], type[GradientSDE]], ...] = (
    (DiscreteSGD, SGDFirstOrder),
    (DiscreteMomentum, SGDMomentum),
    (DiscreteRMSprop, RMSprop),
    (DiscreteAdam, Adam),
)


def default_sde(optimizer: Optimizer) -> Any:
    """The class of the first-order SDE that belongs to an optimizer."""
    for kind, sde in _FIRST_ORDER:
        if isinstance(optimizer, kind):
            return sde
    known = ", ".join(kind.__name__ for kind, _ in _FIRST_ORDER)
    raise UnsupportedError(
        f"no SDE is known for {type(optimizer).__name__}; there are SDEs for {known}. Pass "
        "sde=YourSDE, a GradientSDE with a method of(optimizer, oracle)."
    )


def derive(
    optimizer: Optimizer,
    oracle: GradientOracle,
    sde: type[GradientSDE] | None = None,
    **options: Any,
) -> GradientSDE:
    """The SDE of an optimizer fed by an oracle, with this run's constants; print it to read it.

    Args:
        optimizer: ours, or from `optimizer_from_torch`.
        oracle: the gradient oracle that feeds the optimizer.
        sde: another SDE class than the first-order one that belongs to the optimizer.
        options: passed on to the SDE's `of`; `keep_signal=True` for RMSprop and Adam.

    Raises:
        UnsupportedError: no SDE covers this optimizer or this noise.
    """
    if not oracle.noise.independent_steps:
        raise UnsupportedError(
            f"no SDE is derived from {type(oracle.noise).__name__}: the SDEs model gradients that "
            "are independent from step to step. Derive it from MinibatchNoise (i.i.d. batches), "
            "and use the epochs on the discrete side only."
        )
    kind: Any = default_sde(optimizer) if sde is None else sde
    derived: GradientSDE = kind.of(optimizer, oracle, **options)
    return derived
