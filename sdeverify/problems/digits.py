"""The handwritten digits that come with scikit-learn: real data in a wheel."""

from __future__ import annotations

import torch
from torch import nn

from sdeverify.base.shapes import Tensor
from sdeverify.errors import InvalidInputError
from sdeverify.problems.module import ModuleProblem, problem_from_module


def digits(samples: int = 1797, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Images `(sample, 64)` with values in [0, 1], and classes `(sample,)`.

    1797 images of 8 x 8 pixels (UCI "Optical Recognition of Handwritten Digits", test set), in the
    order of the data set.
    """
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    if not 1 <= samples <= len(images):
        raise InvalidInputError(f"there are {len(images)} digits; got samples={samples}.")
    inputs = torch.tensor(images[:samples] / 16.0, dtype=dtype)
    return inputs, torch.tensor(classes[:samples])


def perceptron(hidden: int = 16, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """A 64-hidden-10 tanh network, initialised from its own seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10)).to(dtype)


def digits_problem(
    samples: int = 256,
    hidden: int = 16,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> tuple[ModuleProblem, Tensor]:
    """The cross entropy of a small network on the first digits, and its initial parameters."""
    from sdeverify.problems.gradients.parameters import flatten_parameters

    inputs, targets = digits(samples, dtype)
    net = perceptron(hidden, dtype, seed)
    loss = nn.CrossEntropyLoss(reduction="none")
    problem = problem_from_module(net, inputs, targets, loss, device=device)
    return problem, flatten_parameters(net).to(device)
