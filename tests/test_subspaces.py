"""Leading subspaces, HOSVD, the spectral start and the scale of the residual."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tensorly.tucker_tensor import TuckerTensor

from tensorcell.solvers import hosvd, leading_vectors, spread, subspaces, tucker_to_dense, unfold
from tensorcell.solvers.spread import MEDIAN_DEVIATION

# Sums and factorisations of order-one numbers in double precision.
ROUNDING = 1e-12


def with_spectrum(rows: int, columns: int, values: list[float], seed: int) -> np.ndarray:
    """Random matrix with the given singular values."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((n, len(values))))[0] for n in (rows, columns))
    return (left * np.array(values)) @ right.T


@pytest.mark.parametrize("method", ["gram", "randomised"])
@pytest.mark.parametrize("shape", [(7, 40), (40, 7), (9, 9)])
def test_leading_vectors_span_the_leading_singular_subspace(xp: Any, method: str, shape: tuple[int, int]) -> None:
    matrix = with_spectrum(*shape, [9.0, 5.0, 4.0, 1.0, 0.5], 0)
    basis = xp.take(leading_vectors(xp.put(matrix), 3, method=method))
    assert basis.shape == (shape[0], 3)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=ROUNDING)
    exact = np.linalg.svd(matrix)[0][:, :3]
    # At most 7 rows or columns are fewer than the sketch has, so both methods are exact up to the Gram matrix.
    np.testing.assert_allclose(basis @ basis.T, exact @ exact.T, atol=ROUNDING)
    # Leading first: each column is a singular vector of its own, up to its sign.
    np.testing.assert_allclose(abs(np.sum(basis * exact, axis=0)), 1.0, atol=ROUNDING)


def test_leading_vectors_randomised_finds_a_subspace_much_smaller_than_the_matrix() -> None:
    tail = [10.0 * 0.8**n for n in range(60)]
    matrix = with_spectrum(80, 300, [100.0, 90.0, 80.0, *tail], 1)
    basis = leading_vectors(matrix, 3, method="randomised", seed=4)
    exact = np.linalg.svd(matrix)[0][:, :3]
    # Two power iterations shrink the tail by (10 / 80)^4 = 2e-4 against the third value, squared in the projection
    # onto the 13-dimensional sketch; without them the distance is about .1.
    assert np.linalg.norm(basis @ basis.T - exact @ exact.T) < 1e-4
    np.testing.assert_array_equal(basis, leading_vectors(matrix, 3, method="randomised", seed=4))


@pytest.mark.parametrize("method", ["gram", "randomised"])
@pytest.mark.parametrize("matrix", [np.zeros((5, 6)), np.ones((5, 2)), np.eye(5)], ids=["zero", "narrow", "equal"])
def test_leading_vectors_are_orthonormal_where_no_direction_stands_out(method: str, matrix: np.ndarray) -> None:
    basis = leading_vectors(matrix, 4, method=method)
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=ROUNDING)


@pytest.mark.parametrize("rank", [0, 6, -1])
def test_leading_vectors_refuses_an_impossible_rank(rank: int) -> None:
    with pytest.raises(ValueError, match=f"expected a rank from 1 to 5, got {rank}"):
        leading_vectors(np.ones((5, 9)), rank)


def test_leading_vectors_refuses_an_unknown_method() -> None:
    with pytest.raises(ValueError, match="expected method 'gram' or 'randomised', got 'lanczos'"):
        leading_vectors(np.ones((5, 9)), 2, method="lanczos")


def test_complete_basis_extends_and_keeps(xp: Any) -> None:
    start = np.linalg.qr(np.random.default_rng(2).standard_normal((6, 2)))[0]
    basis = xp.take(subspaces.complete_basis(xp.put(start), 5))
    np.testing.assert_allclose(basis.T @ basis, np.eye(5), atol=ROUNDING)
    np.testing.assert_array_equal(basis[:, :2], start)
    full = xp.put(start)
    assert subspaces.complete_basis(full, 2) is full


@pytest.mark.parametrize("method", ["gram", "randomised"])
@pytest.mark.parametrize(
    ("shape", "rank"), [((8, 9), (3, 3)), ((8, 9, 10), (3, 2, 4)), ((5, 6, 4, 5), (2, 3, 2, 2)), ((6, 1, 7), (2, 1, 2))]
)
def test_hosvd_is_exact_at_the_true_rank(xp: Any, planted: Any, method: str, shape: Any, rank: Any) -> None:
    truth = planted(shape, rank).truth
    model = hosvd(xp.put(truth), rank, method=method)
    assert isinstance(model, TuckerTensor)
    assert tuple(model.core.shape) == rank
    for factor in map(xp.take, model.factors):
        np.testing.assert_allclose(factor.T @ factor, np.eye(factor.shape[1]), atol=ROUNDING)
    np.testing.assert_allclose(xp.take(tucker_to_dense(*model)), truth, atol=ROUNDING)


