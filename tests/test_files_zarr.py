"""Zarr: OME-Zarr of both versions in and out, the place of every level's voxels, plain arrays, and damaged folders."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volume_files import ALL_DTYPES, KNOWN, STACK, assert_same, names, refuses

import tensorcell as tc
from tensorcell.files import pyramid, read, read_mask, write
from tensorcell.files.formats import Variant
from tensorcell.files.ngff import levels_of
from tensorcell.files.tile_writing import TileSpec, tile_writer
from tensorcell.volume import Volume

zarr = pytest.importorskip("zarr", reason="needs the extra 'formats'")
numcodecs = pytest.importorskip("numcodecs", reason="needs the extra 'formats'")

STEPS = [0.5, 0.12, 0.108]


def axes_of(text: str, unit: str | None = "micrometer") -> list[dict[str, str]]:
    kinds = {"t": "time", "c": "channel"}
    axes = [{"name": name, "type": kinds.get(name, "space")} for name in text]
    return [{**axis, "unit": unit} if unit and axis["type"] == "space" else axis for axis in axes]


def scaled(path: str, scale: list[float], *more: dict[str, Any]) -> dict[str, Any]:
    return {"path": path, "coordinateTransformations": [{"type": "scale", "scale": scale}, *more]}


def group_of(path: Path, version: int = 2, **multiscale: Any) -> Any:
    """A group with the metadata of an image, as other programs write them in zarr 2 and 3."""
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    if version == 2:
        group.attrs["multiscales"] = [{"version": "0.4", **multiscale}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    return group


def image(path: Path, data: Any = STACK, version: int = 2, unit: str | None = "micrometer", **multiscale: Any) -> Path:
    """An image of one level, voxels of `STEPS`."""
    data = np.asarray(data)
    group = group_of(
        path, version, **{"axes": axes_of("tczyx"[-data.ndim :], unit), "datasets": [scaled("0", STEPS)], **multiscale}
    )
    group.create_array("0", shape=data.shape, chunks=data.shape, dtype=data.dtype)[...] = data
    return path


def json_of(path: Path) -> Any:
    return json.loads(path.read_text())


# ---------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("in_tiles", [False, True])
def test_the_older_version_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_tiles: bool) -> None:
    """Values, voxel size and place of every level, and of the mask, in zarr 2, compressed as all readers know it."""
    monkeypatch.setattr(pyramid, "LARGEST", 8)
    mask = None if in_tiles else STACK > 900
    volume = replace(KNOWN, data=STACK, mask=mask, metadata={"channel_names": ["DAPI"], "note": 1})
    write(tmp_path / "new.zarr", volume)
    old = tmp_path / "old.zarr"
    if in_tiles:
        spec = TileSpec(volume.shape, volume.axes, volume.dtype, volume.spacing, volume.metadata, Variant(ngff="0.4"))
        with tile_writer(tmp_path / ".old.zarr", old, spec) as writer:
            writer.write((slice(None), slice(None), slice(None)), STACK)
            assert writer.complete() == ("OME-Zarr 0.4", ())
        refuses(
            lambda: tile_writer(tmp_path / ".old.zarr", old, spec._replace(variant=Variant()), resume=True),
            "exists in zarr 2, which has OME-NGFF 0.4, expected 0.5 or a new file",
        )
        (tmp_path / ".old.zarr").rename(old)
    else:
        assert write(old, volume, ngff="0.4").format == "OME-Zarr 0.4"
    groups = [zarr.open_group(str(tmp_path / f"{name}.zarr"), mode="r") for name in ("new", "old")]
    assert groups[1].metadata.zarr_format == 2
    assert json_of(old / "0" / ".zarray")["compressor"]["id"] == "zlib"
    said, again = dict(groups[0].attrs)["ome"], dict(groups[1].attrs)
    (multiscale,) = again["multiscales"]
    assert multiscale.pop("version") == "0.4"
    assert (multiscale, again["omero"]) == (said["multiscales"][0], said["omero"])
    assert len(multiscale["datasets"]) == 3
    for level in "012":
        for path in (level, f"labels/measured/{level}")[: 1 if in_tiles else 2]:
            np.testing.assert_array_equal(groups[1][path][...], groups[0][path][...])
        expected, found = (read(tmp_path / f"{name}.zarr", series=level) for name in ("new", "old"))
        assert_same(found, expected)
        assert found.metadata.get("origin") == expected.metadata.get("origin")
        np.testing.assert_array_equal(found.mask, expected.mask)


def test_other_versions_and_formats_are_refused(tmp_path: Path) -> None:
    refuses(
        lambda: write(tmp_path / "a.zarr", KNOWN, ngff="0.3"), r"a.zarr: OME-Zarr .* has no NGFF 0.3, expected .zarr"
    )
    refuses(lambda: write(tmp_path / "a.tif", KNOWN, ngff="0.4"), r"has no NGFF 0.4, expected .zarr as 0.4 or 0.5")
    assert not list(tmp_path.iterdir())
    write(tmp_path / "a.zarr", KNOWN)
    refuses(
        lambda: write(f"{tmp_path}/a.zarr:/more", KNOWN, ngff="0.4"),
        "exists in zarr 3, which has OME-NGFF 0.5, expected 0.4 or a new file",
    )
    assert write(f"{tmp_path}/a.zarr:/more", KNOWN, ngff="0.5").format == "OME-Zarr 0.5"


@pytest.mark.parametrize("name", ALL_DTYPES)
@pytest.mark.parametrize("compress", [True, False])
def test_every_dtype_comes_back_bit_for_bit(tmp_path: Path, name: str, compress: bool) -> None:
    volume = replace(KNOWN, data=STACK.astype(name), mask=STACK > 9)
    written = write(tmp_path / "a.zarr", volume, compress=compress)
    assert (written.format, written.lost) == ("OME-Zarr 0.5", ())
    again = read(tmp_path / "a.zarr")
    assert_same(again, volume)
    np.testing.assert_array_equal(again.mask, volume.mask)
    stored = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")["0"]
    np.testing.assert_array_equal(stored[...], volume.data)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.zarr"), volume.mask)


@pytest.mark.parametrize("axes", ["YX", "CYX", "TYX", "XZY", "ZCYX", "CTZYX", "TCZYX"])
def test_axes_are_stored_in_the_order_of_ngff_and_come_back(tmp_path: Path, axes: str) -> None:
    sizes = {"T": 2, "C": 3, "Z": 4, "Y": 5, "X": 6}
    data = np.random.default_rng(3).integers(0, 99, [sizes[a] for a in axes]).astype(np.uint8)
    volume = Volume(data, axes, (0.5, 0.12, 0.108) if "Z" in axes else (0.12, 0.108), data > 9)
    write(tmp_path / "a.zarr", volume)
    said = json_of(tmp_path / "a.zarr/zarr.json")["attributes"]["ome"]["multiscales"][0]
    assert [axis["name"].upper() for axis in said["axes"]] == [a for a in "TCZYX" if a in axes]
    stored = json_of(tmp_path / "a.zarr/0/zarr.json")
    assert stored["dimension_names"] == [axis["name"] for axis in said["axes"]]
    again = read(tmp_path / "a.zarr")
    assert_same(again, volume)
    np.testing.assert_array_equal(again.mask, volume.mask)


def test_metadata_of_a_written_image(tmp_path: Path) -> None:
    metadata = {"channel_names": ["a", "b"], "time_interval": 2.5, "origin": [1.0, 2.0, 3.0], "note": "x"}
    data = np.arange(2 * 2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 2, 3, 4, 5)
    write(tmp_path / "a.zarr", Volume(data, "TCZYX", (0.5, 0.12, 0.108), metadata=metadata))
    ome = json_of(tmp_path / "a.zarr/zarr.json")["attributes"]["ome"]
    assert ome["version"] == "0.5"
    assert [axis.get("unit") for axis in ome["multiscales"][0]["axes"]] == ["second", None, *3 * ["micrometer"]]
    assert ome["multiscales"][0]["datasets"][0]["coordinateTransformations"] == [
        {"type": "scale", "scale": [2.5, 1.0, 0.5, 0.12, 0.108]},
        {"type": "translation", "translation": [0.0, 0.0, 1.0, 2.0, 3.0]},
    ]
    assert [one["label"] for one in ome["omero"]["channels"]] == ["a", "b"]
    assert [one["window"]["max"] for one in ome["omero"]["channels"]] == [data[:, 0].max(), data[:, 1].max()]
    again = read(tmp_path / "a.zarr").metadata
    assert metadata.items() <= again.items()
    assert again["format"] == "OME-Zarr 0.5"


def test_what_is_not_measured_is_stored_and_not_left_out(tmp_path: Path) -> None:
    """zarr leaves out chunks that hold the fill value alone; they exist here, so that a missing one is a damage."""
    data = np.full((40, 8, 9), np.nan, np.float32)
    data[0] = 1
    write(tmp_path / "a.zarr", data)
    stored = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")["0"]
    assert np.isnan(stored.fill_value)
    assert stored.nchunks_initialized == stored.nchunks == 3
    assert_same(read(tmp_path / "a.zarr"), Volume(data))
    (tmp_path / "a.zarr/0/c/2/0/0").unlink()
    refuses(lambda: read(tmp_path / "a.zarr"), "a.zarr: is incomplete: 1 of 3 chunks of /0 do not exist")


def test_a_volume_is_put_beside_what_a_store_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write(path, STACK)
    write(f"{path}:/deep/more", STACK + 1)
    np.testing.assert_array_equal(read(path).data, STACK)
    np.testing.assert_array_equal(read(f"{path}:/deep/more").data, STACK + 1)
    np.testing.assert_array_equal(read(path, dataset="deep/more/0").data, STACK + 1)
    write(f"{path}:/deep/more", Volume(STACK + 2, mask=STACK > 9))
    write(f"{path}:/deep/more", STACK + 2)
    assert read(f"{path}:/deep/more").mask is None
    refuses(lambda: write(f"{path}:/deep", STACK), "'deep' is a group in the file that was not written here")
    refuses(lambda: write(f"{path}:/0", STACK), "'0' is an array in the file, expected a group")
    refuses(lambda: write(f"{path}:/a/../b", STACK), "'a/../b' is no name of a group")
    assert not [name for name in names(tmp_path) if "tensorcell-" in name]


def test_a_volume_put_into_a_store_of_zarr_2_is_ngff_0_4(tmp_path: Path) -> None:
    path = image(tmp_path / "a.zarr")
    volume = replace(KNOWN, mask=STACK > 9)
    assert write(f"{path}:/more", volume).format == "OME-Zarr 0.4"
    said = json_of(path / "more/.zattrs")
    assert said["multiscales"][0]["version"] == "0.4"
    assert (path / "more/0/0/0/0").is_file()  # chunks lie in folders
    again = read(f"{path}:/more")
    assert_same(again, volume)
    np.testing.assert_array_equal(again.mask, volume.mask)
    assert volume.metadata.items() <= again.metadata.items()
    zarr.create_array(str(tmp_path / "b.zarr"), data=STACK)
    refuses(lambda: write(f"{tmp_path}/b.zarr:/x", STACK), "exists and is one array, so nothing can be put into it")


def test_axes_that_ngff_does_not_have_are_refused(tmp_path: Path) -> None:
    volume = Volume(STACK[None], "RZYX")
    refuses(lambda: write(tmp_path / "a.zarr", volume), r"OME-Zarr has no axes RZYX, expected T, C, Z, Y, X \(or write")


# -------------------------------------------------------------------------------------------------------- pyramids


@pytest.fixture
def small_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "LARGEST", 8)


@pytest.mark.parametrize("spacing", [(0.5, 0.12, 0.108), (0.2, 0.12, 0.12), (0.1, 0.1, 0.1), None])
@pytest.mark.usefixtures("small_levels")
def test_voxels_of_every_level_lie_where_its_metadata_say(
    tmp_path: Path, spacing: tuple[float, float, float] | None
) -> None:
    """Intensities that are coordinates: the mean of a block is the coordinate of its centre, for odd sizes, too."""
    shape, origin = (7, 33, 65), [3.0, -2.0, 0.5] if spacing else [0.0] * 3
    for axis in range(3):
        step = spacing[axis] if spacing else 1.0
        line = origin[axis] + step * np.arange(shape[axis], dtype=float)
        data = np.broadcast_to(line.reshape([-1 if one == axis else 1 for one in range(3)]), shape)
        write(tmp_path / "a.zarr", Volume(data, spacing=spacing, metadata={"origin": origin}))
        group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")
        levels = levels_of(group.attrs["ome"])
        assert len(levels) == 5  # 65, 33, 17, 9, 5
        for level in levels:
            stored = np.moveaxis(group[level.path][...], axis, 0)
            assert level.scale is not None
            factor = round(level.scale[axis] / step)
            assert len(stored) == -(-shape[axis] // factor)
            whole = shape[axis] // factor  # the last block of an odd length holds fewer voxels
            expected = level.translation[axis] + level.scale[axis] * np.arange(len(stored))
            np.testing.assert_allclose(stored[:whole, 0, 0], expected[:whole], rtol=1e-12, atol=1e-12)
            assert abs(stored[-1, 0, 0] - expected[-1]) <= level.scale[axis] / 2
    if spacing == (0.5, 0.12, 0.108):
        assert [level.scale[0] for level in levels] == [0.5, 0.5, 0.5, 1.0, 2.0]  # planes only where that makes cubes


@pytest.mark.usefixtures("small_levels")
def test_a_level_is_read_with_its_own_size_and_mask(tmp_path: Path) -> None:
    volume = replace(KNOWN, mask=STACK % 4 == 0)
    write(tmp_path / "a.zarr", volume)
    first = read(tmp_path / "a.zarr")
    assert first.metadata["series"] == "level 0 of 3: 0"
    second = read(tmp_path / "a.zarr", series=1)
    assert (second.shape, second.spacing) == ((5, 8, 9), pytest.approx((0.5, 0.216, 2 / 9)))
    assert second.metadata["series"] == "level 1 of 3: 1"
    assert second.metadata["origin"] == pytest.approx([0, 0.054, 1 / 18])
    blocks = volume.mask.reshape(5, 8, 2, 9, 2).sum(axis=(2, 4))
    np.testing.assert_array_equal(second.mask, blocks > 0)
    sums = np.where(volume.mask, STACK, 0).reshape(5, 8, 2, 9, 2).sum(axis=(2, 4))
    assert np.abs(second.data - sums / np.maximum(blocks, 1)).max() < 1  # each is the mean, rounded up or down
    assert_same(read(f"{tmp_path}/a.zarr:/1"), second)
    refuses(lambda: read(tmp_path / "a.zarr", series=7), "has no series 7, it has 0: 0, 1: 1, 2: 2")


@pytest.mark.parametrize("mean", [0.05, 3.0, 3.4])
def test_counts_keep_their_mean_on_every_level(mean: float) -> None:
    """A level's mean is that of the one before, up to less than one count a row."""
    data = np.random.default_rng(1).poisson(mean, (8, 512, 512)).astype(np.uint16)
    level = data
    for _ in range(4):
        smaller, _ = pyramid.halve(level, None, "ZYX", ["Y", "X"])
        exact = level.reshape(8, level.shape[1] // 2, 2, -1, 2).mean(axis=(2, 4))
        assert np.abs(smaller - exact).max() < 1
        assert abs(smaller.mean() - exact.mean()) < 0.05 / level.shape[2] ** 0.5
        level = smaller
    assert level.mean() == pytest.approx(mean, abs=0.02)


@pytest.mark.parametrize("name", ["i1", "u1", "i8", "u8", "i4"])
def test_whole_means_and_the_ends_of_a_type_are_exact(name: str) -> None:
    info = np.iinfo(name)
    data = np.array([info.min, info.max], name).repeat(4)[None, None].repeat(2, axis=1).repeat(3, axis=0)  # 3, 2, 8
    smaller, mask = pyramid.halve(data, None, "ZYX", ["Z", "Y", "X"])
    np.testing.assert_array_equal(smaller, np.broadcast_to(data[:2, :1, ::2], (2, 1, 4)))
    assert (smaller.dtype, mask) == (data.dtype, None)


@pytest.mark.parametrize("halved", ["X", "YX", "ZYX", "TZYX"])
@pytest.mark.parametrize("name", ["u2", "i1", "f4", "i8", "bool"])
@pytest.mark.parametrize("masked", [False, True])
def test_means_are_those_of_the_measured_voxels_of_each_block(
    monkeypatch: pytest.MonkeyPatch, halved: str, name: str, masked: bool
) -> None:
    """By brute force, block by block, on odd sizes and in several slabs."""
    monkeypatch.setattr(pyramid, "SLAB", 1)
    rng = np.random.default_rng(5)
    data = rng.integers(0 if name == "bool" else -9 if name != "u2" else 0, 2 if name == "bool" else 90, (3, 5, 6, 7))
    data = data.astype(name)
    if name == "f4" and masked:
        data[rng.random(data.shape) < 0.3] = np.nan
    mask = rng.random(data.shape) < 0.6 if masked else None
    given = data.copy()
    values, some = pyramid.halve(data, mask, "TZYX", list(halved))
    np.testing.assert_array_equal(data, given)
    blocks = [2 if letter in halved else 1 for letter in "TZYX"]
    assert values.shape == tuple(-(-size // block) for size, block in zip(data.shape, blocks, strict=True))
    for place in np.ndindex(values.shape):
        where = tuple(slice(one * block, (one + 1) * block) for one, block in zip(place, blocks, strict=True))
        inside = data[where].astype(float)[mask[where] if mask is not None else ...]
        inside = inside[~np.isnan(inside)]
        if some is not None:
            measured = mask[where].any() if name != "f4" else inside.size > 0  # type: ignore[index]
            assert some[place] == measured
        if inside.size == 0:
            assert np.isnan(values[place]) if name == "f4" else values[place] == 0
        elif name == "bool":
            assert values[place] == (inside.mean() >= 0.5)
        elif name == "f4":
            assert values[place] == pytest.approx(inside.mean(), rel=1e-6, abs=1e-6)
        else:  # up or down
            assert abs(values[place] - inside.mean()) < 1


def test_nan_and_masked_voxels_count_in_no_mean() -> None:
    data = np.array([[1.0, np.nan, np.nan, np.nan, 5.0]], np.float32)
    np.testing.assert_array_equal(pyramid.halve(data, None, "YX", ["X"])[0], [[1, np.nan, 5]])
    values, mask = pyramid.halve(
        np.array([[7, 100, 9, 9, 3]]), np.array([[True, False, False, False, True]]), "YX", ["X"]
    )
    np.testing.assert_array_equal(values, [[7, 0, 3]])
    np.testing.assert_array_equal(mask, [[True, False, True]])
    flags = np.array([[True, False, False, False, True]])
    np.testing.assert_array_equal(pyramid.halve(flags, None, "YX", ["X"])[0], [[True, False, True]])


# -------------------------------------------------------------------------------------- images of other programs


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("unit", "factor"),
    [("micrometer", 1), ("nanometer", 1e-3), ("millimeter", 1e3), ("angstrom", 1e-4), ("\u00b5m", 1),
     ("picometer", 1e-6), ("meter", 1e6), ("inch", 25400.0)],
)  # fmt: skip
def test_units_become_micrometres(tmp_path: Path, version: int, unit: str, factor: float) -> None:
    volume = read(image(tmp_path / "a.zarr", version=version, unit=unit))
    np.testing.assert_array_equal(volume.data, STACK)
    assert volume.spacing == pytest.approx([factor * step for step in STEPS])
    assert volume.metadata["format"] == ("OME-Zarr 0.4" if version == 2 else "OME-Zarr 0.5")
    assert all("is not between 1 nm and 1 mm" in note for note in volume.metadata.get("notes", ()))


@pytest.mark.parametrize("unit", [None, "parrot", "second"])
def test_steps_without_a_unit_of_length_are_said_and_not_guessed(tmp_path: Path, unit: str | None) -> None:
    volume = read(image(tmp_path / "a.zarr", unit=unit))
    assert volume.spacing is None
    (note,) = volume.metadata["notes"]
    assert note.startswith("The voxel size is unknown along z, y, x: the file states z 0.5 ")
    plain = read(image(tmp_path / "b.zarr", unit=None, datasets=[scaled("0", [1, 1, 1])]))
    assert (plain.spacing, "notes" in plain.metadata) == (None, False)  # 1 is what states nothing


def test_transformations_of_level_and_image_are_multiplied(tmp_path: Path) -> None:
    """First scale and translation of the level, then those of all levels."""
    moved = {"type": "translation", "translation": [10.0, 20.0, 30.0]}
    shared = [{"type": "scale", "scale": [2.0, 3.0, 4.0]}, {"type": "translation", "translation": [1.0, 1.0, 1.0]}]
    path = image(tmp_path / "a.zarr", datasets=[scaled("0", STEPS, moved)], coordinateTransformations=shared)
    volume = read(path)
    assert volume.spacing == pytest.approx((1.0, 0.36, 0.432))
    assert volume.metadata["origin"] == pytest.approx([21, 61, 121])


@pytest.mark.parametrize(("unit", "seconds"), [("millisecond", 0.25), ("second", 250), ("minute", 15000), (None, None)])
def test_time_steps_become_seconds(tmp_path: Path, unit: str | None, seconds: float | None) -> None:
    axes = axes_of("tczyx")
    axes[0] |= {"unit": unit} if unit else {}
    data = np.stack([STACK, STACK + 1])[:, None]
    volume = read(image(tmp_path / "a.zarr", data, axes=axes, datasets=[scaled("0", [250, 1, *STEPS])]))
    assert (volume.axes, volume.spacing) == ("TCZYX", pytest.approx(STEPS))
    assert volume.metadata.get("time_interval") == seconds


def test_axes_follow_their_types_and_names(tmp_path: Path) -> None:
    odd = [{"name": "lambda", "type": "channel"}, *axes_of("zyx")]
    data = np.stack([STACK, STACK + 1])
    volume = read(image(tmp_path / "a.zarr", data, axes=odd, datasets=[scaled("0", [1, *STEPS])]))
    assert (volume.axes, volume.spacing) == ("CZYX", pytest.approx(STEPS))
    old = image(tmp_path / "b.zarr", data[None], version=2, axes=list("tczyx"), datasets=[{"path": "0"}])
    assert read(old).axes == "TCZYX"
    assert read(old).metadata["notes"] == ["The voxel size is unknown: the file states no scale."]
    nameless = [{"name": name, "type": "space"} for name in ("d0", "d1", "d2")]
    path = image(tmp_path / "c.zarr", axes=nameless)
    assert read(path).axes == "ZYX"
    assert read(path, axes="YXZ").axes == "YXZ"
    assert read(image(tmp_path / "d.zarr"), axes="XYZ").spacing == pytest.approx(STEPS[::-1])
    refuses(lambda: read(image(tmp_path / "e.zarr", axes=axes_of("zyx")[1:])), "scale of 3 numbers for 2 axes")


def test_channels_are_named_and_kept(tmp_path: Path) -> None:
    data = np.stack([STACK, STACK + 1])
    path = image(tmp_path / "a.zarr", data, datasets=[scaled("0", [1, *STEPS])])
    group = zarr.open_group(str(path), mode="r+")
    group.attrs["omero"] = {"id": 7, "channels": [{"label": "DAPI", "color": "0000FF"}, {"label": "GFP"}]}
    volume = read(path)
    assert volume.metadata["channel_names"] == ["DAPI", "GFP"]
    write(tmp_path / "b.zarr", volume)
    kept = json_of(tmp_path / "b.zarr/zarr.json")["attributes"]["ome"]["omero"]
    assert (kept["id"], kept["channels"][0]["color"], kept["channels"][1]["label"]) == (7, "0000FF", "GFP")
    group.attrs["omero"] = {"channels": [{"label": "one of two"}]}
    assert "channel_names" not in read(path).metadata


def test_missing_chunks_are_said(tmp_path: Path) -> None:
    """In files of other programs they may be chunks of the fill value, or never written."""
    group = group_of(tmp_path / "a.zarr", axes=axes_of("zyx"), datasets=[scaled("0", STEPS)])
    array = group.create_array("0", shape=(8, 4, 4), chunks=(2, 4, 4), dtype="u2", fill_value=3)
    array[:4] = 9
    volume = read(tmp_path / "a.zarr")
    np.testing.assert_array_equal(volume.data[:, 0, 0], [9, 9, 9, 9, 3, 3, 3, 3])
    (note,) = volume.metadata["notes"]
    assert note.startswith("2 of 4 chunks do not exist and count as measured, with the fill value 3: ")
    assert "missing_value=3" in note
    floats = group.create_array("1", shape=(8, 4, 4), chunks=(2, 4, 4), dtype="f4", fill_value=np.nan)
    floats[:6] = 1
    volume = read(f"{tmp_path}/a.zarr:/1")
    assert np.isnan(volume.data[6:]).all()
    assert volume.metadata["notes"] == ["1 of 4 chunks do not exist: their voxels are not measured."]
    group.create_array("2", shape=(8, 4, 4), chunks=(2, 4, 4), dtype="u2")
    refuses(lambda: read(f"{tmp_path}/a.zarr:/2"), "is incomplete: 4 of 4 chunks of /2 do not exist")


def test_several_images_are_listed_and_one_is_chosen(tmp_path: Path) -> None:
    """As bioformats2raw lays several images, with its group of metadata beside them."""
    path = tmp_path / "a.zarr"
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    root.create_group("OME")
    refuses(lambda: read(path), "has no array of two or more axes, expected a volume")
    for number in (0, 1, 10, 2):
        image(path / str(number), STACK + number)
    refuses(lambda: read(path), r"holds 4 images, name one with series= or dataset=: 0 \(5, 16, 18\), 1 .*, 2 .*, 10 ")
    for series in (1, "1"):
        volume = read(path, series=series)
        np.testing.assert_array_equal(volume.data, STACK + 1)
        assert volume.metadata["series"] == "1 of 4: 1"
    np.testing.assert_array_equal(read(path, series="10").data, STACK + 10)  # its name
    np.testing.assert_array_equal(read(path, series=3).data, STACK + 10)  # its number
    np.testing.assert_array_equal(read(f"{path}:/2").data, STACK + 2)
    refuses(lambda: read(path, series=4), "has no series 4, it has 0: 0, 1: 1, 2: 2, 3: 10")
    for number in (1, 2, 10):
        shutil.rmtree(path / str(number))
    np.testing.assert_array_equal(read(path).data, STACK)  # one is no question


def test_a_plate_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "plate.zarr"
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    root.attrs["plate"] = {"wells": [{"path": "A/1"}]}
    for number, well in enumerate(("A/1/0", "B/2/0")):
        for depth in range(1, 3):
            zarr.open_group(str(path / "/".join(well.split("/")[:depth])), mode="a", zarr_format=2)
        image(path / well, STACK + number)
    refuses(lambda: read(path), "holds 2 images, .*: A/1/0 .*, B/2/0 ")
    np.testing.assert_array_equal(read(path, series="B/2/0").data, STACK + 1)
    group = zarr.open_group(str(path / "A/1/0"), mode="r+")
    group.create_group("labels").attrs["labels"] = ["cells"]
    image(path / "A/1/0/labels/cells", (STACK > 9).astype(np.uint8))
    volume = read(path, series=0)
    assert volume.metadata["notes"] == ["Labels beside the image were not read: cells (dataset=labels/...)."]
    np.testing.assert_array_equal(read(path, dataset="A/1/0/labels/cells").data, STACK > 9)
    np.testing.assert_array_equal(read(path, dataset="A/1/0/labels").data, STACK > 9)


@pytest.mark.parametrize("version", [2, 3])
def test_plain_arrays_are_read(tmp_path: Path, version: int) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), data=STACK, zarr_format=version)
    assert_same(read(path), Volume(STACK))
    assert read(path).metadata["format"] == f"Zarr {version}"
    refuses(lambda: read(path, series=1), r"has no series 1, it is one array \(5, 16, 18\)")
    refuses(lambda: read(path, dataset="x"), "has no dataset 'x', it is one array")
    group = zarr.open_group(str(tmp_path / "b.zarr"), mode="w", zarr_format=version)
    refuses(lambda: read(tmp_path / "b.zarr"), "has no array of two or more axes")
    group.create_array("deep/raw", data=STACK)
    group.create_array("deep/plane", data=STACK[0])
    np.testing.assert_array_equal(read(tmp_path / "b.zarr").data, STACK)
    group.create_array("frames", data=np.stack([STACK, STACK]))
    refuses(lambda: read(tmp_path / "b.zarr"), r"holds 2 images, .*: deep/raw .*, frames \(2, 5, 16, 18\)")
    refuses(lambda: read(tmp_path / "b.zarr", series="frames"), "data has 4 axes .* without names")
    refuses(lambda: read(tmp_path / "b.zarr", dataset="no"), "has no dataset 'no', it has deep/raw .*, frames ")
    assert read(tmp_path / "b.zarr", series="frames", axes="TZYX").axes == "TZYX"


