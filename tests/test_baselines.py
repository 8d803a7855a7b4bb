"""The restoration networks that MicroDiffuse3D is compared with: each against brute force and its own invariances."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.ndimage

torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")

from tensorcell.diffusion_guidance.baselines import (  # noqa: E402
    BASELINES,
    along_z,
    make_baseline,
    noise_loss,
    sampled,
)
from tensorcell.diffusion_guidance.baselines.dbpn import DBPN, Projection  # noqa: E402
from tensorcell.diffusion_guidance.baselines.ddpm import ConditionalDDPM  # noqa: E402
from tensorcell.diffusion_guidance.baselines.rln import RLN, richardson_lucy  # noqa: E402
from tensorcell.diffusion_guidance.baselines.swinir import (  # noqa: E402
    HEAD_WIDTH,
    SIDE,
    WindowAttention,
    joined,
    neighbours,
    relative_places,
    windows,
)
from tensorcell.diffusion_guidance.baselines.volumes import ResidualRestoration  # noqa: E402
from tensorcell.diffusion_guidance.networks import padded  # noqa: E402
from tensorcell.diffusion_guidance.paths import variance_preserving  # noqa: E402

REGRESSIONS = [name for name in BASELINES if name != "ddpm"]
SLICEWISE = ("srcnn", "swinir", "dbpn")


def drawn(*shape: int, seed: int = 0) -> Any:
    """A tensor of standard normal numbers."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def volume_of(*shape: int, seed: int = 0) -> Any:
    """Intensities between 0 and 1."""
    return torch.from_numpy(np.random.default_rng(seed).random(shape).astype(np.float32))


