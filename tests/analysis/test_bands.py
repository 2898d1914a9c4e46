"""The band over all steps covers at its nominal rate or more.

Each coverage test draws 400 ensembles with a fixed seed. At a true coverage of 95% fewer than 361
hits have probability 4e-5 (binomial), which is each test's false-alarm rate.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from synthetic_ensembles import chain_of, path_of

from sdeverify.analysis import weak_error
from sdeverify.analysis.bands import simultaneous_quantile

DRAWS, FEWEST = 400, 361


def test_the_stated_false_alarm_rate_holds():
    assert stats.binom.cdf(FEWEST - 1, DRAWS, 0.95) < 5e-5


def random_walks(rng, replicas, steps, copies, memory):
    """AR(1) walks `(replica, step, observable)`: strongly or weakly correlated steps."""
    noise = rng.standard_normal((replicas, steps, copies))
    for k in range(1, steps):
        noise[:, k] = memory * noise[:, k - 1] + np.sqrt(1 - memory**2) * noise[:, k]
    return noise


@pytest.mark.parametrize(("memory", "blocks"), [(0.0, 40), (0.95, 40), (0.95, 16), (0.7, 4)])
def test_the_interval_of_the_largest_error_covers_it(memory, blocks):
    rng = np.random.default_rng(int(100 * memory) + blocks)
    true = 0.3 * np.sin(np.linspace(0, 3, 20))[:, None]
    chain = true + random_walks(rng, 160, 20, DRAWS, memory)
    path = np.repeat(random_walks(rng, 160, 20, DRAWS, memory)[:, None], 2, axis=1)
    errors = weak_error(chain_of(chain, blocks), path_of(path, blocks=blocks))
    largest = np.max(np.abs(true))
    inside = (errors.max_error_low <= largest) & (largest <= errors.max_error_high)
    assert int(inside.sum()) >= FEWEST


def test_the_plain_maximum_is_biased_upwards_and_its_interval_is_not_fooled():
    rng = np.random.default_rng(11)
    chain = random_walks(rng, 100, 30, DRAWS, 0.0)
    path = np.repeat(random_walks(rng, 100, 30, DRAWS, 0.0)[:, None], 2, axis=1)
    errors = weak_error(chain_of(chain), path_of(path))
    typical = float(errors.standard_error.mean())
    assert float(errors.max_error.mean()) > 1.5 * typical
    assert int((errors.max_error_low == 0.0).sum()) >= FEWEST


def test_correlated_steps_make_the_band_narrower_and_few_blocks_the_widest():
    rng = np.random.default_rng(3)
    same = np.repeat(rng.standard_normal((200, 1)), 50, axis=1)
    apart = rng.standard_normal((200, 50))
    q = [simultaneous_quantile([r, r], 50, 0.95, np.inf) for r in (same, apart, apart[:5])]
    sidak = stats.norm.ppf(0.5 + 0.5 * 0.95 ** (1 / 50))
    assert 1.96 < q[0] < q[1] - 0.2 < sidak
    assert q[1] <= q[2] == pytest.approx(sidak)


def test_few_replicas_widen_the_band_by_students_t():
    few = simultaneous_quantile([], 1, 0.95, 9.0)
    assert few == pytest.approx(stats.t.ppf(0.975, 9))
