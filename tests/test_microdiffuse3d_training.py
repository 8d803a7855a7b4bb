"""MicroDiffuse3D: latents, degradations, losses, fits that go on where they stopped, and restored volumes."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")

from tensorcell.datasets import simulate_cells  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d import (  # noqa: E402
    MicroDiffuse3D,
    MicroDiffuse3DConfig,
    RefinementDecoder,
)
from tensorcell.diffusion_guidance.microdiffuse3d.autoencoder import SliceAutoencoder  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.checkpoint import load_model, save_model  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.conditioning import Condition  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.data import (  # noqa: E402
    Pieces,
    Span,
    masked,
    mixed,
    normalised,
    paired,
    ratio_of,
    simulated,
    split,
)
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import Degradation, masked_blocks  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.images import ImageEncoder, alignment_loss  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.objective import (  # noqa: E402
    FlowBatch,
    path_of,
    prediction_loss,
)
from tensorcell.diffusion_guidance.microdiffuse3d.restoration import Parts, restored  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.scans import Model  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.training import (  # noqa: E402
    fit_autoencoder,
    fit_decoder,
    fit_few_steps,
    fit_network,
    flow_endpoint,
)
from tensorcell.diffusion_guidance.priors import write_weights  # noqa: E402
from tensorcell.diffusion_guidance.training_loop import TrainingState  # noqa: E402

CONFIG = replace(
    MicroDiffuse3DConfig.named("tiny"), token_width=12, condition_width=4, injected_width=8, blocks=1, heads=2,
    head_width=4, positions=(4, 2, 2), encoder_width=4, encoder_groups=2, encoder_heads=2, depth_ratios=(2,),
)  # fmt: skip
SPARSE = Degradation(axial_factor=2, photons=500.0)


def generator(seed: int = 0) -> Any:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def volumes() -> list[np.ndarray]:
    return [simulate_cells((8, 40, 40), cells=6, seed=seed).truth for seed in range(2)]


@pytest.fixture(scope="module")
def autoencoder(volumes: list[np.ndarray]) -> SliceAutoencoder:
    """Untrained, with latents of unit variance."""
    made = SliceAutoencoder.new(scale=4, width=8).eval()
    made.set_scaling(torch.from_numpy(Span.of(volume).normalised(volume))[:, None] for volume in volumes)
    return made


# --------------------------------------------------------------------------------------------------------- latents


def test_planes_are_encoded_one_by_one(autoencoder: SliceAutoencoder) -> None:
    volume = torch.rand(2, 1, 20, 16, 24, generator=generator())
    with torch.inference_mode():
        latents = autoencoder.encode(volume)
        assert latents.mean.shape == latents.deviation.shape == (2, 20, 4, 4, 6)
        one = autoencoder.encode(volume[1:, :, 17:18])
        torch.testing.assert_close(latents.mean[1:, 17:18], one.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(latents.deviation[1:, 17:18], one.deviation, rtol=1e-4, atol=1e-5)
        decoded = autoencoder.decode(latents.mean)
        assert decoded.shape == volume.shape
        torch.testing.assert_close(decoded[1:, :, 17:18], autoencoder.decode(one.mean), rtol=1e-4, atol=1e-5)


def test_drawn_latents_have_the_deviation_that_is_told(autoencoder: SliceAutoencoder) -> None:
    with torch.inference_mode():
        latents = autoencoder.encode(torch.rand(1, 1, 16, 32, 32, generator=generator()))
        off = (latents.drawn(generator()) - latents.mean) / latents.deviation
    assert float(off.std()) == pytest.approx(1, abs=0.05)


def test_the_factor_brings_latents_to_unit_variance_and_changes_no_volume() -> None:
    own = SliceAutoencoder.new(scale=4, width=8).eval()
    volume = torch.rand(1, 1, 6, 32, 32, generator=generator())
    with torch.inference_mode():
        before = own.decode(own.encode(volume).mean)
        factor = own.set_scaling(iter([volume[0].transpose(0, 1)]))
        assert factor != 1
        latents = own.encode(volume)
        assert float(latents.drawn(generator()).std()) == pytest.approx(1, rel=0.06)  # of 1500 numbers: 2 %
        torch.testing.assert_close(own.decode(latents.mean), before, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="got none"):
        own.set_scaling(iter([]))


def test_an_autoencoder_of_colours_is_shown_grey_and_its_colours_are_averaged(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    colours = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=[8, 8], norm_num_groups=4,
        layers_per_block=1, down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    colours.save_pretrained(tmp_path)
    read, volume = SliceAutoencoder.load(tmp_path), torch.rand(1, 1, 2, 8, 8, generator=generator())
    assert (read.scale, read.channels) == (2, 4)
    with torch.inference_mode():
        latents = read.encode(volume)
        image = (2 * volume[0, 0, 1] - 1).expand(1, 3, -1, -1)
        mean = colours.eval().encode(image).latent_dist.mean
        torch.testing.assert_close(latents.mean[0, 1:], mean * colours.config.scaling_factor, rtol=1e-4, atol=1e-5)
        expected = (colours.decode(mean).sample.mean(dim=1) + 1) / 2
        torch.testing.assert_close(read.decode(latents.mean)[0, :, 1], expected, rtol=1e-4, atol=1e-5)


def test_autoencoders_are_written_and_read(autoencoder: SliceAutoencoder, tmp_path: Path) -> None:
    autoencoder.save(tmp_path / "vae")
    read, volume = SliceAutoencoder.load(tmp_path / "vae"), torch.rand(1, 1, 1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(read.encode(volume).mean, autoencoder.encode(volume).mean)
    with pytest.raises(ValueError, match="holds no autoencoder that diffusers can read"):
        SliceAutoencoder.load(tmp_path)
    with pytest.raises(ValueError, match=r"multiples of 4, got \(16, 18\)"):
        read.encode(torch.zeros(1, 1, 1, 16, 18))
    with pytest.raises(ValueError, match="scale must be a power of two, got 3"):
        SliceAutoencoder.new(scale=3)


# ---------------------------------------------------------------------------------------------------- degradations


@pytest.mark.parametrize("widths", [(0.0, 0.0, 0.0), (1.5, 0.7, 2.0), (0.0, 1.0, 0.0)])
def test_the_psf_is_a_gaussian_of_these_widths(widths: tuple[float, float, float]) -> None:
    volume = torch.rand(1, 1, 12, 14, 16, generator=generator(), dtype=torch.float64)
    expected = ndimage.gaussian_filter(volume[0, 0].numpy(), widths, mode="nearest", truncate=6)
    np.testing.assert_allclose(
        Degradation(psf=widths)(volume, generator())[0, 0].numpy(), expected, atol=2e-4
    )  # cut at 4 widths


def test_a_psf_wider_than_the_volume_leaves_its_mean() -> None:
    volume = torch.ones(1, 1, 2, 3, 3)
    torch.testing.assert_close(Degradation(psf=(5.0, 5.0, 5.0))(volume, generator()), volume)


def test_degradation_measures_planes_and_pixels() -> None:
    z, y, x = torch.meshgrid(torch.arange(10.0), torch.arange(12.0), torch.arange(8.0), indexing="ij")
    ramp = (z**2 + 3 * y - 2 * x)[None, None]
    measured = Degradation(axial_factor=4, lateral_factor=2)(ramp, generator())
    assert measured.shape == (1, 1, 3, 12, 8)
    torch.testing.assert_close(measured[..., 1:-1, 1:-1], ramp[:, :, ::4, 1:-1, 1:-1])  # means of squares, between them
    spike = torch.zeros(1, 1, 2, 12, 8)
    spike[0, 0, :, 5, 5] = 1
    seen = Degradation(lateral_factor=2)(spike, generator())
    assert float(seen.max()) == pytest.approx(0.75**2 / 4)  # a quarter of a pixel, at a quarter of its width
    assert float(seen.sum()) == pytest.approx(2)


def test_noise_is_that_of_photons_and_of_the_detector() -> None:
    volume = torch.full((1, 1, 20, 64, 64), 0.25)
    measured = Degradation(photons=40.0, read_noise=0.05)(volume, generator())
    assert float(measured.mean()) == pytest.approx(0.25, abs=0.002)
    assert float(measured.var()) == pytest.approx(0.25 / 40 + 0.05**2, rel=0.03)


def test_deep_planes_are_darker_and_more_blurred() -> None:
    volume = torch.zeros(1, 1, 9, 33, 33)
    volume[:, :, :, 16, 16] = 1
    measured = Degradation(psf=(0.0, 1.0, 1.0), attenuation=4.0, widening=1.0)(volume, generator())
    light = measured.sum(dim=(0, 1, 3, 4))
    torch.testing.assert_close(light, torch.exp(-torch.arange(9) / 4), rtol=1e-4, atol=1e-5)
    peak = measured[0, 0, :, 16, 16] / light
    assert float(peak[8] / peak[0]) == pytest.approx(1 / 4, rel=0.02)  # twice as wide along two axes
    assert bool((peak.diff() < 0).all())


def test_masked_blocks_are_whole_and_between_half_and_three_quarters() -> None:
    volume = torch.ones(400, 1, 2, 24, 24)
    masked = masked_blocks(volume, 4, generator())
    blocks = masked.reshape(400, 2, 6, 4, 6, 4)
    assert bool((blocks.amin(dim=(3, 5)) == blocks.amax(dim=(3, 5))).all())
    share = 1 - masked.mean(dim=(1, 2, 3, 4))
    untouched = share == 0
    assert float(untouched.float().mean()) == pytest.approx(0.1, abs=0.05)
    assert float(share[~untouched].mean()) == pytest.approx(0.625, abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axial_factor": 0}, "axial_factor must be a whole number of at least 1, got 0"),
        ({"psf": (1.0, math.inf, 1.0)}, "three finite widths"),
        ({"photons": 0.0}, "must be positive"),
        ({"attenuation": math.nan}, "must be positive"),
        ({"read_noise": -1.0}, "read_noise must be finite and at least 0"),
        ({"widening": math.inf}, "widening must be finite and at least 0"),
    ],
)
def test_degradations_that_no_microscope_has_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Degradation(**change)


def test_lateral_factors_divide_the_sides() -> None:
    with pytest.raises(ValueError, match=r"multiples of the lateral factor 3, got \(9, 10\)"):
        Degradation(lateral_factor=3)(torch.zeros(1, 1, 2, 9, 10), generator())


# ---------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("objective", ["flow", "eps"])
def test_the_loss_of_a_perfect_prediction_is_zero(objective: Any) -> None:
    """The network is told the latent: what it is shown determines the noise."""
    latent, noise = torch.randn(2, 3, 4, 5, 5, generator=generator()), torch.randn(2, 3, 4, 5, 5)
    batch = FlowBatch(latent, noise, torch.tensor([0.2, 0.7]), torch.zeros(2, 1, 3, 20, 20))
    path = path_of(objective)

    def perfect(x: Any, t: Any, y: Any, lr: Any) -> Any:
        time = t.reshape(-1, 1, 1, 1, 1)
        found = (x - path.alpha(time) * latent) / path.sigma(time)
        return found - latent if objective == "flow" else found

    assert float(prediction_loss(perfect, batch, objective)) < 1e-10
    zero = float(prediction_loss(lambda x, t, y, lr: torch.zeros_like(x), batch, objective))
    assert zero == pytest.approx(float(((noise - latent) if objective == "flow" else noise).square().mean()))


def test_unknown_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match="objective must be one of flow, eps, got 'x0'"):
        path_of("x0")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- pieces


def test_spans_are_undone() -> None:
    volume = 1e4 + 300 * np.random.default_rng(0).random((4, 20, 20))
    span = Span.of(volume)
    scaled = span.normalised(volume)
    assert scaled.dtype == np.float32
    assert np.mean((scaled >= 0) & (scaled <= 1)) > 0.99
    np.testing.assert_allclose(span.restored(scaled.astype(float)), volume, atol=1e-3)
    assert Span.of(np.full((2, 2, 2), 7.0)) == (7.0, 8.0)


def test_pieces_are_parts_of_volumes_turned_within_planes() -> None:
    volume = np.arange(6 * 9 * 9, dtype=np.float32).reshape(6, 9, 9)
    (pieces,), numbers = Pieces([(volume,)], (3, 4, 4)).draw(60, generator())
    assert pieces.shape == (60, 1, 3, 4, 4)
    assert not numbers.any()
    turned = set()
    for piece in pieces[:, 0].numpy():
        first = piece.min()
        z, y, x = np.unravel_index(int(first), volume.shape)
        part = volume[z : z + 3, y : y + 4, x : x + 4]
        matches = [
            (flip_y, flip_x, swap)
            for flip_y in (1, -1) for flip_x in (1, -1) for swap in (False, True)
            if np.array_equal(piece, (lambda p, s: p.transpose(0, 2, 1) if s else p)(part[:, ::flip_y, ::flip_x], swap))
        ]  # fmt: skip
        assert len(matches) == 1
        turned.update(matches)
    assert len(turned) == 8


def test_volumes_or_their_last_rows_are_held_out() -> None:
    rng = np.random.default_rng(0)

    def parts(*shapes: tuple[int, int, int], piece: tuple[int, int, int] = (2, 4, 4)) -> tuple[Pieces, Pieces]:
        return split(normalised([rng.random(shape) for shape in shapes]), piece)

    train, held = parts(*7 * [(4, 10, 8)])
    assert (len(train.volumes), len(held.volumes)) == (6, 1)
    train, held = parts((4, 30, 8))
    assert (train.volumes[0][0].shape, held.volumes[0][0].shape) == ((4, 25, 8), (4, 5, 8))
    train, held = parts((4, 7, 8))
    assert train.volumes[0][0].shape == held.volumes[0][0].shape == (4, 7, 8)
    with pytest.raises(ValueError, match=r"a piece has shape \(5, 4, 4\), a volume only \(4, 7, 8\)"):
        parts((4, 7, 8), piece=(5, 4, 4))
    dirty = rng.random((4, 7, 8))
    dirty[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="expected finite volumes, got NaN or infinity in number 2"):
        normalised([rng.random((4, 7, 8)), dirty])
    with pytest.raises(ValueError, match="at least one volume"):
        split([], (1, 4, 4))


def test_scans_are_normalised_by_their_own_limits() -> None:
    """What is measured at a tenth of the light looks the same to the network."""
    volume = simulate_cells((8, 32, 32), cells=6, seed=3).truth
    bright, dark = (
        simulated([volume], Degradation(axial_factor=2, attenuation=length), (4, 32, 32)).train(1, generator())
        for length in (math.inf, 1e6)
    )
    torch.testing.assert_close(bright.volume, dark.volume, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(bright.truth[:, :, ::2], bright.volume, rtol=0.1, atol=0.1)
    noisy = simulated([volume], Degradation(photons=20.0), (4, 16, 16)).train(64, generator()).volume
    assert float((noisy < 0).float().mean()) < 0.02
    assert float((noisy > 1).float().mean()) < 0.02


def test_pairs_are_drawn_at_one_place() -> None:
    """Planes of the scan are planes of the truth, so that a wrong place would show."""
    rng = np.random.default_rng(0)
    high = [rng.random((13, 20, 24)), rng.random((9, 20, 24))]
    low = [volume[::4] for volume in high]
    example = paired(low, high, (4, 16, 16)).train(40, generator())
    assert example.volume.shape == (40, 1, 1, 16, 16)
    measured, truth = example.volume[:, 0, 0], example.truth[:, 0, 0]
    slope = (measured * truth).mean(dim=(1, 2)) - measured.mean(dim=(1, 2)) * truth.mean(dim=(1, 2))
    correlation = slope / (measured.std(dim=(1, 2)) * truth.std(dim=(1, 2)))
    assert float(correlation.min()) > 0.98
    for depths, ratio in (((16, 4), 4), ((13, 4), 4), ((5, 5), 1), ((9, 3), 3)):
        assert ratio_of([((depths[0], 8, 8), (depths[1], 8, 8))]) == ratio
    assert ratio_of([((9, 8, 8), (3, 8, 8))], 4) == 4
    with pytest.raises(ValueError, match="expected axial factor 3 or 4 for these pairs, got 2"):
        ratio_of([((9, 8, 8), (3, 8, 8))], 2)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ([(4, 8, 8)], [], "as many low- as high-resolution volumes, got 1 and 0"),
        ([(4, 8, 8)], [(16, 8, 9)], "pairs of one lateral size"),
        ([(4, 8, 8)], [(15, 8, 8)], "a whole number of planes per plane measured, got 15 from 4"),
        ([(4, 8, 8), (4, 8, 8)], [(16, 8, 8), (8, 8, 8)], "pairs of one ratio of depths, got several"),
        ([(4, 8, 8)], [(16, 8, 8)], "multiple of the axial factor 4, got 6"),
    ],
)
def test_pairs_that_do_not_belong_together_are_refused(low: Any, high: Any, message: str) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=message):
        paired([rng.random(s) for s in low], [rng.random(s) for s in high], (6, 8, 8))


def test_tasks_are_mixed_by_their_weights() -> None:
    volume = np.random.default_rng(0).random((8, 32, 32))
    masks, scans = masked([volume], (4, 16, 16), 8), simulated([volume], SPARSE, (4, 16, 16))
    data, numbers = mixed([(masks, 1.0), (scans, 3.0)]), generator()
    depths = [data.train(1, numbers).volume.shape[2] for _ in range(200)]
    assert depths.count(2) / 200 == pytest.approx(0.75, abs=0.1)
    assert [data.held(1, numbers).volume.shape[2] for _ in range(4)] == [4, 2, 4, 2]
    with pytest.raises(ValueError, match=r"tasks of positive weights, got \[1.0, 0.0\]"):
        mixed([(masks, 1.0), (scans, 0.0)])


def test_pieces_hold_whole_groups_of_planes(volumes: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="multiple of the axial factor 2, got 3"):
        simulated(volumes, SPARSE, (3, 16, 16))


# ------------------------------------------------------------------------------------------------------------ fits


def test_fits_lower_the_held_out_loss(volumes: list[np.ndarray], autoencoder: SliceAutoencoder) -> None:
    fresh = SliceAutoencoder.new(scale=4, width=8)
    losses: list[float] = []
    fit = fit_autoencoder(
        volumes, fresh, side=16, steps=50, progress=lambda step, steps, loss, held: losses.append(loss)
    )
    assert fit.report["steps"] == 50
    assert fit.report["heldout"] < 0.6 * losses[0]
    assert fit.network.slices.config.scaling_factor != 1
    data = simulated(volumes, SPARSE, (4, 16, 16))
    network = fit_network(data, MicroDiffuse3D.new(CONFIG), fit.network, steps=25)
    assert network.report["heldout"] < 2.2  # about two for nothing predicted; what it can learn is tested below
    decoder = fit_decoder(
        data, RefinementDecoder(latent_scale=4, channels=8, groups=1, blocks=1), autoencoder, steps=50
    )
    assert decoder.report["heldout"] < 0.25


def test_the_network_learns_one_batch_by_heart(autoencoder: SliceAutoencoder) -> None:
    latent, noise = (
        torch.randn(2, 4, 4, 4, 4, generator=generator()),
        torch.randn(2, 4, 4, 4, 4, generator=generator(1)),
    )
    volume = torch.rand(2, 1, 2, 16, 16, generator=generator())
    batch = FlowBatch(latent, noise, torch.tensor([0.3, 0.8]), volume)
    torch.manual_seed(0)
    state = TrainingState.of(MicroDiffuse3D(CONFIG), prediction_loss, 0, {})
    losses = [state.advance(batch, 1e-2) for _ in range(50)]
    assert losses[0] == pytest.approx(float((noise - latent).square().mean()), rel=1e-5)  # it starts from nothing
    assert losses[-1] < 0.3 * losses[0]


def test_a_fit_that_was_stopped_goes_on_as_if_it_had_not(
    volumes: list[np.ndarray], autoencoder: SliceAutoencoder, tmp_path: Path
) -> None:
    losses: list[list[float]] = [[], []]
    data = simulated(volumes, SPARSE, (4, 16, 16))

    def run(which: int, stop: int | None, **more: Any) -> Any:
        def progress(step: int, steps: int, loss: float, held: float) -> bool:
            losses[which].append(loss)
            return step == stop

        return fit_network(data, MicroDiffuse3D.new(CONFIG), autoencoder, steps=8, progress=progress, **more).network

    whole = run(0, None)
    run(1, 3, keep=tmp_path)
    continued = run(1, None, resume=tmp_path)
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), continued.parameters(), strict=True))
    other = replace(CONFIG, blocks=2)
    with pytest.raises(ValueError, match="holds the fit of another network: network differ"):
        fit_network(data, MicroDiffuse3D.new(other), autoencoder, steps=1, resume=tmp_path)


# ----------------------------------------------------------------------------------------------------- restoration


class Knowing(MicroDiffuse3D):
    """A network that knows the latent: its velocity is the exact one."""

    truth: Any

    def velocity(self, x: Any, t: Any, y: Any, condition: Any) -> Any:
        return (x - self.truth) / t.reshape(-1, 1, 1, 1, 1)


@pytest.mark.parametrize(("steps", "order"), [(1, 1), (5, 1), (3, 2)])
def test_an_exact_velocity_leads_to_the_latent_in_any_number_of_steps(
    autoencoder: SliceAutoencoder, steps: int, order: int
) -> None:
    """The paths are straight."""
    network, volume = Knowing(CONFIG).eval(), torch.rand(1, 4, 16, 16, generator=generator())
    network.truth = torch.randn(1, 8, 4, 4, 4, generator=generator())
    found = restored(volume, 8, Parts(network, autoencoder), steps=steps, order=order, samples=2)
    with torch.inference_mode():
        expected = autoencoder.decode(network.truth)[0]
    torch.testing.assert_close(found.mean, expected, rtol=1e-3, atol=1e-3)
    assert found.samples.shape == (2, 1, 8, 16, 16)
    assert float(found.deviation.max()) < 1e-3


def test_samples_are_drawn_by_their_generator_and_summed_up(autoencoder: SliceAutoencoder) -> None:
    network = MicroDiffuse3D(CONFIG).eval()  # its velocity is 0: samples are noise
    decoder = RefinementDecoder(latent_scale=4, channels=8, groups=1, blocks=1).eval()
    volume = torch.rand(1, 4, 16, 16, generator=generator())
    for parts in (Parts(network, autoencoder), Parts(network, autoencoder, decoder)):
        one, two = (restored(volume, 8, parts, steps=2, samples=3, generator=generator(1)) for _ in range(2))
        assert torch.equal(one.samples, two.samples)
        torch.testing.assert_close(one.mean, one.samples.mean(dim=0))
        torch.testing.assert_close(one.deviation, one.samples.std(dim=0, correction=0))
        assert float(one.deviation.mean()) > 0
        other = restored(volume, 8, parts, steps=2, samples=3, generator=generator(2))
        assert not torch.equal(one.samples, other.samples)


class Seeing(MicroDiffuse3D):
    """A network whose prediction at a token is what the volume shows there: it depends on nothing further away."""

    def condition(self, lr: Any, planes: int | None = None) -> Any:
        shown = lr.repeat_interleave((planes or 0) // lr.shape[2], 2)
        shown = torch.nn.functional.avg_pool3d(shown, (1, 8, 8)).flatten(2).transpose(1, 2)
        return Condition(shown, shown)

    def velocity(self, x: Any, t: Any, y: Any, condition: Any) -> Any:
        shown = condition.injected.reshape(1, x.shape[1], 1, x.shape[3] // 2, x.shape[4] // 2)
        latent = shown.repeat_interleave(2, 3).repeat_interleave(2, 4)
        return (x - latent) / t.reshape(-1, 1, 1, 1, 1)


def test_tiles_see_their_part_of_the_volume_and_agree_with_the_whole(autoencoder: SliceAutoencoder) -> None:
    parts, volume = Parts(Seeing(CONFIG).eval(), autoencoder), torch.rand(1, 6, 44, 37, generator=generator())
    whole, cut = (
        restored(volume, 12, parts, steps=2, samples=1, tile=tile, overlap=overlap, generator=generator())
        for tile, overlap in (((12, 48, 48), (0, 0, 0)), ((6, 16, 24), (2, 8, 8)))
    )
    assert whole.mean.shape == (1, 12, 44, 37)
    torch.testing.assert_close(cut.mean, whole.mean, rtol=1e-4, atol=1e-4)
    shown = torch.nn.functional.pad(volume, (0, 3, 0, 4), mode="replicate")[None]
    with torch.inference_mode():
        latent = parts.network.condition(shown, 12).injected.reshape(1, 12, 1, 6, 5).expand(-1, -1, 4, -1, -1)
        expected = autoencoder.decode(latent.repeat_interleave(2, 3).repeat_interleave(2, 4))[0, ..., :44, :37]
    torch.testing.assert_close(whole.mean, expected, rtol=1e-3, atol=1e-3)


def test_sizes_that_do_not_belong_together_and_voxels_that_are_no_numbers_are_refused() -> None:
    marks = torch.zeros(1, 4, 16, 16, dtype=torch.bool)
    marks[0, 1, 2, 3:6] = True
    parts = Parts(MicroDiffuse3D(CONFIG), SliceAutoencoder.new(scale=2, width=8))
    with pytest.raises(ValueError, match="latents of scale 4 in 4 channels, the autoencoder has scale 2"):
        restored(torch.zeros(1, 4, 16, 16), 8, parts)
    parts = Parts(MicroDiffuse3D(CONFIG), SliceAutoencoder.new(scale=4, width=8))
    with pytest.raises(ValueError, match="expected a finite volume, got NaN or infinity in 3 of 1024 voxels"):
        restored(torch.zeros(1, 4, 16, 16).masked_fill(marks, math.nan), 8, parts)
    with pytest.raises(ValueError, match="a whole number of planes per plane measured, got 7 from 4"):
        restored(torch.zeros(1, 4, 16, 16), 7, parts)


# ------------------------------------------------------------------------------------------------------ checkpoints


@pytest.fixture
def parts(autoencoder: SliceAutoencoder) -> Parts:
    torch.manual_seed(1)
    network = MicroDiffuse3D(CONFIG).eval()
    torch.nn.init.normal_(network.transformer.last.linear.weight)
    decoder = RefinementDecoder(latent_scale=4, channels=8, groups=1, blocks=1).eval()
    return Parts(network, autoencoder, decoder, "eps")


def test_networks_that_were_written_restore_the_same_volume(parts: Parts, tmp_path: Path) -> None:
    volume = torch.rand(1, 4, 16, 16, generator=generator())
    for name, written in (("with", parts), ("without", parts._replace(decoder=None))):
        save_model(Model(parts=written, acquisition=SPARSE), tmp_path / "new" / name)
        model = load_model(tmp_path / "new" / name)
        read = model.parts
        assert (model.acquisition, model.held_out) == (SPARSE, None)
        assert (read.objective, read.network.config) == ("eps", CONFIG)
        one, other = (restored(volume, 8, each, steps=2, generator=generator()) for each in (written, read))
        assert torch.equal(one.samples, other.samples)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["with", "without"]  # nothing half made
    with pytest.raises(ValueError, match="exists; name a new folder"):
        save_model(Model(parts=parts, acquisition=SPARSE), tmp_path / "new" / "with")


def test_damaged_folders_are_refused_in_one_line(parts: Parts, tmp_path: Path) -> None:
    folder, umask = tmp_path / "model", os.umask(0o022)
    os.umask(umask)
    model = Model(parts=parts, acquisition=SPARSE)
    save_model(model, folder)
    config = folder / "microdiffuse3d.json"
    whole, content = config.read_text(), json.loads(config.read_text())
    cases = [
        ("{", "microdiffuse3d.json"),
        (json.dumps(content | {"_class_name": "Other"}), "expected the sizes of a MicroDiffuse3D, got 'Other'"),
        (json.dumps(content | {"objective": "x0"}), "objective must be one of flow, eps"),
        (json.dumps({k: v for k, v in content.items() if k != "decoder"}), "does not describe networks: 'decoder'"),
        (json.dumps(content | {"network": content["network"] | {"colour": 1}}), "MicroDiffuse3DConfig knows no colour"),
        (json.dumps(content | {"network": content["network"] | {"patch": 3}}), "patch must be a power of two"),
        (json.dumps(content | {"network": content["network"] | {"blocks": 2}}), r"network.safetensors: .* lacks"),
    ]
    for text, message in cases:
        config.write_text(text)
        with pytest.raises(ValueError, match=message) as error:
            load_model(folder)
        assert "\n" not in str(error.value)
    config.write_text(whole)
    assert (folder.stat().st_mode & 0o777) == 0o777 & ~umask  # readable for whom the user allows
    hurt = {name: weight.clone() for name, weight in parts.network.state_dict().items()}
    hurt["time.first.bias"][0] = math.nan
    save_model(model, tmp_path / "other")
    write_weights(hurt, tmp_path / "other" / "network.safetensors")
    with pytest.raises(ValueError, match=r"network\.safetensors: .*time\.first\.bias is not finite"):
        load_model(tmp_path / "other")
    (folder / "decoder.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"decoder\.safetensors"):
        load_model(folder)
    with pytest.raises(ValueError, match=r"expected a folder with microdiffuse3d\.json, got none"):
        load_model(tmp_path / "nowhere")


def test_a_failure_while_writing_leaves_nothing(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(SliceAutoencoder, "save", full)
    with pytest.raises(OSError, match="no space"):
        save_model(Model(parts=parts, acquisition=SPARSE), tmp_path / "model")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- few steps, and images


def test_few_steps_follow_the_flow_of_the_teacher(volumes: list[np.ndarray], autoencoder: SliceAutoencoder) -> None:
    """The endpoint of the flow is what the sampler draws, and the student's target leads straight to it."""
    teacher = MicroDiffuse3D.new(CONFIG)
    torch.nn.init.normal_(teacher.transformer.last.linear.weight, std=0.3, generator=generator())
    volume = torch.rand(1, 1, 2, 16, 16, generator=generator())
    noise = torch.randn(1, 4, 4, 4, 4, generator=generator(1))
    found = flow_endpoint(teacher, noise, volume, 6)
    expected, step = noise, 1 / 6
    with torch.no_grad():
        for n in range(6):
            expected = expected - step * teacher(expected, torch.tensor([1 - n * step]), None, volume)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    data = simulated(volumes, SPARSE, (4, 16, 16))
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    fit = fit_few_steps(data, teacher, autoencoder, teacher_steps=3, steps=30)
    assert all(torch.equal(before[name], weight) for name, weight in teacher.state_dict().items())
    assert fit.report["steps"] == 30
    straight = fit_few_steps(data, MicroDiffuse3D.new(CONFIG), autoencoder, teacher_steps=3, steps=1)
    assert straight.report["heldout"] < 1e-3  # a flow that stands still is already straight


