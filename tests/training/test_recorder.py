"""Checkpoints: the run goes on from one bit for bit, and nothing is lost or taken for another."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import sdeverify as sv
from sdeverify.errors import InvalidInputError, StoreError, UnsupportedError

LOSS = nn.CrossEntropyLoss(reduction="none")
RANDOM = torch.Generator().manual_seed(0)
INPUTS = torch.randn(32, 4, generator=RANDOM)
TARGETS = INPUTS[:, :3].argmax(1)


def sgd(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    return optimizer, lr_scheduler.LambdaLR(optimizer, lambda k: 1 / (1 + 0.1 * k))


def rmsprop(net):
    return torch.optim.RMSprop(net.parameters(), lr=np.float64(1e-3)), None


def adamw(net):
    decayed, free = (
        [p for p in net.parameters() if p.ndim > 1],
        [p for p in net.parameters() if p.ndim == 1],
    )
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    return optimizer, lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=30)


def chained(net):
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    warm = lr_scheduler.LinearLR(optimizer, total_iters=5)
    milestones = lr_scheduler.MultiStepLR(optimizer, [3, 6])
    return optimizer, lr_scheduler.SequentialLR(optimizer, [warm, milestones], [5])


def net_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def train(first, last, net, optimizer, scheduler, recorder=None):
    """Steps first + 1 to last, on batches that follow from the step alone."""
    for step in range(first + 1, last + 1):
        batch = torch.randint(32, (8,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = LOSS(net(INPUTS[batch]), TARGETS[batch]).mean()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if recorder is not None:
            recorder.record(step, net, optimizer, scheduler, loss=loss.item())


def bits_of(net, optimizer, scheduler):
    """Everything that the run carries, for comparison bit for bit."""
    state = optimizer.state_dict()
    tensors = [*net.state_dict().values()]
    tensors += [torch.as_tensor(v) for s in state["state"].values() for v in s.values()]
    rates = [float(group["lr"]) for group in state["param_groups"]]
    return [t.numpy().tobytes() for t in tensors], rates


@pytest.mark.parametrize("build", [sgd, rmsprop, adamw, chained])
def test_training_from_a_checkpoint_is_the_uninterrupted_run_bit_for_bit(build, tmp_path):
    net = net_of()
    optimizer, scheduler = build(net)
    train(0, 20, net, optimizer, scheduler, sv.Recorder(tmp_path, steps=[8]))

    again = net_of(seed=1)
    other, other_scheduler = build(again)
    sv.Recorder(tmp_path).restore(8, again, other, other_scheduler)
    train(8, 20, again, other, other_scheduler)
    assert bits_of(again, other, other_scheduler) == bits_of(net, optimizer, scheduler)


def test_a_later_step_than_the_checkpoints_is_another_state(tmp_path):
    """The negative control of the test above."""
    net = net_of()
    optimizer, scheduler = adamw(net)
    train(0, 20, net, optimizer, scheduler, sv.Recorder(tmp_path, steps=[8, 9]))
    again = net_of(seed=1)
    other, other_scheduler = adamw(again)
    sv.Recorder(tmp_path).restore(9, again, other, other_scheduler)
    train(8, 20, again, other, other_scheduler)
    assert bits_of(again, other, other_scheduler) != bits_of(net, optimizer, scheduler)


def plain_run(folder, steps=(30,)):
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda k: 0.99**k)
    train(0, 30, net, optimizer, scheduler, sv.Recorder(folder, steps=steps))
    return net, optimizer, scheduler


def test_verify_runs_from_a_checkpoint_as_from_the_live_run(tmp_path):
    torch.manual_seed(3)
    live = plain_run(tmp_path)
    restored = plain_run(tmp_path / "other")
    sv.Recorder(tmp_path).restore(30, *restored)
    answers = [
        sv.verify(
            net,
            INPUTS,
            TARGETS,
            LOSS,
            optimizer,
            batch_size=8,
            steps=3,
            replicas=8,
            schedule=scheduler,
        )
        for net, optimizer, scheduler in (live, restored)
    ]
    assert answers[1].start.step == 30
    assert answers[0].errors.identical(answers[1].errors)


def test_only_the_steps_asked_for_are_kept(tmp_path):
    plain_run(tmp_path, steps=range(10, 10**9, 10))
    recorder = sv.Recorder(tmp_path)
    assert recorder.recorded == [10, 20, 30]
    assert "[10, 20, 30]" in repr(recorder)
    assert len(recorder.losses) == 30
    assert {place.name for place in tmp_path.iterdir()} == {
        "losses.txt",
        *(f"step-{step:09d}.pt" for step in (10, 20, 30)),
    }


def test_a_write_that_fails_leaves_the_earlier_checkpoint_whole(tmp_path, monkeypatch):
    net, optimizer, scheduler = plain_run(tmp_path)
    place = tmp_path / "step-000000030.pt"
    before = place.read_bytes()

    def fail(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    recorder = sv.Recorder(tmp_path, steps=[30])
    recorder._checked = True
    with pytest.raises(StoreError, match=r"step 30 cannot be written.*No space left"):
        recorder.record(30, net, optimizer, scheduler)
    assert place.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith("part")] == []


KILLED = """
import sys, torch, sdeverify as sv
net = torch.nn.Linear(1000, 1000)
optimizer = torch.optim.Adam(net.parameters())
net(torch.ones(1000)).sum().backward(); optimizer.step()
recorder = sv.Recorder(sys.argv[1], steps=range(1, 10**6))
for step in range(1, 10**6):
    recorder.record(step, net, optimizer, loss=float(step))
