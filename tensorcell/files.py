"""Read and write volumes: TIFF, ImageJ TIFF, OME-TIFF, HDF5, ``.npy`` and ``.npz``.

What each format keeps:

================  ===================================  =====================================
suffix            holds                                does not hold
================  ===================================  =====================================
.tif .tiff        axes, voxel size, metadata           the mask
.ome.tif(f)       the same, axes among T, C, Z, Y, X   the mask; int64, uint64, float16
.h5 .hdf5         everything
.npz              everything
.npy              the array                            axes, voxel size, metadata, the mask
================  ===================================  =====================================

A ``.tif`` is an ImageJ hyperstack where ImageJ has the data type (uint8, uint16, int16, float32): Fiji opens
it with its axes and voxel size. Other types are not changed silently: int8, int32, uint32, float64 and bool,
and volumes of 4 GB and more, become OME-TIFF inside, which Fiji opens through Bio-Formats; int64, uint64 and
float16, which neither has, become a plain TIFF whose description holds the axes as JSON. A format stores the
axes in the order that it wants; they come back in the order in which they were written.

A file that is damaged or cut off is an error, never a partly empty array: TIFF files are checked directory
by directory and strip by strip against the length of the file before anything is decoded, HDF5 files for
chunks that were never written.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import math
import os
import re
import secrets
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import h5py
import numpy as np
import tifffile

from tensorcell.errors import InputError
from tensorcell.volume import Volume, guess_axes

SUFFIXES = (".tif", ".tiff", ".ome.tif", ".ome.tiff", ".h5", ".hdf5", ".npy", ".npz")

FilePath = str | os.PathLike[str]
Spacing = tuple[float, float, float]


# ---------------------------------------------------------------------------------------------------- paths


def split_path(path: FilePath) -> tuple[Path, str | None]:
    """The file and the path inside it: ``scan.h5:/raw`` is (scan.h5, raw), anything else is (path, None).

    >>> split_path("scan.h5:/group/raw")[1]
    'group/raw'
    """
    text = os.fspath(path)
    match = re.fullmatch(r"(.+\.(?:h5|hdf5)):(.*)", text, flags=re.IGNORECASE | re.DOTALL)
    if match is None:
        return Path(text), None
    return Path(match[1]), match[2].strip("/") or None


def file_kind(path: Path) -> str:
    """``tiff``, ``ome``, ``hdf5``, ``npy`` or ``npz``, by the suffix."""
    name = path.name.lower()
    if name.endswith((".ome.tif", ".ome.tiff")):
        return "ome"
    kinds = {".tif": "tiff", ".tiff": "tiff", ".h5": "hdf5", ".hdf5": "hdf5", ".npy": "npy", ".npz": "npz"}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        got = f"the suffix {path.suffix!r} is unknown" if path.suffix else "the name has no suffix"
        raise InputError(f"{got}, expected one of {', '.join(SUFFIXES)}")
    return kind


def same_file(first: FilePath, second: FilePath) -> bool:
    """Whether two paths mean the same file, through links too; the path inside an HDF5 file does not count.

    >>> same_file("scan.h5:/raw", "./scan.h5:/recovered")
    True
    """
    one, other = split_path(first)[0], split_path(second)[0]
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them does not exist yet
        return os.path.realpath(one) == os.path.realpath(other)


def check_writable(path: FilePath, suffixes: Sequence[str] | None = None) -> None:
    """Raise `InputError` if ``path`` cannot become an output file; to be asked before long work.

    Parameters
    ----------
    path : path
        The output; ``file.h5:/group/data`` too.
    suffixes : sequence of str, optional
        The suffixes allowed, such as ``[".png", ".html"]``; None means those that `write` knows.

    Raises
    ------
    InputError
        If the suffix is unknown, if the path is a folder or a write-protected file, or if its folder does not
        exist or takes no new file (tried with a temporary one, which is removed).
    """
    file, _ = split_path(path)
    with _naming(path):
        if suffixes is None:
            file_kind(file)
        elif file.suffix.lower() not in suffixes:
            raise InputError(f"the suffix {file.suffix!r} is unknown, expected one of {', '.join(suffixes)}")
        _check_target(file)


def _check_target(file: Path) -> None:
    trial = None
    try:
        if file.is_dir():
            raise InputError("is a folder, expected a file name")
        folder = Path(os.path.realpath(file)).parent
        if not folder.is_dir():
            raise InputError(f"the folder {folder} does not exist")
        if file.exists() and not os.access(file, os.W_OK):
            raise InputError("is write-protected")
        trial = _temporary_name(file)
        with trial.open("xb"):
            pass
    except OSError as error:  # also a name that is too long
        raise InputError(f"cannot be written: {_reason(error)}") from error
    finally:
        if trial is not None:
            _remove(trial)


def _check_source(file: Path) -> None:
    if file.is_dir():
        raise InputError("is a folder, expected a file")
    if not file.exists():
        raise InputError("no such file")
    if not file.is_file():
        raise InputError("is no regular file")
    if file.stat().st_size == 0:
        raise InputError("is empty (0 bytes)")


@contextmanager
def _naming(path: FilePath) -> Iterator[None]:
    """Put the path in front of the message of an `InputError`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from error


