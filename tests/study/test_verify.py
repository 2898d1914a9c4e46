from __future__ import annotations

import copy
import re
from functools import partial

import pytest
import torch
from torch import nn

import sdeverify as sv
from sdeverify.problems.digits import digits
from sdeverify.study.verify import Evaluated


def trained(steps: int = 30) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.optim.Optimizer]:
    torch.manual_seed(0)
    inputs, targets = digits(128)
    net = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))
    optimizer = torch.optim.RMSprop(net.parameters(), lr=5e-3, alpha=0.95, eps=1e-2)
    for _ in range(steps):
        batch = torch.randint(len(inputs), (8,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs[batch]), targets[batch]).backward()
        optimizer.step()
    return net, inputs, targets, optimizer


def test_one_line_tells_how_far_the_sde_is_from_a_live_run() -> None:
    net, inputs, targets, optimizer = trained()
    before = [p.detach().clone() for p in net.parameters()]
    loss = nn.CrossEntropyLoss(reduction="none")
    answer = sv.verify(net, inputs, targets, loss, optimizer, batch_size=8, steps=6, replicas=128)
    assert answer.start.step == 30
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    text = str(answer)
    for word in ("RMSprop", "loss", "accuracy", "95% interval", "step 30 to 36"):
        assert word in text
    error = answer.errors["error"].sel(observable="squared_parameter_norm")[-1]
    assert float(error) != 0
    assert float(answer.errors["standard_error"].max()) > 0


def test_the_answer_says_how_the_sde_was_solved_and_why() -> None:
    net, inputs, targets, optimizer = trained()
    loss = nn.CrossEntropyLoss(reduction="none")
    common = {"batch_size": 8, "steps": 4}
    planned = sv.verify(net, inputs, targets, loss, optimizer, precision=0.3, **common)
    assert planned.chain.attrs["replicas"] == planned.plan.runs
    assert planned.path.attrs["replicas"] == planned.plan.replicas < planned.plan.runs
    assert planned.path.attrs["subsample"] == planned.plan.subsample == 8
    text = str(planned)
    for words in ("Solved with", "subsets of 8 samples", "because", "wanted: 0.3 together"):
        assert words in text
    own = sv.verify(
        net, inputs, targets, loss, optimizer, replicas=40, path_replicas=30, substeps=(3,),
        subsample=0, **common,
    )  # fmt: skip
    assert [own.chain.attrs["replicas"], own.path.attrs["replicas"]] == [40, 30]
    assert "all samples" in str(own)
    assert "integrator's bias is not known" in str(own)


def test_a_reduced_loss_is_refused_before_any_work() -> None:
    net, inputs, targets, optimizer = trained(2)
    with pytest.raises(sv.SdeverifyError, match="reduction"):
        sv.verify(net, inputs, targets, nn.CrossEntropyLoss(), optimizer)


def test_the_answer_says_what_was_read_of_the_run() -> None:
    net, inputs, targets, optimizer = trained()
    loss = nn.CrossEntropyLoss(reduction="none")
    common = {"batch_size": 8, "steps": 2, "replicas": 8, "substeps": 1}
    text = str(sv.verify(net, inputs, targets, loss, optimizer, **common))
    for words in (
        "learning rate: 0.005, constant",
        "other options: alpha 0.95, eps 0.01, weight_decay 0",
        "noise: mini-batches of 8 out of 128 samples, with replacement",
        "computed in torch.float32\n",
    ):
        assert words in text
    optimizer.param_groups[0]["initial_lr"] = 0.005
    decay = partial(pow, 0.9)
    optimizer.param_groups[0]["lr"] = 0.005 * decay(30)
    text = str(sv.verify(net, inputs, targets, loss, optimizer, schedule=decay, **common))
    rates = [f"{0.005 * 0.9**k:.6g} at step {k}" for k in (30, 31)]
    assert f"learning rate: {rates[0]}, {rates[1]} (scheduled)" in text


def test_a_schedule_that_ends_before_the_comparison_is_refused_before_any_step() -> None:
    net, inputs, targets, _ = trained(2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 5, cycle_momentum=False)
    loss, ran = nn.CrossEntropyLoss(reduction="none"), []
    with pytest.raises(sv.InvalidInputError, match="no learning rate for step 6.*fewer steps"):
        sv.verify(
            net, inputs, targets, loss, optimizer, schedule=scheduler, steps=40, replicas=8,
            observables=sv.Observable("first", lambda state: ran.append(0) or state.theta[:, 0]),
        )  # fmt: skip
    assert not ran


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_net_in_half_precision_is_verified_in_float32_and_the_answer_says_so(
    dtype: torch.dtype,
) -> None:
    """The same numbers as of the same net in float32, whose parameters are the rounded ones."""
    torch.manual_seed(0)
    net = nn.Linear(3, 1).to(dtype)
    inputs = torch.randn(16, 3).to(dtype)
    common = {"batch_size": 4, "steps": 4, "replicas": 16, "substeps": 2}
    wide, loop = copy.deepcopy(net).float(), partial(torch.optim.SGD, lr=0.01)
    data = (inputs, inputs[:, :1], squares)
    with pytest.warns(UserWarning, match="computed in float32"):
        half = sv.verify(net, *data, loop(net.parameters()), **common)
    single = sv.verify(wide, *data, loop(wide.parameters()), **common)
    assert half.errors["error"].equals(single.errors["error"])
    assert float(half.errors["standard_error"].max()) > 0
    assert f"torch.float32 (the net is in {dtype}, whose rounding is left out)" in str(half)


