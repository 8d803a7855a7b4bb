"""``recover(method="diffusion")``: what users see of it, its files, its refusals, and what stays when it is stopped."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'diffusion'")

import torch
from scipy.ndimage import gaussian_filter

import tensorcell as tc
from tensorcell import cli
from tensorcell.diffusion_guidance import denoising
from tensorcell.diffusion_guidance import fill_stack as diffusion
from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig
from tensorcell.diffusion_guidance.priors import WEIGHTS, LateralPrior
from tensorcell.methods.protocol import Stage
from tensorcell.recovered import share_left_open

QUICK = {"method": "diffusion", "fit_steps": 3, "samples": 2, "steps": 2}
TINY = SliceNetworkConfig(widths=(8,), blocks=1)


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SliceNetworkConfig.__init__, "__kwdefaults__", {
        **SliceNetworkConfig.__init__.__kwdefaults__, "widths": (8,), "blocks": 1,
    })  # fmt: skip
    monkeypatch.setattr(denoising, "NETWORK", TINY)
    monkeypatch.setattr(diffusion, "shipped_prior", lambda: LateralPrior(SliceNetwork(TINY), axial_factor=4))


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(0).standard_normal((25, 24, 26)), 2)
    return (100 + 30 * field / field.std()).clip(0).astype(np.float32)


def test_planes(truth: np.ndarray) -> None:
    seen: list[tuple[str, Stage]] = []

    def watch(record, state):
        if isinstance(state, Stage):
            seen.append((record.stage, state))

    result = tc.recover(truth[::2], axial_factor=2, spacing=(2.0, 0.5, 0.5), keep_samples=True, callback=watch, **QUICK)
    np.testing.assert_array_equal(result.volume.data[::2], truth[::2])
    assert result.volume.spacing == (1.0, 0.5, 0.5)
    assert result.volume.dtype == np.float32
    assert result.samples.shape == (2, 25, 24, 26)
    np.testing.assert_array_equal(result.samples[:, ::2], np.stack([truth[::2]] * 2))
    # The samples lie about the volume.
    np.testing.assert_allclose(result.samples.mean(axis=0), result.volume.data, atol=1e-3)
    assert (result.uncertainty[1::2] > 0).all()
    assert (result.invented[::2] == 0).all()
    assert (result.invented[1::2] > 0).all()
    assert result.invented.max() <= 1
    told = "\n".join(result.notes)
    for words in (
        "prior fitted to 13 planes of 24 x 26 in 3 steps",
        "of the change that the prior proposed to interpolation",
        "2 samples",
    ):
        assert words in told
    assert seen[0][0] == "prior"
    assert "fitting a prior to 13 planes of 24 x 26: about" in seen[0][1].message
    assert [state.step for stage, state in seen if stage == "prior"] == [0, 1, 2, 3]
    sampled = [state for stage, state in seen if stage == "samples"]
    assert sampled[-1].step == sampled[-1].steps
    assert [state.step for state in sampled] == sorted(state.step for state in sampled)


def test_the_same_seed_gives_the_same_result(truth: np.ndarray) -> None:
    one, two = (tc.recover(truth[::2], axial_factor=2, **QUICK) for _ in range(2))
    np.testing.assert_array_equal(one.volume.data, two.volume.data)
    np.testing.assert_array_equal(one.uncertainty, two.uncertainty)


def test_noise(truth: np.ndarray) -> None:
    noisy = truth + 10 * np.random.default_rng(1).standard_normal(truth.shape).astype(np.float32)
    result = tc.recover(noisy, noise=10.0, keep_samples=True, **(QUICK | {"fit_steps": 60}))
    plain = tc.recover(noisy, noise=10.0, method="local")
    before, after = (float(np.square(found.volume.data - truth).mean()) for found in (plain, result))
    assert after < 1.01 * before  # Stein's estimate takes no correction that does harm
    assert any(note.startswith("denoised volume: ") for note in result.notes)
    assert (result.invented == 0).all()  # everything was measured
    assert (result.uncertainty > 0).all()


def test_noise_that_grows_with_the_intensity(truth: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    counts = rng.poisson(truth).astype(np.uint16)
    result = tc.recover(counts, **QUICK)
    assert result.volume.dtype == np.float32
    assert float(np.square(result.volume.data - truth).mean()) < 0.5 * float(np.square(counts - truth).mean())


def test_noisy_planes(truth: np.ndarray) -> None:
    noisy = truth + 5 * np.random.default_rng(1).standard_normal(truth.shape).astype(np.float32)
    result = tc.recover(noisy[::2], axial_factor=2, noise=5.0, **QUICK)
    assert (result.uncertainty[1::2] > 0).all()
    told = "\n".join(result.notes)
    assert "denoised volume: " in told
    assert "prior fitted to 13 planes" in told


def test_frames_are_fitted_one_by_one_and_keep_their_priors_apart(truth: np.ndarray, tmp_path: Path) -> None:
    frames = np.stack([truth[::2], truth[::2][:, ::-1]])
    result = tc.recover(
        tc.Volume(frames, axes="TZYX"), axial_factor=2, cache=tmp_path / "p", keep_samples=True, **QUICK
    )
    assert result.samples.shape == (2, 2, 25, 24, 26)
    assert sorted(folder.name for folder in (tmp_path / "p").iterdir()) == ["T-0", "T-1"]
    assert sum("prior fitted" in note for note in result.notes) == 2
    again = tc.recover(tc.Volume(frames, axes="TZYX"), axial_factor=2, cache=tmp_path / "p", **QUICK)
    assert sum("fitted earlier" in note for note in again.notes) == 2
    np.testing.assert_array_equal(again.volume.data, result.volume.data)


def test_a_cache_is_gone_on_with_whenever_a_run_on_it_was_killed(truth: np.ndarray, tmp_path: Path) -> None:
    """Killed while it wrote the prior, and after that, while it removed the state of the fit."""
    cache = tmp_path / "prior"
    cache.mkdir()
    (cache / ".diffusion_pytorch_model.safetensors.part").write_text("cut off")
    (cache / ".config.json.part").write_text("cut off")
    first = tc.recover(truth[::2], axial_factor=2, cache=cache, **QUICK)
    assert sorted(path.name for path in cache.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    key = json.loads((cache / "config.json").read_text())["report"]["key"]
    state = tmp_path / f"prior.{key}.state"
    state.mkdir()
    (state / "training_state.safetensors").write_text("what is left of it")
    second = tc.recover(truth[::2], axial_factor=2, cache=cache, **QUICK)
    np.testing.assert_array_equal(first.volume.data, second.volume.data)
    assert [path.name for path in tmp_path.iterdir()] == ["prior"]
    (cache / "mine.txt").write_text("mine")
    with pytest.raises(tc.InputError, match="got a folder of something else"):
        tc.recover(truth[::2], axial_factor=2, cache=cache, **QUICK)


def test_a_cached_prior_is_taken_again(truth: np.ndarray, tmp_path: Path) -> None:
    first = tc.recover(truth[::2], axial_factor=2, cache=tmp_path / "prior", **QUICK)
    second = tc.recover(truth[::2], axial_factor=2, cache=tmp_path / "prior", **QUICK)
    assert f"prior {tmp_path / 'prior'}, fitted earlier" in second.notes
    np.testing.assert_array_equal(first.volume.data, second.volume.data)
    given = tc.recover(truth[::2], axial_factor=2, prior=tmp_path / "prior", **QUICK)
    np.testing.assert_allclose(given.volume.data, first.volume.data, atol=1e-3)
    loaded = LateralPrior.load(tmp_path / "prior")
    np.testing.assert_allclose(
        tc.recover(truth[::2], axial_factor=2, prior=loaded, **QUICK).volume.data, first.volume.data, atol=1e-3
    )
    with pytest.raises(tc.InputError, match="this stack and these options"):
        tc.recover(truth[::4], axial_factor=4, cache=tmp_path / "prior", **QUICK)


def test_a_cached_prior_for_noise_is_taken_again(truth: np.ndarray, tmp_path: Path) -> None:
    noisy = truth + 10 * np.random.default_rng(1).standard_normal(truth.shape).astype(np.float32)
    first, second = (tc.recover(noisy, noise=10.0, cache=tmp_path / "p", **QUICK) for _ in range(2))
    assert "prior for noise fitted in 3 steps (all steps done)" in first.notes
    assert f"prior {tmp_path / 'p' / 'noise'}, fitted earlier" in second.notes
    np.testing.assert_allclose(second.volume.data, first.volume.data, atol=1e-3)
    with pytest.raises(tc.InputError, match="got that of others"):
        tc.recover(noisy + 1, noise=10.0, cache=tmp_path / "p", **QUICK)


def test_an_interrupted_fit_goes_on(truth: np.ndarray, tmp_path: Path) -> None:
    options = QUICK | {"fit_steps": 6, "cache": tmp_path / "prior"}

    def interrupt(record, state):
        if record.stage == "prior" and state.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tc.recover(truth[::2], axial_factor=2, callback=interrupt, **options)
    steps: list[int] = []

    def watch(record, state):
        if record.stage == "prior" and state.step:
            steps.append(state.step)

    resumed = tc.recover(truth[::2], axial_factor=2, callback=watch, **options)
    assert steps == [5, 6]
    straight = tc.recover(truth[::2], axial_factor=2, **(options | {"cache": None}))
    np.testing.assert_array_equal(resumed.volume.data, straight.volume.data)
    assert [path.name for path in tmp_path.iterdir()] == ["prior"]


def test_a_callback_ends_the_fit_and_then_the_samples(truth: np.ndarray) -> None:
    options = QUICK | {"fit_steps": 50, "samples": 8}

    def stop(record, state):
        return isinstance(state, Stage) and state.step == 2

    result = tc.recover(truth[::2], axial_factor=2, callback=stop, **options)
    told = "\n".join(result.notes)
    assert "in 2 steps (stopped by the caller)" in told
    assert "spread needs two samples" in told
    assert np.isfinite(result.uncertainty).all()


def test_uneven_planes_are_left_to_kriging(truth: np.ndarray) -> None:
    stack = truth.copy()
    stack[[1, 2, 6]] = np.nan
    result = tc.recover(stack, **QUICK)
    assert (
        "not evenly spaced: a prior cannot fill the planes between them, which were interpolated instead"
        in "\n".join(result.notes)
    )


def test_planes_at_any_distance_are_left_to_kriging(truth: np.ndarray) -> None:
    options = {"spacing": (1.5, 0.5, 0.5), "spacing_z": 1.0}
    result, plain = tc.recover(truth[::2], **options, **QUICK), tc.recover(truth[::2], **options)
    said = "no whole number of wanted planes apart: a prior cannot fill the planes between them, which were"
    assert said in "\n".join(result.notes)
    np.testing.assert_array_equal(result.volume.data, plain.volume.data)


def test_gaps_alone_are_left_to_local(truth: np.ndarray) -> None:
    part = truth[:8, :24, :24]
    stack = np.where(np.random.default_rng(4).random(part.shape) < 0.3, np.nan, part)
    result, plain = (tc.recover(stack, rank=(2, 3, 3), **options) for options in (QUICK, {"method": "auto"}))
    assert "a prior adds nothing" in "\n".join(result.notes)
    np.testing.assert_array_equal(result.volume.data, plain.volume.data)


def test_few_planes_are_left_to_kriging(truth: np.ndarray) -> None:
    result = tc.recover(truth[:9:4], axial_factor=4, **QUICK)
    assert "3 measured planes are too few to judge a prior" in "\n".join(result.notes)
    assert result.samples is None


def test_memory_that_is_short_makes_the_pieces_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(diffusion, "free_memory", lambda device: 4 << 20)
    assert diffusion.slices_that_fit((81, 86, 94), said.append) < 8
    assert said[0].startswith("memory is short (4 MiB free): ")
    monkeypatch.setattr(diffusion, "free_memory", lambda device: 8 << 30)
    assert diffusion.slices_that_fit((81, 86, 94), said.append) == 8
    monkeypatch.setattr(diffusion, "free_memory", lambda device: None)
    assert diffusion.slices_that_fit((81, 86, 94), said.append) == 8
    assert len(said) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "whole number of at least 1 as samples, got 0"),
        ({"steps": 1.5}, r"whole number of at least 1 as steps, got 1\.5"),
        ({"fit_steps": 0}, "whole number of at least 1 as fit_steps, got 0"),
        ({"guidance": "data,magic"}, "guidance among data, tucker, smooth, lateral, got 'magic'"),
        ({"prior": 7}, "expected a LateralPrior, a path or None as prior, got int"),
        ({"prior": "nowhere"}, "expected a prior with config.json and .*, got no such file"),
    ],
)
def test_bad_options(truth: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(tc.InputError, match=message):
        tc.recover(truth[::2], axial_factor=2, **(QUICK | options))


def test_priors_that_do_not_fit(truth: np.ndarray, tmp_path: Path) -> None:
    def refused(message: str, prior: object, **options: object) -> None:
        with pytest.raises(tc.InputError, match=message):
            tc.recover(truth[::2], axial_factor=2, prior=prior, **QUICK, **options)

    refused("expected a prior for axial factor 2, got one for 4", LateralPrior(SliceNetwork(TINY), axial_factor=4))
    two = SliceNetworkConfig(widths=(8,), blocks=1, channels=2, condition_channels=3)
    colour = LateralPrior(SliceNetwork(two), axial_factor=2)
    refused("this prior is for 2 channel", colour)
    colour.save(tmp_path / "colour")
    refused("this prior is for 2 channel", tmp_path / "colour")
    good = LateralPrior(SliceNetwork(TINY), axial_factor=2)
    good.save(tmp_path / "cut")
    whole = (tmp_path / "cut" / WEIGHTS).read_bytes()
    (tmp_path / "cut" / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    refused("expected complete safetensors, got a truncated or foreign file", tmp_path / "cut")
    (tmp_path / "cut" / WEIGHTS).unlink()
    torch.save(good.network.state_dict(), tmp_path / "cut" / "weights.pt")
    refused("got a pickle, which is refused unless allowed", tmp_path / "cut")
    allowed = tc.recover(truth[::2], axial_factor=2, prior=tmp_path / "cut", allow_pickle=True, **QUICK)
    assert f"prior {tmp_path / 'cut'}" in allowed.notes


def test_without_torch_one_line_names_the_extra(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torch" else found(name, *a))
    message = r'method "diffusion": expected torch 2\.4 or newer \(pip install "tensorcell\[diffusion\]"\), found none'
    with pytest.raises(tc.InputError, match=message):
        tc.recover(truth[::2], axial_factor=2, **QUICK)


def test_options_of_another_method_are_unknown(truth: np.ndarray) -> None:
    with pytest.raises(TypeError, match="samples"):
        tc.recover(truth, method="local", samples=3)


def test_command_line(
    truth: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tc.write("in.tif", tc.Volume(truth[::2], spacing=(2.0, 0.5, 0.5)))

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["tensorcell", "recover", "in.tif", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    few = ("--samples", "2", "--steps", "2", "--fit-steps", "3")
    command = ("out.tif", "--axial-factor", "2", "--method", "diffusion", *few, "--cache", "prior", "--json")
    assert run(*command, "--invented", "invented.tif", "--uncertainty", "u.tif", "--guidance", "data,tucker") == 0
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert any("prior fitted to" in note for note in facts["notes"])
    assert "fitting a prior to 13 planes of 24 x 26: about" in printed.err
    invented = tc.read("invented.tif")
    assert invented.spacing == (1.0, 0.5, 0.5)
    assert float(invented.data[::2].max()) == 0
    assert float(invented.data[1::2].min()) > 0
    assert (tmp_path / "prior" / "config.json").exists()
    assert run("out2.tif", "--samples", "3") == 2
    assert "expected --method diffusion or microdiffuse3d with --samples, got --method auto" in capsys.readouterr().err
    assert run("out2.tif", "--method", "diffusion", "--samples", "0", "--axial-factor", "2") == 2
    assert "whole number of at least 1 as samples, got 0" in capsys.readouterr().err
    assert run("out2.tif", "--invented", "in.tif") == 2
    assert "expected another file for --invented than for IN" in capsys.readouterr().err
    assert not (tmp_path / "out2.tif").exists()


def test_invented_is_the_share_of_variance_left_open() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((20, 40, 40))
    share = share_left_open(values, np.full(values.shape, 2.0))
    # Variance 1 about a voxel, 4 left open; some 180 voxels count in a window.
    assert float(np.median(share)) == pytest.approx(0.8, abs=0.01)
    assert (share_left_open(values, np.zeros_like(values)) == 0).all()
    assert (share_left_open(np.ones((4, 9, 9)), np.ones((4, 9, 9))) == 1).all()


def test_invented_names_gaps_and_replaced_voxels_alone(truth: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    stack = truth.copy()
    gaps = rng.random(stack.shape) < 0.3
    stack[gaps] = np.nan
    hot = (12, 10, 10)
    stack[hot] = 5000.0
    result = tc.recover(stack, method="local")
    assert result.outliers[hot] != 0
    assert result.invented[hot] > 0
    flagged = result.outliers != 0
    assert (result.invented[~gaps & ~flagged] == 0).all()
    assert (result.invented[gaps] > 0).all()


def test_gaps_do_not_count_in_the_weight(truth: np.ndarray) -> None:
    """Completed voxels carry no noise: counted like the others they would feign a slope far above the true one."""
    rng = np.random.default_rng(6)
    few, many = (rng.random(truth.shape) < share for share in (0.03, 0.3))
    noisy = truth + 10 * rng.standard_normal(truth.shape).astype(np.float32)
    told = tc.recover(np.where(few, np.nan, noisy), noise=10.0, **QUICK).notes
    assert any(note.startswith("denoised volume: ") for note in told)
    told = tc.recover(np.where(many, np.nan, noisy), noise=10.0, **QUICK).notes
    said = "no prior for noise was used: 30% of the voxels were not measured, and where more than 5% are not"
    assert any(note.startswith(said) for note in told)


def test_noisy_planes_with_a_cache_twice(truth: np.ndarray, tmp_path: Path) -> None:
    noisy = truth + 5 * np.random.default_rng(1).standard_normal(truth.shape).astype(np.float32)
    options = QUICK | {"noise": 5.0, "axial_factor": 2, "cache": tmp_path / "p"}
    first, second = (tc.recover(noisy[::2], **options) for _ in range(2))
    assert sum("fitted earlier" in note for note in second.notes) == 2
    np.testing.assert_allclose(second.volume.data, first.volume.data, rtol=1e-3)


def test_a_fit_that_was_stopped_is_not_kept_as_final(truth: np.ndarray, tmp_path: Path) -> None:
    options = QUICK | {"fit_steps": 6, "axial_factor": 2, "cache": tmp_path / "p"}
    tc.recover(truth[::2], callback=lambda r, s: r.stage == "prior" and s.step == 2, **options)
    assert not (tmp_path / "p" / "config.json").exists()
    resumed = tc.recover(truth[::2], **options)
    assert "prior fitted to 13 planes of 24 x 26 in 6 steps (all steps done)" in resumed.notes
    with pytest.raises(tc.InputError, match="these options"):
        tc.recover(truth[::2], **(options | {"fit_steps": 7}))


@pytest.mark.parametrize("noise", ["auto", 5.0])
def test_a_large_offset_in_float64_costs_nothing(truth: np.ndarray, noise: object) -> None:
    stack = truth[::2] + 5 * np.random.default_rng(1).standard_normal(truth[::2].shape) * (noise != "auto")
    plain = tc.recover(stack.astype(np.float64), axial_factor=2, noise=noise, **QUICK)
    far = tc.recover(stack.astype(np.float64) + 2.0**30, axial_factor=2, noise=noise, **QUICK)
    assert far.volume.dtype == np.float64
    # The core of the fit and its stopping differ in rounding; without the shift errors would be of the size of 64.
    assert np.abs(far.volume.data - 2.0**30 - plain.volume.data).max() < 5.0


def test_frames_without_samples_stand_as_they_are(truth: np.ndarray) -> None:
    frames = np.stack([truth[::2], np.full_like(truth[::2], 7.0)])
    result = tc.recover(tc.Volume(frames, axes="TZYX"), axial_factor=2, keep_samples=True, **QUICK)
    assert result.samples.shape == (2, 2, 25, 24, 26)
    assert (result.samples[:, 1] == 7).all()


def test_a_prior_that_was_not_used_is_named(truth: np.ndarray) -> None:
    prior = LateralPrior(SliceNetwork(TINY), axial_factor=2)
    noisy = truth + 10 * np.random.default_rng(1).standard_normal(truth.shape).astype(np.float32)
    told = tc.recover(noisy, noise=10.0, prior=prior, **QUICK).notes
    assert any(note.startswith("the prior given was not used: this stack has nothing for it to do (") for note in told)
    told = tc.recover(truth[::2], axial_factor=2, prior=prior, **QUICK).notes
    assert not any("not used" in note for note in told)


def test_caches_and_configs_that_cannot_be_used(truth: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(tc.InputError, match="expected a folder or a new name as cache, got a file"):
        tc.recover(truth[::2], axial_factor=2, cache=tmp_path / "file", **QUICK)
    LateralPrior(SliceNetwork(TINY), axial_factor=2).save(tmp_path / "p")
    config = json.loads((tmp_path / "p" / "config.json").read_text())
    for name, value in (("report", None), ("location", "x")):
        (tmp_path / "p" / "config.json").write_text(json.dumps(config | {name: value}))
        with pytest.raises(tc.InputError, match=f"got {name} of another kind"):
            tc.recover(truth[::2], axial_factor=2, prior=tmp_path / "p", **QUICK)
    with pytest.raises(tc.InputError, match="seed below"):
        tc.recover(truth[::2], axial_factor=2, seed=2**40, **QUICK)


def test_time_left_is_that_of_the_stage(truth: np.ndarray) -> None:
    seen: dict[str, list[tuple[float, Stage]]] = {}

    def watch(record, state):
        if isinstance(state, Stage) and state.step:
            seen.setdefault(record.stage, []).append((record.seconds, state))

    tc.recover(truth[::2], axial_factor=2, callback=watch, **(QUICK | {"samples": 4, "steps": 3}))
    first_seconds, first = seen["samples"][0]
    assert (first_seconds, first) == (0.0, Stage(1, 12))
    assert [state.step for _, state in seen["samples"]] == list(range(1, 13))
