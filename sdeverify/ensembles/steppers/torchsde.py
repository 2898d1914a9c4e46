"""The same SDEs through `torchsde.sdeint`, on the same increments as our own loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchsde import BaseBrownian, sdeint

from sdeverify.base.rng import Streams
from sdeverify.base.shapes import Packed, Tensor
from sdeverify.base.state import State, pack, unpack
from sdeverify.ensembles.steppers.euler_maruyama import EulerMaruyama
from sdeverify.ensembles.steppers.increments import FullBatch, Increment
from sdeverify.errors import InvalidInputError, UnsupportedError, did_you_mean
from sdeverify.sdes.sde import SDE, GradientSDE

METHODS = ("euler",)
"""Those for Ito SDEs with general noise that need the diffusion's products with vectors only."""
STRUCTURED = ("milstein", "srk")
STRATONOVICH = (
    "euler_heun",
    "heun",
    "midpoint",
    "log_ode",
    "reversible_heun",
    "adjoint_reversible_heun",
)


def check_method(method: str) -> None:
    """Refuses a method of torchsde that does not serve these SDEs.

    Raises:
        UnsupportedError: it needs other noise, or solves another kind of equation.
        InvalidInputError: torchsde has no such method.
    """
    if method in METHODS:
        return
    if method in STRUCTURED:
        raise UnsupportedError(
            f"torchsde's '{method}' needs the dense diffusion and noise that is diagonal, scalar "
            "or additive; the noise of gradients is general, every Brownian motion moving all "
            "parameters. For a higher weak order give two substeps, (2, 4) say: extrapolated to "
            "dt = 0 they have order 2."
        )
    if method in STRATONOVICH:
        raise UnsupportedError(
            f"torchsde's '{method}' solves Stratonovich equations; an optimizer's SDE is an Ito "
            "equation, and would get another drift. Use method='euler'."
        )
    hint = did_you_mean(str(method), METHODS)
    raise InvalidInputError(
        f"method is one of torchsde's, {', '.join(map(repr, METHODS))} here, or None for our own "
        f"loop; got {method!r}.{hint}"
    )


@dataclass(frozen=True)
class Sdeint:
    """Moves an ensemble by `torchsde.sdeint`, with all samples at each step.

    Several step sizes share one Brownian path, the increments being those of `EulerMaruyama`. Each
    level-1 step is integrated by itself in units of integrator steps: torchsde adds a step of the
    size of rounding where times are no whole numbers.

    Args:
        sde: the SDE.
        substeps: integrator steps in one level-1 step, as for `EulerMaruyama`.
        method: torchsde's name of it.
    """

    sde: GradientSDE
    substeps: Sequence[int]
    method: str = "euler"

    def __post_init__(self) -> None:
        check_method(self.method)
        EulerMaruyama(self.sde, self.substeps, FullBatch())

    def run(self, start: State, steps: int, streams: Streams) -> Iterator[list[State]]:
        """The ensembles after 0, 1, ..., `steps` level-1 steps: one State for each of `substeps`.

        `start` is an ensemble of as many replicas as the streams serve.
        """
        names, finest = self.sde.components, self.substeps[-1]
        dt, how = self.sde.time_per_level1_step / finest, FullBatch()
        ys = [pack(start.components, names) for _ in self.substeps]
        yield [State(start.step, **unpack(y, names)) for y in ys]
        for k in range(steps):
            drawn = [how.draw(streams, self.sde, dt) for _ in range(finest)]
            ys = [
                self._cross(start.step + k, y, substeps, drawn)
                for y, substeps in zip(ys, self.substeps, strict=True)
            ]
            yield [State(start.step + k + 1, **unpack(y, names)) for y in ys]

    def _cross(self, step: float, y: Packed, substeps: int, drawn: Sequence[Increment]) -> Packed:
        group = len(drawn) // substeps
        parts = [drawn[i * group : (i + 1) * group] for i in range(substeps)]
        noise = [p[0].noise if group == 1 else FullBatch().merge(p).noise for p in parts]
        unit = self.sde.time_per_level1_step
        ends: Tensor = sdeint(
            StepTime(self.sde, step * unit, unit / substeps),
            y,
            torch.tensor([0.0, substeps], dtype=torch.float64),
            bm=GivenIncrements([part.to(y.dtype) for part in noise]),
            dt=1.0,
            method=self.method,
        )
        return ends[-1]


class StepTime:
    """An SDE in units of integrator steps; its Brownian increments stay those of the SDE's time.

    It has no more than solvers of `METHODS` ask for: torchsde evaluates once all that a model has.
    """

    noise_type = "general"
    sde_type = "ito"

    def __init__(self, sde: SDE, start_time: float, dt: float) -> None:
        self._sde, self._start, self._dt = sde, start_time, dt

    def f_and_g_prod(self, t: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        drift, kick = self._sde.f_and_g_prod(self._start + float(t) * self._dt, y, v)
        return drift * self._dt, kick


class GivenIncrements(BaseBrownian):  # type: ignore[misc]
    """Brownian increments over the unit intervals from 0 on.

    Args:
        increments: each `(replica, noise)`.
    """

    def __init__(self, increments: Sequence[Tensor]) -> None:
        super().__init__()
        self._increments = increments

    def __call__(
        self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False
    ) -> Tensor:
        if return_U or return_A or tb is None or float(tb - ta) != 1:
            raise InvalidInputError(
                "these Brownian increments are over whole integrator steps, without values and "
                "Levy areas. Use method='euler'."
            )
        return self._increments[int(ta)]

    def __repr__(self) -> str:
        return f"GivenIncrements({len(self._increments)} of shape {self.shape})"

    @property
    def dtype(self) -> torch.dtype:
        return self._increments[0].dtype

    @property
    def device(self) -> torch.device:
        return self._increments[0].device

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._increments[0].shape)

    @property
    def levy_area_approximation(self) -> str:
        return "none"
