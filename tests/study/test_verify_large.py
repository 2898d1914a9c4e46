"""A residual net on 50,000 images: the time is told, and memory stays within its budget."""

from __future__ import annotations

import itertools
import resource

import pytest
import torch
from torch import nn

import sdeverify as sv
from sdeverify.base.cutting import ENSEMBLE


class Residual(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.GroupNorm(8, outside),
            nn.ReLU(), nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.GroupNorm(8, outside),
        )  # fmt: skip
        self.short = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.short(x))


def residual_net() -> nn.Sequential:
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    pairs = itertools.pairwise(widths)
    blocks = [Residual(a, b, 1 if a == b else 2) for a, b in pairs]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(Scaled(), nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), *blocks, *head)


class Scaled(nn.Module):
    """Bytes as numbers from 0 to 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() / 255


@pytest.mark.slow
def test_what_a_residual_net_takes_is_told_and_refused_within_the_memory() -> None:
    samples = 50_000
    torch.manual_seed(0)
    net, loss = residual_net(), nn.CrossEntropyLoss(reduction="none")
    inputs = torch.randint(0, 256, (samples, 3, 32, 32), dtype=torch.uint8)
    targets = torch.randint(0, 10, (samples,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(sv.InvalidInputError, match=r"would take about \S+ (hours|days)"):
        sv.verify(net, inputs, targets, loss, optimizer)
    small = {"steps": 1, "replicas": 2, "substeps": 1, "batch_size": 8, "evaluation_samples": 16}
    sv.verify(net, inputs, targets, loss, optimizer, time_limit=None, **small)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < ENSEMBLE
