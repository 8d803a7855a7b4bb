"""`recover_file`: from a file to files in parts, stopped and gone on with."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from command_line import call_here

import tensorcell as tc
from tensorcell.cli import in_memory
from tensorcell.cli.in_parts import goes_in_parts
from tensorcell.errors import InputError
from tensorcell.files import open_volume, pyramid, read, tiff_pyramid, write
from tensorcell.large import Progress, recover_file, recovery
from tensorcell.large.cut import Part
from tensorcell.large.inputs import digest_of
from tensorcell.large.journal import Journal, read_journal, unfinished_name
from tensorcell.large.outputs import Output, put_in_place
from tensorcell.large.part import PartFacts, PartResult
from tensorcell.large.plan import checked_memory, planned
from tensorcell.large.sample import Told, sampled
from tensorcell.lazy_volume import LazyVolume
from tensorcell.memory import BASE, peak_of_recovery
from tensorcell.solvers import Status
from tensorcell.stack_recovery import Request
from tensorcell.volume import Volume

needs_zarr = pytest.mark.skipif(importlib.util.find_spec("zarr") is None, reason="no zarr")
ZARR = pytest.param("out.zarr", marks=needs_zarr)

SHAPE = (12, 72, 72)
IN_PARTS = peak_of_recovery(12 * 60 * 64, np.uint16)
"""Memory for which this shape is cut into a few parts."""


def stack(seed: int = 0) -> np.ndarray:
    cells = tc.datasets.simulate_cells(SHAPE, cells=8, seed=seed).truth
    noise = np.random.default_rng(seed).normal(0, 30, SHAPE)
    return (1000 * cells / cells.max() + 200 + noise).clip(0).astype(np.uint16)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given") / "in.ome.tif"
    write(path, Volume(stack(), spacing=(0.5, 0.2, 0.2), metadata={"channel_names": ["DAPI"]}))
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that cost nothing: twice what was given; for what happens to files around them."""

    def twice(source: Any, part: Part, label: str, request: Request, names: Sequence[str]) -> PartResult:
        data, _ = source.read(part.outer)
        value = 2 * data[part.within].astype(np.float32)
        nothing = np.zeros_like(value)
        facts = PartFacts(value.size, {}, 0, (1, 1, 1), Status.COMPLETED, 30.0, ("twice",))
        every = {"OUT": value, "uncertainty": nothing + 30, "invented": nothing, "outliers": nothing}
        return PartResult({name: every[name] for name in names}, facts)

    def told(stack: Any, boxes: Any, layout: Any, label: str, request: Request, complete: bool) -> Told:
        return Told(request, (1, 1, 1), 30.0, digest_of(*sampled(stack, boxes, layout)))

    monkeypatch.setattr(recovery, "recovered_part", twice)
    monkeypatch.setattr(recovery, "told_by", told)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["out.ome.tif", ZARR, "out.h5", "out.npy", "out.tif"])
def test_every_format_holds_the_same(given: Path, tmp_path: Path, name: str) -> None:
    maps = {each: tmp_path / f"{each}.tif" for each in ("uncertainty", "invented", "outliers")}
    found = recover_file(given, tmp_path / name, memory=IN_PARTS, **maps)
    written = read(tmp_path / name)
    np.testing.assert_array_equal(written.data, 2.0 * stack())
    assert found.parts == 4
    assert found.shape == written.shape == SHAPE
    assert ("NumPy does not hold: spacing, metadata" in found.notes) == (name == "out.npy")
    if name != "out.npy":
        assert written.spacing == (0.5, 0.2, 0.2)
    if "ome" in name:
        assert written.metadata["channel_names"] == ["DAPI"]
    if name == "out.npy":
        assert "NumPy does not hold: spacing, metadata" in found.notes
    assert read(maps["uncertainty"]).spacing == (0.5, 0.2, 0.2)
    assert (read(maps["uncertainty"]).data == 30).all()
    assert hidden(tmp_path) == []
    assert json.loads(json.dumps(found.facts()))["parts"] == 4
    assert "recovered in 4 parts" in found.notes[0]
    assert "twice" in found.notes


