"""Write TIFF files: an ImageJ hyperstack, OME-TIFF or plain TIFF, the first of these that holds the volume."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorcell.files.disk_space import reserve
from tensorcell.files.formats import NotHeld, Stored
from tensorcell.files.layout import arrange
from tensorcell.files.notes import NOTES_KEY, notes_of, plain_metadata
from tensorcell.files.pyramid import PyramidLevel, fill_level
from tensorcell.files.tiff_ome import PLANE_LENGTHS, PLANE_TIMES
from tensorcell.files.tiff_read import quiet_tifffile
from tensorcell.files.tiles import MappedTiles, Plot, TileWriter, Tiling
from tensorcell.files.units import finite
from tensorcell.volume import Volume
from tensorcell.volume_checks import pixel_size_of

IMAGEJ_DTYPES = ("uint8", "uint16", "int16", "float32")
CALIBRATED_DTYPES = ("uint8", "uint16")
"""Data types whose intensities ImageJ calibrates."""

OME_DTYPES = ("bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64")
OME_AXES = "TCZYX"
NO_BOOL = "TIFF stores eight values of bool in a byte, so that tiles of it cannot be written"

REDUCED = 1
"""Type of a directory with a smaller version of an image."""

CLASSIC_LIMIT = 2**32 - 2**25
"""Bytes of image data beyond which the 32-bit offsets of a classic TIFF do not reach."""


def write_tiff(part: Path, volume: Volume, _dataset: str | None, compress: bool) -> Stored:
    """Write the first of ImageJ TIFF, OME-TIFF and plain TIFF that holds the volume as it is."""
    return write_form(part, volume, _form_of(volume), compress)


def _form_of(volume: Volume) -> str:
    name = volume.dtype.name
    form = "TIFF"
    if set(volume.axes) <= set(OME_AXES):
        if name in IMAGEJ_DTYPES and volume.data.nbytes < CLASSIC_LIMIT:
            form = "ImageJ TIFF"
        elif name in OME_DTYPES:
            form = "OME-TIFF"
    return form


def write_ome_tiff(part: Path, volume: Volume, _dataset: str | None, compress: bool) -> Stored:
    """Write OME-TIFF."""
    return write_form(part, volume, "OME-TIFF", compress)


class Pyramid(NamedTuple):
    """How an image is written in tiles, with smaller levels."""

    tile: tuple[int, int]
    """Rows and columns of a tile."""
    levels: tuple[PyramidLevel, ...]

    def size(self, shape: tuple[int, ...]) -> int:
        """Pixels in the tiles of all levels."""
        sides = [each[-2:] for each in (shape, *(level.shape for level in self.levels))]
        tiles = sum(-(-rows // self.tile[0]) * -(-columns // self.tile[1]) for rows, columns in sides)
        return math.prod(shape[:-2]) * tiles * math.prod(self.tile)


def write_form(
    part: Path, volume: Volume, form: str, compress: bool, *, empty: bool = False, pyramid: Pyramid | None = None
) -> Stored:
    """Write all of the file; if it is to be ``empty``, zeros for the values."""
    import tifffile

    if volume.shape[volume.axes.index("X")] == 1:  # tifffile drops trailing axes of length 1
        raise NotHeld("TIFF has no place for a volume one voxel wide along X")
    axes = stored_axes(volume, form)
    notes, _ = notes_of(volume)
    data = arrange(volume.data, volume.axes, axes)
    describe = _ome_description if form == "OME-TIFF" else _imagej_description
    resolution, unit = _resolution(volume, form)
    pixels = data.size if pyramid is None else pyramid.size(data.shape)
    options: dict[str, Any] = {
        "dtype": data.dtype.newbyteorder("="),
        "photometric": "minisblack",
        "compression": "zlib" if compress else None,
        "tile": None if pyramid is None else pyramid.tile,
        "resolutionunit": unit,
    }
    # The stream is ours, since tifffile would swallow an error of the last flush.
    with quiet_tifffile(), part.open("xb") as stream:
        writer = tifffile.TiffWriter(
            stream,
            bigtiff=pixels * data.dtype.itemsize >= CLASSIC_LIMIT,
            imagej=form == "ImageJ TIFF",
            ome=form == "OME-TIFF",
        )
        writer.write(
            None if empty else np.ascontiguousarray(data),
            shape=data.shape,
            resolution=resolution,
            subifds=None if pyramid is None else len(pyramid.levels),
            metadata=describe(volume, axes, notes, form),
            **options,
        )
        for level in pyramid.levels if pyramid is not None else ():
            coarse = resolution and (resolution[0] / level.factors["X"], resolution[1] / level.factors["Y"])
            data = data if empty else _smaller(data, level, axes, options["tile"])
            writer.write(None if empty else data, shape=level.shape, resolution=coarse, subfiletype=REDUCED, **options)
        writer.close()
    return stored_of(volume, form)


def _smaller(data: np.ndarray, level: PyramidLevel, axes: str, tile: Sequence[int]) -> np.ndarray:
    """A level, made of the one before."""
    found = np.empty(level.shape, data.dtype)
    fill_level(data, None, found, None, blocks(level.shape, tile), axes, level.halved)
    return found


def blocks(shape: Sequence[int], tile: Sequence[int]) -> tuple[int, ...]:
    """The blocks of which a level in these tiles is made."""
    return (*(1 for _ in shape[:-2]), *tile)


def stored_of(volume: Volume, form: str) -> Stored:
    _, lost = notes_of(volume)
    if "calibration" in volume.metadata and (form != "ImageJ TIFF" or volume.dtype.name not in CALIBRATED_DTYPES):
        lost = (*lost, "calibration")
    return Stored(form, (("mask",) if volume.mask is not None else ()) + lost)


def stored_axes(volume: Volume, form: str) -> str:
    """The axes of a volume in the order of the file."""
    outer = "".join(letter for letter in volume.axes if letter not in "ZYX")
    axes = {"ImageJ TIFF": "TZCYX", "OME-TIFF": OME_AXES}.get(form, outer + "ZYX")
    return "".join(letter for letter in axes if letter in volume.axes)


def tiff_tiles(form_of: Callable[[Volume], str]) -> Tiling:
    """How TIFF without compression is written tile by tile, in the form that a function says."""

    def begin(part: Path, layout: Volume) -> None:
        if layout.dtype == bool:
            raise NotHeld(NO_BOOL)
        write_form(part, layout, form_of(layout), compress=False, empty=True)
        reserve(part, part.stat().st_size)

    def resume(part: Path, layout: Volume) -> TileWriter:
        import tifffile

        form = form_of(layout)
        axes = stored_axes(layout, form)
        with quiet_tifffile(), tifffile.TiffFile(part) as tif:
            series = tif.series[0]
            assert series.dataoffset is not None
            shape = arrange(layout.data, layout.axes, axes).shape
            long, stored = ([size for size in sizes if size > 1] for sizes in (shape, series.shape))
            plot = Plot(  # tifffile leaves axes of length 1 out
                series.dataoffset, shape if long == stored else series.shape, series.dtype.newbyteorder(tif.byteorder)
            )
        return MappedTiles(part, layout, axes, plot, lambda _, volume: stored_of(volume, form))

    return Tiling(begin, resume)


TIFF_TILES, OME_TIFF_TILES = tiff_tiles(_form_of), tiff_tiles(lambda _: "OME-TIFF")


def _steps(volume: Volume) -> tuple[float | None, float | None, float | None]:
    """(dz, dy, dx) in micrometres, as far as they are known."""
    dy, dx = pixel_size_of(volume) or (None, None)
    return None if volume.spacing is None else volume.spacing[0], dy, dx


def _resolution(volume: Volume, form: str) -> tuple[tuple[float, float] | None, str | None]:
    """Pixels per unit along x and y, and the unit; None and None if the tags cannot say it."""
    _, dy, dx = _steps(volume)
    if dy is None or dx is None:
        return None, None
    x, y = 1 / dx, 1 / dy  # per micrometre
    if form == "OME-TIFF":
        return (1e4 * x, 1e4 * y), "CENTIMETER"
    if max(x, y) >= 2**32:  # the tags are ratios of 32-bit integers
        return None, None
    return (x, y), "NONE"


def _imagej_description(volume: Volume, axes: str, notes: str, form: str) -> dict[str, Any]:
    """The items of ImageJ's description; in a plain TIFF tifffile writes the same ones as JSON."""
    metadata: dict[str, Any] = {"axes": axes, NOTES_KEY: notes}
    dz, _, dx = _steps(volume)
    if dx is not None:
        metadata |= {"unit": "um"} | ({"spacing": dz} if dz is not None and "Z" in volume.axes else {})
    interval = finite(volume.metadata.get("time_interval"))
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
        metadata["Labels"] = names * (volume.planes * sizes.get("T", 1))
    if isinstance(volume.metadata.get("info"), str):
        metadata["Info"] = _printable(volume.metadata["info"])
    return metadata | _imagej_display(volume)


