"""Denoisers from folders that diffusers wrote, beside the networks asked by hand; and folders that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")
diffusers = pytest.importorskip("diffusers", reason="needs the extra 'diffusion'")

import tensorcell as tc  # noqa: E402
from tensorcell.diffusion_guidance import from_diffusers, load_prior  # noqa: E402
from tensorcell.diffusion_guidance.denoisers import perpendicular  # noqa: E402


def unet() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return diffusers.UNet2DModel(
            sample_size=16, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4, 4),
            norm_num_groups=2, add_attention=False, down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
        ).eval()  # fmt: skip


def saved(folder: Path, network: Any, scheduler: Any) -> Path:
    diffusers.DDPMPipeline(network, scheduler).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_denoiser_is_the_network_asked_by_hand(tmp_path: Path, prediction: str) -> None:
    network, scheduler = unet(), diffusers.DDPMScheduler(num_train_timesteps=50, prediction_type=prediction)
    denoise = from_diffusers(saved(tmp_path, network, scheduler))
    x0, step = torch.randn(2, 1, 8, 12, generator=torch.Generator().manual_seed(1)), torch.tensor([7, 31])
    noisy = scheduler.add_noise(x0, torch.ones_like(x0), step)
    alpha = scheduler.alphas_cumprod[step].sqrt()[:, None, None, None]
    sigma = (1 - alpha**2).sqrt()
    with torch.no_grad():
        said = network(noisy, step).sample
        expected = {
            "epsilon": (noisy - sigma * said) / alpha,
            "sample": said,
            "v_prediction": alpha * noisy - sigma * said,
        }
        found = denoise(noisy / alpha, (sigma / alpha).flatten())
    torch.testing.assert_close(found, expected[prediction], rtol=1e-4, atol=1e-4)  # the time is found again in float32


def test_sides_are_free_and_volumes_are_denoised_by_their_slices(tmp_path: Path) -> None:
    denoise = from_diffusers(saved(tmp_path, unet(), diffusers.DDIMScheduler(num_train_timesteps=50)))
    x = torch.ones(1, 1, 5, 7, 9, requires_grad=True)
    found = perpendicular(denoise, ("zx", "zy"))(x, 0.5)
    assert found.shape == x.shape
    assert torch.autograd.grad(found.sum(), x)[0].abs().sum() > 0


def changed(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def pickled(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()


def config(folder: Path, **entries: Any) -> None:
    changed(folder / "unet" / "config.json", **entries)


def scheduler_config(folder: Path, **entries: Any) -> None:
    changed(folder / "scheduler" / "scheduler_config.json", **entries)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickle": (pickled, "expected safetensors, got a pickle"),
    "foreign network": (
        lambda f: config(f, _class_name="UNet3D"),
        "expected an unconditional UNet2DModel, got 'UNet3D'",
    ),
    "classes": (lambda f: config(f, num_class_embeds=3), "expected a network without classes"),
    "channels": (lambda f: config(f, out_channels=2), "expected as many channels out as in, got 1 and 2"),
    "huge": (lambda f: config(f, block_out_channels=[4, 40000]), r"claims a network of \d{9,} weights, got \d+ in"),
    "nonsense": (lambda f: config(f, block_out_channels="no"), "expected the config of a UNet2DModel, got one that it"),
    "foreign scheduler": (
        lambda f: scheduler_config(f, _class_name="UNet2DModel"),
        "expected a scheduler of diffusers",
    ),
    "prediction": (
        lambda f: scheduler_config(f, prediction_type="other"),
        "expected prediction_type epsilon, sample, v",
    ),
    "no signal": (lambda f: scheduler_config(f, rescale_betas_zero_snr=True), "alphas_cumprod must descend strictly"),
    "no scheduler": (
        lambda f: (f / "scheduler" / "scheduler_config.json").unlink(),
        "expected the folder of a pipeline",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_folders_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    spoil, message = REFUSED[case]
    folder = saved(tmp_path, unet(), diffusers.DDPMScheduler(num_train_timesteps=50))
    spoil(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        from_diffusers(folder)
    assert "\n" not in str(caught.value)


def test_recover_takes_no_such_folder_and_names_who_does(tmp_path: Path) -> None:
    folder = saved(tmp_path, unet(), diffusers.DDPMScheduler(num_train_timesteps=50))
    with pytest.raises(ValueError, match="knows of measured and missing planes, got a UNet2DModel of diffusers; "):
        load_prior(folder / "unet")
    with pytest.raises(tc.InputError, match=r"got a pipeline of diffusers; .*from_diffusers reads the folder"):
        tc.recover(torch.ones(3, 16, 16), axial_factor=2, method="diffusion", prior=folder)
