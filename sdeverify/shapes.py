"""Shape annotations.

`Float[Tensor, "replica param"]` documents a tensor's shape. With jaxtyping installed (as in the
tests, where the shapes are checked at every call) these are jaxtyping's types; without it they
are plain `Tensor`, so that the numerical core needs no further dependency.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:

        class _Unchecked:
            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Bool = Float = Int = _Unchecked

__all__ = ["Bool", "Float", "Int", "Tensor"]