def _imagej_display(volume: Volume) -> dict[str, Any]:
    """Labels of the planes, ranges, colour tables and properties, and the meaning of integer intensities."""
    fitting, _ = plain_metadata(volume)
    found: dict[str, Any] = {}
    if fitting.get("labels"):
        found["Labels"] = [_printable(str(label)) for label in fitting["labels"]]
    ranges = fitting.get("display_ranges")
    if ranges:
        found |= {"min": float(ranges[0][0]), "max": float(ranges[0][1])}
        found["Ranges"] = tuple(float(end) for pair in ranges for end in pair)
    if fitting.get("luts"):
        found["LUTs"] = [np.asarray(table, np.uint8) for table in fitting["luts"]]
    if isinstance(fitting.get("properties"), dict):
        found["Properties"] = {str(key): _printable(str(value)) for key, value in fitting["properties"].items()}
    known = fitting.get("calibration")
    if known and volume.dtype.name in CALIBRATED_DTYPES:
        found |= {"cf": known["function"], "vunit": _printable(str(known["unit"]))}
        found |= {f"c{number}": value for number, value in enumerate(known["coefficients"])}
    return found


def _ome_description(volume: Volume, axes: str, notes: str, _form: str) -> dict[str, Any]:
    """The items of tifffile's OME-XML."""
    metadata: dict[str, Any] = {"axes": axes, "MapAnnotation": {NOTES_KEY: notes}}
    for letter, step in zip("ZYX", _steps(volume), strict=True):
        if letter in volume.axes and step is not None:
            metadata |= {f"PhysicalSize{letter}": step, f"PhysicalSize{letter}Unit": "\u00b5m"}
    interval = finite(volume.metadata.get("time_interval"))
    if interval:
        metadata |= {"TimeIncrement": interval, "TimeIncrementUnit": "s"}
    channels = _ome_channels(volume)
    if channels:
        metadata["Channel"] = channels
    fitting, _ = plain_metadata(volume)
    planes = _ome_planes(fitting.get("planes", {}))
    if planes:
        metadata["Plane"] = planes
    for key, item in (("description", "Description"), ("name", "Name"), ("acquisition_date", "AcquisitionDate")):
        if isinstance(fitting.get(key), str):
            metadata[item] = _printable(fitting[key])
    return metadata