def test_parts_of_a_file_are_recovered_as_the_whole_is(given: Path, tmp_path: Path) -> None:
    maps = {each: tmp_path / f"{each}.npy" for each in ("uncertainty", "invented", "outliers")}
    found = recover_file(given, tmp_path / "out.npy", memory=IN_PARTS, **maps)
    whole = tc.recover(read(given))
    value, error, invented, outliers = (np.load(each) for each in (tmp_path / "out.npy", *maps.values()))
    assert found.parts == 4
    assert found.noise == pytest.approx(whole.noise, rel=1e-6)  # a small stack is its own sample
    assert np.sqrt(np.mean((value - whole.volume.data) ** 2)) < 0.05 * whole.noise
    assert 0.95 < np.median(error / whole.uncertainty) < 1.05
    assert invented.max() <= 1
    assert np.count_nonzero(outliers) == found.outliers


def test_a_volume_that_fits_is_recovered_as_recover_does(given: Path, tmp_path: Path) -> None:
    found = recover_file(given, tmp_path / "out.npy", memory="4GB")
    whole = tc.recover(read(given))
    assert found.parts == 1
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), whole.volume.data)
    assert (tuple(found.rank), found.noise, dict(found.defects)) == (whole.rank, whole.noise, dict(whole.defects))
    assert set(whole.notes) <= set(found.notes)


def test_frames_channels_and_any_order_of_axes(tmp_path: Path) -> None:
    frames = np.stack([[stack(0), stack(1)], [stack(2), stack(3)]])  # T, C
    frames[:, 0] = 7  # one value
    write(tmp_path / "in.h5", Volume(frames.transpose(3, 0, 1, 2, 4), "YTCZX", (0.5, 0.2, 0.2)))
    found = recover_file(tmp_path / "in.h5", tmp_path / "out.h5", memory=IN_PARTS)
    written = read(tmp_path / "out.h5")
    assert (written.axes, written.shape) == ("YTCZX", (72, 2, 2, 12, 72))
    assert set(found.noise) == {"T=0, C=0", "T=0, C=1", "T=1, C=0", "T=1, C=1"}
    assert (written.data[:, :, 0] == 7).all()
    alone = recover_file(LazyVolume(frames[0, 1]), tmp_path / "alone.npy", memory=IN_PARTS)
    np.testing.assert_array_equal(written.data[:, 0, 1].transpose(1, 0, 2), np.load(tmp_path / "alone.npy"))
    assert alone.noise == found.noise["T=0, C=1"]
    assert any("each frame was recovered by itself" in note for note in found.notes)


def test_planes_a_mask_and_a_missing_value(tmp_path: Path) -> None:
    data = stack().astype(np.float32)
    mask = np.random.default_rng(0).random(SHAPE) < 0.6
    write(tmp_path / "mask.tif", Volume(mask.astype(np.uint8)))
    found = recover_file(
        LazyVolume(data), tmp_path / "out.npy", mask=tmp_path / "mask.tif", memory=IN_PARTS, method="fast"
    )
    value = np.load(tmp_path / "out.npy")
    assert found.measured == mask.sum()
    kept = mask & (value == data)
    assert kept.sum() >= mask.sum() - found.outliers
    marked = np.where(mask, data, -5)
    other = recover_file(LazyVolume(marked), tmp_path / "b.npy", missing_value=-5, memory=IN_PARTS, method="fast")
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), value)
    assert other.measured == found.measured
    between = recover_file(
        LazyVolume(data), tmp_path / "c.npy", axial_factor=2, memory=2 * IN_PARTS - BASE, method="fast"
    )
    planes = np.load(tmp_path / "c.npy")
    assert planes.shape == (23, 72, 72)
    assert between.parts > 1
    assert np.mean(planes[::2] == data) > 0.99


def test_a_stack_without_values_does_not_lose_the_others(tmp_path: Path) -> None:
    data = np.stack([stack(), np.full(SHAPE, np.nan)]).astype(np.float32)
    found = recover_file(LazyVolume(data, "CZYX"), tmp_path / "out.npy", memory=IN_PARTS)
    value = np.load(tmp_path / "out.npy")
    assert np.isfinite(value[0]).all()
    assert np.isnan(value[1]).all()
    assert list(found.not_recovered) == ["C=1"]
    assert found.noise["C=1"] is None
    with pytest.raises(InputError, match="at least one measured voxel, got none of 62208"):
        recover_file(LazyVolume(data[1]), tmp_path / "none.npy", memory=IN_PARTS)


def interrupt(_: Progress) -> None:
    """Stop a run at its first report."""
    raise KeyboardInterrupt


def stopped(given: Any, target: Path, after: int, **options: Any) -> None:
    """A run that is stopped after so many parts."""

    def stop(at: Progress) -> None:
        if at.stage == "parts" and at.done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover_file(given, target, memory=IN_PARTS, progress=stop, **options)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", [ZARR, "out.tif", "out.h5"])
