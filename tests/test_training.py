"""Fitting: the loss has its minimum at the exact answer, also from noisy data; state, resumption, stops."""

from __future__ import annotations

import math
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the diffusion extra: torch")
pytest.importorskip("safetensors", reason="needs the diffusion extra: safetensors")

from scipy.interpolate import CubicHermiteSpline  # noqa: E402
from scipy.ndimage import gaussian_filter  # noqa: E402

from tensorcell.diffusion_guidance import batches, training_loop  # noqa: E402
from tensorcell.diffusion_guidance.batches import denoising_loss, draw_batch, draw_pieces  # noqa: E402
from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig  # noqa: E402
from tensorcell.diffusion_guidance.priors import LateralPrior, VolumePrior  # noqa: E402
from tensorcell.diffusion_guidance.regression import regress_planes, regress_volume  # noqa: E402
from tensorcell.diffusion_guidance.slices import (  # noqa: E402
    condition_of,
    filling_matrix,
    lateral_slices,
    matched_stretch,
    whole_volume,
)
from tensorcell.diffusion_guidance.training import estimate_fit, fit_lateral_prior, fit_volume_prior  # noqa: E402
from tensorcell.diffusion_guidance.training_loop import TrainingState  # noqa: E402

SMALL = SliceNetworkConfig(widths=(8, 8), blocks=1)
SMALL_3D = SliceNetworkConfig(widths=(8, 8), blocks=1, dimensions=3)


def smooth(planes: int = 6, side: int = 40, seed: int = 0) -> np.ndarray:
    volume = gaussian_filter(np.random.default_rng(seed).standard_normal((planes, side, side)), (0, 2, 2))
    return (100 + 50 * volume / volume.std()).astype(np.float32)


def test_filling_is_catmull_rom():
    values = np.random.default_rng(0).standard_normal(8)
    ends = np.concatenate([[2 * values[0] - values[1]], values, [2 * values[-1] - values[-2]]])
    curve = CubicHermiteSpline(np.arange(8), values, (ends[2:] - ends[:-2]) / 2)
    found = filling_matrix(22, 3).double() @ torch.from_numpy(values)
    np.testing.assert_allclose(found, curve(np.arange(22) / 3), atol=1e-6)  # the matrix is float32


@pytest.mark.parametrize(("rows", "factor"), [(1, 4), (4, 4), (5, 4), (11, 3), (6, 1)])
def test_filling_keeps_measured_rows_and_constants(rows, factor):
    matrix = filling_matrix(rows, factor)
    torch.testing.assert_close(matrix[::factor], torch.eye(matrix.shape[1]))
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(rows))


def test_condition_reads_measured_rows_alone():
    slices = torch.randn(2, 1, 9, 5, generator=torch.Generator().manual_seed(0))
    hidden = torch.full_like(slices, torch.nan)
    hidden[:, :, ::4] = slices[:, :, ::4]
    assert torch.equal(condition_of(hidden, 4), condition_of(slices, 4))
    assert torch.equal(condition_of(hidden, 4)[0, 1, :, 0], torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 1]))


def test_regression_of_an_untrained_network_is_the_interpolation():
    planes, prior = smooth(4, 12), LateralPrior(SliceNetwork(SMALL), location=90.0, scale=40.0, axial_factor=3)
    found = regress_planes(prior, planes, slices_at_once=5)
    expected = np.einsum("zk,kyx->zyx", filling_matrix(10, 3).numpy(), planes)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # float32 of numbers up to 200


def test_matched_stretch_of_an_isotropic_volume_is_one():
    volume = gaussian_filter(np.random.default_rng(0).standard_normal((65, 64, 64)), 3)
    assert matched_stretch(volume[::4], 4) == pytest.approx(1, abs=0.15)  # few independent blobs
    noisy = volume + 0.5 * volume.std() * np.random.default_rng(1).standard_normal(volume.shape)
    assert matched_stretch(noisy[::4], 4, noise=0.5 * volume.std()) == pytest.approx(1, abs=0.15)
    assert matched_stretch(volume[:1], 4) == 1


