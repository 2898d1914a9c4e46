"""sdeverify: does the SDE of your optimizer hold for your run?

Derive the SDE of a `torch.optim` optimizer, solve it with the exact covariance of the gradient
noise, measure the weak error against the optimizer and SVAG, and report its order.

The public names are listed, with their homes, in `__init__.pyi`; each is imported when it is first
used, so that the command line starts at once. The examples in docstrings suppose

    import torch
    import sdeverify as sv
    from sdeverify.problems.library import circle_problem

"""

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def _homes() -> dict[str, str]:
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


_HOMES = _homes()
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sdeverify' has no attribute '{name}'")
    home = importlib.import_module(_HOMES[name])
    if name in vars(home):
        value = vars(home)[name]
    else:
        value = importlib.import_module(f"{_HOMES[name]}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
