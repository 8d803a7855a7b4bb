"""Sets of OME-TIFF files, and what OME-XML says of an image."""

from __future__ import annotations

import pickle
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from volume_files import RANDOM, assert_same, refuses

from tensorcell.files import open_volume, read, write
from tensorcell.volume import Volume

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
A, B, C = (RANDOM.integers(0, 999, shape).astype(np.uint16) for shape in ((6, 20, 24), (6, 20, 24), (3, 12, 10)))


def image_xml(number: int, name: str, data: Any, tiff_data: str) -> str:
    z, y, x = data.shape
    sizes = f'SizeX="{x}" SizeY="{y}" SizeZ="{z}" SizeC="1" SizeT="1"'
    channel = f'<Channel ID="Channel:{number}:0" SamplesPerPixel="1"/>'
    return (
        f'<Image ID="Image:{number}" Name="{name}"><Pixels ID="Pixels:{number}" DimensionOrder="XYZCT" '
        f'Type="{data.dtype}" {sizes}>{channel}{tiff_data}</Pixels></Image>'
    )


def id_of(name: str) -> str:
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_DNS, name)}"


def ome(images: str, name: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{SCHEMA}" UUID="{id_of(name)}">{images}</OME>'


def write_planes(path: Path, xml: str, stacks: list[Any], **options: Any) -> None:
    """The planes of several stacks, and the XML in the first directory."""
    with tifffile.TiffWriter(path) as writer:
        for number, stack in enumerate(stacks):
            said = {"description": xml} if number == 0 else {}
            writer.write(stack, photometric="minisblack", metadata=None, **said, **options)


def tiff_data(name: str, count: int, *, first: int = 0, ifd: int = 0) -> str:
    return (
        f'<TiffData FirstZ="{first}" FirstC="0" FirstT="0" IFD="{ifd}" PlaneCount="{count}">'
        f'<UUID FileName="{name}">{id_of(name)}</UUID></TiffData>'
    )


def write_set(folder: Path, **options: Any) -> None:
    """Image A in the first file, B and C in the second, all described in both."""
    images = "".join(
        (
            image_xml(0, "A", A, tiff_data("a.ome.tif", 6)),
            image_xml(1, "B", B, tiff_data("b.ome.tif", 6)),
            image_xml(2, "C", C, tiff_data("b.ome.tif", 3, ifd=6)),
        )
    )
    write_planes(folder / "a.ome.tif", ome(images, "a.ome.tif"), [A], **options)
    write_planes(folder / "b.ome.tif", ome(images, "b.ome.tif"), [B, C])


@pytest.mark.parametrize("opened", ["a.ome.tif", "b.ome.tif"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 4}], ids=str)
def test_images_in_several_files_are_read_from_their_own(tmp_path: Path, opened: str, options: dict[str, Any]) -> None:
    write_set(tmp_path, **options)
    for number, (name, truth) in enumerate({"A": A, "B": B, "C": C}.items()):
        for series in (name, number):
            assert_same(read(tmp_path / opened, series=series), Volume(truth))


@pytest.mark.parametrize(("opened", "truth"), [("a.ome.tif", A), ("b.ome.tif", B)])
def test_of_equal_images_that_in_the_file_opened_is_read(tmp_path: Path, opened: str, truth: Any) -> None:
    write_set(tmp_path)
    volume = read(tmp_path / opened)
    assert_same(volume, Volume(truth))
    assert "of 3 images number" in volume.metadata["notes"][0]


def write_spread(folder: Path) -> str:
    """One image whose planes are in two files: the first four, and the other two stored otherwise."""
    images = image_xml(0, "A", A, tiff_data("a.ome.tif", 4) + tiff_data("b.ome.tif", 2, first=4))
    write_planes(folder / "a.ome.tif", ome(images, "a.ome.tif"), [A[:4]])
    write_planes(folder / "b.ome.tif", ome(images, "b.ome.tif"), [A[4:]], compression="zlib", predictor=2)
    return images


@pytest.mark.parametrize("opened", ["a.ome.tif", "b.ome.tif"])
def test_an_image_spread_over_files_is_put_together(tmp_path: Path, opened: str) -> None:
    write_spread(tmp_path)
    assert_same(read(tmp_path / opened), Volume(A))


def test_a_missing_file_of_a_set_is_named(tmp_path: Path) -> None:
    write_spread(tmp_path)
    (tmp_path / "b.ome.tif").unlink()
    refuses(
        lambda: read(tmp_path / "a.ome.tif"),
        r"is incomplete: 2 planes \(4, 5\) of 6 are in none of its files; expected 'b.ome.tif' beside it; "
        r"series='all pages' reads the pages of this file, missing_planes=True \(--missing-planes\) takes",
    )
    assert_same(read(tmp_path / "a.ome.tif", series="all pages"), Volume(A[:4]))