def _reason(error: BaseException) -> str:
    """The message of an exception in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:300] or type(error).__name__


# ------------------------------------------------------------------------------------------------------ read


def read(path: FilePath, *, dataset: str | None = None, axes: str | None = None) -> Volume:
    """Read a volume from a file.

    Parameters
    ----------
    path : path
        A TIFF, HDF5, ``.npy`` or ``.npz`` file; the path inside an HDF5 file may follow a colon, as in
        ``scan.h5:/group/raw``. The file is never written to.
    dataset : str, optional
        Path inside an HDF5 file or name inside an ``.npz``, where it holds more than one volume.
    axes : str, optional
        Names of the axes, such as ``"TZYX"``, where the file does not tell or is wrong: one letter per axis
        of the array as it is read without ``axes`` (TIFF axes of length 1 do not count).

    Returns
    -------
    Volume
        ``data`` with the file's dtype and intensities, in the file's order of axes. ``spacing`` in
        micrometres where the file tells all three steps in a unit of length (ImageJ's calibration, OME's
        PhysicalSize, HDF5's ``element_size_um``), else None. ``metadata`` holds ``source`` (the file's
        name), ``format`` and, where the file has them, ``channel_names``, ``time_interval`` (seconds),
        ``description``, ``info``, ``series``, ``pixel_size`` (dy, dx in micrometres where the step along z
        is unknown).

    Raises
    ------
    InputError
        In one line that starts with the path: missing, empty, damaged, truncated, not an image, a single
        plane, a colour photo, more than one candidate, or axes without names.

    Notes
    -----
    Of several images in a TIFF file the largest is read, the first of these; ``metadata["series"]`` says so.
    A page axis without a name is Z. ImageJ leaves ``spacing=1`` out, so that a calibrated ImageJ file
    without it has a step of 1 in its unit; files that other programs write in ImageJ's form are not credited
    with that.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/stack.tif"
    ...     done = write(path, Volume(np.ones((5, 8, 9), np.uint16), spacing=(0.5, 0.1, 0.1)))
    ...     read(path)
    Volume(5 x 8 x 9 ZYX, uint16, 0.5 x 0.1 x 0.1 um)
    """
    file, inside = split_path(path)
    with _naming(path):
        kind = file_kind(file)
        name = _one_dataset(kind, inside, dataset)
        try:
            _check_source(file)
            if kind == "hdf5":
                volume = _read_hdf5(file, name, axes)
            elif kind == "npz":
                volume = _read_npz(file, name, axes)
            elif kind == "npy":
                volume = _read_npy(file, axes)
            else:
                volume = _read_tiff(file, axes)
        except InputError:
            raise
        except MemoryError as error:
            raise InputError(f"does not fit into memory: {_reason(error)}") from error
        except Exception as error:  # a damaged file can make its parser raise anything
            raise InputError(f"cannot be read: {_reason(error)}") from error
    return dataclasses.replace(volume, metadata={**volume.metadata, "source": file.name})


def read_mask(
    path: FilePath, *, dataset: str | None = None, axes: str | None = None, like: Volume | None = None
) -> np.ndarray:
    """Read a mask from a file of any format: nonzero = measured.

    Parameters
    ----------
    path, dataset, axes
        As in `read`.
    like : Volume, optional
        The volume that the mask is for: the mask is brought into its order of axes and must have its shape;
        along axes that only the volume has (a mask ZYX for data TCZYX) the mask is repeated.

    Returns
    -------
    numpy.ndarray of bool
        True = measured. A file that carries a mask of its own (HDF5 or ``.npz`` written here) gives that one.

    Raises
    ------
    InputError
        As `read`; if the file holds NaN; if the shape does not fit ``like``.
    """
    volume = read(path, dataset=dataset, axes=axes)
    mask = volume.mask
    with _naming(path):
        if mask is None:
            if volume.dtype.kind == "f" and np.isnan(volume.data).any():
                raise InputError("the mask holds NaN, expected zero (not measured) or nonzero (measured)")
            mask = volume.data != 0
        if like is None:
            return mask
        if not set(volume.axes) <= set(like.axes):
            raise InputError(f"mask has axes {volume.axes}, data has axes {like.axes}")
        sizes = dict(zip(like.axes, like.shape, strict=True))
        if mask.shape != tuple(sizes[letter] for letter in volume.axes):
            raise InputError(f"mask has shape {mask.shape} ({volume.axes}), data has shape {like.shape} ({like.axes})")
        mask = _arrange(mask, volume.axes, like.axes)
        return np.broadcast_to(mask, like.shape).copy()


def _one_dataset(kind: str, inside: str | None, dataset: str | None) -> str | None:
    """The path inside the file, from the path or the argument."""
    wanted = None if dataset is None else dataset.strip("/") or None
    if wanted is not None and kind not in ("hdf5", "npz"):
        raise InputError("dataset= is for HDF5 and .npz files, expected none here")
    if inside is not None and wanted is not None and inside != wanted:
        raise InputError(f"two datasets are named, {inside!r} in the path and dataset={dataset!r}; expected one")
    return inside or wanted


def _arrange(array: np.ndarray, axes: str, wanted: str) -> np.ndarray:
    """View with the axes in the order ``wanted``; those missing get length 1."""
    missing = [letter for letter in wanted if letter not in axes]
    array = array[(None,) * len(missing) + (...,)]
    now = [*missing, *axes]
    return array.transpose([now.index(letter) for letter in wanted])


def _native(array: np.ndarray) -> np.ndarray:
    """The array in the byte order of this machine."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


# -------------------------------------------------------------------------------------- notes kept in files


def _notes(volume: Volume) -> tuple[str, tuple[str, ...]]:
    """One line of ASCII JSON with what a format has no place for, and the metadata that JSON does not."""
    metadata, lost = {}, []
    for key, value in volume.metadata.items():
        if key in ("source", "format", "series"):  # set anew by `read`
            continue
        try:
            metadata[str(key)] = json.loads(json.dumps(value, default=_plain))
        except (TypeError, ValueError):
            lost.append(f"metadata {key!r}")
    notes = {"axes": volume.axes, "shape": volume.shape, "spacing": volume.spacing, "metadata": metadata}
    return json.dumps(notes), tuple(lost)


