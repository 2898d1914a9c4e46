"""An Euler-Maruyama step in compiled form: one reading of the state and its noise, one writing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch

from sdeverify.base.compiling import compiled
from sdeverify.base.shapes import Tensor
from sdeverify.ensembles.steppers.increments import Increment, Increments, Move
from sdeverify.errors import UnsupportedError
from sdeverify.noise.covariance import GradientValues
from sdeverify.sdes.sde import GradientSDE


@dataclass(frozen=True)
class CompiledMove:
    """`increments.move`, compiled for each new length of the step and each new shape.

    The gradient is part of the compiled step, except where the problem compiles its gradients
    itself. Time, learning rate and data are arguments. An SDE that cannot be traced (because its
    `rest` needs `t` to be a number, say) is moved as it is, with a warning.
    """

    sde: GradientSDE
    increments: Increments
    _ready: dict[tuple[object, ...], Move] = field(default_factory=dict)

    def __call__(self, t: float, y: dict[str, Tensor], increment: Increment) -> dict[str, Tensor]:
        """The state after one step."""
        dt, noise, indices = increment
        key = (dt, noise.shape, noise.dtype, y["theta"].shape, indices is None)
        move = self._ready.get(key)
        if move is None:
            self.increments.move(self.sde, t, y, increment)  # what it refuses is refused here
            move = self._ready[key] = self._made(t, y, increment)
        return move(t, y, increment)

    def _made(self, t: float, y: dict[str, Tensor], increment: Increment) -> Move:
        with_gradient = self.increments.together(self.sde, len(y["theta"])) > 0
        tensors_of = self._with_noise if with_gradient else self._with_values
        examples = [x.detach().contiguous() for x in tensors_of(t, y, increment)]

        def function(*arguments: Tensor) -> tuple[Tensor, ...]:
            moved = self._traced(iter(arguments), y, increment, with_gradient)
            return tuple(moved[name] for name in y)

        try:
            fast = compiled(function, examples)
        except UnsupportedError as error:
            warnings.warn(
                f"{type(self.sde).__name__}'s step is not compiled: {error} Write what depends on "
                "t for a tensor without dimensions.",
                stacklevel=2,
            )
            return partial(self.increments.move, self.sde)

        def move(t: float, y: dict[str, Tensor], increment: Increment) -> dict[str, Tensor]:
            components = fast(*[x.contiguous() for x in tensors_of(t, y, increment)])
            return dict(zip(y, components, strict=True))

        return move

    def _with_noise(self, t: float, y: dict[str, Tensor], increment: Increment) -> list[Tensor]:
        """Arguments of a step with its gradient: time, rate, state, noise, indices, data."""
        drawn = [increment.noise] if increment.indices is None else list(increment[1:])
        return [*self._clock(t, y), *y.values(), *drawn, *self._data]

    def _with_values(self, t: float, y: dict[str, Tensor], increment: Increment) -> list[Tensor]:
        """Arguments of the state's update: time, rate, state, the gradient's increment, moments."""
        values = self.increments.evaluate(self.sde, y["theta"], increment)
        return [*self._clock(t, y), *y.values(), *(x for x in values if x is not None)]

    def _traced(
        self, given: Iterator[Tensor], y: dict[str, Tensor], like: Increment, with_gradient: bool
    ) -> dict[str, Tensor]:
        """The step, from arguments in the order of the two above."""
        sde, t = self.sde, next(given)
        if sde.learning_rate_ratio is not None:
            ratio = next(given)
            sde = replace(sde, learning_rate_ratio=lambda step: ratio)
        state = {name: next(given) for name in y}
        if not with_gradient:
            values = GradientValues(next(given), next(given, None), next(given, None))
            return sde.euler(t, state, like.dt, values)
        noise = next(given)
        indices = None if like.indices is None else next(given)
        oracle = replace(sde.oracle, problem=sde.oracle.problem.within(list(given)))
        sde = replace(sde, oracle=oracle)
        values = self.increments.evaluate(sde, state["theta"], Increment(like.dt, noise, indices))
        return sde.euler(t, state, like.dt, values)

    def _clock(self, t: float, y: dict[str, Tensor]) -> list[Tensor]:
        """Time and, where it changes, the learning rate, as tensors."""
        place = y["theta"].device
        time = torch.scalar_tensor(t, dtype=torch.float64, device=place)
        if self.sde.learning_rate_ratio is None:
            return [time]
        ratio = self.sde.ratio(t)
        kind = ratio.dtype if isinstance(ratio, Tensor) else torch.float64
        return [time, torch.as_tensor(ratio, dtype=kind, device=place)]

    @cached_property
    def _data(self) -> tuple[Tensor, ...]:
        return self.sde.oracle.problem.arguments()
