"""Cutting work: how a range is cut, and into what sizes."""

from __future__ import annotations

from sdeverify.base.shapes import Parameters

MIB = 1 << 20

# What stays in the cache of a CPU; all measured on small networks.
STATE_GROUP = 3 * MIB // 2
"""Bytes of one component's replicas that are stepped together."""
SIDE_BY_SIDE = 12 * MIB
"""Replicas go through a gradient side by side as long as what they save fits in here."""
SMALL_REPLICA = 2 * MIB
"""The same where the passes have more to do than to read what was saved."""
ONE_REPLICA = 16 * MIB
"""One replica's samples go through a gradient at once up to this size."""
PER_SAMPLE = 96 * MIB
"""The same where each sample's gradient is formed by autograd."""
MICROBATCH = 2 * MIB
"""What a compiled gradient of a chain of dense layers keeps at a time."""
PRODUCTS = 2 * MIB
"""Per-sample gradients of one layer that are formed at a time."""
WHOLE = 1 << 40
"""Everything at once."""

# What is held in memory where no budget is given, and how a budget is shared.
GRADIENTS = 1024 * MIB
"""A problem's temporaries."""
ENSEMBLE = 2048 * MIB
"""An ensemble's states and temporaries; then at least one replica is moved."""
OVERHEAD = 32 * MIB
"""Left to the allocator and to the libraries' own buffers."""
COMPILER = 128 * MIB
"""Left to torch's compiler where it is used (measured: about 90 MiB)."""
LEAST_GRADIENTS = 4 * MIB
"""The least that an ensemble leaves to its gradients' temporaries."""


def evenly(total: int, most: int, multiple: int = 1) -> list[slice]:
    """0, ..., `total` - 1 in the fewest runs of at most `most`, even but for the last.

    Args:
        multiple: lengths are rounded up to multiples of it, beyond `most` if need be.
    """
    parts = max(1, -(-total // max(most, 1)))
    each = -(-total // parts)
    each = max(1, -(-each // multiple)) * multiple
    return [slice(i, min(i + each, total)) for i in range(0, total, each)]


def groups_of(theta: Parameters, cache: int, together: int | None = None) -> list[slice]:
    """All replicas, cut into groups whose state stays in the cache; one where this is no CPU.

    No group has more than `together` replicas.
    """
    replicas, params = theta.shape
    size = params * theta.element_size()
    most = max(1, cache // max(size, 1)) if theta.is_cpu else replicas
    return evenly(replicas, min(most, together or most))
