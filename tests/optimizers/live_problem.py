"""A small net with data, as a problem that finds the net's live parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.func import functional_call

from sdeverify.errors import InvalidInputError
from sdeverify.problems.problem import FunctionProblem

SAMPLES = 8


def small_net(dtype: torch.dtype = torch.float64) -> torch.nn.Sequential:
    """Three inputs, four hidden units, one output; 21 parameters."""
    generator = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return net.to(dtype)


@dataclass(frozen=True)
class LiveProblem(FunctionProblem):
    """A FunctionProblem of a net's losses which knows the net's own parameters."""

    live: tuple[torch.nn.Parameter, ...] = ()
    parameter_slices: dict[str, slice] | None = None

    def slices_of(self, parameters: Sequence[torch.nn.Parameter]) -> list[slice]:
        assert self.parameter_slices is not None
        places = dict(zip(map(id, self.live), self.parameter_slices.values(), strict=True))
        if any(id(p) not in places for p in parameters):
            raise InvalidInputError("a parameter is not the net's")
        return [places[id(p)] for p in parameters]


def live_problem(net: torch.nn.Module) -> LiveProblem:
    """The mean squared error of a net on fixed random data; theta is in the order of its parameters."""
    named = dict(net.named_parameters())
    places, first = {}, 0
    for name, parameter in named.items():
        places[name] = slice(first, first + parameter.numel())
        first += parameter.numel()
    dtype = next(iter(named.values())).dtype
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SAMPLES, 3, generator=generator, dtype=torch.float64).to(dtype)
    inputs[:, 2] = 0.0
    targets = torch.randn(SAMPLES, 1, generator=generator, dtype=torch.float64).to(dtype)

    def losses(theta: torch.Tensor) -> torch.Tensor:
        values = {n: theta[places[n]].reshape(p.shape) for n, p in named.items()}
        return (functional_call(net, values, (inputs,)) - targets).square().sum(-1)

    return LiveProblem(
        losses,
        dim=first,
        samples=SAMPLES,
        dtype=dtype,
        live=tuple(named.values()),
        parameter_slices=places,
    )


def flat(net: torch.nn.Module) -> torch.Tensor:
    """A copy of the net's parameters as theta."""
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


def feed(net: torch.nn.Module, gradient: torch.Tensor) -> None:
    """Sets the net's gradients to the parts of a flat one."""
    for parameter, part in zip(
        net.parameters(), gradient.split([p.numel() for p in net.parameters()]), strict=True
    ):
        parameter.grad = part.reshape(parameter.shape).clone()