def awake(module: Any, seed: int = 0) -> Any:
    """The module with weights that are nowhere 0, as after training."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=rng))
    return module.eval()


# ----------------------------------------------------------------------------------------------------- interpolation


@pytest.mark.parametrize(("factor", "depth"), [(1, 3), (2, 1), (3, 4), (4, 5)])
def test_along_z_follows_its_formula(factor: int, depth: int) -> None:
    volume = drawn(2, 1, depth, 3, 2)
    found = along_z(volume, factor).numpy()
    assert found.shape == (2, 1, factor * depth, 3, 2)
    planes = volume.numpy().astype(float)
    for k in range(factor * depth):
        i, share = k // factor, k % factor / factor
        expected = (1 - share) * planes[:, :, i] + share * planes[:, :, min(i + 1, depth - 1)]
        np.testing.assert_allclose(found[:, :, k], expected, atol=1e-6)  # float32


def test_padded_repeats_the_far_ends() -> None:
    volume = drawn(1, 2, 3, 5, 4)
    expected = np.pad(volume.numpy(), [(0, 0), (0, 0), (0, 1), (0, 3), (0, 0)], mode="edge")
    np.testing.assert_array_equal(padded(volume, (2, 8, 4)).numpy(), expected)
    assert padded(volume, (3, 5, 2)) is volume


@pytest.mark.parametrize("name", REGRESSIONS)
@pytest.mark.parametrize(("factor", "lateral", "shape"), [(1, 1, (1, 13, 10)), (4, 3, (1, 9, 7)), (4, 2, (2, 8, 17))])
def test_untrained_networks_interpolate_and_trained_ones_change_that(
    name: str, factor: int, lateral: int, shape: tuple[int, int, int]
) -> None:
    network, volume = make_baseline(name, axial_factor=factor, lateral_factor=lateral), volume_of(2, 1, *shape)
    with torch.inference_mode():
        assert torch.equal(network(volume), along_z(volume, factor))
        change = awake(network)(volume) - along_z(volume, factor)
    assert change.isfinite().all()
    assert change.std() > 1e-3  # of intensities up to 1


@pytest.mark.parametrize("name", REGRESSIONS)
def test_networks_see_padded_volumes_and_their_results_are_cropped(name: str) -> None:
    network, volume = awake(make_baseline(name, axial_factor=1)), volume_of(1, 1, 3, 13, 10)
    missing = [-size % multiple for size, multiple in zip((3, 13, 10), network.multiples, strict=True)]
    whole = np.pad(volume.numpy(), [(0, 0), (0, 0), *((0, each) for each in missing)], mode="edge")
    with torch.inference_mode():
        expected = network(torch.from_numpy(whole))[:, :, :3, :13, :10]
        torch.testing.assert_close(network(volume), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", REGRESSIONS)
def test_only_networks_of_volumes_see_neighbouring_planes(name: str) -> None:
    network, volume = awake(make_baseline(name, axial_factor=1)), volume_of(1, 1, 4, 8, 8)
    other = volume.clone()
    other[:, :, 2] += 1
    with torch.inference_mode():
        changed = (network(other) - network(volume)).abs().amax(dim=(0, 1, 3, 4)) > 1e-6
    assert changed[2]
    assert bool(changed[1]) == (name not in SLICEWISE)


def test_the_order_of_memory_changes_no_value() -> None:
    plain = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.Conv3d(4, 1, 3, padding=1))
    volume = volume_of(1, 1, 4, 6, 6)
    with torch.inference_mode():
        expected = volume + plain(volume)
        network = ResidualRestoration(plain, axial_factor=1)
        torch.testing.assert_close(network(volume), expected, rtol=1e-5, atol=1e-6)
    assert plain[1].weight.is_contiguous(memory_format=torch.channels_last_3d)


# ------------------------------------------------------------------------------------------------------------ SwinIR


def test_windows_are_squares_of_the_plane_and_join_to_it() -> None:
    x = drawn(2, 8, 12, 3)
    parts = windows(x, 4)
    assert parts.shape == (2, 6, 16, 3)
    assert torch.equal(parts[1, 4].reshape(4, 4, 3), x[1, 4:8, 4:8])  # rows of windows are numbered first
    assert torch.equal(joined(parts, 4, 8, 12), x)


def test_relative_places_number_each_displacement_once() -> None:
    places = relative_places(3).numpy()
    numbers: dict[tuple[int, int], int] = {}
    for (one, (y, x)), (two, (v, u)) in product(enumerate(np.ndindex(3, 3)), repeat=2):
        assert numbers.setdefault((y - v, x - u), places[one, two]) == places[one, two]
    assert sorted(numbers.values()) == list(range(25))


def test_neighbours_were_in_one_window_before_the_plane_was_rolled() -> None:
    height, width, side, shift = 8, 12, 4, 3
    rows, columns = np.mgrid[:height, :width]
    group = np.stack([(rows - shift) // side, (columns - shift) // side], axis=-1)
    rolled = windows(torch.from_numpy(np.roll(group, (-shift, -shift), (0, 1)))[None], side)[0].numpy()
    expected = (rolled[:, :, None] == rolled[:, None]).all(axis=-1)
    np.testing.assert_array_equal(neighbours(height, width, side, shift).numpy(), expected)
    assert not expected.all()


@pytest.mark.parametrize("shift", [0, 2])
def test_window_attention_is_attention_among_the_pixels_of_a_window(shift: int) -> None:
    side, width = 4, 2 * HEAD_WIDTH
    attention = awake(WindowAttention(width, side, shift))
    x = drawn(1, 8, 8, width)
    tokens = x.numpy().reshape(64, width).astype(float)
    inner, out = ((each.weight.detach().numpy().astype(float), each.bias.detach().numpy()) for each in
                  (attention.inner, attention.out))  # fmt: skip
    queries, keys, values = np.split(tokens @ inner[0].T + inner[1], 3, axis=1)
    rows, columns = (each.ravel() for each in np.mgrid[:8, :8])
    group = 10 * ((rows - shift) // side) + (columns - shift) // side
    place = (rows[:, None] - rows + side - 1) * (2 * side - 1) + columns[:, None] - columns + side - 1
    together = group[:, None] == group
    table, heads = attention.bias.detach().numpy(), []
    for head in range(attention.heads):
        part = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
        scores = queries[:, part] @ keys[:, part].T / math.sqrt(HEAD_WIDTH)
        scores = np.where(together, scores + table[np.where(together, place, 0), head], -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(weights / weights.sum(axis=1, keepdims=True) @ values[:, part])
    expected = np.concatenate(heads, axis=1) @ out[0].T + out[1]
    with torch.inference_mode():
        # float32 against float64
        np.testing.assert_allclose(attention(x).numpy().reshape(64, width), expected, atol=1e-5)


@pytest.mark.parametrize("shift", [0, SIDE // 2])
def test_a_pixel_outside_the_window_has_no_influence(shift: int) -> None:
    attention, x = awake(WindowAttention(HEAD_WIDTH, SIDE, shift)), drawn(1, 16, 16, HEAD_WIDTH)
    other = x.clone()
    other[0, 0, 0] += 1
    with torch.inference_mode():
        changed = (attention(other) - attention(x)).abs().amax(dim=-1)[0] > 0
    expected = torch.zeros(16, 16, dtype=torch.bool)
    reach = shift or SIDE  # the first shifted window is a corner of a window
    expected[:reach, :reach] = True
    assert torch.equal(changed, expected)


# --------------------------------------------------------------------------------------------------------------- RLN


def test_a_step_with_the_psf_is_one_of_richardson_and_lucy_and_raises_the_likelihood() -> None:
    rng = np.random.default_rng(0)
    psf = rng.random((3, 3, 3))  # without symmetry, so that its mirror image matters
    psf /= psf.sum()
    truth = rng.random((8, 8, 8)) ** 4 + 0.05
    measured = rng.poisson(100 * scipy.ndimage.convolve(truth, psf, mode="wrap")) / 100

    def projector(kernel: np.ndarray) -> Any:
        layer = torch.nn.Conv3d(1, 1, 3, padding=1, bias=False, padding_mode="circular").double()
        layer.weight.data[0, 0] = torch.from_numpy(kernel[::-1, ::-1, ::-1].copy())  # torch correlates
        return layer

    forward, back = projector(psf), projector(psf[::-1, ::-1, ::-1])
    estimate, likelihoods = np.full_like(measured, 0.3), []
    for _ in range(4):
        predicted = scipy.ndimage.convolve(estimate, psf, mode="wrap")
        likelihoods.append((measured * np.log(predicted) - predicted).sum())
        expected = estimate * scipy.ndimage.correlate(measured / (predicted + 1e-3), psf, mode="wrap")
        with torch.inference_mode():
            tensors = (torch.from_numpy(each)[None, None] for each in (measured, estimate))
            estimate = richardson_lucy(*tensors, forward, back)[0, 0].numpy()
        np.testing.assert_allclose(estimate, expected, rtol=1e-10)
    assert (np.diff(likelihoods) > 0).all()


def test_estimates_of_the_richardson_lucy_network_are_not_negative() -> None:
    network, volume = awake(RLN(4)), drawn(1, 1, 4, 8, 8)
    with torch.inference_mode():
        first, second = network.estimates(volume)
    assert first.shape == second.shape == (1, 4, 4, 8, 8)
    assert (first > 0).all()
    assert (second >= 0).all()


def test_the_second_estimate_starts_from_the_first_and_is_divided_by_what_it_predicts() -> None:
    network, volume = awake(RLN(4)), volume_of(1, 1, 4, 8, 8)
    with torch.inference_mode():
        first, second = network.estimates(volume)
        ratio = volume / (network.fine_forward(first) + 1e-3)
        torch.testing.assert_close(second, first * network.fine_back(ratio))


# -------------------------------------------------------------------------------------------------------------- DBPN


def test_a_projection_is_corrected_by_the_error_of_projecting_back() -> None:
    """Twice the features come back as ``2 L``, the error is `L`, and its projection is added."""
    grow, shrink = torch.nn.Upsample(scale_factor=2), torch.nn.AvgPool2d(2)

    class Twice(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return 2 * grow(x)

    low = drawn(1, 3, 4, 5)
    torch.testing.assert_close(Projection(Twice(), shrink, grow)(low), 3 * grow(low))
    torch.testing.assert_close(Projection(grow, shrink, Twice())(low), grow(low))  # no error


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_projections_change_the_resolution_by_the_scale(scale: int) -> None:
    network, planes = awake(DBPN(4, scale)), volume_of(2, 1, 2 * scale, 3 * scale)
    low = drawn(2, 4, 2, 3)
    with torch.inference_mode():
        high = network.ups[0](low)
        assert high.shape == (2, 4, 2 * scale, 3 * scale)
        assert network.downs[0](high).shape == low.shape
        assert network(planes).shape == planes.shape


# -------------------------------------------------------------------------------------------------------------- DDPM


def test_the_noise_is_zero_before_training_and_depends_on_each_input_afterwards() -> None:
    network = make_baseline("ddpm", axial_factor=4, width=8)
    inputs = {"x": drawn(2, 1, 3, 9, 6), "t": torch.tensor([0.2, 0.9]), "condition": volume_of(2, 1, 3, 9, 6)}
    with torch.inference_mode():
        assert not network(**inputs).any()
        noise = awake(network)(**inputs)
        assert noise.shape == inputs["x"].shape
        for name, value in inputs.items():
            assert (network(**inputs | {name: 0.5 * value}) - noise).abs().max() > 1e-4 * noise.abs().max(), name
        second = network(**{name: value[1:] for name, value in inputs.items()})
    torch.testing.assert_close(second, noise[1:], rtol=1e-4, atol=1e-5)  # volumes of a batch do not see each other


class ExactNoise(torch.nn.Module):
    """Expected noise where the truth is the interpolation and Gaussian deviations of this standard deviation."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, x: Any, t: Any, condition: Any) -> Any:
        path, time = variance_preserving(), t.reshape(-1, 1, 1, 1, 1)
        alpha, sigma = path.alpha(time), path.sigma(time)
        return sigma * (x - alpha * condition) / (alpha**2 * self.deviation**2 + sigma**2)


