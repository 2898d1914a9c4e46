"""The SDE of Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sdeverify.base.shapes import Parameters, PerParameter, Tensor, is_set
from sdeverify.base.state import Components, Time
from sdeverify.errors import InvalidInputError
from sdeverify.sdes.adaptive import AdaptiveSDE
from sdeverify.sdes.description import INDEPENDENT, SMOOTH, Description, clock_text, constant_text


@dataclass(frozen=True)
class AdamSDE(AdaptiveSDE):
    """d theta = -(sqrt(gamma_2)/gamma_1) P^(-1) m dt - lambda_0 theta dt, from t > 0.

        dm = c1 (grad f - m) dt + sigma_0 c1 Sigma^(1/2) dW,    du = c2 (diag Sigma - u) dt

    P = sigma_0 sqrt(u) + epsilon_0 sqrt(gamma_2), gamma_i = 1 - exp(-c_i t), clock t = k eta^2.
    Weak order 1 in eta^2 along sigma = sigma_0/eta (Malladi et al. 2022, theorem 4.5). AdamW has
    lambda_0 = lambda/eta > 0.

    Args:
        c1: (1 - beta1)/eta^2.
        decay0: lambda_0.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(4))
        >>> sde = sv.derive(sv.Adam(learning_rate=0.1, beta1=0.9, beta2=0.99), oracle)
        >>> type(sde).__name__, sde.components, round(sde.c1, 6)
        ('AdamSDE', ('theta', 'm', 'u'), 10.0)
    """

    c1: PerParameter = 0.0
    decay0: PerParameter = 0.0

    components = ("theta", "m", "u")

    @property
    def model(self) -> str:
        return "Adam"

    def direction(self, t: Time, y: Components) -> Tensor:
        """d theta/dt."""
        if not isinstance(t, Tensor) and not t > 0:
            raise InvalidInputError(
                f"Adam's SDE is singular at t = 0; got t = {t:g}. Start from a state after a few "
                "optimizer steps: warm_up(...) or start_from_torch(...)."
            )
        gamma1, gamma2 = (_one_minus_exp(c, t) for c in (self.c1, self.c2))
        root = gamma2**0.5
        scale = (self.sigma0 * y["u"].sqrt()).add_(self.epsilon0 * root)
        update = (y["m"] / scale).mul_(-self.ratio(t) * (root / gamma1))
        if is_set(self.decay0):
            update.sub_((self.ratio(t) * self.decay0) * y["theta"])
        return update

    def rest(
        self, t: Time, y: Components, mean: Tensor | None, variance: Tensor | None
    ) -> Mapping[str, Tensor]:
        return {
            "theta": self.direction(t, y),
            "m": (self.decay(y) - y["m"]).mul_(self.c1),
            "u": self.drift_of_u(y, mean, variance),
        }

    def inject(self, t: Time, y: Components, increment: Parameters) -> Mapping[str, Tensor]:
        return {"m": self.c1 * increment}

    @property
    def description(self) -> Description:
        constants = {
            "c_1": (constant_text(self.c1), "(1 - beta_1)/eta^2"),
            **self.explained_constants,
        }
        name, decay = "Adam", ""
        if is_set(self.decay0):
            name, decay = "AdamW", r"-\lambda_0\theta\,dt"
            constants["lambda_0"] = (
                constant_text(self.decay0),
                "lambda/eta, decoupled weight decay",
            )
        return Description(
            name=f"{name}, first-order SDE",
            equations=(
                r"d\theta &= -\frac{\sqrt{\gamma_2(t)}}{\gamma_1(t)}\,P^{-1}m\,dt"
                rf"{decay},\quad P=\sigma_0\sqrt{{u}}+\epsilon_0\sqrt{{\gamma_2(t)}}",
                r"dm &= c_1\left(\nabla f(\theta)-m\right)dt"
                r"+\sigma_0 c_1\,\Sigma(\theta)^{1/2}\,dW_t",
                self.equation_of_u,
                r"\gamma_i(t) &= 1-e^{-c_i t}",
            ),
            constants=constants,
            clock=clock_text("t = k eta^2, from a start at t > 0", self.time_per_level1_step),
            noise=self.oracle.noise.describe(self.oracle.problem),
            assumptions=(SMOOTH, INDEPENDENT, *self.assumptions, "u_0 > 0: start after a warm-up"),
            claim="weak order 1 in eta^2, with sigma_0, epsilon_0, c_1 and c_2 held fixed",
            source="Malladi, Lyu, Panigrahi, Arora 2022 (arXiv 2205.10287), theorem 4.5",
        )


def _one_minus_exp(c: PerParameter, t: Time) -> PerParameter:
    x = -c * t
    return -torch.expm1(x) if isinstance(x, Tensor) else -math.expm1(x)