def test_computing_in_half_precision_is_refused() -> None:
    net, inputs = nn.Linear(3, 1), torch.randn(8, 3)
    with pytest.raises(
        sv.UnsupportedError, match=r"float32 or torch\.float64; got torch\.bfloat16"
    ):
        sv.problem_from_module(net, inputs, inputs[:, :1], squares, dtype=torch.bfloat16)


def squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().sum(-1)


def test_large_data_are_evaluated_on_one_subset_and_the_answer_says_so() -> None:
    torch.manual_seed(0)
    inputs, net = torch.randn(3000, 4), nn.Linear(4, 2)
    targets, loss = (inputs.sum(1) > 0).long(), nn.CrossEntropyLoss(reduction="none")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    how = {"batch_size": 8, "steps": 2, "replicas": 8}
    answer = sv.verify(net, inputs, targets, loss, optimizer, evaluation_samples=500, **how)
    problem = sv.problem_from_module(net, inputs, targets, loss)
    theta = sv.flatten_parameters(net).unsqueeze(0)
    subset = problem.subset(500)
    for side in (answer.chain["mean"], answer.path["mean"].isel(substeps=0)):
        at_start = side.isel(step=0).sel(observable="loss")
        assert float(at_start) == pytest.approx(float(subset.loss(theta)), rel=1e-6)
    assert "500 of the 3,000 samples" in str(answer)
    # 3 standard errors: a false alarm in 1 of 370 seeds.
    away = float(problem.loss(theta)) - answer.evaluated.loss
    assert abs(away) < 3 * answer.evaluated.standard_error
    every = sv.verify(net, inputs, targets, loss, optimizer, evaluation_samples=0, **how)
    assert float(every.chain["mean"][0, 0]) == pytest.approx(float(problem.loss(theta)), rel=1e-6)
    assert "random subset" not in str(every)


def test_the_standard_error_of_a_subset_is_that_of_many_draws() -> None:
    """200 subsets; the ratio of variances is within 1 +- 0.3 but in 1 of 370 seeds (3 sigma)."""
    torch.manual_seed(1)
    inputs, net = torch.randn(400, 4), nn.Linear(4, 2)
    loss = nn.CrossEntropyLoss(reduction="none")
    problem = sv.problem_from_module(net, inputs, (inputs.sum(1) > 0).long(), loss)
    theta = sv.flatten_parameters(net).unsqueeze(0)
    draws = [Evaluated.at(problem.subset(100, seed), theta, 400, 1.0) for seed in range(200)]
    variance = torch.tensor([draw.loss for draw in draws]).var()
    told = torch.tensor([draw.standard_error**2 for draw in draws]).mean()
    assert 0.7 < float(variance / told) < 1.3


def test_what_would_take_for_ever_is_refused_with_its_time_and_an_affordable_precision() -> None:
    net, inputs, targets, optimizer = trained()
    loss = nn.CrossEntropyLoss(reduction="none")
    with pytest.raises(sv.InvalidInputError, match=r"days.*time_limit=600") as refusal:
        sv.verify(net, inputs, targets, loss, optimizer, precision=1e-6, batch_size=8)
    advice = re.search(r"precision=([\d.e-]+)", str(refusal.value))
    assert advice is not None and 1e-3 < float(advice.group(1)) < 0.5
    with pytest.raises(sv.InvalidInputError, match=r"Take replicas=\d+"):
        sv.verify(net, inputs, targets, loss, optimizer, replicas=10**9, batch_size=8)


def test_more_replicas_are_advised_where_replicas_were_given() -> None:
    net, inputs, targets, optimizer = trained()
    loss = nn.CrossEntropyLoss(reduction="none")
    answer = sv.verify(
        net, inputs, targets, loss, optimizer, replicas=8, path_replicas=4, batch_size=8, steps=4,
        substeps=(8, 16),
    )  # fmt: skip
    assert "For more give more replicas=" in str(answer)
    assert "smaller precision" not in str(answer)
