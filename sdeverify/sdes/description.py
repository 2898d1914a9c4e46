"""How an SDE explains itself: equation, constants of this run, clock, assumptions, source."""

from __future__ import annotations

from dataclasses import dataclass

from sdeverify.base.notation import equation_text, prose
from sdeverify.base.shapes import Tensor


@dataclass(frozen=True)
class Description:
    """The explanation of one SDE with the constants of one run.

    Args:
        name: the model's name.
        equations: LaTeX, one equation each, without delimiters.
        constants: name -> (value, what it is).
        clock: how SDE time and optimizer steps are related, with numbers.
        noise: the gradient noise in words.
        assumptions: what the theorem supposes.
        claim: the weak order that is claimed, in words.
        source: paper and equation.

    Example:
        >>> oracle = sv.GradientOracle(circle_problem(), sv.MinibatchNoise(2))
        >>> description = sv.derive(sv.SGD(learning_rate=0.1), oracle).description
        >>> description.name, description.claim
        ('SGD, first-order SDE', 'weak order 1 in eta')
    """

    name: str
    equations: tuple[str, ...]
    constants: dict[str, tuple[str, str]]
    clock: str
    noise: str
    assumptions: tuple[str, ...]
    claim: str
    source: str

    def latex(self) -> str:
        """The equations as one display, for notebooks."""
        return "$$\\begin{aligned}" + " \\\\ ".join(self.equations) + "\\end{aligned}$$"

    def text(self) -> str:
        """The whole explanation as plain text."""
        constants = [(prose(k), v, prose(what)) for k, (v, what) in self.constants.items()]
        width = max((len(symbol) for symbol, _, _ in constants), default=0)
        lines = [self.name, ""]
        lines += [f"    {equation_text(equation)}" for equation in self.equations]
        lines += ["", "with"]
        lines += [
            f"    {symbol:<{width}} = {value:<12} {meaning}".rstrip()
            for symbol, value, meaning in constants
        ]
        lines += ["", f"clock        {prose(self.clock)}", f"noise        {prose(self.noise)}"]
        lines += [f"claim        {prose(self.claim)}"]
        lines += [
            f"{'assumptions' if i == 0 else '':<12} - {prose(line)}"
            for i, line in enumerate(self.assumptions)
        ]
        return "\n".join([*lines, f"source       {self.source}"])


def constant_text(value: float | Tensor) -> str:
    """A constant for reading: six digits, or its range where it differs between parameters."""
    if isinstance(value, Tensor):
        low, high = float(value.min()), float(value.max())
        return f"{low:.6g}" if low == high else f"{low:.4g} ... {high:.4g}"
    return f"{value:.6g}"


SMOOTH = "smooth losses with derivatives of polynomial growth, over a fixed horizon"


INDEPENDENT = "independent gradients at each step, with finite moments"


def clock_text(rule: str, time_per_step: float) -> str:
    """The clock with its number."""
    return f"{rule}; one optimizer step is {time_per_step:.6g} of SDE time"
