"""Gradient noise of a training loop while it runs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import Parameter

from sdeverify.base.arguments import confidence_level, number, whole
from sdeverify.base.shapes import Tensor
from sdeverify.errors import InconclusiveError, InvalidInputError, UnsupportedError
from sdeverify.training.geometry import Root, preconditioner_root
from sdeverify.training.noise_reading import NoiseReading, SignalAndNoise, estimates

FIRST = 10
"""The step that is measured first where the meter chooses: caches are warm by then, v is there."""
LEAST = 8
"""Measured steps below which no interval is given."""
WITNESS = 64
"""Numbers of the last parameter that are followed through a measured step."""
SLACK = 1e-3
"""By how much, relatively, p.grad may differ from the sum of the gradients seen on the way."""
HALF_SLACK = 0.05
"""The same where gradients are added up in 16 bits."""

WAKE = 2.0
"""What a measured step costs the loop, in units of the meter's own time in it: what it reads pushes
the loop's data out of the caches. 1.3 to 1.5 was measured on two cores."""

LossScale = float | Callable[[], float]


class NoiseMeter:
    """Signal |grad f|^2, noise tr Sigma and noise scale of a running loop, with intervals.

    It reads the gradients that the loop computes anyway: no backward of its own, no data, no copy
    of a gradient. Needed are K >= 2 micro-batches a step, drawn independently and of one size,
    each with a backward of its own: accumulated ones, data parallel ranks, or both. A batch in one
    piece is split in two halves; the step stays what it was.

        meter = sv.NoiseMeter(optimizer, micro_batch_size=8, micro_batches=4, loss_scale=1 / 4)
        for step in range(1000):
            for inputs, targets in micro_batches:                   # four of eight samples each
                (loss(net(inputs), targets) / 4).backward()
            meter.step()                                            # before clipping
            optimizer.step()
            optimizer.zero_grad()
        print(meter.reading())

    One gradient a step is not enough: products of gradients of neighbouring steps belong to two
    different theta, and are biased by what the step between them did.

    What the intervals suppose, and what they are about, is in
    `sdeverify.training.noise_reading`. Samples drawn without replacement from N, as in shuffled
    epochs, lower the signal by tr Sigma/(N - 1); that is about B/N of a batch's noise.

    Args:
        optimizer: over the parameters whose gradients count. Any; RMSprop, Adam and AdamW are
            read in their own geometry too.
        micro_batch_size: b, the samples in one backward.
        micro_batches: backward passes on this process in one step.
        loss_scale: what a micro-batch's mean loss is multiplied by before backward: 1 / 4 for
            `(loss / 4).backward()`, and `lambda: scaler.get_scale() / 4` with a GradScaler (then
            `meter.step()` stands before `unscale_`).
        window: measured steps that a reading is about, the latest.
        share: of the loop's time that the meter may take. It times itself, counts that double for
            what it does to the caches, and measures a step when its time has been earned. On an
            accelerator waiting for the device counts as its own time.
        every: measure each so manieth step instead, whatever the cost.
        process_group: of DistributedDataParallel, where ranks have micro-batches of their own.

    Raises:
        InvalidInputError: fewer than two micro-batches a step, or numbers that make no sense.
        UnsupportedError: parameters that are sharded.

    Example:
        >>> net = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> halves = {"micro_batch_size": 2, "micro_batches": 2, "loss_scale": 1 / 2}
        >>> meter = sv.NoiseMeter(optimizer, **halves, every=1)
        >>> for _ in range(16):
        ...     for inputs in torch.randn(2, 2, 3):
        ...         ((net(inputs) - 1).square().mean() / 2).backward()
        ...     meter.step()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> meter.reading().measured
        16
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        micro_batch_size: int,
        micro_batches: int,
        loss_scale: LossScale,
        window: int = 100,
        share: float = 0.01,
        every: int | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self._parameters = _trained(optimizer)
        self._root = preconditioner_root(optimizer)
        self._group = process_group
        self._ranks = 1 if process_group is None else dist.get_world_size(process_group)
        self._micro_batch_size = _at_least(1, micro_batch_size, "micro_batch_size")
        self._micro_batches = _at_least(1, micro_batches, "micro_batches")
        if self._micro_batches * self._ranks < 2:
            raise InvalidInputError(
                "one micro-batch a step has no second gradient at the same parameters to compare "
                "with, and those of neighbouring steps are biased by the step between. Split each "
                "batch into two halves, with (loss / 2).backward() on each: micro_batches=2, "
                "micro_batch_size half the batch, loss_scale=1 / 2."
            )
        self._loss_scale = loss_scale
        self._check_loss_scale()
        if not 0 < number(share, "share") <= 1:
            raise InvalidInputError(f"share is a part of the loop's time, 0.01 say; got {share}.")
        self._share = float(share)
        self._every = None if every is None else _at_least(1, every, "every")
        self._rows: deque[tuple[float, ...]] = deque(maxlen=_at_least(LEAST, window, "window"))
        self._skipped = 0
        self._steps = 0
        self._clock = _Clock()
        self._due = self._every or FIRST
        self._collector: _Collector | None = None
        if self._due == 1:
            self._arm()

    def __enter__(self) -> NoiseMeter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def steps(self) -> int:
        """The calls of `step` so far."""
        return self._steps

    @property
    def measured(self) -> int:
        """The measured steps in the window."""
        return len(self._rows)

    def close(self) -> None:
        """Takes the meter's hooks off the parameters; what it has read stays."""
        if self._collector is not None:
            self._collector.remove()
            self._collector = None

    def step(self) -> None:
        """To be called once a step: after its last backward, before clipping and `optimizer.step`.

        Raises:
            InvalidInputError: more backward passes than declared or none, or `p.grad` that is not
                the sum of the micro-batches' gradients.
        """
        self._steps += 1
        if self._collector is not None:
            self._measure(self._collector)
        if self._steps == 1:
            self._clock.start()
        if self._steps + 1 == self._due:
            self._arm()

    def reading(self, confidence: float = 0.95) -> NoiseReading:
        """Signal, noise and noise scale over the window.

        Raises:
            InconclusiveError: fewer than eight steps have been measured.
        """
        confidence = confidence_level(confidence)
        if len(self._rows) < LEAST:
            raise InconclusiveError(
                f"{len(self._rows)} of {self._steps} steps have been measured ({self._skipped} "
                f"more were skipped); an interval takes {LEAST}. Train on, or measure more often: "
                f"a larger share= (now {self._share:g}), or every=."
            )
        rows = np.array(self._rows)
        own = rows[np.isfinite(rows[:, 3])]
        return NoiseReading(
            SignalAndNoise.of(rows[:, 1], rows[:, 2], confidence),
            SignalAndNoise.of(own[:, 3], own[:, 4], confidence) if len(own) >= LEAST else None,
            first=int(rows[0, 0]),
            last=int(rows[-1, 0]),
            measured=len(rows),
            skipped=self._skipped,
            share=self._clock.share(),
            confidence=confidence,
        )

    def _arm(self) -> None:
        begin = perf_counter()
        self._collector = _Collector(self._parameters, self._root)
        self._collector.seconds += perf_counter() - begin

    def _measure(self, collector: _Collector) -> None:
        begin = perf_counter()
        self.close()
        sums = collector.sums()
        elapsed, unsent = self._clock.take()
        sent = perf_counter()
        cost = WAKE * (collector.seconds + sent - begin) + unsent
        head = sums.new_tensor([collector.count, cost, elapsed])
        message = torch.cat([head, sums[:2], collector.witness()])
        if self._group is not None:
            dist.all_reduce(message, group=self._group)
        totals = message.tolist()
        row = self._row(totals, sums[2:].tolist(), collector.total_witness())
        if row is None:
            self._skipped += 1
        else:
            self._rows.append(row)
        self._clock.agree(totals[1] / self._ranks, totals[2] / self._ranks)
        self._due = self._steps + (self._every or self._clock.wait(self._share, self._steps))
        self._clock.late(WAKE * (perf_counter() - sent))

    def _row(
        self, totals: list[float], squares_of_sums: list[float], total_witness: list[float]
    ) -> tuple[float, ...] | None:
        """Step, signal and noise in both geometries; None where the step does not count."""
        count, squares = round(totals[0]), totals[3:5]
        expected = self._micro_batches * self._ranks
        if count > expected or count == 0:
            raise InvalidInputError(
                f"step {self._steps} had {count} backward passes on {self._ranks} process(es), and "
                f"micro_batches={self._micro_batches} each were declared. Call meter.step() once a "
                "step, after the last backward, and declare what the loop does; a step whose loss "
                "has several backward passes over one micro-batch cannot be measured."
            )
        if count < expected or not math.isfinite(squares[0] + squares_of_sums[0]):
            return None
        self._check_sum(totals[5:], total_witness)
        unit = self._check_loss_scale() ** 2
        row = [float(self._steps)]
        for s, q in zip(squares, squares_of_sums, strict=True):
            q_of_ranks = self._ranks**2 * q / unit
            row += estimates(s / unit, q_of_ranks, expected, self._micro_batch_size)
        return tuple(row)

    def _check_sum(self, witness: list[float], total_witness: list[float]) -> None:
        """Whether p.grad is the sum (the mean over ranks) of what the hooks saw."""
        total, sizes = np.split(np.array(witness), 2)
        off = float(np.abs(total - self._ranks * np.array(total_witness)).max())
        size = float(sizes.max())
        tiny = self._parameters[-1].dtype.itemsize < 4
        if off <= (HALF_SLACK if tiny else SLACK) * size:
            return
        alone = self._group is None and dist.is_available() and dist.is_initialized()
        raise InvalidInputError(
            f"at step {self._steps} p.grad is not the sum of the micro-batches' gradients (off by "
            f"{off / size if size else math.inf:.2g} of their size). Call meter.step() right after "
            "the last backward, before gradients are clipped, unscaled or zeroed, and zero them "
            "before the first backward of each step."
            + (
                " Where DistributedDataParallel averages them, pass process_group=."
                if alone
                else ""
            )
        )

    def _check_loss_scale(self) -> float:
        scale = self._loss_scale() if callable(self._loss_scale) else self._loss_scale
        if not 0 < number(scale, "loss_scale") < math.inf:
            raise InvalidInputError(
                f"loss_scale is what a micro-batch's mean loss is multiplied by, > 0; got {scale}."
            )
        return float(scale)


