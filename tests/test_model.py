"""One answer to each question: noise, rank and outliers of a stack, whoever asks."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tensorcell as tc
from tensorcell.datasets import simulate_cells
from tensorcell.fitting import Fitting
from tensorcell.model import anchored, bounded_by_fit, model_of, noise_of_stack
from tensorcell.solvers import CompletionResult, NoiseModel, Status, complete_tucker
from tensorcell.solvers.results import SparsePart, tucker_tensor
from tensorcell.solvers.slabs import model_planes
from tensorcell.solvers.spread import robust_sigma


@pytest.mark.parametrize("keep", [1.0, 0.6])
@pytest.mark.parametrize("seed", range(2))
def test_recover_diagnose_and_plan_give_the_same_figures(keep: float, seed: int) -> None:
    cells = simulate_cells((12, 32, 32), cells=4, keep_pixels=keep, outliers=0.01, seed=seed)
    recovered, diagnosed = tc.recover(cells.measured, method="tucker"), tc.diagnose(cells.measured)
    assert diagnosed.noise_sigma == recovered.noise
    assert diagnosed.rank == recovered.rank
    assert diagnosed.outliers == recovered.outlier_count
    if keep == 1 and seed == 0:
        planned = tc.plan(cells.measured, axial_factors=(1,), target_nrmse=0.5)
        assert planned.noise.sigma == recovered.noise


def test_the_law_is_the_same_whatever_the_method() -> None:
    cells = simulate_cells((12, 32, 32), cells=4, keep_pixels=0.7, seed=3)
    found = [tc.recover(cells.measured, method=method) for method in ("tucker", "local", "auto")]
    assert len({(r.noise, r.rank, r.outlier_count) for r in found}) == 1


def planted(sigma: float, seed: int = 0, shape: tuple[int, ...] = (24, 32, 36)) -> tuple[np.ndarray, np.ndarray]:
    """A tensor of rank 3 with factors like white noise, of standard deviation 1, and a noisy copy."""
    rng = np.random.default_rng(seed)
    truth = np.einsum("abc,ia,jb,kc->ijk", rng.standard_normal((3,) * 3), *(rng.standard_normal((n, 3)) for n in shape))
    truth /= truth.std()
    return truth, truth + sigma * rng.standard_normal(shape)


@pytest.mark.parametrize("sigma", [0.05, 0.2])
def test_texture_that_a_model_explains_is_no_noise(sigma: float) -> None:
    # Patches cannot tell these factors from noise; the model can. 5 %: 27 000 residuals, and a rank that fits.
    _, noisy = planted(sigma)
    whole = np.ones(noisy.shape, bool)
    assert noise_of_stack(noisy, whole) is not None
    assert noise_of_stack(noisy, whole).sigma == pytest.approx(sigma, rel=0.05)
    assert "most of it is structure" in noise_of_stack(noisy, whole).sentence


def test_the_bound_scales_the_law_and_counts_the_degrees_of_freedom() -> None:
    _, noisy = planted(0.1)
    fit = complete_tucker(noisy, None, (12, 12, 12), tolerance=1e-3)
    whole = np.ones(noisy.shape, bool)
    bounded = bounded_by_fit(NoiseModel(gain=0.5, offset=2.0, sigma=1.5, floor=1.0), noisy, whole, fit)
    ratio = bounded.gain / 0.5
    assert (bounded.offset, bounded.floor, bounded.sigma**2) == pytest.approx((2 * ratio, ratio, 1.5**2 * ratio))
    # A model of rank 12 takes 9 % of the freedom, 4 % of the deviation; as it takes the directions that hold most
    # noise, another 4 % go with them. Without counting, 8 % would lack.
    white = bounded_by_fit(NoiseModel.white(1.0), noisy, whole, fit)
    assert white.sigma == pytest.approx(0.1, rel=0.05)


def test_the_bound_leaves_out_voxels_at_which_the_law_says_no_noise() -> None:
    """Below 20 this law has a variance of 0, by which nothing is divided."""
    _, noisy = planted(0.1)
    fit = complete_tucker(noisy, None, (12, 12, 12), tolerance=1e-3)
    whole = np.ones(noisy.shape, bool)
    law = NoiseModel(gain=0.5, offset=0.0, sigma=1.0, floor=0.0)
    model = model_planes(fit, slice(0, len(noisy)))
    assert np.any(law.variance(model) == 0)
    told = law.variance(model) > 0
    bounded = bounded_by_fit(law, noisy, whole, fit)
    off = (noisy - model)[told] / np.sqrt(law.variance(model[told]))
    assert bounded.sigma < law.sigma
    assert math.sqrt(bounded.gain / law.gain) == pytest.approx(robust_sigma(off) / 0.95, rel=0.1)


def test_the_bound_of_a_model_with_more_unknowns_than_voxels_is_ten_times_what_it_leaves_over() -> None:
    """A model that can hold anything shows nothing: no more than nine tenths of the freedom count as its own."""
    shape, rank = (12, 24, 24), (12, 20, 20)
    rng = np.random.default_rng(0)
    y = 0.01 * rng.standard_normal(shape)
    empty = CompletionResult(
        tucker=tucker_tensor(np.zeros(rank), [np.eye(n, r) for n, r in zip(shape, rank, strict=True)], np.float64),
        sparse=SparsePart(np.zeros(0, int), np.zeros(0)),
        status=Status.CONVERGED,
        history=(),
        state=None,
    )
    for share in (0.5, 0.75):  # fewer samples than the 4 960 unknowns, and hardly more
        bounded = bounded_by_fit(NoiseModel.white(1.0), y, rng.random(shape) < share, empty)
        assert bounded.sigma == pytest.approx(0.01 * np.sqrt(10), rel=0.06)  # a median of 3 000: 2 %, three of which


def test_noise_is_not_lowered_by_a_model_that_leaves_it_over() -> None:
    _, noisy = planted(0.5)
    fit = complete_tucker(noisy, None, (3, 3, 3))
    noise = NoiseModel.white(0.8)
    assert bounded_by_fit(noise, noisy, np.ones(noisy.shape, bool), fit) is noise


def test_values_that_the_detector_clipped_do_not_lower_the_noise() -> None:
    rng = np.random.default_rng(1)
    y = np.zeros((16, 32, 32))
    y[:, :8] = 10 + rng.standard_normal((16, 8, 32))
    fit = complete_tucker(y, None, (2, 2, 2), robust=False)
    whole = np.ones(y.shape, bool)
    told = NoiseModel(gain=0.0, offset=1.0, sigma=1.0, low=0.0)
    assert bounded_by_fit(told, y, whole, fit) is told
    assert bounded_by_fit(NoiseModel.white(1.0), y, whole, fit).sigma < 0.5  # three quarters are exactly zero


def test_given_noise_and_rank_are_taken_as_they_are() -> None:
    _, noisy = planted(0.1)
    model = model_of(noisy, np.ones(noisy.shape, bool), Fitting(), noise=0.3, rank=(2, 3, 4))
    assert (model.noise.sigma, model.noise.gain) == (0.3, 0.0)
    assert model.fit.rank == (2, 3, 4)


# ------------------------------------------------------------------------------- a law of noise and the darkest voxels


def test_anchored_draws_the_line_from_the_lowest_intensity_where_many_voxels_are_darker_than_the_law_allows() -> None:
    law = NoiseModel(gain=12.0, offset=-800.0, sigma=30.0, intensity=140.0, floor=20.0)  # no variance below 67
    measured = np.r_[np.zeros(500), np.linspace(70, 250, 500)]
    found = anchored(law, measured)
    assert found.variance(np.array([140.0])) == pytest.approx(30.0**2)
    assert found.variance(np.array([70.0])) == pytest.approx(30.0**2 / 2)  # on the line from 0
    assert found.sigma == law.sigma
    assert "drawn from the lowest intensity" in found.sentence
    few = np.r_[np.zeros(5), np.linspace(70, 250, 995)]  # outliers do not count
    white = NoiseModel.white(3.0)
    assert anchored(law, few) is law
    assert anchored(law, np.linspace(60, 250, 1000)) is law
    assert anchored(white, measured) is white


def test_a_background_of_exact_zeros_stays_at_zero_beside_noisy_light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its noise is known from the bright voxels alone; a law drawn through these moved the zeros to 60."""
    law = NoiseModel(gain=12.0, offset=-800.0, sigma=30.0, intensity=140.0, floor=20.0)
    monkeypatch.setattr("tensorcell.model.estimate_noise", lambda *_, **__: law)
    monkeypatch.setattr("tensorcell.model.bounded_by_fit", lambda noise, *_: noise)
    light = np.zeros((8, 24, 24))
    light[1:7, 6:18, 6:18] = 140 + 60 * np.sin(np.indices((6, 12, 12)).sum(axis=0) / 3)
    noise = np.sqrt(np.maximum(12 * light - 800, 20)) * np.random.default_rng(0).standard_normal(light.shape)
    stack = np.where(light > 0, np.clip(light + noise, 1, 255), 0).astype(np.float32)
    result = tc.recover(stack)
    assert np.abs(result.volume.data[light == 0]).mean() < 2
    monkeypatch.setattr("tensorcell.model.anchored", lambda noise, _: noise)
    moved = tc.recover(stack)  # where the law is believed, the measurement is returned, and the notes say so
    assert np.abs(moved.volume.data[light == 0]).mean() < 2
    assert any("are returned as measured" in note for note in moved.notes)