@pytest.mark.parametrize("dtype", ["u2", "f4", ">f8"])
@pytest.mark.parametrize("lost", ["a.ome.tif", "b.ome.tif"])
def test_missing_planes_are_gaps_on_request(tmp_path: Path, lost: str, dtype: str) -> None:
    """Two channels of three planes, of which each file has some; in parts, and after a trip to another process, too."""
    data = RANDOM.integers(0, 999, (2, 3, 20, 24)).astype(dtype)
    own = {"a.ome.tif": [(0, 0), (0, 1), (1, 0)], "b.ome.tif": [(0, 2), (1, 1), (1, 2)]}
    blocks = "".join(
        f'<TiffData FirstZ="{z}" FirstC="{c}" FirstT="0" IFD="{ifd}" PlaneCount="1">'
        f'<UUID FileName="{name}">{id_of(name)}</UUID></TiffData>'
        for name, planes in own.items()
        for ifd, (c, z) in enumerate(planes)
    )
    kind = {"u2": "uint16", "f4": "float", ">f8": "double"}[dtype]
    sizes = f'SizeX="24" SizeY="20" SizeZ="3" SizeC="2" SizeT="1" Type="{kind}" DimensionOrder="XYZCT"'
    channels = "".join(f'<Channel ID="Channel:0:{c}" SamplesPerPixel="1"/>' for c in range(2))
    xml = f'<Image ID="Image:0" Name="A"><Pixels ID="Pixels:0" {sizes}>{channels}{blocks}</Pixels></Image>'
    for name, planes in own.items():
        write_planes(tmp_path / name, ome(xml, name), [np.stack([data[place] for place in planes])])
    whole = read(tmp_path / "a.ome.tif", missing_planes=True)
    assert_same(whole, Volume(data, "CZYX"))
    assert whole.mask is None
    (tmp_path / lost).unlink()
    (there,) = set(own) - {lost}
    path = tmp_path / there
    refuses(lambda: read(path), f"3 planes .* of 6 are in none of its files; expected '{lost}'")
    volume = read(path, missing_planes=True)
    mask = np.zeros(data.shape, bool)
    for place in own[there]:
        mask[place] = True
    np.testing.assert_array_equal(volume.mask, mask)
    assert volume.dtype == data.dtype.newbyteorder("=")
    np.testing.assert_array_equal(volume.data, np.where(mask, data, 0 if dtype == "u2" else np.nan))
    numbers = ", ".join(str(3 * c + z) for c, z in sorted(own[lost]))
    said = f"3 planes ({numbers}) of 6 are in none of its files; expected '{lost}' beside it; such planes count as not"
    assert any(note.startswith(said) for note in volume.metadata["notes"])
    lazy = pickle.loads(pickle.dumps(open_volume(path, missing_planes=True)))
    where = (slice(0, 2), slice(1, 3), slice(3, 9), slice(0, 24, 5))
    part = lazy.part(where)
    np.testing.assert_array_equal(part.data, volume.data[where])
    np.testing.assert_array_equal(part.mask, mask[where])


def test_a_plane_without_a_directory_is_a_gap_on_request(tmp_path: Path) -> None:
    images = image_xml(0, "A", A, '<TiffData FirstZ="1" IFD="0" PlaneCount="5"/>')
    write_planes(tmp_path / "a.ome.tif", ome(images, "a.ome.tif"), [A[1:]], compression="zlib")
    refuses(lambda: read(tmp_path / "a.ome.tif"), "is incomplete: plane 0 of 6 is in none of its files; series=")
    volume = read(tmp_path / "a.ome.tif", missing_planes=True)
    assert volume.mask is not None
    np.testing.assert_array_equal(volume.mask.all(axis=(1, 2)), [False, True, True, True, True, True])
    np.testing.assert_array_equal(volume.data[1:], A[1:])


def test_a_damaged_file_of_a_set_is_named(tmp_path: Path) -> None:
    write_spread(tmp_path)
    raw = (tmp_path / "b.ome.tif").read_bytes()
    (tmp_path / "b.ome.tif").write_bytes(raw[:-40])
    refuses(lambda: read(tmp_path / "a.ome.tif"), "plane 5 ends at byte .*, b.ome.tif has")


def test_an_image_whose_file_is_missing_is_said(tmp_path: Path) -> None:
    """What is known of the others is not taken from it."""
    write_set(tmp_path)
    (tmp_path / "a.ome.tif").unlink()
    volume = read(tmp_path / "b.ome.tif")
    assert_same(volume, Volume(B))
    assert volume.metadata["name"] == "B"
    assert any("image 'A' has no planes: 'a.ome.tif' is not there" in note for note in volume.metadata["notes"])


