"""The SDE of SGD with momentum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sdeverify.base.shapes import Parameters, PerParameter, Tensor, is_set
from sdeverify.base.state import Components, Time
from sdeverify.sdes.description import INDEPENDENT, SMOOTH, Description, clock_text, constant_text
from sdeverify.sdes.sde import GradientSDE


@dataclass(frozen=True)
class SGDMomentumSDE(GradientSDE):
    """dp = -(gamma p + grad f + lambda theta) dt + sqrt(h) sigma Sigma^(1/2) dW, d theta = p dt.

    Clock t = k h, h = sqrt(eta (1 - d)), gamma = (1 - mu)/h, p = -h b/(1 - d). Nesterov's variant
    has the same SDE. Weak order 1 in h (Li, Tai, E 2019, section 5).

    Args:
        temperature: h sigma^2.
        friction: gamma.
        weight_decay: lambda, coupled.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> sde = sv.derive(sv.SGDMomentum(learning_rate=0.01, momentum=0.9), oracle)
        >>> type(sde).__name__, round(sde.friction, 6)
        ('SGDMomentumSDE', 1.0)
    """

    temperature: float
    friction: PerParameter
    weight_decay: PerParameter = 0.0

    components = ("theta", "p")

    @property
    def model(self) -> str:
        return "SGDMomentum"

    @property
    def intensity(self) -> float:
        return math.sqrt(self.temperature)

    def rest(
        self, t: Time, y: Components, mean: Tensor | None, variance: Tensor | None
    ) -> Mapping[str, Tensor]:
        pull = self.friction * y["p"] + self.weight_decay * y["theta"]
        return {"theta": self.ratio(t) * y["p"], "p": -pull}

    def inject(self, t: Time, y: Components, increment: Parameters) -> Mapping[str, Tensor]:
        return {"p": -increment}

    @property
    def description(self) -> Description:
        decay = self.weight_decay
        pull = ""
        extra: dict[str, tuple[str, str]] = {}
        if is_set(decay):
            pull = r"+\lambda\theta"
            extra = {"lambda": (constant_text(decay), "coupled weight decay")}
        return Description(
            name="SGD with momentum, first-order SDE",
            equations=(
                rf"dp &= -\left(\gamma p+\nabla f(\theta){pull}\right)dt"
                r" + \sqrt{h}\,\sigma\,\Sigma(\theta)^{1/2}\,dW_t",
                r"d\theta &= p\,dt",
            ),
            constants={
                "gamma": (constant_text(self.friction), "friction, (1 - mu)/h"),
                "h sigma^2": (constant_text(self.temperature), "temperature"),
                **extra,
            },
            clock=clock_text("t = k h, h = sqrt(eta (1 - d))", self.time_per_level1_step),
            noise=self.oracle.noise.describe(self.oracle.problem),
            assumptions=(SMOOTH, INDEPENDENT, "p = -h b/(1 - d), with torch's buffer b"),
            claim="weak order 1 in h",
            source="Li, Tai, E 2019 (arXiv 1811.01558)",
        )
