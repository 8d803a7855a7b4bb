"""Read and write volumes.

`tensorcell.files.table` holds one line for each format and says what each keeps; everything else asks that table.

A file that is damaged or cut off is an error, never a partly empty array: TIFF files are checked directory
by directory and strip by strip against the length of the file before anything is decoded, HDF5 files for
chunks that were never written. An output appears whole or not at all, and one run at a time makes it.
"""

from tensorcell.files.casting import Cast, cast
from tensorcell.files.held_outputs import claimed
from tensorcell.files.lazy_reading import open_volume
from tensorcell.files.paths import check_writable, same_file, split_path
from tensorcell.files.reading import read, read_mask
from tensorcell.files.staging import check_outputs, rehearse, staged
from tensorcell.files.table import is_readable, readable_formats, suffix_of, writable_suffixes
from tensorcell.files.tile_writing import TileSpec, tile_writer
from tensorcell.files.tiles import TileWriter
from tensorcell.files.whole_files import write_whole
from tensorcell.files.writing import Written, write

__all__ = [
    "Cast",
    "TileSpec",
    "TileWriter",
    "Written",
    "cast",
    "check_outputs",
    "check_writable",
    "claimed",
    "is_readable",
    "open_volume",
    "read",
    "read_mask",
    "readable_formats",
    "rehearse",
    "same_file",
    "split_path",
    "staged",
    "suffix_of",
    "tile_writer",
    "writable_suffixes",
    "write",
    "write_whole",
]
