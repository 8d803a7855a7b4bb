"""Bounds against numbers worked by hand, coherence against dense projections and SVDs, verdicts at their borders."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorcell.solvers import hosvd, tucker_to_dense
from tensorcell.solvers.bounds import clipped_rank, coherence, effective_rank, recovery_bound, verdict

# Products and SVDs of a few hundred numbers of order one in another order: some units in the last place.
ROUNDING = 1e-11
ONES = {"mu": 1.0, "alpha": 1.0, "lam": 1.0, "sparsity": 0}
LOG16 = math.log(16) ** 2

MODELS = [
    ((3, 4, 2), (2, 2, 1)),
    ((4, 3, 5), (2, 3, 2)),
    ((5, 4), (2, 2)),
    ((2, 3, 2, 3), (1, 2, 2, 2)),
    ((3, 3, 3), (1, 1, 1)),
    ((3, 2, 4), (3, 2, 4)),
]


def model(shape: tuple[int, ...], rank: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """Random core and orthonormal factors."""
    rng = np.random.default_rng(seed)
    factors = [np.linalg.qr(rng.standard_normal(sizes))[0] for sizes in zip(shape, rank, strict=True)]
    return rng.standard_normal(rank), factors


# Bounds


def test_recovery_bound_equals_the_example_worked_by_hand() -> None:
    """Shape (4, 4, 16), rank (1, 3, 5): every number of the docstring."""
    assert clipped_rank((1, 3, 5), (4, 4, 16)) == (1, 3, 3)
    bound = recovery_bound((4, 4, 16), (1, 3, 5), mu=2, alpha=1.5, lam=4, sparsity=20)
    assert bound.effective_rank == 2.0
    assert bound.degrees_of_freedom == 54
    assert math.log(16) ** 2 == pytest.approx(7.687248, abs=5e-7)
    # The printed digits, and the exact products behind them to rounding.
    assert bound.bound_theorem1 == pytest.approx(16727.45, abs=0.005)
    assert bound.bound_theorem1 == pytest.approx(2 * (704 + 384) * LOG16, rel=1e-14)
    assert bound.bound_theorem1_simplified == pytest.approx(2582.92, abs=0.005)
    assert bound.bound_theorem1_simplified == pytest.approx(336 * LOG16, rel=1e-14)
    assert bound.bound_theorem2 == pytest.approx(1629.70, abs=0.005)
    assert bound.bound_theorem2 == pytest.approx(212 * LOG16, rel=1e-14)
    assert bound.bound_theorem2_full == pytest.approx(2736.66, abs=0.005)
    assert bound.bound_theorem2_full == pytest.approx(356 * LOG16, rel=1e-14)


def test_recovery_bound_of_two_modes_worked_by_hand() -> None:
    """Shape (4, 16), rank (2, 5) -> (2, 2): r* = (4*2 + 16*2) / 20 = 2, I = 16, I^(3/2) = 64."""
    bound = recovery_bound((4, 16), (2, 5), mu=3, alpha=2, lam=9, sparsity=7, beta=2, constant=0.5)
    assert bound.effective_rank == 2.0
    assert bound.degrees_of_freedom == 4 + 2 * 2 + 2 * 14
    # lam has the powers 0 and 0: (3 + 4) * 2 * 16 = 224, and 2 * sqrt(2) * 64.
    assert bound.bound_theorem1 == pytest.approx(0.5 * 3 * (224 + 128 * math.sqrt(2)) * LOG16, rel=1e-14)
    assert bound.bound_theorem1_simplified is None
    assert bound.bound_theorem2 == pytest.approx(0.5 * (128 + 7) * LOG16, rel=1e-14)
    assert bound.bound_theorem2_full == pytest.approx(0.5 * (64 * math.sqrt(2) + 32 + 7) * LOG16, rel=1e-14)


def test_recovery_bound_of_four_modes_worked_by_hand() -> None:
    """Shape (16, 16, 16, 16), rank 4: r* = 4, r*^3 = 64, r*^(3/2) = 8; degrees of freedom 256 + 4*4*12."""
    bound = recovery_bound((16,) * 4, 4, mu=3, alpha=2, lam=5, sparsity=1)
    assert bound.effective_rank == pytest.approx(4, rel=1e-15)
    assert bound.degrees_of_freedom == 448
    # (3 + 4 * 25) * 64 * 16 = 105472, and 2 * 5 * 8 * 64 = 5120.
    assert bound.bound_theorem1 == pytest.approx(2 * (105472 + 5120) * LOG16, rel=1e-13)
    assert bound.bound_theorem1_simplified is None
    assert bound.bound_theorem2 == pytest.approx((256 + 1) * LOG16, rel=1e-14)
    assert bound.bound_theorem2_full == pytest.approx((512 + 1024 + 1) * LOG16, rel=1e-14)


def test_theorem1_with_all_coherences_one_is_twice_its_simplified_form_plus_one_term() -> None:
    """Equal sizes and ranks, mu = alpha = lam = 1: (2 r^2 I + r I^(3/2)) (1 + beta) against (r I^(3/2) + r^2 I)."""
    bound = recovery_bound((25, 25, 25), 3, **ONES)
    simplified = bound.bound_theorem1_simplified
    assert simplified is not None
    assert bound.bound_theorem1 == pytest.approx(2 * (simplified + 9 * 25 * math.log(25) ** 2), rel=1e-14)


@given(shape=st.lists(st.integers(1, 30), min_size=2, max_size=5), data=st.data())
@settings(max_examples=100, deadline=None)
def test_recovery_bound_is_finite_ordered_and_blind_to_the_order_of_modes(
    shape: list[int], data: st.DataObject
) -> None:
    rank = [data.draw(st.integers(1, size)) for size in shape]
    order = data.draw(st.permutations(range(len(shape))))
    numbers = {"mu": 1.5, "alpha": 2.5, "lam": 1.25, "sparsity": 1}
    bound = recovery_bound(shape, rank, **numbers)
    turned = recovery_bound([shape[i] for i in order], [rank[i] for i in order], **numbers)
    for name, value in vars(bound).items():
        if value is not None:
            assert value == pytest.approx(getattr(turned, name), rel=1e-12)
            assert math.isfinite(value)
            assert value >= 0
    assert 1 <= bound.degrees_of_freedom <= math.prod(shape)
    clipped = clipped_rank(rank, shape)
    assert all(number <= math.prod(clipped) // number for number in clipped)
    assert 1 - ROUNDING <= bound.effective_rank <= max(clipped) + ROUNDING
    if len(shape) == 3:
        assert bound.bound_theorem1_simplified is not None
        assert bound.bound_theorem1_simplified >= bound.bound_theorem2 - math.log(max(shape)) ** 2
        assert bound.bound_theorem2_full >= bound.bound_theorem2
    else:
        assert bound.bound_theorem1_simplified is None


def test_clipped_rank_leaves_what_fits_and_takes_one_number_for_all() -> None:
    assert clipped_rank(3, (4, 5, 6)) == (3, 3, 3)
    assert clipped_rank((2, 3, 6), (20, 20, 20)) == (2, 3, 6)
    assert clipped_rank((9, 1, 1), (20, 20, 20)) == (1, 1, 1)
    assert clipped_rank((5, 3), (20, 20)) == (3, 3)
    assert clipped_rank(tuple(np.array([2, 2, 9])), (20, 20, 20)) == (2, 2, 4)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"shape": (4,)}, ValueError, r"expected a shape of at least two sizes, got \(4,\)"),
        ({"shape": 4}, ValueError, "expected a shape of at least two sizes, got 4"),
        ({"shape": "444"}, ValueError, "expected a shape of at least two sizes, got '444'"),
        ({"shape": (4, 0, 4)}, ValueError, "expected each size as a finite number of at least 1, got 0"),
        ({"shape": (4, 4.5, 4)}, TypeError, "expected each size as a whole number, got 4.5"),
        ({"shape": (4, True, 4)}, TypeError, "expected each size as a number of at least 1, got True"),
        ({"rank": (1, 1)}, ValueError, "rank has 2 entries, shape has 3"),
        ({"rank": (1, 5, 1)}, ValueError, r"rank 5 does not fit mode 1 of size 4 \(expected 1 to 4\)"),
        ({"rank": 0}, ValueError, "expected each rank as a finite number of at least 1, got 0"),
        ({"rank": (1, 1.5, 1)}, TypeError, "expected each rank as a whole number, got 1.5"),
        ({"rank": "auto"}, TypeError, "expected each rank as a number of at least 1, got 'auto'"),
        ({"mu": 0}, ValueError, "expected mu as a finite number above 0, got 0"),
        ({"mu": math.nan}, ValueError, "expected mu as a finite number above 0, got nan"),
        ({"mu": None}, TypeError, "expected mu as a number above 0, got None"),
        ({"alpha": -1.0}, ValueError, "expected alpha as a finite number above 0, got -1.0"),
        ({"alpha": math.inf}, ValueError, "expected alpha as a finite number above 0, got inf"),
        ({"lam": 0.5}, ValueError, "expected lam as a finite number of at least 1, got 0.5"),
        ({"sparsity": -1}, ValueError, "expected sparsity as a finite number of at least 0, got -1"),
        ({"sparsity": 65}, ValueError, "expected sparsity of at most 64, the number of entries, got 65"),
        ({"beta": 0}, ValueError, "expected beta as a finite number above 0, got 0"),
        ({"constant": "1"}, TypeError, "expected constant as a number above 0, got '1'"),
        ({"mu": 1e300, "constant": 1e300}, ValueError, "expected numbers whose bounds fit a float"),
        ({"alpha": 1e200}, ValueError, "expected numbers whose bounds fit a float"),
        ({"mu": 10**400}, ValueError, "expected mu as a finite number above 0"),
    ],
)
def test_recovery_bound_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    given_arguments: dict[str, Any] = {"shape": (4, 4, 4), "rank": 1, **ONES, **changes}
    with pytest.raises(error, match=message):
        recovery_bound(given_arguments.pop("shape"), given_arguments.pop("rank"), **given_arguments)


# Coherence


def largest_projection(factors: list[np.ndarray]) -> float:
    """``max ||Q_T e||^2`` from its definition: dense Kronecker matrices applied to every unit tensor."""
    projections = [factor @ factor.T for factor in factors]
    q = reduce(np.kron, projections)
    for mode, projection in enumerate(projections):
        parts = [*projections[:mode], np.eye(len(projection)) - projection, *projections[mode + 1 :]]
        q = q + reduce(np.kron, parts)
    np.testing.assert_allclose(q @ q, q, atol=ROUNDING)  # it is a projection
    return max(float(np.sum((q @ unit) ** 2)) for unit in np.eye(len(q)))


@pytest.mark.parametrize(("shape", "rank"), MODELS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mu_equals_the_brute_force_projection_of_every_unit_tensor(
    shape: tuple[int, ...], rank: tuple[int, ...], seed: int
) -> None:
    core, factors = model(shape, rank, seed)
    k, d = len(shape), sum(shape) / len(shape)
    r_star = (sum(n / r for n, r in zip(shape, rank, strict=True)) * math.prod(rank) / (k * d)) ** (1 / (k - 1))
    found = coherence(core, factors)
    assert found.effective_rank == pytest.approx(r_star, rel=ROUNDING)
    expected = math.prod(shape) / (k * r_star ** (k - 1) * d) * largest_projection(factors)
    assert found.mu == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.parametrize(("shape", "rank"), MODELS)
def test_mode_coherences_and_lambda_equal_their_definitions(shape: tuple[int, ...], rank: tuple[int, ...]) -> None:
    core, factors = model(shape, rank)
    found = coherence(core, factors)
    for size, r, factor, number in zip(shape, rank, factors, found.mode, strict=True):
        rows = [np.linalg.norm(factor.T @ unit) ** 2 for unit in np.eye(size)]
        assert number == pytest.approx(size / r * max(rows), rel=ROUNDING)
        assert 1 - ROUNDING <= number <= size / r + ROUNDING
    scaled = max(number * r for number, r in zip(found.mode, rank, strict=True))
    assert found.lam == pytest.approx(scaled / found.effective_rank, rel=ROUNDING)
    assert found.lam >= 1


def dense_alpha(dense: np.ndarray, rank: tuple[int, ...]) -> float:
    """Polar factor of the unfolding with the largest nuclear norm, by the SVD of the whole unfolding."""
    best = (-1.0, 0.0)
    for mode, r in enumerate(rank):
        left, values, right = np.linalg.svd(np.moveaxis(dense, mode, 0).reshape(dense.shape[mode], -1))
        best = max(best, (float(values.sum()), float(np.max(np.abs(left[:, :r] @ right[:r, :])))))
    return math.sqrt(dense.size / effective_rank(dense.shape, rank)) * best[1]


@pytest.mark.parametrize(("shape", "rank"), [*MODELS, ((9, 13, 11), (2, 4, 3)), ((12, 3, 10), (4, 2, 3))])
@pytest.mark.parametrize("seed", [0, 1])
def test_alpha_equals_that_of_the_dense_svd(shape: tuple[int, ...], rank: tuple[int, ...], seed: int) -> None:
    core, factors = model(shape, rank, seed)
    # Singular values of these cores are above a hundredth of the largest: polar factors lose two digits.
    expected = dense_alpha(tucker_to_dense(core, factors), rank)
    assert coherence(core, factors).alpha == pytest.approx(expected, rel=1e-9)


def test_alpha_scans_every_plane_and_row_of_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest entry is put into each place in turn; blocks are smaller than a plane."""
    shape = (3, 4, 5)
    for block in (7, 11, 45):
        monkeypatch.setattr("tensorcell.solvers.bounds.chunk_elements", lambda xp, block=block: block)
        for place in itertools.product(*map(range, shape)):
            factors = [np.ones((size, 1)) for size in shape]
            for factor, index in zip(factors, place, strict=True):
                factor[index] = 2.0
            expected = math.prod(2 / math.sqrt(size + 3) for size in shape)
            found = coherence(-np.ones((1, 1, 1)), factors)  # negative everywhere: the smallest entry is the largest
            assert found.alpha == pytest.approx(math.sqrt(60) * expected, rel=ROUNDING)


