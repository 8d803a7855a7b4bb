"""``tensorcell train``: a folder that is a prior, whole or not at all; one line for what it cannot use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the diffusion extra: torch")
pytest.importorskip("safetensors", reason="needs the diffusion extra: safetensors")

from scipy.ndimage import gaussian_filter  # noqa: E402

import tensorcell as tc  # noqa: E402
from tensorcell import prior_training as train_command  # noqa: E402
from tensorcell.diffusion_guidance import batches, training  # noqa: E402
from tensorcell.diffusion_guidance.networks import SliceNetwork, SliceNetworkConfig  # noqa: E402
from tensorcell.diffusion_guidance.priors import CONFIG, WEIGHTS, LateralPrior, VolumePrior  # noqa: E402
from tensorcell.progress import ProgressBar  # noqa: E402
from tensorcell.solvers import estimate_noise  # noqa: E402


def smooth(planes: int, side: int, seed: int = 0) -> np.ndarray:
    volume = gaussian_filter(np.random.default_rng(seed).standard_normal((planes, side, side)), (0, 2, 2))
    return (100 + 50 * volume / volume.std()).astype(np.float32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small pieces and a small network for volumes, and two stacks to fit to."""
    monkeypatch.setattr(batches, "SIDE", 16)
    monkeypatch.setattr(batches, "PIECE_SIDE", 8)
    monkeypatch.setattr(training, "VOLUME_CONFIG", SliceNetworkConfig(widths=(8,), blocks=1, dimensions=3))
    np.save(tmp_path / "one.npy", smooth(6, 24))
    np.save(tmp_path / "two.npy", smooth(9, 30, seed=1))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def weights(folder: Path) -> list[Any]:
    return list(LateralPrior.load(folder).network.parameters())