def test_names_of_dimensions_are_axes(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), data=STACK, dimension_names=("x", "depth", "y"))
    assert read(tmp_path / "a.zarr").axes == "XZY"
    old = zarr.create_array(str(tmp_path / "b.zarr"), data=STACK, zarr_format=2)
    old.attrs["_ARRAY_DIMENSIONS"] = ["Time", "height", "width"]
    assert read(tmp_path / "b.zarr").axes == "TYX"
    zarr.create_array(str(tmp_path / "c.zarr"), data=STACK, dimension_names=("row", None, "y"))
    assert read(tmp_path / "c.zarr").axes == "ZYX"


def test_foreign_layouts_of_arrays_are_read(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), data=STACK.astype(">u2"), zarr_format=2, order="F", chunks=(2, 5, 7))
    volume = read(tmp_path / "a.zarr")
    assert volume.dtype.isnative
    np.testing.assert_array_equal(volume.data, STACK)
    zarr.create_array(str(tmp_path / "b.zarr"), data=STACK, chunks=(1, 8, 9), shards=(2, 16, 18))
    np.testing.assert_array_equal(read(tmp_path / "b.zarr").data, STACK)


# -------------------------------------------------------------------------------------------------- damaged folders


def test_folders_that_are_no_zarr(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    refuses(lambda: read(tmp_path / "a.zarr"), "is no zarr, or it is incomplete: expected zarr.json, .zgroup or .zarra")
    (tmp_path / "b.zarr").write_text("x")
    refuses(lambda: read(tmp_path / "b.zarr"), "is a file, expected a folder")
    refuses(lambda: read(tmp_path / "c.zarr"), "no such folder")
    (tmp_path / "a.zarr" / "photo.jpg").touch()
    refuses(
        lambda: write(tmp_path / "a.zarr", STACK), "is a folder without zarr.json or .zgroup or .zarray, expected a"
    )


@pytest.mark.parametrize("compress", [True, False])
def test_any_file_that_is_cut_off_is_noticed(tmp_path: Path, compress: bool) -> None:
    write(tmp_path / "whole.zarr", replace(KNOWN, mask=STACK > 9), compress=compress)
    files = [path.relative_to(tmp_path / "whole.zarr") for path in (tmp_path / "whole.zarr").rglob("*")]
    seen = 0
    for name in (name for name in files if (tmp_path / "whole.zarr" / name).is_file()):
        if name.parts[:2] == ("labels", "zarr.json"):  # names the labels for other programs
            continue
        content = (tmp_path / "whole.zarr" / name).read_bytes()
        for length in (0, 1, len(content) // 2, len(content) - 1):
            damaged = tmp_path / "a.zarr"
            shutil.rmtree(damaged, ignore_errors=True)
            shutil.copytree(tmp_path / "whole.zarr", damaged)
            (damaged / name).write_bytes(content[:length])
            if name.parts[0] == "labels" and name.name == "zarr.json" and len(name.parts) == 3:
                assert_same(read(damaged), KNOWN)  # what describes the mask for other programs
                continue
            refuses(lambda: read(damaged), "a.zarr: ")  # noqa: B023
            seen += 1
    assert seen == 4 * 5  # two arrays, a chunk of each, and the group


@pytest.mark.parametrize("what", ["path", "scale", "axes", "datasets", "text"])
def test_damaged_metadata_are_one_line(tmp_path: Path, what: str) -> None:
    multiscale: dict[str, Any] = {
        "path": {"datasets": [scaled("../../x", STEPS)]},
        "scale": {"datasets": [scaled("0", ["a", 1, 1])]},  # type: ignore[list-item]
        "axes": {"axes": [{"type": "space"}] * 3},
        "datasets": {"datasets": 3},
        "text": {"coordinateTransformations": "scale"},
    }[what]
    path = image(tmp_path / "a.zarr", **multiscale)
    refuses(lambda: read(path), "has damaged metadata: .* in its multiscales")


def test_a_level_that_is_not_there(tmp_path: Path) -> None:
    path = image(tmp_path / "a.zarr", datasets=[scaled("0", STEPS), scaled("1", STEPS)])
    refuses(lambda: read(path, series=1), "is incomplete: its level '1' is no array")
    refuses(lambda: read(path, dataset="../a.zarr"), "has no dataset '../a.zarr', expected a path without '..'")
    refuses(lambda: read(path, dataset="0", series=1), "has no series 1 in '0', which is one array")


def test_a_claim_of_more_voxels_than_memory_is_refused(tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(10**6, 10**5, 10**5), chunks=(1, 100, 100), dtype="u1")
    array[0, :100, :100] = 1
    refuses(lambda: read(tmp_path / "a.zarr"), r"need 1e\+04 TB of memory; .* are free")
    zarr.create_array(str(tmp_path / "b.zarr"), shape=(2, 9, 9), chunks=(10**5, 10**5, 10**5), dtype="u1")
    refuses(lambda: read(tmp_path / "b.zarr"), r"need 1e\+03 TB of memory; .* are free")
    zarr.create_array(str(tmp_path / "c.zarr"), shape=(2, 9, 9), dtype="c8")
    refuses(lambda: read(tmp_path / "c.zarr"), "dtype complex64, expected intensities in planes")


@pytest.mark.parametrize("version", [2, 3])
def test_chunks_that_would_crash_blosc_are_refused(tmp_path: Path, version: int) -> None:
    """numcodecs 0.16.6 reads as many bytes as a chunk of blosc says it has, beyond its end, too."""
    compressor = numcodecs.Blosc("zstd") if version == 2 else zarr.codecs.BloscCodec()
    array = zarr.create_array(str(tmp_path / "a.zarr"), data=STACK, compressors=compressor, zarr_format=version)
    chunk = tmp_path / "a.zarr" / ("0.0.0" if version == 2 else "c/0/0/0")
    assert array.nchunks == 1
    np.testing.assert_array_equal(read(tmp_path / "a.zarr").data, STACK)
    content = bytearray(chunk.read_bytes())
    for stated in (len(content) - 1, 858270767):
        content[12:16] = stated.to_bytes(4, "little")
        chunk.write_bytes(content)
        refuses(
            lambda: read(tmp_path / "a.zarr"), rf"is damaged: chunk .*0 states {stated} bytes, it has {len(content)}"
        )


def test_a_changed_byte_in_a_chunk_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", STACK)
    chunk = tmp_path / "a.zarr/0/c/0/0/0"
    content = chunk.read_bytes()
    for place in range(0, len(content), 97):
        chunk.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
        refuses(lambda: read(tmp_path / "a.zarr"), "a.zarr: cannot be read: ")


class Opened:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("codecs", [{"filters": [{"id": "pickle"}]}, {"compressor": {"id": "pickle"}}])
def test_pickles_are_never_opened(tmp_path: Path, codecs: dict[str, Any]) -> None:
    path = tmp_path / "a.zarr"
    path.mkdir()
    layout = {"shape": [4, 4, 4], "chunks": [4, 4, 4], "dtype": "<u2", "order": "C", "fill_value": 0}
    whole = {"zarr_format": 2, "compressor": None, "filters": None, **layout, **codecs}
    (path / ".zarray").write_text(json.dumps(whole))
    (path / "0.0.0").write_bytes(pickle.dumps(Opened(tmp_path / "opened")))
    refuses(lambda: read(path), "cannot be read: ")
    assert not (tmp_path / "opened").exists()


def test_without_the_library_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = image(tmp_path / "a.zarr")
    monkeypatch.setitem(sys.modules, "zarr", None)
    refuses(lambda: read(path), r'needs the package zarr; pip install "tensorcell\[formats\]" installs it')
    refuses(lambda: write(tmp_path / "b.zarr", STACK), r"needs the package zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_recover_takes_and_gives_a_zarr(tmp_path: Path) -> None:
    """The command line: a level as input, an image as output that keeps axes and voxel size."""
    cells = tc.datasets.simulate_cells((8, 24, 24), cells=3, seed=1)
    counts = np.rint(np.nan_to_num(cells.truth)).astype(np.uint16)
    write(tmp_path / "in.zarr", Volume(counts, spacing=(0.5, 0.12, 0.108)))
    command = ["recover", "in.zarr", "out.zarr", "--series", "0", "--method", "fast"]
    done = subprocess.run([sys.executable, "-m", "tensorcell", *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    volume = read(tmp_path / "out.zarr")
    assert (volume.axes, volume.shape, volume.spacing) == ("ZYX", counts.shape, (0.5, 0.12, 0.108))
    assert names(tmp_path)[0] == "in.zarr"
    assert not [name for name in names(tmp_path) if "tensorcell-" in name]