class Exact(torch.nn.Module):
    """Posterior mean of white data of unit variance, its parts multiplied by `weights`: 1 is exact."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise
        self.config = SimpleNamespace(condition_error=1.0)

    def forward(self, x, level, condition):
        known = torch.nan_to_num(condition[:, 1:])  # measured rows are x0 plus noise of variance 2 noise^2
        told = known / (2 * self.noise**2)
        level = level.reshape(-1, *(1,) * (x.ndim - 1))
        total = 1 + told + 1 / level**2
        seen = torch.nan_to_num(condition[:, :1]) * told
        first, second, third = self.weights
        return x / level**2 / total * (first * known + second * (1 - known)) + third * seen / total


@pytest.mark.parametrize("dimensions", [2, 3])
def test_loss_from_noisy_data_has_its_minimum_at_the_clean_denoiser(dimensions):
    """Newton's step from anywhere ends at weights (1, 1, 1); at the denoiser of the noisy data it would not."""
    noise, generator = 0.5, torch.Generator().manual_seed(0)
    shape = {2: (16, 128, 128), 3: (64, 64, 64)}[dimensions]
    noisy = torch.randn(shape, generator=generator) * math.sqrt(1 + noise**2)  # x0 + noise, both white
    network = Exact(noise)

    def drawn():
        generator = torch.Generator().manual_seed(1)
        if dimensions == 3:
            return draw_pieces(noisy, generator, factor=4, noise=noise, batch=50)
        return draw_batch(noisy, generator, factor=4, noise=noise, stretch=1, batch=400)

    def solve(change):
        batch = change(drawn())

        def loss(weights):
            network.weights = weights
            return denoising_loss(network, batch)

        start = torch.zeros(3)
        gradient = torch.autograd.functional.jacobian(loss, start)
        return -torch.linalg.solve(torch.autograd.functional.hessian(loss, start), gradient)

    # 1.6e6 pixels: an error of some .005 in each weight
    torch.testing.assert_close(solve(lambda batch: batch), torch.ones(3), rtol=0, atol=0.03)
    naive = solve(lambda batch: batch._replace(gain=torch.ones_like(batch.gain)))
    assert float((naive - 1).abs().max()) > 0.1


def test_white_volumes_stay_at_the_exact_denoiser(monkeypatch):
    """F = 0 is exact for white data, with a loss of 1 by construction; fitting does not leave it."""
    monkeypatch.setattr(batches, "PIECE_SIDE", 16)
    white = np.random.default_rng(0).standard_normal((32, 32, 48)).astype(np.float32)
    prior = fit_volume_prior(20 + 3 * white, steps=30, config=SMALL_3D)
    # 2 x 8 pieces of 16 x 16 x 8 voxels held out: the mean of 3e4 squares is known to 0.8 %; four times that
    assert prior.report["heldout"] == pytest.approx(1, abs=0.035)
    x = torch.from_numpy(white[None, None, :16, :16, :16]) * math.sqrt(2)
    assert float((prior.denoise(x, 1.0) - x / 2).square().mean()) < 0.02  # of .5, the variance of the answer
    assert (prior.location, prior.scale) == pytest.approx((20, 3), abs=0.05)
    assert prior.report["held_out_voxels"] == 32 * 32 * 8


def test_volume_prior_reaches_kriging_of_an_autoregression(monkeypatch):
    """Along z x[k + 1] = r x[k] + noise: between two neighbours the least error is (1 - r^2) / (1 + r^2)."""
    monkeypatch.setattr(batches, "PIECE_SIDE", 16)
    monkeypatch.setattr(training_loop, "LEARNING_RATE", 4e-3)
    r = 0.5

    def autoregression(seed: int) -> np.ndarray:
        values = np.random.default_rng(seed).standard_normal((65, 32, 40))
        for k in range(1, 65):
            values[k] = r * values[k - 1] + math.sqrt(1 - r**2) * values[k]
        return values.astype(np.float32)

    config = SliceNetworkConfig(widths=(8,), blocks=1, dimensions=3)
    first, other = autoregression(0), autoregression(1)
    prior = fit_volume_prior([first, 40 + 100 * first], axial_factor=2, steps=160, config=config)
    found = regress_volume(prior.adapted(other[::2]), other[::2])
    # 4e4 missing voxels tell the error to 0.7 %; the interpolation, where the fit starts, is 8 % above the exact one
    exact, error = (1 - r**2) / (1 + r**2), np.square(found - other)[1::2].mean()
    assert exact * 0.985 < error < exact * 1.02


