"""TIFF files whose pages differ from one another, or from what the metadata say of them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from micro_manager_files import micro_manager_stack
from volume_files import RANDOM, STACK, assert_same, imagej, read_or_line, refuses, tiff

from tensorcell.files import read
from tensorcell.volume import Volume

PLAIN: dict[str, Any] = {"photometric": "minisblack", "metadata": None, "contiguous": False}


def pages(path: Path, planes: Any = STACK, *, first: Any = None, **unlike: Any) -> Path:
    """A file whose plane 2 is written with other options than the others."""
    with tifffile.TiffWriter(path) as writer:
        for z, plane in enumerate(planes):
            options = unlike if z == 2 else {}
            writer.write(plane, **{**PLAIN, **(first or {}), **options})
    return path


@pytest.mark.parametrize("first", [{}, {"compression": "lzw"}, {"rowsperstrip": 5}, {"tile": (16, 16)}], ids=str)
@pytest.mark.parametrize(
    "unlike",
    [
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": 2},
        {"rowsperstrip": 3},
        {"rowsperstrip": 3, "compression": "zstd"},
        {"tile": (16, 16)},
        {"tile": (32, 32), "compression": "zlib"},
        {"compression": None, "rowsperstrip": 16},
    ],
    ids=str,
)
def test_a_page_stored_otherwise_is_read_by_its_own_directory(
    tmp_path: Path, first: dict[str, Any], unlike: dict[str, Any]
) -> None:
    unlike = {"compression": None, "rowsperstrip": None, "tile": None, **unlike}
    assert_same(read(pages(tmp_path / "a.tif", first=first, **unlike)), Volume(STACK))


@pytest.mark.parametrize("described", ["ImageJ=1.53t\nimages=5\nslices=5\n", '{"shape": [5, 16, 18], "axes": "ZYX"}'])
def test_a_description_does_not_hide_a_page_stored_otherwise(tmp_path: Path, described: str) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for z, plane in enumerate(STACK):
            options = {"compression": "zlib", "predictor": 2} if z == 3 else {}
            writer.write(plane, **{**PLAIN, **options}, description=described if z == 0 else None)
    assert_same(read(path), Volume(STACK))


def test_strips_that_do_not_follow_one_another_are_read_at_their_places(tmp_path: Path) -> None:
    """In page 3 the two strips are exchanged, and so are their places; tifffile goes by the first page's strips."""
    data = STACK.copy()
    path = tiff(tmp_path / "a.tif", data, metadata=None, rowsperstrip=8)
    with tifffile.TiffFile(path) as tif:
        page: Any = tif.pages[3].aspage()
        places, tag = page.dataoffsets, page.tags["StripOffsets"].valueoffset
    raw = bytearray(path.read_bytes())
    struct.pack_into("<2I", raw, tag, *places[::-1])
    path.write_bytes(raw)
    data[3] = np.concatenate([data[3, 8:], data[3, :8]])
    assert_same(read(path), Volume(data))


@pytest.mark.parametrize(
    ("plane", "said"),
    [
        (STACK[2].astype(np.uint8), "16 x 18 uint8"),
        (STACK[2, :12], "12 x 18 uint16"),
        (STACK[2].astype(np.int16), "16 x 18 int16"),
        (STACK[2].astype(np.float32), "16 x 18 float32"),
    ],
)
def test_a_page_of_another_kind_between_the_planes_is_refused_and_named(tmp_path: Path, plane: Any, said: str) -> None:
    """Left out, it would shift every plane behind it."""
    path = pages(tmp_path / "a.tif", [*STACK[:2], plane, *STACK[3:]])
    refuses(lambda: read(path), rf"has 1 page \(2\) \({said}\) that is not among the 4 of its image \(16 x 18 uint16\)")
    volume = read(path, series=0)
    assert_same(volume, Volume(STACK[[0, 1, 3, 4]]))
    assert "1 page (2) lie" in " ".join(volume.metadata["notes"])
    assert read(path, series=1).shape == plane.shape
    refuses(lambda: read(path, series="all pages"), "has pages of 2 kinds, expected one")


