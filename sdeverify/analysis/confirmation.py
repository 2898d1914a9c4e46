"""Two integrations of one SDE against each other: sub-sampled against full batch."""

from __future__ import annotations

import xarray as xr

from sdeverify.errors import InvalidInputError
from sdeverify.schema import check_path


def confirm(path: xr.Dataset, reference: xr.Dataset) -> xr.Dataset:
    """The difference of two independent paths' expectations, extrapolated to dt = 0.

    Returns:
        `error` (path - reference) and `standard_error` over (step, observable), and attributes
        `largest_z` (the largest difference in standard errors) and `comparisons`.

    Raises:
        InvalidInputError: one is no path, or their steps or observables differ.
    """
    check_path(path)
    check_path(reference)
    for name in ("step", "observable"):
        if list(path[name].values) != list(reference[name].values):
            raise InvalidInputError(
                f"the two paths have different coordinates '{name}': {list(path[name].values)} "
                f"and {list(reference[name].values)}. Solve both at the same steps and observables."
            )
    error = path["extrapolated"] - reference["extrapolated"]
    spread = (
        path["extrapolated_standard_error"] ** 2 + reference["extrapolated_standard_error"] ** 2
    ) ** 0.5
    ds = xr.Dataset({"error": error, "standard_error": spread})
    random = spread.values > 0
    z = abs(error.values[random]) / spread.values[random]
    return ds.assign_attrs(
        kind="confirmation",
        largest_z=float(z.max()) if z.size else 0.0,
        comparisons=int(random.sum()),
        path_replicas=int(path.attrs["replicas"]),
        reference_replicas=int(reference.attrs["replicas"]),
        subsample=int(path.attrs.get("subsample", 0)),
    )
