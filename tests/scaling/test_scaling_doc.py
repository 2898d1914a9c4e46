"""The page on scaling: its examples run, its files are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


@pytest.mark.slow
def test_the_examples_run_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, "scaling.md", "exec"), names)
    shown = capsys.readouterr().out
    for wanted in ("Noise over signal N/G", "square_root", "TorchSVAG(level=2): 4 own steps"):
        assert wanted in shown


def test_the_files_and_studies_are_there() -> None:
    text = PAGE.read_text()
    named = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"studies/\w+(?=[`/ ])", text)
    for target in named:
        root = PAGE.parents[1] if target.startswith("studies") else PAGE.parent
        assert (root / target).exists(), target
