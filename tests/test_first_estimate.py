"""The first estimate: a regression that the flow and the decoder of MicroDiffuse3D begin with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tensorcell.datasets import simulate_cells  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d import (  # noqa: E402
    Degradation,
    FirstEstimate,
    MicroDiffuse3D,
    MicroDiffuse3DConfig,
    Model,
    Parts,
    RefinementDecoder,
    Sampling,
    SliceAutoencoder,
    calibrated_model,
    fit_decoder,
    fit_first_estimate,
    fit_network,
    load_model,
    restored,
    save_model,
    simulated,
)
from tensorcell.diffusion_guidance.microdiffuse3d import scans as scans_module  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d import training as training_module  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import along_z  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.first_estimate import to_features, to_voxels  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d.restoration import Restored, first_estimate  # noqa: E402

SCAN = Degradation(axial_factor=2, psf=(1.0, 0.7, 0.7), photons=400.0)
CONFIG = replace(
    MicroDiffuse3DConfig.named("tiny"), token_width=12, condition_width=4, injected_width=8, blocks=1, heads=2,
    head_width=4, positions=(4, 2, 2), encoder_width=4, encoder_groups=2, encoder_heads=2, depth_ratios=(1, 2),
)  # fmt: skip


def generator(seed: int = 0) -> Any:
    return torch.Generator().manual_seed(seed)


def new_estimate(seed: int = 0) -> FirstEstimate:
    """An untrained one that changes the volume."""
    torch.manual_seed(seed)
    estimate = FirstEstimate(axial_factor=2, channels=8, blocks=1, fine_channels=2)
    torch.nn.init.normal_(estimate.last.weight, std=0.1)
    return estimate.eval()


@pytest.fixture(scope="module")
def volumes() -> list[np.ndarray]:
    return [simulate_cells((8, 32, 32), cells=8, seed=seed).truth.astype(np.float32) for seed in range(3)]


@pytest.fixture
def parts() -> Parts:
    autoencoder = SliceAutoencoder.new(scale=4, width=8).eval()
    torch.manual_seed(1)
    decoder = RefinementDecoder(latent_scale=4, channels=4, groups=1, blocks=1, residual=True).eval()
    return Parts(MicroDiffuse3D.new(CONFIG).eval(), autoencoder, decoder, "flow", new_estimate())


def test_pixels_become_features_and_features_voxels() -> None:
    volume = torch.arange(96.0).reshape(1, 1, 2, 6, 8)
    features = to_features(volume, 2)
    assert features.shape == (1, 4, 2, 3, 4)
    for channel, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        torch.testing.assert_close(features[0, channel], volume[0, 0, :, row::2, column::2])
    torch.testing.assert_close(to_voxels(features, 1, 2), volume)
    made = to_voxels(torch.rand(2, 4 * 3 * 5, 2, 3, 4, generator=generator()), 3, 2)
    assert made.shape == (2, 5, 6, 6, 8)
    spread = torch.rand(1, 4 * 3, 2, 3, 4, generator=generator())
    fine = to_voxels(spread, 3, 2)
    for plane in range(3):
        for row in range(2):
            for column in range(2):
                channel = plane * 4 + row * 2 + column
                torch.testing.assert_close(fine[0, 0, plane::3, row::2, column::2], spread[0, channel])


def test_an_untrained_estimate_is_the_interpolation_and_sizes_are_free() -> None:
    estimate, volume = FirstEstimate(axial_factor=3, channels=8, blocks=1), torch.rand(1, 1, 4, 13, 10)
    torch.testing.assert_close(estimate(volume), along_z(volume, 3))
    torch.testing.assert_close(FirstEstimate(axial_factor=1, block=4, channels=8, blocks=1)(volume), volume)
    for shape in ((1, 1, 1, 1, 1), (1, 1, 1, 8, 8), (2, 1, 1, 4, 3), (1, 1, 5, 1, 1)):
        single = torch.rand(shape)
        torch.testing.assert_close(estimate(single), along_z(single, 3))
        assert RefinementDecoder(latent_scale=4, channels=4, groups=1, blocks=1)(
            torch.rand(1, 1, 1, 4, 4), torch.rand(1, 4, 1, 1, 1)
        ).shape == (1, 1, 1, 4, 4)  # fmt: skip
    with pytest.raises(ValueError, match="channels must be whole numbers"):
        FirstEstimate(axial_factor=2, channels=0)
    with pytest.raises(ValueError, match="axial_factor must be at least 1"):
        FirstEstimate(axial_factor=0)


def test_the_mean_of_all_orientations_turns_with_the_volume() -> None:
    estimate, volume = new_estimate(), torch.rand(1, 1, 3, 12, 20, generator=generator())
    with torch.no_grad():
        mean = estimate.of_all_orientations(volume)
        torch.testing.assert_close(estimate.of_all_orientations(volume.flip(3)).flip(3), mean)
        torch.testing.assert_close(estimate.of_all_orientations(volume.transpose(3, 4)).transpose(3, 4), mean)
        assert not torch.allclose(estimate(volume.flip(3)).flip(3), estimate(volume))


def test_tiles_of_the_estimate_agree_with_the_whole() -> None:
    """Where a tile shows at least what the network sees, seams are rounding."""
    estimate, volume = new_estimate(), torch.rand(1, 4, 32, 200, generator=generator())
    with torch.no_grad():
        whole = first_estimate(volume, estimate, (20, 256, 256), (8, 64, 64))
        cut = first_estimate(volume, estimate, (20, 140, 140), (8, 112, 112))
    assert whole.shape == (1, 8, 32, 200)
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=0)


def test_a_fit_lowers_the_held_out_error(volumes: list[np.ndarray]) -> None:
    data = simulated(volumes, SCAN, (8, 16, 16))
    first = fit_first_estimate(data, new_estimate(), steps=1)
    later = fit_first_estimate(data, new_estimate(), steps=60)
    assert later.report["heldout"] < 0.8 * first.report["heldout"]


def test_samples_are_the_estimate_until_the_decoder_is_fitted(parts: Parts) -> None:
    volume = torch.rand(1, 4, 16, 24, generator=generator())
    found = restored(volume, 8, parts, steps=2, samples=2, generator=generator())
    with torch.no_grad():
        wanted = first_estimate(volume, parts.estimate, (20, 256, 256), (8, 64, 64))
    torch.testing.assert_close(found.mean, wanted)
    assert float(found.deviation.max()) < 1e-6
    with pytest.raises(ValueError, match="expected 2 planes per plane measured, which the first estimate"):
        restored(volume, 16, parts, steps=2, samples=1)


def test_network_and_decoder_are_told_the_estimate(
    parts: Parts, volumes: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the decoder is shown the latents to which the flow leads, not those of the truth."""
    data, batches = simulated(volumes, SCAN, (8, 16, 16)), {}

    def kept(name: str) -> Any:
        def run(network: Any, loss: Any, draw: Any, *_: Any) -> Any:
            batches[name] = draw(generator(3))
            return training_module.Fit(network, {})

        return run

    monkeypatch.setattr(training_module, "run_fit", kept("network"))
    fit_network(data, parts.network, parts.autoencoder, estimate=parts.estimate)
    monkeypatch.setattr(training_module, "run_fit", kept("decoder"))
    fit_decoder(data, parts.decoder, parts.autoencoder, network=parts.network, estimate=parts.estimate)
    drawn = data.train(2, generator(3))
    with torch.no_grad():
        wanted = parts.estimate(drawn.volume)
    torch.testing.assert_close(batches["network"].volume, wanted[:, :, ::2])
    torch.testing.assert_close(batches["decoder"].volume, wanted)
    shown = batches["decoder"]
    again = generator(3)
    data.train(2, again)
    noise = torch.randn(shown.latent.transpose(1, 2).shape, generator=again)
    latent = training_module.flow_endpoint(parts.network, noise, wanted[:, :, ::2], training_module.STEPS)
    torch.testing.assert_close(shown.latent, latent.transpose(1, 2))


