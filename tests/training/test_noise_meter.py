"""The meter against the finite sum's truth: estimators, intervals, cost, and what it refuses."""

from __future__ import annotations

import math
import os
from itertools import permutations
from time import process_time

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from scipy import stats
from torch import nn
from torch.func import functional_call, grad, vmap

from sdeverify import NoiseMeter, noise_statistics, problem_from_module
from sdeverify.errors import InconclusiveError, InvalidInputError, UnsupportedError
from sdeverify.training.geometry import preconditioner_root
from sdeverify.training.noise_reading import SignalAndNoise, estimates

SAMPLES, CLASSES, SIZE, PIECES = 48, 3, 4, 3
"""Samples of the data, classes, samples in a micro-batch, micro-batches in a step."""
LOSS = nn.CrossEntropyLoss(reduction="none")


class Run:
    """A small classifier with its data, and a loop that draws its batches with replacement."""

    def __init__(self, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(7)
        self.inputs = torch.randn(SAMPLES, 5, generator=random)
        self.targets = (self.inputs[:, :CLASSES] + 0.5).argmax(1)
        self.net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, CLASSES))
        for parameter in self.net.parameters():
            nn.init.normal_(parameter, std=0.6, generator=random)
        self.draws = torch.Generator().manual_seed(seed)

    def batch(self, size: int = SIZE) -> torch.Tensor:
        return torch.randint(SAMPLES, (size,), generator=self.draws)

    def backward(self, batch: torch.Tensor, loss_scale: float) -> None:
        loss = LOSS(self.net(self.inputs[batch]), self.targets[batch]).mean()
        (loss * loss_scale).backward()

    def accumulate(self, pieces: int = PIECES, loss_scale: float = 1 / PIECES) -> None:
        self.net.zero_grad()
        for _ in range(pieces):
            self.backward(self.batch(), loss_scale)

    def per_sample_gradients(self) -> torch.Tensor:
        """All of them `(sample, param)`, by torch.func alone."""

        def loss(parameters, x, target):
            outputs = functional_call(self.net, parameters, x.unsqueeze(0))
            return LOSS(outputs, target.unsqueeze(0)).squeeze(0)

        parameters = {name: p.detach() for name, p in self.net.named_parameters()}
        each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, self.inputs, self.targets)
        return torch.cat([g.flatten(1) for g in each.values()], 1).double()


def meter_of(optimizer, **options):
    settings = {
        "micro_batch_size": SIZE,
        "micro_batches": PIECES,
        "loss_scale": 1 / PIECES,
        "every": 1,
    }
    return NoiseMeter(optimizer, **{**settings, **options})


def sgd(run, lr=0.0):
    return torch.optim.SGD(run.net.parameters(), lr=lr)


def signal_and_trace(gradients):
    """The finite sum's |grad f|^2 and tr Sigma from all per-sample gradients."""
    return float(gradients.mean(0).square().sum()), float(gradients.var(0, correction=0).sum())


@pytest.mark.parametrize("pieces", [2, 3])
@pytest.mark.parametrize("size", [1, 2])
def test_the_estimates_have_no_bias_over_all_batches(pieces, size):
    """Exactly: every way to draw `pieces` micro-batches of `size` from three gradients."""
    gradients = np.array([[1.0, -2.0], [0.5, 4.0], [3.0, 0.1]])
    draws = np.stack(np.meshgrid(*[range(3)] * (pieces * size)), -1).reshape(-1, pieces, size)
    micro = gradients[draws].mean(2)
    squares = np.square(micro).sum((1, 2))
    square_of_sum = np.square(micro.sum(1)).sum(1)
    signal, trace = estimates(squares, square_of_sum, pieces, size)
    assert signal.mean() == pytest.approx(np.square(gradients.mean(0)).sum(), rel=1e-12)
    assert trace.mean() == pytest.approx(gradients.var(0).sum(), rel=1e-12)


@pytest.mark.parametrize("loss_scale", [1 / PIECES, 1.0, 1024.0])
def test_a_reading_is_that_of_the_gradients_themselves(loss_scale):
    run = Run()
    meter = meter_of(sgd(run), loss_scale=loss_scale)
    by_hand = []
    for _ in range(9):
        run.net.zero_grad()
        batches = [run.batch() for _ in range(PIECES)]
        for batch in batches:
            run.backward(batch, loss_scale)
        meter.step()
        each = run.per_sample_gradients()
        micro = torch.stack([each[batch].mean(0) for batch in batches])
        pairs = (micro @ micro.T)[~torch.eye(PIECES, dtype=torch.bool)]
        by_hand.append((float(pairs.mean()), SIZE * float(micro.var(0).sum())))
    signal, trace = np.mean(by_hand, 0)
    reading = meter.reading().gradient
    assert reading.signal.value == pytest.approx(signal, rel=1e-4)
    assert reading.noise_trace.value == pytest.approx(trace, rel=1e-5)
    assert reading.noise_scale.value == pytest.approx(trace / signal, rel=1e-4)


