"""The networks that are measured, on handwritten digits or on random images."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from sdeverify.base.shapes import Tensor
from sdeverify.problems.digits import digits
from sdeverify.problems.module import ModuleProblem, problem_from_module

CLASSES = 10


class Subject(NamedTuple):
    """A network with its data, and the shape that it wants one input in."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


def perceptron(*widths: int) -> nn.Module:
    """A tanh network with these layer widths."""
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def small_cnn(times: int = 1) -> nn.Module:
    """Two convolutions and two linear layers on 8 x 8 images: 19,454 parameters.

    Its hidden layers can be made so many `times` wider.
    """
    return nn.Sequential(
        nn.Conv2d(1, 16 * times, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16 * times, 32 * times, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(512 * times, 28 * times),
        nn.ReLU(),
        nn.Linear(28 * times, CLASSES),
    )


class SmallTransformer(nn.Module):
    """One encoder layer over the 8 rows of an image as tokens: 9,162 parameters."""

    positions: Tensor

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.encoder = nn.TransformerEncoderLayer(
            width, heads, dim_feedforward=2 * width, dropout=0.0, batch_first=True
        )
        self.head = nn.Linear(width, CLASSES)
        self.register_buffer("positions", _sinusoids(8, width))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores `(sample, class)` of images `(sample, 8, 8)`."""
        tokens: Tensor = self.encoder(self.embed(x) + self.positions)
        scores: Tensor = self.head(tokens.mean(1))
        return scores


def _sinusoids(length: int, width: int) -> Tensor:
    """Fixed positions (Vaswani et al. 2017, arXiv 1706.03762, section 3.5)."""
    angle = torch.arange(length).unsqueeze(1) * torch.exp(
        torch.arange(0, width, 2) * (-math.log(10_000.0) / width)
    )
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with group normalisation, and a shortcut that has no parameters."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(8, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(8, width)
        self.stride, self.added = stride, width - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Images `(sample, inputs, h, w)` to `(sample, width, h / stride, w / stride)`."""
        h = torch.relu(self.first_norm(self.first(x)))
        h = self.second_norm(self.second(h))
        short = x[:, :, :: self.stride, :: self.stride]
        padded = nn.functional.pad(short, (0, 0, 0, 0, 0, self.added))
        return torch.relu(h + padded)


def residual_network(width: int = 16, blocks: int = 3, channels: int = 3) -> nn.Module:
    """ResNet of 6 blocks + 2 layers for small images (He et al. 2016, arXiv 1512.03385, 4.2).

    With the defaults it is ResNet-20, with GroupNorm in place of BatchNorm: 269,722 parameters.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.GroupNorm(8, width),
        nn.ReLU(),
    ]
    inputs = width
    for stage in range(3):
        for block in range(blocks):
            outputs = width * 2**stage
            layers.append(ResidualBlock(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES)]
    return nn.Sequential(*layers)


MLP = Subject("MLP 64-64-10", lambda: perceptron(64, 64, CLASSES), (64,))
CNN = Subject("CNN 19k", small_cnn, (1, 8, 8))
TRANSFORMER = Subject("transformer 9k", SmallTransformer, (8, 8))


def on_digits(
    subject: Subject,
    samples: int,
    device: str,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
) -> tuple[ModuleProblem, nn.Module, Tensor, Tensor]:
    """The problem of a network on the first digits, the network itself, inputs and targets."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = subject.build().to(device, dtype)
    flat, targets = digits(samples, dtype)
    inputs, targets = flat.reshape(-1, *subject.shape).to(device), targets.to(device)
    loss = nn.CrossEntropyLoss(reduction="none")
    problem = problem_from_module(net, inputs, targets, loss, compiled=compiled)
    return problem, net, inputs, targets
