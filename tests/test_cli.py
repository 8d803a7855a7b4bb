"""The command line: exit status, one line for bad input, whole outputs or none."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile
from command_line import call, write_stack

import tensorcell as tc
from tensorcell.cli import in_memory, memory


def _bad_inputs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bad_inputs", Path(__file__).with_name("bad_inputs.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BAD = _bad_inputs()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("case", BAD.CASES)
def test_bad_input_is_one_line_and_loses_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, expected = BAD.CASES[case]
    arguments = make(tmp_path)
    before = contents(tmp_path)
    status = call(monkeypatch, tmp_path, "recover", *arguments)
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert expected in err
    assert "Traceback" not in err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("recover", "", "out.tif"), "expected a path, got an empty text"),
        (("recover", "in.tif", ""), "expected a path, got an empty text"),
        (("recover", "in.tif", "out.tif", "-o", "other.tif"), "out.tif: no such file; OUT is other.tif, by --out"),
        (("recover", "in.npy", "out.tif", "--spacing-z", "1"), "--spacing-z 1.0 needs the voxel size"),
        (("recover", "in.npy", "out.tif", "--dataset", "x"), "--dataset is for HDF5"),
        (("diagnose", ""), "expected a path, got an empty text"),
    ],
)
def test_words_of_the_command_line_are_those_of_its_messages(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_stack(tmp_path, (8, 24, 26), cells=4)
    np.save(tmp_path / "in.npy", tc.read(tmp_path / "in.tif").data)
    before = contents(tmp_path)
    assert call(monkeypatch, tmp_path, *words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert contents(tmp_path) == before


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    return write_stack(tmp_path, (8, 24, 26), cells=4, outliers=0.01)


def test_recover_writes_all_outputs(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = call(
        monkeypatch, stack, "recover", "in.tif", "out.ome.tif", "--axial-factor", "2", "--mask", "mask.tif",
        "--outliers", "e.h5", "--report", "page.html", "--json", "--rank", "4,6,6",
    )  # fmt: skip
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    facts = json.loads(out)
    assert facts["shape"] == [15, 24, 26]
    assert facts["spacing"] == [0.25, 0.2, 0.1]
    assert facts["rank"] == [4, 6, 6]
    given, result, mask = tc.read("in.tif"), tc.read("out.ome.tif"), tc.read("mask.tif").data > 0
    assert result.spacing == pytest.approx((0.25, 0.2, 0.1))
    found = tc.read("e.h5").data
    assert np.count_nonzero(found) == facts["outliers"]
    kept = mask & (found == 0)
    np.testing.assert_array_equal(result.data[::2][kept], given.data[kept])
    page = (stack / "page.html").read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page  # self-contained


def test_names_in_a_file_follow_a_colon(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = tc.read(stack / "in.tif").data
    np.savez(stack / "two.npz", raw=counts, other=counts[:3])
    arguments = ("--method", "fast", "--spacing", "0.5,0.2,0.1", "--json")
    assert call(monkeypatch, stack, "recover", "two.npz:raw", "all.h5:/fast/raw", *arguments) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == list(counts.shape)
    assert tc.read("all.h5:/fast/raw").shape == counts.shape
    assert call(monkeypatch, stack, "recover", "two.npz", "out.tif", *arguments) == 2
    assert "has several arrays, name one with --dataset or" in capsys.readouterr().err
    assert call(monkeypatch, stack, "recover", "in.tif", "two.npz:new", *arguments) == 2
    assert "two.npz:new: .npz is written with one volume" in capsys.readouterr().err


def test_dtype_input_counts_rounding(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("recover", "in.tif", "out.tif", "--mask", "mask.tif", "--dtype", "input", "--json", "--rank", "3")
    assert call(monkeypatch, stack, *arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    assert tc.read("out.tif").dtype == np.uint8
    assert facts["dtype"] == "uint8"
    missing = np.count_nonzero(tc.read("mask.tif").data == 0)
    assert 0 < facts["rounded"] <= missing + facts["outliers"]  # measured voxels are whole already


@pytest.mark.parametrize("there_before", [(), ("r.png", "e.tif"), ("r.png", "e.tif", "out.tif")])
@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("failing", ["write", "rename"])
def test_a_failing_output_leaves_everything_as_it_was(
    stack: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    there_before: tuple[str, ...],
    failing: str,
    interrupted: bool,
) -> None:
    for name in there_before:
        (stack / name).write_bytes(f"an older {name}".encode())
    before = contents(stack)
    real_write, real_replace = in_memory.write, os.replace
    calls: list[object] = []

    def write(path: str, *rest: Any, **options: Any) -> Any:
        calls.append(path)
        if failing == "write" and len(calls) == 2:  # after the outliers
            raise KeyboardInterrupt if interrupted else tc.InputError(f"{path}: cannot be written: no space left")
        return real_write(path, *rest, **options)

    def renamed(first: Any, second: Any) -> None:
        real_replace(first, second)
        if failing == "rename" and Path(second).name == "e.tif" and "failed" not in calls:  # the second of three
            calls.append("failed")
            raise KeyboardInterrupt if interrupted else OSError(28, "no space left")

    monkeypatch.setattr(in_memory, "write", write)
    monkeypatch.setattr(os, "replace", renamed)
    arguments = ("recover", "in.tif", "out.tif", "--outliers", "e.tif", "--report", "r.png", "--rank", "3")
    assert call(monkeypatch, stack, *arguments) == (130 if interrupted else 2)
    assert contents(stack) == before
    place = {"write": "out.tif", "rename": "e.tif"}[failing]
    said = "interrupted; nothing was written" if interrupted else f"{place}: cannot be written: no space left"
    assert capsys.readouterr() == ("", f"tensorcell: {said}\n")


def test_outputs_replace_older_ones_and_keep_what_else_an_hdf5_file_holds(
    stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = np.arange(24.0).reshape(2, 3, 4)
    tc.write(f"{stack / 'all.h5'}:/kept", tc.Volume(kept))
    (stack / "e.tif").write_bytes(b"older")
    (stack / "real.png").write_bytes(b"older")
    (stack / "r.png").symlink_to("real.png")
    arguments = ("recover", "in.tif", "all.h5:/new", "--outliers", "e.tif", "--report", "r.png", "--rank", "3")
    assert call(monkeypatch, stack, *arguments, "--quiet") == 0
    assert tc.read("all.h5:/new").shape == tc.read("e.tif").shape == (8, 24, 26)
    np.testing.assert_array_equal(tc.read("all.h5:/kept").data, kept)
    assert (stack / "r.png").is_symlink()
    assert (stack / "real.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in stack.iterdir()) == ["all.h5", "e.tif", "in.tif", "mask.tif", "r.png", "real.png"]


REFUSED = (
    ("out.tif", "--dtype", "float3"),
    ("out.ome.tif", "--dtype", "float16"),
    ("out.h5", "--pyramid"),
    ("out.npy", "--pyramid", "--uncertainty", "u.tif"),
    ("out.tif", "--ngff", "0.4"),
)


@pytest.mark.parametrize("more", REFUSED)
def test_what_the_output_format_refuses_is_said_before_the_work(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    monkeypatch.setattr(in_memory, "recover", lambda *_, **__: pytest.fail("the work began"))
    assert call(monkeypatch, stack, "recover", "in.tif", *more) == 2
    assert capsys.readouterr().err.startswith(f"tensorcell: {more[0]}: ")


@pytest.mark.parametrize("command", ["recover", "diagnose"])
def test_missing_planes_are_not_measured_on_request(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (stack / "in").mkdir()
    for number in (1, 2, 4, 5):
        tc.write(stack / "in" / f"z{number}.tif", tc.Volume(np.full((24, 26), number, np.uint8), "YX"))
    given: list[tc.Volume] = []

    def stop(volume: tc.Volume, *_: Any, **__: Any) -> None:
        given.append(volume)
        raise tc.InputError("enough")

    monkeypatch.setattr(in_memory, "recover", stop)
    monkeypatch.setattr("tensorcell.diagnosis.diagnose", stop)
    for more in ((), ("--missing-planes",)):
        outputs = ("out.tif",) if command == "recover" else ()
        assert call(monkeypatch, stack, command, "in", *outputs, *more) == 2
    assert "enough" in capsys.readouterr().err
    assert [volume.planes for volume in given] == [4, 5]
    assert given[0].mask is None
    assert given[1].mask is not None
    np.testing.assert_array_equal(given[1].mask.all(axis=(1, 2)), [True, True, False, True, True])


def test_the_output_says_how_it_was_made(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (("in.tif", "once.tif", "--axial-factor", "2"), ("once.tif", "twice.ome.tif")):
        assert call(monkeypatch, stack, "recover", *arguments, "--rank", "3", "--quiet") == 0
    once, twice = (tc.read(name).metadata["processing"] for name in ("once.tif", "twice.ome.tif"))
    assert once.startswith(f"tensorcell {tc.__version__} recover: axial_factor=2, method=auto, rank=3, noise=auto")
    assert twice.splitlines()[0] == once
    assert "axial_factor=1" in twice.splitlines()[1]


def test_what_the_format_does_not_hold_is_said(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, stack, "recover", "in.tif", "out.npy", "--rank", "3", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert any("does not hold: spacing" in note for note in facts["notes"])
    assert facts["peak_memory_mib"] > 10


def test_quiet_says_nothing(stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, stack, "recover", "in.tif", "out.tif", "--rank", "3", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_a_stack_too_large_for_the_machine_is_announced(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "machine_memory", lambda: 100.0)
    assert call(monkeypatch, stack, "recover", "in.tif", "out.tif", "--rank", "3") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "MiB of memory will be needed; this machine has 100 MiB" in line


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            ("recover", "in.tif", "out.tif"),
            r"memory of at least \d+ TB for a wanted stack of 7000000001 x 24 x 26 voxels",
        ),
        (("diagnose", "in.tif"), r"axial factor 1000000000 makes .* TB of memory"),
    ],
)
def test_a_factor_that_no_memory_holds_is_one_line(
    command: tuple[str, ...],
    expected: str,
    stack: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, stack, *command, "--axial-factor", "1000000000") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(expected, line), line


def test_channels_and_frames_keep_their_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = np.stack([tc.datasets.simulate_cells((6, 20, 22), cells=3, seed=s).measured for s in (0, 1)])
    tc.write(tmp_path / "in.ome.tif", tc.Volume(data, axes="TZYX", spacing=(0.5, 0.2, 0.2)))
    assert call(monkeypatch, tmp_path, "recover", "in.ome.tif", "out.ome.tif", "--axial-factor", "2") == 0
    result = tc.read("out.ome.tif")
    assert (result.axes, result.shape) == ("TZYX", (2, 11, 20, 22))
    assert "T=0" in capsys.readouterr().out


def test_version_and_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, tmp_path, "--version") == 0
    assert capsys.readouterr().out == f"tensorcell {tc.__version__}\n"
    assert call(monkeypatch, tmp_path, "recover", "--help") == 0
    assert "--axial-factor" in capsys.readouterr().out


def test_constant_stack_comes_back_with_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "in.npy", np.full((4, 5, 6), 7, np.uint8))
    assert call(monkeypatch, tmp_path, "recover", "in.npy", "out.npy") == 0
    assert "have the value 7" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.full((4, 5, 6), 7.0))


def test_what_the_reader_noted_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which image was read, what else there is, and a pixel size without a step along z."""
    data = np.random.default_rng(0).poisson(50, (6, 20, 24)).astype(np.uint16)
    sizes = {"PhysicalSizeX": 0.1, "PhysicalSizeY": 0.2}
    with tifffile.TiffWriter(tmp_path / "in.ome.tif", ome=True) as writer:
        writer.write(data[0], photometric="minisblack", metadata={"Name": "overview"})
        writer.write(data, photometric="minisblack", metadata={"axes": "ZYX", "Name": "stack", **sizes})
    assert call(monkeypatch, tmp_path, "recover", "in.ome.tif", "out.ome.tif", "--method", "fast", "--json") == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert notes[0].startswith("of 2 images number 1 was read, 'stack' 6 x 20 x 24 ZYX uint16; not 0: 'overview'")
    assert notes[1] == "the pixels are 0.2 x 0.1 um (y, x); the step along z is unknown"
    out = tc.read(tmp_path / "out.ome.tif")
    assert out.metadata["pixel_size"] == (0.2, 0.1)
    assert "notes" not in out.metadata
    assert call(monkeypatch, tmp_path, "diagnose", "in.ome.tif") == 0
    assert "Of 2 images number 1 was read" in capsys.readouterr().out