def test_regression_of_a_volume_is_the_same_in_tiles():
    network = SliceNetwork(SliceNetworkConfig(widths=(8,), blocks=1, dimensions=3), seed=1)
    torch.nn.init.constant_(network.leave.weight, 0.3)  # blocks add nothing yet: each voxel looks two voxels far
    prior = VolumePrior(network, location=90.0, scale=40.0, axial_factor=3)
    planes = smooth(16, 40)[:, :20]
    whole, tiles = (regress_volume(prior, planes, tile=tile) for tile in (64, 32))
    assert whole.shape == (46, 20, 40)
    np.testing.assert_allclose(tiles, whole, rtol=0, atol=1e-3)  # float32 of numbers up to 200
    network.leave.weight.data.zero_()
    filled = np.einsum("zk,kyx->zyx", filling_matrix(46, 3).numpy(), planes)
    np.testing.assert_allclose(regress_volume(prior, planes), filled, rtol=0, atol=1e-3)
    assert np.abs(whole - filled).max() > 1


def test_pieces_hold_their_own_truth():
    volume = torch.randn(18, 20, 40, generator=torch.Generator().manual_seed(0))
    batch = draw_pieces(volume, torch.Generator().manual_seed(0), factor=4, noise=0.0, batch=12)
    assert batch.x.shape[:3] == (12, 1, 17)
    assert sorted(batch.x.shape[3:]) == [20, 32]
    told = ~batch.condition[:, 0].flatten(1).isnan().all(dim=1)
    assert torch.equal(batch.condition[told][:, :1, ::4], batch.target[told][:, :, ::4])
    assert bool((batch.condition[told][:, 1, ::4] == 1).all())
    assert batch.level[told].isinf().any()


