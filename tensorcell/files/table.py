"""The table of file formats: one line for each.

What each format keeps:

================  ===================================  =====================================
suffix            holds                                does not hold
================  ===================================  =====================================
.tif .tiff        axes, voxel size, metadata           the mask
.ome.tif(f)       the same, axes among T, C, Z, Y, X   the mask; int64, uint64, float16
.h5 .hdf5         everything
.ims              (read only) axes, voxel size
.xml              (read only) BigDataViewer: the same
.npz              everything
.npy              the array                            axes, voxel size, metadata, the mask
.zarr             everything, axes among T, C, Z, Y,
                  X, as a folder
.nii(.gz) .nrrd   (read only) axes, voxel size
.nd2 .lif .czi    (read only) axes, voxel size
.oir .oib ...     (read only) axes, voxel size
.mrc .st .rec     the array of one stack, voxel size   metadata, the mask; other axes
================  ===================================  =====================================

A ``.tif`` is an ImageJ hyperstack where ImageJ has the data type (uint8, uint16, int16, float32): Fiji opens
it with its axes and voxel size. Other types are not converted: int8, int32, uint32, float64 and bool,
and volumes of 4 GB and more, become OME-TIFF inside, which Fiji opens through Bio-Formats; int64, uint64 and
float16, which neither has, become a plain TIFF whose description holds the axes as JSON. A format stores the
axes in the order that it wants; they come back in the order in which they were written. What ImageJ and OME have a
place for is written there, too: labels, display ranges, colour tables and a calibration of intensities in ImageJ TIFF;
name, date of acquisition, colours and wavelengths of channels, positions and times of planes in OME-TIFF.

``pyramid`` says which have smaller levels of the image for viewers: OME-TIFF if they are asked for, OME-Zarr always.

``open`` says of which formats parts can be read (`open_volume`), ``tiles`` which can be written in parts
(`tile_writer`).

Every question about a format goes to the functions of this module. The modules of the formats load
tifffile, h5py, zarr and mrcfile when they are first used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tensorcell.errors import InputError
from tensorcell.files.bioio_read import read_bioio
from tensorcell.files.formats import AS_USUAL, Format, Variant, Way, Writer
from tensorcell.files.hdf5_read import open_hdf5, read_hdf5
from tensorcell.files.hdf5_write import HDF5_TILES, write_hdf5
from tensorcell.files.medical_read import read_nifti, read_nrrd
from tensorcell.files.mrc_read import open_mrc, read_mrc
from tensorcell.files.mrc_write import AXES as MRC_AXES
from tensorcell.files.mrc_write import DTYPES as MRC_DTYPES
from tensorcell.files.mrc_write import write_mrc
from tensorcell.files.numpy_files import NPY_TILES, open_npy, read_npy, read_npz, write_npy, write_npz
from tensorcell.files.tiff_pyramid import PYRAMID_TILES, write_pyramid
from tensorcell.files.tiff_read import open_tiff, read_tiff
from tensorcell.files.tiff_write import OME_AXES, OME_DTYPES, OME_TIFF_TILES, TIFF_TILES, write_ome_tiff, write_tiff
from tensorcell.files.zarr_read import MARKS, open_zarr, read_zarr
from tensorcell.files.zarr_write import AS_NEWEST, AS_VERSION, AXES

FORMATS: tuple[Format, ...] = (
    Format(
        "TIFF",
        (".tif", ".tiff"),
        read_tiff,
        write_tiff,
        has_series=True,
        open=open_tiff,
        tiles=TIFF_TILES,
        pyramid=Way(write_pyramid, PYRAMID_TILES),
    ),
    Format(
        "OME-TIFF",
        (".ome.tif", ".ome.tiff"),
        read_tiff,
        write_ome_tiff,
        dtypes=OME_DTYPES,
        axes=OME_AXES,
        has_series=True,
        open=open_tiff,
        tiles=OME_TIFF_TILES,
        pyramid=Way(write_pyramid, PYRAMID_TILES),
    ),
    Format(
        "HDF5",
        (".h5", ".hdf5"),
        read_hdf5,
        write_hdf5,
        holds="tree",
        complete=True,
        has_series=True,
        open=open_hdf5,
        tiles=HDF5_TILES,
    ),
    Format("Imaris", (".ims",), read_hdf5, holds="tree", open=open_hdf5),
    Format("BigDataViewer XML", (".xml",), read_hdf5, has_series=True, open=open_hdf5),
    Format(".npy", (".npy",), read_npy, write_npy, open=open_npy, tiles=NPY_TILES),
    Format(".npz", (".npz",), read_npz, write_npz, holds="several", complete=True),
    Format(
        "OME-Zarr",
        (".zarr",),
        read_zarr,
        AS_NEWEST.write,
        holds="tree",
        axes=AXES,
        has_series=True,
        complete=True,
        folder_marks=MARKS,
        open=open_zarr,
        tiles=AS_NEWEST.tiles,
        pyramid=AS_NEWEST,
        versions=AS_VERSION,
    ),
    Format("MRC", (".mrc", ".st", ".rec"), read_mrc, write_mrc, dtypes=MRC_DTYPES, axes=MRC_AXES, open=open_mrc),
    Format("NIfTI", (".nii", ".nii.gz"), read_nifti),
    Format("NRRD", (".nrrd",), read_nrrd),
    Format("ND2", (".nd2",), read_bioio, has_series=True),
    Format("LIF", (".lif",), read_bioio, has_series=True),
    Format("CZI", (".czi",), read_bioio, has_series=True),
    Format("OIR", (".oir", ".oib", ".oif", ".vsi"), read_bioio, has_series=True),
)


def format_of(path: Path) -> Format:
    """The format by the suffix; an `InputError` that lists the known suffixes if there is none."""
    found = _find(path)
    if found is None:
        raise unknown_suffix(path, _suffixes(FORMATS))
    return found[0]


def is_readable(path: Path) -> bool:
    """Whether a path has the suffix of a format in the table."""
    return _find(path) is not None


def is_folder_format(path: Path) -> bool:
    """Whether the name is that of a volume that is stored as a folder."""
    found = _find(path)
    return found is not None and found[0].is_folder


def writable_format_of(path: Path, wanted: Variant = AS_USUAL) -> tuple[Format, Writer]:
    """The format by the suffix as it is wanted, and its writer; an `InputError` if it cannot be written so."""
    found = _find(path)
    if found is None:
        raise unknown_suffix(path, writable_suffixes())
    one, suffix = found
    if one.write is None:
        names = ", ".join(writable_suffixes())
        raise InputError(f"{one.name} ({suffix}) can be read but not written, expected one of {names}")
    way: Way | None = None
    if wanted.pyramid:
        way = one.pyramid
        if way is None:
            names = _listed([each.suffixes[0] for each in FORMATS if each.pyramid is not None], "or")
            raise InputError(f"{one.name} ({suffix}) has no smaller levels of an image, expected {names} for a pyramid")
    if wanted.ngff is not None:
        way = one.versions.get(str(wanted.ngff))
        if way is None:
            said = [f"{each.suffixes[0]} as {_listed([*each.versions], 'or')}" for each in FORMATS if each.versions]
            raise InputError(f"{one.name} ({suffix}) has no NGFF {wanted.ngff}, expected {_listed(said, 'or')}")
    if way is None:
        return one, one.write
    return replace(one, write=way.write, tiles=way.tiles), way.write


def suffix_of(path: Path) -> str:
    """The suffix as it is spelt in the name: the longest one in the table, such as ``.ome.tif``, or any other.

    >>> suffix_of(Path("a.b.OME.tif")), suffix_of(Path("page.html"))
    ('.OME.tif', '.html')
    """
    found = _find(path)
    return path.suffix if found is None else path.name[-len(found[1]) :]


def writable_suffixes() -> tuple[str, ...]:
    """The suffixes of the formats that can be written."""
    return _suffixes(one for one in FORMATS if one.write is not None)


def tree_suffixes() -> tuple[str, ...]:
    """The suffixes after which a path inside the file, or a name in it, may follow a colon."""
    return _suffixes(one for one in FORMATS if one.holds != "one")


def names_with_datasets() -> str:
    """The names of the formats of which one file may hold several datasets, such as ``HDF5 and .npz``."""
    return _listed([one.name for one in FORMATS if one.holds != "one"], "and")


def names_with_series() -> str:
    """The names of the formats of which one file may hold several images."""
    return _listed([one.name for one in FORMATS if one.has_series], "and")


def tile_suffixes() -> str:
    """A suffix of each format that can be written tile by tile, such as ``.tif, .h5 or .zarr``."""
    return _listed([one.suffixes[0] for one in FORMATS if one.tiles is not None], "or")


def complete_suffixes() -> str:
    """A suffix of each writable format that keeps everything, such as ``.h5 or .npz``."""
    return _listed([one.suffixes[0] for one in FORMATS if one.complete and one.write is not None], "or")


def readable_formats() -> str:
    """The formats that can be read, for a help text, such as ``TIFF, HDF5 (file.h5:/path) or .npy``."""
    inside = {"one": "", "several": " (file{}:name)", "tree": " (file{}:/path)"}
    return _listed([one.name + inside[one.holds].format(one.suffixes[0]) for one in FORMATS], "or")


def unknown_suffix(path: Path, expected: Sequence[str]) -> InputError:
    """The error for a suffix that is none of those expected; the caller raises it."""
    got = f"the suffix {path.suffix!r} is unknown" if path.suffix else "the name has no suffix"
    return InputError(f"{got}, expected one of {', '.join(expected)}")


def _find(path: Path) -> tuple[Format, str] | None:
    """The format with the longest suffix that fits the name, and that suffix."""
    name = path.name.lower() if path.suffix else ""  # `.tif` alone is a hidden file without a suffix
    fitting = [(one, suffix) for one in FORMATS for suffix in one.suffixes if name.endswith(suffix)]
    return max(fitting, key=lambda pair: len(pair[1]), default=None)


def _suffixes(formats: Iterable[Format]) -> tuple[str, ...]:
    return tuple(suffix for one in formats for suffix in one.suffixes)


def _listed(words: Sequence[str], last: str) -> str:
    """Words in a sentence: ``a, b and c``."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
