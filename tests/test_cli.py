"""The command line: exit status, one line for bad input, whole outputs or none."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tensorcell as tc
from tensorcell import cli


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


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    """Run the command line in this process; returns its exit status."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["tensorcell", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)  # type: ignore[arg-type]


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


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    cells = tc.datasets.simulate_cells((8, 24, 26), cells=4, keep_pixels=0.8, outliers=0.01, seed=2)
    counts = np.where(cells.mask, np.clip(np.rint(np.nan_to_num(cells.measured)), 0, 255), 0).astype(np.uint8)
    tc.write(tmp_path / "in.tif", tc.Volume(counts, spacing=(0.5, 0.2, 0.1)))
    tc.write(tmp_path / "mask.tif", tc.Volume(cells.mask.astype(np.uint8)))
    return tmp_path


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


def test_a_failing_output_takes_the_others_with_it(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise tc.InputError("out.tif: cannot be written: no space left on device")

    real = cli.write
    monkeypatch.setattr(cli, "write", lambda path, *a, **k: full() if path == "out.tif" else real(path, *a, **k))
    before = contents(stack)
    arguments = ("recover", "in.tif", "out.tif", "--outliers", "e.tif", "--report", "r.png", "--rank", "3")
    assert call(monkeypatch, stack, *arguments) == 2
    assert contents(stack) == before
    assert "no space" in capsys.readouterr().err


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


INTERRUPTED_FIT = """
import os, signal, sys
from tensorcell import cli
real = cli.recover_volume
interrupt = lambda record, state: os.kill(os.getpid(), signal.SIGINT)
cli.recover_volume = lambda *a, **k: real(*a, **{**k, "callback": interrupt})
sys.argv = ["tensorcell", "recover", "in.npy", "out.tif", "--outliers", "e.tif", "--rank", "3"]
cli.main()
"""


def test_interrupt_in_the_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", BAD.stack())
    before = contents(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    words = [sys.executable, "-c", INTERRUPTED_FIT]
    run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300)
    assert (run.returncode, run.stderr) == (130, "tensorcell: interrupted; nothing was written\n")
    assert contents(tmp_path) == before


def test_interrupt_while_writing_leaves_nothing_behind(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = cli.write

    def interrupted(path: str, *arguments: object, **options: object) -> object:
        if path == "out.tif":
            raise KeyboardInterrupt
        return real(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cli, "write", interrupted)
    before = contents(stack)
    arguments = ("recover", "in.tif", "out.tif", "--outliers", "e.tif", "--report", "r.png", "--rank", "3")
    assert call(monkeypatch, stack, *arguments) == 130
    assert contents(stack) == before
    assert capsys.readouterr().err == "tensorcell: interrupted; nothing was written\n"
