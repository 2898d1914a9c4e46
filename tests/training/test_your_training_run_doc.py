"""The page on training runs: its examples run as they stand, its links are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "your-training-run.md"


@pytest.mark.slow
def test_the_examples_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    shown = capsys.readouterr().out
    for words in (
        "checkpoints at steps [100, 200]",
        "against its SDE from step 100 to 110",
        "101: run",
        "preconditioned",
        "Means over 40 measured steps, 5 to 200",
        "times the batch",
    ):
        assert words in shown, words


def test_the_links_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target
