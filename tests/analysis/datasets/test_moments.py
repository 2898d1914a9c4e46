"""Block moments merge exactly and give the variance over all replicas."""

from __future__ import annotations

import numpy as np
import pytest

from sdeverify.analysis.datasets.moments import (
    Moments,
    block_moments,
    cross_block_moments,
    pool_blocks,
)
from sdeverify.errors import InvalidInputError


def pooled(parts):
    return Moments(*pool_blocks(*zip(*((p.count, p.mean, p.comoment) for p in parts), strict=True)))


def test_pooled_blocks_have_the_moments_of_all_replicas_together():
    x = np.random.default_rng(1).normal(1e6, 1.0, (97, 3, 2))
    whole = pooled([block_moments(part) for part in (x[:10], x[10:11], x[11:])])
    assert whole.count == 97
    np.testing.assert_allclose(whole.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(whole.covariance, x.var(axis=0, ddof=1), rtol=1e-8)
    np.testing.assert_allclose(whole.covariance_of_the_mean, x.var(axis=0, ddof=1) / 97, rtol=1e-8)


def test_cross_moments_are_the_covariances_between_the_discretisations():
    x = np.random.default_rng(2).normal(size=(50, 2, 4, 3)).cumsum(axis=1)
    whole = pooled([cross_block_moments(part) for part in (x[:20], x[20:])])
    for k, o in np.ndindex(4, 3):
        np.testing.assert_allclose(
            whole.covariance[:, :, k, o], np.cov(x[:, :, k, o].T), rtol=1e-12
        )


def test_equal_replicas_have_no_spread_at_all():
    moments = block_moments(np.full((7, 2), 0.1))
    assert np.all(moments.comoment == 0.0)
    assert np.all(moments.mean == 0.1)


def test_one_replica_has_no_variance():
    assert np.isnan(block_moments(np.ones((1, 2))).covariance).all()


@pytest.mark.parametrize("values", [np.zeros((0, 2)), 1.0])
def test_a_block_without_replicas_is_refused(values):
    with pytest.raises(InvalidInputError, match="at least one replica"):
        block_moments(values)


def test_cross_moments_without_a_second_axis_are_refused():
    with pytest.raises(InvalidInputError, match="replica, a"):
        cross_block_moments(np.zeros(3))
