"""HDF5 as other programs lay it out: BigDataViewer, Imaris, ilastik."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from volume_files import STACK, assert_same, hdf5, refuses

from tensorcell.files import read
from tensorcell.volume import Volume

FULL = np.linspace(0, 65535, STACK.size).reshape(STACK.shape).astype(np.uint16)
"""Half of it is negative if it is taken for int16."""

SETUP = """<ViewSetup><id>{id}</id><name>{name}</name><size>{size}</size>
<voxelSize><unit>{unit}</unit><size>{steps}</size></voxelSize>
<attributes><channel>{id}</channel><angle>{angle}</angle></attributes></ViewSetup>"""

XML = """<?xml version="1.0" encoding="UTF-8"?><SpimData version="0.2"><BasePath type="relative">.</BasePath>
<SequenceDescription><ImageLoader format="{kind}"><hdf5 type="relative">{file}</hdf5></ImageLoader>
<ViewSetups>{setups}<Attributes name="channel"><Channel><id>0</id><name>DAPI</name></Channel>
<Channel><id>1</id><name>GFP</name></Channel></Attributes></ViewSetups>
<Timepoints type="range"><first>0</first><last>{last}</last></Timepoints>{missing}</SequenceDescription>
<ViewRegistrations>{registrations}</ViewRegistrations></SpimData>"""

SCALED = "1 0 0 0 0 2 0 0 0 0 5 0"
TURNED = "0 -1 0 7 1 0 0 0 0 0 1 0"


def setup(number: int = 0, **other: Any) -> str:
    said = {"name": f"view {number}", "size": "18 16 5", "unit": "\u00b5m", "steps": "0.1 0.2 0.5", "angle": 0}
    return SETUP.format(id=number, **{**said, **other})


def xml(path: Path, *setups: str, file: str = "a.h5", last: int = 0, missing: str = "", **other: Any) -> Path:
    """An XML with a transformation for each view where ``affines`` gives them by frame and setup."""
    registrations = "".join(
        f'<ViewRegistration timepoint="{frame}" setup="{number}">'
        + "".join(f'<ViewTransform type="affine"><affine>{numbers}</affine></ViewTransform>' for numbers in affines)
        + "</ViewRegistration>"
        for (frame, number), affines in other.pop("affines", {}).items()
    )
    parts = {"kind": "bdv.hdf5", "file": file, "last": last, "missing": missing, **other}
    path.write_text(XML.format(setups="".join(setups), registrations=registrations, **parts))
    return path


def bdv(path: Path, views: dict[tuple[int, int], np.ndarray]) -> Path:
    """A BigDataViewer file with two levels: uint16 is stored as int16."""
    with h5py.File(path, "w") as file:
        for frame, number in views:
            data = views[frame, number].view(np.int16)
            file[f"t{frame:05d}/s{number:02d}/0/cells"] = data
            file[f"t{frame:05d}/s{number:02d}/1/cells"] = data[:, ::2, ::2]
            if f"s{number:02d}" not in file:
                file[f"s{number:02d}/resolutions"] = np.array([[1.0, 1, 1], [2, 2, 1]])  # x, y, z
                file[f"s{number:02d}/subdivisions"] = np.array([[16, 16, 5], [8, 8, 5]])
    return path


def test_bdv_is_unsigned_at_full_resolution(tmp_path: Path) -> None:
    path = bdv(tmp_path / "a.h5", {(0, 0): FULL})
    assert_same(read(path), Volume(FULL))
    assert read(path).metadata["format"] == "BigDataViewer HDF5"
    assert_same(read(f"{path}:/t00000/s00/1/cells"), Volume(FULL[:, ::2, ::2]))
    with h5py.File(path, "r+") as file:
        file["s00"].attrs["dataType"] = "int16"
    assert_same(read(path), Volume(FULL.view(np.int16)))


def test_bdv_voxel_size_and_levels_from_the_xml(tmp_path: Path) -> None:
    path = bdv(tmp_path / "a.h5", {(0, 0): FULL})
    for unit, scale in (("\u00b5m", 1), ("micrometer", 1), ("nm", 1e-3)):
        beside = xml(tmp_path / "a.xml", setup(unit=unit), affines={(0, 0): [SCALED]})
        expected = Volume(FULL, spacing=(0.5 * scale, 0.2 * scale, 0.1 * scale))
        for each in (path, beside):
            assert_same(read(each), expected)
        level = read(path, dataset="t00000/s00/1/cells")
        assert level.spacing == pytest.approx((0.5 * scale, 0.4 * scale, 0.2 * scale))
    assert read(path).metadata["affine"] == [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 5, 0]]
    assert all("is not between 1 nm and 1 mm" in note for note in read(path).metadata["notes"])
    xml(tmp_path / "a.xml", setup(unit="pixel"))
    assert read(path).spacing is None
    xml(tmp_path / "a.xml", setup(), file="other.h5")  # it says nothing about this file
    assert read(path).spacing is None


def test_bdv_transformations_are_kept_and_said(tmp_path: Path) -> None:
    """The first of several transformations is applied last: a turn of the scaled image, not a scaled turn."""
    path = bdv(tmp_path / "a.h5", {(0, 0): FULL, (0, 1): FULL + 1})
    views = {(0, 0): [TURNED, SCALED], (0, 1): [TURNED, SCALED]}
    xml(tmp_path / "a.xml", setup(), setup(1), affines=views)
    metadata = read(path).metadata
    assert metadata["affine"] == [[0, -2, 0, 7], [1, 0, 0, 0], [0, 0, 5, 0]]
    assert metadata["notes"] == [
        "the transformation that its XML says turns or shears, which is not applied: see affine"
    ]
    xml(tmp_path / "a.xml", setup(), setup(1), affines={**views, (0, 1): [SCALED]})
    metadata = read(path).metadata
    assert "affine" not in metadata
    assert metadata["notes"] == ["its XML says several transformations for 2 views, which are not applied or kept"]


def test_bdv_frames_and_channels(tmp_path: Path) -> None:
    views = {(frame, number): FULL + 10 * frame + number for frame in range(3) for number in range(2)}
    path = bdv(tmp_path / "a.h5", views)
    data = np.stack([[views[frame, number] for number in range(2)] for frame in range(3)])
    volume = read(path)
    assert_same(volume, Volume(data, "TCZYX"))
    assert "taken for channels" in volume.metadata["notes"][0]
    xml(tmp_path / "a.xml", setup(), setup(1), last=2)
    volume = read(path)
    assert_same(volume, Volume(data, "TCZYX", (0.5, 0.2, 0.1)))
    assert volume.metadata["channel_names"] == ["DAPI", "GFP"]
    assert "notes" not in volume.metadata
    for series in (1, "1", "view 1"):
        volume = read(path, series=series)
        assert_same(volume, Volume(data[:, 1], "TZYX", (0.5, 0.2, 0.1)))
        assert volume.metadata["series"] == "1 of 2: view 1"
    assert_same(read(path, dataset="t00001"), Volume(data[1], "CZYX", (0.5, 0.2, 0.1)))
    assert_same(read(path, dataset="t00001/s01"), Volume(data[1, 1], "ZYX", (0.5, 0.2, 0.1)))
    refuses(lambda: read(path, series=2), "has no series 2, it has 0: view 0, 1: view 1")


def test_bdv_setups_that_are_no_channels_need_a_choice(tmp_path: Path) -> None:
    path = bdv(tmp_path / "a.h5", {(0, 0): FULL, (0, 1): FULL + 1})
    choice = r", choose one with series=: 0: view 0 \(5, 16, 18\), 1: view 1 \("
    xml(tmp_path / "a.xml", setup(), setup(1, angle=1))
    refuses(lambda: read(path), "has 2 setups that differ in angle, tile or illumination" + choice)
    assert_same(read(path, series=1), Volume(FULL + 1, spacing=(0.5, 0.2, 0.1)))
    xml(tmp_path / "a.xml", setup(), setup(1, steps="0.1 0.2 0.6"))
    refuses(lambda: read(path), "has 2 setups of several voxel sizes" + choice)
    path = bdv(tmp_path / "b.h5", {(0, 0): FULL, (0, 1): FULL[:3]})
    refuses(lambda: read(path), r"has 2 setups of several shapes, .* 0: s00 \(5, 16, 18\), 1: s01 \(3, 16, 18\)")
    assert_same(read(path, series="s01"), Volume(FULL[:3]))


def test_bdv_lacking_views_are_refused(tmp_path: Path) -> None:
    path = bdv(tmp_path / "a.h5", {(0, 0): FULL, (0, 1): FULL, (1, 0): FULL})
    refuses(lambda: read(path), "is incomplete: it has no stack of planes 't00001/s01/0/cells'")
    assert read(path, series=0).axes == "TZYX"
    xml(tmp_path / "a.xml", setup(), setup(1), last=2)
    refuses(lambda: read(path, series=0), "is incomplete: its XML names 3 frames, it lacks frame 2")
    gap = '<MissingViews><MissingView timepoint="2" setup="0"/></MissingViews>'
    xml(tmp_path / "a.xml", setup(), setup(1), last=2, missing=gap)
    assert read(path, series=0).axes == "TZYX"
    xml(tmp_path / "a.xml", setup(), setup(1), setup(2), last=1)
    refuses(lambda: read(path, series=0), "is incomplete: its XML names 3 setups, it lacks setup 2")
    xml(tmp_path / "a.xml", setup(), setup(1, size="18 16 9"), last=1)
    refuses(lambda: read(path, dataset="t00000/s01"), r"its XML says size \(9, 16, 18\) for setup 1, it has shape \(5,")
    bdv(tmp_path / "c.h5", {(0, 0): FULL, (1, 0): FULL[:2]})
    refuses(lambda: read(tmp_path / "c.h5"), "has views of several shapes or types, name one with dataset=")


def test_bdv_partitions_are_read_from_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bdv(tmp_path / "a-00.h5", {(0, 0): FULL})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["t00000/s00"] = h5py.ExternalLink("a-00.h5", "/t00000/s00")
    monkeypatch.chdir("/")
    assert_same(read(tmp_path / "a.h5"), Volume(FULL))
    (tmp_path / "a-00.h5").unlink()
    refuses(lambda: read(tmp_path / "a.h5"), "is a link to /t00000/s00 in 'a-00.h5', which is missing")


def test_bdv_xml_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<SpimData")
    refuses(lambda: read(path), "is no XML, or it is damaged: no element found|unclosed token")
    path.write_text("<OME/>")
    refuses(lambda: read(path), "is no XML of BigDataViewer, it is <OME>")
    refuses(lambda: read(xml(path, kind="bdv.n5")), "names images of format 'bdv.n5', expected 'bdv.hdf5'")
    refuses(lambda: read(xml(path, file="none.h5")), "names the file '.*none.h5', which is missing")


# ------------------------------------------------------------------------------------------------------- Imaris


def characters(group: h5py.Group, **attributes: Any) -> None:
    """Attributes as Imaris has them: arrays of single characters."""
    for name, value in attributes.items():
        group.attrs[name] = np.frombuffer(str(value).encode(), "S1")


def ims(path: Path, data: np.ndarray, *, unit: str = "um", times: tuple[str, ...] = ()) -> Path:
    """An Imaris file of TCZYX data with two levels, each padded with zeros to whole chunks."""
    frames, channels, *size = data.shape
    with h5py.File(path, "w") as file:
        extents = {"ExtMin0": -3, "ExtMax0": -3 + 0.1 * size[2], "ExtMin1": 4, "ExtMax1": 4 + 0.2 * size[1]}
        sizes = dict(zip("ZYX", size, strict=True))
        image = file.create_group("DataSetInfo/Image")
        characters(image, Unit=unit, ExtMin2=0, ExtMax2=0.5 * size[0], **extents, **sizes)
        for number, time in enumerate(times):
            characters(file.require_group("DataSetInfo/TimeInfo"), **{f"TimePoint{number + 1}": time})
        for frame, channel, level in np.ndindex(frames, channels, 2):
            characters(file.require_group(f"DataSetInfo/Channel {channel}"), Name=f"dye {channel}")
            part = data[frame, channel][:, :: level + 1, :: level + 1]
            group = file.create_group(f"DataSet/ResolutionLevel {level}/TimePoint {frame}/Channel {channel}")
            characters(group, **{f"ImageSize{axis}": n for axis, n in zip("ZYX", part.shape, strict=True)})
            padded = np.pad(part, [(0, -n % 8) for n in part.shape])
            group.create_dataset("Data", data=padded, chunks=(8, 8, 8), compression="gzip")
    return path


def test_imaris_has_its_true_size_and_extents(tmp_path: Path) -> None:
    path = ims(tmp_path / "a.ims", FULL[None, None])
    volume = read(path)
    assert_same(volume, Volume(FULL, spacing=volume.spacing))
    assert volume.spacing == pytest.approx((0.5, 0.2, 0.1))
    assert volume.metadata["format"] == "Imaris HDF5"
    assert volume.metadata["channel_names"] == ["dye 0"]
    level = read(f"{path}:/DataSet/ResolutionLevel 1/TimePoint 0/Channel 0/Data")
    assert_same(level, Volume(FULL[:, ::2, ::2], spacing=level.spacing))
    assert level.spacing == pytest.approx((0.5, 0.4, 0.2))
    assert read(ims(tmp_path / "b.ims", FULL[None, None], unit="nm")).spacing == pytest.approx((5e-4, 2e-4, 1e-4))
    volume = read(ims(tmp_path / "c.ims", FULL[None, None], unit="parsec"))
    assert volume.spacing is None
    assert "unit 'parsec' are not understood" in volume.metadata["notes"][0]


def test_imaris_frames_and_channels(tmp_path: Path) -> None:
    data = np.stack([[FULL + 10 * frame + channel for channel in range(2)] for frame in range(11)])
    times = tuple(f"2020-02-03 04:05:{2 * frame:02d}.500" for frame in range(11))
    path = ims(tmp_path / "a.ims", data, times=times)
    volume = read(path)
    assert_same(volume, Volume(data, "TCZYX", volume.spacing))  # TimePoint 10 comes after 9, not after 1
    assert volume.metadata["time_interval"] == 2
    assert volume.metadata["channel_names"] == ["dye 0", "dye 1"]
    part = read(path, dataset="DataSet/ResolutionLevel 0/TimePoint 3")
    assert_same(part, Volume(data[3], "CZYX", volume.spacing))
    with h5py.File(path, "r+") as file:
        characters(file["DataSetInfo/TimeInfo"], TimePoint11="2020-02-03 04:06:50.000")
    assert read(path).metadata["notes"] == ["the frames are 2 to 91.5 s apart, which one interval cannot say"]
    with h5py.File(path, "r+") as file:
        del file["DataSet/ResolutionLevel 0/TimePoint 3/Channel 1"]
    refuses(lambda: read(path), "is incomplete: DataSet/ResolutionLevel 0/TimePoint 3/Channel 1 has no stack of pla")
    with h5py.File(path, "r+") as file:
        file["DataSet/ResolutionLevel 0/TimePoint 3/Channel 1/Data"] = np.zeros((8, 16, 24), np.uint8)
        for axis, count in zip("ZYX", FULL.shape, strict=True):
            characters(file["DataSet/ResolutionLevel 0/TimePoint 3/Channel 1"], **{f"ImageSize{axis}": count})
    refuses(lambda: read(path), "has channels of several sizes or types, name one with dataset=")
    refuses(lambda: read(f"{path}:/DataSet/ResolutionLevel 7"), "has no 'DataSet/ResolutionLevel 7'")


def test_imaris_without_a_true_size_is_refused(tmp_path: Path) -> None:
    path = ims(tmp_path / "a.ims", FULL[None, None])
    top = "DataSet/ResolutionLevel {}/TimePoint 0/Channel 0"
    for level in (0, 1):
        with h5py.File(path, "r+") as file:
            del file[top.format(level)].attrs["ImageSizeZ"]
    assert read(path).shape == STACK.shape  # from the description of the whole
    refuses(lambda: read(f"{path}:{top.format(1)}"), "does not say the size of .*, so that its padding is unknown")
    with h5py.File(path, "r+") as file:
        characters(file[top.format(0)], ImageSizeZ=99)
    refuses(lambda: read(path), r"is damaged: .* is said to have size \(99, 16, 18\), it has shape \(8, 16, 24\)")
    with h5py.File(path, "r+") as file:
        characters(file[top.format(0)], ImageSizeZ="five")
    refuses(lambda: read(path), "does not say the size")


def test_imaris_chunks_of_padding_need_not_be_written(tmp_path: Path) -> None:
    path = ims(tmp_path / "a.ims", FULL[None, None])
    name = "DataSet/ResolutionLevel 0/TimePoint 0/Channel 0/Data"
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, (16, 16, 24), np.uint16, chunks=(1, 8, 8))[:5, :, :18] = FULL
    assert_same(read(path), Volume(FULL, spacing=read(path).spacing))
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, (16, 16, 24), np.uint16, chunks=(1, 8, 8))[1:, :, :18] = 1
    refuses(lambda: read(path), "is incomplete: 6 of 30 chunks of .*/Data were never written")


# ------------------------------------------------------------------------------------------------------- ilastik


def ilastik(path: Path, keys: str, steps: tuple[float, ...], data: np.ndarray = STACK, **more: Any) -> Path:
    tags = [
        {"key": key, "typeFlags": 2, "resolution": step, "description": ""}
        for key, step in zip(keys, steps, strict=True)
    ]
    for tag, text in zip(tags, more.pop("descriptions", ()), strict=False):
        tag["description"] = text
    with h5py.File(hdf5(path, exported_data=data), "r+") as file:
        file["exported_data"].attrs["axistags"] = json.dumps({"axes": tags})
        for name, value in more.items():
            file["exported_data"].attrs[name] = json.dumps(value)
    return path


def test_ilastik_resolution_and_units(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    units = {"z": "nm", "y": "\u03bcm", "x": "micron"}
    assert read(ilastik(path, "zyx", (500, 0.2, 0.1), axis_units=units)).spacing == (0.5, 0.2, 0.1)
    assert read(ilastik(path, "zyx", (0.5, 0.2, 0.1), descriptions=("um", "um", "um"))).spacing == (0.5, 0.2, 0.1)
    volume = read(ilastik(path, "zyx", (0, 0.2, 0.1), axis_units=units))
    assert (volume.spacing, volume.metadata["pixel_size"]) == (None, (0.2, 0.1))
    for unknown in ({}, {"z": "pixel", "y": "pixel", "x": "pixel"}):
        assert read(ilastik(path, "zyx", (0.5, 0.2, 0.1), axis_units=unknown)).spacing is None
    series = ilastik(path, "tyx", (1500, 0.2, 0.1), axis_units={"t": "ms", "y": "um", "x": "um"})
    assert_same(read(series), Volume(STACK, "TYX", (0.2, 0.1)))
    assert read(series).metadata["time_interval"] == 1.5
    several = ilastik(
        path, "xyczt", (0.1, 0.2, 0, 0.5, 0), STACK.T[:, :, None, :, None], axis_units=units | {"z": "um"}
    )
    assert_same(read(several), Volume(STACK.T[:, :, None, :, None], "XYCZT", (0.5, 0.2, 0.1)))
    with h5py.File(path, "r+") as file:
        file["exported_data"].attrs["element_size_um"] = [1.0, 1.0, 3.0, 2.0, 1.0]
    assert read(path).spacing == (2.0, 1.0, 1.0)  # what is said in micrometres comes first