def _plain(value: Any) -> Any:
    """NumPy numbers and small arrays as JSON has them."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.size <= 1000):
        return value.tolist()
    raise TypeError


def _apply_notes(
    data: np.ndarray, axes: str, spacing: Spacing | None, text: Any
) -> tuple[np.ndarray, str, Spacing | None, dict[str, Any]]:
    """Data, axes, spacing and metadata as they were written, as far as the file still bears them out.

    Another program may have cropped, reordered or calibrated the file since: then its word counts.
    """
    try:
        notes = json.loads(text)
        before = dict(zip(notes["axes"], notes["shape"], strict=True))
        noted, metadata = notes["spacing"], dict(notes["metadata"])
    except (KeyError, TypeError, ValueError):
        return data, axes, spacing, {}
    now = dict(zip(axes, data.shape, strict=True))
    if not set(now) <= set(before) or any(size != now.get(letter, 1) for letter, size in before.items()):
        return data, axes, spacing, {}
    if noted is not None and (spacing is None or np.allclose(noted, spacing, rtol=1e-4, atol=0)):
        spacing = (float(noted[0]), float(noted[1]), float(noted[2]))
    return _arrange(data, axes, notes["axes"]), notes["axes"], spacing, metadata


# ------------------------------------------------------------------------------------------------ read TIFF

UNITS = {  # micrometres: names, in lower case
    1e-6: "pm",
    1e-4: "\u00e5 angstrom",
    1e-3: "nm nanometer nanometre",
    # with the micro sign, the Greek mu, as ImageJ escapes it, and as UTF-8 taken for Latin-1
    1.0: "um \u00b5m \u03bcm \\u00b5m \u00e2\u00b5m micron microns micrometer micrometre",
    1e3: "mm millimeter millimetre",
    1e4: "cm centimeter centimetre",
    25400.0: "in inch inches",
    1e6: "m meter metre",
}
MICROMETRES = {name: size for size, names in UNITS.items() for name in names.split()}
SECONDS = {"ms": 1e-3, "msec": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "hour": 3600.0}
# bytes of the TIFF data types
TYPE_BYTES = dict(enumerate((0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)))
NOTES_KEY = "tensorcell"


def _read_tiff(path: Path, axes: str | None) -> Volume:
    _check_directories(path)
    with _quiet_tifffile(), tifffile.TiffFile(path) as tif:
        every = list(tif.series)
        series = max(every, key=lambda one: one.size)  # the first of the largest
        number = next(i for i, one in enumerate(every) if one is series)
        _check_complete(tif, series)
        names, shape = series.axes, series.shape
        if "S" in names:
            raise InputError(f"is a colour image {shape} ({names}), expected intensities; split the colours")
        spacing, metadata, notes = _tiff_details(tif, series, number if len(every) > 1 else 0)
        data = series.asarray()
    if data.shape != shape or data.size == 0:
        raise InputError(f"is damaged: its metadata say shape {shape}, its planes make {data.shape}")
    data, names, spacing, stored = _apply_notes(_native(data), names, spacing, notes)
    if len(every) > 1:
        metadata["series"] = f"{number} of {len(every)}: {series.name}".rstrip(": ")
    names = _stack_axes(names, data.shape) if axes is None else axes
    return Volume(data, names, spacing, metadata={**stored, **metadata})


def _stack_axes(axes: str, shape: tuple[int, ...]) -> str:
    """Axes of a TIFF series with its nameless page axis called Z; an error if there is no stack of planes."""
    nameless = [letter for letter in axes if letter in "QI"]
    if "Z" not in axes and len(nameless) == 1:
        axes = axes.replace(nameless[0], "Z")
    if len(shape) < 3:
        raise InputError(f"holds one plane of shape {shape}, expected a stack of planes")
    if "Z" not in axes and not nameless:
        raise InputError(
            f"holds single planes, axes {axes} {shape}, expected a stack of planes; if one of the axes is "
            f"depth, pass axes=, for example axes={'ZYX' if len(shape) == 3 else 'TZYX'!r}"
        )
    if len(set(axes)) != len(axes) or "Z" not in axes:
        raise InputError(f"has {len(shape)} axes {shape} without names; pass axes=, for example axes='TZYX'")
    return axes


@contextmanager
def _quiet_tifffile() -> Iterator[None]:
    """Keep tifffile's log lines off the terminal; a program that has set up logging still gets them."""
    handler = logging.NullHandler()
    logging.getLogger("tifffile").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("tifffile").removeHandler(handler)


def _check_directories(path: Path) -> None:
    """Raise `InputError` unless the chain of TIFF directories, and the first one's values, lie in the file.

    tifffile takes what it can reach of a truncated file; a lost tail must not look like a shorter stack, nor
    a lost description like a file without axes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        version = struct.unpack(order + "H", head[2:4])[0] if order and len(head) >= 4 else 0
        if version not in (42, 43):
            raise InputError(f"is no TIFF file: it begins with {head[:8]!r}")
        big = version == 43
        types = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
        count_type, entry_type, link_type = (order + one for one in types)
        count_size, entry_size, link_size = map(struct.calcsize, (count_type, entry_type, link_type))
        link = head[8:16] if big else head[4:8]
        seen: set[int] = set()
        while len(link) == link_size:
            offset = struct.unpack(link_type, link)[0]
            if offset == 0 and seen:
                return
            if offset in seen:
                raise InputError(f"is damaged: its directory {len(seen)} points back to byte {offset}")
            file.seek(offset)
            raw = file.read(count_size)
            count = struct.unpack(count_type, raw)[0] if len(raw) == count_size else 0
            body = file.read(min(count, 2**16) * entry_size)
            if offset == 0 or count == 0 or len(body) < count * entry_size:
                break
            if not seen:
                _check_values(struct.iter_unpack(entry_type, body), link_type, size)
            seen.add(offset)
            link = file.read(link_size)
    raise InputError(f"is truncated or damaged: its directory {len(seen)} is not within its {size} bytes")


def _check_values(entries: Iterator[tuple[Any, ...]], offset_type: str, size: int) -> None:
    """Raise `InputError` if a tag's value lies beyond the end of the file."""
    for tag, kind, count, value in entries:
        length = count * TYPE_BYTES.get(kind, 0)
        if length > len(value) and struct.unpack(offset_type, value)[0] + length > size:
            raise InputError(f"is truncated or damaged: the value of tag {tag} is not within its {size} bytes")