def test_inverted_pages_are_no_planes_of_the_others(tmp_path: Path) -> None:
    path = pages(tmp_path / "a.tif", photometric="miniswhite")
    refuses(lambda: read(path), r"has 1 page \(2\) \(16 x 18 uint16, white is zero\) that is not among")


def test_small_copies_between_the_planes_are_left_out(tmp_path: Path) -> None:
    """Programs put a thumbnail behind each plane, marked as a copy of lower resolution."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for plane in STACK:
            writer.write(plane, **PLAIN)
            writer.write(plane[::2, ::2], **PLAIN, subfiletype=1)
    volume = read(path)
    assert_same(volume, Volume(STACK))
    assert "series" not in volume.metadata


@pytest.mark.parametrize("count", [3, 8])
def test_pages_that_a_description_does_not_count_are_an_error(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.tif"
    tiff(path, metadata=None, description=f"ImageJ=1.53t\nimages={count}\nslices={count}\nunit=um\nspacing=0.5\n")
    if count < 5:
        refuses(lambda: read(path), r"has 2 pages \(3, 4\) \(16 x 18 uint16\) that are not among the 3 of its image")
        volume = read(path, series=0)
        np.testing.assert_array_equal(volume.data, STACK[:3])
        assert any("2 pages (3, 4)" in note for note in volume.metadata["notes"])
    else:
        refuses(lambda: read(path), "its planes do not fit its ImageJ metadata; series='all pages' reads")
    np.testing.assert_array_equal(read(path, series="all pages").data, STACK)


def test_a_stack_beats_a_larger_plane_and_both_are_said(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(np.zeros((200, 200), np.uint16), photometric="minisblack", metadata={"Name": "overview"})
        writer.write(STACK, photometric="minisblack", metadata={"axes": "ZYX", "Name": "stack", "PhysicalSizeX": 0.1})
    volume = read(path)
    assert_same(volume, Volume(STACK))
    assert volume.metadata["series"] == "1 of 2: stack"
    assert volume.metadata["notes"] == [
        "of 2 images number 1 was read, 'stack' 5 x 16 x 18 ZYX uint16; not 0: 'overview' 200 x 200 YX uint16"
    ]
    assert read(path, series="overview").shape == (200, 200)


def test_plain_pages_of_two_sizes_are_two_images(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((64, 64), np.uint8), **PLAIN)
        for plane in STACK:
            writer.write(plane, **PLAIN)
    volume = read(path)
    assert_same(volume, Volume(STACK))
    assert volume.metadata["series"] == "1 of 2"
    assert "not 0: 64 x 64 YX uint8" in volume.metadata["notes"][0]


def scanimage(path: Path, count: int, header: str, *, software: bool = False) -> tuple[Path, Any]:
    """A file as ScanImage writes it: every page has the header, channels fastest."""
    data = RANDOM.integers(0, 999, (count, 8, 9)).astype(np.int16)
    with tifffile.TiffWriter(path, bigtiff=software) as writer:
        for plane in data:
            said: dict[str, Any] = {"software": header} if software else {"description": header}
            writer.write(plane, **PLAIN, **said)
    return path, data


OLD = "state.acq.savingChannel1=1\rstate.acq.savingChannel2=1\rstate.acq.numberOfZSlices=3\rstate.acq.zStepSize=2\r"
NEW = "SI.hChannels.channelSave = [1;2]\nSI.hStackManager.framesPerSlice = {f}\nSI.hStackManager.numSlices = {z}\n"


@pytest.mark.parametrize(
    ("count", "header", "axes", "shape"),
    [
        (6, OLD, "ZCYX", (3, 2)),
        (12, OLD + "state.acq.numberOfFrames=2\r", "ZTCYX", (3, 2, 2)),
        (6, OLD + "state.acq.numberOfFrames=2\rstate.acq.averaging=1\r", "ZCYX", (3, 2)),
        (8, OLD.replace("Slices=3", "Slices=1"), "TCYX", (4, 2)),
        (6, NEW.format(f=1, z=3), "ZCYX", (3, 2)),
        (12, NEW.format(f=1, z=3) + "SI.hStackManager.numVolumes = 2\n", "TZCYX", (2, 3, 2)),
        (24, NEW.format(f=2, z=3) + "SI.hStackManager.numVolumes = 2\n", "TZRCYX", (2, 3, 2, 2)),
        (8, NEW.format(f="Inf", z=1), "TCYX", (4, 2)),
        (6, NEW.format(f=4, z=3) + "SI.hScan2D.logAverageFactor = 4\n", "ZCYX", (3, 2)),
        (4, "scanimage.SI4.channelsSave = 1\nscanimage.SI4.stackNumSlices = 4\n", "ZYX", (4,)),
    ],
)
def test_channels_of_scanimage_are_no_planes(
    tmp_path: Path, count: int, header: str, axes: str, shape: tuple[int, ...]
) -> None:
    path, data = scanimage(tmp_path / "a.tif", count, header, software=header.startswith("SI."))
    assert_same(read(path), Volume(data.reshape(*shape, 8, 9), axes))


@pytest.mark.parametrize("count", [7, 8])
def test_pages_that_do_not_fit_the_scanimage_header_are_a_question(tmp_path: Path, count: int) -> None:
    path, data = scanimage(tmp_path / "a.tif", count, OLD)
    refuses(lambda: read(path), f"has {count} pages, its ScanImage header says 2 channels, 3 slices, .*'all pages'")
    assert_same(read(path, series="all pages"), Volume(data))


def test_what_scanimage_says_of_the_planes_is_noted(tmp_path: Path) -> None:
    path, _ = scanimage(tmp_path / "a.tif", 6, OLD)
    assert read(path).metadata["notes"] == ["the planes are 2 um apart; the pixel size is unknown"]


def micro_manager(path: Path, indices: list[tuple[int, int]]) -> tuple[Path, Any]:
    """Pages with Micro-Manager's tag, which says which channel and plane each one is."""
    data = RANDOM.integers(0, 999, (len(indices), 8, 9)).astype(np.uint16)
    with tifffile.TiffWriter(path) as writer:
        for plane, (channel, z) in zip(data, indices, strict=True):
            text = f'{{"ChannelIndex": {channel}, "SliceIndex": {z}, "FrameIndex": 0, "PositionIndex": 0}}'
            writer.write(plane, **PLAIN, extratags=[(51123, "s", 0, text, True)])
    return path, data


