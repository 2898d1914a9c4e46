"""A `Recorder` as a callback of Hugging Face's and of Lightning's trainers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from sdeverify.base.shapes import Tensor
from sdeverify.errors import UnsupportedError


class Records(Protocol):
    """What the callbacks need of a recorder."""

    def record(
        self,
        step: int,
        net: nn.Module,
        optimizer: Any,
        scheduler: Any = None,
        *,
        loss: float | None = None,
    ) -> None:
        """A checkpoint, where one is asked for."""

    def log_loss(self, step: int, loss: float) -> None:
        """One loss."""


def trainer_callback(recorder: Records) -> Any:
    """A `transformers.TrainerCallback`: steps are the trainer's `global_step`.

    Losses are those that the trainer logs, means over its `logging_steps`. The first process
    records. Sharded training (FSDP, DeepSpeed) is not covered.
    """

    def record(self: Any, args: Any, state: Any, control: Any, **live: Any) -> None:
        if state.is_world_process_zero:
            recorder.record(
                state.global_step, live["model"], live["optimizer"], live["lr_scheduler"]
            )

    def log(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **live: Any) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            recorder.log_loss(state.global_step, logs["loss"])

    hooks = {"on_train_begin": record, "on_step_end": record, "on_log": log}
    return type("RecorderCallback", (_class("TrainerCallback", "transformers"),), hooks)()


def lightning_callback(recorder: Records) -> Any:
    """A Lightning `Callback`: steps are the trainer's `global_step`, one optimizer's steps.

    Losses are those of each step's last micro-batch. The first process records.
    """
    latest = [-1]

    def record(trainer: Any, module: nn.Module, loss: float | None) -> None:
        if not trainer.is_global_zero or trainer.global_step == latest[0]:
            return
        latest[0] = trainer.global_step
        if len(trainer.optimizers) != 1 or len(trainer.lr_scheduler_configs) > 1:
            raise UnsupportedError(
                f"the module has {len(trainer.optimizers)} optimizers and "
                f"{len(trainer.lr_scheduler_configs)} schedulers; a run has one optimizer and at "
                "most one scheduler. Record by hand, a Recorder for each."
            )
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        scheduler = schedulers[0] if schedulers else None
        recorder.record(latest[0], module, trainer.optimizers[0], scheduler, loss=loss)

    def start(self: Any, trainer: Any, pl_module: Any) -> None:
        record(trainer, pl_module, None)

    def batch_end(
        self: Any, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        record(trainer, pl_module, _loss(outputs, trainer.accumulate_grad_batches))

    hooks = {"on_train_start": start, "on_train_batch_end": batch_end}
    base = _class("Callback", "lightning.pytorch", "pytorch_lightning")
    return type("RecorderCallback", (base,), hooks)()


def _loss(outputs: Any, accumulated: int) -> float | None:
    """The mean loss of a batch; Lightning's `outputs` have it divided by the accumulation."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return float(loss) * accumulated if isinstance(loss, Tensor) else None


def _class(name: str, *modules: str) -> type:
    """A class of the first of these modules that is there, one in use before others."""
    reasons = []
    for module in sorted(modules, key=lambda name: name not in sys.modules):
        try:
            base: type = getattr(importlib.import_module(module), name)
            return base
        except Exception as error:
            reasons.append(f"{module}: {error}")
    raise UnsupportedError(
        f"{name} is not there to build on ({'; '.join(reasons)}). Install {modules[0]}, or call "
        "recorder.record(...) in the loop."
    )