def test_the_loss_of_the_exact_noise_is_zero_and_that_of_no_noise_is_one() -> None:
    volume, generator = volume_of(2, 1, 2, 16, 16), torch.Generator().manual_seed(0)
    truth = along_z(volume, 2)
    assert noise_loss(ExactNoise(0.0), volume, truth, 2, generator) < 1e-6  # float32
    untrained = make_baseline("ddpm", axial_factor=2, width=4)
    # The mean of 2048 squares of standard normal numbers has a standard deviation of .03.
    assert abs(float(noise_loss(untrained, volume, truth, 2, generator).detach()) - 1) < 0.15


def test_samples_have_the_distribution_that_the_network_knows() -> None:
    volume = volume_of(2, 1, 2, 8, 8)
    found = sampled(ExactNoise(0.1), volume, 2, 100, 64, torch.Generator().manual_seed(0))
    assert found.shape == (64, 2, 1, 4, 8, 8)
    error = found - along_z(volume, 2)
    # 64 samples of 512 voxels: the mean of one voxel has a standard error of .0125, of which the largest of 512 is
    # about three. A hundred ancestral steps leave the deviation 8 % too small.
    assert error.mean(dim=0).abs().max() < 0.06
    assert 0.09 < float(error.std()) < 0.1
    again = sampled(ExactNoise(0.1), volume, 2, 100, 64, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)