"""


@pytest.mark.slow
def test_a_kill_leaves_every_checkpoint_whole(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    recorder = sv.Recorder(tmp_path)
    deadline = time.monotonic() + 120
    while len(recorder.recorded) < 12 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(recorder.recorded) >= 12
    net = nn.Linear(1000, 1000)
    optimizer = torch.optim.Adam(net.parameters())
    for step in recorder.recorded:
        recorder.restore(step, net, optimizer)
        assert optimizer.state[net.weight]["step"] == 1
    assert recorder.losses[recorder.recorded[-1] - 1] == recorder.recorded[-1] - 1


def test_a_line_cut_short_by_a_kill_is_no_loss(tmp_path):
    recorder = sv.Recorder(tmp_path)
    recorder.log_loss(1, 0.5)
    recorder.log_loss(2, torch.tensor(0.25))
    with (tmp_path / "losses.txt").open("a") as file:
        file.write("3 0.1")
    assert recorder.losses == {1: 0.5, 2: 0.25}
    again = sv.Recorder(tmp_path)
    again.log_loss(3, 0.125)
    assert again.losses == {1: 0.5, 2: 0.25, 3: 0.125}


def test_losses_after_the_step_that_training_went_back_to_are_gone(tmp_path):
    recorder = sv.Recorder(tmp_path)
    for step, loss in ((1, 1.0), (2, 0.9), (3, 0.8), (4, 0.7), (3, 0.85)):
        recorder.log_loss(step, loss)
    assert recorder.losses == {1: 1.0, 2: 0.9, 3: 0.85}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nets_in_wrappers_are_recorded_as_themselves(tmp_path):
    net = nn.Linear(4, 3)
    wrapped = torch.compile(net)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    recorder = sv.Recorder(tmp_path, steps=[0])
    recorder.record(0, wrapped, optimizer)
    fresh = nn.Linear(4, 3)
    recorder.restore(0, fresh, torch.optim.SGD(fresh.parameters(), lr=0.1))
    assert torch.equal(fresh.weight, net.weight)


def _narrow():
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    optimizer = torch.optim.Adam(net.parameters())
    return net, optimizer, lr_scheduler.LambdaLR(optimizer, lambda k: 1.0)


def _as_recorded(optimizer_class=torch.optim.Adam, dtype=torch.float32, groups=1):
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    parameters = list(net.parameters())
    split = [{"params": parameters[i::groups]} for i in range(groups)]
    optimizer = optimizer_class(split, lr=0.1)
    return net, optimizer, lr_scheduler.LambdaLR(optimizer, [lambda k: 1.0] * groups)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (_narrow, r"0.weight is \(5, 4\) torch.float32 here and \(6, 4\)"),
        (lambda: _as_recorded(dtype=torch.float64), "torch.float64 here and"),
        (lambda: _as_recorded(torch.optim.AdamW), r"recorded with torch.optim.adam.Adam; got"),
        (lambda: _as_recorded(groups=2), r"groups of \[2, 2\] tensors.*have \[4\]"),
        (lambda: (*_as_recorded()[:2], None), "got no scheduler. Pass the training script's own"),
        (
            lambda: (*(run := _as_recorded())[:2], lr_scheduler.StepLR(run[1], 3)),
            "recorded with torch.optim.lr_scheduler.LambdaLR; got",
        ),
    ],
)
def test_other_objects_than_recorded_are_refused_and_left_alone(build, words, tmp_path):
    plain_run(tmp_path)
    net, optimizer, scheduler = build()
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(InvalidInputError, match=words):
        sv.Recorder(tmp_path).restore(30, net, optimizer, scheduler)
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    assert not optimizer.state


def test_a_scheduler_that_was_not_recorded_is_refused(tmp_path):
    net, optimizer, scheduler = _as_recorded()
    recorder = sv.Recorder(tmp_path, steps=[0])
    recorder.record(0, net, optimizer)
    with pytest.raises(InvalidInputError, match="Leave the scheduler out, or record it too"):
        recorder.restore(0, net, optimizer, scheduler)


def test_a_step_that_was_not_kept_is_refused_with_those_that_were(tmp_path):
    run = plain_run(tmp_path)
    with pytest.raises(InvalidInputError, match=r"no checkpoint of step 7.*steps \[30\]"):
        sv.Recorder(tmp_path).restore(7, *run)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04cut"])
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    run = plain_run(tmp_path)
    (tmp_path / "step-000000030.pt").write_bytes(content)
    with pytest.raises(StoreError, match="no checkpoint of sdeverify"):
        sv.Recorder(tmp_path).restore(30, *run)


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    run = plain_run(tmp_path)
    place = tmp_path / "step-000000030.pt"
    torch.save(torch.load(place, weights_only=True) | {"format": 99}, place)
    with pytest.raises(StoreError, match="has format 99"):
        sv.Recorder(tmp_path).restore(30, *run)


class Strange:
    """Something that only pickle could read back."""


def test_a_state_that_cannot_be_read_back_is_refused_at_the_first_step(tmp_path):
    net, optimizer, scheduler = _as_recorded()
    scheduler.note = Strange()
    with pytest.raises(
        UnsupportedError, match=r"state of this scheduler.*LambdaLR\) holds note = .*Strange"
    ):
        sv.Recorder(tmp_path, steps=[500]).record(1, net, optimizer, scheduler)


class Shard(torch.Tensor):
    """A tensor of which a process may hold a part."""


def test_a_sharded_net_is_refused_at_the_first_step(tmp_path):
    net, optimizer, scheduler = _as_recorded()
    net.register_buffer("part", torch.ones(2).as_subclass(Shard))
    with pytest.raises(UnsupportedError, match=r"part as a Shard.*FSDP"):
        sv.Recorder(tmp_path).record(1, net, optimizer, scheduler)


@pytest.mark.parametrize("step", [-1, 1.5, "3"])
def test_a_step_is_a_count(step, tmp_path):
    net, optimizer, _ = _as_recorded()
    with pytest.raises(InvalidInputError, match="step"):
        sv.Recorder(tmp_path).record(step, net, optimizer)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be made.*Choose another folder"):
        sv.Recorder(tmp_path / "file" / "run")


class Wrapped(torch.optim.Optimizer):
    """An optimizer around another, as accelerate's."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def state_dict(self):
        return self.optimizer.state_dict()


