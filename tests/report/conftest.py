from __future__ import annotations

import pytest
import synthetic_results
import xarray as xr


@pytest.fixture()
def results() -> xr.DataTree:
    """Three comparisons with known errors."""
    return synthetic_results.results()
