"""Read a volume or a mask from a file of any format in the table."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.formats import FilePath, Format, Wanted
from tensorcell.files.layout import arrange
from tensorcell.files.lazy_values import in_one_line
from tensorcell.files.messages import naming
from tensorcell.files.paths import check_source, split_path
from tensorcell.files.plane_files import files_of_folder, read_in_order
from tensorcell.files.table import format_of, is_readable, names_with_datasets, names_with_series
from tensorcell.files.units import notes_on_steps
from tensorcell.lazy_volume import LazyVolume
from tensorcell.volume import Volume
from tensorcell.volume_checks import Described


def read(
    path: FilePath | Sequence[FilePath],
    *,
    dataset: str | None = None,
    series: str | int | None = None,
    axes: str | None = None,
    missing_planes: bool = False,
) -> Volume:
    """Read a volume from a file, or a stack from several files with a plane in each.

    Parameters
    ----------
    path : path
        A file of a format in `tensorcell.files.table`; the path inside an HDF5 file or a zarr, or the name in an
        ``.npz``, may follow a colon, as in ``scan.h5:/group/raw`` and ``scan.npz:raw``. The file is never written to. A
        list of paths, or a folder of files of one kind in the order of the numbers in their names, are planes of one
        shape and data type, put together along Z.
    dataset : str, optional
        Path inside an HDF5 file or a zarr, or name inside an ``.npz``, where the file holds more than one volume.
    series : int or str, optional
        Number (from 0) or name of the image, where a file holds several images (of a BigDataViewer file, the setup); of
        an OME-Zarr with one image the number or path of the level.
    axes : str, optional
        Names of the axes, such as ``"TZYX"``, where the file does not name them or names them wrongly: one
        letter per axis of the array as it is read without ``axes`` (TIFF axes of length 1 do not count). Of several
        files the first letter is the axis along which they are put together: ``"TZYX"`` for files with a stack each.
    missing_planes : bool
        True takes planes that are in no file as not measured, and a note names them: of a set of OME-TIFF files that is
        incomplete, which is an error else, and of a folder whose numbers leave some out.

    Returns
    -------
    Volume
        ``data`` with the file's dtype and intensities, in the file's order of axes. ``spacing`` in micrometres where
        the file gives all three steps in a unit of length (ImageJ's calibration, OME's PhysicalSize, HDF5's
        ``element_size_um``, ilastik's resolutions, BigDataViewer's XML, Imaris' extents), else None. ``metadata`` holds
        ``source`` (the file's name), ``format`` and, where the file has them, ``channel_names``, ``time_interval``
        (seconds), ``description``, ``info``, ``series``, ``origin`` (centre of the first voxel along z, y and x in
        micrometres), ``omero`` (how OME-Zarr shows the channels), ``pixel_size`` (dy, dx in micrometres where the step
        along z is unknown), ``affine`` (3 x 4, of x, y and z: what a BigDataViewer XML says, which is not applied) and
        ``notes`` (sentences: which image of several was read, pages that were not, what is odd in a header, what was
        assumed or not kept); of TIFF files further ``name``, ``acquisition_date``, ``channel_colors``,
        ``emission_wavelengths`` and ``excitation_wavelengths`` (nanometres), ``planes`` (positions in micrometres and
        times in seconds, by plane in the order T, C, Z), ``labels``, ``display_ranges``, ``luts``, ``properties`` and
        ``calibration`` (ImageJ's, where it was not applied).

    Raises
    ------
    InputError
        In one line that starts with the path, if the file is missing, empty, damaged, truncated, no image, a single
        plane or a colour photo, if it holds more than one candidate, or if its axes have no names.

    Notes
    -----
    Of several images in a TIFF file a stack is read rather than a plane, and the largest one (the first, if several
    are equally large); then ``metadata["series"]`` says which one. Pages that may be further planes of the image, and
    that the file's metadata do not count or that differ in size or type, are an error unless ``series=`` is given;
    ``series="all pages"`` reads the pages of a TIFF file as they follow one another, whatever its metadata say.
    Signed 16-bit stacks of ImageJ, stored with an offset, come out as int16.

    HDF5 files may have values in other files of the same folder or below; names are never looked for in the working
    folder. Of a BigDataViewer file all frames are read at full resolution, and its setups as channels where they have
    one shape, voxel size, angle, tile and illumination. All but the values of an HDF5 file is read in a child process
    first, once for each file that this process has not written: where that crashes, or takes longer than a minute, the
    file is refused. This takes less than a second at the first file and a few milliseconds at others.

    A page axis without a name is Z. ImageJ leaves ``spacing=1`` out, so that a calibrated ImageJ file
    without it has a step of 1 in its unit. This is not assumed for files that other programs write in ImageJ's
    form.

    Examples
    --------
    >>> import tempfile
    >>> from tensorcell.files import write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/stack.tif"
    ...     done = write(path, Volume(np.ones((5, 8, 9), np.uint16), spacing=(0.5, 0.1, 0.1)))
    ...     read(path)
    Volume(5 x 8 x 9 ZYX, uint16, 0.5 x 0.1 x 0.1 um)
    """
    if not isinstance(path, str | os.PathLike):
        return read_in_order(path, lambda one: read(one, dataset=dataset, series=series), axes, missing_planes)
    file, inside = split_path(path)
    if is_folder_of_files(file):
        with naming(path):
            paths = files_of_folder(file)
        volume = read_in_order(paths, lambda one: read(one, dataset=dataset, series=series), axes, missing_planes)
        return dataclasses.replace(volume, metadata={**volume.metadata, "source": file.name})
    with naming(path), in_one_line():
        form, wanted = asked_of(file, inside, dataset, series, axes, missing_planes)
        volume = form.read(file, wanted)
    return dataclasses.replace(volume, metadata=completed(volume, file))


def read_mask(
    path: FilePath,
    *,
    dataset: str | None = None,
    series: str | int | None = None,
    axes: str | None = None,
    like: Described | None = None,
) -> np.ndarray:
    """Read a mask from a file of any format: nonzero = measured.

    Parameters
    ----------
    path, dataset, series, axes
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
    volume = read(path, dataset=dataset, series=series, axes=axes)
    mask = volume.mask
    with naming(path):
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
        mask = arrange(mask, volume.axes, like.axes)
        return np.broadcast_to(mask, like.shape).copy()


def is_folder_of_files(file: Path) -> bool:
    """Whether this is a folder that is no volume of a format by its name."""
    return os.path.isdir(file) and not is_readable(file)  # False for a name that is too long, too


def asked_of(
    file: Path,
    inside: str | None,
    dataset: str | None,
    series: str | int | None,
    axes: str | None,
    missing_planes: bool,
) -> tuple[Format, Wanted]:
    """The format of a file and what is wanted of it; an `InputError` if that does not fit, or if there is no file."""
    form = format_of(file)
    wanted = Wanted(_one_dataset(form, inside, dataset), _series(form, series), axes, missing_planes)
    check_source(file, form)
    return form, wanted


def completed(volume: Volume | LazyVolume, file: Path) -> dict[str, Any]:
    """The metadata of a volume with the name of its file, and a note where its voxel size is odd."""
    odd = [] if volume.spacing is None else notes_on_steps(dict(zip("ZYX", volume.spacing, strict=True)), volume.axes)
    noted = {"notes": [*volume.metadata.get("notes", ()), *odd]} if odd else {}
    return {**volume.metadata, **noted, "source": file.name}


def _one_dataset(form: Format, inside: str | None, dataset: str | None) -> str | None:
    """The path of the dataset inside the file, from the path or the argument."""
    wanted = None if dataset is None else dataset.strip("/") or None
    if wanted is not None and form.holds == "one":
        raise InputError(f"dataset= is for {names_with_datasets()} files, expected none here")
    if inside is not None and wanted is not None and inside != wanted:
        raise InputError(f"two datasets are named, {inside!r} in the path and dataset={dataset!r}; expected one")
    return inside or wanted


def _series(form: Format, series: str | int | None) -> str | int | None:
    """The image that is wanted, where the format may hold several."""
    if series is not None and not form.has_series:
        raise InputError(f"series= is for {names_with_series()} files, expected none here")
    return series
