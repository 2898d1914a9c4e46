"""SoftSignum, an optimizer of one's own: its torch class, its update rule, its SDE, its rule.

    m+ = beta m + (1 - beta) g,    theta+ = theta - eta phi(m+),    phi(m) = m/sqrt(m^2 + delta^2)

The SDE, of weak order 1 in eta with c = (1 - beta)/eta held fixed, clock t = k eta, is

    dm = c (grad f - m) dt + c sqrt(eta) sigma Sigma^(1/2) dW,    d theta = -phi(m) dt

The noise enters m alone, linearly. As delta goes to 0 it is Signum, for which no order is claimed:
the sign is not smooth. The sign of a noisy gradient itself (beta = 0) is not linear in the
gradient, so no SDE of this form describes it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

import sdeverify as sv


class TorchSoftSignum(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-2, beta=0.9, delta=0.1):
        super().__init__(params, {"lr": lr, "beta": beta, "delta": delta})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["beta"])
                p.sub_(group["lr"] * m / (m**2 + group["delta"] ** 2).sqrt())


class SignumRule(sv.BatchRule):
    name = "signum"

    def change(self, kappa):
        return sv.Change(learning_rate=kappa, relaxation=kappa, steps=1 / kappa)


@dataclass(frozen=True)
class SoftSignumSDE(sv.GradientSDE):
    intensity: float = 0.0  # sqrt(eta) sigma
    c: float = 0.0
    delta: float = 0.1
    components = ("theta", "m")

    def rest(self, t, y, mean, variance):
        phi = y["m"] / (y["m"] ** 2 + self.delta**2).sqrt()
        return {"theta": -self.ratio(t) * phi, "m": -self.c * y["m"]}

    def inject(self, t, y, increment):
        return {"m": self.c * increment}


@dataclass(frozen=True, kw_only=True)
class SoftSignum(sv.Optimizer):
    beta: float = 0.9
    delta: float = 0.1
    name, refinement_power = "SoftSignum", 1
    components = sde_components = ("theta", "m")
    torch_classes = (TorchSoftSignum,)
    options: ClassVar = {"beta": "beta", "delta": "delta"}
    buffers: ClassVar = {"m": "momentum"}
    rules, betas = (SignumRule(),), ("beta",)

    @property
    def time_per_step(self):
        return self.learning_rate

    def advance(self, k, y, gradient):
        m = y["m"].lerp(gradient, 1 - self.beta)
        theta = y["theta"] - self.rate(k) * m / (m**2 + self.delta**2).sqrt()
        return {"theta": theta, "m": m}

    def sde(self, oracle):
        size, c = self.learning_rate**0.5 * oracle.scale, (1 - self.beta) / self.learning_rate
        return SoftSignumSDE(oracle, self.time_per_level1_step, size, c, self.delta)
