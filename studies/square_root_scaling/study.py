"""The square-root scaling rule on handwritten digits: RMSprop and AdamW.

sdeverify report studies/square_root_scaling
"""

from __future__ import annotations

from collections.abc import Sequence

import sdeverify as sv
from sdeverify.ensembles import measures
from sdeverify.problems.digits import digits_problem


def build(
    samples: int = 512,
    hidden: int = 16,
    batch_size: int = 2,
    kappas: Sequence[float] = (2, 4, 8, 16, 32),
    replicas: int = 512,
    steps: int = 256,
    warm: int = 256,
    tolerance: float = 0.2,
    seed: int = 0,
    device: str = "cpu",
) -> Sequence[sv.ScalingStudy]:
    """The square-root rule against linear, each beta fixed, epsilon fixed, and nothing moved."""
    problem, theta0 = digits_problem(samples, hidden, device=device)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(batch_size))

    def study(name: str, title: str, optimizer: sv.Optimizer) -> sv.ScalingStudy:
        return sv.ScalingStudy(
            name=name,
            title=title,
            optimizer=optimizer,
            oracle=oracle,
            start=sv.warm_up(optimizer, oracle, theta0, steps=warm, seed=seed),
            kappas=kappas,
            steps=steps,
            observables=[measures.loss(problem), measures.squared_parameter_norm()],
            replicas=replicas,
            tolerance=tolerance,
            prediction_steps=steps,
            seed=seed,
            start_note=f"{warm} warm-up steps of {optimizer.name} from torch's initial state",
        )

    rmsprop = sv.RMSprop(learning_rate=0.002, beta=0.98, epsilon=1e-2)
    adamw = sv.Adam(
        learning_rate=0.002, beta1=0.97, beta2=0.98, epsilon=1e-2, decoupled_weight_decay=0.5
    )
    return [study("rmsprop", "RMSprop", rmsprop), study("adamw", "AdamW", adamw)]


STUDY = sv.Campaign(
    name="square_root_scaling",
    title="The square-root scaling rule on handwritten digits",
    question=(
        "The batch grows from B to κB. For RMSprop and AdamW the square-root rule, η → √κ η, "
        "1 − β → κ(1 − β), ε → ε/√κ, λ → √κ λ, keeps the SDE. Rivals: the linear rule, each β "
        "fixed, ε fixed, nothing moved. How far does each keep the run that it scales, and was "
        "that foreseen?"
    ),
    build=build,
    command="sdeverify report studies/square_root_scaling",
)