def test_a_run_that_was_stopped_is_gone_on_with(
    given: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / name
    stopped(given, target, 2)
    assert not target.exists()
    with pytest.raises(InputError, match=f"{name}: an earlier run finished 2 parts of it and was stopped; resume=True"):
        recover_file(given, target, memory=IN_PARTS)
    with pytest.raises(InputError, match="is another job: it differs in options"):
        recover_file(given, target, memory=IN_PARTS, noise=3.0, resume=True)
    done: list[tuple[Any, ...]] = []
    own = recovery.recovered_part
    monkeypatch.setattr(recovery, "recovered_part", lambda *a: done.append(a) or own(*a))  # type: ignore[func-returns-value]
    found = recover_file(given, target, memory=IN_PARTS, resume=True)
    assert len(done) == found.parts - 2
    np.testing.assert_array_equal(read(target).data, 2.0 * stack())
    assert hidden(tmp_path) == []


@pytest.mark.usefixtures("quick")
def test_a_run_that_was_stopped_can_be_discarded(given: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.npy"
    stopped(given, target, 1)
    recover_file(given, target, memory=IN_PARTS, resume=False)
    np.testing.assert_array_equal(np.load(target), 2.0 * stack())
    assert hidden(tmp_path) == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", [ZARR, "out.tif", "out.h5", "out.npy"])
def test_a_run_does_not_go_on_with_what_is_gone(given: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    stopped(given, target, 2)
    part = unfinished_name(target, target.suffix)
    part.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"{name}: expected what an earlier run wrote of it in .{name}.unfinished"):
        recover_file(given, target, memory=IN_PARTS, resume=True)
    assert not target.exists()
    (tmp_path / "elsewhere").rename(part)
    recover_file(given, target, memory=IN_PARTS, resume=True)
    np.testing.assert_array_equal(read(target).data, 2.0 * stack())


@pytest.mark.usefixtures("quick")
def test_a_run_does_not_go_on_with_a_file_that_was_cut_off(given: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.npy"
    stopped(given, target, 2)
    part = unfinished_name(target, ".npy")
    os.truncate(part, part.stat().st_size // 2)
    with pytest.raises(InputError, match="has 124480 bytes, expected 248960: it was cut off"):
        recover_file(given, target, memory=IN_PARTS, resume=True)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_run_that_was_killed_among_finished_files_is_gone_on_with(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    target, error = tmp_path / "out.tif", tmp_path / "u.tif"

    def killed(parts: dict[Path, Path]) -> None:
        for path, part in list(parts.items())[:moved]:
            part.rename(path)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(recovery, "put_in_place", killed)
        with pytest.raises(SystemExit):
            recover_file(given, target, memory=IN_PARTS, uncertainty=error, dtype="uint8")
    found = recover_file(given, target, memory=IN_PARTS, uncertainty=error, dtype="uint8", resume=True)
    np.testing.assert_array_equal(read(target).data, (2 * stack().astype(int)).clip(0, 255))
    assert (read(error).data == 30).all()
    assert any(f"{found.clipped} clipped to uint8" in note for note in found.notes)
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("name", ["out.npy", ZARR])
def test_finished_files_are_put_in_place_all_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool, name: str
) -> None:
    volumes = {tmp_path / name: 1, tmp_path / f"u-{name}": 2}
    parts = {path: unfinished_name(path, path.suffix) for path in volumes}
    for path, value in volumes.items():
        write(parts[path], Volume(np.full((2, 3, 5), value, np.uint8)))
        if earlier:
            write(path, Volume(np.full((2, 3, 5), 10 * value, np.uint8)))
    own = os.replace

    def full(source: Path, to: Path) -> None:
        if Path(source) == parts[tmp_path / f"u-{name}"]:
            raise OSError(28, "No space left on device")
        own(source, to)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(InputError, match="No space left"):
            put_in_place(parts)
    for path, value in volumes.items():
        assert (read(parts[path]).data == value).all()
        assert (read(path).data == 10 * value).all() if earlier else not path.exists()
    assert len(hidden(tmp_path)) == 2
    put_in_place(parts)
    for path, value in volumes.items():
        assert (read(path).data == value).all()
    assert hidden(tmp_path) == []


@pytest.mark.usefixtures("quick")
@needs_zarr
def test_a_run_goes_on_only_with_the_same_input(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random(SHAPE) < 0.7
    for number, values in enumerate((mask, ~mask)):
        write(tmp_path / f"mask{number}.tif", Volume(values.astype(np.uint8)))
        write(f"{tmp_path}/in.h5:/of{number}", Volume(stack(number)))
    write(tmp_path / "in.zarr", Volume(stack()))
    target = tmp_path / "out.npy"
    one, other = tmp_path / "mask0.tif", tmp_path / "mask1.tif"

    def goes_on(source: Any, changed: Any = None, *, now: dict[str, Any], **options: Any) -> None:
        stopped(source, target, 2, resume=False, **options)
        with pytest.raises(InputError, match="is another job: it differs in input;"):
            recover_file(changed or source, target, memory=IN_PARTS, resume=True, **now)
        recover_file(source, target, memory=IN_PARTS, resume=True, **options)

    goes_on(tmp_path / "in.zarr", mask=one, now={"mask": other})
    goes_on(tmp_path / "in.zarr", mask=one, now={})
    goes_on(tmp_path / "in.zarr", spacing=(1, 1, 1), now={"spacing": (3, 1, 1)})
    goes_on(tmp_path / "in.h5", dataset="of0", now={"dataset": "of1"})
    goes_on(f"{tmp_path}/in.h5:/of0", f"{tmp_path}/in.h5:/of1", now={})
    stopped(tmp_path / "in.zarr", target, 2)
    write(tmp_path / "in.zarr", Volume(stack(1)))
    with pytest.raises(InputError, match="is another job: it differs in input;"):
        recover_file(tmp_path / "in.zarr", target, memory=IN_PARTS, resume=True)


@pytest.mark.usefixtures("quick")
def test_a_run_goes_on_with_the_memory_that_it_had(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.npy"
    stopped(given, target, 2)
    monkeypatch.setattr(recovery, "memory_to_use", lambda *_: 2 * IN_PARTS)
    with pytest.raises(InputError, match="another job: it differs in parts, memory;"):
        recover_file(given, target, memory=2 * IN_PARTS, resume=True)
    assert recover_file(given, target, resume=True).parts == 4
    np.testing.assert_array_equal(np.load(target), 2.0 * stack())


def test_what_a_run_in_parts_left_is_discarded_by_one_in_memory(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, error = tmp_path / "out.tif", tmp_path / "u.npy"
    with pytest.raises(KeyboardInterrupt):
        recover_file(given, target, memory=IN_PARTS, uncertainty=error, progress=interrupt)
    assert len(hidden(tmp_path)) == 4
    words = ("recover", given, target, "--method", "fast", "--memory", "4GB", "--no-resume")
    assert call_here(monkeypatch, *words) == 0
    assert hidden(tmp_path) == []


@pytest.mark.slow
@needs_zarr
def test_a_killed_run_is_gone_on_with_bit_for_bit(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.zarr"
    recover_file(given, tmp_path / "undisturbed.npy", memory=IN_PARTS)
    command = [sys.executable, "-m", "tensorcell", "recover", str(given), str(target), "--memory", str(IN_PARTS)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        journal = unfinished_name(target, ".journal")
        begun = time.monotonic()
        while not (journal.exists() and '"part"' in journal.read_text()):
            assert run.poll() is None
            assert time.monotonic() - begun < 300
            time.sleep(0.05)
        run.send_signal(signal.SIGKILL)
    with journal.open("a") as file:
        file.write('{"stack": "", "part": 99, "fa')  # a line that the kill cut off
    assert not target.exists()
    assert call_here(monkeypatch, *command[3:], "--resume") == 0
    np.testing.assert_array_equal(read(target).data, np.load(tmp_path / "undisturbed.npy"))
    assert hidden(tmp_path) == []


@pytest.mark.usefixtures("quick")
def test_the_command_recovers_in_parts_what_does_not_fit(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.tif"
    words = ["recover", given, target, "--memory", IN_PARTS]
    assert call_here(monkeypatch, *words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["parts"] == 4
    np.testing.assert_array_equal(read(target).data, 2.0 * stack())
    assert call_here(monkeypatch, *words, "--report", tmp_path / "a.html") == 0
    assert '<th scope="row">parts</th><td>4</td>' in (tmp_path / "a.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("quick")
@needs_zarr
def test_the_command_says_how_to_go_on(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.zarr"
    own, done = recovery.recovered_part, []

    def interrupted(*arguments: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(arguments)
        return own(*arguments)

    monkeypatch.setattr(recovery, "recovered_part", interrupted)
    assert call_here(monkeypatch, "recover", given, target, "--memory", IN_PARTS) == 130
    assert "2 finished parts of" in capsys.readouterr().err
    monkeypatch.setattr(recovery, "recovered_part", own)
    assert call_here(monkeypatch, "recover", given, target, "--memory", IN_PARTS) == 2
    assert "--resume" in capsys.readouterr().err
    assert call_here(monkeypatch, "recover", given, target, "--memory", IN_PARTS, "--resume") == 0
    head, status, *notes = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{target}: 12 x 72 x 72 ZYX, float32; 4 parts; [\d.]+ s", head)
    assert status == f"  the fit {Status.COMPLETED}"
    assert "  twice" in notes
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "1MB"}, "expected memory of at least"),
        ({"resume": "yes"}, "expected resume True, False or None, got 'yes'"),
        ({"memory": "much"}, "expected memory such as '4GB' or a number of bytes, got 'much'"),
        ({"method": "diffusion"}, "for a volume that is recovered in parts, got diffusion"),
        ({"time_limit": 3}, "expected no time limit"),
        ({"wrong": 3}, "wrong"),
        ({"axial_factor": 0}, "axial factor"),
        ({"rim": -1}, "rim"),
        ({"rim": 1.5}, "rim"),
        ({"dtype": "bool"}, "dtype bool does not hold intensities"),
        ({"dtype": "much"}, "dtype 'much' is unknown"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_what_cannot_be_is_said_before_the_work(
    given: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((InputError, TypeError), match=message):
        recover_file(given, tmp_path / "out.npy", **{"memory": "1GB", **options})
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_before_its_first_part_leaves_nothing(tmp_path: Path) -> None:
    data = stack().astype(np.float32)
    data[3, 4, 5] = np.inf
    with pytest.raises(InputError, match="expected finite values at measured voxels, got 1 infinite"):
        recover_file(LazyVolume(data), tmp_path / "out.npy", memory=IN_PARTS, uncertainty=tmp_path / "u.h5")
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_written_in_parts_are_refused(given: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has a file of its own, expected a path without 'rec'"):
        recover_file(given, f"{tmp_path}/out.h5:/rec", memory="1GB")
    with pytest.raises(InputError, match="only written as a whole"):
        recover_file(given, tmp_path / "out.mrc", memory="1GB")
    with pytest.raises(InputError, match="expected another file"):
        recover_file(given, given, memory="1GB")
    assert hidden(tmp_path) == []


def test_a_journal_of_something_else_is_named(tmp_path: Path) -> None:
    target = tmp_path / "out.npy"
    unfinished_name(target, ".journal").write_text("nonsense")
    with pytest.raises(InputError, match="expected the journal of an earlier run"):
        Journal.of(target, {}, True)
    journal = Journal.of(target, {"a": 1}, False)
    journal.begin()
    journal.add_part("T=0", 3, {"noise": 1.0})
    assert read_journal(journal.path).parts == {("T=0", 3): {"noise": 1.0}}
    assert Journal.of(target, {"a": 1}, True).parts == journal.parts


def test_sizes_of_memory() -> None:
    assert checked_memory("0.5GB") == 5e8
    assert checked_memory("2 KiB") == 2048
    for wrong in ("-1GB", "GB", "4 XB", -3, True, float("nan")):
        with pytest.raises(InputError, match="expected memory such as"):
            checked_memory(wrong)


@pytest.mark.usefixtures("quick")
def test_rounding_to_the_type_of_the_input_is_counted(given: Path, tmp_path: Path) -> None:
    found = recover_file(given, tmp_path / "out.tif", memory=IN_PARTS, dtype="input")
    value = read(tmp_path / "out.tif")
    assert value.dtype == np.uint16
    assert "recover: axial_factor=1" in value.metadata["processing"]
    assert (found.rounded, found.clipped) == (0, 0)
    small = recover_file(given, tmp_path / "small.tif", memory=IN_PARTS, dtype="uint8")
    assert small.clipped == np.count_nonzero(2 * stack().astype(int) > 255)
    assert f"0 voxels were rounded and {small.clipped} clipped to uint8" in small.notes


@pytest.mark.usefixtures("quick")
def test_inputs_are_not_written_to(given: Path, tmp_path: Path) -> None:
    before = (given.read_bytes(), os.stat(given).st_mtime_ns)
    recover_file(given, tmp_path / "out.npy", memory=IN_PARTS)
    assert (given.read_bytes(), os.stat(given).st_mtime_ns) == before


@pytest.mark.parametrize(
    ("name", "asked"),
    [("out.ome.tif", {"pyramid": True}), pytest.param("out.zarr", {"ngff": "0.4"}, marks=needs_zarr)],
)
def test_levels_and_versions_are_written_in_parts(
    given: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, name: str, asked: dict[str, Any]
) -> None:
    """Parts end within tiles; the run is stopped in the middle, and gone on with only as it was asked for."""
    monkeypatch.setattr(pyramid, "LARGEST", 20)
    monkeypatch.setattr(tiff_pyramid, "TILE", 32)
    own, done = recovery.recovered_part, list[int]()

    def stopping(*arguments: Any) -> PartResult:
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return own(*arguments)

    monkeypatch.setattr(recovery, "recovered_part", stopping)
    with pytest.raises(KeyboardInterrupt):
        recover_file(given, tmp_path / name, memory=IN_PARTS, **asked)
    with pytest.raises(InputError, match="is another job: it differs in outputs"):
        recover_file(given, tmp_path / name, memory=IN_PARTS, resume=True)
    found = recover_file(given, tmp_path / name, memory=IN_PARTS, resume=True, **asked)
    assert found.parts > 3
    written = write(
        tmp_path / f"whole_{name}", Volume(2 * stack().astype(np.float32), spacing=(0.5, 0.2, 0.2)), **asked
    )
    parts, whole = (read(tmp_path / each) for each in (name, written.path))
    np.testing.assert_array_equal(parts.data, whole.data)
    assert (parts.metadata["format"], parts.spacing) == (written.format, whole.spacing)
    if name.endswith(".tif"):
        with tifffile.TiffFile(tmp_path / name) as tif, tifffile.TiffFile(written.path) as other:
            levels, expected = tif.series[0].levels, other.series[0].levels
            assert [level.shape for level in levels] == [(12, 72, 72), (12, 36, 36), (12, 18, 18)]
            for ours, theirs in zip(levels, expected, strict=True):
                np.testing.assert_array_equal(ours.asarray(), theirs.asarray())


@pytest.mark.parametrize("name", ["out.tif", ZARR, "out.h5"])
def test_integers_become_floats_where_a_stack_cannot_be_recovered(
    given: Path, tmp_path: Path, name: str, quick: None
) -> None:
    frames = np.stack([stack(0), np.full(SHAPE, np.nan), stack(1)]).astype(np.float32)  # T
    volume = LazyVolume(frames.transpose(2, 0, 1, 3), "YTZX")
    found = recover_file(volume, tmp_path / name, memory=IN_PARTS, dtype="uint16")
    written = read(tmp_path / name)
    np.testing.assert_array_equal(written.data, 2 * np.rint(volume.data))
    assert found.dtype == written.dtype == np.float32
    assert list(found.not_recovered) == ["T=1"]
    said = "OUT is float32: NaN, which uint16 does not hold, marks what was not recovered; all else is rounded to"
    assert sum(said in note for note in found.notes) == 1
    assert hidden(tmp_path) == []


@pytest.mark.usefixtures("quick")
def test_a_run_whose_integers_became_floats_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.stack([np.full(SHAPE, np.nan), stack(0), stack(1) + 0.3]).astype(np.float32)
    volume = LazyVolume(frames, "TZYX")
    options: dict[str, Any] = {"memory": IN_PARTS, "dtype": "uint32"}
    full = recovery.recovered_part

    def disk_is_full(output: Output) -> None:
        if output.floats:
            raise InputError("No space left on device")

    def second(*arguments: Any) -> Any:  # the first part has all values, the others lack one each
        found = full(*arguments)
        if arguments[1].inner[1].start:
            found.arrays["OUT"][0, 0, 0] = np.nan
        return found

    monkeypatch.setattr(recovery, "recovered_part", second)
    target = tmp_path / "out.npy"
    with monkeypatch.context() as patch:
        patch.setattr(Output, "flush", disk_is_full)
        with pytest.raises(InputError, match="No space left"):
            recover_file(LazyVolume(frames[1:], "TZYX"), target, **options)
    assert hidden(tmp_path) == [".out.npy.unfinished.journal", ".out.npy.unfinished.npy"]
    recover_file(LazyVolume(frames[1:], "TZYX"), target, **options, resume=True)
    value = np.load(target)
    assert value.dtype == np.float64
    assert np.isnan(value).sum() == 4
    assert np.isclose(value, np.rint(2 * frames[1:]), rtol=0, atol=0)[~np.isnan(value)].all()
    stopped(volume, target, 2, dtype="uint32")
    assert hidden(tmp_path) == [".out.npy.unfinished.floats.npy", ".out.npy.unfinished.journal"]
    recover_file(volume, target, **options, resume=True)
    np.testing.assert_array_equal(np.load(target)[1:], value)
    assert hidden(tmp_path) == []


def two_tiffs(folder: Path) -> tuple[Path, Path]:
    """A multi-file OME-TIFF, and its second file."""
    planes = stack().reshape(2, SHAPE[0] // 2, *SHAPE[1:])
    ids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{number}" for number in range(2)]
    data = "".join(
        f'<TiffData IFD="{z}" FirstZ="{6 * n + z}" PlaneCount="1">'
        f'<UUID FileName="z{n}.ome.tif">{ids[n]}</UUID></TiffData>'
        for n in range(2)
        for z in range(6)
    )
    for number, values in enumerate(planes):
        text = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{ids[number]}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
            f'SizeX="72" SizeY="72" SizeZ="12" SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
            f"{data}</Pixels></Image></OME>"
        )
        tifffile.imwrite(folder / f"z{number}.ome.tif", values, description=text, metadata=None)
    return folder / "z0.ome.tif", folder / "z1.ome.tif"


def virtual(folder: Path) -> tuple[Path, Path]:
    """A virtual dataset of HDF5, and the file with its values."""
    with h5py.File(folder / "values.h5", "w") as file:
        file["raw"] = stack()
    with h5py.File(folder / "in.h5", "w") as file:
        layout = h5py.VirtualLayout(SHAPE, np.uint16)
        layout[:] = h5py.VirtualSource("values.h5", "raw", SHAPE)
        file.create_virtual_dataset("of others", layout).attrs["axes"] = "ZYX"
        file["more"] = h5py.SoftLink("/of others")
    return folder / "in.h5", folder / "values.h5"


def external(folder: Path) -> tuple[Path, Path]:
    """A dataset of HDF5 whose values lie in another file."""
    (folder / "raw.bin").write_bytes(stack().tobytes())
    with h5py.File(folder / "in.h5", "w") as file:
        file.create_dataset("raw", SHAPE, np.uint16, external=[("raw.bin", 0, h5py.h5f.UNLIMITED)])
    return folder / "in.h5", folder / "raw.bin"


def folder_of_planes(folder: Path) -> tuple[Path, Path]:
    """A folder with a file for each plane, and one of them."""
    (folder / "planes").mkdir()
    for z, plane in enumerate(stack()):
        tifffile.imwrite(folder / "planes" / f"z{z}.tif", plane)
    return folder / "planes", folder / "planes" / "z7.tif"


def level(folder: Path) -> tuple[Path, Path]:
    """A zarr, and a chunk of the level that is read."""
    write(folder / "in.zarr", Volume(stack()))
    return folder / "in.zarr", next(each for each in (folder / "in.zarr/0/c").rglob("*") if each.is_file())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "made", [two_tiffs, virtual, external, folder_of_planes, pytest.param(level, marks=needs_zarr)]
)
def test_a_run_goes_on_only_with_the_same_files(tmp_path: Path, made: Any) -> None:
    named, other = made(tmp_path)
    target = tmp_path / "out.npy"
    read_at_once = made is folder_of_planes  # what is opened of it knows no files
    for opened in (lambda: named, lambda: named if read_at_once else open_volume(named)):
        stopped(opened(), target, 2)
        now = os.stat(other).st_mtime_ns
        os.utime(other, ns=(now, now - 10**9))
        with pytest.raises(InputError, match="is another job: it differs in input;"):
            recover_file(opened(), target, memory=IN_PARTS, resume=True)
        os.utime(other, ns=(now, now))
        if made is level:
            (named / "of another image").write_text("changed")
        if read_at_once:
            (named / ".hidden").write_text("none of the planes")
        recover_file(opened(), target, memory=IN_PARTS, resume=True)
        np.testing.assert_array_equal(np.load(target), 2.0 * stack())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("place", "message"),
    [((6, 38, 40), "it differs in input"), ((2, 3, 4), "the stack has other values than those of which an earlier")],
)
def test_a_run_goes_on_only_with_the_same_values(tmp_path: Path, place: tuple[int, int, int], message: str) -> None:
    target, other = tmp_path / "out.npy", stack()
    other[place] += 1
    stopped(LazyVolume(stack()), target, 2)
    with pytest.raises(InputError, match=message):
        recover_file(LazyVolume(other), target, memory=IN_PARTS, resume=True)
    recover_file(LazyVolume(stack()), target, memory=IN_PARTS, resume=True)
    np.testing.assert_array_equal(np.load(target), 2.0 * stack())


@pytest.mark.usefixtures("quick")
def test_two_unfinished_runs_share_no_output(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, error = (tmp_path / name for name in ("one.npy", "two.npy", "u.npy"))
    belongs = rf"belongs to the run on {one}, which was stopped; go on with that \(--resume\), discard it"
    stopped(given, one, 2, uncertainty=error)
    before = hidden(tmp_path)
    with pytest.raises(InputError, match=f"u.npy: {belongs}"):
        recover_file(given, two, memory=IN_PARTS, uncertainty=error)
    with pytest.raises(InputError, match=f"u.npy: {belongs}"):
        recover_file(given, error, memory=IN_PARTS)
    with pytest.raises(InputError, match=f"one.npy: {belongs}"):
        recover_file(given, two, memory=IN_PARTS, invented=one)
    assert call_here(monkeypatch, "recover", given, two, "--uncertainty", error) == 2
    assert "belongs to the run on" in capsys.readouterr().err
    assert hidden(tmp_path) == before
    recover_file(given, one, memory=IN_PARTS, uncertainty=error, resume=True)
    recover_file(given, two, memory=IN_PARTS, uncertainty=error)
    assert hidden(tmp_path) == []


@pytest.mark.usefixtures("quick")
def test_all_that_a_run_left_is_discarded(given: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.npy"
    (tmp_path / "maps").mkdir()
    stopped(given, target, 2, uncertainty=tmp_path / "maps" / "u.npy", outliers=tmp_path / "o.npy")
    recover_file(given, target, memory=IN_PARTS, resume=False)
    assert hidden(tmp_path) == hidden(tmp_path / "maps") == []


@pytest.mark.usefixtures("quick")
def test_the_memory_that_is_asked_for_suffices(given: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        recover_file(given, tmp_path / "out.npy", memory="1MB")
    asked = re.findall(r"at least ([\d.]+ GB)", str(error.value))[0]
    least = 1e9 * float(asked.split()[0])
    with pytest.raises(InputError, match="at least") as error:
        recover_file(given, tmp_path / "out.npy", memory=0.99 * least)
    assert f"got {asked}" not in str(error.value)
    assert recover_file(given, tmp_path / "out.npy", memory=asked).parts > 1


@pytest.mark.parametrize("source", [stack(), Volume(stack()), [stack()], iter(["a.tif"]), 3])
def test_what_is_no_file_is_one_line(tmp_path: Path, source: Any) -> None:
    with pytest.raises(InputError, match="expected a path, a list of paths or a LazyVolume, got "):
        recover_file(source, tmp_path / "out.npy", memory="1GB")


@pytest.mark.usefixtures("quick")
def test_a_run_that_is_stopped_when_all_is_in_place_says_so(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.tif"

    def late(own: Any) -> Any:
        def stopped_after(*arguments: Any, **options: Any) -> None:
            own(*arguments, **options)
            if target.exists():
                raise KeyboardInterrupt

        return stopped_after

    monkeypatch.setattr(recovery, "discard", late(recovery.discard))
    monkeypatch.setattr(in_memory, "write_all", late(in_memory.write_all))
    for memory in (IN_PARTS, "4GB"):
        words = ("recover", given, target, "--memory", memory, "--method", "fast", "--quiet")
        assert call_here(monkeypatch, *words) == 130
        assert capsys.readouterr().err == f"tensorcell: interrupted; {target} is written\n"
        assert hidden(tmp_path) == []


@pytest.mark.parametrize("dtype", [np.uint16, np.float64])
def test_the_command_and_the_function_have_one_rule_for_what_fits(dtype: Any) -> None:
    volume = LazyVolume(np.broadcast_to(np.zeros((), dtype), SHAPE))
    options = {
        "axial_factor": 1, "spacing_z": None, "lateral_factor": 1, "method": "auto", "time_limit": None,
        "device": "cpu",
    }  # fmt: skip
    fits = peak_of_recovery(np.prod(SHAPE), dtype)
    for memory, parts in ((fits, 1), (fits - 1, 2)):
        assert goes_in_parts(volume, options, str(memory), None, "out.npy") == (parts > 1)
        assert planned(SHAPE, SHAPE, dtype=dtype, memory=memory, whole_z=False).cut.number == parts


def test_an_input_that_is_gone_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "in.tif", Volume(stack()))
    volume = open_volume(tmp_path / "in.tif")
    (tmp_path / "in.tif").unlink()
    with pytest.raises(InputError, match=r"in\.tif: cannot be read: .*No such file"):
        recover_file(volume, tmp_path / "out.npy", memory=IN_PARTS)
    assert list(tmp_path.iterdir()) == []
