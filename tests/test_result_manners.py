"""Results as Python users meet them: one screen of text, a picture in a notebook, an array to NumPy."""

from __future__ import annotations

import base64
import html
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tensorcell as tc
from tensorcell.evaluation.result import Evaluation
from tensorcell.recovered import given_on_grid


@pytest.fixture(scope="module")
def result() -> tc.Recovery:
    data = np.random.default_rng(0).normal(100, 1, (2, 6, 12, 14)).astype(np.float32)
    data[:, :, 3:7, 3:9] += 50
    data[0, 2, 5, 5] = np.nan
    volume = tc.Volume(data, "CZYX", (1.0, 0.2, 0.2))
    return tc.recover(volume, method="fast", axial_factor=2)


def test_a_result_stands_for_its_volume(result: tc.Recovery, tmp_path: Path) -> None:
    assert np.asarray(result) is result.volume.data
    tc.write(tmp_path / "out.npy", result)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), result.volume.data)
    again = tc.Volume.from_array(result)
    assert (again.axes, again.spacing) == ("CZYX", (0.5, 0.2, 0.2))
    share = 1 - result.measured.mean()
    assert again.metadata["notes"] == [f"{share:.1%} of these voxels were filled by a recovery and count as measured"]


def test_a_result_is_one_screen_of_text(result: tc.Recovery) -> None:
    for text in (str(result), repr(result)):
        lines = text.splitlines()
        assert len(lines) <= 24
        assert max(map(len, lines)) <= 96
    assert text.startswith("The fit finished")
    assert "54.5% of the voxels were measured" in " ".join(lines)  # 6 of 11 planes, less one voxel
    for row in ("volume       2 x 11 x 12 x 14 CZYX, float32, 0.5 x 0.2 x 0.2 um", "input        2 x 6 x 12 x 14"):
        assert row in lines
    assert re.search(r"^uncertainty +[\d.]+ in measured voxels, [\d.]+ in filled voxels \(median\)$", text, re.M)
    for note in result.notes[:2]:
        assert note in " ".join(text.replace("\n  ", " ").split())
    lines = str(replace(result, notes=("what to know " * 9,) * 20)).splitlines()
    assert len(lines) == 24
    assert lines[-1] == "... (all of them: result.notes)"


def test_a_notebook_shows_input_result_and_uncertainty(result: tc.Recovery) -> None:
    shown = result._repr_html_()
    assert len(shown) < 100_000
    assert html.escape(str(result)) in shown
    assert 'alt="input, recovered, uncertainty"' in shown
    found = re.search(r'base64,([^"]+)"', shown)
    assert found is not None
    assert base64.b64decode(found[1]).startswith(b"\x89PNG")


def test_the_input_lies_among_the_planes_of_the_result(result: tc.Recovery) -> None:
    assert result.given is not None
    found = given_on_grid(result, 1)
    np.testing.assert_array_equal(found[::2], result.given.data[0])
    assert np.isnan(found[1::2]).all()
    np.testing.assert_array_equal(given_on_grid(result, 5), found[:, ::5, ::5])


def test_larger_pixels_of_the_input_are_repeated() -> None:
    data = np.random.default_rng(0).normal(100, 1, (4, 8, 9)).astype(np.float32)
    mask = np.ones(data.shape, bool)
    mask[1, 2, 3] = False
    finer = tc.recover(data, mask, method="fast", lateral_factor=2)
    expected = np.where(mask, data, np.nan).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(given_on_grid(finer, 1), expected)


def test_other_results_show_their_text() -> None:
    cells = tc.datasets.simulate_cells((8, 24, 24), cells=3, seed=0)
    report = tc.diagnose(cells.measured, rank=2, noise=4.0)
    assert repr(report) == str(report)
    assert len(repr(report).splitlines()) <= 24
    evaluation = Evaluation((), 0, 1.0, (), Path("out"))
    assert repr(evaluation) == str(evaluation)
    assert repr(evaluation).endswith(evaluation.sentence)
