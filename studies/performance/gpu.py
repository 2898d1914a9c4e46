"""SDE steps of a ResNet-20-sized network on a GPU, and the tables of `sdeverify bench` there.

python studies/performance/gpu.py                     # needs a GPU with about 20 GB
python studies/performance/gpu.py --device cpu --images 64 --size 8 --width 8 --blocks 1 --no-tables

The network has 269,722 parameters (GroupNorm, not BatchNorm), the data are 50,000 random images
of CIFAR-10's shape: what a step costs does not depend on what they show. Noise has the exact
covariance of all images. Writes JSON to --output, else to the terminal alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from breakdown import arithmetic_rate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sdeverify.base.arguments import memory_budget
from sdeverify.benchmarks.measuring import Effort, efforts, interleaved
from sdeverify.benchmarks.nets import residual_network
from sdeverify.benchmarks.sections import machine, measure, sections
from sdeverify.benchmarks.steps import FORMS, one_step
from sdeverify.problems.module import ModuleProblem, problem_from_module

COUNTED = 8
"""Images on which the operations of a gradient are counted."""


def residual_problem(options: argparse.Namespace) -> ModuleProblem:
    """The network on random images, in float32."""
    torch.manual_seed(0)
    net = residual_network(options.width, options.blocks).to(options.device)
    images = torch.randn(options.images, 3, options.size, options.size, device=options.device)
    classes = torch.randint(10, (options.images,), device=options.device)
    memory = memory_budget(options.memory)
    loss = nn.CrossEntropyLoss(reduction="none")
    return problem_from_module(net, images, classes, loss, memory=memory)


def operations(problem: ModuleProblem) -> float:
    """Floating-point operations of one full-batch gradient: forward and backward, counted."""
    inputs, targets = problem.data.data.args[0][:COUNTED], problem.data.data.targets[:COUNTED]
    net = problem.model.net
    parameters = {
        name: value.clone().requires_grad_()
        for name, value in problem.model.layout.unflatten(problem.reference).items()
    }
    with FlopCounterMode(display=False) as counter:
        outputs = torch.func.functional_call(net, parameters, (inputs,))
        nn.functional.cross_entropy(outputs, targets).backward()
    return counter.get_total_flops() * problem.samples / len(targets)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step, share of the achievable rate, and peak memory, form by form.

    The share is that of one gradient's operations, whatever a form does besides; the achievable
    rate is that of one product of two 4096 x 4096 matrices.
    """
    problem = residual_problem(options)
    effort = Effort(rounds=options.rounds, seconds=60.0, patience=60.0, device=options.device)
    gradient, rate = operations(problem), arithmetic_rate(torch.float32, options.device, 4096)
    found: dict[str, Any] = {
        "machine": machine(options.device),
        "parameters": problem.dim,
        "images": problem.samples,
        "operations of one gradient": gradient,
        "achievable operations a second": rate,
        "tf32": options.tf32,
        "route of second moments": problem.moments_route,
        "steps": {},
    }
    for form in FORMS:
        reset_peak(options.device)
        work = one_step(form.stepper(problem), problem.reference, 1)
        (seconds,) = interleaved({form.name: work}, effort).values()
        found["steps"][form.name] = {
            "seconds": seconds,
            "share of the achievable rate": gradient / seconds / rate,
            "peak memory in GiB": peak(options.device),
        }
        print(form.name, found["steps"][form.name], flush=True)
    return found


def reset_peak(device: str) -> None:
    """Counts the peak of a GPU's memory from here."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: str) -> float:
    """The most memory held since then on a GPU; on a CPU by the process since it began."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def tables(device: str) -> list[dict[str, Any]]:
    """The tables of `sdeverify bench` on the device."""
    every = measure(sections(efforts(False, device)), lambda row: print(row, flush=True))
    return [
        {
            "title": table.section.title,
            "unit": table.section.unit,
            "columns": table.section.columns,
            "rows": [[*row.labels, *row.values] for row in table.rows],
        }
        for table in every
    ]


def main(arguments: Sequence[str]) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=32, help="height and width of an image")
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--blocks", type=int, default=3, help="blocks in each of three stages")
    parser.add_argument("--memory", default="16GB", help="budget of a gradient's temporaries")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tf32", action="store_true", help="products in TF32, not in full float32")
    parser.add_argument("--no-tables", action="store_true", help="the network alone")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU here. Try --device cpu with small sizes.", file=sys.stderr)
        return 1
    torch.backends.cuda.matmul.allow_tf32 = options.tf32
    torch.backends.cudnn.allow_tf32 = options.tf32
    found = measured(options)
    if not options.no_tables:
        found["tables"] = tables(options.device)
    text = json.dumps(found, indent=2, ensure_ascii=False)
    print(text)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
