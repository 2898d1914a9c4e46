"""One checkpoint of a training run: what it holds, written whole or not at all, and put back."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sdeverify.base.shapes import Tensor
from sdeverify.errors import InvalidInputError, StoreError, UnsupportedError

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a step, as plain tensors, numbers and texts.

    Attributes:
        step: optimizer steps so far.
        net: the net's `state_dict`, parameters and buffers.
        optimizer, scheduler: their `state_dict`; None where there is no scheduler.
        optimizer_class, scheduler_class: where those states belong.
    """

    step: int
    net: Mapping[str, Tensor]
    optimizer: dict[str, Any]
    optimizer_class: str
    scheduler: dict[str, Any] | None
    scheduler_class: str | None

    @classmethod
    def of(cls, step: int, net: nn.Module, optimizer: Any, scheduler: Any) -> Checkpoint:
        """The present state of live objects; tensors are not copied."""
        optimizer, scheduler = _inner(optimizer, "optimizer"), _inner(scheduler, "scheduler")
        return cls(
            step,
            unwrapped(net).state_dict(),
            _plain(optimizer.state_dict()),
            _class_of(optimizer),
            None if scheduler is None else _plain(scheduler.state_dict()),
            None if scheduler is None else _class_of(scheduler),
        )

    @classmethod
    def load(cls, place: Path) -> Checkpoint:
        """From a file; no code in it is run.

        Raises:
            StoreError: the file is none of ours.
        """
        try:
            content = torch.load(place, map_location="cpu", weights_only=True)
            written = content.pop("format")
            if written == FORMAT:
                return cls(**content)
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
            raise StoreError(
                f"{place} is no checkpoint of sdeverify ({type(error).__name__}). Record again, or "
                "remove the file."
            ) from error
        raise StoreError(
            f"{place} has format {written}; this sdeverify reads format {FORMAT}. Use the version "
            "that recorded it."
        )

    def save(self, place: Path) -> None:
        """To a file, which appears whole or not at all: written aside, then renamed.

        Raises:
            OSError: the file cannot be written; one that was there is still there.
        """
        aside = place.with_name(f".{place.name}.part")
        try:
            with aside.open("wb") as file:
                torch.save({"format": FORMAT, **vars(self)}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, place)
        finally:
            aside.unlink(missing_ok=True)

    def check_loadable(self) -> None:
        """Whether what is no tensor can be read back without running code.

        Raises:
            UnsupportedError: a state holds objects of other kinds, or tensors that are sharded.
        """
        for name, value in self.net.items():
            if type(value) is not Tensor:
                raise UnsupportedError(
                    f"the net's state holds {name} as a {type(value).__name__}; plain tensors can "
                    "be kept. Sharded nets (FSDP and its like) are not covered."
                )
        groups = self.optimizer["param_groups"]
        options = {name: value for group in groups for name, value in group.items()}
        for what, owner, state in (
            ("optimizer", self.optimizer_class, options),
            ("scheduler", self.scheduler_class, self.scheduler or {}),
        ):
            for name, value in state.items():
                if not _loadable(value):
                    raise UnsupportedError(
                        f"the state of this {what} ({owner}) holds {name} = {value!r}, which "
                        "is more than tensors, numbers and texts and cannot be kept. Keep it out "
                        f"of the {what}'s state_dict, or keep numbers there."
                    )

    def restore(self, net: nn.Module, optimizer: Any, scheduler: Any = None) -> None:
        """Puts the state into live objects, which are as they were where this raises.

        Raises:
            InvalidInputError: the objects are not built as those that were recorded.
        """
        net = unwrapped(net)
        optimizer, scheduler = _inner(optimizer, "optimizer"), _inner(scheduler, "scheduler")
        self._check_net(net)
        self._check_class("optimizer", self.optimizer_class, optimizer)
        self._check_class("scheduler", self.scheduler_class, scheduler)
        self._check_groups(optimizer)
        net.load_state_dict(self.net)
        optimizer.load_state_dict(self.optimizer)
        if scheduler is not None:
            scheduler.load_state_dict(self.scheduler)

    def _check_net(self, net: nn.Module) -> None:
        recorded, live = _kinds(self.net), _kinds(net.state_dict())
        differing = [name for name in {**recorded, **live} if recorded.get(name) != live.get(name)]
        if differing:
            name = differing[0]
            raise InvalidInputError(
                f"{len(differing)} entries of the net differ from those recorded at step "
                f"{self.step}: {name} is {live.get(name, 'missing')} here and "
                f"{recorded.get(name, 'missing')} there. Build the net as for training."
            )

    def _check_class(self, what: str, recorded: str | None, live: Any) -> None:
        here = None if live is None else _class_of(live)
        if here == recorded:
            return
        remedy = f"Pass the training script's own {what}, built in the same way"
        if recorded is None:
            remedy = f"Leave the {what} out, or record it too"
        raise InvalidInputError(
            f"step {self.step} was recorded with {recorded or f'no {what}'}; got "
            f"{here or f'no {what}'}. {remedy}."
        )

    def _check_groups(self, optimizer: Any) -> None:
        recorded = [len(group["params"]) for group in self.optimizer["param_groups"]]
        live = [len(group["params"]) for group in optimizer.param_groups]
        if recorded != live:
            raise InvalidInputError(
                f"the optimizer has param groups of {live} tensors; those recorded at step "
                f"{self.step} have {recorded}. Build its groups as for training."
            )


def unwrapped(net: nn.Module) -> nn.Module:
    """The net itself, out of DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(net, DistributedDataParallel):
            net = net.module
        elif isinstance(inner := getattr(net, "_orig_mod", None), nn.Module):
            net = inner
        else:
            return net


def _inner(wrapper: Any, name: str) -> Any:
    """The optimizer or scheduler out of a wrapper that has it under `name`, as accelerate's."""
    kind = torch.optim.Optimizer if name == "optimizer" else torch.optim.lr_scheduler.LRScheduler
    inner = getattr(wrapper, name, None)
    return inner if isinstance(inner, kind) else wrapper


def _loadable(value: Any) -> bool:
    memory = io.BytesIO()
    try:
        torch.save(value, memory)
        memory.seek(0)
        torch.load(memory, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError, RuntimeError):
        return False
    return True


def _class_of(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _kinds(state: Mapping[str, Any]) -> dict[str, str]:
    """Shape and dtype of each tensor, by name."""
    return {
        name: f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else "no tensor"
        for name, value in state.items()
    }


def _plain(value: Any) -> Any:
    """The same with numpy's numbers as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _plain(part)) for key, part in value.items())
    if type(value) in (list, tuple):
        return type(value)(_plain(part) for part in value)
    return value
