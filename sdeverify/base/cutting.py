"""Replicas that are stepped together, so that their state stays in the cache."""

from __future__ import annotations

from sdeverify.base.shapes import Parameters

CACHE = 3 << 19
"""Bytes of one component's replicas that are stepped together on a CPU (measured on MLPs)."""


def groups_of(theta: Parameters, cache: int, together: int | None = None) -> list[slice]:
    """All replicas, evenly cut into groups that fit; one group where this is no CPU.

    No group has more than `together` replicas.
    """
    replicas, params = theta.shape
    size = params * theta.element_size()
    most = max(1, cache // max(size, 1)) if theta.is_cpu else replicas
    most = min(most, together or most)
    if replicas <= most:
        return [slice(0, replicas)]
    each = -(-replicas // -(-replicas // most))
    return [slice(i, min(i + each, replicas)) for i in range(0, replicas, each)]