class _Collector:
    """One step's micro-batch gradients, seen by hooks as backward hands them over.

    A tensor's hook gets the gradient of that backward alone, before it is added to `p.grad` and
    before ranks average it.
    """

    def __init__(self, parameters: list[Parameter], root: Root | None) -> None:
        self._parameters = parameters
        self._root = root
        self._counts = dict.fromkeys(parameters, 0)
        self._squares: list[Tensor] = []
        self._own_squares: list[Tensor] = []
        last = parameters[-1]
        length = min(WITNESS, last.numel())
        self._witness = torch.zeros(2, length, dtype=torch.float64, device=last.device)
        self.seconds = 0.0
        self._handles: list[Any] = [p.register_hook(partial(self._record, p)) for p in parameters]

    @property
    def count(self) -> int:
        """Backward passes so far."""
        return max(self._counts.values())

    def remove(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()

    def sums(self) -> Tensor:
        """S and Q, plain and preconditioned: S, S_own, Q, Q_own, in the loss's scale."""
        grads = [(p, p.grad) for p in self._parameters if self._counts[p] and p.grad is not None]
        plain = [self._squares, [_square(g) for _, g in grads]]
        if self._root is None:
            own = [[torch.tensor(math.nan)]] * 2
        else:
            own = [self._own_squares, [_own_square(g, p, self._root) for p, g in grads]]
        pieces = (plain[0], own[0], plain[1], own[1])
        return torch.stack([self._summed(piece) for piece in pieces])

    def witness(self) -> Tensor:
        """Sum, and sum of sizes, of the micro-batches' gradients at a few coordinates."""
        return self._witness.flatten()

    def total_witness(self) -> list[float]:
        """`p.grad` at the same coordinates."""
        last = self._parameters[-1]
        if last.grad is None:
            return [0.0] * self._witness.shape[1]
        values: list[float] = self._head(last.grad).tolist()
        return values

    def _summed(self, pieces: list[Tensor]) -> Tensor:
        zero = self._witness.new_zeros(())
        return torch.stack([zero, *(piece.to(zero) for piece in pieces)]).sum()

    def _head(self, gradient: Tensor) -> Tensor:
        return gradient.detach().reshape(-1)[: self._witness.shape[1]].double()

    def _record(self, parameter: Parameter, gradient: Tensor) -> None:
        begin = perf_counter()
        if gradient.is_sparse:
            raise UnsupportedError(
                f"a parameter of shape {tuple(parameter.shape)} has sparse gradients, which "
                "NoiseMeter does not read; use dense ones (sparse=False in an embedding)."
            )
        with torch.no_grad():
            self._counts[parameter] += 1
            self._squares.append(_square(gradient))
            if self._root is not None:
                self._own_squares.append(_own_square(gradient, parameter, self._root))
            if parameter is self._parameters[-1]:
                head = self._head(gradient)
                self._witness += torch.stack([head, head.abs()])
        self.seconds += perf_counter() - begin


class _Clock:
    """The loop's time and the meter's, the same on all ranks."""

    def __init__(self) -> None:
        self._begin = self._mark = perf_counter()
        self._unsent = 0.0
        self._spent = 0.0
        self._elapsed = 0.0
        self._dearest = 0.0

    def start(self) -> None:
        """The loop's time counts from here."""
        self._begin = self._mark = perf_counter()

    def take(self) -> tuple[float, float]:
        """Seconds since the last call, and the meter's own that no measured step has told yet."""
        now = perf_counter()
        elapsed, unsent = now - self._mark, self._unsent
        self._mark, self._unsent = now, 0.0
        return elapsed, unsent

    def late(self, seconds: float) -> None:
        """The meter's time after it told the other ranks."""
        self._unsent = seconds

    def agree(self, cost: float, elapsed: float) -> None:
        """A measured step's cost, and the time since the one before, as all ranks know them."""
        self._spent += cost
        self._elapsed += elapsed
        self._dearest = max(cost, 0.5 * self._dearest)

    def wait(self, share: float, steps: int) -> int:
        """Steps until another measurement has been earned."""
        earned = (self._spent + self._dearest) / share - self._elapsed
        return max(1, math.ceil(earned / max(self._elapsed / steps, 1e-9)))

    def share(self) -> float:
        """The meter's part of the time so far."""
        return (self._spent + self._unsent) / max(perf_counter() - self._begin, 1e-9)


def _square(gradient: Tensor) -> Tensor:
    """|g|^2; the sum is pairwise, so its rounding stays far below a small signal's share."""
    wide = gradient.float() if gradient.dtype.itemsize < 4 else gradient
    return wide.detach().square().sum()


def _own_square(gradient: Tensor, parameter: Parameter, root: Root) -> Tensor:
    """|g/(sqrt(v) + eps)|^2; NaN where there is no v."""
    scale = root(parameter)
    if scale is None:
        return torch.tensor(math.nan)
    return _square(gradient.detach() / scale)


def _trained(optimizer: torch.optim.Optimizer) -> list[Parameter]:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidInputError(
            f"NoiseMeter reads the parameters of a torch optimizer; got "
            f"{type(optimizer).__name__}. Pass the one that the loop calls step() on."
        )
    parameters = [p for g in optimizer.param_groups for p in g["params"] if p.requires_grad]
    if not parameters:
        raise InvalidInputError(
            f"this {type(optimizer).__name__} has no parameter with requires_grad=True. Pass the "
            "optimizer of the parameters that are trained."
        )
    for parameter in parameters:
        if type(parameter) not in (Parameter, Tensor):
            raise UnsupportedError(
                f"a parameter is a {type(parameter).__name__}, of which this process may hold a "
                "part only (FSDP and its like are not covered). Use DistributedDataParallel."
            )
    return parameters


def _at_least(least: int, value: int, what: str) -> int:
    if whole(value, what) < least:
        raise InvalidInputError(f"{what} is a whole number >= {least}; got {value}.")
    return int(value)
