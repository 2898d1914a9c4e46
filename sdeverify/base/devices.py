"""Where torch computes: devices and threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sdeverify.errors import InvalidInputError


def check_device(device: Any) -> None:
    """Refuses the name of a device that torch cannot use here.

    Raises:
        InvalidInputError: it cannot be used.
    """
    import torch

    if device is None:
        return
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInputError(
            f"the device '{device}' cannot be used: {reason} Use cpu, or one that torch finds."
        ) from error


@contextmanager
def one_thread() -> Iterator[None]:
    """torch with one thread: sums are cut the same way in every process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