@pytest.mark.parametrize("seed", range(5))
def test_hosvd_is_quasi_best(seed: int) -> None:
    tensor, rank = np.random.default_rng(seed).standard_normal((6, 7, 8)), (2, 3, 2)
    error = np.linalg.norm(tucker_to_dense(*hosvd(tensor, rank)) - tensor) ** 2
    tails = [
        np.sum(np.linalg.svd(unfold(tensor, mode), compute_uv=False)[r:] ** 2) for mode, r in enumerate(rank)
    ]  # each is a lower bound of the best error, their sum an upper bound of HOSVD's
    assert max(tails) <= error <= sum(tails)


def test_hosvd_of_the_full_rank_is_the_tensor() -> None:
    tensor = np.random.default_rng(0).standard_normal((4, 5, 3))
    np.testing.assert_allclose(tucker_to_dense(*hosvd(tensor, tensor.shape)), tensor, atol=ROUNDING)


def test_hosvd_keeps_single_precision() -> None:
    model = hosvd(np.random.default_rng(0).random((4, 5, 3), dtype=np.float32), (2, 2, 2))
    assert {array.dtype for array in (model.core, *model.factors)} == {np.dtype(np.float32)}


def test_hosvd_refuses_a_rank_of_another_length() -> None:
    with pytest.raises(ValueError, match="rank has 2 entries, data has 3 axes"):
        hosvd(np.ones((3, 4, 5)), (1, 1))