def _ome_channels(volume: Volume) -> dict[str, list[Any]]:
    """Names, colours and wavelengths of the channels."""
    fitting, _ = plain_metadata(volume)
    count = dict(zip(volume.axes, volume.shape, strict=True)).get("C", 1)
    found: dict[str, list[Any]] = {}
    names = _channel_names(volume, count)
    if names:
        found["Name"] = names
    if fitting.get("channel_colors"):
        found["Color"] = fitting["channel_colors"]
    for kind in ("Emission", "Excitation"):
        waves = fitting.get(f"{kind.lower()}_wavelengths")
        if waves:
            found |= {f"{kind}Wavelength": waves, f"{kind}WavelengthUnit": [wave and "nm" for wave in waves]}
    return found


def _ome_planes(planes: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Positions in micrometres and times in seconds of the planes."""
    found: dict[str, list[Any]] = {}
    for names, unit in ((PLANE_LENGTHS, "\u00b5m"), (PLANE_TIMES, "s")):
        for name in names:
            if name in planes:
                values = planes[name]
                found |= {name: values, f"{name}Unit": [None if value is None else unit for value in values]}
    return found


def _channel_names(volume: Volume, channels: int) -> list[str]:
    """The names of the channels if there is one for each, else none."""
    names = volume.metadata.get("channel_names")
    if not isinstance(names, list | tuple) or len(names) != channels:
        return []
    return [_printable(str(name)) for name in names]


def _printable(text: str) -> str:
    """Text without the control characters that XML and ImageJ do not take."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
