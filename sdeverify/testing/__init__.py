"""The conformance kit: one call in a plug-in's test-suite says whether it does what it claims.

    check_sde(MySDE, MyOptimizer(learning_rate=0.1))           # moments of one step: a second
    check_weak_order(MySDE, MyOptimizer(learning_rate=0.1))    # weak errors over a horizon: seconds
    check_optimizer(MyOptimizer(learning_rate=0.1))
    check_noise(MyNoise(2))

Each brings a small problem of its own and returns nothing where all is well; otherwise it raises
an AssertionError that says what differs, where, and by how much.
"""

from sdeverify.testing.noise import check_noise
from sdeverify.testing.optimizer import check_optimizer
from sdeverify.testing.sde import check_sde
from sdeverify.testing.weak_order import check_weak_order

__all__ = ["check_noise", "check_optimizer", "check_sde", "check_weak_order"]