def test_channels_of_micro_manager_are_no_planes(tmp_path: Path) -> None:
    order = [(c, z) for c in range(2) for z in range(3)]  # channel by channel
    path, data = micro_manager(tmp_path / "a.tif", order)
    assert_same(read(path), Volume(data.reshape(2, 3, 8, 9).transpose(1, 0, 2, 3), "ZCYX"))
    path, data = micro_manager(tmp_path / "b.tif", order[:5])
    refuses(
        lambda: read(path), "has 5 pages, Micro-Manager numbers them by SliceIndex to 2, ChannelIndex to 1, expected 6"
    )
    assert_same(read(path, series="all pages"), Volume(data))


def run(path: Path, pages: int, *, indexed: int | None = None) -> tuple[Path, Any]:
    """A Micro-Manager run of 2 channels, 3 slices and 4 frames that was stopped after so many pages."""
    indices = [(c, z, t) for t in range(4) for z in range(3) for c in range(2)][:pages]
    data = RANDOM.integers(0, 999, (pages, 8, 9)).astype(np.uint16)
    summary = {"Channels": 2, "Slices": 3, "Frames": 4, "z-step_um": 0.5, "ChNames": ["DAPI", "GFP"]}
    return micro_manager_stack(path, data, indices, summary, indexed=indexed), data


def test_a_run_of_micro_manager_is_read_by_its_index(tmp_path: Path) -> None:
    path, data = run(tmp_path / "a_MMStack.tif", 24)
    volume = read(path)
    assert_same(volume, Volume(data.reshape(4, 3, 2, 8, 9), "TZCYX", (0.5, 0.1, 0.1)))
    assert volume.metadata["channel_names"] == ["DAPI", "GFP"]
    assert "notes" not in volume.metadata


