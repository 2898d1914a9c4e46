"""Necessary conditions for the SDE and for the scaling rules, from signal and noise alone.

Signal G = E|grad f|^2, noise N = sigma^2 tr Sigma (tr Sigma/B for batches with replacement), their
ratio rho = N/G, R = E|theta|^2. Two runs are *C-close* if R, G and the noise of a sample agree
within a factor C each way.

**SGD, a scale-invariant loss with weight decay lambda, at equilibrium** (Li, Malladi, Arora 2021,
section 5). Scale invariance gives <g, theta> = 0 for every mini-batch gradient g, so that

    |theta+|^2 = (1 - eta lambda)^2 |theta|^2 + eta^2 |g|^2,    E|g|^2 = G + N,
    SGD:  (2 - eta lambda) lambda R = eta (G + N);    SDE (Ito):  2 lambda R = eta N.

*SDE.* With N_SDE <= C N, R/R_SDE = (G + N)/N_SDE * 2/(2 - eta lambda) >= (G + N)/(C N) *
2/(2 - eta lambda); this is at most C only if 1 + 1/rho <= C^2 (1 - eta lambda/2).

*Linear rule*, (kappa eta, kappa B), G' and N' being the scaled run's. Closeness gives G' >= G/C and
kappa N' >= N/C, so

    R'/R = kappa (G' + N')/(G + N) * (2 - eta lambda)/(2 - kappa eta lambda)
        >= (kappa G + N)/(C (G + N)) * (2 - eta lambda)/(2 - kappa eta lambda),

at most C only if (kappa G + N)(2 - eta lambda) <= C^2 (G + N)(2 - kappa eta lambda). For small
eta lambda that is **kappa <= C^2 + (C^2 - 1) rho**, sharper than the published
kappa <= C^2 (1 + rho). In terms of the scaled run, with G <= C G' and N <= C kappa N', it reads
N'/G' >= (1 - 1/kappa)/(C^2 - 1) - 1/kappa. With C^2 = 2, kappa <= 2 + rho.

**RMSprop, Adam.** v relaxes to E g^2, whose sum over the coordinates is G + N. The SDE keeps only
N: sqrt(v) agrees within C (in sum) only if 1 + 1/rho <= C^2, that is r = G/N <= C^2 - 1. Under the
square-root rule kappa v' relaxes to kappa G + N where v relaxes to G + N: again
kappa <= C^2 + (C^2 - 1) rho, and r grows in proportion to kappa.

Without weight decay, without scale invariance, or off equilibrium the first is a rule of thumb;
for momentum, whose balance has a further term E<grad f, b>, likewise. The second holds at any one
theta, for the preconditioner alone. None of them is sufficient.
"""

from __future__ import annotations

import math

from sdeverify.base.arguments import number
from sdeverify.errors import InvalidInputError


def required_noise_to_signal(closeness: float, decay: float = 0.0) -> float:
    """The least N/G at which SGD (or sqrt(v)) can be C-close to its SDE; infinite if none is.

    Args:
        closeness: C > 1.
        decay: eta lambda, for SGD with weight decay at equilibrium.
    """
    _check(closeness, decay)
    room = closeness**2 * (1 - decay / 2) - 1
    return 1 / room if room > 0 else math.inf


def largest_factor(ratio: float, closeness: float, decay: float = 0.0) -> float:
    """The largest kappa at which a scaled run can be C-close to the run, C^2 + (C^2 - 1) N/G.

    Args:
        ratio: N/G of the unscaled run; may be infinite.
        closeness, decay: as in `required_noise_to_signal`.
    """
    _check(closeness, decay)
    square = closeness**2
    if math.isinf(ratio):
        return math.inf if decay == 0 else (2 * square - 2 + decay) / (square * decay)
    return (2 * square * (1 + ratio) - ratio * (2 - decay)) / (
        2 - decay + square * (1 + ratio) * decay
    )


def published_largest_factor(ratio: float, closeness: float) -> float:
    """kappa <= C^2 (1 + N/G), the looser published form for small eta lambda."""
    _check(closeness, 0.0)
    return closeness**2 * (1 + ratio)


def scaled_requirement(kappa: float, closeness: float) -> float:
    """The least N'/G' of the run at kappa B: (1 - 1/kappa)/(C^2 - 1) - 1/kappa."""
    _check(closeness, 0.0)
    return (1 - 1 / kappa) / (closeness**2 - 1) - 1 / kappa


def _check(closeness: float, decay: float) -> None:
    if not number(closeness, "closeness") > 1:
        raise InvalidInputError(
            f"closeness is a factor C > 1, the square root of 2 as a rule; got {closeness}."
        )
    if not 0 <= decay < 1:
        raise InvalidInputError(f"eta lambda lies in [0, 1); got {decay}.")