def same(one: list[Any], other: list[Any]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def interrupt_at(monkeypatch: pytest.MonkeyPatch, wanted: int) -> None:
    real = ProgressBar.update

    def update(self: ProgressBar, record: Any, state: Any = None) -> None:
        if record.iteration == wanted:
            raise KeyboardInterrupt
        real(self, record, state)

    monkeypatch.setattr(ProgressBar, "update", update)


def test_a_prior_of_two_stacks(train: Any, tmp_path: Path) -> None:
    options = ("--axial-factor", "2", "--steps", "2", "--noise", "0", "--json")
    status, out, err = train("one.npy", "two.npy", "--out", "prior", *options)
    assert status == 0, err
    facts = json.loads(out)
    assert facts["inputs"] == ["one.npy", "two.npy"]
    assert (facts["kind"], facts["axial_factor"], facts["steps"], facts["noise"]) == ("lateral", 2, 2, [0, 0])
    assert "prior: fitting a lateral prior to 2 stacks: about" in err
    assert "for 2 steps" in err
    assert "MiB of memory" in err
    assert names(tmp_path) == ["one.npy", f"prior/{CONFIG}", f"prior/{WEIGHTS}", "two.npy"]
    assert not (tmp_path / "prior.state").exists()
    prior = LateralPrior.load(tmp_path / "prior")
    straight = training.fit_lateral_prior(
        [smooth(6, 24), smooth(9, 30, seed=1)], axial_factor=2, stretch=prior.stretch, steps=2
    )
    assert same(weights(tmp_path / "prior"), list(straight.network.parameters()))
    assert (prior.location, prior.scale) == (straight.location, straight.scale)


def test_a_prior_of_volumes_and_its_summary(train: Any, tmp_path: Path) -> None:
    status, out, err = train("two.npy", "--out", "prior", "--kind", "volume", "--minutes", "0.005", "--seed", "3")
    assert status == 0, err
    assert "fitting a volume prior to 9 x 30 x 30: 0 s for about" in err
    assert "prior: volume prior for axial factor 1" in out
    assert out.endswith("time is up\n")
    assert VolumePrior.load(tmp_path / "prior").report["steps"] >= 1


def test_quiet_says_nothing(train: Any) -> None:
    assert train("one.npy", "--out", "prior", "--steps", "1", "--quiet") == (0, "", "")


def test_frames_are_stacks_of_their_own(train: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "series.npy", np.stack([smooth(4, 20), smooth(4, 20, seed=2)]))
    status, out, err = train("series.npy", "--axes", "TZYX", "--out", "prior", "--steps", "1", "--json")
    assert status == 0, err
    assert json.loads(out)["inputs"] == ["series.npy T=0", "series.npy T=1"]


def test_noise_is_told_from_the_data(train: Any, tmp_path: Path) -> None:
    noisy = smooth(12, 64) + np.random.default_rng(1).normal(0, 10, (12, 64, 64)).astype(np.float32)
    np.save(tmp_path / "noisy.npy", noisy)
    status, out, err = train("noisy.npy", "--out", "prior", "--steps", "1", "--json")
    assert status == 0, err
    facts = json.loads(out)
    assert facts["noise"] == [estimate_noise(noisy).sigma]
    scale = (noisy.var(dtype=np.float64) - facts["noise"][0] ** 2) ** 0.5
    assert facts["lowest_level"] == pytest.approx(1.1 * 2**0.5 * facts["noise"][0] / scale)


def test_interrupted_and_gone_on_from(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--axial-factor", "2", "--steps", "6", "--noise", "0", "--quiet")
    assert train("one.npy", "--out", "straight", *options)[0] == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        status, out, err = train("one.npy", "--out", "prior", *options)
    expected = "tensorcell: interrupted at step 3; the same command with --resume goes on from the state in prior.state"
    assert (status, out) == (130, "")
    assert err == f"{expected}\n"
    assert not (tmp_path / "prior").exists()
    assert sorted(path.name for path in (tmp_path / "prior.state").iterdir()) == sorted(train_command.STATE_FILES[:3])

    status, _, err = train("one.npy", "--out", "prior", *options)
    assert status == 2
    assert err.count("\n") == 1
    assert "an interrupted fit lies there; expected --resume to go on from it, or delete it" in err
    for other, message in (
        (("two.npy", "--axial-factor", "2"), r"expected IN ['one.npy'] as in that fit, got ['two.npy']"),
        (("one.npy", "--axial-factor", "3"), "expected --axial-factor 2 as in that fit, got 3"),
        (("one.npy", "--axial-factor", "2", "--seed", "1"), "expected --seed 0 as in that fit, got 1"),
        (("one.npy", "--axial-factor", "2", "--kind", "volume"), "expected --kind lateral as in that fit, got volume"),
    ):
        status, _, err = train(*other, "--steps", "6", "--out", "prior", "--resume")
        assert (status, err.count("\n")) == (2, 1)
        assert message in err

    status, _, err = train("one.npy", "--out", "prior", *options, "--resume")
    assert (status, err) == (0, "")
    assert not (tmp_path / "prior.state").exists()
    assert same(weights(tmp_path / "prior"), weights(tmp_path / "straight"))


def test_interrupted_before_the_fit(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit_lateral_prior", interrupted)
    status, _, err = train("one.npy", "--out", "prior", "--steps", "2", "--quiet")
    assert status == 130
    assert err == "tensorcell: interrupted before the fit; nothing was written\n"
    assert names(tmp_path) == ["one.npy", "two.npy"]


def test_an_earlier_prior_is_replaced_or_stays_whole(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--out", "prior", "--noise", "0", "--quiet")
    assert train("one.npy", "--steps", "1", *options)[0] == 0
    first = weights(tmp_path / "prior")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        assert train("two.npy", "--steps", "3", *options)[0] == 130
    assert same(weights(tmp_path / "prior"), first)
    assert train("two.npy", "--steps", "3", *options, "--resume")[0] == 0
    second = weights(tmp_path / "prior")
    assert not same(second, first)

    real, calls = train_command.os.replace, []

    def fails(source: Any, target: Any) -> None:
        if Path(target).name == "prior":
            calls.append(source)
            if len(calls) == 1:
                raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(train_command.os, "replace", fails)
    status, _, err = train("one.npy", "--steps", "1", *options)
    assert status == 2
    said = "prior: cannot be written: No space left on device; the same command with --resume goes on from the state in"
    assert err == f"tensorcell: {said} prior.state\n"
    assert same(weights(tmp_path / "prior"), second)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tensorcell")]
    assert train("one.npy", "--steps", "1", *options, "--resume")[0] == 0  # what was fitted is not lost
    assert same(weights(tmp_path / "prior"), first)
    assert names(tmp_path) == ["one.npy", f"prior/{CONFIG}", f"prior/{WEIGHTS}", "two.npy"]


def test_a_disk_that_does_not_take_the_state_leaves_nothing_behind(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_bytes

    def fails(self: Path, content: bytes) -> int:
        real(self, content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fails)
    status, out, err = train("one.npy", "--out", "prior", "--steps", "1", "--noise", "0", "--quiet")
    assert (status, out, err) == (2, "", "tensorcell: prior: cannot be written: No space left on device\n")
    assert names(tmp_path) == ["one.npy", "two.npy"]
    assert not (tmp_path / "prior.state").exists()


@pytest.mark.parametrize("good_steps", [0, 30])
def test_a_loss_that_is_not_finite(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good_steps: int
) -> None:
    real = training.TrainingState.advance

    def advance(self: Any, batch: Any, rate: float) -> float:
        return real(self, batch, rate) if self.step < good_steps else float("nan")

    monkeypatch.setattr(training.TrainingState, "advance", advance)
    status, out, err = train("one.npy", "--out", "prior", "--steps", "60", "--quiet")
    if good_steps == 0:
        assert (status, out) == (2, "")
        assert err == "tensorcell: the loss must be finite, got nan at step 1\n"
        assert names(tmp_path) == ["one.npy", "two.npy"]
        return
    assert status == 0
    assert err == "tensorcell: prior: the loss was not finite at step 31: last good state kept and written\n"
    assert all(bool(each.isfinite().all()) for each in weights(tmp_path / "prior"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one.npy", "--out", "p", "--kind", "axial"), "expected --kind lateral or volume or microdiffuse3d or"),
        (("one.npy", "--out", "p", "--axial-factor", "0"), "expected --axial-factor of at least 1, got 0"),
        (("one.npy", "--out", "p", "--steps", "0"), "expected --steps of at least 1, got 0"),
        (("one.npy", "--out", "p", "--steps", "1", "--minutes", "1"), "expected --minutes or --steps, got both"),
        (("one.npy", "--out", "p", "--minutes", "0"), "expected --minutes above 0, got 0"),
        (("one.npy", "--out", "p", "--minutes", "nan"), "expected --minutes above 0, got nan"),
        (("one.npy", "--out", "p", "--noise", "-1"), "expected --noise of at least 0, got -1"),
        (("one.npy", "--out", "p", "--noise", "much"), "expected a number for --noise, got 'much'"),
        (("one.npy", "--out", "p", "--noise", "70"), "one.npy: expected contrast beyond its noise, got 50"),
        (("one.npy", "--out", "one.npy"), "one.npy: expected another path for --out than for IN, got the same"),
        (("one.npy", "--out", "two.npy"), "two.npy: expected a folder or a new name for the prior, got a file"),
        (("one.npy", "--out", "other"), "other: expected a prior of an earlier fit or a new name, got a folder of"),
        (("one.npy", "--out", "model"), "model: expected a prior of an earlier fit or a new name, got a folder of"),
        (("one.npy", "--out", "no/p"), "does not exist"),
        (("one.npy", "--out", "p", "--resume"), "p.state: expected an interrupted fit to go on from, found none"),
        (("one.npy", "--out", "q"), "q.state: expected the state of a fit or nothing there, got something else"),
        (("none.npy", "--out", "p"), "none.npy: no such file"),
        (("colour.npy", "--axes", "CZYX", "--out", "p"), "colour.npy: expected one channel, got 2"),
        (("thin.npy", "--out", "p"), "thin.npy: planes must be at least 8 x 8, got 5 x 24"),
        (("flat.npy", "--out", "p"), "flat.npy: expected contrast beyond its noise, got 0"),
        (("one.npy", "--out", "p", "--kind", "volume"), "one.npy: volume must be at least 8 x 8 x 8, got 6 x 24 x 24"),
    ],
)
def test_bad_input_is_one_line_and_loses_nothing(
    train: Any, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    np.save(tmp_path / "colour.npy", np.stack([smooth(3, 16)] * 2))
    np.save(tmp_path / "thin.npy", smooth(6, 24)[:, :5])
    np.save(tmp_path / "flat.npy", np.ones((4, 9, 9), np.float32))
    for folder, name in (("other", "mine.txt"), ("q.state", "mine.txt")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("mine")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / CONFIG).write_text('{"_class_name": "UNet2DModel"}')
    before = names(tmp_path)
    status, out, err = train(*arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert names(tmp_path) == before
    assert not (tmp_path / "p.state").exists()


def test_a_prior_with_something_else_beside_it_is_not_replaced(train: Any, tmp_path: Path) -> None:
    LateralPrior(SliceNetwork(SliceNetworkConfig(widths=(8,), blocks=1))).save(tmp_path / "prior")
    (tmp_path / "prior" / "notes.txt").write_text("mine")
    status, _, err = train("one.npy", "--out", "prior")
    assert status == 2
    assert "got a folder of something else" in err


def test_an_empty_folder_becomes_the_prior(train: Any, tmp_path: Path) -> None:
    (tmp_path / "prior").mkdir()
    assert train("one.npy", "--out", "prior", "--steps", "1", "--quiet")[0] == 0
    assert LateralPrior.load(tmp_path / "prior").report["steps"] == 1


def test_a_broken_state_is_one_line(train: Any, tmp_path: Path) -> None:
    (tmp_path / "prior.state").mkdir()
    (tmp_path / "prior.state" / "training_state.json").write_text("{")
    status, _, err = train("one.npy", "--out", "prior", "--steps", "2", "--resume", "--quiet")
    assert status == 2
    assert err.count("\n") == 1
    assert "training_state.json: expected JSON, got something else" in err


def test_without_torch(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorcell.cli import app  # noqa: F401  (before torch is hidden: what is loaded then stays)

    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("tensorcell.diffusion_guidance")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(tc, "diffusion_guidance", raising=False)
    status, out, err = train("one.npy", "--out", "prior")
    assert (status, out) == (2, "")
    assert err == 'tensorcell: expected torch 2.4 or newer (pip install "tensorcell[diffusion]"), found none\n'


def test_a_part_is_learnt_from_as_if_it_were_a_file(tmp_path: Path, train: Any) -> None:
    np.save(tmp_path / "part.npy", np.load(tmp_path / "two.npy")[2:8, 3:27, :24])
    for source, more, out in (("two.npy", ("--crop", "2:8,3:27,:24"), "cropped"), ("part.npy", (), "whole")):
        assert train(source, "--out", out, "--steps", "2", "--noise", "1", "-q", *more)[0] == 0
    assert same(weights(tmp_path / "cropped"), weights(tmp_path / "whole"))


def test_a_preview_says_what_it_takes_and_what_a_whole_fit_takes(
    tmp_path: Path, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_command, "PREVIEW_VOXELS", 9 * 28 * 28)
    monkeypatch.setattr("tensorcell.cropping.FEWEST_PIXELS", 28)
    monkeypatch.setattr(train_command, "PREVIEW_MINUTES", 0.001)
    status, _, err = train("two.npy", "--out", "prior", "--preview")
    assert status == 0
    assert "two.npy: preview: only 0:9, 1:29, 1:29 (ZYX) of 9 x 30 x 30 was read, as by --crop 0:9,1:29,1:29\n" in err
    assert "to 9 x 28 x 28: " in err
    assert ", a whole fit 5 min for about " in err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--crop", "9:,:,:"), "two.npy: --crop 9:,:,: takes nothing along Z, of 9"),
        (("--crop", ":,:,:", "--preview"), "expected --crop or --preview, got both"),
        (("--kind", "care", "--low", "one.npy", "--crop", ":,:,:"), "expected neither --crop nor --preview with --low"),
    ],
)
def test_a_wrong_part_is_refused(train: Any, more: tuple[str, ...], said: str) -> None:
    status, out, err = train("two.npy", "--out", "prior", *more)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_the_command_line_loads_without_torch() -> None:
    code = "import sys, tensorcell, tensorcell.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