def _check_complete(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
    """Raise `InputError` unless all the image data of the series lie in the file."""
    claims = {"OME": tif.is_ome, "ImageJ": tif.is_imagej, "shape": tif.is_shaped}
    claimed = [name for name, claim in claims.items() if claim]
    if claimed and series.kind in ("generic", "uniform") and "BinaryOnly" not in (tif.ome_metadata or ""):
        raise InputError(f"is truncated or damaged: its planes do not fit its {claimed[0]} metadata")
    if series.dataoffset:
        end, size = series.dataoffset + series.nbytes, tif.filehandle.size
        if end > size:
            raise InputError(f"is truncated: its planes end at byte {end}, the file has {size}")
        return
    for number, page in enumerate(series):
        if page is None:
            raise InputError(f"is incomplete: plane {number} of {len(series)} is in none of its files")
        end, size = _end_of_data(page, number), page.parent.filehandle.size
        if end > size:
            raise InputError(f"is truncated: plane {number} ends at byte {end}, the file has {size}")


def _end_of_data(page: Any, number: int) -> int:
    """Last byte of the strips or tiles of a page, or `InputError` if some are missing."""
    frame = page.keyframe
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) > 0 and offsets[0] > 0 and frame.is_contiguous:
        return int(offsets[0] + frame.nbytes)
    wanted = math.prod(frame.chunked)
    if len(offsets) < wanted or len(counts) < wanted or 0 in offsets[:wanted] or 0 in counts[:wanted]:
        raise InputError(f"is incomplete: plane {number} lacks some of its {wanted} strips or tiles")
    return int(max(offset + count for offset, count in zip(offsets[:wanted], counts[:wanted], strict=True)))


def _tiff_details(
    tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, number: int
) -> tuple[Spacing | None, dict[str, Any], Any]:
    """Voxel size, metadata and our own notes, from OME-XML, an ImageJ description or tifffile's JSON."""
    if tif.is_ome and tif.ome_metadata:
        return _ome_details(tif.ome_metadata, number)
    metadata: dict[str, Any] = {"format": "ImageJ TIFF" if tif.is_imagej else "TIFF"}
    if not tif.is_imagej and not tif.is_shaped:
        return None, metadata, None
    said = tif.imagej_metadata if tif.is_imagej else (tif.shaped_metadata or ({},))[0]
    said = said or {}
    steps = _imagej_spacing(tif.pages[0], said)
    if isinstance(said.get("Info"), str):
        metadata["info"] = said["Info"]
    interval = _number(said.get("finterval"))
    if interval is not None and interval > 0:
        metadata["time_interval"] = interval * SECONDS.get(str(said.get("tunit", "s")).lower(), 1.0)
    return _three(steps, metadata), metadata, said.get(NOTES_KEY)