def trained(run, optimizer, steps=20):
    for _ in range(steps):
        run.accumulate()
        optimizer.step()


def coverage(run, optimizer, truths, runs, steps=12):
    """How many 95% intervals of readings at a fixed net hold each truth, by geometry."""
    counts = {name: np.zeros(3, dtype=int) for name in truths}
    for _ in range(runs):
        meter = meter_of(optimizer)
        for _ in range(steps):
            run.accumulate()
            meter.step()
        meter.close()
        reading = meter.reading()
        for name, (signal, trace) in truths.items():
            at = getattr(reading, name)
            pairs = ((at.signal, signal), (at.noise_trace, trace), (at.noise_scale, trace / signal))
            counts[name] += [interval.low <= truth <= interval.high for interval, truth in pairs]
    return counts


def assert_binomial(counts, runs, intervals):
    """Each count is binomial at 95%; false-alarm rate 1e-3 over all of them, up to skewness."""
    low, high = stats.binom.ppf([5e-4 / intervals, 1 - 5e-4 / intervals], runs, 0.95)
    for name, count in counts.items():
        assert np.all((low <= count) & (count <= high)), (name, count, low, high)


def truths_of(run, optimizer):
    """The finite sum's signal and noise, of gradients and of preconditioned ones."""
    gradients = run.per_sample_gradients()
    truths = {"gradient": signal_and_trace(gradients)}
    root = preconditioner_root(optimizer)
    if root is not None:
        roots = torch.cat([root(p).reshape(-1) for p in run.net.parameters()]).double()
        truths["preconditioned"] = signal_and_trace(gradients / roots)
    return truths


