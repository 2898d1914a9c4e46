"""What an SDE is: drift and diffusion product on packed states, a clock, and an explanation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, final

import numpy as np
import torch

from sdeverify.base.shapes import Normals, Packed, Parameters, PerParameter, Tensor
from sdeverify.base.state import Components, Time, pack, unpack
from sdeverify.errors import InvalidInputError, UnsupportedError
from sdeverify.noise.covariance import GradientValues
from sdeverify.noise.oracle import GradientOracle
from sdeverify.sdes.description import INDEPENDENT, SMOOTH, Description, clock_text, constant_text


class SDE(ABC):
    """dy = f(t, y) dt + g(t, y) dW in the sense of Ito: a torchsde model.

    `y` has shape `(replica, len(components) * dim)`, the components side by side. `t` is the
    SDE's own clock, `step * time_per_level1_step`, 0 at the beginning of training.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> sde, theta = sv.derive(sv.SGD(learning_rate=0.1), oracle), torch.zeros(3, 1).double()
        >>> isinstance(sde, sv.SDE), sde.noise_dim, tuple(sde.f(0.0, theta).shape)
        (True, 6, (3, 1))
    """

    noise_type = "general"
    sde_type = "ito"

    components: ClassVar[tuple[str, ...]]
    """The names of the state's parts, each of size `dim`; the first is `theta`."""
    claimed_order: ClassVar[float] = 1.0
    """The weak order that is claimed, in the SDE time of one optimizer step."""
    time_per_level1_step: float
    """SDE time in one level-1 optimizer step."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """The number of parameters d."""

    @property
    @abstractmethod
    def noise_dim(self) -> int:
        """The number of Brownian motions."""

    @property
    def model(self) -> str:
        """The equation's name in stores."""
        return type(self).__name__

    @property
    @abstractmethod
    def description(self) -> Description:
        """The SDE in words and formulas, with this run's constants."""

    @abstractmethod
    def f(self, t: Time, y: Packed) -> Tensor:
        """The drift."""

    @abstractmethod
    def g_prod(
        self,
        t: Time,
        y: Packed,
        v: Normals,
    ) -> Packed:
        """The diffusion product g(t, y) v."""

    @final
    def g(self, t: Time, y: Packed) -> Tensor:
        """The dense diffusion `(replica, packed, noise)`: g_prod on unit vectors."""
        columns = [
            self.g_prod(t, y, unit.expand(y.shape[0], -1))
            for unit in torch.eye(self.noise_dim, dtype=y.dtype, device=y.device)
        ]
        return torch.stack(columns, -1)

    def f_and_g_prod(
        self,
        t: Time,
        y: Packed,
        v: Normals,
    ) -> tuple[Tensor, Tensor]:
        """Drift and diffusion product, for torchsde."""
        return self.f(t, y), self.g_prod(t, y, v)

    def _repr_latex_(self) -> str:
        return self.description.latex()

    def __str__(self) -> str:
        return self.description.text()


