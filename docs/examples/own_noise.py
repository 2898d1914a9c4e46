"""A noise of one's own: batches by importance, g = (1/B) sum_j grad l_i(j)/(N p_i(j)), i ~ p."""

from dataclasses import dataclass, replace

import torch

import sdeverify as sv
from sdeverify.noise.covariance import Covariance
from sdeverify.noise.minibatch import whole_batch
from sdeverify.noise.noise import Atoms
from sdeverify.testing import check_noise
from sdeverify.testing.faults import correct_studies


@dataclass(frozen=True, eq=False)
class ImportanceCovariance(Covariance):
    p: torch.Tensor  # Sigma = sum_i p_i d_i d_i^T with d_i = grad l_i/(N p_i) - grad f

    def dimension(self, problem):
        return problem.samples

    def product(self, problem, theta, z):  # F z = sum_i sqrt(p_i) d_i z_i: one weighted gradient
        root = self.p.to(z).sqrt()
        return problem.weighted_gradient(theta, (z / root - z @ root[:, None]) / problem.samples)

    def mean_and_variance(self, problem, theta):
        g = problem.per_sample_gradients(theta)
        mean = g.mean(1)
        second = torch.einsum("i,rid->rd", 1 / (self.p.to(g) * problem.samples**2), g.square())
        return mean, second - mean.square()


@dataclass(frozen=True, eq=False)
class ImportanceNoise(sv.Noise):
    batch_size: int
    p: torch.Tensor  # the samples' probabilities

    @property
    def covariance(self):
        return ImportanceCovariance(self.p)

    def scale(self, problem):
        return self.batch_size**-0.5

    def draw(self, problem, streams, k):  # the samples' weights, (replica, sample)
        drawn = streams.uniform(self.batch_size)
        return self.weights(torch.searchsorted(self.p.cumsum(0)[:-1].to(drawn), drawn))

    def weights(self, i):
        each = 1 / (len(self.p) * self.batch_size * self.p[i])
        return torch.zeros(len(i), len(self.p)).to(each).scatter_add_(1, i, each)

    def combine(self, coefficients, draws):
        return sum(c * weights for c, weights in zip(coefficients, draws, strict=True))

    def gradient(self, problem, theta, draw):
        return problem.weighted_gradient(theta, draw.to(theta))

    def describe(self, problem):
        return f"batches of {self.batch_size} out of {problem.samples} samples, by importance"

    def of_batch(self, kappa, problem):  # for sv.scale_batch and scaling studies
        return replace(self, batch_size=whole_batch(self.batch_size, kappa, problem.samples))

    def atoms(self, problem):  # for certificates: every batch
        every = torch.cartesian_prod(*[torch.arange(len(self.p))] * self.batch_size)
        picks = every.reshape(-1, self.batch_size)
        w, each = self.weights(picks), problem.per_sample_gradients
        return Atoms(self.p[picks].prod(1), lambda x: torch.einsum("ai,pid->pad", w, each(x)))


if __name__ == "__main__":
    study = correct_studies()["sgd"]  # six losses of one parameter
    noise = ImportanceNoise(2, torch.tensor([3, 1, 2, 1, 1, 2]).double() / 10)
    check_noise(noise, study.oracle.problem)
    study = replace(study, name="importance", oracle=replace(study.oracle, noise=noise))
    parts = sv.certify(study)["importance"]
    order, flow = parts["order"].to_dataset(), parts["flow_order"].to_dataset()
    print(sv.overall_verdict(order, flow=flow))
