"""NIfTI and NRRD: axes, steps in micrometres whatever their unit, contradictions, and damaged files."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volume_files import STACK, refuses

from tensorcell.files import read

nibabel = pytest.importorskip("nibabel", reason="needs the extra 'formats'")
nrrd = pytest.importorskip("nrrd", reason="needs the extra 'formats'")


def nifti(path: Path, data: Any = STACK, unit: str = "micron", affine: Any = None, zooms: Any = None) -> Path:
    """A stack (Z, Y, X) as nibabel writes it, X first, with voxels of 0.108, 0.12 and 0.5 along x, y and z."""
    image = nibabel.Nifti1Image(np.asarray(data).T, np.diag([-0.108, 0.12, 0.5, 1]) if affine is None else affine)
    image.header.set_xyzt_units(unit, "msec")
    if zooms is not None:
        image.header.set_zooms(zooms)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", ["u1", "i2", "u2", "f4", "f8"])
def test_nifti_is_read_bit_for_bit(tmp_path: Path, suffix: str, name: str) -> None:
    volume = read(nifti(tmp_path / f"a{suffix}", STACK.astype(name)))
    assert (volume.axes, volume.dtype) == ("ZYX", name)
    np.testing.assert_array_equal(volume.data, STACK.astype(name))
    assert volume.spacing == pytest.approx((0.5, 0.12, 0.108))
    assert "notes" not in volume.metadata


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1e3), ("micron", 1), ("meter", 1e6), ("unknown", None)])
def test_units_of_nifti(tmp_path: Path, unit: str, factor: float | None) -> None:
    volume = read(nifti(tmp_path / "a.nii", unit=unit))
    assert volume.spacing == (factor and pytest.approx((0.5 * factor, 0.12 * factor, 0.108 * factor)))
    notes = [note for note in volume.metadata.get("notes", []) if "is not between 1 nm and 1 mm" not in note]
    assert [note.split(":")[0] for note in notes] == ([] if factor else ["The voxel size is unknown"])


def test_steps_of_nifti_that_contradict_each_other_are_unknown(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii")
    image = nibabel.load(path)
    image.set_sform(np.diag([-0.108, 0.12, 2.0, 1]), 1, update_affine=False)
    image.header["pixdim"][3] = 0.5
    content = bytearray(path.read_bytes())
    content[:348] = image.header.binaryblock
    path.write_bytes(content)
    volume = read(path)
    assert volume.spacing is None
    (note,) = volume.metadata["notes"]
    assert note.startswith("The voxel size is unknown: the header states steps of [0.108")
    assert note.endswith("2.0].")
    turned = np.eye(4)
    turned[:3, :3] = np.array([[0, -0.12, 0], [0.108, 0, 0], [0, 0, 0.5]])
    assert read(nifti(path, affine=turned)).spacing == pytest.approx((0.5, 0.12, 0.108))


def test_frames_and_scaling_of_nifti(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", np.stack([STACK, STACK + 1]), zooms=(0.108, 0.12, 0.5, 250.0))
    volume = read(path)
    assert (volume.axes, volume.metadata["time_interval"]) == ("TZYX", 0.25)
    np.testing.assert_array_equal(volume.data[1], STACK + 1)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([2.0, 5.0], "<f4").tobytes()  # slope and intercept
    path.write_bytes(content)
    np.testing.assert_array_equal(read(path).data[0], 2.0 * STACK + 5)


def nrrd_file(path: Path, data: Any = STACK, **header: Any) -> Path:
    """A stack (Z, Y, X) as pynrrd writes it, X first."""
    nrrd.write(str(path), np.asarray(data), header, index_order="C")
    return path


DIRECTIONS = {"space": "left-posterior-superior", "space directions": np.diag([0.108, -0.12, 0.5])}


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_nrrd_is_read_bit_for_bit(tmp_path: Path, encoding: str) -> None:
    path = nrrd_file(tmp_path / "a.nrrd", encoding=encoding, **DIRECTIONS, **{"space units": ["um"] * 3})
    volume = read(path)
    assert (volume.axes, volume.dtype) == ("ZYX", STACK.dtype)
    np.testing.assert_array_equal(volume.data, STACK)
    assert volume.spacing == pytest.approx((0.5, 0.12, 0.108))
    assert all("is not between 1 nm and 1 mm" in note for note in volume.metadata.get("notes", ()))


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1e3), ("microns", 1), ("nm", 1e-3), ("", None)])
def test_units_of_nrrd(tmp_path: Path, unit: str, factor: float | None) -> None:
    units = {"units": [unit] * 3} if unit else {}
    volume = read(nrrd_file(tmp_path / "a.nrrd", spacings=[0.108, 0.12, 0.5], **units))
    assert volume.spacing == (factor and pytest.approx((0.5 * factor, 0.12 * factor, 0.108 * factor)))
    said = (
        "The voxel size is unknown along z, y, x: the file states z 0.5 (no unit), y 0.12 (no unit), x 0.108 (no unit)."
    )
    notes = [note for note in volume.metadata.get("notes", ()) if "is not between 1 nm and 1 mm" not in note]
    assert notes == ([] if factor else [said])


def test_axes_of_nrrd(tmp_path: Path) -> None:
    data = np.stack([STACK, STACK + 1])
    kinds = ["domain", "domain", "domain", "time"]
    path = nrrd_file(tmp_path / "a.nrrd", data, kinds=kinds, spacings=[1, 1, 2, 0.5], units=["um", "um", "um", "s"])
    volume = read(path)
    assert (volume.axes, volume.spacing, volume.metadata["time_interval"]) == ("TZYX", (2, 1, 1), 0.5)
    np.testing.assert_array_equal(volume.data, data)
    path = nrrd_file(tmp_path / "b.nrrd", data.transpose(1, 2, 3, 0), kinds=["vector", "domain", "domain", "domain"])
    assert read(path).axes == "ZYXC"
    path = nrrd_file(tmp_path / "c.nrrd", data.transpose(1, 2, 3, 0), kinds=["RGB-color", *kinds[:3]])
    refuses(lambda: read(path), r"is a colour image \(2, 18, 16, 5\), expected intensities")
    detached = nrrd_file(tmp_path / "d.nrrd", STACK)
    head, _, _ = detached.read_bytes().partition(b"\n\n")
    detached.write_bytes(head + b"\ndata file: /etc/hostname\n\n")
    refuses(lambda: read(detached), "has its data in another file, expected them in the same one")


@pytest.mark.parametrize("make", [nifti, nrrd_file])
@pytest.mark.parametrize("whole", [True, False])
def test_files_that_are_cut_off_are_refused(tmp_path: Path, make: Any, whole: bool) -> None:
    suffix = ".nrrd" if make is nrrd_file else ".nii" if whole else ".nii.gz"
    options = {"encoding": "raw" if whole else "gzip"} if make is nrrd_file else {}
    path = make(tmp_path / f"a{suffix}", **options)
    content = path.read_bytes()
    for length in (1, 20, len(content) // 3, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:length])
        refuses(lambda: read(path), f"a{suffix}: ")


def test_the_checksum_of_a_compressed_file_is_compared(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # of the checksum
    path.write_bytes(content)
    refuses(lambda: read(path), "a.nii.gz: cannot be read: CRC check failed")
    path.write_bytes(content[:-9])
    refuses(lambda: read(path), "a.nii.gz: cannot be read: ")
    path.write_bytes(gzip.compress(gzip.decompress(nifti(path).read_bytes()) + bytes(100)))
    refuses(lambda: read(path), "is damaged: its header says 3232 bytes, the file holds more")


def test_claims_beyond_memory_are_refused(tmp_path: Path) -> None:
    path = nrrd_file(tmp_path / "a.nrrd", encoding="raw")
    path.write_bytes(path.read_bytes().replace(b"sizes: 18 16 5", b"sizes: 90000 90000 90000"))
    refuses(lambda: read(path), r"a.nrrd: claims 90000 x 90000 x 90000 values of .* TB of memory")
    content = bytearray(gzip.decompress(nifti(tmp_path / "b.nii.gz").read_bytes()))
    content[40:50] = np.array([3, 30000, 30000, 30000, 1], "<i2").tobytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(content)))
    said = "claims 30000 x 30000 x 30000 values of float64, which need 216 TB of memory"
    refuses(lambda: read(tmp_path / "b.nii.gz"), said)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = nifti(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[252:254] = np.array(-14848, "<i2").tobytes()  # a code of the placement that does not exist
    path.write_bytes(content)
    before = list(nibabel.imageglobals.logger.handlers)
    for _ in range(2):
        np.testing.assert_array_equal(read(path).data, STACK)
    content[70:72] = np.array(1, "<i2").tobytes()  # a data type that is not read
    path.write_bytes(content)
    refuses(lambda: read(path), "a.nii: ")
    assert capfd.readouterr() == ("", "")
    assert nibabel.imageglobals.logger.handlers == before != []


def test_missing_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = nifti(tmp_path / "a.nii"), nrrd_file(tmp_path / "a.nrrd")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    monkeypatch.setitem(sys.modules, "nrrd", None)
    refuses(lambda: read(paths[0]), r'needs the package nibabel; pip install "tensorcell\[formats\]" installs it')
    refuses(lambda: read(paths[1]), r'needs the package pynrrd; pip install "tensorcell\[formats\]" installs it')