@pytest.mark.parametrize("rank", [(2, 2, 2), (3, 2, 3)])
def test_recompress_equals_the_hosvd_of_the_dense_tensor(xp: Any, rank: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    core = rng.standard_normal((3, 4, 3))
    factors = [rng.standard_normal((n, r)) for n, r in zip((7, 8, 9), core.shape, strict=True)]  # not orthonormal
    dense = tucker_to_dense(core, factors)
    projections = []
    for mode, r in enumerate(rank):
        leading = np.linalg.svd(unfold(dense, mode))[0][:, :r]
        projections.append(leading @ leading.T)
    expected = tucker_to_dense(dense, projections)
    new_core, new_factors = subspaces.recompress(xp.put(core), [xp.put(factor) for factor in factors], rank)
    assert xp.take(new_core).shape == rank
    for factor in map(xp.take, new_factors):
        np.testing.assert_allclose(factor.T @ factor, np.eye(factor.shape[1]), atol=ROUNDING)
    # Entries are up to 100 here.
    np.testing.assert_allclose(xp.take(tucker_to_dense(new_core, new_factors)), expected, atol=100 * ROUNDING)


def test_recompress_keeps_small_singular_values() -> None:
    core = np.zeros((3, 3, 3))
    core[range(3), range(3), range(3)] = 1.0, 1e-3, 1e-6
    factors = [np.linalg.qr(np.random.default_rng(n).standard_normal((6, 3)))[0] for n in range(3)]
    pairs = [np.concatenate([factor, factor], axis=1) for factor in factors]  # twice the rank, as in a retraction
    block = np.zeros((6, 6, 6))
    block[:3, :3, :3] = core
    model = subspaces.recompress(block, pairs, (3, 3, 3))
    # Through a Gram matrix a direction with singular value s is found to 1e-16 / s^2, here to 1e-4.
    third = tucker_to_dense(*model)
    third = tucker_to_dense(third, [factor.T for factor in factors])[2, 2, 2]
    assert third == pytest.approx(1e-6, rel=1e-3)


def spectra_by_definition(data: np.ndarray, mask: np.ndarray, spreads: float | None) -> list[np.ndarray]:
    """Debiased Gram matrices with every product written out."""
    centre = np.median(data[mask])
    spread = np.median(abs(data[mask] - centre)) / MEDIAN_DEVIATION
    z = np.where(mask, data - centre, 0.0)
    z = z if spreads is None else np.clip(z, -spreads * spread, spreads * spread)
    ratio = mask.mean()
    grams = []
    for mode in range(data.ndim):
        unfolded = np.moveaxis(z, mode, 0).reshape(data.shape[mode], -1)
        gram = unfolded @ unfolded.T / ratio**2  # two different entries are both seen with probability p^2,
        np.fill_diagonal(gram, np.sum(unfolded**2, axis=1) / ratio)  # an entry with itself with probability p
        constant = np.full_like(unfolded, centre)
        mean = unfolded / ratio
        grams.append(gram + mean @ constant.T + constant @ mean.T + constant @ constant.T)
    return grams


@pytest.mark.parametrize("spreads", [None, 1.0])
@pytest.mark.parametrize("shape", [(7, 6), (5, 6, 7), (3, 4, 3, 5)])
def test_masked_spectra_follow_their_definition(xp: Any, shape: tuple[int, ...], spreads: float | None) -> None:
    rng = np.random.default_rng(6)
    data, mask = 3.0 + rng.standard_normal(shape), rng.random(shape) < 0.6
    spectra = subspaces.masked_spectra(xp.put(np.where(mask, data, np.nan)), xp.put(mask), spreads=spreads)
    assert spectra.ratio == pytest.approx(mask.mean())
    for vectors, values, gram in zip(
        spectra.vectors, spectra.values, spectra_by_definition(data, mask, spreads), strict=True
    ):
        vectors, values = xp.take(vectors), xp.take(values)
        assert np.all(np.diff(values) <= 0)
        # Entries of the Gram matrices are about 10 x 60.
        np.testing.assert_allclose((vectors * values) @ vectors.T, gram, atol=1e-10)


def test_masked_spectra_of_full_data_are_those_of_the_unfoldings() -> None:
    data = 5.0 + np.random.default_rng(7).standard_normal((5, 6, 7))
    spectra = subspaces.masked_spectra(data, np.ones(data.shape, bool), spreads=None)
    for mode in range(3):
        singular = np.linalg.svd(unfold(data, mode), compute_uv=False)
        np.testing.assert_allclose(spectra.values[mode], singular**2, rtol=1e-10)  # sums of about 5000


def test_masked_spectra_are_unbiased() -> None:
    rng = np.random.default_rng(8)
    data = 2.0 + rng.standard_normal((4, 5, 6))
    wanted = [unfold(data, mode) @ unfold(data, mode).T for mode in range(3)]
    draws: list[list[np.ndarray]] = [[], [], []]
    for _ in range(400):
        spectra = subspaces.masked_spectra(data, rng.random(data.shape) < 0.5, spreads=None)
        for mode in range(3):
            draws[mode].append((spectra.vectors[mode] * spectra.values[mode]) @ spectra.vectors[mode].T)
    for mode in range(3):
        error = np.mean(draws[mode], axis=0) - wanted[mode]
        # Five standard errors of a mean; the ratio and the median depend on the draw, which costs some of that.
        assert np.all(abs(error) < 5 * np.std(draws[mode], axis=0) / np.sqrt(400))


def test_masked_spectra_resist_outliers(planted: Any) -> None:
    problem = planted((30, 31, 32), (2, 2, 2), seen=0.3, outliers=0.1)
    distances = {}
    for spreads in (4.0, None):
        spectra = subspaces.masked_spectra(problem.data, problem.mask, spreads=spreads)
        lost = [
            np.linalg.norm(unfold(problem.truth, n) - v[:, :2] @ (v[:, :2].T @ unfold(problem.truth, n)))
            for n, v in enumerate(spectra.vectors)
        ]
        distances[spreads] = max(lost) / np.linalg.norm(problem.truth)
    assert distances[4.0] < 0.7 * distances[None]  # outliers carry ten times the energy of the data, clipped 2
    assert distances[4.0] < 0.5


def test_masked_spectra_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    data, mask = rng.standard_normal((7, 6, 5)), rng.random((7, 6, 5)) < 0.5
    whole = subspaces.masked_spectra(data, mask)
    monkeypatch.setattr(subspaces, "chunk_elements", lambda namespace: 60)  # two slices at a time
    parts = subspaces.masked_spectra(data, mask)
    assert parts.ratio == whole.ratio
    for a, b in zip(parts.values, whole.values, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)  # sums of about 1000 in another order


def test_location_and_spread_are_median_and_deviation(xp: Any) -> None:
    rng = np.random.default_rng(10)
    data, mask = rng.standard_normal((7, 8, 9)), rng.random((7, 8, 9)) < 0.5
    centre, spread = subspaces.location_and_spread(xp.put(np.where(mask, data, np.nan)), xp.put(mask))
    seen = data[mask]
    assert centre == pytest.approx(np.median(seen), abs=1e-15)
    assert spread == pytest.approx(np.median(abs(seen - np.median(seen))) / MEDIAN_DEVIATION, rel=1e-14)


def test_location_and_spread_of_a_large_array_come_from_a_part_of_it() -> None:
    data = np.random.default_rng(11).standard_normal((60, 60, 60))
    centre, spread = subspaces.location_and_spread(data, np.ones(data.shape, bool), budget=20000)
    # Five standard errors of a median (1.25 / sqrt(n)) and of the scaled deviation (1.17 / sqrt(n)), n = 20000 at
    # least half of which is taken.
    assert abs(centre) < 5 * 1.25 / 100
    assert abs(spread - 1) < 5 * 1.17 / 100


def test_location_and_spread_find_the_only_observed_entry() -> None:
    mask = np.zeros((50, 50), bool)
    mask[17, 31] = True
    assert subspaces.location_and_spread(np.full(mask.shape, 4.0), mask, budget=20) == (4.0, 0.0)


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_median_equals_numpy(xp: Any, count: int) -> None:
    values = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    assert spread.median(xp.put(values)) == pytest.approx(float(np.median(values.astype(float))), abs=1e-15)


def test_subgrid_is_sorted_without_repeats_and_within_the_budget() -> None:
    grid = subspaces.subgrid((30, 4, 50), 500, seed=3)
    assert 250 < np.prod([len(index) for index in grid]) <= 500
    for index, size in zip(grid, (30, 4, 50), strict=True):
        assert np.all(np.diff(index) > 0)
        assert index[0] >= 0
        assert index[-1] < size
    assert [len(index) for index in subspaces.subgrid((3, 4), 12, seed=3)] == [3, 4]


def test_take_grid_is_the_product_of_the_indices(xp: Any) -> None:
    array = np.random.default_rng(12).standard_normal((5, 6, 7))
    grid = [np.array([0, 3]), np.arange(6), np.array([1, 2, 6])]
    np.testing.assert_array_equal(xp.take(subspaces.take_grid(xp.put(array), grid)), array[np.ix_(*grid)])


@pytest.mark.parametrize("robust", [True, False])
def test_residual_grid_scale_follows_its_definition(xp: Any, planted: Any, robust: bool) -> None:
    problem = planted((6, 7, 8), (2, 2, 2), seen=0.6, noise=0.1)
    model = hosvd(np.where(problem.mask, problem.data, 0.0), problem.rank)
    grid = subspaces.ResidualGrid.of(xp.put(problem.data), xp.put(problem.mask))
    residual = np.sort(abs(problem.data - tucker_to_dense(*model))[problem.mask])
    count = len(residual)  # median and upper quartile of |N(0, 1)|: .6745 and 1.1503
    quantiles = max(residual[count // 2] / 0.6745, residual[3 * count // 4] / 1.1503)
    expected = quantiles if robust else np.sqrt(np.mean(residual**2))
    scale = grid.scale(xp.put(model.core), [xp.put(factor) for factor in model.factors], robust)
    assert scale == pytest.approx(expected, rel=ROUNDING)


def test_residual_grid_scale_of_noise_is_its_deviation_whatever_a_tenth_of_it_is() -> None:
    rng = np.random.default_rng(15)
    noise = 0.3 * rng.standard_normal((30, 31, 32))
    zero = hosvd(np.zeros(noise.shape), (1, 1, 1))
    mask = np.ones(noise.shape, bool)
    # The quantiles of 30000 numbers are known to 1 %.
    assert subspaces.ResidualGrid.of(noise, mask).scale(*zero, True) == pytest.approx(0.3, rel=0.03)
    noise[rng.random(noise.shape) < 0.1] = 1e6
    assert 0.3 < subspaces.ResidualGrid.of(noise, mask).scale(*zero, True) < 1.3 * 0.3


def test_residual_grid_finds_the_only_observed_entry() -> None:
    mask = np.zeros((80, 80, 80), bool)
    mask[3, 70, 41] = True
    grid = subspaces.ResidualGrid.of(np.full(mask.shape, 4.0), mask)
    zero = hosvd(np.zeros(mask.shape), (1, 1, 1))
    assert grid.scale(zero.core, zero.factors, False) == 4.0


def test_residual_grid_that_misses_all_observed_entries_takes_them_all() -> None:
    mask = np.zeros((4, 5, 6), bool)
    mask[0, 0, 0] = mask[3, 4, 5] = True
    grids = [subspaces.ResidualGrid.of(np.full(mask.shape, 2.0), np.roll(mask, shift), budget=1) for shift in range(40)]
    assert all(len(grid.values) > 0 for grid in grids)
    assert {grid.observed.shape for grid in grids} >= {mask.shape}  # some were missed by a grid of 60 entries
    zero = np.zeros((1, 1, 1)), [np.zeros((size, 1)) for size in mask.shape]
    assert [grid.scale(*zero, False) for grid in grids] == [2.0] * 40


def test_residual_grid_of_few_observed_entries_sees_enough_of_them() -> None:
    mask = np.random.default_rng(13).random((100, 100, 40)) < 0.05  # 20000 seen: fewer than the budget, all are taken
    data = np.random.default_rng(14).standard_normal(mask.shape)
    zero = hosvd(np.zeros((100, 100, 40)), (1, 1, 1))
    scale = subspaces.ResidualGrid.of(data, mask).scale(zero.core, zero.factors, False)
    assert scale == pytest.approx(np.sqrt(np.mean(data[mask] ** 2)), rel=ROUNDING)
