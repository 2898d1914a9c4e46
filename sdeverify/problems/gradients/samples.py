"""The data of a problem: inputs and targets, with the sample as leading dimension."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from sdeverify.base.shapes import Indices, Tensor

NetInputs = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
"""What a net is called with: `net(x)`, `net(*x)` or `net(**x)`."""


class Data(NamedTuple):
    """Some samples: positional and keyword arguments of the net, and targets."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]
    targets: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Data:
        """The function applied to every tensor."""
        return Data(
            tuple(function(a) for a in self.args),
            {key: function(a) for key, a in self.kwargs.items()},
            function(self.targets),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under a name for messages."""
        if len(self.args) == 1:
            named = {"inputs": self.args[0]}
        else:
            named = {f"inputs[{i}]": a for i, a in enumerate(self.args)}
        return (
            named
            | {f"inputs['{k}']": v for k, v in self.kwargs.items()}
            | {"targets": self.targets}
        )


class Batch(NamedTuple):
    """The samples of some replicas.

    `data` is the same for all of them where `shared`, shape `(n, ...)`, else `(replica, n, ...)`.
    """

    data: Data
    shared: bool

    def of(self, replica: int) -> Data:
        """The samples of one replica, without the replica dimension."""
        return self.data if self.shared else self.data.map(lambda x: x[replica])


@dataclass(frozen=True)
class Samples:
    """All N samples of a problem."""

    data: Data

    @classmethod
    def of(cls, inputs: NetInputs, targets: Tensor) -> Samples:
        """Inputs and targets as they were given, detached."""
        if isinstance(inputs, Tensor):
            data = Data((inputs,), {}, targets)
        elif isinstance(inputs, Mapping):
            data = Data((), dict(inputs), targets)
        else:
            data = Data(tuple(inputs), {}, targets)
        return cls(data.map(lambda x: x.detach() if isinstance(x, Tensor) else x))

    @property
    def count(self) -> int:
        """N."""
        return len(self.data.targets)

    @property
    def bytes_per_sample(self) -> int:
        """What gathering one sample costs."""
        return sum(x[:1].numel() * x.element_size() for x in self.data.tensors().values())

    def first(self, count: int) -> Data:
        """The first samples."""
        return self.data.map(lambda x: x[:count])

    def to(self, device: torch.device, dtype: torch.dtype) -> Samples:
        """On a device, floating-point tensors in `dtype`; integers stay integers."""
        return Samples(
            self.data.map(lambda x: x.to(device, dtype if x.is_floating_point() else x.dtype))
        )

    def batch(self, indices: Indices | None, replicas: slice, part: slice) -> Batch:
        """The samples of a slice of the replicas; `part` cuts the subset (or the whole data)."""
        if indices is None:
            return Batch(self.data.map(lambda x: x[part]), True)
        chosen = indices[replicas, part]
        flat = chosen.flatten()
        return Batch(
            self.data.map(lambda x: x.index_select(0, flat).view(*chosen.shape, *x.shape[1:])),
            False,
        )
