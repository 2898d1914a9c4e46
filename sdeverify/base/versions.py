"""The versions that a result depends on."""

from __future__ import annotations

import platform
from functools import cache


@cache
def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("sdeverify", "torch", "torchsde", "numpy", "scipy", "xarray"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
