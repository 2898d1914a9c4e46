"""Where chains and paths start: u > 0 wherever there is noise."""

from __future__ import annotations

import logging

import torch

from sdeverify.oracle import GradientOracle
from sdeverify.state import State

logger = logging.getLogger(__name__)


def floor_u(state: State, oracle: GradientOracle) -> tuple[State, int]:
    """The state with u = diag Sigma(theta) wherever u = 0 though diag Sigma > 0, and their number.

    The adaptive SDEs need u > 0 where there is noise, and a coordinate that has not seen any yet
    (v = 0) would start them from a division by epsilon. Coordinates without noise keep u = 0. A
    state without u is returned as it came. The number is logged where it is not 0.

    Args:
        state: a point `(param,)` or an ensemble `(replica, param)`, whose replicas' coordinates
            are counted apart.
        oracle: gives diag Sigma.
    """
    if "u" not in state.components:
        return state, 0
    u = state.u
    empty = u == 0
    if not bool(empty.any()):
        return state, 0
    point = state.theta.reshape(1, -1) if state.theta.ndim == 1 else state.theta
    variance = oracle.variance(point).reshape(u.shape)
    empty = empty & (variance > 0)
    count = int(empty.sum())
    if count == 0:
        return state, 0
    logger.warning(
        "%d of %d coordinates have v = 0 though their gradient is noisy; they start from "
        "u = diag Sigma(theta)",
        count,
        u.numel(),
    )
    return State(state.step, **{**state.components, "u": torch.where(empty, variance, u)}), count
