"""The data of a problem: inputs and targets, with the sample as leading dimension."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import torch

from sdeverify.base.shapes import Indices, Int, Tensor

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

    def singles(self) -> list[Data]:
        """Each sample as a batch of one."""
        ways = [partial(torch.narrow, dim=0, start=i, length=1) for i in range(len(self.targets))]
        return [self.map(way) for way in ways]

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
        if isinstance(inputs, Mapping):
            data = Data((), dict(inputs), targets)
        else:
            several = isinstance(inputs, tuple | list) and all(
                isinstance(x, Tensor) for x in inputs
            )
            args = tuple(inputs) if several else (inputs,)
            data = Data(cast("tuple[Tensor, ...]", args), {}, targets)
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

    def at(self, chosen: Tensor) -> Data:
        """Copies of some samples."""
        return self.data.map(partial(torch.index_select, dim=0, index=chosen))

    def spread(self, count: int) -> Int[Tensor, " n"]:
        """Some `count` samples from all over the data, and all over them sorted in several ways.

        Among them are the samples of the least and the largest targets and inputs.
        """
        targets = self.data.targets.reshape(self.count, -1)
        extremes = [targets.amax(1), targets.amin(1)] if targets.numel() else []
        sizes = [_size(x) for x in (*self.data.args, *self.data.kwargs.values())]
        orders = [key.argsort(stable=True) for key in [*extremes, *sizes]]
        orders.append(torch.arange(self.count, device=targets.device))
        each = max(2, count // len(orders))
        places = torch.linspace(0, self.count - 1, each).round().long().to(targets.device)
        chosen: Tensor = torch.cat([order[places] for order in orders]).unique()
        return chosen

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


def _size(x: Tensor) -> Tensor:
    """The sum of each sample's absolute values."""
    few = x.reshape(len(x), -1).split(1 << 12)
    wide = (rows if x.is_floating_point() else rows.float() for rows in few)
    return torch.cat([torch.linalg.vector_norm(rows, 1, 1) for rows in wide])