def test_the_estimate_is_written_and_read(parts: Parts, tmp_path: Path) -> None:
    model = Model(parts=parts, acquisition=SCAN)
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.parts.estimate.sizes == parts.estimate.sizes
    volume = torch.rand(1, 3, 16, 16, generator=generator())
    first, second = (
        restored(volume, 6, each.parts, steps=1, samples=1, generator=generator()).mean for each in (model, again)
    )
    torch.testing.assert_close(first, second)
    save_model(replace(model, acquisition=replace(SCAN, axial_factor=4)), tmp_path / "other")
    with pytest.raises(ValueError, match=r"expected an axial factor among the depth ratios \(2,\), got 4"):
        load_model(tmp_path / "other")
    (tmp_path / "model" / "estimate.safetensors").unlink()
    with pytest.raises(ValueError, match=r"estimate\.safetensors"):
        load_model(tmp_path / "model")


def test_planes_after_the_last_measured_one_are_not_calibrated_with(
    parts: Parts, volumes: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stack has them: a network that restores all others exactly is told to be exact."""
    scan, drawn = Degradation(axial_factor=2), []
    data = simulated(volumes, scan, (8, 16, 16))
    held = data.held

    def remembered(count: int, random: Any) -> Any:
        drawn.append(held(count, random))
        return drawn[-1]

    def exact(volume: Any, planes: int, parts: Any, *, samples: int, callback: Any, **_: Any) -> Any:
        truth = next(each.truth for each in drawn if torch.equal(each.volume[0], volume))[0].clone()
        truth[:, -1] = 100.0
        many = truth[None].expand(samples, -1, -1, -1, -1)
        return Restored(truth, torch.zeros_like(truth), many)

    monkeypatch.setattr(scans_module, "restored", exact)
    sampling = Sampling(samples=2, steps=1, consistent=False)
    model = Model(parts=parts, acquisition=scan)
    found = calibrated_model(model, data._replace(held=remembered), sampling, examples=4).held_out
    assert found.interpolation > 0
    assert found.error < 0.3 * found.interpolation
    assert found.without == np.inf

    def in_another_unit(planes: np.ndarray) -> np.ndarray:
        truth = next(each.truth for each in drawn if np.array_equal(each.volume[0, 0].numpy(), planes))
        return 7 * truth[0, 0, :7].numpy() - 3

    again = data._replace(held=remembered)
    assert calibrated_model(model, again, sampling, examples=4, without=in_another_unit).held_out.without < 1e-5
    nothing = calibrated_model(model, again, sampling, examples=4, without=lambda planes: None)
    assert nothing.held_out.without == np.inf
