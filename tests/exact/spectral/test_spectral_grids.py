"""Spectral grids and laws on them."""

from __future__ import annotations

import numpy as np
import pytest

from sdeverify.exact.spectral.domain import Moving, Periodic, Positive
from sdeverify.exact.spectral.frames import Coordinate, Frame
from sdeverify.exact.spectral.grids import ChebyshevGrid, FourierGrid, Grid
from sdeverify.exact.spectral.push import dense_operator, push


@pytest.mark.parametrize(
    "grid", [FourierGrid(2 * np.pi, 32), FourierGrid(2 * np.pi, 33), ChebyshevGrid(0.5, 2.0, 24)]
)
def test_a_smooth_function_is_interpolated_and_differentiated(grid: Grid) -> None:
    x, s = np.linspace(0.6, 1.9, 40), grid.nodes
    values = np.exp(np.cos(s))
    np.testing.assert_allclose(grid.interpolation(x) @ values, np.exp(np.cos(x)), atol=1e-13)
    np.testing.assert_allclose(grid.derivative() @ values, -np.sin(s) * values, atol=1e-11)
    second = (np.sin(s) ** 2 - np.cos(s)) * values
    np.testing.assert_allclose(grid.second_derivative() @ values, second, atol=1e-8)


def test_a_fourier_grid_is_periodic_and_a_chebyshev_grid_continues_polynomials() -> None:
    fourier = FourierGrid(3.0, 16)
    x = np.array([0.4, 1.9])
    np.testing.assert_allclose(fourier.interpolation(x), fourier.interpolation(x + 6.0), atol=1e-13)
    chebyshev = ChebyshevGrid(-1.0, 2.0, 6)
    cube = chebyshev.nodes**3
    np.testing.assert_allclose(chebyshev.interpolation(np.array([3.0])) @ cube, 27.0, rtol=1e-12)


def test_a_pushed_law_is_the_dense_sum_over_points_and_atoms() -> None:
    rng = np.random.default_rng(3)
    coordinates = (
        Coordinate("theta", 0, Periodic(9)),
        Coordinate("m", 0, Moving(8)),
        Coordinate("u", 0, Positive(8)),
    )
    grids = (FourierGrid(2 * np.pi, 9), ChebyshevGrid(-1.0, 1.0, 8), ChebyshevGrid(0.5, 1.0, 7))
    frame = Frame(coordinates, grids)
    law, weights = rng.normal(size=frame.shape), np.array([0.2, 0.5, 0.3])
    images = [
        rng.uniform(0, 6, (*frame.shape, 3)),
        np.broadcast_to(rng.uniform(-1, 1, (9, 8, 1, 3)), (*frame.shape, 3)).copy(),
        np.broadcast_to(rng.uniform(0.5, 1, (9, 1, 7, 3)), (*frame.shape, 3)).copy(),
    ]
    rows = [g.interpolation(x.ravel()) for g, x in zip(grids, images, strict=True)]
    mass = (law[..., None] * weights).ravel()
    truth = np.einsum("q,qa,qb,qc->abc", mass, *rows)
    np.testing.assert_allclose(push(law, images, weights, frame), truth, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2])
def test_the_matrix_of_a_step_pushes_like_the_step(dims: int) -> None:
    rng = np.random.default_rng(4)
    coordinates = (Coordinate("theta", 0, Periodic(12)), Coordinate("p", 0, Moving(8)))[:dims]
    frame = Frame(coordinates, (FourierGrid(2 * np.pi, 12), ChebyshevGrid(-1.0, 1.0, 8))[:dims])
    law, weights = rng.normal(size=frame.shape), np.array([0.4, 0.6])
    images = [rng.uniform(-1, 1, (*frame.shape, 2)) for _ in range(dims)]
    matrix = dense_operator(images, weights, frame)
    pushed = push(law, images, weights, frame)
    np.testing.assert_allclose((law.ravel() @ matrix).reshape(frame.shape), pushed, atol=1e-12)
