"""Checkpoints and losses of a training run, from which it can be verified later."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from sdeverify.base.arguments import number, whole, wholes
from sdeverify.errors import InvalidInputError
from sdeverify.study.safe_files import refused
from sdeverify.training.callbacks import lightning_callback, trainer_callback
from sdeverify.training.checkpoint import Checkpoint

LOSSES = "losses.txt"


class Recorder:
    """Keeps what `sv.verify` needs of a training run, at the steps asked for, in a folder.

        recorder = sv.Recorder("runs/first", steps=[0, 500, 2000])
        recorder.record(0, net, optimizer, scheduler)
        for step in range(1, 2001):
            ...                                     # forward, backward
            optimizer.step()
            scheduler.step()
            recorder.record(step, net, optimizer, scheduler, loss=value.item())

    and later, with a net, an optimizer and a scheduler built in the same way:

        recorder = sv.Recorder("runs/first")
        recorder.restore(500, net, optimizer, scheduler)
        sv.verify(net, inputs, targets, loss, optimizer, schedule=scheduler, step=500)

    A checkpoint is one file of parameters, buffers, the optimizer's and the scheduler's state. It
    is written aside and renamed, so a kill at any time leaves every earlier one whole. Training
    that goes on from one is the uninterrupted run, bit for bit, as long as the loop draws the same
    batches: random streams and the order of the data are the loop's own and are not kept. Of
    several ranks one records.

    Args:
        folder: made where it does not exist.
        steps: optimizer steps, counted from 1, after which a checkpoint is kept; 0 is the start. A
            `range` may be long: `range(0, 10**9, 500)`. None are kept by default.

    Raises:
        StoreError: the folder cannot be made.

    Example:
        >>> import tempfile
        >>> net = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sv.Recorder(folder, steps=[0, 500]).record(0, net, optimizer)
        ...     sv.Recorder(folder).restore(0, net, optimizer)
    """

    def __init__(self, folder: str | Path, steps: Iterable[int] = ()) -> None:
        self.folder = Path(folder)
        self._steps = steps if isinstance(steps, range) else frozenset(wholes(steps, "steps"))
        self._checked = False
        self._curve_whole = False
        with refused(f"the folder {self.folder} cannot be made", "Choose another folder."):
            self.folder.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"Recorder({str(self.folder)!r}): checkpoints at steps {self.recorded}"

    @property
    def recorded(self) -> list[int]:
        """The steps that have a checkpoint."""
        return sorted(int(place.stem.split("-")[1]) for place in self.folder.glob("step-*.pt"))

    def record(
        self,
        step: int,
        net: nn.Module,
        optimizer: Any,
        scheduler: Any = None,
        *,
        loss: float | None = None,
    ) -> None:
        """To be called after each `optimizer.step()` and `scheduler.step()`; keeps what is asked.

        Args:
            step: optimizer steps so far.
            net, optimizer, scheduler: the live objects; they are only read. A net in
                DistributedDataParallel or torch.compile is taken out of it.
            loss: of this step, kept for every step.

        Raises:
            UnsupportedError: at the first call, a state that cannot be read back without running
                code.
            StoreError: a file cannot be written.
        """
        step = _step(step)
        due = step in self._steps
        if due or not self._checked:
            checkpoint = Checkpoint.of(step, net, optimizer, scheduler)
            if not self._checked:
                checkpoint.check_loadable()
                self._checked = True
            if due:
                with refused(
                    f"the checkpoint of step {step} cannot be written to {self.folder}",
                    "Make room or choose another folder; earlier checkpoints are whole.",
                ):
                    checkpoint.save(self._place(step))
        if loss is not None:
            self.log_loss(step, loss)

    def log_loss(self, step: int, loss: float) -> None:
        """Keeps one loss, where it comes apart from `record`."""
        line = f"{_step(step)} {number(loss, 'loss')!r}\n"
        with refused(f"the loss of step {step} cannot be written", "Make room on the disk."):
            if not self._curve_whole:
                _drop_cut_line(self.folder / LOSSES)
                self._curve_whole = True
            with (self.folder / LOSSES).open("a") as file:
                file.write(line)

    @property
    def losses(self) -> dict[int, float]:
        """The losses kept, by step. Where training went back to a step, what came after is gone."""
        place = self.folder / LOSSES
        curve: dict[int, float] = {}
        latest = -math.inf
        for line in place.read_text().splitlines(keepends=True) if place.exists() else ():
            if not line.endswith("\n"):
                break
            step, loss = line.split()
            if int(step) <= latest:
                curve = {k: value for k, value in curve.items() if k < int(step)}
            latest = int(step)
            curve[latest] = float(loss)
        return curve

    def restore(self, step: int, net: nn.Module, optimizer: Any, scheduler: Any = None) -> None:
        """Puts the checkpoint of a step into live objects, built as for training.

        Raises:
            InvalidInputError: there is no such checkpoint, or it belongs to other objects, which
                are left as they were.
            StoreError: the file is no checkpoint.
        """
        place = self._place(_step(step))
        if not place.exists():
            raise InvalidInputError(
                f"{self.folder} has no checkpoint of step {step}. There are steps "
                f"{self.recorded}; ask for more with steps= when recording."
            )
        with refused(f"{place} cannot be read", "Check the disk."):
            checkpoint = Checkpoint.load(place)
        checkpoint.restore(net, optimizer, scheduler)

    def trainer_callback(self) -> Any:
        """For Hugging Face: `Trainer(..., callbacks=[recorder.trainer_callback()])`.

        Raises:
            UnsupportedError: transformers cannot be imported.
        """
        return trainer_callback(self)

    def lightning_callback(self) -> Any:
        """For Lightning: `Trainer(..., callbacks=[recorder.lightning_callback()])`.

        Raises:
            UnsupportedError: neither lightning nor pytorch_lightning can be imported.
        """
        return lightning_callback(self)

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.pt"


def _step(step: int) -> int:
    if whole(step, "step") < 0:
        raise InvalidInputError(f"step counts the optimizer's steps so far, from 0; got {step}.")
    return int(step)


def _drop_cut_line(place: Path) -> None:
    """Takes away a last line that a kill cut short."""
    if place.exists():
        os.truncate(place, place.read_bytes().rfind(b"\n") + 1)
