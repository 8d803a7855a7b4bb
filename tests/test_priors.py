"""Priors on disk: what comes back is what was written, and whatever else lies there is refused in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the diffusion extra: torch")
pytest.importorskip("safetensors", reason="needs the diffusion extra: safetensors")

from tensorcell.diffusion_guidance import priors as priors_module  # noqa: E402
from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig  # noqa: E402
from tensorcell.diffusion_guidance.priors import CONFIG, WEIGHTS, LateralPrior, VolumePrior, shipped_prior  # noqa: E402

CONFIG_SMALL = SliceNetworkConfig(widths=(8, 8), blocks=1)


def prior(seed: int = 0, **changes) -> LateralPrior:
    network = SliceNetwork(CONFIG_SMALL, seed=seed)
    torch.nn.init.constant_(network.leave.weight, 0.1)
    return LateralPrior(network.requires_grad_(False), **{"location": 120.5, "scale": 33.0, **changes})


@pytest.fixture
def saved(tmp_path):
    prior(lowest_level=0.1, axial_factor=4, stretch=1.7, report={"steps": 3}).save(tmp_path / "prior")
    return tmp_path / "prior"


def state():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, 1, 10, 13, generator=generator), torch.randn(2, 2, 10, 13, generator=generator)


@pytest.mark.parametrize("place", ["", CONFIG, WEIGHTS])
def test_load_gives_back_what_was_saved(saved, place):
    found, (x, c) = LateralPrior.load(saved / place, channels=1), state()
    before = prior(lowest_level=0.1)
    assert torch.equal(found.denoise(x, 0.7, c), before.denoise(x, 0.7, c))
    assert (found.location, found.scale, found.lowest_level) == (120.5, 33.0, 0.1)
    assert (found.axial_factor, found.stretch, found.report) == (4, 1.7, {"steps": 3})
    assert not any(weights.requires_grad for weights in found.network.parameters())
    assert sorted(path.name for path in saved.iterdir()) == [CONFIG, WEIGHTS]


def test_volume_prior_round_trip(tmp_path):
    config = SliceNetworkConfig(widths=(8,), blocks=1, dimensions=3)
    VolumePrior(SliceNetwork(config)).save(tmp_path)
    assert VolumePrior.load(tmp_path).denoise(torch.ones(1, 1, 4, 5, 6), 1.0).shape == (1, 1, 4, 5, 6)
    with pytest.raises(ValueError, match="expected a LateralPrior of format 1"):
        LateralPrior.load(tmp_path)
    with pytest.raises(ValueError, match="LateralPrior is for 2 axes, got a network for 3"):
        LateralPrior(SliceNetwork(config))


def test_score_is_held_below_the_lowest_level():
    x, held = state()[0], prior(lowest_level=0.4)
    score = (held.denoise(x, 0.4) - x) / 0.4**2
    torch.testing.assert_close((held.denoise(x, 0.1) - x) / 0.1**2, score, rtol=1e-3, atol=1e-4)  # float32 / 0.01
    torch.testing.assert_close(held.denoise(x, 0.0), x)
    free = prior(lowest_level=0.0)
    torch.testing.assert_close(held.denoise(x, math.inf), free.denoise(x, math.inf))


def test_units():
    data = torch.tensor([87.5, 120.5])
    torch.testing.assert_close(prior().standardise(data), torch.tensor([-1.0, 0.0]))
    torch.testing.assert_close(prior().restore(prior().standardise(data)), data)


def test_adapted_to_other_data():
    data = np.random.default_rng(0).normal(40, 5, (6, 9, 9)).astype(np.float32)
    grid = np.full((11, 9, 9), np.nan, np.float32)
    grid[::2] = data
    before = prior(axial_factor=4, stretch=1.7, lowest_level=0.2)
    for planes in (data, grid):
        found = before.adapted(planes, 3.0)
        assert found.location == pytest.approx(data.mean(), rel=1e-6)
        assert found.scale == pytest.approx(math.sqrt(data.var(dtype=np.float64) - 9), rel=1e-6)
    assert found.network is before.network
    assert (found.axial_factor, found.stretch, found.lowest_level) == (4, 1.7, 0.2)
    config = SliceNetworkConfig(widths=(8,), blocks=1, dimensions=3)
    assert type(VolumePrior(SliceNetwork(config)).adapted(data)) is VolumePrior


@pytest.mark.parametrize(
    ("data", "noise", "message"),
    [
        (np.full((2, 9, 9), np.nan), 0.0, "at least one measured voxel, got none"),
        (np.full((2, 9, 9), np.inf), 0.0, "finite where it was measured, got infinity"),
        (np.ones((2, 9, 9)), 0.0, "contrast beyond its noise, got none"),
        (np.arange(8.0), 3.0, "contrast beyond its noise, got none"),
    ],
)
def test_adapted_to_bad_data(data, noise, message):
    with pytest.raises(ValueError, match=message), np.errstate(invalid="ignore"):
        prior().adapted(data, noise)


def test_denoise_has_a_gradient_in_its_input():
    x = state()[0].requires_grad_()
    prior().denoise(x, 0.5).sum().backward()
    assert x.grad is not None
    assert bool((x.grad != 0).any())


def test_other_channel_count(saved):
    with pytest.raises(ValueError, match=r"for 1 channel\(s\), got data of 3"):
        LateralPrior.load(saved, channels=3)


@pytest.mark.parametrize("keep", [0, 5, 200, 5000])
def test_truncated_weights(saved, keep):
    content = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(content[:keep])
    with pytest.raises(ValueError, match="got a truncated or foreign file"):
        LateralPrior.load(saved)


@pytest.mark.parametrize("claim", [{"blocks": 10**6}, {"widths": [8, 10**5]}])
def test_a_config_that_claims_more_than_its_weights_is_refused_before_a_network_is_made(saved, monkeypatch, claim):
    config = json.loads((saved / CONFIG).read_text())
    config["network"] |= claim
    (saved / CONFIG).write_text(json.dumps(config))
    monkeypatch.setattr(priors_module, "SliceNetwork", None)
    with pytest.raises(ValueError, match=r"claims a network of at least \d+ weights, got \d+ in its file"):
        LateralPrior.load(saved)


def test_foreign_weights(saved):
    from safetensors.torch import load_file, save_file

    weights = load_file(saved / WEIGHTS)
    save_file({**weights, "other": torch.zeros(1)}, saved / WEIGHTS)
    with pytest.raises(ValueError, match="got 0 missing and 1 foreign tensors"):
        LateralPrior.load(saved)
    save_file({**weights, "enter.bias": torch.zeros(3)}, saved / WEIGHTS)
    with pytest.raises(ValueError, match=r"enter.bias must be \(8,\), got \(3,\)"):
        LateralPrior.load(saved)
    save_file({**weights, "enter.bias": torch.full((8,), torch.nan)}, saved / WEIGHTS)
    with pytest.raises(ValueError, match=r"enter\.bias must be finite"):
        LateralPrior.load(saved)


def test_missing_files(saved):
    (saved / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="expected the weights of the prior"):
        LateralPrior.load(saved)
    (saved / CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match="got no such file"):
        LateralPrior.load(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "expected a JSON object, got list"),
        ("{}", "expected a LateralPrior of format 1"),
        ('{"_class_name": "LateralPrior", "format": 1}', "expected the config of a LateralPrior, got 'network'"),
        ('{"_class_name": "LateralPrior", "format": 1, "network": {"layers": 3}}', "unexpected keyword argument"),
    ],
)
def test_bad_config(saved, text, message):
    (saved / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=message):
        LateralPrior.load(saved)


def test_pickle_is_refused_unless_allowed(saved):
    (saved / WEIGHTS).unlink()
    pickle = saved / "diffusion_pytorch_model.bin"
    torch.save(prior().network.state_dict(), pickle)
    with pytest.raises(ValueError, match="got a pickle, which is refused unless allowed"):
        LateralPrior.load(saved)
    x, c = state()
    assert torch.equal(LateralPrior.load(saved, allow_pickle=True).denoise(x, 0.7, c), prior().denoise(x, 0.7, c))
    torch.save({"step": 3}, pickle)
    with pytest.raises(ValueError, match="expected a pickle of tensors by name"):
        LateralPrior.load(saved, allow_pickle=True)


class Harm:
    """Would run code if it were unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("code in a pickle was executed",))


