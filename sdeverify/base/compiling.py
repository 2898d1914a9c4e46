"""Functions of tensors compiled for a machine: traced to a graph, which inductor makes code of.

The graph holds everything that the function does, backward passes included. Numbers that are no
tensors are constants in it; random numbers are arguments, drawn outside.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from sdeverify.base.shapes import Tensor
from sdeverify.errors import UnsupportedError

Function = Callable[..., tuple[Tensor, ...]]

OPTIONS: dict[str, str | int | bool | Callable[..., object]] = {
    "layout_optimization": False,  # convolutions have their layout; a second choice was slower
    "size_asserts": False,  # callers pass the shapes of the examples, contiguous
}


def compiler() -> str:
    """The C++ compiler that work for a CPU is given to: `CXX` of the environment, or g++."""
    return os.environ.get("CXX", "g++")


def has_compiler(device: torch.device) -> bool:
    """Whether there is what compiling for a device needs."""
    return device.type != "cpu" or shutil.which(compiler()) is not None


def check_compiler(device: torch.device) -> None:
    """Refuses to compile for a CPU where there is no C++ compiler.

    Raises:
        UnsupportedError: names the program that was looked for.
    """
    if not has_compiler(device):
        raise UnsupportedError(
            f"compiled=True needs a C++ compiler; there is no program {compiler()!r}. Install g++ "
            "or clang++ (and name it in the environment variable CXX), or use compiled=False."
        )


def compiled(function: Function, examples: Sequence[Tensor]) -> Function:
    """The function for contiguous arguments of these shapes, after a comparison on the examples.

    Raises:
        UnsupportedError: it cannot be traced or compiled, or gives other numbers when it is.
    """
    inputs = tuple(examples)
    with torch.no_grad():
        try:
            fast = _compiled(function, inputs)
            got = fast(*inputs)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise UnsupportedError(f"this cannot be compiled ({reason}).") from error
        for fine, want in zip(got, function(*inputs), strict=True):
            bound = torch.finfo(want.dtype).eps ** 0.5 * want.abs().max()
            if not bool((fine - want).abs().max() <= bound):
                raise UnsupportedError(
                    "the compiled numbers differ from the plain ones by "
                    f"{float((fine - want).abs().max()):.3g}."
                )
    return fast


def _compiled(function: Function, inputs: tuple[Tensor, ...]) -> Function:
    with warnings.catch_warnings():  # torch uses parts of itself that it deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        graph = make_fx(function)(*inputs)
        if inputs[0].is_cpu:
            _keep_tanh(graph)
        fast: Function = torch._inductor.compile(graph, [*inputs], options=OPTIONS)
    return fast


def _keep_tanh(graph: GraphModule) -> None:
    """Leaves tanh to torch's own kernel, four times faster on a CPU than the generated one."""
    aten, own = torch.ops.aten, _tanh()
    for node in graph.graph.nodes:
        if node.target is aten.tanh.default:
            node.target = own
        elif node.target is aten.tanh_.default:
            with graph.graph.inserting_before(node):
                value = graph.graph.call_function(own, node.args)
            node.target, node.args = aten.copy_.default, (*node.args, value)
    graph.recompile()


@cache
def _tanh() -> Callable[..., Tensor]:
    """tanh as an operator that inductor does not know and so calls as it is."""
    library = torch.library.Library("sdeverify", "DEF")
    library.define("tanh(Tensor x) -> Tensor")
    library.impl("tanh", torch.tanh, "CPU")
    library.impl("tanh", torch.empty_like, "Meta")
    _KEPT.append(library)
    found: Callable[..., Tensor] = torch.ops.sdeverify.tanh.default
    return found


_KEPT: list[torch.library.Library] = []
"""An operator lives as long as its library."""
