from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import sdeverify as sv


def test_no_submodule_hides_a_public_name() -> None:
    for module in pkgutil.iter_modules(sv.__path__):
        if module.name != "__main__":
            importlib.import_module(f"sdeverify.{module.name}")
    for name in sv.__all__:
        value = getattr(sv, name)
        assert isinstance(value, ModuleType) == (name in {"measures", "sdes", "testing"}), name


def test_the_package_imports_without_torch() -> None:
    code = "import sys, sdeverify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