@pytest.mark.parametrize("runs", [60, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [torch.optim.RMSprop, torch.optim.AdamW])
def test_the_intervals_cover_the_finite_sums_truth(kind, runs):
    """At a net that stands still, in both geometries: six counts, see `assert_binomial`."""
    run = Run(seed=1)
    optimizer = kind(run.net.parameters(), lr=2e-3)
    trained(run, optimizer)
    truths = truths_of(run, optimizer)
    assert_binomial(coverage(run, optimizer, truths, runs), runs, 6)


def test_a_dozen_steps_of_single_samples_cover_nine_times_in_ten():
    """The skewest case: each count is at least binomial at 90%, false-alarm rate 1e-3 for three."""
    gradients = Run().per_sample_gradients()
    truth, runs, hits = signal_and_trace(gradients), 1000, np.zeros(3, dtype=int)
    random = np.random.default_rng(0)
    for _ in range(runs):
        micro = gradients.numpy()[random.integers(0, SAMPLES, (12, 4))]
        squares, total = np.square(micro).sum((1, 2)), np.square(micro.sum(1)).sum(1)
        at = SignalAndNoise.of(*estimates(squares, total, 4, 1), 0.95)
        pairs = zip((at.signal, at.noise_trace), truth, strict=True)
        hits[:2] += [interval.low <= value <= interval.high for interval, value in pairs]
        hits[2] += at.noise_scale.low <= truth[1] / truth[0] <= at.noise_scale.high
    assert np.all(hits >= stats.binom.ppf(1e-3 / 3, runs, 0.9)), hits


def test_batches_without_replacement_lower_the_signal_by_their_covariance():
    """Exactly, over all ways to draw two disjoint pairs out of five samples."""
    gradients = np.array([[1.0, -2.0], [0.5, 4.0], [3.0, 0.1], [-1.0, 1.0], [0.3, 0.7]])
    draws = np.array(list(permutations(range(5), 4))).reshape(-1, 2, 2)
    micro = gradients[draws].mean(2)
    squares, total = np.square(micro).sum((1, 2)), np.square(micro.sum(1)).sum(1)
    signal, trace = estimates(squares, total, 2, 2)
    exact = gradients.var(0).sum()
    assert signal.mean() == pytest.approx(np.square(gradients.mean(0)).sum() - exact / 4)
    assert trace.mean() == pytest.approx(exact * 5 / 4)


def test_the_truth_of_the_coverage_test_is_the_packages_own():
    run = Run()
    problem = problem_from_module(run.net, run.inputs, run.targets, LOSS)
    theta = torch.cat([p.detach().reshape(-1) for p in run.net.parameters()])
    exact = noise_statistics(problem, theta)
    assert signal_and_trace(run.per_sample_gradients()) == pytest.approx(
        (exact.squared_gradient_norm, exact.noise_trace), rel=1e-5
    )


def test_intervals_about_another_truth_do_not_cover():
    """The negative control: a signal wrong by the noise of a step is missed."""
    run = Run(seed=2)
    signal, trace = signal_and_trace(run.per_sample_gradients())
    wrong = {"gradient": (signal + trace / (SIZE * PIECES), trace / 2)}
    assert np.all(coverage(run, sgd(run), wrong, 40, 32)["gradient"] < 20)


@pytest.mark.slow
def test_along_a_trajectory_the_intervals_cover_the_mean_of_the_truth():
    """400 runs that train fast. They may cover more than 95%, as the truth drifts; not less.

    False-alarm rate 1e-3 over three one-sided counts.
    """
    counts, runs = np.zeros(3, dtype=int), 400
    for seed in range(runs):
        run = Run(seed=seed)
        optimizer = sgd(run, lr=0.5)
        meter, truth = meter_of(optimizer), []
        for _ in range(12):
            run.accumulate()
            meter.step()
            truth.append(signal_and_trace(run.per_sample_gradients()))
            optimizer.step()
        meter.close()
        signal, trace = np.mean(truth, 0)
        at = meter.reading().gradient
        pairs = ((at.signal, signal), (at.noise_trace, trace), (at.noise_scale, trace / signal))
        counts += [interval.low <= value <= interval.high for interval, value in pairs]
    assert truth[-1][0] < 0.5 * truth[0][0]
    assert np.all(counts >= stats.binom.ppf(1e-3 / 3, runs, 0.95)), counts


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.RMSprop, {}),
        (torch.optim.RMSprop, {"centered": True}),
        (torch.optim.Adam, {}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.AdamW, {"betas": (0.8, 0.9), "eps": 1e-3}),
    ],
)
def test_the_root_is_what_torch_divides_by(kind, options):
    """One more step of a copy with lr and no gradient memory moves by g over the root, exactly."""
    run = Run()
    options = {**options, "weight_decay": 0.0}
    optimizer = kind(run.net.parameters(), lr=1e-2, **options)
    trained(run, optimizer, 5)
    run.accumulate()
    before = [p.detach().clone() for p in run.net.parameters()]
    optimizer.step()
    root = preconditioner_root(optimizer)
    for parameter, start in zip(run.net.parameters(), before, strict=True):
        state = optimizer.state[parameter]
        update = parameter.grad
        if "exp_avg" in state:
            beta = optimizer.param_groups[0]["betas"][0]
            update = state["exp_avg"] / (1 - beta ** state["step"])
        expected = start - 1e-2 * update / root(parameter)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)


def test_an_optimizer_without_a_preconditioner_has_one_geometry():
    run = Run()
    meter = meter_of(sgd(run))
    for _ in range(8):
        run.accumulate()
        meter.step()
    assert meter.reading().preconditioned is None


def test_the_own_geometry_waits_for_v():
    run = Run()
    optimizer = torch.optim.Adam(run.net.parameters())
    meter = meter_of(optimizer)
    for step in range(9):
        run.accumulate()
        meter.step()
        optimizer.step()
        assert (step < 7) or (meter.reading().preconditioned is None) == (step == 7)
    assert "preconditioned" in str(meter.reading())


def test_readings_are_about_the_latest_window():
    run = Run()
    meter = meter_of(sgd(run), window=8, every=2)
    for _ in range(21):
        run.accumulate()
        meter.step()
    reading = meter.reading()
    assert (reading.first, reading.last, reading.measured) == (6, 20, 8)
    assert meter.steps == 21
    assert reading.gradient.noise_to_signal(4).value == reading.gradient.noise_scale.value / 4


def test_nothing_of_the_run_changes():
    """Parameters after ten steps are the same bits with a meter and without."""
    ends = []
    for measured in (False, True):
        run = Run(seed=3)
        optimizer = torch.optim.Adam(run.net.parameters(), lr=1e-2)
        meter = meter_of(optimizer) if measured else None
        for _ in range(10):
            run.accumulate()
            if meter is not None:
                meter.step()
            optimizer.step()
        ends.append(torch.cat([p.detach().reshape(-1) for p in run.net.parameters()]))
    assert torch.equal(*ends)


def test_closing_takes_the_hooks_off():
    run = Run()
    with meter_of(sgd(run)) as meter:
        run.accumulate()
        assert all(p._backward_hooks for p in run.net.parameters())
    assert not any(p._backward_hooks for p in run.net.parameters())
    assert meter.measured == 0