def test_pickle_executes_nothing(saved):
    (saved / WEIGHTS).unlink()
    torch.save({"weights": Harm()}, saved / "model.pt")
    with pytest.raises(ValueError, match="expected a pickle of plain weights"):
        LateralPrior.load(saved, allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", 0.0, "scale must be positive and finite, got 0"),
        ("scale", math.inf, "scale must be positive and finite, got inf"),
        ("scale", math.nan, "scale must be positive and finite, got nan"),
        ("location", math.inf, "location must be finite, got inf"),
        ("lowest_level", 1e308, "lowest_level must be between 0 and 80, got 1e[+]308"),
        ("lowest_level", -1.0, "lowest_level must be between 0 and 80, got -1"),
        ("stretch", 0.0, "stretch must be positive and finite, got 0"),
        ("axial_factor", 0, "axial_factor must be at least 1, got 0"),
    ],
)
def test_hostile_numbers_are_refused_in_one_line(saved, name, value, message):
    with pytest.raises(ValueError, match=message):
        prior(**{name: value})
    config = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps(config | {name: value}))
    with pytest.raises(ValueError, match=message) as error:
        LateralPrior.load(saved)
    assert "\n" not in str(error.value)


def test_the_config_names_its_class(saved):
    config = json.loads((saved / CONFIG).read_text())
    assert config["_class_name"] == "LateralPrior"  # as diffusers spells it


def test_the_shipped_prior_is_small_and_made_for_the_usual_network():
    prior = shipped_prior()
    folder = Path(priors_module.__file__).with_name("pretrained")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5e6
    assert prior.network.config.widths == SliceNetworkConfig().widths
    x = torch.zeros(1, 1, 16, 16)
    assert prior.denoise(x, math.inf, torch.zeros(1, 2, 16, 16)).isfinite().all()


def test_saved_files_can_be_read_by_whom_the_folder_can(saved):
    assert (saved / WEIGHTS).stat().st_mode == (saved / CONFIG).stat().st_mode
