"""The SDEs of stochastic gradient descent: first order, second order, and the noise-free flow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdeverify.base.shapes import Parameters, PerParameter, Tensor, is_set
from sdeverify.base.state import Components, Time
from sdeverify.errors import UnsupportedError
from sdeverify.noise.oracle import GradientOracle
from sdeverify.sdes.description import INDEPENDENT, SMOOTH, Description, clock_text, constant_text
from sdeverify.sdes.sde import GradientSDE


@dataclass(frozen=True)
class SGDFirstOrder(GradientSDE):
    """d theta = -(grad f + lambda theta) dt + sqrt(eta) sigma Sigma^(1/2) dW, clock t = k eta.

    Weak order 1 in eta (Li, Tai, E 2017, theorem 1; Li, Malladi, Arora 2021, theorem 4.3 for SVAG).

    Args:
        temperature: eta sigma^2.
        weight_decay: lambda, coupled.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> sde = sv.derive(sv.SGD(learning_rate=0.1), oracle)
        >>> type(sde).__name__, round(sde.temperature, 6)
        ('SGDFirstOrder', 0.05)
    """

    temperature: float
    weight_decay: PerParameter = 0.0

    components = ("theta",)

    @property
    def intensity(self) -> float:
        return math.sqrt(self.temperature)

    def rest(
        self, t: Time, y: Components, mean: Tensor | None, variance: Tensor | None
    ) -> Mapping[str, Tensor]:
        if not is_set(self.weight_decay):
            return {}
        return {"theta": -self.ratio(t) * self.weight_decay * y["theta"]}

    def inject(self, t: Time, y: Components, increment: Parameters) -> Mapping[str, Tensor]:
        return {"theta": -self.ratio(t) * increment}

    @property
    def description(self) -> Description:
        decay = self.weight_decay
        drift = r"\nabla f(\theta)"
        extra: dict[str, tuple[str, str]] = {}
        if is_set(decay):
            drift = rf"({drift}+\lambda\theta)"
            extra = {"lambda": (constant_text(decay), "coupled weight decay")}
        return Description(
            name="SGD, first-order SDE",
            equations=(
                rf"d\theta &= -{drift}\,dt + \sqrt{{\eta}}\,\sigma\,\Sigma(\theta)^{{1/2}}\,dW_t",
            ),
            constants={
                "eta sigma^2": (constant_text(self.temperature), "temperature"),
                "sqrt(eta) sigma": (constant_text(self.intensity), "size of the noise"),
                **extra,
            },
            clock=clock_text("t = k eta", self.time_per_level1_step),
            noise=self.oracle.noise.describe(self.oracle.problem),
            assumptions=(SMOOTH, INDEPENDENT),
            claim="weak order 1 in eta",
            source="Li, Tai, E 2017 (arXiv 1511.06251); Li, Malladi, Arora 2021 (arXiv 2102.12470)",
        )


@dataclass(frozen=True)
class SGDSecondOrder(GradientSDE):
    """d theta = -grad(f + (eta/4) |grad f|^2) dt + sqrt(eta) sigma Sigma^(1/2) dW, clock t = k eta.

    The stochastic modified equation of weak order 2 in eta (Li, Tai, E 2017, theorem 1; 2019,
    theorem 9). Each step needs one product with the Hessian.

    Args:
        temperature: eta sigma^2.
        learning_rate: eta.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> sde = sv.derive(sv.SGD(learning_rate=0.1), oracle, sv.sdes.SGDSecondOrder)
        >>> sde.claimed_order, sde.learning_rate
        (2.0, 0.1)
    """

    temperature: float
    learning_rate: float

    components = ("theta",)
    claimed_order = 2.0

    @classmethod
    def of(cls, optimizer: Any, oracle: GradientOracle) -> SGDSecondOrder:
        first = SGDFirstOrder.of(optimizer, oracle)
        decay = first.constants["weight_decay"]
        if is_set(decay) or first.learning_rate_ratio is not None:
            raise UnsupportedError(
                "the second-order SDE of SGD is offered for one constant learning rate without "
                "weight decay; got a schedule, param groups or weight decay. Put the decay into "
                "the loss, or use SGDFirstOrder."
            )
        eta = optimizer.learning_rate
        return cls(oracle, first.time_per_level1_step, eta * oracle.scale**2, eta)

    @property
    def intensity(self) -> float:
        return math.sqrt(self.temperature)

    def rest(
        self, t: Time, y: Components, mean: Tensor | None, variance: Tensor | None
    ) -> Mapping[str, Tensor]:
        pull = self.oracle.problem.squared_gradient_drift(y["theta"])
        return {"theta": -0.5 * self.learning_rate * pull}

    def inject(self, t: Time, y: Components, increment: Parameters) -> Mapping[str, Tensor]:
        return {"theta": -increment}

    @property
    def description(self) -> Description:
        return Description(
            name="SGD, second-order SDE (stochastic modified equation)",
            equations=(
                r"d\theta &= -\nabla\left(f(\theta)+\tfrac{\eta}{4}|\nabla f(\theta)|^2\right)dt"
                r" + \sqrt{\eta}\,\sigma\,\Sigma(\theta)^{1/2}\,dW_t",
            ),
            constants={
                "eta": (constant_text(self.learning_rate), "learning rate"),
                "eta sigma^2": (constant_text(self.temperature), "temperature"),
            },
            clock=clock_text("t = k eta", self.time_per_level1_step),
            noise=self.oracle.noise.describe(self.oracle.problem),
            assumptions=(SMOOTH, INDEPENDENT),
            claim="weak order 2 in eta",
            source="Li, Tai, E 2017 (arXiv 1511.06251), 2019 (arXiv 1811.01558)",
        )
