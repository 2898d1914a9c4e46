"""Numbers of every public route on small problems.

A seed's meaning is part of the interface: whoever runs a study again gets the numbers that were
published. `test_recorded.py` holds the package to them; `python tests/recorded/record.py --compare`
says which have other bits on this machine, and without `--compare` they are recorded anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

import sdeverify as sv
from sdeverify.ensembles import measures
from sdeverify.problems.digits import digits_problem
from sdeverify.problems.library import circle_problem

HERE = Path(__file__).parent
NUMBERS, STORE = HERE / "numbers.json", HERE / "store-layout-1.tar.gz"


def circle() -> tuple[sv.GradientOracle, torch.Tensor, list[sv.Observable]]:
    problem = circle_problem()
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(2))
    theta0 = torch.tensor([2.0], dtype=torch.float64)
    cosine = sv.Observable("cos x", lambda state: torch.cos(state.theta[:, 0]))
    return oracle, theta0, [cosine, measures.loss(problem)]


def optimizers() -> dict[str, sv.Optimizer]:
    return {
        "sgd": sv.SGD(learning_rate=0.1, weight_decay=0.01),
        "momentum": sv.SGDMomentum(learning_rate=0.02, momentum=0.8),
        "nesterov": sv.SGDMomentum(learning_rate=0.02, momentum=0.8, nesterov=True),
        "rmsprop": sv.RMSprop(learning_rate=0.05, beta=0.9, epsilon=1e-2),
        "adam": sv.Adam(learning_rate=0.05, beta1=0.8, beta2=0.9, epsilon=1e-2),
        "adamw": sv.Adam(
            learning_rate=0.05, beta1=0.8, beta2=0.9, epsilon=1e-2, decoupled_weight_decay=0.02
        ),
    }


def both_sides(
    optimizer: sv.Optimizer,
    oracle: sv.GradientOracle,
    theta0: torch.Tensor,
    observables: list[sv.Observable],
    **path: Any,
) -> dict[str, Any]:
    """The discrete optimizer, a level of it, its SDE, and the weak error."""
    start = sv.warm_up(optimizer, oracle, theta0, steps=8, seed=3)
    sde = sv.derive(optimizer, oracle)
    common: dict[str, Any] = {"replicas": 200, "seed": 11}
    chain = sv.simulate(optimizer, oracle, start, [2, 4], observables, **common)
    fine = sv.simulate(*sv.svag(optimizer, oracle, 2), start, [2, 4], observables, **common)
    solved = sv.solve(sde, start, [2, 4], observables, substeps=[2, 4], **common, **path)
    errors = sv.weak_error(chain, solved)
    return {
        "start": start.components["theta"],
        "chain": chain["mean"],
        "level": fine["mean"],
        "path": solved["mean"],
        "error": errors["error"],
        "standard_error": errors["standard_error"],
    }


def on_circle(kind: str) -> dict[str, Any]:
    oracle, theta0, observables = circle()
    return both_sides(optimizers()[kind], oracle, theta0, observables, subsample=0)


def on_digits(dtype: torch.dtype, **path: Any) -> dict[str, Any]:
    problem, theta0 = digits_problem(64, 4, dtype=dtype)
    oracle = sv.GradientOracle(problem, sv.MinibatchNoise(8))
    observables = [measures.loss(problem), measures.squared_parameter_norm()]
    adam = sv.Adam(learning_rate=0.004, beta1=0.9, beta2=0.95, epsilon=1e-2)
    return both_sides(adam, oracle, theta0, observables, **path)


def views() -> dict[str, Any]:
    oracle, theta0, observables = circle()
    sgd = optimizers()["sgd"]
    found = sv.four_views(
        sgd, oracle, theta0, [2, 4], observables, levels=(1, 2), replicas=150, seed=4
    )
    return {"gap": found["gap"], "gap_part": found["gap_part"]}


def verified() -> dict[str, Any]:
    torch.manual_seed(0)
    inputs = torch.randn(40, 5)
    targets = (inputs[:, 0] > 0).long()
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    loss = nn.CrossEntropyLoss(reduction="none")
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.9, 0.95))
    for k in range(10):
        batch = torch.arange(k, k + 8)
        optimizer.zero_grad()
        loss(net(inputs[batch]), targets[batch]).mean().backward()
        optimizer.step()
    answer = sv.verify(
        net, inputs, targets, loss, optimizer, batch_size=8, steps=4, replicas=130, seed=2
    )
    return {"chain": answer.chain["mean"], "error": answer.errors["error"]}


def certified() -> dict[str, Any]:
    tree = sv.certify(toy_study())
    child = tree["toy"]
    return {"error": child["errors"]["error"], "order": child["order"]["order"]}


def toy_study() -> sv.Study:
    oracle, theta0, observables = circle()
    return sv.Study(
        name="toy",
        title="SGD on the circle",
        optimizer=sv.SGD(learning_rate=0.1),
        oracle=oracle,
        start=sv.State(0, theta=theta0),
        steps=[5, 10],
        observables=observables[:1],
        ladder=sv.SvagLevels([1, 2, 4, 8]),
        replicas=260,
    )


def campaign() -> sv.Campaign:
    def build(replicas: int = 260) -> list[sv.Study]:
        toy = toy_study()
        rates = sv.LearningRates([0.1, 0.05, 0.025])
        return [
            replace(toy, replicas=replicas),
            replace(toy, name="rates", title="rates", ladder=rates, replicas=replicas, subsample=2),
        ]

    return sv.Campaign("recorded", "Two ladders on the circle", "Do they keep?", build)


def through_a_store(path: Path) -> dict[str, Any]:
    tree = sv.run(campaign(), sinks=sv.Store(path).sink)
    sv.Store(path).write_tree(tree)
    return errors_of(tree)


def errors_of(tree: xr.DataTree) -> dict[str, Any]:
    return {
        f"{name}/{field}": tree[name]["errors"][field]
        for name in ("toy", "rates")
        for field in ("error", "standard_error")
    }


ROUTES: dict[str, Callable[[], dict[str, Any]]] = {
    **{kind: (lambda kind=kind: on_circle(kind)) for kind in optimizers()},
    "digits, all samples": lambda: on_digits(torch.float64, subsample=0),
    "digits, subsets": lambda: on_digits(torch.float64, subsample=16),
    "digits, one gradient": lambda: on_digits(torch.float64, one_gradient=True),
    "digits, single precision": lambda: on_digits(torch.float32, subsample=0),
    "views": views,
    "verify": verified,
    "certify": certified,
}


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Arrays as nested lists of numbers, which JSON keeps to the last bit."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        array = value.values if isinstance(value, xr.DataArray) else np.asarray(value)
        found[name] = array.astype(np.float64).tolist()
    return found


def main() -> None:
    torch.set_num_threads(1)
    before = json.loads(NUMBERS.read_text(encoding="utf-8"))
    numbers = {name: plain(route()) for name, route in ROUTES.items()}
    with tempfile.TemporaryDirectory() as folder:
        numbers["store"] = plain(through_a_store(Path(folder)))
    changed = [name for name in numbers if before.get(name) != numbers[name]]
    print("other bits: " + ", ".join(changed) if changed else "the same bits")
    if "--compare" not in sys.argv:
        NUMBERS.write_text(json.dumps({**before, **numbers}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
