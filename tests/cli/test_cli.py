"""The command line and its worker processes, on a study that takes no time."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
import xarray as xr
from typer.testing import CliRunner, Result

from sdeverify.cli.app import app
from sdeverify.cli.options import clean
from sdeverify.errors import InvalidInputError, SdeverifyError
from sdeverify.study.files import find_study
from sdeverify.study.request import Request
from sdeverify.study.runner import compute, run_campaign
from sdeverify.study.settings import parse_settings
from sdeverify.study.store import Store

TOY = '''"""A parabola with four samples.

Nothing more.
"""

import os
import time

import torch

import sdeverify as sv
from sdeverify import measures
from sdeverify.problems.problem import FunctionProblem

CENTRES = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0], [0.5, 0.5]], dtype=torch.float64)


def losses(theta):
    return 0.5 * (theta - CENTRES).square().sum(-1)


def build(replicas: int = 256, levels=(1, 2.0), rate: float = 0.1, seed: int = 0,
          pause: float = 0.0, fails: str = "", device: str = "cpu"):
    problem = FunctionProblem(losses, 2, 4)

    def distance(state):
        time.sleep(pause)
        if fails == "at work":
            return 1 / len([])
        if fails == "killed":
            os.abort()
        return state.theta.square().sum(1)

    if fails == "at once":
        raise KeyError("no such data")
    return [
        sv.Study(
            name="parabola",
            title="SGD on a parabola",
            optimizer=sv.SGD(learning_rate=rate),
            oracle=sv.GradientOracle(problem, sv.MinibatchNoise(1)),
            start=sv.State(0, theta=torch.tensor([1.0, -1.0], dtype=torch.float64)),
            steps=[1, 2],
            observables=[measures.loss(problem), sv.Observable("distance", distance)],
            ladder=sv.SvagLevels(levels),
            replicas=replicas,
            seed=seed,
        )
    ]


STUDY = sv.Campaign("toy", "A toy", "Does it run?", build)
'''


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here") / "studies" / "toy"
    folder.mkdir(parents=True)
    (folder / "study.py").write_text(TOY)
    return folder / "study.py"


@pytest.fixture(scope="module")
def reference(study: Path, tmp_path_factory: pytest.TempPathFactory) -> xr.DataTree:
    """The results, computed without a stop in one process."""
    return run_campaign(request(study, tmp_path_factory.mktemp("reference"), "replicas=1024"))


def request(study: Path, output: Path, *settings: str, workers: int = 1, **options: Any) -> Request:
    return Request(str(study), settings, output=str(output), workers=workers, **options)


def sdeverify(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def markers(store: Path) -> dict[Path, int]:
    """The completion markers and when they were written."""
    files = [file for file in store.glob("jobs/*/*.zarr/done/c.*") if file.suffix[1:].isdigit()]
    return {file: file.stat().st_mtime_ns for file in files}


_HEARS_CONTROL_C = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('sdeverify', run_name='__main__')"
)
"""`python -m sdeverify`, also in the background of a shell, where Ctrl-C is ignored."""


@contextmanager
def half_way(study: Path, store: Path) -> Iterator[subprocess.Popen[str]]:
    """`sdeverify measure` with two workers in a process group of its own, some blocks done."""
    settings = ["--set", "replicas=1024", "--set", "pause=0.05"]
    words = ["measure", str(study), *settings, "--output", str(store), "--workers", "2"]
    with subprocess.Popen(
        [sys.executable, "-c", _HEARS_CONTROL_C, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            wait_until(lambda: len(markers(store)) >= 3 or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.kill()


def wait_until(true: Callable[[], bool], seconds: float = 180) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def group_has_ended(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def tree_without_parameters(tree: xr.DataTree) -> xr.DataTree:
    tree = tree.copy()
    tree.attrs = {k: v for k, v in tree.attrs.items() if k not in ("parameters", "command")}
    return tree


def test_a_run_killed_half_way_goes_on_to_the_same_results_without_the_finished_blocks(
    study: Path, reference: xr.DataTree, tmp_path: Path
) -> None:
    with half_way(study, tmp_path) as process:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    wait_until(lambda: group_has_ended(process.pid))
    before = markers(tmp_path)
    results = run_campaign(request(study, tmp_path, "replicas=1024", workers=2))
    after = markers(tmp_path)
    assert 3 <= len(before) < len(after)
    assert before == {file: after[file] for file in before}
    assert tree_without_parameters(results).identical(tree_without_parameters(reference))


def test_the_blocks_of_a_killed_worker_run_again_and_nothing_changes(
    study: Path, reference: xr.DataTree, tmp_path: Path
) -> None:
    with half_way(study, tmp_path) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [int(pid) for pid in children if b"spawn_main" in command_line(pid)]
        os.kill(workers[0], signal.SIGKILL)
        _, stderr = process.communicate(timeout=180)
    assert process.returncode == 0, stderr
    results = Store(tmp_path).read_tree()
    assert tree_without_parameters(results).identical(tree_without_parameters(reference))


def command_line(pid: str) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_control_c_ends_the_workers_and_says_how_to_go_on(study: Path, tmp_path: Path) -> None:
    with half_way(study, tmp_path) as process:
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=180)
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    wait_until(lambda: group_has_ended(process.pid), 30)
    assert not (tmp_path / "results.zarr").exists()


def test_workers_end_when_their_parent_is_killed(study: Path, tmp_path: Path) -> None:
    with half_way(study, tmp_path) as process:
        process.kill()
        process.communicate()
        wait_until(lambda: group_has_ended(process.pid), 30)


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("at work", r"^parabola/.*_\d, block \d: ZeroDivisionError.*study.py, line \d+\)$"),
        (
            "killed",
            r"^parabola/.*_\d, block \d: the process .* ended with signal SIGABRT, twice.*"
            "the same command goes on",
        ),
    ],
)
def test_the_failure_of_a_worker_is_told_in_one_line(
    study: Path, tmp_path: Path, fails: str, said: str
) -> None:
    with pytest.raises(SdeverifyError, match=said) as failure:
        compute(request(study, tmp_path, f"fails={fails}", workers=2))
    assert "Traceback" not in str(failure.value)


def test_help_answers_without_torch() -> None:
    code = (
        "import sys\n"
        "from sdeverify.cli.app import app\n"
        "for words in (['--help'], ['measure', '--help'], ['list']):\n"
        "    app(words, standalone_mode=False)\n"
        "sys.exit(any(name.split('.')[0] == 'torch' for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for verb in ("solve", "measure", "report", "list"):
        assert verb in done.stdout
    assert "--set" in done.stdout


def test_python_m_sdeverify_is_the_command() -> None:
    words = [sys.executable, "-m", "sdeverify", "solve", "nowhere"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: there is no study 'nowhere'")
    assert "Traceback" not in done.stderr


def test_measure_shows_a_verdict_and_keeps_the_results(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.parent.parent.parent)
    monkeypatch.setenv("COLUMNS", "200")
    settings = ["--set", "levels=1,2,4", "--seed", 3]
    shown = sdeverify("measure", "toy", *settings, "--output", tmp_path / "out", "--workers", 1)
    assert shown.exit_code == 0, shown.output
    assert "SGD on a parabola" in shown.stdout
    assert any(v in shown.stdout for v in ("supported", "refuted", "inconclusive"))
    tree = Store(tmp_path / "out").read_tree()
    assert tree.attrs["command"] == "sdeverify report toy --set levels=1,2,4 --seed 3"
    assert json.loads(tree.attrs["parameters"])["seed"] == 3
    assert tree["parabola/errors"].sizes["rung"] == 3


def test_solve_computes_the_sde_alone_and_explains_it(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = sdeverify("solve", study, "--output", tmp_path, "--workers", 1)
    assert shown.exit_code == 0, shown.output
    assert "SGD, first-order SDE" in shown.stdout
    assert "±" in shown.stdout
    assert "level 1: 0.1 of SDE time a step; level 2: 0.05 of SDE time a step" in shown.stdout
    done = sorted(path.name for path in (tmp_path / "jobs" / "parabola").iterdir())
    assert done == ["flow_0.zarr", "path_0.zarr"]


def test_report_goes_on_from_the_results_and_names_the_page(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sdeverify("solve", study, "--workers", 1).exit_code == 0
    before = markers(tmp_path / "results" / "toy")
    shown = sdeverify("report", study, "--workers", 1)
    assert shown.exit_code == 0, shown.output
    page = tmp_path / "results" / "toy" / "report.html"
    assert shown.stdout.splitlines()[-1] == f"Report: {page}"
    assert "SGD on a parabola" in page.read_text(encoding="utf-8")
    assert before.items() <= markers(tmp_path / "results" / "toy").items()
    assert len(before) == 3


def test_other_settings_in_the_same_output_are_refused(study: Path, tmp_path: Path) -> None:
    common = ("solve", study, "--output", tmp_path, "--workers", 1)
    assert sdeverify(*common).exit_code == 0
    shown = sdeverify(*common, "--set", "rate=0.2")
    assert shown.exit_code == 1
    assert "with other settings" in shown.stderr
    assert "0.1 there, 0.2 now" in shown.stderr
    assert "Use another folder for the results" in shown.stderr
    assert "--output" in shown.stderr


def test_more_replicas_add_to_those_that_are_stored(
    study: Path, reference: xr.DataTree, tmp_path: Path
) -> None:
    common = ("measure", study, "--output", tmp_path, "--workers", 1)
    assert sdeverify(*common, "--set", "replicas=256").exit_code == 0
    before = markers(tmp_path)
    shown = sdeverify(*common, "--set", "replicas=1024")
    assert shown.exit_code == 0, shown.output
    assert before.items() <= markers(tmp_path).items()
    for name in ("errors", "order"):
        xr.testing.assert_equal(
            Store(tmp_path).read_tree()["parabola"][name].to_dataset(),
            reference["parabola"][name].to_dataset(),
        )


def test_the_study_is_found_by_file_by_folder_and_by_name(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.parent.parent.parent)
    for source in (str(study), str(study.parent), "toy", "studies/toy"):
        assert find_study(source) == study.resolve()
    with pytest.raises(InvalidInputError, match=r"no study 'nosuch'.*toy"):
        find_study("nosuch")


def test_list_names_the_studies_and_a_studys_parameters(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.parent.parent.parent)
    monkeypatch.setenv("COLUMNS", "200")
    assert "A parabola with four samples." in sdeverify("list").stdout
    shown = sdeverify("list", "toy").stdout
    assert "Does it run?" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["levels", "1,2.0"] in rows
    assert ["rate", "0.1"] in rows


@pytest.mark.parametrize(
    ("default", "text", "value"),
    [
        (256, "1_000", 1000),
        (256, "2e3", 2000),
        (256, "12345678901234567890", 12345678901234567890),
        (0.1, "1e-3", 0.001),
        (0.1, "2", 2.0),
        (True, "no", False),
        (False, "True", True),
        ("cpu", "cuda:1", "cuda:1"),
        ((1, 2.0), "1, 1.5,4", (1.0, 1.5, 4.0)),
        ([1, 2], "3,4", [3, 4]),
        ((1, 2), "", ()),
        (("a",), "b,c", ("b", "c")),
        (None, "3", 3),
        (None, "0.5", 0.5),
        (None, "none", None),
        (None, "word", "word"),
    ],
)
def test_a_value_is_read_as_the_type_of_its_default(default: Any, text: str, value: Any) -> None:
    read = parse_settings({"x": default}, [f"x={text}"])["x"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["replica=3"], r"no parameter 'replica'.*\n  replicas=256\n  levels=1,2"),
        (["replicas"], r"name=value; got 'replicas'"),
        (["replicas=many"], r"'replicas' is a whole number, by default 256; got 'many'"),
        (["replicas=2.5"], r"'replicas' is a whole number"),
        (["levels=1;2"], r"'levels' is a list of numbers a,b,c, by default 1,2; got '1;2'"),
        (["exact=maybe"], r"'exact' is a yes or no"),
        (["replicas=1", "replicas=2"], r"'replicas' is set twice"),
        (["object=1"], r"'object' is a object, which cannot be set"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(settings: list[str], said: str) -> None:
    defaults = {"replicas": 256, "levels": (1, 2), "exact": True, "object": object()}
    with pytest.raises(InvalidInputError, match=said):
        parse_settings(defaults, settings)


def test_a_refusal_is_one_message_and_status_1(study: Path, tmp_path: Path) -> None:
    shown = sdeverify("measure", study, "--set", "replica=3", "--output", tmp_path / "out")
    assert shown.exit_code == 1
    assert shown.stderr.startswith("Error: there is no parameter 'replica'")
    assert "replicas=256" in shown.stderr
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(study: Path, tmp_path: Path) -> None:
    shown = sdeverify("measure", study, "--set", "fails=at once", "--debug", "--output", tmp_path)
    assert isinstance(shown.exception, SdeverifyError)
    assert isinstance(shown.exception.__cause__, KeyError)


def test_control_c_has_the_status_of_an_interrupted_command() -> None:
    with pytest.raises(typer.Exit) as ended, clean():
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "must set STUDY to a Campaign or a Study; it sets nothing"),
        ("STUDY = 3", "it sets a int"),
        ("import nosuchmodule", r"ModuleNotFoundError.*own.py, line 1\)"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_a_file_that_is_no_study_is_refused_with_the_reason(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "own.py"
    file.write_text(text)
    with pytest.raises(SdeverifyError, match=said):
        _ = Request(str(file)).studies


def test_a_failing_study_says_where(study: Path) -> None:
    with pytest.raises(SdeverifyError, match=r"building the study: KeyError.*study.py, line \d+"):
        _ = Request(str(study), ("fails=at once",)).studies


def test_a_device_that_is_not_there_is_refused(study: Path) -> None:
    with pytest.raises(InvalidInputError, match="the device 'nowhere' cannot be used"):
        _ = Request(str(study), device="nowhere").studies


def test_seed_and_set_must_agree(study: Path) -> None:
    with pytest.raises(InvalidInputError, match="seed is given twice"):
        _ = Request(str(study), ("seed=1",), seed=2).studies


def test_a_study_without_these_parameters_takes_the_seed_and_refuses_a_device(
    study: Path, tmp_path: Path
) -> None:
    file = tmp_path / "plain.py"
    file.write_text(TOY + "\nSTUDY = STUDY.studies(seed=5)[0]\n")
    assert [s.seed for s in Request(str(file), seed=2).studies] == [7]
    with pytest.raises(InvalidInputError, match="has no parameter 'device'"):
        _ = Request(str(file), device="cpu").studies


@pytest.mark.slow  # starts a scheduler and two workers
def test_a_cluster_that_loses_a_worker_gives_the_same_results(
    study: Path, reference: xr.DataTree, tmp_path: Path
) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(processes=True, **options) as cluster:
        address = f"dask:{cluster.scheduler_address}"
        asked = request(study, tmp_path, "replicas=1024", "pause=0.05", executor=address)
        killer = threading.Thread(target=_kill_a_worker_half_way, args=(cluster, tmp_path))
        killer.start()
        results = run_campaign(asked)
        killer.join()
    assert tree_without_parameters(results).identical(tree_without_parameters(reference))


def _kill_a_worker_half_way(cluster: Any, store: Path) -> None:
    wait_until(lambda: len(markers(store)) >= 3)
    nanny = next(iter(cluster.workers.values()))
    os.kill(nanny.pid, signal.SIGKILL)


def test_a_cluster_that_is_not_there_is_refused(study: Path, tmp_path: Path) -> None:
    shown = sdeverify("measure", study, "--executor", "slurm:here", "--output", tmp_path)
    assert shown.exit_code == 1
    assert "--executor takes dask:ADDRESS" in shown.stderr


def test_a_request_is_carried_out_elsewhere_without_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "studies" / "toy"
    folder.mkdir(parents=True)
    (folder / "study.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    asked = Request("toy", ("levels=1,2.0", "replicas=8"), seed=2, sde_only=True)
    _ = asked.studies
    carried = pickle.loads(pickle.dumps(asked.portable))
    (folder / "study.py").unlink()
    assert carried.parameters == {"levels": (1.0, 2.0), "replicas": 8, "seed": 2}
    assert [s.seed for s in carried.studies] == [2]
    assert sorted(carried.jobs) == ["parabola/flow_0", "parabola/path_0"]


def test_a_memory_budget_is_shared_by_the_workers_and_refused_where_it_is_too_small(
    study: Path, tmp_path: Path
) -> None:
    asked = request(study, tmp_path / "kept", workers=2, memory="1GB")
    assert {job.memory for job in asked.jobs.values()} == {1 << 29}
    assert asked.portable.memory_of_one == 1 << 29
    for memory, wanted in (("1MB", "bytes are too few here: at least"), ("1", "for 2 workers")):
        words = ("--memory", memory, "--workers", 2, "--output", tmp_path / "out")
        shown = sdeverify("measure", study, *words)
        assert shown.exit_code == 1
        assert wanted in shown.stderr
        assert not (tmp_path / "out").exists()


def test_a_study_file_is_executed_once_by_a_command(study: Path, tmp_path: Path) -> None:
    file, log = tmp_path / "counted.py", tmp_path / "log"
    file.write_text(TOY + f"\nwith open({str(log)!r}, 'a') as log:\n    log.write('executed ')\n")
    shown = sdeverify("measure", file, "--output", tmp_path / "out", "--workers", 1)
    assert shown.exit_code == 0, shown.output
    assert log.read_text() == "executed "


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (TOY.replace("import torch", "import torch, sys; sys.exit(0)"), "reading"),
        (TOY.replace("problem = ", "exit(0); problem = "), "building the study"),
        (TOY.replace("time.sleep(pause)", "raise SystemExit"), "block 0"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_study_that_ends_python_is_a_failure(
    tmp_path: Path, text: str, place: str, workers: int
) -> None:
    file = tmp_path / "ending.py"
    file.write_text(text)
    shown = sdeverify("measure", file, "--output", tmp_path / "out", "--workers", workers)
    assert shown.exit_code == 1
    assert place in shown.stderr
    assert "The study ends Python itself" in shown.stderr


def test_workers_import_from_where_their_parent_does(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    settings = ("--set", "levels=1,2", "--output", tmp_path / "out", "--workers", 2)
    shown = sdeverify("measure", study, *settings)
    assert shown.exit_code == 0, shown.output


def test_a_name_that_is_nearly_right_is_guessed(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.parent.parent.parent)
    assert "Did you mean 'toy'?" in sdeverify("measure", "toi").stderr
    assert "Did you mean 'replicas'?" in sdeverify("measure", "toy", "--set", "replica=3").stderr
    with pytest.raises(InvalidInputError, match="Did you mean 'rate'"):
        Request("toy").campaign.studies(rates=0.1)


def test_a_memory_budget_does_not_change_what_is_measured(
    study: Path, reference: xr.DataTree, tmp_path: Path
) -> None:
    results = run_campaign(request(study, tmp_path, "replicas=1024", memory="200MB"))
    assert tree_without_parameters(results).identical(tree_without_parameters(reference))
