"""Laws of an SDE in time: matrix exponentials where they fit, else a Runge-Kutta method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.integrate import DOP853
from scipy.linalg import expm

from sdeverify.errors import InvalidInputError
from sdeverify.reference.checks import check_inward, check_resolution
from sdeverify.reference.frames import Coordinates, evaluate, point_frame
from sdeverify.reference.generator import Field, Generator, Term
from sdeverify.reference.grids import Array
from sdeverify.reference.paths import box_paths
from sdeverify.state import State

LARGEST_MATRIX = 600
"""Grid points up to which the exponential of the generator is formed."""
NODES = 16
FEWEST_SPLITS = 6

Coefficients = dict[Term, Array]


class InTime:
    """The generator's coefficients over a time span, interpolated in time.

    Chebyshev nodes, the span halved until the last coefficients are below `tolerance`; a span
    that is still not smooth after many halvings is evaluated afresh at each time.
    """

    def __init__(self, generator: Generator, tolerance: float) -> None:
        self.generator = generator
        self.tolerance = tolerance

    def spans(self, start: float, stop: float, depth: int = 0) -> list[Span]:
        """Pieces that cover the time from start to stop."""
        span = Span(self.generator, start, stop)
        if depth == FEWEST_SPLITS:
            span.direct = not span.resolved(self.tolerance)
            return [span]
        if span.resolved(self.tolerance):
            return [span]
        middle = 0.5 * (start + stop)
        return self.spans(start, middle, depth + 1) + self.spans(middle, stop, depth + 1)


class Span:
    """One piece of time with its interpolated coefficients."""

    def __init__(self, generator: Generator, start: float, stop: float) -> None:
        self.generator, self.start, self.stop = generator, start, stop
        self.direct = False
        s = -np.cos(np.pi * np.arange(NODES + 1) / NODES)
        samples = [generator.coefficients(start + (stop - start) * (1 + x) / 2) for x in s]
        terms = list(dict.fromkeys(term for sample in samples for term in sample))
        to_modes = np.linalg.inv(np.polynomial.chebyshev.chebvander(s, NODES))
        self.modes: dict[Term, Array] = {}
        for term in terms:
            shape = next(x[term].shape for x in samples if term in x)
            stack = np.stack([x.get(term, np.zeros(shape)) for x in samples])
            self.modes[term] = _trimmed(np.tensordot(to_modes, stack, axes=1))

    def resolved(self, tolerance: float) -> bool:
        """Whether the coefficients are interpolated to the tolerance, relative to their size."""
        return all(
            len(m) == 1
            or float(np.abs(m[-2:]).max()) <= tolerance * float(np.abs(m[0]).max())
            or len(m) < NODES
            for m in self.modes.values()
        )

    @property
    def constant(self) -> bool:
        """Whether nothing depends on time."""
        return all(len(m) == 1 for m in self.modes.values())

    def coefficients(self, t: float) -> Coefficients:
        """The coefficients at time t."""
        if self.direct:
            return self.generator.coefficients(t)
        s = (2 * t - self.start - self.stop) / (self.stop - self.start)
        powers = np.polynomial.chebyshev.chebvander(np.array([s]), NODES)[0]
        return {
            term: m[0] if len(m) == 1 else np.tensordot(powers[: len(m)], m, axes=1)
            for term, m in self.modes.items()
        }


def _trimmed(modes: Array) -> Array:
    """The modes without those that are rounding."""
    size = np.abs(modes).reshape(len(modes), -1).max(1)
    above = np.flatnonzero(size > 1e-14 * size.max())
    return modes[: int(above[-1]) + 1] if above.size else modes[:1]


class Continuous:
    """The SDE's side: its generator on grids that hold it from the start to the last step.

    Args:
        sde: read through `f`, `g_prod`, `components`, `noise_dim` and `time_per_level1_step`.
        coordinates: the state's coordinates.
        start: a point.
        last: the last level-1 step, counted from the beginning of training.
        tolerance: of the time integration.
    """

    def __init__(
        self, sde: Any, coordinates: Coordinates, start: State, last: float, tolerance: float
    ) -> None:
        self.clock = float(sde.time_per_level1_step)
        self.begin = start.step * self.clock
        self.at = [c.of(start) for c in coordinates]
        self.tolerance = tolerance
        self.field = Field(sde, coordinates)
        self.span = (self.begin, last * self.clock)
        paths = box_paths(self.field, coordinates, self.at, self.span)
        self.generator = Generator(self.field, paths)

    def check(self, observables: Sequence[Any], names: Sequence[str]) -> None:
        """Refuses grids that do not resolve the drift or an observable, or that the flow leaves."""
        frame = self.generator.frame(self.span[1])
        drift, _ = self.field(self.span[1], frame.values)
        state = State(self.span[1] / self.clock, **frame.components)
        values = [evaluate(o, state).reshape(frame.shape) for o in observables]
        labels = [f"observable '{n}'" for n in names]
        labels += [f"the drift of {c}" for c in frame.coordinates]
        check_resolution(frame, [*values, *drift], labels)
        for axis, coordinate in enumerate(frame.coordinates):
            check_inward(coordinate, drift[axis], axis)

    def expectations(self, steps: Sequence[float], observables: Sequence[Any]) -> Array:
        """E of each observable at the ascending level-1 steps, `(step, observable)`."""
        law = self.generator.frame(self.begin).point_mass(self.at)
        spans = InTime(self.generator, 0.01 * self.tolerance).spans(*self.span)
        evolve = Evolution(self.generator, spans, self.tolerance)
        rows, now = [], self.begin
        for step in steps:
            time = step * self.clock
            if time <= self.begin:
                point = point_frame(self.field.coordinates, self.at)
                rows.append(point.expectations(np.ones((1,) * len(self.at)), step, observables))
                continue
            law = evolve(law, now, time)
            now = time
            rows.append(self.generator.frame(time).expectations(law, step, observables))
        return np.stack(rows)


class Evolution:
    """Carries a law from one time to a later one."""

    def __init__(self, generator: Generator, spans: Sequence[Span], tolerance: float) -> None:
        self.generator, self.spans, self.tolerance = generator, list(spans), tolerance
        self._exponentials: dict[float, Array] = {}
        self._last_step: float | None = None

    def __call__(self, law: Array, start: float, stop: float) -> Array:
        if stop <= start:
            return law
        if len(self.spans) == 1 and self.spans[0].constant and law.size <= LARGEST_MATRIX:
            return (law.ravel() @ self._exponential(stop - start)).reshape(law.shape)
        for span in self.spans:
            first, last = max(start, span.start), min(stop, span.stop)
            if first < last:
                law = self._integrate(law, span, first, last)
        return law

    def _exponential(self, duration: float) -> Array:
        key = float(f"{duration:.12e}")
        if key not in self._exponentials:
            span = self.spans[0]
            shape = self.generator.frame(span.start).shape
            size = int(np.prod(shape))
            rows = np.eye(size).reshape(size, *shape)
            matrix = self.generator.apply(rows, span.coefficients(span.start))
            self._exponentials[key] = expm(duration * matrix.reshape(size, size))
        return self._exponentials[key]

    def _integrate(self, law: Array, span: Span, start: float, stop: float) -> Array:
        shape = law.shape
        constant = span.coefficients(start) if span.constant else None

        def slope(t: float, r: Array) -> Array:
            coefficients = span.coefficients(t) if constant is None else constant
            return self.generator.apply(r.reshape(shape), coefficients).ravel()

        guess = None if self._last_step is None else min(self._last_step, stop - start)
        solver = DOP853(
            slope,
            start,
            law.ravel(),
            stop,
            first_step=guess,
            rtol=self.tolerance,
            atol=self.tolerance * 1e-2,
        )
        while solver.status == "running":
            message = solver.step()
            if solver.status == "failed" or not np.isfinite(solver.y).all():
                raise InvalidInputError(
                    f"the law of {type(self.generator.field.sde).__name__} could not be followed "
                    f"beyond t = {solver.t:.6g} ({message or 'not finite'}). Give more points, or "
                    "a domain on whose ends the drift points inward."
                )
            if solver.t < stop:
                self._last_step = solver.step_size
        return np.asarray(solver.y).reshape(shape)
