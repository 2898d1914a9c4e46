"""The noise-free flow of an SDE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sdeverify.base.shapes import Parameters, PerParameter, Tensor
from sdeverify.base.state import Components, Time
from sdeverify.noise.oracle import GradientOracle
from sdeverify.sdes.description import Description
from sdeverify.sdes.sde import GradientSDE


@dataclass(frozen=True)
class GradientFlow(GradientSDE):
    """The first-order SDE of an optimizer without its noise; for SGD d theta = -grad f dt.

    The yardstick beside every SDE: where it does as well, the ladder does not see the noise.

    Args:
        of_sde: the SDE whose drift is taken.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> flow = sv.GradientFlow.without_noise(sv.derive(sv.SGD(learning_rate=0.1), oracle))
        >>> theta = torch.ones(1, 1).double()
        >>> torch.equal(flow.f(0.0, theta), -oracle.problem.gradient(theta))
        True
        >>> flow.g(0.0, theta).abs().sum().item()
        0.0
    """

    of_sde: GradientSDE

    @classmethod
    def of(cls, optimizer: Any, oracle: GradientOracle, **options: Any) -> GradientFlow:
        return cls.without_noise(optimizer.sde(oracle, **options))

    @classmethod
    def without_noise(cls, sde: GradientSDE) -> GradientFlow:
        """The flow of an SDE."""
        return cls(sde.oracle, sde.time_per_level1_step, sde)

    @property
    def components(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the SDE whose drift is taken."""
        return self.of_sde.components

    @property
    def uses_moments(self) -> bool:  # type: ignore[override]
        """Whether that SDE's `rest` needs mean and variance."""
        return self.of_sde.uses_moments

    @property
    def intensity(self) -> float:
        return 0.0

    @property
    def constants(self) -> Mapping[str, PerParameter]:
        return {k: v for k, v in self.of_sde.constants.items() if k != "temperature"}

    def rest(
        self, t: Time, y: Components, mean: Tensor | None, variance: Tensor | None
    ) -> Mapping[str, Tensor]:
        return self.of_sde.rest(t, y, mean, variance)

    def inject(self, t: Time, y: Components, increment: Parameters) -> Mapping[str, Tensor]:
        return self.of_sde.inject(t, y, increment)

    @property
    def description(self) -> Description:
        noisy = self.of_sde.description
        return replace(
            noisy,
            name=f"gradient flow: {noisy.name} without its noise",
            equations=(*noisy.equations, r"dW_t &\to 0"),
            noise="none",
            claim="the noise is left out on purpose",
        )