INTERRUPTED_FIT = """
import os, signal, sys
from tensorcell import cli
from tensorcell.cli import in_memory
real = in_memory.recover
interrupt = lambda record, state: os.kill(os.getpid(), signal.SIGINT)
in_memory.recover = lambda *a, **k: real(*a, **{**k, "callback": interrupt})
sys.argv = ["tensorcell", "recover", "in.npy", "out.tif", "--outliers", "e.tif", "--rank", "3"]
cli.main()
"""


def interrupted_fit(folder: Path) -> subprocess.CompletedProcess[str]:
    """A fit that receives SIGINT after every iteration."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    words = [sys.executable, "-c", INTERRUPTED_FIT]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.usefixtures("heeds_interrupts")
def test_interrupt_in_the_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", BAD.stack())
    before = contents(tmp_path)
    run = interrupted_fit(tmp_path)
    assert (run.returncode, run.stderr) == (130, "tensorcell: interrupted; nothing was written\n")
    assert contents(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
@pytest.mark.usefixtures("ignores_interrupts")
def test_interrupt_does_not_reach_a_command_in_the_background(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", BAD.stack())
    run = interrupted_fit(tmp_path)
    assert run.returncode == 0, run.stderr
    assert sorted(contents(tmp_path)) == ["e.tif", "in.npy", "out.tif"]


@pytest.mark.parametrize(
    ("number", "disposition"),
    [
        (signal.SIGINT, "heeds_interrupts"),
        (signal.SIGTERM, "heeds_interrupts"),
        (signal.SIGTERM, "ignores_interrupts"),  # in the background: a scheduler still ends it in an orderly way
    ],
)
def test_interrupt_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals, disposition: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(disposition)
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    np.save(tmp_path / "in.npy", np.random.default_rng(0).uniform(0, 1, (8, 20, 120, 120)).astype(np.float32))
    before = contents(tmp_path)
    words = [sys.executable, "-m", "tensorcell", "recover", "in.npy", "out.tif", "--rank", "15,60,60"]
    words += ["--axes", "TZYX", "--report", "r.html"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "COLUMNS": "200"}
    environment["TERM"] = "xterm"
    master, slave = pty.openpty()
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    try:
        while b"iteration" not in shown:  # the progress bar: the fit has begun
            shown += os.read(master, 4096)
        process.send_signal(number)
        rest = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while piece := os.read(master, 4096):
                rest += piece
        out, _ = process.communicate(timeout=120)
    finally:  # whatever failed, the next test must find nothing running and nothing open
        process.kill()
        process.communicate()
        os.close(master)
    assert (process.returncode, out) == (128 + number, b"")
    assert b"MiB of memory will be needed" in shown
    assert re.search(rb"T=\d \(\d of 8\): fitting the model", shown)
    assert rest.rstrip().endswith(b"tensorcell: interrupted; nothing was written")
    assert b"Traceback" not in rest
    assert contents(tmp_path) == before


def test_a_defect_of_ours_ends_with_status_1_and_leaves_nothing_behind(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.random.default_rng(0).uniform(0, 1, (4, 8, 9)))
    before = contents(tmp_path)
    program = (
        "import sys; from tensorcell import cli; sys.argv = ['tensorcell', 'recover', 'in.npy', 'out.npy']\n"
        "from tensorcell.cli import in_memory; in_memory.recover = lambda *a, **k: 1 / 0\ncli.main()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "ZeroDivisionError" in done.stderr
    assert contents(tmp_path) == before


@pytest.fixture
def hot(tmp_path: Path) -> Path:
    """A stack with two hot pixels and five single bright voxels, and its voxel size."""
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:8, :30, :32]
    data = 100 + 30 * np.sin(y / 4 + z / 6) * np.cos(x / 5) + 2 * rng.standard_normal(z.shape)
    data[:, 9, 11] += 80
    data[:, 21, 25] += 80
    data[(1, 3, 4, 5, 6), (4, 15, 25, 8, 14), (5, 6, 12, 25, 19)] += 150
    tc.write(tmp_path / "in.tif", tc.Volume(data.astype(np.float32), spacing=(0.5, 0.1, 0.1)))
    return tmp_path


def test_recover_and_diagnose_count_the_same_defects_by_kind(
    hot: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The PSF of .6 x .2 x .2 um, two pixels wide, makes single bright voxels defects; without it they are kept."""
    for more, expected in [((), {"hot": 16}), (("--psf-fwhm", "0.6,0.2,0.2"), {"hot": 16, "bright": 5})]:
        assert call(monkeypatch, hot, "recover", "in.tif", "out.tif", "--rank", "3", "--json", *more) == 0
        recovered = json.loads(capsys.readouterr().out)
        assert call(monkeypatch, hot, "diagnose", "in.tif", "--rank", "3", "--json", *more) == 0
        diagnosed = json.loads(capsys.readouterr().out)
        assert recovered["defects"] == diagnosed["defects"] == expected
        assert recovered["outliers"] == diagnosed["outliers"] == sum(expected.values())
        for facts, word in ((recovered, "defects and were replaced: "), (diagnosed, "defects: ")):
            said = f"{sum(expected.values())} of 7680 measured voxels are {word}"
            assert any(said in note for note in facts["notes"])
            assert any("5 bright voxels are as narrow as one voxel" in note for note in facts["notes"]) == (not more)


