"""Weak errors with extrapolated SVAG levels on either side: values, variances and covariances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from synthetic_ensembles import axes, chain_of, path_of

from sdeverify.analysis import ladder, weak_error
from sdeverify.analysis.datasets.schema import exact_dataset
from sdeverify.analysis.extrapolation import extrapolate_levels
from sdeverify.errors import InvalidInputError

STEPS = 3
TRUTH = np.array([1.0, -2.0])
WEIGHTS = np.array([1, -6, 8]) / 3
LEVELS = (1.0, 2.0, 4.0)


def level(number, rng, replicas=60, seed=None):
    """Replicas of a level whose mean is off by 0.5/l - 0.2/l^2; a third of their spread common to
    all steps."""
    common, own = rng.normal(size=(replicas, 1, 2)), rng.normal(size=(replicas, STEPS, 2))
    values = TRUTH + 0.5 / number - 0.2 / number**2 + 0.6 * common + 0.8 * own
    name = int(10 * number) if seed is None else seed
    return chain_of(values, refinement=number, seed=name, name="SGD", time_per_step=0.1 / number)


def path(rng, replicas=80):
    common = rng.normal(size=(replicas, 1, STEPS, 2))
    dt = 1 / np.array((2, 4))[None, :, None, None]
    return path_of(TRUTH + common + 0.8 * dt + 0.1 * rng.normal(size=(replicas, 2, STEPS, 2)))


def levels(rng):
    return [level(number, rng, 40 + int(10 * number)) for number in LEVELS]


def variances(chains):
    return np.stack([c["standard_error"].values ** 2 for c in chains])


def test_exact_levels_give_the_exact_error_on_either_side():
    def exact(mean, **attrs):
        shown = np.broadcast_to(mean, (STEPS, 2))
        return exact_dataset(mean=shown, bound=1e-9, **axes(shown), attrs={**attrs, "name": "SGD"})

    chains = [exact(TRUTH + 0.5 / n - 0.2 / n**2, refinement=n) for n in LEVELS]
    together = extrapolate_levels(chains)
    against = weak_error(chains[0], together)
    np.testing.assert_allclose(against["error"], 0.3, rtol=1e-12)
    assert float(against["standard_error"].max()) == 0.0
    np.testing.assert_allclose(against["bound"], 1e-9 * (1 + np.abs(WEIGHTS).sum()))
    beside = weak_error(together, exact(TRUTH - 0.25))
    np.testing.assert_allclose(beside["error"], 0.25, rtol=1e-12)
    assert float(beside["max_error_high"].max()) == pytest.approx(0.25, rel=1e-6)


def test_independent_levels_add_their_variances_to_the_other_sides():
    rng = np.random.default_rng(0)
    chains, other, sde = levels(rng), level(3.0, rng), path(rng)
    together = extrapolate_levels(chains)
    wanted = np.tensordot(WEIGHTS**2, variances(chains), axes=1)
    as_path, as_chain = weak_error(other, together), weak_error(together, sde)
    np.testing.assert_allclose(
        as_path["standard_error"] ** 2, other["standard_error"] ** 2 + wanted, rtol=1e-12
    )
    np.testing.assert_allclose(
        as_chain["standard_error"] ** 2, wanted + sde["extrapolated_standard_error"] ** 2, rtol=1e-9
    )
    np.testing.assert_allclose(as_chain["error"], together["mean"] - sde["extrapolated"])
    assert not as_path["side_covariance"].values.any()
    assert as_path.attrs["replicas"] == 50


def test_a_level_on_both_sides_has_its_weights_added_before_they_are_squared():
    chains = levels(np.random.default_rng(1))
    found = weak_error(chains[0], extrapolate_levels(chains))
    v = variances(chains)
    np.testing.assert_allclose(found["side_covariance"], WEIGHTS[0] * v[0], rtol=1e-12)
    wanted = np.tensordot((np.array([1, 0, 0]) - WEIGHTS) ** 2, v, axes=1)
    np.testing.assert_allclose(found["standard_error"] ** 2, wanted, rtol=1e-12)


def test_two_extrapolations_of_the_same_levels_know_what_they_share():
    chains = levels(np.random.default_rng(2))
    one, two = extrapolate_levels(chains[1:]), extrapolate_levels(chains)
    found = weak_error(one, two)
    np.testing.assert_allclose(found["error"], two["last_term"], rtol=1e-9)
    np.testing.assert_allclose(found["standard_error"], two["last_term_standard_error"], rtol=1e-9)
    assert float(weak_error(two, two)["standard_error"].max()) == 0.0


def test_the_standard_errors_cover_the_truth_at_their_rate():
    """15 seeds, 40 independent observables at one step, level 1 against levels 1, 2, 4; chi-square
    with a false-alarm rate of 1e-4."""
    total = 0.0
    for seed in range(15):
        rng = np.random.default_rng([9, seed])
        chains = [
            chain_of(
                0.5 / n - 0.2 / n**2 + rng.normal(size=(200, 1, 40)), refinement=n, seed=int(n)
            )
            for n in LEVELS
        ]
        found = weak_error(chains[0], extrapolate_levels(chains))
        total += float((((found["error"] - 0.3) / found["standard_error"]) ** 2).sum())
    low, high = stats.chi2.ppf([5e-5, 1 - 5e-5], 600)
    assert low < total < high * 199 / 197


@pytest.mark.slow
def test_the_band_of_the_largest_error_covers_at_its_rate():
    """200 seeds; the 95% band covers the true largest error 0.3 in at least 177 (P < 2e-4)."""
    covered = 0
    for seed in range(200):
        chains = [level(n, np.random.default_rng([7, seed, int(n)])) for n in LEVELS]
        found = weak_error(chains[0], extrapolate_levels(chains)).isel(observable=0)
        covered += float(found["max_error_low"]) <= 0.3 <= float(found["max_error_high"])
    assert covered >= 177


def test_a_ladder_of_levels_against_their_own_extrapolation_has_the_full_covariance():
    rng = np.random.default_rng(3)
    chains = levels(rng)
    together = extrapolate_levels([*chains, level(8.0, rng)], terms=2)
    w = together["weight"].values
    rungs = ladder([weak_error(c, together) for c in chains], "svag")
    v = together["level_variance"].values
    a = np.eye(4)[:3] - w
    wanted = np.einsum("ir,jr,rko->ijko", a, a, v)
    np.testing.assert_allclose(rungs["error_covariance"], wanted, rtol=1e-9, atol=1e-12)


def test_what_the_last_term_says_is_left_goes_into_the_residual():
    rng = np.random.default_rng(4)
    chains, sde = levels(rng), path(rng)
    together = extrapolate_levels(chains)
    size = np.maximum(np.abs(together["last_term"]), together["last_term_standard_error"])
    as_path, as_chain = weak_error(level(3.0, rng), together), weak_error(together, sde)
    np.testing.assert_allclose(np.abs(as_path["integrator_residual"]), size, rtol=1e-12)
    alone = weak_error(level(3.0, rng), sde)["integrator_residual"]
    np.testing.assert_allclose(
        np.abs(as_chain["integrator_residual"]), size + np.abs(alone), rtol=1e-12
    )
    assert as_path.attrs["integrator_bias_measured"] == 1


def test_observables_in_another_order_are_matched_by_name():
    chains = levels(np.random.default_rng(5))
    together = extrapolate_levels(chains)
    straight = weak_error(chains[0], together)
    swapped = weak_error(chains[0], together.isel(observable=[1, 0]))
    for name in ("error", "standard_error", "max_error_high"):
        np.testing.assert_allclose(swapped[name], straight[name], rtol=1e-12)


def test_another_ensemble_of_a_levels_seed_is_refused():
    rng = np.random.default_rng(6)
    chains = levels(rng)
    impostor = level(1.0, rng, seed=chains[2].attrs["seed"])
    with pytest.raises(InvalidInputError, match="seed 40, and not the same one"):
        weak_error(impostor, extrapolate_levels(chains))


def test_the_attributes_do_not_pass_one_level_for_all():
    chains = levels(np.random.default_rng(7))
    together = extrapolate_levels(chains)
    assert together.attrs["name"] == "SGD"
    assert not {"seed", "refinement", "time_per_step"} & set(together.attrs)
    assert together.attrs["fingerprint"] not in {c.attrs["fingerprint"] for c in chains}
