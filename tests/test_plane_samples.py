"""Samples between planes: their law where it is known, what guides them, and intervals that hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'diffusion'")

import torch

from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig
from tensorcell.diffusion_guidance.plane_samples import (
    calibrated,
    falling_levels,
    sample_planes,
    smoothed,
    volume_denoiser,
)
from tensorcell.diffusion_guidance.planes import LeftOut, PriorFill, Share, fill_with_prior, middle_rows, regressed
from tensorcell.diffusion_guidance.priors import LateralPrior, VolumePrior, load_prior
from tensorcell.diffusion_guidance.regression import regress_planes
from tensorcell.diffusion_guidance.slices import condition_of

TINY = SliceNetworkConfig(widths=(8,), blocks=1, condition_error=0.5)
UNTRAINED = LateralPrior(SliceNetwork(TINY), axial_factor=2, location=10.0, scale=4.0)
"""Its answer is exact for data that deviate from the interpolation by white noise of deviation .5 (prior units)."""

PLANES = (10 + 4 * np.random.default_rng(0).standard_normal((4, 12, 14))).astype(np.float32)


def test_samples_have_the_law_of_the_conditional_prior() -> None:
    drawn = sample_planes(PLANES, UNTRAINED, samples=64, steps=60, guidance=())
    # Mean: the interpolation, exactly, by antithetic pairs (float32). Spread: 0.5 in prior units, 2 in the data's;
    # the ODE from level 3 keeps sqrt(1 + tau^2 / 3^2) of it and Euler's steps lose some.
    np.testing.assert_allclose(drawn.mean, regress_planes(UNTRAINED, PLANES), atol=1e-4)
    assert drawn.count == 64
    assert float(np.sqrt(np.square(drawn.std).mean())) == pytest.approx(2.0, rel=0.06)


def test_measured_planes_are_in_every_sample() -> None:
    drawn = sample_planes(PLANES, UNTRAINED, samples=3, steps=4, keep=True)
    assert drawn.samples.shape == (3, 7, 12, 14)
    np.testing.assert_array_equal(drawn.samples[:, ::2], np.broadcast_to(PLANES, (3, *PLANES.shape)))
    assert float(drawn.std[::2].max()) < 1e-3
    assert float(drawn.std[1::2].min()) > 0


def test_streamed_moments_are_those_of_the_samples() -> None:
    drawn = sample_planes(PLANES, UNTRAINED, samples=8, steps=5, keep=True)
    np.testing.assert_allclose(drawn.mean, drawn.samples.mean(axis=0), atol=1e-4)
    pairs = drawn.samples.reshape(4, 2, *drawn.samples.shape[1:])
    within = np.square((pairs[:, 0] - pairs[:, 1]) / 2).mean(axis=0)
    expected = np.sqrt(within + pairs.mean(axis=1).var(axis=0, ddof=1))
    np.testing.assert_allclose(drawn.std, expected, atol=1e-3)  # float32 of numbers about 10


def test_samples_are_reproducible_and_seeds_differ() -> None:
    one, again, other = (sample_planes(PLANES, UNTRAINED, samples=2, steps=3, seed=seed).std for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_small_batches_change_nothing() -> None:
    one, other = (sample_planes(PLANES, UNTRAINED, samples=2, steps=3, slices_at_once=n).std for n in (1, 100))
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("guidance", ["tucker", "smooth", "lateral"])
def test_guidance_changes_the_samples_and_keeps_the_planes(guidance: str) -> None:
    plain = sample_planes(PLANES, UNTRAINED, samples=2, steps=6, keep=True)
    guided = sample_planes(PLANES, UNTRAINED, samples=2, steps=6, keep=True, guidance=("data", guidance))
    assert not np.allclose(plain.samples, guided.samples, atol=1e-3)
    np.testing.assert_array_equal(guided.samples[0, ::2], PLANES)
    if guidance == "smooth":
        rough = [np.square(np.diff(drawn.samples, n=2, axis=1)).mean() for drawn in (plain, guided)]
        assert rough[1] < rough[0]


def test_orientations_take_turns_without_a_memory() -> None:
    levels = falling_levels(4)
    assert levels[0] == pytest.approx(3.0)
    assert levels[-1] == 0
    trained = LateralPrior(SliceNetwork(TINY), axial_factor=2)
    with torch.no_grad():
        for weights in trained.network.parameters():
            weights.normal_(generator=torch.Generator().manual_seed(0), std=0.3)
    denoise = volume_denoiser(PLANES, trained, levels, (), 4)
    x = torch.randn(1, 1, 7, 12, 14, generator=torch.Generator().manual_seed(1))
    grid = torch.zeros(7, 12, 14)
    grid[::2] = torch.from_numpy(PLANES)
    with torch.no_grad():
        for level, axis in ((levels[0], 1), (levels[1], 2), (levels[0], 1)):
            slices = x[0, 0].movedim(axis, 0)[:, None]
            told = condition_of(grid.movedim(axis, 0)[:, None], 2)
            expected = trained.denoise(slices, level, told)[:, 0].movedim(0, axis)
            torch.testing.assert_close(denoise(x, level)[0, 0], expected)


def test_a_callback_stops_and_unfinished_samples_are_left_out() -> None:
    seen = []

    def stop(step: int, steps: int) -> bool:
        seen.append((step, steps))
        return step == 5

    drawn = sample_planes(PLANES, UNTRAINED, samples=6, steps=3, callback=stop)
    assert seen == [(1, 9), (2, 9), (3, 9), (4, 9), (5, 9)]
    assert drawn.count == 2
    nothing = sample_planes(PLANES, UNTRAINED, samples=2, steps=3, callback=lambda *_: True)
    assert nothing.count == 0
    assert nothing.std is None


def test_one_sample_has_no_spread() -> None:
    assert sample_planes(PLANES, UNTRAINED, samples=1, steps=2).std is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "at least 1 sample and 1 step, got 0 and 20"),
        ({"steps": 0}, "at least 1 sample and 1 step, got 8 and 0"),
        ({"guidance": ("magic",)}, "guidance among data, tucker, smooth, lateral, got 'magic'"),
    ],
)
def test_bad_input(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_planes(PLANES, UNTRAINED, **options)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_intervals_hold_where_errors_have_the_shape_of_the_spread(noise: float) -> None:
    """Errors of known local size, stated wrongly by a factor of three: left-out planes put that right."""
    rng = np.random.default_rng(0)

    def size(planes: int) -> np.ndarray:
        return np.broadcast_to(0.5 + np.arange(60.0, dtype=np.float32) / 20, (planes, 60, 60)).astype(np.float32)

    kept, truth = np.zeros((6, 60, 60), np.float32), rng.standard_normal((5, 60, 60)).astype(np.float32)
    truth = truth * size(5) + noise * rng.standard_normal(truth.shape).astype(np.float32)
    turn = LeftOut(kept, truth, np.zeros((11, 60, 60), np.float32), size(11) / 3, np.zeros((11, 60, 60), np.float32))
    fill = PriorFill(np.zeros((21, 60, 60), np.float32), size(21) / 3, 1.0, Share(), Share(), (turn,), "")
    u = calibrated(fill, size(21), size(11), factor=2, noise=noise)
    errors = np.abs(rng.standard_normal(u.shape) * size(21))
    for columns in (slice(0, 15), slice(15, 45), slice(45, 60)):  # small errors, middling ones, large ones
        covered = (errors <= 1.645 * u)[..., columns].mean()
        assert covered == pytest.approx(0.9, abs=0.025)  # 4500 left-out voxels in the smaller parts: .0045, and noise


def test_a_spread_of_nothing_is_no_proof() -> None:
    spread = np.ones((3, 20, 20), np.float32)
    spread[:, :10] = 0
    assert float(smoothed(spread).min()) > 0.05
    assert middle_rows(smoothed(spread), 2).shape == (1, 20, 20)


def test_a_prior_of_volumes_fills_and_samples(tmp_path: Path) -> None:
    network = SliceNetwork(SliceNetworkConfig(widths=(8,), blocks=1, dimensions=3, condition_error=0.5))
    VolumePrior(network, axial_factor=2, location=10.0, scale=4.0).save(tmp_path)
    prior = load_prior(tmp_path)
    assert type(prior) is VolumePrior
    drawn = sample_planes(PLANES, prior, samples=4, steps=6, guidance=("data", "tucker"), keep=True)
    np.testing.assert_array_equal(drawn.samples[0, ::2], PLANES)
    # Untrained, both kinds answer with the interpolation.
    np.testing.assert_allclose(regressed(prior, PLANES), regressed(UNTRAINED, PLANES), atol=1e-4)
    stack = np.random.default_rng(1).random((9, 16, 16), np.float32)
    assert fill_with_prior(stack, prior).volume.shape == (17, 16, 16)
