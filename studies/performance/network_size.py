"""The cost of an SDE step against the size of the network, by three ways to make its noise.

(a) dense: per-sample gradients, the covariance matrix, and a root of it, by an eigendecomposition
    or by Cholesky (on Sigma + a small multiple of the identity);
(b) per-sample gradients by vmap(grad), weighted by normals;
(c) ours: one weighted gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.func import functional_call, grad, vmap

from sdeverify.base.shapes import Float, Tensor, Vector
from sdeverify.benchmarks.measuring import Effort, Work, interleaved
from sdeverify.benchmarks.nets import Subject, on_digits, perceptron
from sdeverify.benchmarks.steps import FORMS, SAMPLES, one_step, plain_gradient

HIDDEN = (1, 4, 13, 64, 133, 1333, 13_333)
EIGEN, CHOLESKY, PER_SAMPLE, OURS = (
    "dense covariance, eigendecomposition",
    "dense covariance, Cholesky",
    "per-sample gradients, vmap(grad)",
    "one weighted gradient (ours)",
)
LARGEST = {EIGEN: 1000, CHOLESKY: 5000}
"""Parameters up to which a way is measured; beyond, a step takes minutes or the matrix no room."""
CHUNK = 128 << 20
"""Bytes of per-sample gradients that are held at a time."""
STEP, NOISE = 0.1, 0.1
"""Length of the step, and the noise's standard deviation over it."""


class Point(NamedTuple):
    """Seconds of one step of each way, for one size."""

    parameters: int
    plain: float
    seconds: dict[str, float]


def point(hidden: int, effort: Effort) -> Point:
    """A 64-hidden-10 network on all digits, one replica."""
    subject = Subject("", lambda: perceptron(64, hidden, 10), (64,))
    problem, net, inputs, targets = on_digits(subject, SAMPLES, effort.device)
    loss = torch.nn.functional.cross_entropy
    layout, theta = problem.model.layout, problem.reference

    def sample_gradients(part: slice) -> Float[Tensor, "n param"]:
        def one(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return loss(functional_call(net, values, (x.unsqueeze(0),)), y.unsqueeze(0))

        each = vmap(grad(one), in_dims=(None, 0, 0))
        found = each(layout.unflatten(theta), inputs[part], targets[part])
        return layout.flatten(found, 1)

    works: dict[str, Work] = {"plain": plain_gradient(net, inputs, targets)}
    works[OURS] = one_step(FORMS[0].stepper(problem), theta, 1)
    works[PER_SAMPLE] = lambda: per_sample_step(theta, sample_gradients)
    for name, root in ((EIGEN, eigen_noise), (CHOLESKY, cholesky_noise)):
        if problem.dim <= LARGEST[name]:
            works[name] = _dense(theta, sample_gradients, root)
    seconds = interleaved(works, effort)
    plain = seconds.pop("plain")
    return Point(problem.dim, plain, seconds)


def per_sample_step(theta: Vector, sample_gradients: Callable[[slice], Tensor]) -> Tensor:
    """theta - h grad f - s F xi from the gradients of all samples, some at a time."""
    n = SAMPLES
    xi = torch.randn(n, dtype=theta.dtype, device=theta.device)
    weights = STEP / n + NOISE / n**0.5 * (xi - xi.mean())
    each = max(1, CHUNK // (theta.numel() * theta.element_size()))
    moved = theta.clone()
    for i in range(0, n, each):
        part = slice(i, min(i + each, n))
        moved -= weights[part] @ sample_gradients(part)
    return moved


def dense_step(
    theta: Vector,
    sample_gradients: Callable[[slice], Tensor],
    noise: Callable[[Tensor], Tensor],
) -> Tensor:
    """theta - h grad f - s Sigma^(1/2) xi with Sigma as a matrix."""
    gradients = sample_gradients(slice(0, SAMPLES))
    mean = gradients.mean(0)
    deviations = gradients - mean
    covariance = deviations.mT @ deviations / len(gradients)
    return theta - STEP * mean - NOISE * noise(covariance)


def _dense(
    theta: Tensor, sample_gradients: Callable[[slice], Tensor], noise: Callable[[Tensor], Tensor]
) -> Work:
    return lambda: dense_step(theta, sample_gradients, noise)


def eigen_noise(covariance: Float[Tensor, "param param"]) -> Vector:
    """Sigma^(1/2) xi by an eigendecomposition."""
    values, vectors = torch.linalg.eigh(covariance)
    xi = torch.randn(len(values), dtype=values.dtype, device=values.device)
    noise: Tensor = vectors @ (values.clamp_min(0).sqrt() * xi)
    return noise


def cholesky_noise(covariance: Float[Tensor, "param param"]) -> Vector:
    """L xi with L L^T = Sigma + delta I; Sigma alone is singular, of rank N - 1 at most."""
    size = len(covariance)
    shift = 1e-4 * covariance.diagonal().mean() + torch.finfo(covariance.dtype).tiny
    shifted = covariance + shift * torch.eye(size, dtype=covariance.dtype).to(covariance.device)
    xi = torch.randn(size, dtype=covariance.dtype, device=covariance.device)
    noise: Tensor = torch.linalg.cholesky(shifted) @ xi
    return noise
