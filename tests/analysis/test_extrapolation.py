"""Extrapolation from low SVAG levels: weights, bias on an exact problem, variance, allocation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.linalg
from scipy import optimize, stats

from sdeverify.analysis.allocation import best_allocation
from sdeverify.analysis.datasets.schema import chain_dataset, exact_dataset
from sdeverify.analysis.extrapolation import extrapolate_levels, level_weights
from sdeverify.errors import InvalidInputError

OBSERVABLES = ["cos x", "sin 2x", "exp cos x"]


@pytest.mark.parametrize(
    ("refinements", "wanted"),
    [
        ([1, 2], [-1, 2]),
        ([1, 2, 4], [1 / 3, -6 / 3, 8 / 3]),
        ([1, 4], [-1 / 3, 4 / 3]),
        ([1, 4, 16], [1 / 45, -20 / 45, 64 / 45]),
        ([3], [1]),
    ],
)
def test_the_weights_are_the_published_ones(refinements, wanted):
    assert level_weights(refinements) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("levels", [[1, 2**0.5, 2], [1.3, 2, 3.1, 4.7], [2, 3]])
@pytest.mark.parametrize("power", [1, 2])
def test_real_levels_recover_the_limit_of_a_polynomial_error(levels, power):
    s = 1 / np.asarray(levels, float) ** power
    value = np.polynomial.polynomial.polyval(s, [0.7, *range(1, len(levels))])
    assert level_weights(1 / s) @ value == pytest.approx(0.7, rel=1e-11)


def test_more_levels_than_terms_take_the_weights_of_least_variance():
    refinements, variances = np.array([1.0, 2.0, 3.0, 5.0]), np.array([1.0, 2.0, 0.5, 3.0])
    w = level_weights(refinements, 1, variances)
    s = 1 / refinements
    assert [w.sum(), w @ s] == pytest.approx([1, 0], abs=1e-12)
    null = scipy.linalg.null_space(np.stack([np.ones(4), s]))
    for direction in null.T:
        assert (w * variances) @ direction == pytest.approx(0, abs=1e-12)


def test_no_terms_average_the_levels_by_inverse_variance():
    assert level_weights([1, 2], 0, [1.0, 3.0]) == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize(
    ("refinements", "terms"), [([1, 1], None), ([0, 1], None), ([1, 2], 2), ([1, 2], -1)]
)
def test_levels_that_do_not_carry_the_terms_are_refused(refinements, terms):
    with pytest.raises(InvalidInputError):
        level_weights(refinements, terms)


class Circle:
    """The published problem on the circle: exact expectations of SVAG and of the SDE (Fourier)."""

    eta, horizon, start, points = 0.1, 2.0, 2.0, 96

    def __init__(self):
        rng = np.random.default_rng(0)
        self.a, self.p = rng.uniform(0.5, 1.5, 6), rng.normal(0, 0.6, 6)
        self.b, self.q = rng.uniform(-0.3, 0.3, 6), rng.uniform(0, 2 * np.pi, 6)
        self.x = 2 * np.pi * np.arange(self.points) / self.points
        self.modes = np.fft.fftfreq(self.points, 1 / self.points)
        fourier = np.exp(-1j * np.outer(self.modes, self.x)) / self.points
        self.interpolate = lambda y: np.exp(1j * np.multiply.outer(y, self.modes)) @ fourier
        self.fourier = fourier
        self.phi = np.stack([np.cos(self.x), np.sin(2 * self.x), np.exp(np.cos(self.x))], -1)
        first, second = self.a * np.sin(self.x[:, None] - self.p), 2 * (self.x[:, None] - self.q)
        self.gradients = first + 2 * self.b * np.sin(second)

    def svag(self, level):
        root = math.sqrt(2 * level - 1)
        r1, r2 = (1 + root) / 2, (1 - root) / 2
        g = self.gradients
        pairs = (r1 * g[:, :, None] + r2 * g[:, None, :]).reshape(len(g), -1)
        operator = self.interpolate(self.x[:, None] - self.eta / level * pairs).mean(1)
        steps = round(self.horizon / self.eta * level)
        moved = np.linalg.matrix_power(operator, steps) @ self.phi
        return (self.interpolate(self.start) @ moved).real

    def sde(self):
        basis = np.exp(1j * np.outer(self.x, self.modes))
        first, second = (basis * (1j * self.modes) ** n @ self.fourier for n in (1, 2))
        drift, spread = -self.gradients.mean(1), self.eta * self.gradients.var(1)
        generator = drift[:, None] * first + 0.5 * spread[:, None] * second
        moved = scipy.linalg.expm(self.horizon * generator) @ self.phi
        return (self.interpolate(self.start) @ moved).real


@pytest.fixture(scope="module")
def circle():
    return Circle()


def exact(mean, refinement, observables=OBSERVABLES):
    return exact_dataset(
        mean=np.asarray(mean)[None, :],
        bound=0.0,
        step=[20.0],
        time=[2.0],
        observables=observables,
        attrs={"refinement": float(refinement)},
    )


def test_levels_1_2_4_on_the_circle_come_as_close_to_the_sde_as_published(circle):
    sde = circle.sde()
    found = extrapolate_levels([exact(circle.svag(level), level) for level in (4, 1, 2)])
    error = np.abs(found["mean"].values[0] - sde)
    assert np.all(error < [4.5e-8, 8.5e-7, 2.5e-7])
    alone = np.abs(circle.svag(16) - sde)
    assert alone[0] == pytest.approx(5.7222e-4, rel=1e-3)
    assert np.abs(circle.svag(1) - sde)[0] == pytest.approx(9.19174e-3, rel=1e-4)


def test_one_and_two_terms_leave_errors_of_their_own_orders(circle):
    sde = circle.sde()
    for levels, order in (((1, 2), 2), ((1, 2, 4), 3)):
        coarse, fine = (
            extrapolate_levels([exact(circle.svag(f * v), f * v) for v in levels]) for f in (4, 8)
        )
        ratio = (coarse["mean"].values[0] - sde)[1] / (fine["mean"].values[0] - sde)[1]
        assert math.log2(ratio) == pytest.approx(order, abs=0.15)


def test_the_last_removed_term_bounds_what_is_left_on_the_circle(circle):
    sde = circle.sde()
    for levels in ((1, 2), (1, 2, 4), (1, 1.5, 2.25)):
        found = extrapolate_levels([exact(circle.svag(v), v) for v in levels])
        assert np.all(np.abs(found["mean"].values[0] - sde) < np.abs(found["last_term"].values[0]))


def chain(values, refinement, seed, observables=("a", "b")):
    """A chain dataset of independent replicas, `values` (replica, step, observable)."""
    mean = values.mean(0)
    return chain_dataset(
        block_count=[len(values)],
        block_mean=mean[None],
        block_comoment=((values - mean) ** 2).sum(0)[None],
        step=[0.0, 10.0],
        time=[0.0, 1.0],
        observables=list(observables),
        blocks=[0],
        attrs={"refinement": float(refinement), "seed": seed, "name": "SGD"},
    )


def sampled(seed, refinements=(1, 4, 16), replicas=50):
    rng = np.random.default_rng(seed)
    truth = np.array([[1.0, 2.0], [3.0, -1.0]])
    return [
        chain(truth + 0.3 / r - 0.1 / r**2 + rng.normal(size=(replicas, 2, 2)), r, i)
        for i, r in enumerate(refinements)
    ], truth


def test_variances_are_propagated_with_the_squares_of_the_weights():
    chains, _ = sampled(0)
    found = extrapolate_levels(chains)
    w = np.array([1, -20, 64]) / 45
    wanted = sum(wi**2 * c["standard_error"] ** 2 for wi, c in zip(w, chains, strict=True)) ** 0.5
    assert found["standard_error"].values == pytest.approx(wanted.values, rel=1e-12)
    assert found["weight"].values == pytest.approx(w)
    assert found.attrs["kind"] == "extrapolation"
    assert json.loads(found.attrs["refinements"]) == [1.0, 4.0, 16.0]


def test_the_standard_error_covers_the_truth_at_its_rate():
    """200 seeds, 4 values each; a chi-square test with a false-alarm rate of 1e-4."""
    squares = 0.0
    for seed in range(200):
        chains, truth = sampled(seed)
        found = extrapolate_levels(chains)
        squares += float((((found["mean"] - truth) / found["standard_error"]) ** 2).sum())
    inflated = 49 / 47  # the second moment of Student's t with 49 degrees of freedom, at most
    low, high = stats.chi2.ppf([5e-5, 1 - 5e-5], 800)
    assert low < squares < high * inflated


def test_the_last_term_is_the_difference_of_the_two_forms():
    chains, _ = sampled(3)
    both = extrapolate_levels(chains)
    one = extrapolate_levels(chains[1:])
    assert both["last_term"].values == pytest.approx((one["mean"] - both["mean"]).values)
    w = np.array([-1 / 45, (-1 / 3 + 20 / 45), (4 / 3 - 64 / 45)])
    variance = sum(wi**2 * c["standard_error"].values ** 2 for wi, c in zip(w, chains, strict=True))
    assert both["last_term_standard_error"].values == pytest.approx(np.sqrt(variance), rel=1e-9)


def test_chains_of_one_seed_are_refused():
    chains, _ = sampled(0)
    again = chains[1].assign_attrs(seed=chains[0].attrs["seed"])
    with pytest.raises(InvalidInputError, match="different seeds"):
        extrapolate_levels([chains[0], again])


def test_chains_on_different_axes_are_refused():
    chains, _ = sampled(0)
    late = chains[1].assign_coords(time=("step", [0.0, 1.5]))
    with pytest.raises(InvalidInputError, match="one time axis"):
        extrapolate_levels([chains[0], late])
    renamed = chains[1].assign_coords(observable=np.array(["a", "c"], dtype=object))
    with pytest.raises(InvalidInputError, match="same observables"):
        extrapolate_levels([chains[0], renamed])
    with pytest.raises(InvalidInputError, match="two levels"):
        extrapolate_levels(chains[:1])


def test_the_costs_are_the_published_ones():
    """Variance times cost; an own step above level 1 takes two mini-batch gradients."""
    for refinements, power, wanted in (([1, 2, 4], 1, 141.03), ([1, 4, 16], 2, 86.95)):
        costs = [1, *(2 * level**power for level in (2, 4))]
        best = best_allocation(level_weights(refinements), costs, budget=1e5)
        assert best.variance_times_cost == pytest.approx(wanted, abs=0.01)
        assert best.cost * best.standard_error**2 == pytest.approx(wanted, rel=1e-3)
        assert 0.999e5 < best.cost <= 1e5


def test_no_other_split_is_better():
    w, costs, sd = np.array([0.4, -1.3, 1.9]), np.array([1.0, 5.0, 17.0]), np.array([0.5, 1.0, 0.7])
    best = best_allocation(w, costs, sd, budget=1e6)

    def variance(split):
        share = np.exp(split) / np.exp(split).sum()
        return float(np.sum(w**2 * sd**2 / (share * 1e6 / costs)))

    found = optimize.minimize(variance, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-8})
    assert best.standard_error**2 == pytest.approx(found.fun, rel=1e-4)


def test_a_wanted_standard_error_is_reached_at_about_the_least_cost():
    w, costs = level_weights([1, 2, 4]), [1.0, 4.0, 8.0]
    best = best_allocation(w, costs, 2.0, standard_error=0.05)
    assert best.standard_error <= 0.05
    assert best.cost == pytest.approx(best.variance_times_cost / 0.05**2, rel=1e-2)
    assert best.variance_times_cost == pytest.approx(4 * 141.0348, rel=1e-5)


def test_a_small_budget_still_gives_two_replicas_a_level_and_is_kept():
    best = best_allocation(level_weights([1, 4, 16]), [1, 8, 32], budget=200)
    assert min(best.replicas) >= 2
    assert best.cost <= 200
    with pytest.raises(InvalidInputError, match="two replicas a level cost 82"):
        best_allocation(level_weights([1, 4, 16]), [1, 8, 32], budget=81)


@pytest.mark.parametrize("options", [{}, {"budget": 10, "standard_error": 0.1}])
def test_the_allocation_wants_a_budget_or_a_standard_error(options):
    with pytest.raises(InvalidInputError, match="not both"):
        best_allocation([1.0], [1.0], **options)


@pytest.mark.parametrize(
    "arguments", [([1.0], [0.0]), ([1.0], [1.0], [-1.0]), ([0.0], [1.0]), ([1.0], [1.0], [np.nan])]
)
def test_costs_and_deviations_that_make_no_sense_are_refused(arguments):
    with pytest.raises(InvalidInputError, match="one a level"):
        best_allocation(*arguments, budget=10)
