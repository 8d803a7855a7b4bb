"""The demo runs, writes what it says, and beats plain interpolation on its own cases."""

from __future__ import annotations

import functools
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tensorcell as tc
from tensorcell import demo


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Both cases on a smaller volume, each recovered once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SHAPE", (17, 56, 56))
        for name in ("pixels_case", "planes_case"):
            patch.setattr(demo, name, functools.cache(getattr(demo, name)))
        yield


def test_demo_beats_interpolation_and_writes_everything(tmp_path: Path) -> None:
    found = demo.run_demo(tmp_path / "demo")
    for case in ("pixels", "planes"):
        (baseline,) = [name for name in found[case] if name != "tensorcell"]
        assert found[case]["tensorcell"]["psnr_missing"] > found[case][baseline]["psnr_missing"] + 0.3
        result = tc.read(tmp_path / "demo" / f"{case}_output.tif")
        truth = tc.read(tmp_path / "demo" / f"{case}_truth.tif")
        assert result.shape == truth.shape
        assert result.spacing == pytest.approx(truth.spacing)
    assert (tmp_path / "demo" / "before_after.png").read_bytes().startswith(b"\x89PNG")


def test_figure_script_writes_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(__file__).resolve().parents[1] / "docs" / "make_figure.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "figure.png")])
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