def _imagej_spacing(page: Any, said: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    """(dz, dy, dx) in micrometres from a description's unit and spacing and a page's resolution tags."""
    unit = said.get("unit") or {2: "inch", 3: "cm"}.get(page.tags.valueof(296, default=1))
    dx = _pixel(page.tags.valueof(282), unit)
    dy = _pixel(page.tags.valueof(283), said.get("yunit", unit))
    depth = said.get("spacing")
    if depth is None and said.get("unit") and said.get("ImageJ") not in (None, "1.11a"):
        depth = 1.0  # ImageJ leaves 1 out; 1.11a is what other programs call themselves
    return _length(depth, said.get("zunit", unit)), dy, dx


def _pixel(resolution: Any, unit: Any) -> float | None:
    """Size in micrometres of a pixel, from (pixels, units)."""
    try:
        pixels, units = resolution
        return _length(units / pixels, unit)
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _length(value: Any, unit: Any) -> float | None:
    """A length in micrometres, or None unless it is a positive number in a unit of length."""
    number = _number(value)
    scale = MICROMETRES.get(str(unit).strip().strip('"').lower())
    if number is None or scale is None or number == 0:
        return None
    return abs(number) * scale  # ImageJ has negative steps for stacks taken downwards


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _three(steps: Sequence[float | None], metadata: dict[str, Any]) -> Spacing | None:
    """The voxel size if all three steps are known; a pixel size alone goes to the metadata."""
    dz, dy, dx = steps
    if dy is None or dx is None:
        return None
    if dz is None:
        metadata["pixel_size"] = (dy, dx)
        return None
    return dz, dy, dx


def _ome_details(xml: str, number: int) -> tuple[Spacing | None, dict[str, Any], Any]:
    """Voxel size, metadata and notes from the OME-XML of image ``number``."""
    metadata: dict[str, Any] = {"format": "OME-TIFF"}
    root = ElementTree.fromstring(xml)
    images = root.findall("{*}Image")
    image = images[number] if number < len(images) else images[0]
    pixels = image.find("{*}Pixels")
    if pixels is None:
        return None, metadata, None
    steps = [_length(pixels.get(f"PhysicalSize{a}"), pixels.get(f"PhysicalSize{a}Unit", "um")) for a in "ZYX"]
    names = [channel.get("Name") for channel in pixels.findall("{*}Channel")]
    if names and all(names):
        metadata["channel_names"] = names
    interval = _number(pixels.get("TimeIncrement"))
    scale = SECONDS.get(pixels.get("TimeIncrementUnit", "s").lower())
    if interval is not None and scale is not None and interval > 0:
        metadata["time_interval"] = interval * scale
    description = image.findtext("{*}Description")
    if description:
        metadata["description"] = description
    notes = next((entry.text for entry in root.iterfind(".//{*}M") if entry.get("K") == NOTES_KEY), None)
    return _three(steps, metadata), metadata, notes


# ------------------------------------------------------------------------------------------------ read HDF5


def _read_hdf5(path: Path, name: str | None, axes: str | None) -> Volume:
    if not h5py.is_hdf5(path):
        raise InputError("is no HDF5 file, or its beginning is damaged")
    with h5py.File(path, "r") as file:
        stored = _choose_dataset(file, name)
        _check_written(stored)
        attributes = stored.attrs
        mask_name = attributes.get("mask")
        mask = None if mask_name is None or mask_name not in file else file[mask_name][()].astype(bool)
        names = axes or _hdf5_axes(stored)
        data = _native(stored[()])
        spacing = _hdf5_spacing(attributes.get("element_size_um"), names)
        metadata = _json_object(attributes.get("metadata"))
    metadata["format"] = "HDF5"
    return Volume(data, names or guess_axes(data), spacing, mask, metadata)


def _choose_dataset(file: h5py.File, name: str | None) -> h5py.Dataset:
    """The dataset called ``name``, or the only one in the file or group that can be a volume."""
    start = file if name is None else file.get(name)
    if isinstance(start, h5py.Dataset):
        return start
    found: dict[str, h5py.Dataset] = {}

    def visit(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 3 and item.dtype.kind in "buif":
            found[item.name] = item

    (file if start is None else start).visititems(visit)
    masks = {_text(item.attrs.get("mask")) for item in found.values()}
    listed = [key for key in found if key not in masks]
    names = ", ".join(f"{key} {found[key].shape}" for key in listed[:8]) + (", ..." if len(listed) > 8 else "")
    if start is None:
        raise InputError(f"has no dataset {name!r}, it has {names or 'none that can be a volume'}")
    if not listed:
        raise InputError("has no dataset of three or more axes, expected a volume")
    if len(listed) > 1:
        raise InputError(f"has {len(listed)} volumes, name one with dataset= or after a colon: {names}")
    return found[listed[0]]


def _check_written(stored: h5py.Dataset) -> None:
    """Raise `InputError` if parts of the dataset were never written: they would read as zeros."""
    if stored.size in (None, 0) or stored.is_virtual or stored.external:
        return
    if stored.chunks is not None:
        pairs = zip(stored.shape, stored.chunks, strict=True)
        wanted = math.prod(-(-length // chunk) for length, chunk in pairs)
        missing = wanted - stored.id.get_num_chunks()
        if missing > 0:
            raise InputError(f"is incomplete: {missing} of {wanted} chunks of {stored.name} were never written")
    elif stored.id.get_storage_size() == 0:
        raise InputError(f"is incomplete: {stored.name} was never written")


def _hdf5_axes(stored: h5py.Dataset) -> str | None:
    """Axes from our ``axes`` attribute, ilastik's ``axistags`` or HDF5's dimension labels."""
    own = _text(stored.attrs.get("axes"))
    tags = _json_object(stored.attrs.get("axistags")).get("axes")
    keys = [str(tag.get("key", "")) for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    words = {"depth": "Z", "height": "Y", "width": "X"}
    labels = [words.get(dim.label.lower(), dim.label[:1]) for dim in stored.dims]
    for candidate in (own, "".join(keys), "".join(labels)):
        named = (candidate or "").upper()
        if len(named) == stored.ndim and set("YX") <= set(named) and len(set(named)) == len(named):
            return named  # without Z it is a series of single planes, which `Volume` refuses
    return None


def _hdf5_spacing(value: Any, axes: str | None) -> Spacing | None:
    """``element_size_um``, as (dz, dy, dx) or with one entry per axis, if it holds positive numbers."""
    try:
        steps = [float(step) for step in np.ravel(value)]
    except (TypeError, ValueError):
        return None
    if axes is not None and len(steps) == len(axes) and len(axes) > 3:
        steps = [steps[axes.index(letter)] for letter in "ZYX"]
    if len(steps) != 3 or not all(math.isfinite(step) and step > 0 for step in steps):
        return None
    return steps[0], steps[1], steps[2]


def _text(value: Any) -> str | None:
    """A text attribute, however it is stored."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def _json_object(value: Any) -> dict[str, Any]:
    """A JSON object from a text attribute; empty if it is none."""
    try:
        parsed = json.loads(_text(value) or "{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


# ----------------------------------------------------------------------------------------------- read NumPy


def _read_npy(path: Path, axes: str | None) -> Volume:
    with path.open("rb") as file:
        data = _read_array(file)
    return Volume(data, axes or guess_axes(data), metadata={"format": "NumPy"})


def _read_npz(path: Path, name: str | None, axes: str | None) -> Volume:
    if not zipfile.is_zipfile(path):
        raise InputError("is no .npz file, or it is truncated")
    with zipfile.ZipFile(path) as archive:
        names = [entry[:-4] for entry in archive.namelist() if entry.endswith(".npy")]

        def member(key: str) -> np.ndarray:
            with archive.open(f"{key}.npy") as file:
                array = _read_array(file)
                file.read()  # to the end, where the checksum is compared
            return array

        chosen = name or ("data" if "data" in names else None)
        if chosen is None and len(names) == 1:
            chosen = names[0]
        if chosen is None or chosen not in names:
            problem = f"has no array {name!r}" if name else "has several arrays, name one with dataset="
            raise InputError(f"{problem}: {', '.join(names[:8]) or 'none'}")
        data = member(chosen)
        own = chosen == "data"  # the names beside it are ours
        mask = member("mask").astype(bool) if own and "mask" in names else None
        spacing = member("spacing").tolist() if own and "spacing" in names else None
        named = axes or (str(member("axes")) if own and "axes" in names else None)
        metadata = _json_object(str(member("metadata"))) if own and "metadata" in names else {}
    metadata["format"] = "NumPy"
    return Volume(data, named or guess_axes(data), spacing, mask, metadata)


def _read_array(file: IO[bytes]) -> np.ndarray:
    """An array in NumPy's format; pickled objects are refused."""
    return np.lib.format.read_array(file, allow_pickle=False)


# ----------------------------------------------------------------------------------------------------- cast


@dataclass(frozen=True)
class Cast:
    """Intensities in another dtype, and what that cost."""

    data: np.ndarray
    rounded: int
    """Voxels that were not integers and were rounded to the nearest one (ties to even)."""
    clipped: int
    """Voxels outside the range of the dtype, set to its nearest end."""


def cast(data: np.ndarray, dtype: Any) -> Cast:
    """Convert intensities to a dtype by rounding and clipping, and count both.

    Parameters
    ----------
    data : numpy.ndarray
        Integers, bool or floats, any shape. Infinities are clipped to an integer dtype's range.
    dtype : dtype
        An integer or float dtype of at most 64 bits.

    Returns
    -------
    Cast
        ``data`` of the given dtype (the same array if it has it already). A voxel that is rounded beyond the
        range counts as clipped only. Towards a float dtype only voxels beyond its largest number count (as
        clipped); infinities stay, and lost digits are not counted.

    Raises
    ------
    InputError
        If NaN would have to become an integer (there is no number for "not measured"), or for another dtype.

    Examples
    --------
    >>> cast(np.array([-3.0, 0.4, 7.0, 300.0]), np.uint8)
    Cast(data=array([  0,   0,   7, 255], dtype=uint8), rounded=1, clipped=2)
    """
    try:
        wanted = np.dtype(dtype)
    except TypeError as error:
        raise InputError(f"dtype {dtype!r} is unknown, expected one such as uint16 or float32") from error
    if wanted.kind not in "iuf" or wanted.itemsize > 8:
        raise InputError(f"dtype {wanted} does not hold intensities, expected integers or floats up to 64 bits")
    if data.dtype == wanted:
        return Cast(data, 0, 0)
    result = np.empty(data.shape, wanted)
    rounded = clipped = 0
    for source, target in _blocks(data, result):
        if wanted.kind == "f":
            clipped += _to_float(source, target)
        elif source.dtype.kind == "f":
            more_rounded, more_clipped = _float_to_integer(source, target)
            rounded, clipped = rounded + more_rounded, clipped + more_clipped
        else:
            clipped += _integer_to_integer(source, target)
    return Cast(result, rounded, clipped)


def _blocks(data: np.ndarray, result: np.ndarray, size: int = 2**20) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Matching pieces of two arrays, so that temporary arrays stay small."""
    if data.ndim == 0 or data.size <= size:
        yield data, result
        return
    step = max(1, size * data.shape[0] // data.size)
    for start in range(0, data.shape[0], step):
        piece = slice(start, start + step)
        yield data[piece], result[piece]


def _to_float(source: np.ndarray, target: np.ndarray) -> int:
    limit, wide = float(np.finfo(target.dtype).max), source.astype(np.float64)
    over = np.isfinite(wide) & (np.abs(wide) > limit)
    target[...] = np.where(over, np.copysign(limit, wide), wide)
    return int(np.count_nonzero(over))


def _float_to_integer(source: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    if np.isnan(source).any():
        raise InputError(f"cannot store NaN (not measured) as {target.dtype}; use a float dtype")
    info = np.iinfo(target.dtype)
    nearest = np.rint(source if source.dtype.itemsize > 2 else source.astype(np.float32))
    # powers of two, exact in every float, where float(info.max) would be rounded up for 32 and 64 bits
    low, high = nearest < float(info.min), nearest >= float(info.max + 1)
    target[...] = np.where(low | high, 0, nearest)
    target[low], target[high] = info.min, info.max
    clipped = np.count_nonzero(low) + np.count_nonzero(high)
    return int(np.count_nonzero((nearest != source) & ~low & ~high)), int(clipped)


def _integer_to_integer(source: np.ndarray, target: np.ndarray) -> int:
    if source.dtype == bool:
        target[...] = source
        return 0
    own, info = np.iinfo(source.dtype), np.iinfo(target.dtype)
    low, high = max(own.min, info.min), min(own.max, info.max)  # Python integers that both dtypes hold
    target[...] = np.clip(source, low, high)
    return int(np.count_nonzero((source < low) | (source > high)))


# ---------------------------------------------------------------------------------------------------- write


@dataclass(frozen=True)
class Written:
    """What `write` did."""

    path: Path
    format: str
    """``ImageJ TIFF``, ``OME-TIFF``, ``TIFF``, ``HDF5`` or ``NumPy``."""
    rounded: int
    """Voxels rounded on the way to the dtype asked for, see `Cast`."""
    clipped: int
    """Voxels clipped on the way to the dtype asked for."""
    lost: tuple[str, ...]
    """What the format does not hold: ``"mask"``, ``"axes"``, ``"spacing"``, ``"metadata"`` ..."""


def write(
    path: FilePath,
    volume: Any,
    *,
    dtype: Any = None,
    compress: bool = True,
    overwrite: bool = True,
) -> Written:
    """Write a volume to a file; the format follows from the suffix (see the top of this module).

    Parameters
    ----------
    path : path
        The output. ``file.h5:/group/data`` puts the volume beside what an HDF5 file already holds.
    volume : Volume or array_like
        An array is taken as by `Volume.from_array`.
    dtype : dtype, optional
        Convert to this dtype as `cast` does; None keeps the volume's.
    compress : bool
        Lossless compression (TIFF: deflate without a predictor, which Fiji reads; HDF5: gzip; ``.npz``).
        ``.npy`` has none.
    overwrite : bool
        False makes an existing output an error.

    Returns
    -------
    Written
        What was written, how many voxels were rounded and clipped, and what the format does not hold.

    Raises
    ------
    InputError
        In one line that starts with the path: unknown suffix, missing or unwritable folder, full disk, a
        dtype or axes that the format does not have, NaN for an integer dtype.

    Notes
    -----
    The file appears whole or not at all: it is written under a temporary name in the same folder, flushed to
    the disk and renamed. On any error or Ctrl-C the temporary file is removed and an existing output stays
    as it was.
    """
    file, inside = split_path(path)
    volume = Volume.from_array(volume)
    with _naming(path):
        kind = file_kind(file)
        _check_target(file)
        if not overwrite and file.exists():
            raise InputError("exists already, expected a new name (or overwrite=True)")
        converted = Cast(volume.data, 0, 0) if dtype is None else cast(volume.data, dtype)
        volume = dataclasses.replace(volume, data=converted.data)
        form = _tiff_form(volume, kind) if kind in ("tiff", "ome") else {"hdf5": "HDF5"}.get(kind, "NumPy")
        with _whole_file(file) as part:
            if kind == "hdf5":
                lost = _write_hdf5(part, volume, inside, compress, file)
            elif kind == "npz":
                lost = _write_npz(part, volume, compress)
            elif kind == "npy":
                lost = _write_npy(part, volume)
            else:
                lost = _write_tiff(part, volume, form, compress)
    return Written(file, form, converted.rounded, converted.clipped, lost)


def write_whole(path: FilePath, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    with _naming(path), _whole_file(Path(path)) as part:
        part.write_bytes(content)


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that becomes ``path`` at the end, or is removed on any exception."""
    target = Path(os.path.realpath(path))  # a link stays a link
    part = _temporary_name(path)
    try:
        yield part
        if target.exists():
            shutil.copymode(target, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        hint = "" if error.errno else " (is the disk full?)"  # NumPy does not pass the number on
        raise InputError(f"cannot be written: {_reason(error)}{hint}") from error
    finally:
        _remove(part)


def _temporary_name(path: Path) -> Path:
    return Path(os.path.realpath(path)).with_name(f".tensorcell-{secrets.token_hex(8)}.part")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except (OSError, ValueError):  # nothing more can be done, and the first error is the one to show
        return


# ----------------------------------------------------------------------------------------------- write TIFF

IMAGEJ_DTYPES = ("uint8", "uint16", "int16", "float32")
OME_DTYPES = ("bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64")
CLASSIC_LIMIT = 2**32 - 2**25  # bytes of image data; beyond, the 32-bit offsets of a classic TIFF do not reach


def _tiff_form(volume: Volume, kind: str) -> str:
    """``ImageJ TIFF``, ``OME-TIFF`` or ``TIFF``: the first that holds the volume as it is."""
    name = volume.dtype.name
    plain_axes = set(volume.axes) <= set("TZCYX")
    if volume.shape[volume.axes.index("X")] == 1:  # tifffile drops trailing axes of length 1
        raise InputError("TIFF has no place for a volume one voxel wide along X (write .h5 or .npz)")
    if kind == "ome":
        if name not in OME_DTYPES:
            raise InputError(f"OME-TIFF has no dtype {name}, expected {', '.join(OME_DTYPES)} (or write .h5)")
        if not plain_axes:
            raise InputError(f"OME-TIFF has no axes {volume.axes}, expected T, C, Z, Y, X (or write .h5)")
        return "OME-TIFF"
    if plain_axes and name in IMAGEJ_DTYPES and volume.data.nbytes < CLASSIC_LIMIT:
        return "ImageJ TIFF"
    return "OME-TIFF" if plain_axes and name in OME_DTYPES else "TIFF"


def _write_tiff(part: Path, volume: Volume, form: str, compress: bool) -> tuple[str, ...]:
    outer = "".join(letter for letter in volume.axes if letter not in "ZYX")
    axes = {"ImageJ TIFF": "TZCYX", "OME-TIFF": "TCZYX"}.get(form, outer + "ZYX")
    axes = "".join(letter for letter in axes if letter in volume.axes)
    notes, lost = _notes(volume)
    if form == "OME-TIFF":
        metadata = _ome_metadata(volume, axes, notes)
    else:
        metadata = _imagej_metadata(volume, axes, notes, form)
    data = np.ascontiguousarray(_arrange(volume.data, volume.axes, axes))
    resolution, unit = None, None
    if volume.spacing is not None:
        pixels = 1 / volume.spacing[2], 1 / volume.spacing[1]  # per micrometre, x first
        if form == "OME-TIFF":
            resolution, unit = (1e4 * pixels[0], 1e4 * pixels[1]), "CENTIMETER"
        elif max(pixels) < 2**32:  # otherwise the rational numbers of the tags do not hold it
            resolution, unit = pixels, "NONE"
    # our own stream: tifffile would swallow an error of the last flush
    with _quiet_tifffile(), part.open("xb") as stream:
        writer = tifffile.TiffWriter(
            stream,
            bigtiff=volume.data.nbytes >= CLASSIC_LIMIT,
            imagej=form == "ImageJ TIFF",
            ome=form == "OME-TIFF",
        )
        writer.write(
            data,
            photometric="minisblack",
            compression="zlib" if compress else None,
            resolution=resolution,
            resolutionunit=unit,
            metadata=metadata,
        )
        writer.close()
    return (("mask",) if volume.mask is not None else ()) + lost


def _imagej_metadata(volume: Volume, axes: str, notes: str, form: str) -> dict[str, Any]:
    """ImageJ's description of the volume; in a plain TIFF tifffile writes the same items as JSON."""
    metadata: dict[str, Any] = {"axes": axes, NOTES_KEY: notes}
    if volume.spacing is not None:
        metadata |= {"spacing": volume.spacing[0], "unit": "um"}
    interval = _number(volume.metadata.get("time_interval"))
    if interval:
        metadata["finterval"] = interval
    if form != "ImageJ TIFF":
        return metadata
    sizes = dict(zip(volume.axes, volume.shape, strict=True))
    channels = sizes.get("C", 1)
    if 1 < channels <= 7:
        metadata["mode"] = "composite"
    names = _channel_names(volume, channels) if channels > 1 else []
    if names:
        metadata["Labels"] = names * (sizes["Z"] * sizes.get("T", 1))
    if isinstance(volume.metadata.get("info"), str):
        metadata["Info"] = _printable(volume.metadata["info"])
    return metadata


def _ome_metadata(volume: Volume, axes: str, notes: str) -> dict[str, Any]:
    """The items of tifffile's OME-XML."""
    metadata: dict[str, Any] = {"axes": axes, "MapAnnotation": {NOTES_KEY: notes}}
    if volume.spacing is not None:
        for letter, step in zip("ZYX", volume.spacing, strict=True):
            metadata |= {f"PhysicalSize{letter}": step, f"PhysicalSize{letter}Unit": "\u00b5m"}
    interval = _number(volume.metadata.get("time_interval"))
    if interval:
        metadata |= {"TimeIncrement": interval, "TimeIncrementUnit": "s"}
    names = _channel_names(volume, dict(zip(volume.axes, volume.shape, strict=True)).get("C", 1))
    if names:
        metadata["Channel"] = {"Name": names}
    if isinstance(volume.metadata.get("description"), str):
        metadata["Description"] = _printable(volume.metadata["description"])
    return metadata


def _channel_names(volume: Volume, channels: int) -> list[str]:
    """The names of the channels if there is one for each, else none."""
    names = volume.metadata.get("channel_names")
    if not isinstance(names, list | tuple) or len(names) != channels:
        return []
    return [_printable(str(name)) for name in names]


def _printable(text: str) -> str:
    """Text without the control characters that XML and ImageJ do not take."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")


# ------------------------------------------------------------------------------------ write HDF5 and NumPy


def _write_hdf5(part: Path, volume: Volume, inside: str | None, compress: bool, existing: Path) -> tuple[str, ...]:
    name = inside or "data"
    if inside is not None and existing.exists():  # keep what else is in the file
        if not h5py.is_hdf5(existing):
            raise InputError("exists and is no HDF5 file, so nothing can be put into it")
        shutil.copyfile(existing, part)
    else:
        h5py.File(part, "w-").close()
    block = {"Z": 8, "Y": 128, "X": 128}
    sizes = dict(zip(volume.axes, volume.shape, strict=True))
    counts = [math.ceil(size / block.get(letter, 1)) for letter, size in sizes.items()]
    chunks = tuple(math.ceil(size / count) for size, count in zip(sizes.values(), counts, strict=True))
    chunk_bytes = math.prod(chunks) * (volume.dtype.itemsize + 1)  # with the mask
    _reserve(part, math.prod(counts) * (chunk_bytes + 200) + 2**16)
    notes, lost = _notes(volume)
    metadata = json.dumps(json.loads(notes)["metadata"])
    options: dict[str, Any] = {"chunks": chunks}
    if compress:
        options |= {"compression": "gzip", "shuffle": True}
    with h5py.File(part, "r+") as file:
        _make_room(file, name)
        stored = file.create_dataset(name, data=volume.data, **options)
        stored.attrs["axes"] = volume.axes
        for dimension, letter in zip(stored.dims, volume.axes, strict=True):
            dimension.label = letter.lower()
        if volume.spacing is not None:
            stored.attrs["element_size_um"] = volume.spacing  # (dz, dy, dx), as plantseg and Fiji have it
        if len(metadata) < 60_000:  # an HDF5 attribute holds 64 kB
            stored.attrs["metadata"] = metadata
        else:
            lost = (*lost, "metadata")
        if volume.mask is not None:
            file.create_dataset(f"{name}_mask", data=volume.mask, **options).attrs["axes"] = volume.axes
            stored.attrs["mask"] = f"/{name}_mask"
    return lost


def _make_room(file: h5py.File, name: str) -> None:
    """Remove an earlier volume and its mask; an error if the name is taken by something else."""
    parts = name.split("/")
    for parent in ("/".join(parts[:depth]) for depth in range(1, len(parts))):
        if isinstance(file.get(parent), h5py.Dataset):
            raise InputError(f"{parent!r} is a dataset in the file, expected a group")
    for old in (name, f"{name}_mask"):
        if isinstance(file.get(old), h5py.Group):
            raise InputError(f"{old!r} is a group in the file, expected the name of a dataset")
        if old in file:
            del file[old]


def _reserve(path: Path, size: int) -> None:
    """Claim disk space for a file to grow: HDF5 crashes the process when the disk fills up under it."""
    with path.open("rb+") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size + size)
            return
        except AttributeError:  # not on this system
            pass
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # not on this disk
                raise
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_npz(part: Path, volume: Volume, compress: bool) -> tuple[str, ...]:
    notes, lost = _notes(volume)
    arrays: dict[str, Any] = {"data": volume.data, "axes": np.array(volume.axes)}
    if volume.spacing is not None:
        arrays["spacing"] = np.array(volume.spacing)
    if volume.mask is not None:
        arrays["mask"] = volume.mask
    arrays["metadata"] = np.array(json.dumps(json.loads(notes)["metadata"]))
    with part.open("xb") as stream:
        if compress:
            np.savez_compressed(stream, **arrays)
        else:
            np.savez(stream, **arrays)
    return lost


def _write_npy(part: Path, volume: Volume) -> tuple[str, ...]:
    with part.open("xb") as stream:
        np.save(stream, volume.data, allow_pickle=False)
    lost = [] if volume.axes == "ZYX" else ["axes"]
    lost += ["spacing"] if volume.spacing is not None else []
    lost += ["mask"] if volume.mask is not None else []
    lost += ["metadata"] if any(key not in ("source", "format") for key in volume.metadata) else []
    return tuple(lost)
