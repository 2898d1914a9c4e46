"""The same SDEs through torchsde's own solvers, with a sequential Brownian motion."""

from __future__ import annotations

import math
from typing import Any

import torch
from torchsde import BaseBrownian, sdeint

from sdeverify.base.rng import Streams
from sdeverify.base.shapes import Packed, Tensor
from sdeverify.base.state import State, pack, unpack
from sdeverify.errors import InvalidInputError
from sdeverify.sdes.sde import SDE


class SequentialBrownian(BaseBrownian):  # type: ignore[misc]
    """Brownian increments drawn one after the other, for solvers that only move forward.

    Args:
        streams: where the normals come from; increments over unit intervals have variance 1.
        noise_dim: the number of Brownian motions.
    """

    def __init__(self, streams: Streams, noise_dim: int) -> None:
        super().__init__()
        self._streams = streams
        self._noise_dim = noise_dim

    def __call__(
        self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False
    ) -> Tensor:
        if return_U or return_A or tb is None:
            raise InvalidInputError(
                "SequentialBrownian gives increments only, no values and no Levy areas. Use the "
                "method 'euler'."
            )
        return self._streams.normal(self._noise_dim) * math.sqrt(float(tb - ta))

    def __repr__(self) -> str:
        return f"SequentialBrownian(replicas={self._streams.replicas}, noise={self._noise_dim})"

    @property
    def dtype(self) -> torch.dtype:
        return self._streams.dtype

    @property
    def device(self) -> torch.device:
        return torch.device(self._streams.device)

    @property
    def shape(self) -> tuple[int, int]:
        return (self._streams.replicas, self._noise_dim)

    @property
    def levy_area_approximation(self) -> str:
        return "none"


class StepTime:
    """An SDE in units of integrator steps, so that torchsde takes exactly the steps asked for."""

    noise_type = "general"
    sde_type = "ito"

    def __init__(self, sde: SDE, start_time: float, dt: float) -> None:
        self._sde, self._start, self._dt = sde, start_time, dt

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return self._sde.f(self._start + float(t) * self._dt, y) * self._dt

    def g_prod(self, t: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._sde.g_prod(self._start + float(t) * self._dt, y, v) * math.sqrt(self._dt)

    def f_and_g_prod(self, t: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.f(t, y), self.g_prod(t, y, v)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return self._sde.g(self._start + float(t) * self._dt, y) * math.sqrt(self._dt)


def integrate_with_torchsde(
    sde: SDE, start: State, steps: int, substeps: int, streams: Streams, method: str = "euler"
) -> list[State]:
    """The ensembles after 0, 1, ..., `steps` level-1 steps, integrated by `torchsde.sdeint`."""
    names = sde.components
    y0: Packed = pack(start.components, names)
    unit = sde.time_per_level1_step
    ts = torch.arange(0, steps * substeps + 1, substeps, dtype=torch.float64)
    ys = sdeint(
        StepTime(sde, start.step * unit, unit / substeps),
        y0,
        ts,
        bm=SequentialBrownian(streams, sde.noise_dim),
        dt=1.0,
        method=method,
    )
    return [State(start.step + k, **unpack(y, names)) for k, y in enumerate(ys)]
