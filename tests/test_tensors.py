"""Tensor algebra against einsum, TensorLy and the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorly
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorcell.solvers import fold, mode_product, multi_mode_product, tensors, tucker_to_dense, unfold

# Sums of a few dozen products of order one, in another order: some units in the last place.
ROUNDING = 1e-13

SHAPES = [(4, 5), (3, 4, 5), (2, 3, 4, 3), (2, 3, 2, 3, 2), (3, 1, 4)]


def model(shape: tuple[int, ...], rank: tuple[int, ...], seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Random core and orthonormal factors."""
    rng = np.random.default_rng(seed)
    factors = [np.linalg.qr(rng.standard_normal(sizes))[0] for sizes in zip(shape, rank, strict=True)]
    return rng.standard_normal(rank), factors


@pytest.mark.parametrize("shape", SHAPES)
def test_unfold_equals_tensorly_and_fold_inverts_it(xp: Any, shape: tuple[int, ...]) -> None:
    tensor = np.random.default_rng(0).random(shape)
    for mode in range(len(shape)):
        unfolded = unfold(xp.put(tensor), mode)
        np.testing.assert_array_equal(xp.take(unfolded), tensorly.unfold(tensor, mode))
        np.testing.assert_array_equal(xp.take(fold(unfolded, mode, shape)), tensor)


@pytest.mark.parametrize("shape", SHAPES)
def test_mode_product_equals_its_definition(xp: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    tensor = rng.standard_normal(shape)
    for mode, size in enumerate(shape):
        matrix = rng.standard_normal((6, size))
        expected = np.moveaxis(np.tensordot(matrix, tensor, (1, mode)), 0, mode)
        product = xp.take(mode_product(xp.put(tensor), xp.put(matrix), mode))
        np.testing.assert_allclose(product, expected, atol=ROUNDING)


@pytest.mark.parametrize("skip", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("transpose", [False, True])
def test_multi_mode_product_equals_einsum(xp: Any, skip: int | None, transpose: bool) -> None:
    rng = np.random.default_rng(2)
    shape, sizes = (3, 4, 2, 5), (4, 2, 6, 1)  # some modes shrink, some grow: any order of products must do
    tensor = rng.standard_normal(shape)
    matrices = [rng.standard_normal((new, old)) for new, old in zip(sizes, shape, strict=True)]
    used = [np.eye(shape[mode]) if mode == skip else matrix for mode, matrix in enumerate(matrices)]
    given_matrices = [xp.put(matrix.T if transpose else matrix) for matrix in matrices]
    product = xp.take(multi_mode_product(xp.put(tensor), given_matrices, skip=skip, transpose=transpose))
    np.testing.assert_allclose(product, np.einsum("abcd,ia,jb,kc,ld->ijkl", tensor, *used), atol=ROUNDING)


def test_multi_mode_product_refuses_another_number_of_matrices() -> None:
    with pytest.raises(ValueError, match="expected 3 matrices, one a mode, got 2"):
        multi_mode_product(np.ones((2, 2, 2)), [np.eye(2)] * 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_tucker_to_dense_equals_tensorly(xp: Any, shape: tuple[int, ...]) -> None:
    core, factors = model(shape, tuple(min(2, size) for size in shape), 3)
    value = xp.take(tucker_to_dense(xp.put(core), [xp.put(factor) for factor in factors]))
    np.testing.assert_allclose(value, tensorly.tucker_to_tensor((core, factors)), atol=ROUNDING)


@pytest.mark.parametrize("shape", SHAPES)
def test_tucker_distance_equals_the_dense_norm(xp: Any, shape: tuple[int, ...]) -> None:
    rank = tuple(min(2, size) for size in shape)
    old, new = model(shape, rank, 4), model(shape, rank, 5)
    expected = np.linalg.norm(tensorly.tucker_to_tensor(new) - tensorly.tucker_to_tensor(old))
    put = [(xp.put(core), [xp.put(factor) for factor in factors]) for core, factors in (old, new)]
    assert float(tensors.tucker_distance(*put[0], *put[1])) == pytest.approx(expected, rel=ROUNDING)


@given(exponent=st.integers(2, 12), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_tucker_distance_of_near_models_has_no_cancellation(exponent: int, seed: int) -> None:
    # The core moves by a known amount in unchanged subspaces, so the distance is known however small it is; the
    # difference of squared norms would lose it below 1e-8.
    core, factors = model((5, 6, 7), (2, 3, 2), seed)
    move = np.random.default_rng(seed + 1).standard_normal(core.shape)
    move *= 10.0**-exponent / np.linalg.norm(move)
    distance = float(tensors.tucker_distance(core, factors, core + move, factors))
    # Rounding of core + move is 1e-16 per entry, relative to the move 1e-16 * 10^exponent; leaving parts: 1e-15.
    assert distance == pytest.approx(10.0**-exponent, rel=1e-14 * 10**exponent)


def test_tucker_distance_of_turned_bases_is_zero() -> None:
    core, factors = model((5, 6, 7), (2, 3, 2), 6)
    turns = [np.linalg.qr(np.random.default_rng(mode).standard_normal((r, r)))[0] for mode, r in enumerate(core.shape)]
    turned = multi_mode_product(core, turns, transpose=True)
    distance = tensors.tucker_distance(core, factors, turned, [u @ q for u, q in zip(factors, turns, strict=True)])
    assert float(distance) < ROUNDING
