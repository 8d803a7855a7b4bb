"""TIFF with smaller levels of the image, as other readers find them."""

from __future__ import annotations

import itertools
import json
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from volume_files import RANDOM, assert_same, refuses, tiles_of

import tensorcell as tc
from tensorcell import cli
from tensorcell.files import pyramid, read, tiff_pyramid, tiff_write, write
from tensorcell.files.formats import Variant
from tensorcell.files.tile_writing import TileSpec, tile_writer
from tensorcell.volume import Volume

VOLUMES = {
    "plane": Volume(RANDOM.integers(0, 9, (70, 131)).astype(np.uint8), "YX", (0.2, 0.2, 0.3)),
    "stack": Volume(RANDOM.poisson(3, (5, 70, 131)).astype(np.uint16), "ZYX", (0.5, 0.2, 0.3), None, {"note": 1}),
    "channels": Volume(
        RANDOM.integers(-9, 9, (2, 4, 65, 40)).astype(np.int32), "CZYX", metadata={"channel_names": ["a", "b"]}
    ),
    "frames": Volume(RANDOM.random((2, 3, 2, 40, 65)).astype(np.float32), "TZCYX", (1, 0.3, 0.2)),
    "another order": Volume(RANDOM.random((65, 3, 40)).astype(">f8"), "YZX", (1, 0.3, 0.2)),
    "not measured": Volume(np.where(RANDOM.random((3, 65, 40)) < 0.6, np.nan, RANDOM.random((3, 65, 40)))),
    "bool": Volume(RANDOM.random((3, 65, 40)) < 0.5),
    "small": Volume(RANDOM.random((3, 9, 11)).astype(np.float32)),
}


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "LARGEST", 20)
    monkeypatch.setattr(tiff_pyramid, "TILE", 32)


def write_in_parts(path: Path, volume: Volume) -> Any:
    spec = TileSpec(volume.shape, volume.axes, volume.dtype, volume.spacing, volume.metadata, Variant(pyramid=True))
    part = path.with_name(f".part{path.name}")
    with tile_writer(part, path, spec) as writer:
        for where in tiles_of(volume.shape, (1,) * volume.data.ndim):  # parts that end within tiles
            writer.write(where, volume.data[where])
        stored = writer.complete()
    part.rename(path)
    return stored


def levels_of(path: Path) -> list[np.ndarray]:
    """All levels of the one image."""
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome
        (series,) = tif.series
        assert all(page.keyframe.is_tiled for level in series.levels for page in level)
        return [level.asarray() for level in series.levels]


