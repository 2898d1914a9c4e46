from __future__ import annotations

import pytest
import torch
from torch import nn

import sdeverify as sv
from sdeverify.problems.digits import digits


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