@pytest.mark.parametrize("command", [("recover", "in.tif", "out.tif"), ("diagnose", "in.tif")])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("0.2,0.2", "--psf-fwhm"),
        ("0.2,wide,0.2", "--psf-fwhm"),
        ("0,0.2,0.2", "expected psf_fwhm positive and finite along z, y and x, got 0, 0.2, 0.2"),
        ("0.2,0.2,-1", "expected psf_fwhm positive and finite along z, y and x, got 0.2, 0.2, -1"),
        ("0.2,0.2,5", "expected psf_fwhm along x below the size of the stack, 3.2 um, got 5"),
    ],
)
def test_a_wrong_psf_is_one_line(
    hot: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: Any, value: str, said: str
) -> None:
    before = contents(hot)
    assert call(monkeypatch, hot, *command, "--psf-fwhm", value) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err
    assert contents(hot) == before


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to another process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("heeds_interrupts")
def test_a_signal_while_packages_are_imported_ends_with_one_line(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "typer.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *(p for p in sys.path if p)])}
    words = [sys.executable, "-m", "tensorcell", "--version"]
    run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300)
    assert (run.returncode, run.stdout) == (128 + number, "")
    assert run.stderr == "tensorcell: interrupted; nothing was begun\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to write to")
def test_standard_output_that_cannot_be_written_is_said_in_a_line(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.full((4, 5, 6), 7, np.uint8))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    words = [sys.executable, "-m", "tensorcell", "recover", "in.npy", "out.npy"]
    with open("/dev/full", "w") as full:
        run = subprocess.run(words, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert run.returncode == 2
    assert re.fullmatch(r"tensorcell: standard output cannot be written, and the result is not shown: .*\n", run.stderr)
    assert (tmp_path / "out.npy").exists()


def test_an_output_that_is_no_file_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "in.npy", BAD.stack())
    os.mkfifo(tmp_path / "out.npy")
    assert call(monkeypatch, tmp_path, "recover", "in.npy", "out.npy") == 2
    assert "out.npy: is no regular file" in capsys.readouterr().err
    assert (tmp_path / "out.npy").is_fifo()
