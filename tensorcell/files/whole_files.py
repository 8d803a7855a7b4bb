"""Outputs that appear whole or not at all: built under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tensorcell.errors import InputError
from tensorcell.files.formats import FilePath
from tensorcell.files.messages import naming, not_written
from tensorcell.files.temporary import OLD, place_of, remove, temporary_name


@dataclass(frozen=True)
class Move:
    """The move of a finished file or folder to its place, and back.

    What was done is read from the disk, not remembered, so that an interrupt at any point can be undone.
    """

    target: Path
    """The place of the output."""
    part: Path
    """The temporary name under which the output is built."""
    old: Path
    """A second name of what lay at the target before."""
    existed: bool
    """Whether the target existed before."""

    @staticmethod
    def to(path: Path, ending: str = ".part") -> Move:
        """The move to ``path`` of an output whose temporary name ends with ``ending``."""
        target = place_of(path)  # a link stays a link
        return Move(target, temporary_name(path, ending), temporary_name(path, OLD), target.exists())

    def copy_target(self) -> None:
        """Make the temporary output a copy of what lies at the target, to be extended."""
        if self.target.is_dir():
            shutil.copytree(self.target, self.part)
        elif self.target.exists():
            shutil.copyfile(self.target, self.part)

    def make(self, *, keep_old: bool = False) -> None:
        """Move the output to its place.

        With ``keep_old`` what lay there gets the second name. A folder gets it in any case, since a rename cannot
        replace a folder.
        """
        if self.target.exists():
            shutil.copymode(self.target, self.part)
            if keep_old or self.target.is_dir():
                _give_second_name(self.target, self.old)
        os.replace(self.part, self.target)

    def undo(self) -> None:
        """Put back what lay at the target before, or remove the output if nothing did."""
        with suppress(OSError):  # then what lay there before stays beside the target under its second name
            if not self.old.exists():
                if not self.existed and not self.part.exists():
                    remove(self.target)
            elif self.target.exists() and os.path.samefile(self.old, self.target):
                self.old.unlink()
            else:
                if self.target.is_dir():
                    os.replace(self.target, self.part)
                os.replace(self.old, self.target)


@contextmanager
def whole_file(path: Path, *, extend: bool = False) -> Iterator[Path]:
    """A temporary name beside ``path`` that becomes ``path`` at the end, or is removed on any exception.

    With ``extend`` it begins as a copy of what lies at ``path``.
    """
    move = Move.to(path)
    try:
        if extend:
            move.copy_target()
        yield move.part
        flush_folder(move.part)
        try:
            move.make()
        except BaseException:
            move.undo()
            raise
        remove(move.old)
    except OSError as error:
        raise InputError(not_written(error)) from error
    finally:
        remove(move.part)


def write_whole(path: FilePath, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    with naming(path), whole_file(Path(path)) as part:
        part.write_bytes(content)


def flush_folder(part: Path) -> None:
    """Have the system write a file, or every file of a folder, to the disk."""
    for each in [part] if part.is_file() else [one for one in part.rglob("*") if one.is_file()]:
        with each.open("rb+") as file:
            os.fsync(file.fileno())


def _give_second_name(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except OSError:  # a folder, or a disk without hard links
        os.replace(path, name)
