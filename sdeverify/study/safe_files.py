"""Folders that appear whole or not at all, and operating system errors that say what to do."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdeverify.errors import StoreError


@contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """A fresh folder beside `place`, removed afterwards if it is still there."""
    fresh = place.with_name(f".{place.name}-{uuid.uuid4().hex[:12]}")
    fresh.mkdir()
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def replace_folder(fresh: Path, place: Path) -> None:
    """Renames the folder `fresh` to `place`; what was there is removed afterwards."""
    if not place.exists():
        os.rename(fresh, place)
        return
    with scratch(place) as old:
        os.rename(place, old)
        os.rename(fresh, place)


@contextmanager
def refused(what: str, remedy: str) -> Iterator[None]:
    """Operating system errors as a `StoreError`: what failed, why, and the remedy."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{what}: {reason(error)}. {remedy}") from error


def reason(error: OSError) -> str:
    """What the operating system says."""
    return error.strerror or str(error)