# -------------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", BASELINES)
def test_steps_of_gradient_descent_lower_the_loss_of_a_batch(name: str) -> None:
    truth = volume_of(2, 1, 4, 16, 16)
    truth = torch.nn.functional.avg_pool3d(truth, 3, stride=1, padding=1) * 3  # neighbours are alike
    volume = truth[:, :, ::2] * 0.5  # which can be learned
    network = make_baseline(name, axial_factor=2)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-4)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        if name == "ddpm":
            loss = noise_loss(network, volume, truth, 2, torch.Generator().manual_seed(0))
        else:
            loss = torch.nn.functional.mse_loss(network(volume), truth)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert all(weight.grad is not None for weight in network.parameters())  # none is without use


@pytest.mark.parametrize("name", BASELINES)
def test_a_seed_determines_the_weights_and_torchs_generator_is_left_as_it_is(name: str) -> None:
    before = torch.get_rng_state()
    one, same, other = (
        torch.cat([weight.flatten() for weight in make_baseline(name, axial_factor=2, seed=seed).parameters()])
        for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", BASELINES)
def test_a_wider_network_has_more_weights(name: str) -> None:
    def weights(width: int | None) -> int:
        return sum(weight.numel() for weight in make_baseline(name, axial_factor=2, width=width).parameters())

    assert weights(None) == weights(BASELINES[name].width) < weights(2 * BASELINES[name].width)


def test_the_table_names_its_baselines_and_their_sources() -> None:
    assert set(BASELINES) == {"srcnn", "care", "swinir", "rln", "rcan3d", "dbpn", "ddpm"}
    for name, baseline in BASELINES.items():
        assert baseline.name == name
        assert baseline.summary.endswith(".")
        assert baseline.summary.count(".") == 1
        assert baseline.reference.startswith(("doi:10.", "arXiv:"))


def test_numbers_and_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"baseline must be one of srcnn, care, .*, ddpm, got 'unet'"):
        make_baseline("unet", axial_factor=2)
    with pytest.raises(ValueError, match="axial_factor must be at least 1, got 0"):
        make_baseline("care", axial_factor=0)
    with pytest.raises(ValueError, match="lateral_factor must be at least 1, got 0"):
        make_baseline("dbpn", axial_factor=1, lateral_factor=0)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        make_baseline("rln", axial_factor=1, width=0)
    with pytest.raises(ValueError, match=f"width of swinir must be a multiple of {HEAD_WIDTH}, got 12"):
        make_baseline("swinir", axial_factor=1, width=12)
    with pytest.raises(ValueError, match="width of ddpm must be a multiple of 4, got 6"):
        ConditionalDDPM(6)
    with pytest.raises(ValueError, match="axial_factor must be at least 1, got -1"):
        along_z(torch.zeros(1, 1, 1, 1, 1), -1)
