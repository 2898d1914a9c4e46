"""An Euler-Maruyama step in compiled form: one reading of the state and its noise, one writing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch

from sdeverify.compiling import compiled
from sdeverify.errors import UnsupportedError
from sdeverify.noise.covariance import GradientValues
from sdeverify.sdes.sde import GradientSDE
from sdeverify.shapes import Tensor
from sdeverify.steppers.increments import Increment, Increments, Move


@dataclass(frozen=True)
class CompiledMove:
    """`increments.move`, compiled for each new length of the step and each new shape.

    The gradient is part of the compiled step, except where the problem compiles its gradients
    itself. Time and learning rate are arguments. An SDE that cannot be traced (because its `rest`
    needs `t` to be a number, say) is moved as it is, with a warning.
    """

    sde: GradientSDE
    increments: Increments
    _ready: dict[tuple[object, ...], Move] = field(default_factory=dict)

    @cached_property
    def _data(self) -> dict[str, Tensor]:
        arguments = self.sde.oracle.problem.arguments()
        return {f"data.{i}": value for i, value in enumerate(arguments)}

    def __call__(self, t: float, y: dict[str, Tensor], increment: Increment) -> dict[str, Tensor]:
        """The state after one step."""
        drawn = increment.noise
        key = (increment.dt, drawn.shape, drawn.dtype, y["theta"].shape, increment.indices is None)
        if key not in self._ready:
            self.increments.move(self.sde, t, y, increment)  # what it refuses is refused here
            self._ready[key] = self._made(t, y, increment)
        return self._ready[key](t, y, increment)

    def _made(self, t: float, y: dict[str, Tensor], increment: Increment) -> Move:
        try:
            fast = self._compiled(t, y, increment)
        except UnsupportedError as error:
            warnings.warn(
                f"{type(self.sde).__name__}'s step is not compiled: {error} Write what depends on "
                "t for a tensor without dimensions.",
                stacklevel=2,
            )
            return partial(self.increments.move, self.sde)

        def step(t: float, y: dict[str, Tensor], increment: Increment) -> dict[str, Tensor]:
            found = fast(*(x.contiguous() for x in self._given(t, y, increment).values()))
            return dict(zip(y, found, strict=True))

        return step

    def _compiled(
        self, t: float, y: dict[str, Tensor], increment: Increment
    ) -> Callable[..., tuple[Tensor, ...]]:
        names = tuple(self._given(t, y, increment))

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            given = dict(zip(names, tensors, strict=True))
            state = {name: given[f"y.{name}"] for name in y}
            sde = self._at(given)
            values = self._values(sde, state, increment.dt, given)
            moved = sde.euler(given["t"], state, increment.dt, values)
            return tuple(moved[name] for name in y)

        return compiled(function, [x.detach() for x in self._given(t, y, increment).values()])

    def _at(self, given: Mapping[str, Tensor]) -> GradientSDE:
        """The SDE whose learning rate and data are arguments."""
        sde = self.sde
        if "noise" in given:
            data = [value for name, value in given.items() if name.startswith("data.")]
            oracle = replace(sde.oracle, problem=sde.oracle.problem.within(data))
            sde = replace(sde, oracle=oracle)
        if "ratio" not in given:
            return sde
        return replace(sde, learning_rate_ratio=lambda step: given["ratio"])

    def _given(self, t: float, y: dict[str, Tensor], increment: Increment) -> dict[str, Tensor]:
        """All arguments by name."""
        theta = y["theta"]
        given = {"t": torch.scalar_tensor(t, dtype=torch.float64, device=theta.device)}
        if self.sde.learning_rate_ratio is not None:
            ratio = self.sde.ratio(t)
            kind = ratio.dtype if isinstance(ratio, Tensor) else torch.float64
            given["ratio"] = torch.as_tensor(ratio, dtype=kind, device=theta.device)
        given |= {f"y.{name}": value for name, value in y.items()}
        if not self.increments.together(self.sde, len(theta)):
            values = self.increments.evaluate(self.sde, theta, increment)
            return given | {k: v for k, v in values._asdict().items() if v is not None}
        given["noise"] = increment.noise
        given |= self._data
        return given if increment.indices is None else given | {"indices": increment.indices}

    def _values(
        self, sde: GradientSDE, state: dict[str, Tensor], dt: float, given: Mapping[str, Tensor]
    ) -> GradientValues:
        """The gradient's increment and moments, found before or to be found."""
        if "noise" not in given:
            return GradientValues(given["increment"], given.get("mean"), given.get("variance"))
        increment = Increment(dt, given["noise"], given.get("indices"))
        return self.increments.evaluate(sde, state["theta"], increment)