def test_surrogate_is_the_subgradient_of_an_orthogonally_decomposable_tensor() -> None:
    """``sum_i s_i u_i o v_i o w_i`` has the nuclear norm ``sum s_i`` and the subgradient ``sum_i u_i o v_i o w_i``."""
    _, factors = model((6, 7, 8), (3, 3, 3))
    core = np.zeros((3, 3, 3))
    core[range(3), range(3), range(3)] = [5.0, 1.0, 0.1]
    subgradient = np.einsum("ir,jr,kr->ijk", *factors)
    expected = math.sqrt(6 * 7 * 8 / 3) * np.abs(subgradient).max()
    # r* of rank (3, 3, 3) is 3 for every shape: sum_j I_j 9 / sum I_j = 9.
    assert coherence(core, factors).alpha == pytest.approx(expected, rel=ROUNDING)


def test_coherence_of_a_constant_and_of_a_spike() -> None:
    """p_j = 1/I_j or 1: by hand from the definitions, shape (2, 4, 8), rank 1, r* = 1, sum of sizes 14."""
    even = coherence(np.ones((1, 1, 1)), [np.ones((size, 1)) for size in (2, 4, 8)])
    assert even.mode == pytest.approx((1, 1, 1))
    assert even.mu == pytest.approx(64 / 14 * (1 / 8 + 1 / 16 + 1 / 32 - 2 / 64))
    assert (even.alpha, even.lam, even.effective_rank) == pytest.approx((1, 1, 1))
    for size in range(2, 30):  # rounding must not take lambda* below 1, which the bound refuses
        lam = coherence(np.ones((1, 1)), [np.ones((size, 1))] * 2).lam
        recovery_bound((size, size), 1, mu=1, alpha=1, lam=lam, sparsity=0)
    spike = coherence(np.full((1, 1, 1), -3.0), [np.eye(size, 1) for size in (2, 4, 8)])
    assert spike.mode == pytest.approx((2, 4, 8))
    assert (spike.mu, spike.alpha, spike.lam) == pytest.approx((64 / 14, 8, 8))


