"""From an optimizer and an oracle to the SDE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sdeverify.errors import UnsupportedError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.sdes.sde import GradientSDE

Derivation = Callable[..., GradientSDE]
"""(optimizer, oracle, **options) -> the SDE, in words of any class or function that says so."""


def derive(
    optimizer: Optimizer,
    oracle: GradientOracle,
    sde: type[GradientSDE] | Derivation | None = None,
    **options: Any,
) -> GradientSDE:
    """The SDE of an optimizer fed by an oracle, with this run's constants; print it to read it.

    Args:
        optimizer: ours, or from `optimizer_from_torch`.
        oracle: the gradient oracle that feeds the optimizer.
        sde: another SDE than the optimizer's own first-order one: a function
            (optimizer, oracle) -> SDE, or an SDE class, which stands for its `of`.
        options: passed on to it; `keep_signal=True` for RMSprop and Adam.

    Raises:
        UnsupportedError: no SDE covers this optimizer or this noise.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> print(sv.derive(sv.SGD(learning_rate=0.1), oracle))
        SGD, first-order SDE
            dθ = -∇f(θ) dt + √η σ Σ(θ)^(1/2) dW_t
        ...
        clock        t = k η; one optimizer step is 0.1 of SDE time
        ...
    """
    if not oracle.noise.independent_steps:
        raise UnsupportedError(
            f"no SDE is derived from {type(oracle.noise).__name__}: the SDEs model gradients that "
            "are independent from step to step. Derive it from MinibatchNoise (i.i.d. batches), "
            "and use the epochs on the discrete side only."
        )
    if sde is None:
        return optimizer.sde(oracle, **options)
    build: Derivation = getattr(sde, "of", sde)
    return build(optimizer, oracle, **options)
