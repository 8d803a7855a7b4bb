"""Paths of inputs and outputs: the path inside a file, and whether a path can be read from or written to."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tensorcell.errors import InputError
from tensorcell.files.formats import FilePath, Format
from tensorcell.files.messages import naming, reason
from tensorcell.files.table import is_folder_format, tree_suffixes, unknown_suffix, writable_format_of
from tensorcell.files.temporary import remove, temporary_name


def split_path(path: FilePath) -> tuple[Path, str | None]:
    """The file and the path inside it: ``scan.h5:/raw`` is (scan.h5, raw), anything else is (path, None).

    >>> split_path("scan.h5:/group/raw")[1], split_path("scan.npz:raw")[1]
    ('group/raw', 'raw')
    """
    text = os.fspath(path)
    if not text:
        raise InputError("expected a path, got an empty text")
    suffixes = "|".join(map(re.escape, tree_suffixes()))
    match = re.fullmatch(f"(.+(?:{suffixes})):(.*)", text, flags=re.IGNORECASE | re.DOTALL)
    if match is None:
        return Path(text), None
    return Path(match[1]), match[2].strip("/") or None


def same_file(first: FilePath, second: FilePath) -> bool:
    """Whether two paths mean the same file, through links too; the path inside a file does not count.

    >>> same_file("scan.h5:/raw", "./scan.h5:/recovered")
    True
    """
    one, other = split_path(first)[0], split_path(second)[0]
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them does not exist yet
        return os.path.realpath(one) == os.path.realpath(other)


def lies_inside(inner: FilePath, outer: FilePath) -> bool:
    """Whether a path lies inside of a volume that is a folder, or will be one.

    >>> lies_inside("scan.zarr/recovered.zarr", "./scan.zarr:/raw"), lies_inside("planes/recovered.tif", "planes")
    (True, False)
    """
    one, other = (Path(os.path.realpath(split_path(path)[0])) for path in (inner, outer))
    return other in one.parents and is_folder_format(other)


def check_writable(path: FilePath, suffixes: Sequence[str] | None = None) -> None:
    """Raise `InputError` if ``path`` cannot become an output; call it before long work.

    Parameters
    ----------
    path : path
        The output; ``file.h5:/group/data`` too.
    suffixes : sequence of str, optional
        The suffixes allowed, such as ``[".png", ".html"]``; None means those of the formats that `write` knows.

    Raises
    ------
    InputError
        If the suffix is unknown or of a format that can only be read, if a name in an ``.npz`` follows a colon (it can
        be read, not written), if the path is a folder or a write-protected file, or if its folder does not exist or
        takes no new file (tried with a temporary one, which is removed).
        Where the format is a folder: if a file or a folder of something else lies there.
    """
    file, inside = split_path(path)
    with naming(path):
        if suffixes is None:
            form = writable_format_of(file)[0]
            check_inside(form, inside)
            check_target(file, form)
            return
        if file.suffix.lower() not in suffixes:
            raise unknown_suffix(file, suffixes)
        check_target(file)


def check_inside(form: Format, inside: str | None) -> None:
    """Raise `InputError` if a path inside the output is given, and the format has no place for several volumes."""
    if inside is not None and form.holds != "tree":
        raise InputError(f"{form.name} is written with one volume, expected a path without {inside!r} (or write .h5)")


def check_target(file: Path, form: Format | None = None) -> None:
    """Raise `InputError` unless an output of that format, or a file if None, can be put there."""
    trial = None
    try:
        if form is not None and form.is_folder:
            _check_folder_target(file, form)
        elif file.is_dir():
            raise InputError("is a folder, expected a file name")
        elif file.exists() and not file.is_file():
            raise InputError("is no regular file, expected a file name")
        folder = Path(os.path.realpath(file)).parent
        if not folder.is_dir():
            raise InputError(f"the folder {folder} does not exist")
        if file.exists() and not os.access(file, os.W_OK):
            raise InputError("is write-protected")
        trial = temporary_name(file)
        with trial.open("xb"):
            pass
    except OSError as error:  # also a name that is too long
        raise InputError(f"cannot be written: {reason(error)}") from error
    finally:
        if trial is not None:
            remove(trial)


def check_source(file: Path, form: Format) -> None:
    """Raise `InputError` unless a file that is not empty, or a folder where the format is one, lies there."""
    if not file.exists():
        raise InputError(f"no such {'folder' if form.is_folder else 'file'}")
    if form.is_folder:
        if not file.is_dir():
            raise InputError("is a file, expected a folder")
        return
    if file.is_dir():
        raise InputError("is a folder, expected a file")
    if not file.is_file():
        raise InputError("is no regular file")
    if file.stat().st_size == 0:
        raise InputError("is empty (0 bytes)")


def _check_folder_target(folder: Path, form: Format) -> None:
    """Raise `InputError` if something lies there that must not be replaced by a folder of that format."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"is a file, expected a new name or a folder of {form.name}")
    if any(folder.iterdir()) and not any((folder / mark).exists() for mark in form.folder_marks):
        raise InputError(f"is a folder without {' or '.join(form.folder_marks)}, expected a new name")