def tiny_encoder(tmp_path: Path) -> Path:
    """A vision transformer with weights drawn at random, as transformers saves one."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'images'")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=224, patch_size=56
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "dino")
    return tmp_path / "dino"


def test_image_features_are_those_of_the_patches_of_each_slice(tmp_path: Path) -> None:
    encoder = ImageEncoder.load(tiny_encoder(tmp_path))
    volume = torch.rand(2, 1, 3, 40, 40, generator=generator())
    found = encoder(volume)
    assert found.shape == (2, 3, 16, 12)
    torch.testing.assert_close(found[1:, 2:], encoder(volume[1:, :, 2:]), rtol=1e-4, atol=1e-5)
    image = torch.nn.functional.interpolate(volume[1:, :, 2], size=(224, 224), mode="bilinear", antialias=True)
    colours = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    mean, deviation = (torch.tensor(each).reshape(1, 3, 1, 1) for each in colours)
    whole = encoder.encoder(pixel_values=(image - mean) / deviation).last_hidden_state
    torch.testing.assert_close(found[1, 2], whole[0, 1:], rtol=1e-4, atol=1e-5)
    assert not any(weight.requires_grad for weight in encoder.parameters())
    with pytest.raises(ValueError, match="holds no image encoder that transformers can read") as error:
        ImageEncoder.load(tmp_path)
    assert "\n" not in str(error.value)


def test_tokens_are_aligned_by_their_angle() -> None:
    features = torch.rand(1, 2, 16, 5, generator=generator())
    assert float(alignment_loss(3 * features, features)) == pytest.approx(0, abs=1e-6)
    assert float(alignment_loss(-features, features)) == pytest.approx(2, abs=1e-6)
    coarse = features.reshape(1, 2, 2, 2, 2, 2, 5).mean(dim=(3, 5)).reshape(1, 2, 4, 5)
    assert float(alignment_loss(coarse, coarse.repeat_interleave(1, 2))) == pytest.approx(0, abs=1e-6)
    assert float(alignment_loss(coarse, features)) < 0.1
    with pytest.raises(ValueError, match="expected square pieces for the alignment with image features, got 6 tokens"):
        alignment_loss(torch.rand(1, 2, 6, 5), features)


def test_networks_are_fitted_with_image_features(
    volumes: list[np.ndarray], autoencoder: SliceAutoencoder, tmp_path: Path
) -> None:
    images = ImageEncoder.load(tiny_encoder(tmp_path))
    config = replace(CONFIG, image_features=12, aligned_block=1, aligned_features=12)
    data = simulated(volumes, SPARSE, (4, 16, 16))
    fit = fit_network(data, MicroDiffuse3D.new(config), autoencoder, images=images, steps=3)
    assert math.isfinite(fit.report["heldout"])
    fresh = MicroDiffuse3D.new(config)
    for name in ("images.whole.weight", "alignment.0.weight"):
        assert not torch.equal(fit.network.state_dict()[name], fresh.state_dict()[name]), name
    network = fit.network.eval()
    volume = torch.rand(1, 4, 16, 16, generator=generator())
    told, untold = (
        restored(volume, 8, Parts(network, autoencoder), images=each, steps=2, samples=1, generator=generator()).mean
        for each in (images, None)
    )
    assert not torch.equal(told, untold)
