"""`sdeverify scale`: the numbers it shows, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sdeverify.cli.app import app

ADAM = ["--optimizer", "adam", "--lr", "1e-3", "--beta1", "0.9", "--beta2", "0.999"]


def scale(*arguments):
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, ["scale", *arguments])


def rows(text):
    """The table's rows by their first cell."""
    cells = [[c.strip() for c in line.strip("│ ").split("│")] for line in text.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) == 3}


def test_adam_is_scaled_by_the_square_root_rule():
    result = scale(*ADAM, "--eps", "1e-8", "--kappa", "4")
    assert result.exit_code == 0, result.output
    table = rows(result.output)
    assert table["lr"] == ["0.001", "0.002"]
    assert table["beta1"] == ["0.9", "0.6"]
    assert table["beta2"] == ["0.999", "0.996"]
    assert table["eps"] == ["1e-08", "5e-09"]
    assert table["steps"] == ["k", "k/4"]
    assert "rule 'square_root'" in result.output
    assert "Largest kappa that works: 10." in result.output
    assert "v times 0.25" in result.output
    assert "Caveat" not in result.output


def test_a_rival_comes_with_its_caveat():
    result = scale(*ADAM, "--kappa", "4", "--rule", "linear")
    assert rows(result.output)["lr"] == ["0.001", "0.004"]
    assert "Caveat: the rule 'linear' does not keep the SDE of Adam." in result.output


def test_adamw_takes_its_decay_as_decoupled():
    decay = rows(scale("--optimizer", "adamw", "--lr", "0.01", "--kappa", "4").output)
    assert decay["weight_decay"] == ["0.01", "0.02"]
    coupled = scale(*ADAM, "--weight-decay", "0.01", "--kappa", "4")
    assert rows(coupled.output)["weight_decay"] == ["0.01", "0.01"]


def test_a_momentum_makes_sgd_follow_the_rule_of_momentum():
    heavy = scale("--optimizer", "sgd", "--lr", "0.1", "--momentum", "0.9", "--kappa", "2")
    assert rows(heavy.output)["momentum"] == ["0.9", "0.8"]
    assert rows(heavy.output)["lr"] == ["0.1", "0.4"]
    assert "buffer times 0.5" in heavy.output
    plain = scale("--optimizer", "sgd", "--lr", "0.1", "--momentum", "0", "--kappa", "2")
    assert rows(plain.output)["lr"] == ["0.1", "0.2"]
    assert "no limit" in plain.output


def test_rmsprop_starts_from_torchs_defaults():
    table = rows(scale("--optimizer", "rmsprop", "--lr", "0.01", "--kappa", "9").output)
    assert table["beta"] == ["0.99", "0.91"]


def test_a_known_batch_is_shown_in_numbers():
    shown = scale("--optimizer", "adamw", "--lr", "0.1", "--kappa", "4", "--batch-size", "32")
    assert "AdamW, batch 32 to 128, rule 'square_root'" in shown.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*ADAM, "--kappa", "11"], "The largest kappa that works is 10"),
        ([*ADAM, "--kappa", "0"], "leaves no batch"),
        ([*ADAM, "--kappa", "4", "--rule", "cubic"], "no scaling rule 'cubic'"),
        ([*ADAM, "--kappa", "4", "--rule", "momentum"], "is none for Adam"),
        ([*ADAM, "--kappa", "4", "--momentum", "0.9"], "adam has no --momentum"),
        (["--optimizer", "lion", "--lr", "1", "--kappa", "4"], "no optimizer 'lion'"),
        (["--optimizer", "sgd", "--lr", "0", "--kappa", "4"], "learning rate must be > 0"),
        ([*ADAM, "--kappa", "4", "--weight-decay", "-1"], "weight_decay must lie in [0, inf)"),
        (
            ["--optimizer", "adamw", "--lr", "1", "--kappa", "4", "--weight-decay", "-1"],
            "decoupled_weight_decay must lie in [0, inf)",
        ),
        ([*ADAM, "--kappa", "0.1", "--batch-size", "4"], "makes a batch of 0.4 out of one of 4"),
        ([*ADAM, "--kappa", "4", "--batch-size", "4", "--samples", "15"], "The largest kappa is"),
        ([*ADAM, "--kappa", "4", "--samples", "15"], "give --batch-size too"),
    ],
)
def test_what_cannot_be_scaled_is_refused_in_one_line(arguments, message):
    result = scale(*arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


def test_the_help_needs_no_torch():
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom sdeverify.cli.app import app\n"
        "result = CliRunner().invoke(app, ['scale', '--help'])\n"
        "assert result.exit_code == 0 and '--kappa' in result.output, result.output\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