def test_the_meter_takes_at_most_one_percent_of_the_loops_time():
    """Within one run, from outside: what measured steps cost more than their neighbours.

    Processor time, so that other processes do not count, and medians.
    """
    random = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    inputs = torch.randn(128, 256, generator=random)
    optimizer = torch.optim.Adam(net.parameters())
    meter = NoiseMeter(optimizer, micro_batch_size=128, micro_batches=2, loss_scale=0.5)
    costs, measured = [], []
    while sum(costs) < 2 or sum(measured) < 8:
        start, before = process_time(), meter.measured
        for _ in range(2):
            (net(inputs).square().mean() / 2).backward()
        meter.step()
        optimizer.step()
        optimizer.zero_grad()
        costs.append(process_time() - start)
        measured.append(meter.measured > before)
    costs, measured = np.array(costs), np.array(measured)
    extra = np.median(costs[measured]) - np.median(costs[~measured])
    assert 0 < extra * measured.sum() / costs.sum() < 0.01


def test_one_micro_batch_a_step_is_refused_with_the_remedy():
    with pytest.raises(InvalidInputError, match=r"two halves.*micro_batches=2"):
        meter_of(sgd(Run()), micro_batches=1)


def test_the_remedy_leaves_the_step_as_it_was():
    """Two halves with half the loss each have the gradient of the whole batch."""
    run = Run()
    batch = run.batch(2 * SIZE)
    run.backward(batch, 1.0)
    whole = [p.grad.clone() for p in run.net.parameters()]
    run.net.zero_grad()
    for half in batch.split(SIZE):
        run.backward(half, 0.5)
    for parameter, gradient in zip(run.net.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def _clipped(run):
    nn.utils.clip_grad_norm_(run.net.parameters(), 1e-2)


def _unscaled(run):
    for parameter in run.net.parameters():
        parameter.grad /= 128.0


@pytest.mark.parametrize("spoil", [_clipped, _unscaled, lambda run: run.net.zero_grad()])
def test_gradients_that_were_changed_before_the_meter_are_refused(spoil):
    run = Run()
    meter = meter_of(sgd(run))
    run.accumulate()
    spoil(run)
    with pytest.raises(
        InvalidInputError, match=r"before gradients are clipped, unscaled or zeroed"
    ):
        meter.step()


def test_gradients_left_from_the_step_before_are_refused():
    run = Run()
    meter = meter_of(sgd(run))
    run.accumulate()
    meter.step()
    for _ in range(PIECES):
        run.backward(run.batch(), 1 / PIECES)
    with pytest.raises(InvalidInputError, match="zero them before the first backward"):
        meter.step()


def test_more_backward_passes_than_declared_are_refused():
    run = Run()
    meter = meter_of(sgd(run))
    run.accumulate(PIECES + 1)
    with pytest.raises(InvalidInputError, match=r"had 4 backward passes.*micro_batches=3"):
        meter.step()


def test_steps_cut_short_or_not_finite_are_left_out():
    run = Run()
    meter = meter_of(sgd(run))
    run.accumulate(PIECES - 1)
    meter.step()
    run.accumulate(loss_scale=math.inf)
    meter.step()
    for _ in range(8):
        run.accumulate()
        meter.step()
    reading = meter.reading()
    assert (reading.first, reading.measured, reading.skipped) == (3, 8, 2)
    assert "2 skipped" in str(reading)


def test_a_loss_scale_that_moves_is_asked_at_each_step():
    """As a GradScaler's: powers of two change no bit of the reading."""
    readings = []
    for scales in ([1.0] * 8, [2.0**k for k in range(8)]):
        run = Run(seed=4)
        left = iter(scales)
        scale = [1.0]
        meter = meter_of(sgd(run), loss_scale=lambda scale=scale: scale[0])
        for _ in range(8):
            scale[0] = next(left)
            run.accumulate(loss_scale=scale[0])
            meter.step()
        readings.append(meter.reading().gradient)
    assert readings[0] == readings[1]


def test_bfloat16_gradients_are_squared_in_float32():
    run = Run(seed=5)
    run.net.bfloat16()
    run.inputs = run.inputs.bfloat16()
    meter = meter_of(sgd(run))
    for _ in range(64):
        run.accumulate()
        meter.step()
    run.net.float()
    run.inputs = run.inputs.float()
    signal, trace = signal_and_trace(run.per_sample_gradients())
    at = meter.reading(0.9999).gradient
    assert at.signal.low < signal < at.signal.high
    assert at.noise_trace.low < trace < at.noise_trace.high


def test_too_few_measured_steps_are_inconclusive():
    run = Run()
    meter = meter_of(sgd(run))
    for _ in range(7):
        run.accumulate()
        meter.step()
    with pytest.raises(InconclusiveError, match="7 of 7 steps"):
        meter.reading()


def test_sparse_gradients_are_refused():
    net = nn.Embedding(4, 2, sparse=True)
    meter = meter_of(torch.optim.SGD(net.parameters(), lr=0.1))
    with pytest.raises(UnsupportedError, match="sparse=False"):
        net(torch.tensor([1])).sum().backward()
    meter.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"micro_batch_size": 0}, "micro_batch_size is a whole number >= 1"),
        ({"loss_scale": 0.0}, "loss_scale"),
        ({"share": 0}, "share is a part"),
        ({"every": 0}, "every is a whole number"),
        ({"window": 3}, "window is a whole number >= 8"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, words):
    with pytest.raises(InvalidInputError, match=words):
        meter_of(sgd(Run()), **options)


