"""Predicted before the fact, and found: how far the scaling rules hold on handwritten digits.

sdeverify report studies/validity
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

import sdeverify as sv
from sdeverify.ensembles import measures
from sdeverify.problems.digits import digits, digits_problem


def normalised_network(hidden: int, seed: int = 0) -> nn.Module:
    """Two layers whose scale does not matter, each normalised after it, and a frozen last one.

    The normalisation adds no constant to the variance and has no parameters, so that the loss of
    every sample is a function of each layer's direction alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)

        def layer(width: int) -> list[nn.Module]:
            norm = nn.LayerNorm(hidden, eps=1e-12, elementwise_affine=False)
            return [nn.Linear(width, hidden, bias=False), norm, nn.Tanh()]

        last = nn.Linear(hidden, 10, bias=False)
        last.weight.data *= 4.0
        last.requires_grad_(False)
        return nn.Sequential(*layer(64), *layer(hidden), last)


def build(
    samples: int = 512,
    hidden: int = 16,
    batch_sizes: Sequence[int] = (2, 8, 32),
    starts: Sequence[int] = (64, 256, 768),
    kappas: Sequence[float] = (2, 4, 8, 16, 32),
    replicas: int = 512,
    steps: int = 192,
    equilibrium_batches: Sequence[int] = (4, 16),
    equilibrium_steps: int = 2048,
    equilibrium_replicas: int = 256,
    path_replicas: int = 128,
    seed: int = 0,
    device: str = "cpu",
) -> Sequence[sv.ScalingStudy]:
    """SGD and Adam at three points of training and three batch sizes; SGD at equilibrium."""
    problem, theta0 = digits_problem(samples, hidden, device=device)
    optimizers = (
        sv.SGD(learning_rate=0.05),
        sv.Adam(learning_rate=0.002, beta1=0.97, beta2=0.98, epsilon=1e-2),
    )

    def study(optimizer: sv.Optimizer, batch: int, warm: int) -> sv.ScalingStudy:
        oracle = sv.GradientOracle(problem, sv.MinibatchNoise(batch))
        return sv.ScalingStudy(
            name=f"{optimizer.name.lower()}-batch-{batch}-step-{warm}",
            title=f"{optimizer.name}, batch {batch}, from step {warm}",
            optimizer=optimizer,
            oracle=oracle,
            start=sv.warm_up(optimizer, oracle, theta0, steps=warm, seed=seed),
            kappas=[kappa for kappa in kappas if kappa * batch <= samples],
            rules=["auto"],
            steps=steps,
            replicas=replicas,
            prediction_steps=steps,
            prediction_replicas=64,
            seed=seed,
            start_note=f"{warm} warm-up steps of {optimizer.name} from torch's initial state",
        )

    def equilibrium() -> Iterator[sv.ScalingStudy]:
        inputs, targets = digits(samples)
        net = normalised_network(hidden)
        loss = nn.CrossEntropyLoss(reduction="none")
        normalised = sv.problem_from_module(net, inputs, targets, loss, device=device)
        flat = sv.flatten_parameters(net).to(device)
        for batch in equilibrium_batches:
            times = batch / 4
            optimizer = sv.SGD(learning_rate=0.25 * times, weight_decay=0.004)
            oracle = sv.GradientOracle(normalised, sv.MinibatchNoise(batch))
            length = round(equilibrium_steps / times)
            yield sv.ScalingStudy(
                name=f"normalised-batch-{batch}",
                title=f"SGD on a normalised network, batch {batch}, at equilibrium",
                optimizer=optimizer,
                oracle=oracle,
                start=sv.warm_up(optimizer, oracle, flat, steps=2 * length, seed=seed),
                kappas=[kappa for kappa in kappas if kappa <= 16 and kappa * batch <= samples],
                rules=["auto"],
                steps=[length * k / 16 for k in range(1, 17)],
                observables=[measures.loss(normalised)],
                replicas=equilibrium_replicas,
                block_size=32,
                prediction_steps=min(256, length),
                prediction_replicas=64,
                path_replicas=path_replicas if times == 1 else 0,
                subsample=16,
                seed=seed,
                start_note=(
                    f"{2 * length} warm-up steps of {optimizer.name}; |θ|² relaxes in about "
                    f"{1 / (4 * optimizer.learning_rate * 0.004):.0f}"
                ),
            )

    return [
        *(study(o, batch, warm) for o in optimizers for batch in batch_sizes for warm in starts),
        *equilibrium(),
    ]


STUDY = sv.Campaign(
    name="validity",
    title="Can it be foreseen how far a scaling rule holds?",
    question=(
        "A short run at batch B gives its signal G = E|∇f|² and noise N = tr Σ/B, without bias. "
        "From them follows a limit of the batch factor κ up to which scaled runs can be close: "
        "|∇f|², tr Σ and |θ|² (SGD, at the equilibrium of a scale-invariant loss with weight "
        "decay), √v (Adam), each within a factor √2. Scaled runs then show where closeness is "
        "lost: at several points of training and batch sizes, and, for SGD, also at the "
        "equilibrium of a normalised network, for which its limit is derived."
    ),
    build=build,
    command="sdeverify report studies/validity",
)