@given(exponent=st.sampled_from([-200, -3, 0, 5, 200]), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_coherence_does_not_depend_on_scale_bases_or_unused_directions(exponent: int, seed: int) -> None:
    shape, rank = (6, 7, 8), (2, 3, 2)
    core, factors = model(shape, rank, seed)
    rng = np.random.default_rng(seed + 1)
    straight = coherence(core, factors)
    # Any well-conditioned basis of the same subspaces, and one column more that the core does not use.
    mixes = [np.eye(r) + 0.3 * rng.standard_normal((r, r)) / r for r in rank]
    mixed = tucker_to_dense(core, [np.linalg.inv(mix) for mix in mixes])
    padded = np.pad(mixed, [(0, 1)] * 3)
    wide = [np.c_[u @ mix, rng.standard_normal(len(u))] for u, mix in zip(factors, mixes, strict=True)]
    turned = coherence(padded * 10.0**exponent, wide)
    for name in ("mode", "mu", "alpha", "lam", "effective_rank"):
        # Conditions of mixes and cores cost some digits.
        assert getattr(turned, name) == pytest.approx(getattr(straight, name), rel=1e-7)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_coherence_of_permuted_modes_is_permuted(order: tuple[int, ...]) -> None:
    core, factors = model((6, 9, 4), (2, 4, 3))
    straight = coherence(core, factors)
    turned = coherence(np.transpose(core, order), [factors[mode] for mode in order])
    assert turned.mode == pytest.approx(tuple(straight.mode[mode] for mode in order), rel=ROUNDING)
    for name in ("mu", "alpha", "lam", "effective_rank"):
        assert getattr(turned, name) == pytest.approx(getattr(straight, name), rel=ROUNDING)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coherence_of_every_array_library(xp: Any, dtype: type) -> None:
    core, factors = model((6, 9, 4), (2, 4, 3))
    straight = coherence(core, factors)
    found = coherence(xp.put(core.astype(dtype)), [xp.put(factor.astype(dtype)) for factor in factors])
    tolerance = 1e-4 if dtype is np.float32 else ROUNDING  # float32 inputs, and the condition of the core
    assert found.mode == pytest.approx(straight.mode, rel=tolerance)
    assert (found.mu, found.alpha, found.lam) == pytest.approx(
        (straight.mu, straight.alpha, straight.lam), rel=tolerance
    )


def test_coherence_says_how_each_number_was_obtained() -> None:
    found = coherence(*model((5, 6, 7), (2, 2, 2)))
    assert set(found.obtained) == set(vars(found)) - {"obtained"}
    assert "surrogate" in found.obtained["alpha"]
    assert "estimated model" in found.obtained["mu"]


@pytest.mark.parametrize("shape", [(60, 200, 220), (400, 410, 4, 5), (2, 3, 5, 70000)])
def test_coherence_never_holds_the_full_tensor(shape: tuple[int, ...]) -> None:
    core, factors = model(shape, (2,) * len(shape))
    tracemalloc.start()
    coherence(core, factors)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    given_bytes = core.nbytes + sum(factor.nbytes for factor in factors)
    # Blocks of 2 MiB, the leading product, and some copies of the factors.
    assert peak < max(8 << 20, math.prod(shape) * 8 / 3) + 6 * given_bytes
    assert peak < math.prod(shape) * 8


def test_coherence_of_a_real_volume_keeps_its_limits(volumes_folder: Path) -> None:
    volume = tifffile.imread(volumes_folder / "mouse_embryo_8cell_nuclei_confocal.tif").astype(float)
    volume = volume.reshape(-1, *volume.shape[-2:])[:24, ::6, ::6]
    rank = (5, 8, 8)
    core, factors = hosvd(volume, rank)
    found = coherence(core, factors)
    assert found.alpha == pytest.approx(dense_alpha(tucker_to_dense(core, factors), rank), rel=1e-6)
    for size, r, number in zip(volume.shape, rank, found.mode, strict=True):
        assert 1 <= number <= size / r
    assert found.lam >= 1
    bound = recovery_bound(volume.shape, rank, mu=found.mu, alpha=found.alpha, lam=found.lam, sparsity=0)
    assert bound.effective_rank == pytest.approx(found.effective_rank)
    assert bound.bound_theorem1 > bound.degrees_of_freedom


@pytest.mark.parametrize(
    ("core", "factors", "error", "message"),
    [
        ([[1.0]], [np.ones((2, 1))] * 2, TypeError, "expected NumPy or CuPy arrays, got list"),
        (np.ones(1), [np.ones((2, 1))], ValueError, "a core of two modes or more .*, got 1 modes, 1 factors"),
        (np.ones((1, 1)), [np.ones((2, 1))] * 3, ValueError, "one factor a mode, got 2 modes, 3 factors"),
        (np.ones((1, 2)), [np.ones((2, 1))] * 2, ValueError, r"factor 1 has shape \(2, 1\), expected \(I_1, 2\)"),
        (np.ones((1, 1)), [np.ones((2, 1)), np.ones(2)], ValueError, r"factor 1 has shape \(2,\), expected \(I_1, 1\)"),
        (np.ones((1, 1)), [np.ones((2, 1)), np.ones((0, 1))], ValueError, r"factor 1 has shape \(0, 1\)"),
        (np.ones((1, 1)), [np.ones((2, 1)), np.full((2, 1), np.nan)], ValueError, "of finite numbers, got NaN"),
        (np.ones((1, 1)) * 1j, [np.ones((2, 1))] * 2, TypeError, "expected real numbers, got dtype complex128"),
        (np.zeros((1, 1)), [np.ones((2, 1))] * 2, ValueError, "a model other than zero, got zeros only"),
        (np.ones((1, 1)), [np.ones((2, 1)), np.zeros((2, 1))], ValueError, "a model other than zero, got zeros only"),
    ],
)
def test_coherence_refuses(core: Any, factors: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        coherence(core, factors)


# Verdicts

CASE: dict[str, Any] = {
    "observed": 500,
    "total": 1000,
    "degrees_of_freedom": 100,
    "empty_slices": False,
    "empirical": 300.0,
    "theorem": 700.0,
}


@pytest.mark.parametrize(
    ("changes", "word", "words"),
    [
        ({}, "likely", "500 samples reach the empirical threshold of 300"),
        ({"observed": 99}, "impossible", "99 samples for 100 degrees of freedom"),
        ({"observed": 1}, "impossible", "1 sample for 100"),
        ({"observed": 0}, "impossible", "0 samples for 100"),
        ({"observed": 100}, "unlikely", "below the empirical threshold of 300"),
        ({"observed": 299}, "unlikely", "299 samples, below"),
        ({"observed": 300}, "likely", "300 samples reach"),
        ({"observed": 699}, "likely", "699 samples reach"),
        ({"observed": 700}, "guaranteed", "700 samples reach its 700"),
        ({"empty_slices": True}, "impossible", "whole slices were never measured"),
        ({"empty_slices": True, "observed": 999}, "impossible", "whole slices were never measured"),
        ({"empirical": None}, "unlikely", "no empirical threshold is known"),
        ({"empirical": None, "observed": 700}, "guaranteed", "unknown constant set to 1"),
        ({"empirical": 900, "observed": 800}, "unlikely", "below the empirical threshold of 900"),
        ({"observed": 1000}, "guaranteed", "1,000 samples reach"),
        ({"observed": 1000, "theorem": 5e9}, "likely", "Every entry was observed"),
        ({"observed": 1000, "theorem": 5e9, "empirical": 2000}, "likely", "Every entry was observed"),
        ({"observed": 1000, "theorem": 5e9, "empirical": None}, "likely", "Every entry was observed"),
        ({"observed": np.int64(300), "empirical": np.float64(299.5)}, "likely", "threshold of 300"),
    ],
)
def test_verdict_at_its_borders(changes: dict[str, Any], word: str, words: str) -> None:
    found, sentence = verdict(**{**CASE, **changes})
    assert found == word
    assert words in sentence
    assert sentence.endswith(".")
    assert sentence.count(". ") == 0  # one sentence


@given(
    total=st.integers(1, 10**9),
    shares=st.lists(st.floats(0, 1), min_size=2, max_size=2),
    free=st.floats(0, 1),
    empirical=st.none() | st.floats(0, 2),
    theorem=st.floats(0, 2),
)
@settings(max_examples=200, deadline=None)
def test_verdict_never_gets_worse_with_more_samples(
    total: int, shares: list[float], free: float, empirical: float | None, theorem: float
) -> None:
    order = ["impossible", "unlikely", "likely", "guaranteed"]
    numbers: dict[str, Any] = {
        "degrees_of_freedom": free * total,
        "empirical": None if empirical is None else empirical * total,
        "theorem": theorem * total,
    }
    words = [
        verdict(observed=observed, total=total, empty_slices=False, **numbers)[0]
        for observed in sorted(int(share * total) for share in shares)
    ]
    assert order.index(words[0]) <= order.index(words[1])
    assert verdict(observed=total, total=total, empty_slices=False, **numbers)[0] in ("likely", "guaranteed")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"total": 0}, ValueError, "expected total as a finite number of at least 1, got 0"),
        ({"observed": -1}, ValueError, "expected observed as a finite number of at least 0, got -1"),
        ({"observed": 1001}, ValueError, "expected at most 1000 observed entries, the total, got 1001"),
        ({"observed": 1.5}, TypeError, "expected observed as a whole number, got 1.5"),
        ({"degrees_of_freedom": -3}, ValueError, "expected degrees_of_freedom as a finite number of at least 0"),
        ({"empirical": math.nan}, ValueError, "expected empirical as a finite number of at least 0, got nan"),
        ({"theorem": None}, TypeError, "expected theorem as a number of at least 0, got None"),
    ],
)
def test_verdict_refuses(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        verdict(**{**CASE, **changes})
