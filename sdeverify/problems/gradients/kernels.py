"""A kernel computes sums over samples for some replicas; every way to a gradient is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sdeverify.base.cutting import ONE_REPLICA, WHOLE
from sdeverify.base.shapes import Tensor
from sdeverify.problems.gradients.chunks import Cost
from sdeverify.problems.gradients.samples import Batch

Sums = Callable[[Tensor, Tensor, Batch], tuple[Tensor, ...]]
"""(theta, weights, batch) -> sums over the batch, each `(replica, param)`.

A gradient is sum_i w_i g_i alone; moments are that, sum_i g_i and sum_i g_i^2.
"""


@dataclass(frozen=True)
class Kernel:
    """One way to compute a gradient or its moments, and what it holds meanwhile.

    Args:
        name: of the way.
        sums: what is computed.
        copies: size of what one pass holds, in units of what autograd saves for a backward pass.
        together: bytes of one replica up to which others at its side make it faster on a CPU.
        alone: bytes of one replica's samples that a CPU takes best at once.
        microbatch: bytes that its compiled form is to keep at a time on a CPU.
        per_sample: whether it forms each sample's gradient.
    """

    name: str
    sums: Sums
    copies: int
    together: int
    alone: int = ONE_REPLICA
    microbatch: int = WHOLE
    per_sample: bool = False

    def cost(self, saved: Cost, outputs: int) -> Cost:
        """Bytes of a chunk with so many sums; `saved` is what one backward pass keeps."""
        formed = saved.replica if self.per_sample else 0
        sample = saved.sample * self.copies + formed
        return Cost(outputs * saved.replica, sample, self.together, self.alone)
