"""Read and write NumPy's files: ``.npy`` holds the array alone, ``.npz`` everything."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from tensorcell.errors import InputError, SeveralVolumes
from tensorcell.files.claimed_sizes import check_claim
from tensorcell.files.disk_space import reserve
from tensorcell.files.formats import Stored, Wanted
from tensorcell.files.lazy_values import Mapped, Opened
from tensorcell.files.notes import json_object, plain_metadata
from tensorcell.files.tiles import MappedTiles, Plot, TileWriter, Tiling
from tensorcell.volume import Volume
from tensorcell.volume_checks import guess_axes

FORM = "NumPy"


def read_npy(path: Path, wanted: Wanted) -> Volume:
    """Read the array."""
    return open_npy(path, wanted).volume()


def open_npy(path: Path, wanted: Wanted) -> Opened:
    """Read the header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = _read_header(file)
        offset = file.tell()
    _check_length(header, size - offset)
    data = Mapped(path, offset, header.shape, header.dtype, "F" if header.fortran else "C")
    return Opened(data, wanted.axes, None, {"format": FORM})


def read_npz(path: Path, wanted: Wanted) -> Volume:
    """Read the array of that name, else ``data``, else the only one.

    Beside ``data`` lie the parts that `write_npz` stores: ``axes``, ``spacing``, ``mask`` and ``metadata``.
    """
    if not zipfile.is_zipfile(path):
        raise InputError("is no .npz file, or it is truncated")
    with zipfile.ZipFile(path) as archive:
        names = [entry[:-4] for entry in archive.namelist() if entry.endswith(".npy")]
        chosen = _choose_array(names, wanted.dataset)
        ours = ("mask", "spacing", "metadata") + (() if wanted.axes else ("axes",))
        data = _read_member(archive, chosen)
        parts = {name: _read_member(archive, name) for name in ours if chosen == "data" and name in names}
    mask = parts["mask"].astype(bool) if "mask" in parts else None
    spacing = parts["spacing"].tolist() if "spacing" in parts else None
    named = wanted.axes or (str(parts["axes"]) if "axes" in parts else None)
    metadata = json_object(str(parts["metadata"])) if "metadata" in parts else {}
    metadata["format"] = FORM
    return Volume(data, named or guess_axes(data), spacing, mask, metadata)


def write_npy(part: Path, volume: Volume, _dataset: str | None, _compress: bool) -> Stored:
    """Write the array alone."""
    with part.open("xb") as stream:
        np.save(stream, volume.data, allow_pickle=False)
    return _stored(volume)


def _stored(volume: Volume) -> Stored:
    lost = [] if volume.axes == "ZYX" else ["axes"]
    lost += ["spacing"] if volume.spacing is not None else []
    lost += ["mask"] if volume.mask is not None else []
    lost += ["metadata"] if any(key not in ("source", "format") for key in volume.metadata) else []
    return Stored(FORM, tuple(lost))


def _begin(part: Path, layout: Volume) -> None:
    """A header, and zeros after it."""
    with part.open("xb") as stream:
        described = {"descr": np.lib.format.dtype_to_descr(layout.dtype), "fortran_order": False, "shape": layout.shape}
        np.lib.format.write_array_header_1_0(stream, described)
        stream.truncate(stream.tell() + layout.data.nbytes)
    reserve(part, part.stat().st_size)


def _resume(part: Path, layout: Volume) -> TileWriter:
    with part.open("rb") as file:
        header = _read_header(file)
        plot = Plot(file.tell(), header.shape, header.dtype)
    return MappedTiles(part, layout, layout.axes, plot, lambda _, volume: _stored(volume))


NPY_TILES = Tiling(_begin, _resume)


def write_npz(part: Path, volume: Volume, _dataset: str | None, compress: bool) -> Stored:
    """Write ``data``, ``axes``, ``metadata`` and, where the volume has them, ``spacing`` and ``mask``."""
    metadata, lost = plain_metadata(volume)
    arrays: dict[str, Any] = {"data": volume.data, "axes": np.array(volume.axes)}
    if volume.spacing is not None:
        arrays["spacing"] = np.array(volume.spacing)
    if volume.mask is not None:
        arrays["mask"] = volume.mask
    arrays["metadata"] = np.array(json.dumps(metadata))
    with part.open("xb") as stream:
        if compress:
            np.savez_compressed(stream, **arrays)
        else:
            np.savez(stream, **arrays)
    return Stored(FORM, lost)


def _choose_array(names: list[str], wanted: str | None) -> str:
    chosen = wanted or ("data" if "data" in names else None)
    if chosen is None and len(names) == 1:
        chosen = names[0]
    listed = ", ".join(names[:8]) or "none"
    if wanted and wanted not in names:
        raise InputError(f"has no array {wanted!r}: {listed}")
    if chosen is None:
        message = f"has several arrays, name one with dataset= or after a colon: {listed}"
        raise SeveralVolumes(message, "dataset", names)
    return chosen


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as file:
        array = _read_array(file, member.file_size)
        file.read(1)  # to the end, where the checksum is compared
    return array


def _read_array(file: IO[bytes], size: int) -> np.ndarray:
    """An array in NumPy's format, in a file that holds ``size`` bytes once it is decompressed; pickles are refused.

    The header must claim as many bytes as follow it, and no more than fit into memory: what is compressed can be
    small and expand without end.
    """
    header = _read_header(file)
    check_claim(header.shape, header.dtype)
    _check_length(header, size - file.tell())
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


class _Header(NamedTuple):
    """What stands before the values."""

    shape: tuple[int, ...]
    fortran: bool
    """Whether the first axis is the fastest."""
    dtype: np.dtype[Any]


def _read_header(file: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(file)
    older = version == (1, 0)
    return _Header(*(np.lib.format.read_array_header_1_0 if older else np.lib.format.read_array_header_2_0)(file))


def _check_length(header: _Header, there: int) -> None:
    """Raise `InputError` unless as many bytes follow the header as it claims, or if they are a pickle."""
    if header.dtype.hasobject:
        raise InputError("holds Python objects, expected numbers")
    claimed = math.prod(header.shape) * header.dtype.itemsize
    if claimed != there:
        raise InputError(f"is damaged: its header claims {claimed} bytes of values, {there} follow it")
