"""A stack in several files: their order, what they must share, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from volume_files import STACK, npz, refuses, text_file, tiff

import tensorcell as tc
from tensorcell.files import read, write
from tensorcell.volume import Volume


def planes(folder: Path, data: np.ndarray = STACK, first: int = 8, name: str = "z{}.tif") -> list[Path]:
    """Each plane in an ImageJ TIFF of its own, with numbers of one and two digits."""
    folder.mkdir(exist_ok=True)
    paths = [folder / name.format(first + number) for number in range(len(data))]
    for path, plane in zip(paths, data, strict=True):
        write(path, Volume(plane, "YX", (0.12, 0.108)))
    return paths


def test_a_folder_is_a_stack_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    planes(tmp_path / "in")
    (tmp_path / "in" / ".DS_Store").touch()
    volume = tc.read(tmp_path / "in")
    assert (volume.axes, volume.dtype, volume.spacing) == ("ZYX", STACK.dtype, None)
    np.testing.assert_array_equal(volume.data, STACK)  # z10 after z9
    assert volume.metadata["pixel_size"] == pytest.approx((0.12, 0.108))
    assert (volume.metadata["source"], volume.metadata["files"]) == ("in", 5)
    assert "notes" not in volume.metadata
    assert read(f"{tmp_path}/in/", axes="TYX").axes == "TYX"
    assert read(tmp_path / "in", axes="TYX").spacing == pytest.approx((0.12, 0.12, 0.108))


def test_a_list_is_taken_in_its_order(tmp_path: Path) -> None:
    paths = planes(tmp_path / "in")
    np.testing.assert_array_equal(read(paths).data, STACK)
    volume = read(paths[::-1])
    np.testing.assert_array_equal(volume.data, STACK[::-1])
    assert volume.metadata["notes"] == [
        "The planes are in the order in which the files were given, which is not that of their names."
    ]
    refuses(lambda: read([]), "the list of paths is empty, expected the planes of a stack")


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_missing_numbers_are_gaps_on_request(tmp_path: Path, dtype: str) -> None:
    data = STACK.astype(dtype)
    paths = planes(tmp_path / "in", data, first=0, name="z{}0.tif")
    for lost in (paths[2], paths[3]):
        lost.unlink()
    volume = read(tmp_path / "in", missing_planes=True)
    assert volume.mask is not None
    np.testing.assert_array_equal(volume.mask.all(axis=(1, 2)), [True, True, False, False, True])
    np.testing.assert_array_equal(volume.mask.any(axis=(1, 2)), [True, True, False, False, True])
    np.testing.assert_array_equal(volume.data[volume.mask], data[[0, 1, 4]].ravel())
    assert np.isnan(volume.data[2:4]).all() if dtype == "f4" else not volume.data[2:4].any()
    assert volume.metadata["notes"] == [
        "The numbers in the names of the files leave out 20, 30; 2 planes count as not measured."
    ]
    assert read(paths[:2], missing_planes=True).mask is None
    given = read([paths[4], *paths[:2]], missing_planes=True)  # their places are those of the list
    assert given.mask is None
    assert len(given.metadata["notes"]) == 2
    paths[4].rename(tmp_path / "in" / f"z{10**15}.tif")
    refuses(lambda: read(tmp_path / "in", missing_planes=True), "memory|planes|bytes")


def test_missing_numbers_are_said(tmp_path: Path) -> None:
    paths = planes(tmp_path / "in")
    (note,) = read([*paths[:2], *paths[3:]]).metadata["notes"]
    assert note.startswith("The numbers in the names of the files leave out 10; ")
    even = [path.rename(path.with_name(f"z{2 * number}.tif")) for number, path in enumerate(paths)]
    assert "notes" not in read(even).metadata
    odd = even[-1].rename(even[-1].with_name("z9.tif"))  # numbers without a step
    assert "notes" not in read([*even[:-1], odd]).metadata


def test_frames_with_a_stack_each(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"t{number}.h5", Volume(STACK + number, spacing=(0.5, 0.12, 0.108), mask=number < STACK))
    volume = read(tmp_path, axes="TZYX")
    assert (volume.axes, volume.spacing) == ("TZYX", (0.5, 0.12, 0.108))
    np.testing.assert_array_equal(volume.data, np.stack([STACK, STACK + 1, STACK + 2]))
    np.testing.assert_array_equal(volume.mask, np.stack([STACK > 0, STACK > 1, STACK > 2]))
    refuses(lambda: read(tmp_path), r"t0.h5: holds a stack \(5, 16, 18\) \(ZYX\), expected a plane; axes='TZYX' makes")
    refuses(lambda: read(tmp_path, axes="ZYX"), "axes 'ZYX' name 3 axes, files of ZYX make 4")


def test_planes_of_length_one_and_channels(tmp_path: Path) -> None:
    for number, plane in enumerate(STACK):
        write(tmp_path / f"{number}.npz", Volume(np.stack([plane, plane + 1])[:, None], "CZYX", (0.5, 0.12, 0.108)))
    volume = read(tmp_path)
    assert (volume.axes, volume.shape) == ("ZCYX", (5, 2, 16, 18))
    np.testing.assert_array_equal(volume.data[:, 1], STACK + 1)
    assert volume.metadata["pixel_size"] == (0.12, 0.108)


def test_the_first_file_that_differs_is_named(tmp_path: Path) -> None:
    paths = planes(tmp_path / "in")
    tiff(paths[2], STACK[2, :9])
    refuses(
        lambda: read(tmp_path / "in"), r"z10.tif: holds \(9, 18\) YX of uint16, expected \(16, 18\) YX of uint16 as in"
    )
    tiff(paths[2], STACK[2].astype(np.float32))
    refuses(lambda: read(paths), r"z10.tif: holds \(16, 18\) YX of float32, expected .* of uint16 as in .*z8.tif")
    paths[2].write_bytes(paths[1].read_bytes()[:200])
    refuses(lambda: read(paths), "z10.tif: is ")
    paths[2].unlink()
    refuses(lambda: read(paths), "z10.tif: no such file")
    write(paths[2], Volume(STACK[2], "YX", (0.24, 0.2)))
    volume = read(paths)
    assert volume.spacing is None
    assert volume.metadata["notes"] == ["The voxel size is unknown: the files state different ones."]


def test_folders_that_are_no_stack_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    refuses(lambda: read(folder), "in: is a folder without files, expected the planes of a stack")
    planes(folder)
    text_file(folder / "notes.txt")
    refuses(
        lambda: read(folder), r"in: holds files of several kinds \(.tif, .txt\), expected one plane of a stack in each"
    )
    (folder / "notes.txt").unlink()
    planes(folder, name="c1_z{}.tif")
    refuses(lambda: read(folder), r"in: has names that vary in words \(c1_z8.tif ... z12.tif\), expected one number")
    for path in folder.glob("z*"):
        path.unlink()
    planes(folder, name="c2_z{}.tif")
    refuses(
        lambda: read(folder), r"in: has names that vary in several numbers .*; pass the paths of one stack as a list$"
    )
    (folder / "more").mkdir()
    refuses(lambda: read(folder), r"holds files of several kinds \(.tif, folders\)")
    refuses(lambda: read([npz(tmp_path / "a.npz", data=STACK), tmp_path / "in"]), "expected a plane")
