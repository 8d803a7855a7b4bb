"""Single images and series of them: axes without Z, from file to file, and the same values as stacks of one plane."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tensorcell import cli, diagnose, plan, read, recover, write
from tensorcell.datasets import simulate_cells
from tensorcell.errors import InputError
from tensorcell.pages.pictures import Picture, row_heights
from tensorcell.solvers import LocalOptions
from tensorcell.solvers.patch_groups import corners_of, fitted, in_frames
from tensorcell.volume import Volume, stacks

TRUTH = simulate_cells((9, 48, 56), cells=9, seed=3).truth[4].astype(np.float32)
SIGMA = 0.06 * float(TRUTH.max())
NOISY = TRUTH + SIGMA * np.random.default_rng(0).standard_normal(TRUTH.shape).astype(np.float32)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def test_an_image_is_recovered_as_a_stack_of_one_plane() -> None:
    image, stack = recover(NOISY), recover(NOISY[np.newaxis])
    assert image.volume.axes == "YX"
    assert image.volume.shape == image.uncertainty.shape == image.measured.shape == NOISY.shape
    for name in ("uncertainty", "measured", "outliers", "invented"):
        np.testing.assert_array_equal(getattr(image, name), getattr(stack, name)[0])
    np.testing.assert_array_equal(image.volume.data, stack.volume.data[0])
    assert image.rank == stack.rank


def test_noise_of_an_image_is_taken_off_and_its_error_known() -> None:
    result = recover(NOISY, noise=SIGMA)
    off = result.volume.data - TRUTH
    assert rms(off) < 0.5 * rms(NOISY - TRUTH)
    assert 0.8 < np.mean(np.abs(off) <= 1.645 * result.uncertainty) <= 1


def test_gaps_of_an_image_are_filled_better_than_by_the_nearest_pixel() -> None:
    from scipy.ndimage import distance_transform_edt

    mask = np.random.default_rng(1).random(TRUTH.shape) < 0.5
    result = recover(TRUTH, mask=mask)
    np.testing.assert_array_equal(
        result.volume.data[mask & (result.outliers == 0)], TRUTH[mask & (result.outliers == 0)]
    )
    nearest = TRUTH[tuple(distance_transform_edt(~mask, return_distances=False, return_indices=True))]
    assert rms((result.volume.data - TRUTH)[~mask]) < 0.6 * rms((nearest - TRUTH)[~mask])
    assert not any("measured in no plane" in note for note in result.notes)


def test_frames_and_channels_are_recovered_one_by_one_and_frames_may_be_depth() -> None:
    series = np.stack([NOISY, NOISY[::-1]])
    frames = recover(Volume(series, "TYX", (0.2, 0.1)), method="tucker")
    np.testing.assert_array_equal(frames.volume.data[0], recover(NOISY, method="tucker").volume.data)
    assert frames.volume.spacing == (0.2, 0.2, 0.1)
    assert frames.notes[0].endswith("if T is depth, pass axes='ZYX'")
    channels = recover(Volume(series, "CYX"), method="tucker")
    np.testing.assert_array_equal(channels.volume.data, frames.volume.data)
    assert not any("depth" in note for note in channels.notes)
    halves = recover(Volume(np.moveaxis(series, 0, 2), "YXC"), method="tucker", lateral_factor=2)
    assert halves.volume.shape == (96, 112, 2)


def test_what_needs_planes_says_so() -> None:
    with pytest.raises(InputError, match="expected axial factor 1, since single planes have none between them, got 3"):
        recover(NOISY, axial_factor=3)
    with pytest.raises(InputError, match="expected a stack of at least 2 planes, got 1"):
        diagnose(NOISY)
    with pytest.raises(InputError, match="expected a pilot of at least 3 planes, got 1"):
        plan(NOISY)


def test_a_volume_of_one_plane_has_one_and_shows_its_pixel_size() -> None:
    image = Volume(NOISY, "YX", (0.2, 0.1))
    assert image.planes == 1
    assert repr(image) == "Volume(48 x 56 YX, float32, 0.2 x 0.1 um)"
    (stack,) = stacks(image)
    assert stack.data.shape == (1, 48, 56)
    assert np.shares_memory(stack.data, NOISY)
    with pytest.raises(InputError, match="spacing must be three numbers"):
        Volume(NOISY[np.newaxis], "ZYX", (0.2, 0.1))
    with pytest.raises(InputError, match=r"must be two numbers \(dy, dx\) or three numbers \(dz, dy, dx\), got"):
        Volume(NOISY, "YX", (0.2,))


@pytest.mark.parametrize("text", ["0.2,0.1", "7,0.2,0.1"])
def test_the_command_takes_two_numbers_or_three_as_the_spacing_of_single_planes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", NOISY[:20, :20])
    np.save("z.npy", np.stack([NOISY[:20, :20]] * 3))
    command = ["tensorcell", "recover", "a.npy", "b.ome.tif", "--spacing", text, "--method", "tucker", "--quiet"]
    for source, spacing, status in (("a.npy", text, 0), ("a.npy", "0.2", 2), ("z.npy", "0.2,0.1", 2)):
        monkeypatch.setattr(sys, "argv", [*command[:2], source, command[3], "--spacing", spacing, *command[6:]])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert (exit_.value.code or 0) == status
        expected = {"a.npy": "expected 2 or 3 numbers", "z.npy": "expected 3 numbers"}[source] if status else ""
        assert expected in capsys.readouterr().err
    assert read("b.ome.tif").spacing == pytest.approx((0.2, 0.2, 0.1))


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.h5", "a.npz"])
@pytest.mark.parametrize("axes", ["YX", "TYX", "CYX"])
def test_files_hold_images_and_their_pixel_size(tmp_path: Path, name: str, axes: str) -> None:
    data = NOISY if axes == "YX" else np.stack([NOISY, 2 * NOISY, 3 * NOISY])
    write(tmp_path / name, Volume(data, axes, (0.25, 0.125)))
    found = read(tmp_path / name)
    assert found.axes == axes
    assert found.spacing == pytest.approx((0.25, 0.25, 0.125))
    np.testing.assert_array_equal(found.data, data)


def test_an_image_of_another_program_keeps_its_pixel_size(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", NOISY, imagej=True, resolution=(8, 4), metadata={"unit": "um", "axes": "YX"}
    )  # fmt: skip
    assert read(tmp_path / "a.tif").spacing == (0.25, 0.25, 0.125)
    tifffile.imwrite(tmp_path / "b.tif", NOISY)
    assert read(tmp_path / "b.tif").axes == "YX"


def test_the_command_recovers_an_image_and_draws_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("a.tif", NOISY)
    command = ["tensorcell", "recover", "a.tif", "b.tif", "--method", "tucker", "--report", "r.html"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code
    found = read("b.tif")
    assert (found.axes, found.shape) == ("YX", NOISY.shape)
    assert Path("r.html").stat().st_size > 10_000


def test_pictures_of_an_image_have_no_slices_across_it() -> None:
    heights = [row_heights(Picture([], 0, 0, shape, None, (0, 1))) for shape in ((1, 48, 56), (2, 48, 56))]
    assert [len(each) for each in heights] == [1, 2]


def test_patches_of_single_planes_are_larger_where_one_number_was_given() -> None:
    options = LocalOptions(patch=4, reach=3)
    plane = options.for_shape((1, 30, 30))
    assert (plane.patch, plane.reach) == ((1, 6, 6), (0, 6, 6))
    assert options.for_shape((5, 1, 30, 30)) == plane
    assert options.for_shape((2, 30, 30)) is options
    assert LocalOptions(patch=(1, 4, 4)).for_shape((1, 30, 30)).patch == (1, 4, 4)


@pytest.mark.parametrize("shape", [(1, 40, 44), (3, 1, 40, 44), (2, 3, 40, 44)])
def test_reference_patches_lie_a_step_apart_in_thin_stacks_too(shape: tuple[int, ...]) -> None:
    geometry = fitted(LocalOptions(step=3).for_shape(shape), shape)
    z, y, x = corners_of(in_frames(shape), geometry)[1:]
    assert len(z) == shape[-3] - geometry.patch[0] + 1
    assert set(np.diff(y)[:-1]) == set(np.diff(x)[:-1]) == {3}