def test_a_file_without_metadata_opens_the_one_that_has_them(tmp_path: Path) -> None:
    write_spread(tmp_path)
    only = f'<OME xmlns="{SCHEMA}"><BinaryOnly MetadataFile="a.ome.tif" UUID="{id_of("a.ome.tif")}"/></OME>'
    write_planes(tmp_path / "b.ome.tif", only, [A[4:]])
    volume = read(tmp_path / "b.ome.tif")
    assert_same(volume, Volume(A))
    assert volume.metadata["notes"] == ["b.ome.tif holds planes of a.ome.tif, which was read"]
    assert_same(read(tmp_path / "b.ome.tif", series="all pages"), Volume(A[4:]))
    (tmp_path / "a.ome.tif").unlink()
    refuses(
        lambda: read(tmp_path / "b.ome.tif"), "planes of a set whose metadata are in 'a.ome.tif', expected that file"
    )


@pytest.mark.parametrize("name", ["b.ome.tif", "../b.ome.tif", ""])
def test_a_file_that_names_itself_or_none_is_refused(tmp_path: Path, name: str) -> None:
    only = f'<OME xmlns="{SCHEMA}"><BinaryOnly MetadataFile="{name}" UUID="{id_of("a")}"/></OME>'
    write_planes(tmp_path / "b.ome.tif", only, [A])
    refuses(lambda: read(tmp_path / "b.ome.tif"), "names itself|planes of a set whose metadata are in ''")


def test_what_is_known_of_channels_and_planes_is_kept(tmp_path: Path) -> None:
    data = RANDOM.integers(0, 9, (2, 3, 8, 9)).astype(np.uint16)
    said = {
        "Name": "cells",
        "AcquisitionDate": "2020-01-02T03:04:05",
        "Channel": {
            "Name": ["DAPI", "GFP"],
            "Color": [65535, -16776961],
            "EmissionWavelength": [460, 0.52],
            "EmissionWavelengthUnit": ["nm", "µm"],
        },
        "Plane": {
            "DeltaT": [0.5 * k for k in range(6)],
            "PositionX": [100.0 + k for k in range(6)],
            "PositionXUnit": ["nm"] * 6,
            "PositionY": [3.0] * 6,
            "PositionYUnit": ["reference frame"] * 6,
        },
    }
    tifffile.imwrite(
        tmp_path / "a.ome.tif", data, ome=True, photometric="minisblack", metadata={"axes": "CZYX", **said}
    )
    first = read(tmp_path / "a.ome.tif")
    write(tmp_path / "b.ome.tif", first)
    for volume in (first, read(tmp_path / "b.ome.tif")):
        known = volume.metadata
        assert (known["name"], known["acquisition_date"]) == ("cells", "2020-01-02T03:04:05")
        assert known["channel_names"] == ["DAPI", "GFP"]
        assert known["channel_colors"] == [65535, -16776961]
        assert known["emission_wavelengths"] == [460.0, 520.0]
        assert known["planes"]["DeltaT"] == said["Plane"]["DeltaT"]
        np.testing.assert_allclose(known["planes"]["PositionX"], np.arange(100, 106) / 1e3, rtol=1e-12)
        assert known["notes"] == ["of the planes these are not kept: PositionY in 'reference frame'"]
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as tif:
        xml = str(tif.ome_metadata)
    assert re.search('<Plane TheC="1" TheZ="0" TheT="0" DeltaT="1.5" ', xml)
    assert 'EmissionWavelength="520.0" EmissionWavelengthUnit="nm"' in xml


def test_what_is_said_of_planes_is_not_written_for_others(tmp_path: Path) -> None:
    planes = {"DeltaT": [0.0, 1.0, 2.0]}
    volume = Volume(np.ones((5, 8, 9), np.uint16), metadata={"planes": planes, "channel_colors": [1, 2]})
    assert write(tmp_path / "a.ome.tif", volume).lost == ("metadata 'planes'", "metadata 'channel_colors'")
    assert "planes" not in read(tmp_path / "a.ome.tif").metadata


def test_a_pyramid_is_read_at_its_full_level(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        options: dict[str, Any] = {"photometric": "minisblack", "tile": (16, 16), "compression": "zlib"}
        writer.write(A, subifds=1, metadata={"axes": "ZYX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1}, **options)
        writer.write(A[:, ::2, ::2], subfiletype=1, **options)
    volume = read(tmp_path / "a.ome.tif")
    assert_same(volume, Volume(A))
    assert volume.metadata["pixel_size"] == (0.1, 0.1)
    assert "series" not in volume.metadata