def test_a_stopped_run_of_micro_manager_is_said(tmp_path: Path) -> None:
    path, data = run(tmp_path / "a_MMStack.tif", 12)
    volume = read(path)
    np.testing.assert_array_equal(volume.data, data.reshape(2, 3, 2, 8, 9))
    assert volume.metadata["notes"] == ["the run was stopped or is in further files: Frames 2 of 4"]
    path, data = run(tmp_path / "b_MMStack.tif", 15)
    refuses(lambda: read(path), r"3 planes \(15, 16, 17\) of 18 are in none of its files; series='all pages' reads")
    gaps = read(path, missing_planes=True)
    assert gaps.mask is not None
    np.testing.assert_array_equal(gaps.mask.reshape(18, -1).all(axis=1), [True] * 15 + [False] * 3)
    np.testing.assert_array_equal(gaps.data[gaps.mask], data.ravel())
    np.testing.assert_array_equal(read(path, series="all pages").data, data)
    path, _ = run(tmp_path / "c_MMStack.tif", 24, indexed=18)
    refuses(lambda: read(path), r"has 6 pages \(18, 19, .*\) .* that are not among the 18 of its image")


def test_a_claim_of_countless_planes_is_refused_before_they_are_listed(tmp_path: Path) -> None:
    path, _ = run(tmp_path / "a_MMStack.tif", 12)
    raw = path.read_bytes()
    place = raw.rindex(struct.pack("<II", 3453623, 12)) + 8
    path.write_bytes(raw[: place + 8] + struct.pack("<I", 2**31) + raw[place + 12 :])  # the frame of the first page
    refuses(lambda: read(path), "its metadata claim 1.29e[+]10 planes, expected at most 1e[+]07")
    xml = tiff(tmp_path / "b.ome.tif", ome=True, metadata={"axes": "ZYX"})
    text = str(tifffile.tiffcomment(xml)).replace('SizeZ="5"', 'SizeZ="5000000000"')
    tifffile.tiffcomment(xml, text.encode())
    refuses(lambda: read(xml), "its metadata claim 5e[+]09 planes")


def test_scanimage_pages_of_two_kinds_are_no_planes(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for plane in [*np.zeros((5, 8, 9), np.int16), np.zeros((8, 9), np.uint16)]:
            writer.write(plane, **PLAIN, description=OLD)
    refuses(lambda: read(path), "has pages of 2 kinds, expected one: 5 of 8 x 9 int16; 1 of 8 x 9 uint16; series=0")


DAMAGED: dict[str, Callable[[Path], object]] = {
    "plain.tif": lambda p: tiff(p, metadata=None),
    "deflate.tif": lambda p: tiff(p, metadata=None, compression="zlib", rowsperstrip=5),
    "imagej.tif": lambda p: imagej(p, "ZYX"),
    "imagej_deflate.tif": lambda p: tiff(p, imagej=True, metadata={"axes": "ZYX"}, compression="zlib"),
    "shaped.tif": lambda p: tiff(p, metadata={"axes": "ZYX"}, tile=(16, 16)),
    "a.ome.tif": lambda p: tiff(p, ome=True, metadata={"axes": "ZYX"}),
    "b.ome.tif": lambda p: tiff(p, ome=True, metadata={"axes": "ZYX"}, compression="zlib"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_directory_never_costs_a_plane_in_silence(tmp_path: Path, name: str) -> None:
    """Each number in the directories of planes 1, 2 and 4 in turn: all planes, or one line, or a note on the last."""
    path = tmp_path / name
    DAMAGED[name](path)
    whole, raw = read(path), path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        starts = [page.offset for page in tif.pages]
    for number in (1, 2, 4):
        entries = struct.unpack_from("<H", raw, starts[number])[0]
        for place in range(starts[number] + 2, starts[number] + 2 + 12 * entries, 2):
            for value in (0, 1, 7, 0xFFFF):
                damaged = bytearray(raw)
                struct.pack_into("<H", damaged, place, value)
                path.write_bytes(damaged)
                found = read_or_line(path)
                if isinstance(found, str):
                    continue
                if number == 4 and found.shape != whole.shape:
                    assert "not 1: " in " ".join(found.metadata["notes"])
                    continue
                assert found.shape == whole.shape
                others = [k for k in range(5) if k != number]
                np.testing.assert_array_equal(found.data[others], whole.data[others])
