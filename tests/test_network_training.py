"""``tensorcell train`` for networks: volumes and pairs in, folders out, interrupted and gone on from."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from small_networks import shrink_networks

torch = pytest.importorskip("torch", reason="needs the extra 'diffusion'")

import tensorcell  # noqa: E402
from tensorcell import network_training, recover  # noqa: E402
from tensorcell.datasets import simulate_cells  # noqa: E402
from tensorcell.diffusion_guidance.baselines.fitting import load_baseline, restore_by_baseline  # noqa: E402
from tensorcell.diffusion_guidance.microdiffuse3d import Degradation, load_model  # noqa: E402
from tensorcell.network_training.losses import LossTable  # noqa: E402
from tensorcell.progress import ProgressBar  # noqa: E402

SCAN = ("--axial-factor", "2", "--lateral-factor", "2", "--photons", "200", "--read-noise", "0.01")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small pieces, few samples, and two stacks to fit to."""
    shrink_networks(monkeypatch)
    for seed in range(2):
        cells = simulate_cells((8, 40, 32), cells=8, seed=seed).truth
        tifffile.imwrite(
            tmp_path / f"{seed}.tif", (300 * cells).astype(np.uint16), imagej=True, metadata={"axes": "ZYX"}
        )


def weights(folder: Path) -> list[Any]:
    parts = load_model(folder).parts
    assert parts.decoder is not None
    return [*parts.network.parameters(), *parts.decoder.parameters(), *parts.autoencoder.parameters()]