@dataclass(frozen=True)
class GradientSDE(SDE):
    """An SDE whose noise enters through the gradient increment dG = (grad f) dt + s F dW.

        dy = rest(t, y; grad f, diag Sigma) dt + inject(t, y) dG,      inject linear in dG.

    From these two, drift, diffusion product and the one-gradient Euler-Maruyama step all follow.

    Args:
        oracle: the gradient oracle.
        time_per_level1_step: SDE time in one level-1 optimizer step.
        learning_rate_ratio: the schedule and the param groups' ratios, as the optimizer's.

    Example:
        >>> class Langevin(sv.GradientSDE):  # d theta = -grad f dt + 0.1 Sigma^(1/2) dW
        ...     components = ("theta",)
        ...     intensity = 0.1
        ...     def rest(self, t, y, mean, variance):
        ...         return {}
        ...     def inject(self, t, y, increment):
        ...         return {"theta": -increment}
        >>> problem = circle_problem()
        >>> sde = Langevin(sv.GradientOracle(problem, sv.MinibatchNoise(2)), 0.1)
        >>> theta = torch.ones(1, 1).double()
        >>> torch.equal(sde.f(0.0, theta), -problem.gradient(theta))
        True
    """

    oracle: GradientOracle
    time_per_level1_step: float
    learning_rate_ratio: Callable[[float], PerParameter] | None = field(default=None, kw_only=True)

    uses_moments: ClassVar[bool] = False
    """Whether `rest` reads grad f and diag Sigma."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("f", "g_prod", "g", "f_and_g_prod", "euler"):
            if name in vars(cls):
                raise InvalidInputError(
                    f"{cls.__name__} overrides {name}, which follows from rest and inject: solve "
                    "steps by these two and would not use it. Change rest and inject instead."
                )

    @property
    @abstractmethod
    def intensity(self) -> float:
        """s, the size of the noise in dG, in the SDE's clock."""

    @abstractmethod
    def rest(
        self, t: Time, y: Components, mean: Tensor | None, variance: Tensor | None
    ) -> Mapping[str, Tensor]:
        """The drift apart from dG's, by component; left-out components have none.

        `mean` (grad f) and `variance` (diag Sigma) are given where `uses_moments` is set.
        """

    @abstractmethod
    def inject(self, t: Time, y: Components, increment: Parameters) -> Mapping[str, Tensor]:
        """The change of the state under a gradient increment, linear in it."""

    @classmethod
    def of(cls, optimizer: Any, oracle: GradientOracle, *args: Any, **options: Any) -> GradientSDE:
        """The SDE of a discrete optimizer with this oracle: by default the optimizer's own.

        A class derived from that of the optimizer's own takes its constants over.

        Raises:
            UnsupportedError: this SDE does not belong to that optimizer.
        """
        own: GradientSDE = optimizer.sde(oracle, *args, **options)
        if not issubclass(cls, type(own)):
            raise UnsupportedError(
                f"{cls.__name__} is no SDE of {type(optimizer).__name__}, whose own is "
                f"{type(own).__name__}. Leave out sde= to get that one."
            )
        return cls(**{constant.name: getattr(own, constant.name) for constant in fields(own)})

    @property
    def constants(self) -> Mapping[str, PerParameter]:
        """The numbers in the equation, without the clock; equal constants mean the same SDE.

        By default the fields that the class adds.
        """
        general = {f.name for f in fields(GradientSDE)}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in general}

    @property
    def description(self) -> Description:
        """The SDE in words and formulas; by default its general form."""
        return Description(
            name=type(self).__name__,
            equations=(r"dy &= \mathrm{rest}(t,y)\,dt+\mathrm{inject}(t,y)\,dG",),
            constants={name: (constant_text(value), "") for name, value in self.constants.items()},
            clock=clock_text("t = k h", self.time_per_level1_step),
            noise=self.oracle.noise.describe(self.oracle.problem),
            assumptions=(SMOOTH, INDEPENDENT),
            claim=f"weak order {self.claimed_order:g}",
            source=f"{type(self).__module__}.{type(self).__name__}",
        )

    @final
    def ratio(self, t: Time) -> PerParameter:
        """The learning rate at time t in units of the largest one."""
        if self.learning_rate_ratio is None:
            return 1.0
        step: Any = t / self.time_per_level1_step
        return self.learning_rate_ratio(step)

    @property
    def dim(self) -> int:
        return self.oracle.dim

    @cached_property
    def noise_dim(self) -> int:
        return self.oracle.noise_dim

    @final
    def f(self, t: Time, y: Packed) -> Tensor:
        state = unpack(y, self.components)
        if self.uses_moments:
            mean, variance = self.oracle.mean_and_variance(state["theta"])
            rest = self.rest(float(t), state, mean, variance)
        else:
            mean = self.oracle.mean(state["theta"])
            rest = self.rest(float(t), state, None, None)
        return pack(self._sum(state, rest, self.inject(float(t), state, mean)), self.components)

    @final
    def g_prod(
        self,
        t: Time,
        y: Packed,
        v: Normals,
    ) -> Packed:
        state = unpack(y, self.components)
        kick = self.intensity * self.oracle.noise_product(state["theta"], v)
        return pack(self._sum(state, self.inject(float(t), state, kick)), self.components)

    @final
    def euler(self, t: Time, y: Components, dt: float, values: GradientValues) -> dict[str, Tensor]:
        """One Euler-Maruyama step with a gradient increment over dt that is already there."""
        rest = self.rest(t, y, values.mean, values.variance)
        kick = self.inject(t, y, values.increment)
        moved = dict(y) | {name: y[name] + change for name, change in kick.items()}
        for name, change in rest.items():
            if name in kick:
                moved[name].add_(change, alpha=dt)
            else:
                moved[name] = torch.add(y[name], change, alpha=dt)
        return moved

    def _sum(self, state: Components, *parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        total = {name: torch.zeros_like(state[name]) for name in self.components}
        for part in parts:
            for name, change in part.items():
                total[name] = total[name] + change
        return total


def same_sde(a: GradientSDE, b: GradientSDE) -> bool:
    """Whether two SDEs are one equation on one clock: kind, problem and constants agree."""
    if type(a) is not type(b) or a.oracle.problem is not b.oracle.problem:
        return False
    clocks = a.time_per_level1_step, b.time_per_level1_step
    pairs = [clocks, *((a.constants[k], b.constants[k]) for k in a.constants)]
    return all(
        np.allclose(np.asarray(x, dtype=float), np.asarray(y, dtype=float), rtol=1e-9, atol=0)
        for x, y in pairs
    )
