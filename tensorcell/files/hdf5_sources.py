"""Where the values of an HDF5 dataset lie: in its own file, or in others, which must be there, whole and beside it.

HDF5 looks for other files in the working folder, too, and takes what is missing for zeros (or another fill value).
Here a name in a file means a file in its folder or below, wherever the program runs, and what is missing is an error.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorcell.errors import InputError

if TYPE_CHECKING:
    import h5py

MOST_HOPS = 16
"""The largest number of links, and of virtual datasets made of others, that are followed one after the other."""


def find(start: h5py.Group, path: str, hops: int = MOST_HOPS) -> h5py.Group | h5py.Dataset | None:
    """The group or dataset at a path, through links inside the file and to files beside it; None if there is none."""
    import h5py

    item = start.file["/"] if path.startswith("/") else start
    for part in path.split("/"):
        if part in ("", "."):
            continue
        link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
        if link is None:
            return None
        if hops == 0:
            raise InputError(f"{part!r} is the end of more than {MOST_HOPS} links that lead to each other")
        if isinstance(link, h5py.SoftLink):
            item = find(item, link.path, hops - 1)
        elif isinstance(link, h5py.ExternalLink):
            item = _through(item, part, link, hops - 1)
        else:
            item = _opened(item, part)
        if item is None:
            return None
    return item


def check_whole(stored: h5py.Dataset, size: Sequence[int] | None = None, hops: int = MOST_HOPS) -> None:
    """Raise `InputError` if parts of the dataset are not there: they would read as zeros.

    Parameters
    ----------
    stored : h5py.Dataset
    size : sequence of int, optional
        The part that is read, from the first value along each axis; None is all of it.
    hops : int
        How many virtual datasets may lie between this one and its values.
    """
    if stored.size in (None, 0):
        return
    if stored.is_virtual:
        _check_virtual(stored, hops)
    elif stored.external:
        _check_external(stored)
    elif stored.chunks is not None:
        _check_chunks(stored, tuple(size or stored.shape))
    elif stored.id.get_storage_size() == 0:
        raise InputError(f"is incomplete: {stored.name} was never written")


def files_of_values(stored: h5py.Dataset) -> Iterator[Path]:
    """The file of a dataset of which nothing is missing, and those in which its values lie."""
    import h5py

    yield Path(stored.file.filename).resolve()
    use = f"values of {stored.name} lie"
    if stored.external:
        yield from (other_file(stored, name, use) for name, _, _ in stored.external)
    if not stored.is_virtual:
        return
    sources = (
        (file_name, each.dset_name.replace("%%", "%"))
        for each in stored.virtual_sources()
        for file_name in file_names(stored, each)
    )
    for file_name, name in dict.fromkeys(sources):
        if file_name == ".":
            yield from files_of_values(find(stored.file, name))
            continue
        with h5py.File(other_file(stored, file_name, use), "r") as file:
            yield from files_of_values(find(file, name))


def other_file(of: h5py.Group | h5py.Dataset, name: str, use: str) -> Path:
    """The file that a name inside an HDF5 file means; an `InputError` unless it lies in that one's folder or below.

    Parameters
    ----------
    of : h5py.Group or h5py.Dataset
        In the file that holds the name.
    name : str
        The path as stored. Of one that begins at the root and does not exist, the last part is looked for, as HDF5
        does it: the folder may have been moved.
    use : str
        What lies there, for the message, such as ``values of /raw lie``.
    """
    folder = Path(of.file.filename).resolve().parent
    file = folder / name
    if Path(name).is_absolute() and not file.exists():
        file = folder / file.name
    if not file.is_file():
        raise InputError(f"{use} in {name!r}, which is missing in its folder")
    if folder not in file.resolve().parents:
        raise InputError(f"{use} in {name!r}, outside of its folder; expected a file in the same folder or below")
    return file.resolve()


def _opened(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """A member of a group; files with the values of a dataset are looked for in its folder."""
    import h5py

    item = group[name]
    if not isinstance(item, h5py.Dataset) or not item.external:
        return item
    del item  # a dataset that is open keeps its folder
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_efile_prefix(os.fsencode(Path(group.file.filename).resolve().parent))
    return h5py.Dataset(h5py.h5d.open(group.id, name.encode(), access))


def _through(group: h5py.Group, name: str, link: h5py.ExternalLink, hops: int) -> h5py.Group | h5py.Dataset | None:
    """What an external link leads to, and that every further link on the way stays in the folder."""
    import h5py

    other = other_file(group, link.filename, f"{name!r} is a link to {link.path}")
    with h5py.File(other, "r") as file:
        if find(file, link.path, hops) is None:
            return None
    return group[name]


def _check_chunks(stored: h5py.Dataset, size: tuple[int, ...]) -> None:
    """Raise `InputError` if a chunk of the part that is read was never written."""
    pairs = zip(size, stored.chunks, strict=True)
    wanted = math.prod(-(-length // chunk) for length, chunk in pairs)
    there = stored.id.get_num_chunks()
    if there >= wanted and size != stored.shape:
        offsets = (stored.id.get_chunk_info(number).chunk_offset for number in range(there))
        there = sum(all(o < n for o, n in zip(offset, size, strict=True)) for offset in offsets)
    if there < wanted:
        raise InputError(f"is incomplete: {wanted - there} of {wanted} chunks of {stored.name} were never written")


def _check_virtual(stored: h5py.Dataset, hops: int) -> None:
    """Raise `InputError` unless every voxel of a virtual dataset has a source, and the sources are whole."""
    import h5py

    if hops == 0:
        raise InputError(f"{stored.name} is made of more than {MOST_HOPS} virtual datasets that lead to each other")
    covered = 0
    ends: dict[tuple[str, str], tuple[int, ...]] = {}
    blocks: dict[str, int] = {}
    for source in stored.virtual_sources():
        end, dataset = _end(source.src_space), source.dset_name.replace("%%", "%")
        names = file_names(stored, source)
        if _is_numbered(source.dset_name):
            raise InputError(f"values of {stored.name} lie in the numbered {source.dset_name!r}, expected one by name")
        if _is_numbered(source.file_name):
            blocks |= dict.fromkeys(names, _voxels_of_block(source.vspace))
        covered += _voxels(source.vspace, stored.size)
        for name in names:
            ends[name, dataset] = tuple(map(max, end, ends.get((name, dataset)) or end))
    if covered < stored.size:
        raise InputError(
            f"is incomplete: {stored.size - covered} of {stored.size} voxels of {stored.name} have no source"
        )
    for (file_name, dataset), end in ends.items():
        if file_name == ".":
            _check_source(stored, stored.file, dataset, end, hops)
            continue
        with h5py.File(other_file(stored, file_name, f"values of {stored.name} lie"), "r") as file:
            _check_source(stored, file, dataset, end, hops)
            size, wanted = file[dataset].size, blocks.get(file_name)
            if wanted is not None and not end and size != wanted:  # HDF5 does not look, and reads beyond the end
                use = f"values of {stored.name} lie in {file_name!r}"
                raise InputError(f"{use}, where {dataset!r} has {size} voxels, expected {wanted}")


def _is_numbered(name: str) -> bool:
    """Whether the name of a source holds the number of a block: ``%b``."""
    return "%b" in name.replace("%%", "")


def file_names(stored: h5py.Dataset, source: Any) -> list[str]:
    """The files of a source of a virtual dataset, of which there are several where its name holds a number."""
    if _is_numbered(source.file_name):
        return numbered_files(stored, source)
    return [source.file_name.replace("%%", "%")]


def numbered_files(stored: h5py.Dataset, source: Any = None) -> list[str]:
    """The names of the numbered files that a virtual dataset is made of; none if they have no numbers.

    HDF5 makes the dataset as long as there are files, from 0 on, so that it ends where one is missing.

    Raises
    ------
    InputError
        If there is a file of a greater number.
    """
    if source is None:
        every = stored.virtual_sources() if stored.is_virtual else []
        return [name for one in every if _is_numbered(one.file_name) for name in numbered_files(stored, one)]
    start, stride, _, block = source.vspace.get_regular_hyperslab()
    axis = stored.maxshape.index(None)
    count = (stored.shape[axis] - start[axis] - block[axis]) // stride[axis] + 1
    before, after = (part.replace("\0", "%") for part in source.file_name.replace("%%", "\0").split("%b", 1))
    names = [f"{before}{number}{after}" for number in range(count)]
    folder = (Path(stored.file.filename).resolve().parent / f"{before}{count}{after}").parent
    pattern = re.compile(f"{re.escape(Path(before + '0').name[:-1])}(\\d+){re.escape(after)}")
    matches = (pattern.fullmatch(path.name) for path in folder.glob("*"))
    later = [match[0] for match in matches if match and int(match[1]) >= count]
    if later:
        raise InputError(
            f"is incomplete: {before}{count}{after} is missing, and {later[0]} is there: {stored.name} ends before it"
        )
    return names


def _voxels_of_block(space: Any) -> int:
    """Voxels of a target for each number of its source."""
    import h5py

    _, _, counts, block = space.get_regular_hyperslab()
    return math.prod([*block, *(count for count in counts if count != h5py.h5s.UNLIMITED)])


def _check_source(stored: h5py.Dataset, file: h5py.File, name: str, end: tuple[int, ...], hops: int) -> None:
    """Raise `InputError` unless the source of a virtual dataset is there and as large as the part that is taken."""
    import h5py

    use, source = f"values of {stored.name} lie in {Path(file.filename).name!r}", find(file, name)
    if not isinstance(source, h5py.Dataset):
        raise InputError(f"{use}, which has no dataset {name!r}")
    if source.external:
        raise InputError(f"{use}, where those of {name!r} lie in further files; expected them in one")
    if end and (source.ndim != len(end) or any(a < b for a, b in zip(source.shape, end, strict=True))):
        raise InputError(f"{use}, where {name!r} has shape {source.shape}, expected at least {end}")
    check_whole(source, hops=hops - 1)


def _voxels(space: Any, every: int) -> int:
    """The number of voxels of a selection; ``every`` if it goes as far as its source does."""
    try:
        return int(space.get_select_npoints())
    except RuntimeError:
        return every


def _end(space: Any) -> tuple[int, ...]:
    """Where a selection ends along each axis; empty if it is all of the source: HDF5 compares that with the target."""
    try:
        return tuple(int(last) + 1 for last in space.get_select_bounds()[1])
    except (ValueError, RuntimeError):
        return ()


def _check_external(stored: h5py.Dataset) -> None:
    """Raise `InputError` unless the files with the values of a dataset are there and long enough."""
    rest = stored.size * stored.dtype.itemsize
    for name, offset, length in stored.external:
        taken = min(rest, length)
        there = other_file(stored, name, f"values of {stored.name} lie").stat().st_size - offset
        if there < taken:
            raise InputError(f"is incomplete: {name!r} holds {max(there, 0)} of {taken} bytes of {stored.name}")
        rest -= taken
    if rest:
        raise InputError(f"is incomplete: {rest} bytes of {stored.name} are in none of its files")
