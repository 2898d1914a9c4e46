"""What the SDEs of RMSprop and Adam share: u, the preconditioner, and the kept signal."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

from sdeverify.base.shapes import PerParameter, Tensor, is_set
from sdeverify.base.state import Components
from sdeverify.sdes.description import constant_text
from sdeverify.sdes.sde import GradientSDE

SKEWNESS = "gradient noise whose skewness vanishes as sigma grows (SVAG's does)"
DOMINANCE = "noise dominance, sigma >> |grad f|"


@dataclass(frozen=True)
class AdaptiveSDE(GradientSDE, ABC):
    """du = c2 (diag Sigma - u) dt, and dG scaled by sigma_0.

    Args:
        sigma0: sigma eta.
        epsilon0: epsilon eta.
        c2: (1 - beta)/eta^2, or (1 - beta2)/eta^2.
        weight_decay: coupled.
        signal: 1/sigma^2 to keep c2 (grad f)^2/sigma^2 in du, or 0 to drop it.
    """

    sigma0: float
    epsilon0: PerParameter
    c2: PerParameter
    weight_decay: PerParameter = 0.0
    signal: float = 0.0

    uses_moments = True

    @property
    def intensity(self) -> float:
        return self.sigma0

    def decay(self, y: Components) -> Tensor | float:
        """The gradient of the coupled weight decay."""
        if not is_set(self.weight_decay):
            return 0.0
        return self.weight_decay * y["theta"]

    def drift_of_u(self, y: Components, mean: Tensor | None, variance: Tensor | None) -> Tensor:
        """c2 (diag Sigma + (grad f)^2/sigma^2 - u), the signal only where it is kept."""
        assert mean is not None and variance is not None
        target = variance
        if self.signal:
            target = variance + self.signal * (mean + self.decay(y)).square()
        return (target - y["u"]).mul_(self.c2)

    @property
    def explained_constants(self) -> dict[str, tuple[str, str]]:
        """The shared constants for a description."""
        rows = {
            "sigma_0": (constant_text(self.sigma0), "sigma eta"),
            "epsilon_0": (constant_text(self.epsilon0), "epsilon eta"),
            "c_2": (constant_text(self.c2), "(1 - beta_2)/eta^2"),
        }
        if is_set(self.weight_decay):
            rows["lambda"] = (
                constant_text(self.weight_decay),
                "coupled weight decay, added to grad f",
            )
        if self.signal:
            rows["1/sigma^2"] = (constant_text(self.signal), "weight of the kept signal (grad f)^2")
        return rows

    @property
    def equation_of_u(self) -> str:
        """du in LaTeX."""
        signal = r"+\sigma^{-2}(\nabla f(\theta))^2" if self.signal else ""
        return rf"du &= c_2\left(\mathrm{{diag}}\,\Sigma(\theta){signal}-u\right)dt"

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the theorem supposes, apart from smoothness."""
        return (SKEWNESS,) if self.signal else (SKEWNESS, DOMINANCE)
