"""Parameters whose grad is None: torch leaves them out of a step, decay and memory included."""

from __future__ import annotations

from sdeverify.base.shapes import Tensor
from sdeverify.errors import UnsupportedError
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.torch_groups import Binding


def check_skipped(name: str, binding: Binding, optimizer: Optimizer) -> None:
    """Refuses a run in which torch skips parameters that the SDE would move.

    A gradient of 0 still decays a parameter and moves it on by its momentum; a grad of None does
    not. Without decay and memory the two are the same.

    Args:
        name: of the torch optimizer.
        binding: of its groups to a problem; without one nothing can be said.
        optimizer: ours.

    Raises:
        UnsupportedError: names the parameters and says what to do.
    """
    unused_of = getattr(binding.problem, "parameters_without_gradient", None)
    if unused_of is None or binding.slices is None:
        return
    places: dict[str, slice] = getattr(binding.problem, "parameter_slices", {})
    names = {where.start: parameter for parameter, where in places.items()}
    parameters = {
        names[where.start]: parameter
        for members, slices in zip(binding.parameters, binding.slices, strict=True)
        for parameter, where in zip(members, slices, strict=True)
    }
    of_samples: list[set[str]] = unused_of()
    unused, everywhere = set.union(*of_samples), set.intersection(*of_samples)
    trained = {key for key in everywhere if _has_gradient(parameters[key])}
    if trained:
        raise UnsupportedError(
            f"{_listed(trained)}: the loss of the {len(of_samples)} samples that were tried does "
            "not depend on the parameter, but training had a gradient for it. Pass the net and the "
            "loss of the training loop, penalties and auxiliary losses included, or call "
            "zero_grad() first if that gradient is not the loop's."
        )
    if unused and _moves_without_gradient(optimizer):
        raise UnsupportedError(
            f"{_listed(unused)}: no gradient comes from some samples (grad stays None), and "
            f"torch's {name} then skips the parameter, its weight decay and its memory, while the "
            "SDE moves it on. If no sample uses it, requires_grad_(False) before "
            "problem_from_module and verify leaves the run as it is; if some do, let the net "
            "always use it (outputs + 0 * parameter.sum()), so that the gradient is 0 and not None."
        )
    empty = {key for key, parameter in parameters.items() if parameter.grad is None}
    by_hand = empty - unused
    if by_hand and len(empty) < len(parameters):
        raise UnsupportedError(
            f"{_listed(by_hand)}: grad is None though other parameters have gradients, so torch's "
            f"{name} skips the parameter. If it is not trained, requires_grad_(False) before "
            "problem_from_module and verify; else call zero_grad() or backward() for all first."
        )


def _moves_without_gradient(optimizer: Optimizer) -> bool:
    """Whether a gradient of 0 may move a parameter: by memory, or by a hyperparameter."""
    others = [value for name, value in optimizer.hyperparameters.items() if name != "lr"]
    set_ones = [bool(v.any()) if isinstance(v, Tensor) else bool(v) for v in others]
    return len(optimizer.components) > 1 or any(set_ones)


def _has_gradient(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


def _listed(names: set[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more