def test_no_optimizer_and_no_parameters_are_refused():
    with pytest.raises(InvalidInputError, match="torch optimizer; got Sequential"):
        meter_of(Run().net)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(InvalidInputError, match="requires_grad=True"):
        meter_of(torch.optim.SGD(frozen.parameters(), lr=0.1))


class Sharded(nn.Parameter):
    """A parameter of which a process may hold a part."""


def test_sharded_parameters_are_refused():
    net = nn.Linear(2, 2)
    net.weight = Sharded(torch.ones(2, 2))
    with pytest.raises(UnsupportedError, match=r"Sharded.*FSDP"):
        meter_of(torch.optim.SGD(net.parameters(), lr=0.1))


def _rank(rank, folder, pieces):
    """Process `rank` of two: a data parallel loop, its readings and those of one process."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    run = Run(seed=10 + rank)
    parallel = nn.parallel.DistributedDataParallel(run.net)
    optimizer = torch.optim.Adam(parallel.parameters(), lr=1e-2)
    meter = meter_of(
        optimizer,
        micro_batches=pieces,
        loss_scale=1 / pieces,
        process_group=dist.group.WORLD,
    )
    for _ in range(12):
        optimizer.zero_grad()
        for _ in range(pieces):
            batch = run.batch()
            loss = LOSS(parallel(run.inputs[batch]), run.targets[batch]).mean()
            (loss / pieces).backward()
        meter.step()
        optimizer.step()
    at = meter.reading()
    flat = [x for geometry in (at.gradient, at.preconditioned) for x in geometry.signal]
    torch.save(flat + list(at.gradient.noise_scale), f"{folder}/{rank}")
    forgotten = meter_of(optimizer, micro_batches=2, loss_scale=0.5)
    optimizer.zero_grad()
    for _ in range(2):
        batch = run.batch()
        (LOSS(parallel(run.inputs[batch]), run.targets[batch]).mean() / 2).backward()
    with pytest.raises(InvalidInputError, match="pass process_group="):
        forgotten.step()
    by_time = NoiseMeter(
        optimizer,
        micro_batch_size=SIZE,
        micro_batches=1,
        loss_scale=1.0,
        share=0.5,
        process_group=dist.group.WORLD,
    )
    for _ in range(60):
        optimizer.zero_grad()
        batch = run.batch()
        LOSS(parallel(run.inputs[batch]), run.targets[batch]).mean().backward()
        by_time.step()
    assert by_time.measured >= 2
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [1, 2])
def test_two_ranks_read_what_one_process_reads_from_the_same_micro_batches(tmp_path, pieces):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.start_processes(
        _rank, (str(tmp_path), pieces), nprocs=2, start_method="spawn"
    )
    first, second = (torch.load(tmp_path / str(rank), weights_only=True) for rank in (0, 1))
    assert first == second

    ranks = [Run(seed=10), Run(seed=11)]
    run = Run()
    optimizer = torch.optim.Adam(run.net.parameters(), lr=1e-2)
    meter = meter_of(optimizer, micro_batches=2 * pieces, loss_scale=1 / (2 * pieces))
    for _ in range(12):
        optimizer.zero_grad()
        for _ in range(pieces):
            for rank in ranks:
                run.backward(rank.batch(), 1 / (2 * pieces))
        meter.step()
        optimizer.step()
    at = meter.reading()
    flat = [x for geometry in (at.gradient, at.preconditioned) for x in geometry.signal]
    assert first == pytest.approx(flat + list(at.gradient.noise_scale), rel=1e-3)