def test_volume_fit_resumed_equals_straight(monkeypatch, tmp_path):
    monkeypatch.setattr(batches, "PIECE_SIDE", 16)
    data = [smooth(16, 24), 3 * smooth(12, 30, seed=1)]
    options = {"axial_factor": 3, "steps": 6, "config": SMALL_3D, "seed": 3, "noise": [2.0, 0.0]}
    straight = fit_volume_prior(data, **options)
    half = fit_volume_prior(data, **options, keep=tmp_path, progress=lambda step, *_: step == 2)
    assert half.report["steps"] == 2
    resumed = fit_volume_prior(data, **options, initial=tmp_path)
    pairs = zip(straight.network.parameters(), resumed.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    again = fit_volume_prior(data, axial_factor=3, steps=1, initial=resumed)
    assert again.network.config == resumed.network.config


def test_several_volumes_stand_in_their_own_units():
    one, other = smooth(5, 24), 7 * smooth(4, 30, seed=1) + 50
    prior = fit_lateral_prior([one, other], steps=2, config=SMALL)
    pooled = np.concatenate([one.ravel(), other.ravel()]).astype(np.float64)
    assert (prior.location, prior.scale) == pytest.approx((pooled.mean(), pooled.std()), rel=1e-6)
    assert prior.report["held_out_slices"] == 2
    # in other units the same fit; powers of two leave no rounding
    same = fit_lateral_prior([4 * one, other], steps=2, config=SMALL)
    pairs = zip(prior.network.parameters(), same.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_list_of_one_volume_is_that_volume():
    one, listed = (fit_lateral_prior(v, axial_factor=2, steps=3, config=SMALL) for v in (smooth(), [smooth()]))
    assert all(torch.equal(a, b) for a, b in zip(one.network.parameters(), listed.network.parameters(), strict=True))
    assert (one.location, one.scale) == (listed.location, listed.scale)


def test_noise_of_several_volumes():
    prior = fit_lateral_prior([smooth(), smooth(5, 30)], noise=[0.0, 10.0], steps=1, config=SMALL)
    expected = 1.1 * math.sqrt(2) * 10 / math.sqrt(smooth(5, 30).var(dtype=np.float64) - 100)
    assert prior.lowest_level == pytest.approx(expected)


def test_a_gradient_that_is_not_finite_changes_nothing(monkeypatch):
    state = TrainingState.begin(SMALL, seed=0)
    before = [weights.clone() for weights in state.network.parameters()]
    real = training_loop.denoising_loss
    monkeypatch.setattr(
        training_loop, "denoising_loss", lambda network, batch: real(network, batch) + network.leave.bias.norm().sqrt()
    )
    batch = draw_batch(torch.randn(3, 30, 44), torch.Generator().manual_seed(0), factor=4, noise=0.0, stretch=1.0)
    assert math.isnan(state.advance(batch, 1e-3))  # the root has no slope at zero, where the bias starts
    assert state.step == 0
    assert all(torch.equal(a, b) for a, b in zip(before, state.network.parameters(), strict=True))


def test_clean_batches_hold_their_own_truth():
    batch = draw_batch(torch.randn(3, 30, 44), torch.Generator().manual_seed(0), factor=4, noise=0.0, stretch=1.5)
    assert bool((batch.gain == 1).all())
    told = ~batch.condition[:, 0].flatten(1).isnan().all(dim=1)
    assert torch.equal(batch.condition[told][:, :1, ::4], batch.target[told][:, :, ::4])
    assert batch.level[told].isinf().any()
    assert batch.x.isfinite().all()


def test_fit_learns_and_stays_in_units(monkeypatch):
    monkeypatch.setattr(batches, "SIDE", 24)
    monkeypatch.setattr(training_loop, "LEARNING_RATE", 4e-3)
    prior = fit_lateral_prior(smooth(), axial_factor=2, steps=60, config=SMALL, seed=0)
    # F = 0, the answer for white data, has a loss of about 1 by construction; these data are smooth.
    assert prior.report["heldout"] < 0.8
    assert prior.report["ended"] == "all steps done"
    assert prior.location == pytest.approx(smooth().mean(), rel=1e-5)
    assert prior.scale == pytest.approx(smooth().std(), rel=1e-5)


def test_fit_is_the_same_for_planes_and_for_planes_on_the_grid():
    planes = smooth(5, 24)
    grid = np.full((9, 24, 24), np.nan, np.float32)
    grid[::2] = planes
    one, two = (fit_lateral_prior(v, axial_factor=2, steps=3, config=SMALL) for v in (planes, grid))
    assert all(torch.equal(a, b) for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True))


def test_resumed_equals_straight(tmp_path):
    options = {"axial_factor": 2, "steps": 30, "config": SMALL, "seed": 3}
    straight = fit_lateral_prior(smooth(5, 24), **options)
    half = fit_lateral_prior(smooth(5, 24), **options, keep=tmp_path, progress=lambda step, *_: step == 11)
    assert half.report["ended"] == "stopped by the caller"
    assert half.report["steps"] == 11
    resumed = fit_lateral_prior(smooth(5, 24), **options, initial=tmp_path)
    assert resumed.report["heldout"] == straight.report["heldout"]
    pairs = zip(straight.network.parameters(), resumed.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_state_survives_an_interruption(tmp_path):
    def interrupt(step, *_):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_lateral_prior(smooth(5, 24), steps=30, config=SMALL, keep=tmp_path, progress=interrupt)
    assert TrainingState.load(tmp_path).step == 4


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself SIGINT")
def test_an_interrupt_in_the_middle_of_a_step_waits_for_its_end(tmp_path, monkeypatch):
    real, told, signals = training_loop.denoising_loss, [], [3]

    def interrupted(network, batch):
        if torch.is_grad_enabled() and len(told) in signals:
            signals.clear()
            os.kill(os.getpid(), signal.SIGINT)
        return real(network, batch)

    options = {"steps": 8, "config": SMALL, "keep": tmp_path, "progress": lambda step, *_: told.append(step)}
    straight = fit_lateral_prior(smooth(5, 24), steps=8, config=SMALL)
    monkeypatch.setattr(training_loop, "denoising_loss", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            fit_lateral_prior(smooth(5, 24), **options)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == [1, 2, 3, 4]
    assert TrainingState.load(tmp_path).step == 4
    resumed = fit_lateral_prior(smooth(5, 24), **options, initial=tmp_path)
    assert told == list(range(1, 9))
    pairs = zip(straight.network.parameters(), resumed.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_step_is_told_before_it_is_kept(tmp_path, monkeypatch):
    """A process that is killed between the two writes a row too many, which is dropped, and none too few."""
    kept, told = [], []
    monkeypatch.setattr(training_loop, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(TrainingState, "save", lambda state, _: kept.append((state.step, told[-1])))
    fit_lateral_prior(smooth(5, 24), steps=3, config=SMALL, keep=tmp_path, progress=lambda step, *_: told.append(step))
    assert kept == [(1, 1), (2, 2), (3, 3), (3, 3)]


def test_fit_goes_on_from_a_prior():
    first = fit_lateral_prior(smooth(5, 24), axial_factor=2, steps=2, config=SMALL)
    second = fit_lateral_prior(smooth(5, 24), axial_factor=2, steps=1, initial=first)
    assert second.network.config == first.network.config


@pytest.mark.parametrize("good_steps", [0, 30])
def test_a_loss_that_is_not_finite(monkeypatch, good_steps):
    real, steps = training_loop.denoising_loss, []

    def broken(network, batch):
        loss = real(network, batch)
        if not torch.is_grad_enabled():  # a look at held-out slices
            return loss
        steps.append(1)
        return loss * torch.nan if len(steps) > good_steps else loss

    monkeypatch.setattr(training_loop, "denoising_loss", broken)
    options = {"steps": 60, "config": SMALL}
    if good_steps == 0:
        with pytest.raises(ValueError, match="loss must be finite, got nan at step 1"):
            fit_lateral_prior(smooth(5, 24), **options)
        return
    prior = fit_lateral_prior(smooth(5, 24), **options)
    assert prior.report["ended"] == "the loss was not finite at step 31: last good state kept"
    assert all(weights.isfinite().all() for weights in prior.network.parameters())


def test_noisy_fit_starts_above_the_noise():
    prior = fit_lateral_prior(smooth() + 5, axial_factor=4, noise=10.0, steps=2, config=SMALL)
    assert prior.lowest_level == pytest.approx(1.1 * math.sqrt(2) * 10.0 / prior.scale)


def test_estimate_is_positive_and_grows_with_the_steps():
    estimate = estimate_fit(smooth(5, 24), steps=1000, config=SMALL)
    assert estimate.seconds > 0
    assert estimate.bytes > 0
    assert estimate_fit([smooth(9, 24)] * 2, config=SMALL_3D, axial_factor=2).bytes > 0


def test_time_is_up():
    assert fit_lateral_prior(smooth(5, 24), seconds=1e-9, config=SMALL).report["ended"] == "time is up"


@pytest.mark.parametrize(
    ("volume", "options", "message"),
    [
        (np.zeros((4, 4)), {}, r"three axes \(z, y, x\), got shape \(4, 4\)"),
        (np.full((2, 9, 9), np.nan), {}, "at least one plane measured throughout, got none"),
        (np.full((2, 9, 9), np.inf), {}, "finite where it was measured, got infinity"),
        (np.ones((2, 5, 9)), {}, "at least 8 x 8, got 5 x 9"),
        (np.ones((2, 9, 9)), {}, "contrast beyond its noise, got none"),
        (smooth(2, 9), {"axial_factor": 0}, "axial_factor must be a whole number of at least 1, got 0"),
        (smooth(2, 9), {"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        (smooth(2, 9), {"noise": -1.0}, "noise must be finite and not negative, got -1"),
        (smooth(2, 9), {"seconds": 0.0}, "stretch and seconds must be positive"),
    ],
)
def test_bad_input(volume, options, message):
    with pytest.raises(ValueError, match=message):
        fit_lateral_prior(volume, **options)


@pytest.mark.parametrize(
    ("volumes", "options", "message"),
    [
        (np.zeros((4, 4)), {}, r"three axes \(z, y, x\), got shape \(4, 4\)"),
        ([smooth(8, 9), np.full((8, 9, 9), np.nan)], {}, "measured throughout and finite, got NaN or infinity"),
        (smooth(7, 9), {}, "at least 8 x 8 x 8, got 7 x 9 x 9"),
        (smooth(9, 9), {"axial_factor": 9}, "at least 10 x 8 x 8, got 9 x 9 x 9"),
        (np.ones((9, 9, 9)), {}, "contrast beyond its noise, got none"),
        (smooth(9, 9), {"axial_factor": 0}, "axial_factor must be a whole number of at least 1, got 0"),
        (smooth(9, 9), {"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        (smooth(9, 9), {"seconds": 0.0}, "stretch and seconds must be positive"),
        (smooth(9, 9), {"noise": [1.0, 2.0]}, "noise must be one number or one a volume, 1, got 2"),
        (smooth(9, 9), {"noise": math.nan}, "noise must be finite and not negative, got nan"),
        (
            smooth(9, 9),
            {"initial": LateralPrior(SliceNetwork(SMALL))},
            "initial must be a prior for 3 axes, got one for 2",
        ),
    ],
)
def test_bad_volumes(volumes, options, message):
    with pytest.raises(ValueError, match=message):
        fit_volume_prior(volumes, **options)


def test_whole_volume_is_single_precision():
    assert np.array_equal(whole_volume(smooth(8, 9).astype(np.float64)), smooth(8, 9))


def test_slices_skip_planes_with_gaps():
    volume = smooth(3, 9)
    volume[1, 0, 0] = np.nan
    assert np.array_equal(lateral_slices(volume), volume[[0, 2]])
