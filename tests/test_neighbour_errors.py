"""Errors of the model plus its neighbours: in gaps, and at denoised voxels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from problems import SIGMA, problem_of, waves
from scipy.ndimage import gaussian_filter

from tensorcell.methods.protocol import Problem
from tensorcell.solvers import NoiseModel
from tensorcell.solvers.neighbour_errors import filtered_noise, neighbour_errors
from tensorcell.solvers.residual_kriging import (
    Kernel,
    NeighbourEstimate,
    estimate_with_neighbours,
    shared_residual,
)


def estimated(problem: Problem) -> NeighbourEstimate:
    """The estimate by the problem's model."""
    model = problem.model
    return estimate_with_neighbours(
        problem.stack.values, model.inlier, model.fit, noise=model.noise.sigma, keep=problem.keep
    )


def rough(seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Waves with blurred texture of variance 1 that no model of low rank holds, and the same with noise."""
    truth = waves()[0]
    rng = np.random.default_rng(seed)
    texture = gaussian_filter(rng.standard_normal(truth.shape), 1.0)
    truth = truth + texture / texture.std()
    return truth, truth + noise * rng.standard_normal(truth.shape)


@pytest.mark.parametrize("told", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_denoised_error_is_about_the_true_one_even_where_the_noise_was_estimated_badly(
    noise: float, told: float
) -> None:
    """Noise told 30 % too small or 50 % too large: the intervals of 90 % still hold about 90 % of the voxels."""
    truth, data = rough(0, noise)
    problem = problem_of(data, np.ones(data.shape, bool), keep=False, noise=told * noise)
    found = estimated(problem)
    errors = neighbour_errors(data, problem.model.inlier, problem.model.fit, found, problem.model.noise)
    assert errors is not None
    inside = np.abs(found.value - truth) <= 1.645 * errors.denoised(found.value)
    assert 0.7 < inside.mean() < 0.995
    if told == 1.0:
        assert 0.85 < inside.mean() < 0.97


def test_denoised_error_is_never_nothing_where_no_weight_is_left_to_the_data() -> None:
    truth, data, mask = waves()
    problem = problem_of(data, mask, keep=False, noise=2 * SIGMA)
    found = estimated(problem)
    assert found.own_weight == 0
    errors = neighbour_errors(data, mask, problem.model.fit, found, problem.model.noise)
    assert errors is not None
    error = errors.denoised(found.value)
    rms = math.sqrt(np.mean((found.value - truth) ** 2))
    assert 0.5 * rms < math.sqrt(np.mean(error**2)) < 2 * rms


def test_gap_error_is_that_of_the_estimate_where_nothing_was_measured() -> None:
    truth, data, mask = waves(0.3)
    problem = problem_of(data, mask)
    found = estimated(problem)
    errors = neighbour_errors(data, mask, problem.model.fit, found, problem.model.noise)
    assert errors is not None
    gap = ~problem.model.inlier
    inside = np.abs(found.value - truth)[gap] <= 1.645 * errors.gap(found.value)[gap]
    assert 0.85 < inside.mean() < 0.995


def test_errors_of_few_voxels_are_none() -> None:
    _, data, mask = waves()
    problem = problem_of(data, mask)
    few = np.zeros(mask.shape, bool)
    few.ravel()[:49] = True
    found = estimated(problem)
    assert neighbour_errors(data, few, problem.model.fit, found, NoiseModel.white(SIGMA)) is None


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_filtered_noise_is_what_the_filter_makes_of_it(weight: float) -> None:
    """Against another draw of noise that is filtered in the same way, with a model of no degrees of freedom."""
    known = np.random.default_rng(0).random((16, 48, 48)) < 0.8
    kernel = Kernel(0.7, 1.0, 0.8)
    nothing = np.zeros(known.shape)
    law = filtered_noise(known, NeighbourEstimate(nothing, nothing, kernel, weight), 0.0, np.random.default_rng(1))
    noise = np.where(known, np.random.default_rng(2).standard_normal(known.shape), 0)
    shared = shared_residual(noise, known, kernel, leave_out=True)
    kept = shared + weight * (noise - shared)
    pairs = known[:, :, 1:] & known[:, :, :-1]
    removed = noise - kept
    # Means of 29 000 numbers are known to .8 %, products of neighbours to .6 % of the variance.
    assert law.passed == pytest.approx(np.mean(kept[known] ** 2), rel=0.05)
    assert law.divergence == pytest.approx(np.mean((noise * kept)[known]), abs=0.02)
    assert law.removed == pytest.approx(np.mean(removed[known] ** 2), rel=0.04)
    assert law.shared == pytest.approx(np.mean((removed[:, :, 1:] * removed[:, :, :-1])[pairs]), abs=0.02)
