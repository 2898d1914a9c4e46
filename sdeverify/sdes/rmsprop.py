"""The SDE of RMSprop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sdeverify.base.shapes import Parameters, Tensor
from sdeverify.base.state import Components, Time
from sdeverify.sdes.adaptive import AdaptiveSDE
from sdeverify.sdes.description import INDEPENDENT, SMOOTH, Description, clock_text


@dataclass(frozen=True)
class RMSpropSDE(AdaptiveSDE):
    """d theta = -P^(-1) (grad f dt + sigma_0 Sigma^(1/2) dW), du = c2 (diag Sigma - u) dt.

    P = sigma_0 sqrt(u) + epsilon_0, u = v/sigma^2, clock t = k eta^2. Weak order 1 in eta^2 along
    sigma = sigma_0/eta (Malladi, Lyu, Panigrahi, Arora 2022, theorem 4.2). With the signal kept it
    is the form of Compagnoni et al. 2025 in another clock.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(4))
        >>> sde = sv.derive(sv.RMSprop(learning_rate=0.1, beta=0.99), oracle)
        >>> type(sde).__name__, round(sde.sigma0, 6), round(sde.c2, 6)
        ('RMSpropSDE', 0.05, 1.0)
    """

    components = ("theta", "u")

    @property
    def model(self) -> str:
        return "RMSprop"

    def descent(self, t: Time, y: Components, gradient: Tensor) -> Tensor:
        """-(ratio/P) gradient."""
        scale = (self.sigma0 * y["u"].sqrt()).add_(self.epsilon0)
        return (gradient / scale).mul_(-self.ratio(t))

    def rest(
        self, t: Time, y: Components, mean: Tensor | None, variance: Tensor | None
    ) -> Mapping[str, Tensor]:
        change = {"u": self.drift_of_u(y, mean, variance)}
        decay = self.decay(y)
        if isinstance(decay, Tensor):
            change["theta"] = self.descent(t, y, decay)
        return change

    def inject(self, t: Time, y: Components, increment: Parameters) -> Mapping[str, Tensor]:
        return {"theta": self.descent(t, y, increment)}

    @property
    def description(self) -> Description:
        return Description(
            name="RMSprop, first-order SDE",
            equations=(
                r"d\theta &= -P^{-1}\left(\nabla f(\theta)\,dt"
                r"+\sigma_0\,\Sigma(\theta)^{1/2}\,dW_t\right),\quad"
                r" P=\sigma_0\sqrt{u}+\epsilon_0",
                self.equation_of_u,
            ),
            constants=self.explained_constants,
            clock=clock_text("t = k eta^2", self.time_per_level1_step),
            noise=self.oracle.noise.describe(self.oracle.problem),
            assumptions=(SMOOTH, INDEPENDENT, *self.assumptions, "u_0 > 0: start after a warm-up"),
            claim="weak order 1 in eta^2, with sigma_0, epsilon_0 and c_2 held fixed",
            source="Malladi, Lyu, Panigrahi, Arora 2022 (arXiv 2205.10287), theorem 4.2",
        )