def stand_in(monkeypatch, module, name):
    """A module with an empty base class, as the library documents it."""
    base = type(name, (), {})
    fake = ModuleType(module)
    setattr(fake, name, base)
    if "." in module:
        monkeypatch.setitem(sys.modules, module.split(".")[0], ModuleType(module.split(".")[0]))
    monkeypatch.setitem(sys.modules, module, fake)
    return base


def test_hugging_faces_trainer_records_through_its_hooks(tmp_path, monkeypatch):
    base = stand_in(monkeypatch, "transformers", "TrainerCallback")
    recorder = sv.Recorder(tmp_path, steps=[0, 2])
    callback = recorder.trainer_callback()
    assert isinstance(callback, base)
    net, optimizer, scheduler = _as_recorded()
    live = {
        "model": net,
        "optimizer": Wrapped(optimizer),
        "lr_scheduler": SimpleNamespace(scheduler=scheduler),
        "processing_class": None,
    }
    state = SimpleNamespace(global_step=0, is_world_process_zero=True)
    callback.on_train_begin(None, state, None, **live)
    for step in (1, 2, 3):
        train(step - 1, step, net, optimizer, scheduler)
        state.global_step = step
        callback.on_step_end(None, state, None, **live)
        callback.on_log(None, state, None, logs={"loss": 1 / step, "epoch": 0.1}, **live)
        callback.on_log(None, state, None, logs={"eval_loss": 0.3}, **live)
    state.is_world_process_zero = False
    callback.on_step_end(None, state, None, **live)
    assert recorder.recorded == [0, 2]
    assert recorder.losses == {1: 1.0, 2: 0.5, 3: 1 / 3}

    again, other, other_scheduler = _as_recorded()
    recorder.restore(2, again, other, other_scheduler)
    train(2, 3, again, other, other_scheduler)
    assert bits_of(again, other, other_scheduler) == bits_of(net, optimizer, scheduler)