def losses(folder: Path) -> list[list[str]]:
    with (folder / "losses.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_all_stages_from_stacks_to_a_restored_scan(train: Any, tmp_path: Path) -> None:
    arguments = ("0.tif", "1.tif", "--kind", "microdiffuse3d", "--steps", "2", *SCAN, "--masked", "0.3")
    status, out, err = train(*arguments, "--out", "model", "--json")
    assert status == 0, err
    facts = json.loads(out)
    assert facts["inputs"] == ["0.tif", "1.tif"]
    assert (facts["axial_factor"], facts["lateral_factor"], facts["pairs"]) == (2, 2, 0)
    assert {name: stage["steps"] for name, stage in facts["stages"].items()} == {"vae": 2, "pretrain": 2, "decoder": 2}
    assert facts["heldout_error"] > 0
    model = load_model(tmp_path / "model")
    assert model.acquisition == Degradation(axial_factor=2, lateral_factor=2, photons=200.0, read_noise=0.01)
    assert model.parts.network.config.depth_ratios == (1, 2)
    assert model.held_out is not None
    rows = losses(tmp_path / "model")
    assert rows[0] == ["stage", "step", "loss", "heldout"]
    assert [row[:2] for row in rows[1:]] == [[s, n] for s in ("vae", "pretrain", "decoder") for n in ("1", "2")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tif", "1.tif", "model"]
    scan = simulate_cells((4, 20, 16), cells=5, seed=7).truth
    result = recover(
        scan, axial_factor=2, lateral_factor=2, method="microdiffuse3d", weights=tmp_path / "model", samples=1, steps=1
    )
    assert result.volume.shape == (7, 40, 32)
    status, out, err = train(*arguments, "--out", "model")  # an earlier model is replaced
    assert status == 0, err
    assert "model: microdiffuse3d, stage all" in out
    assert "times that of linear interpolation" in out
    assert "times that of auto" in out


def test_a_command_that_was_interrupted_goes_on_as_if_it_had_not_been(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("0.tif", "--kind", "microdiffuse3d", "--steps", "4", *SCAN)
    assert train(*arguments, "--out", "whole", "--quiet")[0] == 0
    real = ProgressBar.update

    def update(self: ProgressBar, record: Any, state: Any = None) -> None:
        if (record.stage, record.iteration) == ("pretrain", 3):
            raise KeyboardInterrupt
        real(self, record, state)

    with monkeypatch.context() as patched:
        patched.setattr(ProgressBar, "update", update)
        status, _, err = train(*arguments, "--out", "cut")
    assert status == 130
    assert "interrupted at estimate step 4, pretrain step 3, vae step 4; the same command with --resume goes on" in err
    assert "the state in cut.state" in err
    assert not (tmp_path / "cut").exists()
    status, _, err = train(*arguments, "--out", "cut")
    assert "expected --resume to go on from it" in err
    status, _, err = train(*arguments, "--out", "cut", "--photons", "300", "--resume")
    assert "expected --photons 200.0 as in that fit, got 300.0" in err
    status, _, err = train(*arguments, "--out", "cut", "--resume")
    assert status == 0, err
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(weights(tmp_path / "cut"), weights(tmp_path / "whole"), strict=True))
    assert not (tmp_path / "cut.state").exists()


def test_stages_one_by_one_on_published_cubes(train: Any, tmp_path: Path) -> None:
    """The file of the user is not written to."""
    rng = np.random.default_rng(0)
    high = np.stack([simulate_cells((8, 32, 32), cells=6, seed=seed).truth for seed in range(3)]).astype(np.float32)
    with h5py.File(tmp_path / "cubes.h5", "w") as file:
        file["hr_cube"], file["lr_cube"] = high, high[:, ::4] + rng.normal(0, 0.1, high[:, ::4].shape)
    before = (tmp_path / "cubes.h5").read_bytes()
    kind = ("--kind", "microdiffuse3d", "--steps", "1", "--quiet")
    for arguments in (
        ("cubes.h5", "--stage", "vae", "--out", "vae"),
        ("cubes.h5", "--stage", "pretrain", "--vae", "vae", "--axial-factor", "4", "--out", "pre"),
        ("cubes.h5", "--stage", "finetune", "--weights", "pre", "--out", "fine"),
        ("cubes.h5", "--stage", "decoder", "--weights", "fine", "--out", "done"),
        ("cubes.h5", "--stage", "distil", "--weights", "done", "--out", "few"),
    ):
        status, _, err = train(*arguments, *kind)
        assert status == 0, err
    assert (tmp_path / "cubes.h5").read_bytes() == before
    pre, fine, done = (load_model(tmp_path / name) for name in ("pre", "fine", "done"))
    assert (pre.parts.decoder, fine.parts.decoder) == (None, None)
    assert done.parts.decoder is not None
    assert done.acquisition.axial_factor == 4
    few = load_model(tmp_path / "few")
    assert few.held_out is not None
    assert few.held_out.steps == 1
    assert few.parts.decoder is not None
    pairs = zip(fine.parts.network.parameters(), done.parts.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    changed = zip(pre.parts.network.parameters(), fine.parts.network.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in changed)


def test_pairs_of_files_and_a_baseline(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)  # which microdiffuse3d alone needs
    for seed in range(2):
        cells = tifffile.imread(tmp_path / f"{seed}.tif").astype(np.float32)
        low = cells[::2].reshape(4, 20, 2, 16, 2).mean(axis=(2, 4))
        tifffile.imwrite(tmp_path / f"low{seed}.tif", low, imagej=True, metadata={"axes": "ZYX"})
    pairs = ("0.tif", "1.tif", "--low", "low0.tif", "--low", "low1.tif", "--axial-factor", "2", "--lateral-factor", "2")
    status, out, err = train(*pairs, "--kind", "care", "--steps", "2", "--out", "care", "--json")
    assert status == 0, err
    assert json.loads(out)["pairs"] == 2
    fitted = load_baseline(tmp_path / "care")
    assert (fitted.name, fitted.acquisition.axial_factor, fitted.acquisition.lateral_factor) == ("care", 2, 2)
    assert max(fitted.acquisition.psf) < 0.5  # the pairs differ in planes and pixels only
    assert "the pairs differ by a PSF of widths" in err
    scan = tifffile.imread(tmp_path / "low0.tif")
    found = restore_by_baseline(scan, fitted)
    assert found.shape == (7, 40, 32)
    assert float(np.corrcoef(found.ravel(), tifffile.imread(tmp_path / "0.tif")[:7].ravel())[0, 1]) > 0.8
    np.testing.assert_allclose(restore_by_baseline(10 * scan + 5, fitted), 10 * found + 5, rtol=1e-3, atol=1)
    status, _, err = train(*pairs[:2], "--low", "low0.tif", "--kind", "care", "--out", "x")
    assert "expected one --low for each IN, got 1 for 2" in err
    status, _, err = train(*pairs, "--kind", "microdiffuse3d", "--out", "x")
    assert 'expected diffusers 0.30 or newer (pip install "tensorcell[diffusion]"), found none' in err


def test_pairs_are_registered_first_on_request(train: Any, tmp_path: Path) -> None:
    """Scans that began two planes, four rows and two columns later give the pairs that aligned ones give."""
    named: list[str] = []
    for seed in range(2):
        cells = simulate_cells((24, 64, 64), cells=24, seed=seed).truth.astype(np.float32)
        high, later = cells[:20], cells[2:, 4:, 2:][:18, :56, :60]
        low = later[::2].reshape(9, 28, 2, 30, 2).mean(axis=(2, 4))
        for name, stack in ((f"high{seed}", high), (f"late{seed}", low)):
            tifffile.imwrite(tmp_path / f"{name}.tif", stack, imagej=True, metadata={"axes": "ZYX"})
        named.append(f"high{seed}.tif")
    scans = ("--low", "late0.tif", "--low", "late1.tif")
    factors = ("--axial-factor", "2", "--lateral-factor", "2", "--kind", "care", "--steps", "2")
    status, out, err = train(*named, *scans, *factors, "--register", "shift", "--out", "care", "--json")
    assert status == 0, err
    found = re.findall(r"lies (-?[\d.]+), (-?[\d.]+), (-?[\d.]+) voxels", err)
    np.testing.assert_allclose(np.array(found, float), [[2, 4, 2]] * 2, atol=0.1)
    assert max(load_baseline(tmp_path / "care").acquisition.psf) < 0.7
    assert json.loads(out)["pairs"] == 2
    others = ("--low", "late1.tif", "--low", "late0.tif")
    status, _, err = train(*named, *others, *factors, "--register", "shift", "--out", "other")
    assert status == 2
    assert "high0.tif: its scan cannot be registered: " in err
    assert len(err.splitlines()) == 1
    status, _, err = train("0.tif", "--kind", "care", "--register", "shift", "--out", "x")
    assert "expected --low scans to register, got none" in err
    status, _, err = train(*named, *scans, *factors, "--register", "affine", "--out", "x")
    assert "expected --register shift or similarity, got 'affine'" in err


def test_a_diffusion_model_as_baseline_draws_by_its_seed(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorcell.diffusion_guidance.baselines import fitting

    monkeypatch.setattr(fitting, "STEPS", 2)
    assert train("0.tif", "--kind", "ddpm", "--steps", "1", *SCAN, "--out", "ddpm", "--quiet")[0] == 0
    scan, fitted = np.random.default_rng(0).random((2, 8, 8)), load_baseline(tmp_path / "ddpm")
    one, two, other = (restore_by_baseline(scan, fitted, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stage", "all", "--weights", "m"), "expected no --weights for stage all, got m"),
        (("--stage", "decoder"), "expected a folder of fitted networks as --weights for stage decoder, got none"),
        (("--stage", "both"), "expected --stage all or vae or pretrain or finetune or decoder or distil, got"),
        (
            ("--stage", "finetune", "--weights", "nowhere"),
            r"nowhere: expected a folder with microdiffuse3d.json, got none",
        ),
        (("--noise", "3"), "expected --photons and --read-noise for networks, got --noise"),
        (("--masked", "1"), "expected --masked from 0 to below 1, got 1"),
        (("--lateral-factor", "0"), "expected --lateral-factor of at least 1, got 0"),
        (("--batch", "0"), "expected --batch of at least 1, got 0"),
        (("--photons", "-1"), "photons and attenuation must be positive, got -1.0"),
        (("--photons", "nan"), "photons and attenuation must be positive, got nan"),
        (("--psf-fwhm", "1,inf,1"), "expected psf_fwhm positive and finite"),
        (("--axial-factor", "9"), "expected volumes of at least 9 voxels along z"),
        (("--size", "huge"), "size 'huge' is unknown, expected one of tiny"),
        (("--vae", "."), "holds no autoencoder that diffusers can read"),
        (("--minutes", "3"), "expected --minutes or --steps, got both"),
        (("--out", "1.tif"), "1.tif: expected a folder or a new name"),
        (("--out", "full"), "full: expected a prior of an earlier fit or a new name, got a folder of something else"),
    ],
)
def test_bad_input_is_one_line_and_loses_nothing(
    train: Any, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    status, _, err = train("0.tif", "--kind", "microdiffuse3d", "--steps", "1", "--out", "model", *arguments)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tif", "1.tif", "full"]
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_volumes_with_gaps_and_scans_of_other_sizes_are_refused(train: Any, tmp_path: Path) -> None:
    gap = tifffile.imread(tmp_path / "0.tif").astype(np.float32)
    gap[1, 2, 3] = np.nan
    np.save(tmp_path / "gap.npy", gap)
    np.save(tmp_path / "other.npy", np.ones((4, 13, 16), np.float32))
    kind = ("--kind", "care", "--steps", "1", "--out", "model")
    assert "gap.npy: expected a complete stack to train with, got 1 gaps" in train("gap.npy", *kind)[2]
    assert (
        "expected a scan whose sides are those of the volume over a whole"
        in train("0.tif", "--low", "other.npy", *kind)[2]
    )
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["hr_cube"] = np.ones((3, 4))
    assert "flat.h5:/hr_cube: expected cubes of shape (N, D, H, W), got (3, 4)" in train("flat.h5", *kind)[2]
    assert "expected neither --stage nor --vae for --kind care" in train("0.tif", *kind, "--stage", "vae")[2]
    assert (
        "expected --kind microdiffuse3d or a baseline with --photons, got --kind lateral"
        in train("0.tif", "--out", "model", "--photons", "3")[2]
    )


def test_a_folder_stands_for_its_stacks(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no stack")
    expected = (str(tmp_path / "0.tif"), str(tmp_path / "1.tif"), "x.npy")
    assert network_training.sources_of([str(tmp_path), "x.npy"]) == expected


def test_a_process_that_is_killed_leaves_a_state_to_go_on_from(tmp_path: Path) -> None:
    """The state is written every few seconds, whole or not at all."""
    script = (
        "import sys; from tensorcell.diffusion_guidance import training_loop; training_loop.SAVE_EVERY = 0.0\n"
        "from tensorcell import cli; cli.main()"
    )
    command = [sys.executable, "-c", script, "train", "0.tif", "--kind", "srcnn", "--out", "net", *SCAN]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--steps", "100000"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    )
    state = tmp_path / "net.state" / "pretrain" / "training_state.json"
    for _ in range(600):
        if state.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    assert not (tmp_path / "net").exists()
    reached = json.loads(state.read_text())["step"]
    request = network_training.ModelRequest(
        sources=("0.tif",), out=tmp_path / "net", kind="srcnn", axial_factor=2, lateral_factor=2, photons=200.0,
        read_noise=0.01, steps=reached + 3, resume=True, quiet=True,
    )  # fmt: skip
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        facts = network_training.train(request)
    finally:
        os.chdir(before)
    assert facts["stages"]["pretrain"]["steps"] == reached + 3
    steps = [int(row[1]) for row in losses(tmp_path / "net")[1:]]
    assert steps == list(range(1, reached + 4))


def test_fitted_networks_are_evaluated_side_by_side(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorcell import evaluation
    from tensorcell.evaluation.versions import code_version

    planes = ("0.tif", "--axial-factor", "2", "--steps", "1", "--quiet")
    assert train(*planes, "--kind", "microdiffuse3d", "--out", "md")[0] == 0
    assert train(*planes, "--kind", "srcnn", "--out", "net")[0] == 0
    methods = evaluation.choose_methods(["linear", f"microdiffuse3d:{tmp_path}/md", f"srcnn:{tmp_path}/net"])
    cells = simulate_cells((13, 32, 32), cells=8, seed=5).truth
    case, (reference,) = evaluation.CASES["planes-2"], evaluation.references(cells)
    given = case.apply(reference, 0)
    found = [method.run(given.measurement, 0) for method in methods]
    assert {each.shape for each in found} == {given.truth.shape}
    versions = {code_version(method) for method in methods}
    (tmp_path / "net" / "weights.safetensors").write_bytes(b"other")
    assert code_version(evaluation.choose_methods([f"srcnn:{tmp_path}/net"])[0]) not in versions
    with pytest.raises(tensorcell.InputError, match=r"srcnn:nowhere: expected a folder that train --kind srcnn wrote"):
        evaluation.choose_methods(["srcnn:nowhere"])
    wrong = evaluation.CASES["planes-3"].apply(reference, 0)
    assert train(*planes, "--kind", "srcnn", "--out", "net")[0] == 0
    with pytest.raises(tensorcell.InputError, match="expected axial factor 2 and lateral factor 1"):
        evaluation.choose_methods([f"srcnn:{tmp_path}/net"])[0].run(wrong.measurement, 0)


def test_two_processes_fit_one_network(tmp_path: Path) -> None:
    """Started as torchrun and accelerate start them; both have the same weights, and the first one writes."""
    script = (
        "import sys, torch\n"
        "from tensorcell.network_training import stages, ModelRequest, train\n"
        "from pathlib import Path\n"
        "from tensorcell.diffusion_guidance.compute import process\n"
        "stages.PIECE = (4, 16, 16)\n"
        "real = stages.Run.result\n"
        "def result(self):\n"
        "    found = real(self)\n"
        "    torch.save([p.detach() for p in found[0].network.parameters()], f'weights{process().number}.pt')\n"
        "    return found\n"
        "stages.Run.result = result\n"
        "facts = train(ModelRequest(sources=('0.tif', '1.tif'), out=Path('net'), kind='srcnn', axial_factor=2,"
        " steps=4, quiet=True))\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, **shared, "RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    one, other = (torch.load(tmp_path / f"weights{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    alone = network_training.ModelRequest(
        sources=(str(tmp_path / "0.tif"), str(tmp_path / "1.tif")), out=tmp_path / "alone", kind="srcnn",
        axial_factor=2, steps=4, quiet=True,
    )  # fmt: skip
    network_training.train(alone)
    single = list(load_baseline(tmp_path / "alone").network.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(one, single, strict=True))  # the other's batches count, too
    assert load_baseline(tmp_path / "net").name == "srcnn"


def test_scattering_and_the_objective_are_stated_and_kept(train: Any, tmp_path: Path) -> None:
    options = ("--axial-factor", "2", "--attenuation", "40", "--widening", "0.5", "--objective", "eps")
    status, _, err = train("0.tif", "--kind", "microdiffuse3d", "--steps", "1", "--quiet", *options, "--out", "model")
    assert status == 0, err
    model = load_model(tmp_path / "model")
    assert model.acquisition == Degradation(axial_factor=2, attenuation=40.0, widening=0.5)
    assert model.parts.objective == "eps"
    again = ("--stage", "finetune", "--weights", "model", "--steps", "1", "--quiet", "--out", "fine")
    status, _, err = train("0.tif", "--kind", "microdiffuse3d", *again)
    assert status == 0, err
    assert load_model(tmp_path / "fine").parts.objective == "eps"
    status, _, err = train("0.tif", "--kind", "microdiffuse3d", *again[:-1], "other", "--axial-factor", "4")
    assert "expected an axial factor among 2, which model knows, got 4" in err
    assert (
        "expected --objective flow or eps, got 'x'"
        in train("0.tif", "--kind", "microdiffuse3d", "--out", "m", "--objective", "x")[2]
    )


def test_a_table_of_losses_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "losses.csv"
    header, rows = "stage,step,loss,heldout", ["a,1,0.5,", "a,2,0.25,1.5", "b,1,2.0,", "b,2,3.0,"]
    table.write_text("\n".join((header, *rows, "")))
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            LossTable(table, "b", 1)
    assert table.read_text().splitlines() == [header, *rows]
    with LossTable(table, "b", 1) as written:
        written.add(2, 0.125, float("nan"))
    assert table.read_text().splitlines() == [header, *rows[:3], "b,2,0.125,"]
    assert not list(tmp_path.glob(".*"))


def interrupted(*_: Any) -> None:
    """Ctrl-C while a file is put in its place."""
    raise KeyboardInterrupt
