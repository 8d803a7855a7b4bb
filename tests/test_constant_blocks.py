"""Blocks of one exact value are noticed, a dark or noise-free background is not called one; values declared missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import tensorcell as tc
from tensorcell import cli
from tensorcell.constant_blocks import constant_blocks, constant_notes, may_hold_blocks, squares
from tensorcell.missing_value import without_value


def noisy(low: float = 100.0, shape: tuple[int, ...] = (12, 48, 48)) -> np.ndarray:
    """Counts of some cells on a background of this brightness."""
    rng = np.random.default_rng(3)
    bright = gaussian_filter((rng.random(shape) < 0.002).astype(float), (1.5, 3, 3))
    return rng.poisson(low + 60 * bright / bright.max()) + 0.0


def found(stack: np.ndarray, mask: np.ndarray | None = None) -> list[tuple[float, int, tuple[str, ...]]]:
    mask = np.ones(stack.shape, bool) if mask is None else mask
    return [(blocks.value, blocks.voxels, blocks.places) for blocks in constant_blocks(stack, mask)]


def triangle(stack: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: stack.shape[1], : stack.shape[2]]
    return np.broadcast_to(y + x < 30, stack.shape)


BLOCKS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "planes at the end": (np.s_[9:], ("planes 9-11",)),
    "a plane inside": (np.s_[4], ("plane 4",)),
    "corner": (np.s_[:, :20, 30:], ("z 0-11, y 0-19, x 30-47",)),
    "corner of some planes": (np.s_[2:5, :20, 30:], ("z 2-4, y 0-19, x 30-47",)),
    "rows": (np.s_[:, 45:], ("rows 45-47",)),
    "a column": (np.s_[:, :, 7], ("column 7",)),
}


@pytest.mark.parametrize("value", [0.0, 117.0, 65535.0])
@pytest.mark.parametrize("case", BLOCKS)
def test_blocks_are_found_whatever_their_value(case: str, value: float) -> None:
    where, places = BLOCKS[case]
    stack = noisy()
    stack[where] = value
    assert found(stack) == [(value, np.zeros(stack.shape)[where].size, places)]
    assert found(stack.astype(np.uint16)) == found(stack)


def test_blocks_of_several_kinds_and_values() -> None:
    stack = noisy()
    stack[:, :20, :12], stack[:, 40:, 40:], stack[9:] = 0, 65535, 0
    (zero, voxels, places), (high, others, corner) = found(stack)
    assert (zero, voxels, places) == (0, 3 * 48 * 48 + 9 * 240, ("planes 9-11", "z 0-8, y 0-19, x 0-11"))
    assert (high, others, corner) == (65535, 9 * 64, ("z 0-8, y 40-47, x 40-47",))


def test_a_block_that_is_no_box_is_found_beside_noise() -> None:
    stack = noisy()
    stack[triangle(stack)] = 0
    ((value, voxels, _),) = found(stack)
    assert value == 0
    assert voxels > 0.85 * np.count_nonzero(triangle(stack))  # but for the tips of the triangle


def test_voxels_that_were_not_measured_are_no_block() -> None:
    stack, mask = noisy(), np.ones((12, 48, 48), bool)
    stack[9:], mask[9:] = 0, False
    assert found(stack, mask) == []
    stack[:, :20, :20] = 0
    assert found(stack, mask) == [(0, 9 * 400, ("z 0-8, y 0-19, x 0-19",))]


def test_a_plane_of_zeros_between_clipped_planes_is_a_block() -> None:
    """Most voxels are 0, since the detector clips; in one plane all are."""
    stack = np.clip(noisy() - 107, 0, None)
    assert 0.5 < np.mean(stack == 0) < 0.8
    assert found(stack) == []
    stack[5] = 0
    assert found(stack) == [(0, 48 * 48, ("plane 5",))]


def spots() -> np.ndarray:
    stack = np.zeros((10, 48, 48))
    stack[4, 30, 30], stack[7, 11, 40] = 5, 7
    return stack


def labels() -> np.ndarray:
    stack = np.zeros((10, 48, 48), np.uint8)
    stack[2:7, 10:30, 10:30], stack[4:9, 32:, 30:] = 1, 2
    return stack


BACKGROUNDS = {
    "noise": noisy(),
    "clipped": np.clip(noisy() - 115, 0, None),
    "photons": np.random.default_rng(0).poisson(0.1, (10, 48, 48)),
    "noise-free cells": tc.datasets.simulate_cells((12, 48, 48), cells=4, seed=2, offset=0.0).truth,
    "noise-free spots": spots(),
    "blurred spots": np.where((blurred := gaussian_filter(spots(), 1.5)) < 1e-4, 0, blurred),
    "labels": labels(),
    "saturated cells": np.minimum(noisy(), 112),
}


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_backgrounds_are_no_blocks(name: str) -> None:
    stack = BACKGROUNDS[name]
    assert found(stack) == []
    share = np.mean(stack == stack.min())
    (note,) = constant_notes(stack, np.ones(stack.shape, bool)) or ("",)
    assert ("of the measured voxels have the exact value 0" in note) == (share > 0.5)


def test_the_quick_look_misses_no_square() -> None:
    mask = np.ones((2, 40, 40), bool)
    for y, x in ((0, 0), (5, 8), (32, 31)):
        equal = np.zeros(mask.shape, bool)
        equal[1, y : y + 8, x : x + 8] = True
        assert may_hold_blocks(equal, mask, 64)
        assert not may_hold_blocks(equal, mask, 65)
        ((box, part),) = squares(equal, mask, 10)
        assert box == np.s_[1:2, y : y + 8, x : x + 8]
        assert part.all()
    assert not may_hold_blocks(np.random.default_rng(0).random(mask.shape) < 0.3, mask, 1)


def test_real_volumes_hold_no_blocks(volumes_folder: Path) -> None:
    for name in ("flybrain_confocal_neuropil", "beads_psf_measured", "mouse_embryo_8cell_nuclei_confocal"):
        stack = tc.read(volumes_folder / f"{name}.tif").data
        assert found(stack) == [], name


# ------------------------------------------------------------------------------------------------- missing_value


def test_recover_says_that_a_block_counts_as_measured_and_takes_its_value_as_missing() -> None:
    stack = noisy().astype(np.uint16)
    stack[:, :, 15], stack[8:] = 0, 0
    plain = tc.recover(stack, method="tucker", rank=(2, 3, 3))
    assert plain.measured.all()
    assert plain.notes[0].endswith("if they are padding, pass missing_value=0 (--missing-value 0)")
    assert "planes 8-11; column 15" in plain.notes[0]
    declared = tc.recover(stack, method="tucker", rank=(2, 3, 3), missing_value=0)
    np.testing.assert_array_equal(declared.measured, stack != 0)
    assert not any("exact value" in note for note in declared.notes)
    as_nan = tc.recover(np.where(stack == 0, np.nan, stack).astype(np.float32), method="tucker", rank=(2, 3, 3))
    np.testing.assert_array_equal(declared.volume.data, as_nan.volume.data)


def test_without_value_is_exact_and_joins_the_mask() -> None:
    data = np.array([0.1, 0.1 + 1e-6, 0, 5] * 2, np.float32).reshape(2, 2, 2)
    mask = np.ones(data.shape, bool)
    mask[0, 0, 1] = False
    volume, notes = without_value(tc.Volume(data, mask=mask), 0.1)
    assert notes == ()
    np.testing.assert_array_equal(
        volume.mask, np.array([False, False, True, True, False, True, True, True]).reshape(2, 2, 2)
    )
    np.testing.assert_array_equal(volume.data, data)
    for value in (None, np.nan):
        same, notes = without_value(tc.Volume(data, mask=mask), value)
        assert same.mask is mask
        assert notes == ()
    for value in (-1, 0.5, 2**40):
        _, (note,) = without_value(tc.Volume(np.ones((2, 2, 2), np.uint8)), value)
        assert note == f"no voxel has the missing value {value:g}"


@pytest.mark.parametrize("command", [
    "recover in.npy out.npy --rank 2,3,3 --method tucker", "diagnose in.npy --rank 2,3,3",
    "plan in.npy --axial-factors 1 --noise 11",
])  # fmt: skip
def test_every_command_takes_a_missing_value(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = noisy(shape=(8, 24, 24))
    stack[:, :6, :6] = 0
    np.save(tmp_path / "in.npy", stack)
    monkeypatch.chdir(tmp_path)
    said = {}
    for value in (None, "0", "-3", "zero"):
        words = ["tensorcell", *command.split(), "--json", *([] if value is None else ["--missing-value", value])]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert ended.value.code == (2 if value == "zero" else 0)
        if value == "zero":
            assert "expected a number for --missing-value, got 'zero'" in err
        else:
            said[value] = json.dumps(json.loads(out))
    assert "in blocks have the exact value 0 (z 0-7, y 0-5, x 0-5)" in said[None]
    assert "exact value" not in said["0"]
    assert "o voxel has the missing value -3" in said["-3"]