def halved(level: np.ndarray) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """The place of each voxel of the next level, and the values of its block of 2 x 2 voxels."""
    *outer, rows, columns = level.shape
    for place in np.ndindex(*outer, -(-rows // 2), -(-columns // 2)):
        *plane, y, x = place
        yield place, level[(*plane, slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2))].ravel()


@pytest.mark.parametrize("kind", VOLUMES)
def test_levels_are_means_of_blocks_of_the_one_before(kind: str, tmp_path: Path) -> None:
    volume, path = VOLUMES[kind], tmp_path / "a.tif"
    written = write(path, volume, pyramid=True)
    assert (written.format, written.lost) == ("OME-TIFF", ())
    found = read(path)
    assert_same(found, volume)
    levels = levels_of(path)
    sizes = [max(level.shape[-2:]) for level in levels]
    assert sizes[-1] <= 20 or len(sizes) == 1
    assert all(before > 20 for before in sizes[:-1])
    said = [note for note in found.metadata.get("notes", ()) if "smaller level" in note]
    assert len(said) == (len(levels) > 1)
    for before, level in itertools.pairwise(levels):
        assert level.dtype == before.dtype
        for place, values in halved(before):
            known = values if values.dtype == bool else values[~np.isnan(values)]
            if not known.size:
                assert np.isnan(level[place])
            elif volume.dtype == bool:
                assert level[place] == (known.mean() >= 0.5)
            else:
                assert abs(level[place] - known.mean()) < (1 if volume.dtype.kind in "iu" else 1e-6)


def test_levels_of_integers_keep_their_mean(tmp_path: Path) -> None:
    """Rounded to the nearest, or cut off, counts of mean 3 have 2.5, 2.0, 1.6 on their levels."""
    counts = RANDOM.poisson(3, (4, 160, 160)).astype(np.uint8)
    write(tmp_path / "a.tif", Volume(counts), pyramid=True)
    for level in levels_of(tmp_path / "a.tif"):
        assert abs(level.mean() - counts.mean()) < 0.02


@pytest.mark.parametrize("kind", [kind for kind in VOLUMES if kind != "bool"])
def test_what_is_written_in_parts_is_what_is_written_as_a_whole(kind: str, tmp_path: Path) -> None:
    volume = VOLUMES[kind]
    write(tmp_path / "whole.ome.tif", volume, pyramid=True)
    stored = write_in_parts(tmp_path / "parts.ome.tif", volume)
    assert (stored.form, stored.lost) == ("OME-TIFF", ())
    expected, found = (read(tmp_path / f"{name}.ome.tif") for name in ("whole", "parts"))
    assert_same(found, expected)
    assert {**found.metadata, "source": ""} == {**expected.metadata, "source": ""}
    wholes, parts = (levels_of(tmp_path / f"{name}.ome.tif") for name in ("whole", "parts"))
    for ours, theirs in zip(parts, wholes, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_unfinished_file_is_gone_on_with_or_refused(tmp_path: Path) -> None:
    volume = VOLUMES["stack"]
    spec = TileSpec(volume.shape, volume.axes, volume.dtype, volume.spacing, {}, Variant(pyramid=True))
    part, path = tmp_path / ".a.tif", tmp_path / "a.tif"
    with tile_writer(part, path, spec) as writer:
        assert writer.chunks == (1, 32, 32)
        writer.write((0, slice(None), slice(None)), volume.data[0])
    for shape in ((5, 70, 132), (5, 70, 31)):
        other = spec._replace(shape=shape)
        refuses(lambda other=other: tile_writer(part, path, other, resume=True), "was begun with|has 4 levels")
    with tile_writer(part, path, spec, resume=True) as writer:
        writer.write((slice(1, 5), slice(None), slice(0, None, 2)), volume.data[1:, :, ::2])
        writer.write((slice(1, 5), slice(None), slice(1, None, 2)), volume.data[1:, :, 1::2])
        writer.complete()
        writer.complete()  # as after a run that was killed at the end
    np.testing.assert_array_equal(levels_of(part)[0], volume.data)
    part.write_bytes(part.read_bytes()[:-3000])
    refuses(lambda: tile_writer(part, path, spec, resume=True), "was cut off|cannot be read")


def test_large_pyramids_are_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiles of all levels count: the image alone, 45850 bytes, would fit."""
    volume = VOLUMES["stack"]
    for limit, big in ((120_000, True), (400_000, False)):
        monkeypatch.setattr(tiff_write, "CLASSIC_LIMIT", limit)
        write(tmp_path / "a.tif", volume, pyramid=True)
        with tifffile.TiffFile(tmp_path / "a.tif") as tif:
            assert tif.is_bigtiff == big
        assert_same(read(tmp_path / "a.tif"), volume)


def test_levels_in_parts_take_little_memory(tmp_path: Path) -> None:
    volume = Volume(np.zeros((40, 256, 256), np.float32))
    tracemalloc.start()
    write_in_parts(tmp_path / "a.tif", volume)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < volume.data.nbytes / 2  # a part is an eighth


@pytest.mark.parametrize(
    ("name", "volume", "message"),
    [
        ("a.h5", VOLUMES["stack"], r"a.h5: HDF5 \(.h5\) has no smaller levels of an image, expected .tif, .*or .zarr"),
        ("a.npy", VOLUMES["stack"], r".npy \(.npy\) has no smaller levels"),
        ("a.mrc", VOLUMES["stack"], r"MRC \(.mrc\) has no smaller levels"),
        ("a.tif", Volume(np.zeros((2, 3, 4), np.int64)), "OME-TIFF, which has smaller levels, has no dtype int64"),
        ("a.tif", Volume(np.zeros((2, 3, 4)), "RYX"), "OME-TIFF, which has smaller levels, has no axes RYX"),
    ],
)
def test_formats_without_levels_say_so(tmp_path: Path, name: str, volume: Volume, message: str) -> None:
    refuses(lambda: write(tmp_path / name, volume, pyramid=True), message)
    spec = TileSpec(volume.shape, volume.axes, volume.dtype, variant=Variant(pyramid=True))
    refuses(lambda: tile_writer(tmp_path / ".p", tmp_path / name, spec), message)
    assert not list(tmp_path.iterdir())


def test_bool_is_not_written_in_parts(tmp_path: Path) -> None:
    spec = TileSpec((2, 3, 4), "ZYX", bool, variant=Variant(pyramid=True))
    refuses(lambda: tile_writer(tmp_path / ".p", tmp_path / "a.tif", spec), "stores eight values of bool in a byte")


def test_a_stack_of_one_row_has_few_levels() -> None:
    """Rows that cannot be halved do not keep columns from it."""
    levels = [*pyramid.smaller_levels((2, 1, 100), "ZYX", None)]
    assert [level.shape for level in levels] == [(2, 1, 50), (2, 1, 25), (2, 1, 13)]


def test_the_command_writes_levels_of_all_volumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = RANDOM.poisson(20, (4, 40, 60)).astype(np.uint16)
    write(tmp_path / "in.tif", Volume(counts, spacing=(0.5, 0.1, 0.1)), pyramid=True)
    outputs = [str(tmp_path / "out.tif"), "--uncertainty", str(tmp_path / "u.ome.tif"), "--json"]
    words = ["recover", str(tmp_path / "in.tif"), *outputs, "--pyramid", "--method", "fast", "--dtype", "input"]
    monkeypatch.setattr(sys, "argv", ["tensorcell", *words])
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main()
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any("2 smaller levels of the image were not read" in note for note in notes)
    parts = [tmp_path / f"parts{name}.tif" for name in ("", "_u")]
    tc.recover_file(tmp_path / "in.tif", parts[0], uncertainty=parts[1], method="fast", pyramid=True)
    for path in (tmp_path / "out.tif", tmp_path / "u.ome.tif", *parts):
        assert [level.shape[-3:] for level in levels_of(path)] == [(4, 40, 60), (4, 20, 30), (4, 10, 15)]
        assert tc.read(path).spacing == (0.5, 0.1, 0.1)
