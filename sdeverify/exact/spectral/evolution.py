"""Laws of an SDE in time: matrix exponentials where they fit, else a Runge-Kutta method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.integrate import DOP853
from scipy.linalg import expm

from sdeverify.base.state import State
from sdeverify.exact.spectral.checks import check_inward, check_resolution
from sdeverify.exact.spectral.frames import Frame, evaluate, point_frame
from sdeverify.exact.spectral.generator import Field, Generator, Term
from sdeverify.exact.spectral.grids import Array, GridError
from sdeverify.exact.spectral.pilot import pilot
from sdeverify.exact.spectral.refinement import Family, keep_to_time

LARGEST_MATRIX = 800
"""Grid points up to which the exponential of the generator is formed."""
LARGEST_MOVING_MATRIX = 80
"""The same where it is formed afresh for every piece of the time."""
LOOKS = 24
"""Times at which it is looked where the law is."""
NODES = 8
MOST_SPLITS = 6

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
        if depth == MOST_SPLITS:
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
        self.modes: dict[Term, Array]
        s = -np.cos(np.pi * np.arange(NODES + 1) / NODES)
        ends = [generator.coefficients(t) for t in (start, stop)]
        if _same(*ends):
            self.modes = {term: values[None] for term, values in ends[0].items()}
            return
        samples = [generator.coefficients(start + (stop - start) * (1 + x) / 2) for x in s]
        terms = list(dict.fromkeys(term for sample in samples for term in sample))
        to_modes = np.linalg.inv(np.polynomial.chebyshev.chebvander(s, NODES))
        self.modes = {}
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


def _same(a: Coefficients, b: Coefficients) -> bool:
    """Whether coefficients are the same to the last digit."""
    return a.keys() == b.keys() and all(np.array_equal(a[term], b[term]) for term in a)


def _trimmed(modes: Array) -> Array:
    """The modes without those that are rounding."""
    size = np.abs(modes).reshape(len(modes), -1).max(1)
    above = np.flatnonzero(size > 1e-14 * size.max())
    return modes[: int(above[-1]) + 1] if above.size else modes[:1]


class Continuous:
    """The SDE's side: its generator on grids that follow the law from piece to piece of the time.

    Args:
        sde: read through `f`, `g_prod`, `components`, `noise_dim` and `time_per_level1_step`.
        grids: one for each of the state's coordinates, and the pieces of the time.
        start: a point.
        steps: the ascending level-1 steps to record, the start's first.
        tolerance: of the time integration.
    """

    def __init__(
        self,
        sde: Any,
        grids: Family,
        start: State,
        steps: Sequence[float],
        tolerance: float,
    ) -> None:
        self.clock = float(sde.time_per_level1_step)
        self.steps = list(steps)
        coordinates = grids.coordinates
        self.at = [c.of(start) for c in coordinates]
        self.tolerance = tolerance
        self.coordinates = coordinates
        self.field = Field(sde, coordinates)
        self.found = [c for c, x in enumerate(coordinates) if x.axis.box_is_found]
        self.times = self._cut(grids.pieces)
        self.still = grids.pieces == 1
        if self.found:
            checkpoints = np.union1d(self.times, self._cut(LOOKS))
            self.pilot = pilot(
                self.field.move, coordinates, int(sde.noise_dim), self.at, checkpoints
            )

    def _cut(self, pieces: int) -> Array:
        """The times at which boxes may change; recorded times are among them."""
        times = [s * self.clock for s in self.steps]
        longest = (times[-1] - times[0]) / pieces
        cut = [times[0]]
        for begin, end in pairwise(times):
            count = max(1, math.ceil((end - begin) / longest - 1e-9))
            cut += [begin + (end - begin) * i / count for i in range(1, count)] + [end]
        return np.array(cut)

    def frame(self, begin: float, end: float) -> Frame:
        """The grids that hold the law from begin to end, or at all times where they are still."""
        if self.still:
            begin, end = self.times[0], self.times[-1]
        grids = []
        for c, coordinate in enumerate(self.coordinates):
            low, high = 0.0, 0.0
            if c in self.found:
                low, high = self.pilot.box(c, coordinate.axis, begin, end)
            grids.append(coordinate.axis.grid(low, high))
        return Frame(self.coordinates, tuple(grids))

    @property
    def box_lengths(self) -> list[float]:
        """The longest box of each coordinate whose box is found, 0 of the others."""
        frames = [self.frame(*span) for span in pairwise(self.times)]
        return [
            max(float(np.ptp(f.grids[c].nodes)) for f in frames) if c in self.found else 0.0
            for c in range(len(self.coordinates))
        ]

    def check(self, observables: Sequence[Any], names: Sequence[str]) -> None:
        """Refuses grids that do not resolve the drift or an observable, or that the flow leaves."""
        begin, end = self.times[-2:]
        frame = self.frame(begin, end)
        drift, _ = self.field(end, frame.values)
        state = State(end / self.clock, **frame.components)
        values = [evaluate(o, state).reshape(frame.shape) for o in observables]
        labels = [f"observable '{n}'" for n in names]
        labels += [f"the drift of {c}" for c in frame.coordinates]
        check_resolution(frame, [*values, *drift], labels)
        for axis, coordinate in enumerate(frame.coordinates):
            check_inward(coordinate, drift[axis], axis)

    def expectations(self, observables: Sequence[Any]) -> Array:
        """E of each observable at the recorded steps, `(step, observable)`."""
        frame = point_frame(self.coordinates, self.at)
        law = np.ones((1,) * len(self.at))
        rows = [frame.expectations(law, self.steps[0], observables)]
        evolve: Evolution | None = None
        recorded = iter(self.steps[1:])
        step = next(recorded)
        for begin, end in pairwise(self.times):
            new = self.frame(begin, end)
            if evolve is None or new.grids != frame.grids:
                law = frame.transfer(law, new)
                evolve = Evolution(Generator(self.field, new), self.tolerance, evolve)
                frame = new
            law = evolve(law, begin, end)
            if end >= step * self.clock - 1e-9 * (end - begin):
                rows.append(frame.expectations(law, step, observables))
                step = next(recorded, math.inf)
        return np.stack(rows)


class Evolution:
    """Carries a law from one time to a later one on fixed grids.

    Args:
        generator: on these grids.
        tolerance: of the time integration.
        last: the evolution before, whose step size is a first guess.
    """

    def __init__(
        self, generator: Generator, tolerance: float, last: Evolution | None = None
    ) -> None:
        self.generator, self.tolerance = generator, tolerance
        self._in_time = InTime(generator, 0.01 * tolerance)
        self._exponentials: dict[float, Array] = {}
        self._last_step: float | None = None if last is None else last._last_step

    def __call__(self, law: Array, start: float, stop: float) -> Array:
        spans = self._in_time.spans(start, stop)
        if len(spans) == 1 and spans[0].constant and law.size <= self._largest_matrix():
            return (law.ravel() @ self._exponential(spans[0], stop - start)).reshape(law.shape)
        for span in spans:
            law = self._integrate(law, span, span.start, span.stop)
        return law

    def _largest_matrix(self) -> int:
        moves = any(c.axis.box_is_found for c in self.generator.frame.coordinates)
        return LARGEST_MOVING_MATRIX if moves else LARGEST_MATRIX

    def _exponential(self, span: Span, duration: float) -> Array:
        key = float(f"{duration:.12e}")
        if key not in self._exponentials:
            shape = self.generator.frame.shape
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
            keep_to_time()
            message = solver.step()
            if solver.status == "failed" or not np.isfinite(solver.y).all():
                raise GridError(
                    f"the law of {type(self.generator.field.sde).__name__} could not be followed "
                    f"beyond t = {solver.t:.6g} ({message or 'not finite'}). Give more points, or "
                    "a domain on whose ends the drift points inward."
                )
            if solver.t < stop:
                self._last_step = solver.step_size
        return np.asarray(solver.y).reshape(shape)