@pytest.mark.parametrize("module", ["lightning.pytorch", "pytorch_lightning"])
def test_lightnings_trainer_records_through_its_hooks(tmp_path, monkeypatch, module):
    """Two micro-batches a step: the hook comes after each, the step counts once."""
    base = stand_in(monkeypatch, module, "Callback")
    recorder = sv.Recorder(tmp_path, steps=[0, 2])
    callback = recorder.lightning_callback()
    assert isinstance(callback, base)
    net, optimizer, scheduler = _as_recorded()
    trainer = SimpleNamespace(
        global_step=0,
        is_global_zero=True,
        optimizers=[optimizer],
        lr_scheduler_configs=[SimpleNamespace(scheduler=scheduler)],
        accumulate_grad_batches=2,
    )
    callback.on_train_start(trainer, net)
    for index in range(6):
        if index % 2:
            train(index // 2, index // 2 + 1, net, optimizer, scheduler)
            trainer.global_step += 1
        outputs = {"loss": torch.tensor(float(index))}
        callback.on_train_batch_end(trainer, net, outputs, None, index)
    assert recorder.recorded == [0, 2]
    assert recorder.losses == {1: 2.0, 2: 6.0, 3: 10.0}

    trainer.optimizers, trainer.global_step = [optimizer, optimizer], 4
    with pytest.raises(UnsupportedError, match="2 optimizers"):
        callback.on_train_batch_end(trainer, net, None, None, 6)


@pytest.mark.parametrize("method", ["trainer_callback", "lightning_callback"])
def test_a_library_that_cannot_be_imported_is_named(method, tmp_path, monkeypatch):
    for name in ("transformers", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnsupportedError, match=r"not there to build on.*Install"):
        getattr(sv.Recorder(tmp_path), method)()
