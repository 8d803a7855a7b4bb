"""The files that a recovery in parts writes: hidden until all of them are finished."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.casting import cast
from tensorcell.files.messages import naming, reason
from tensorcell.files.table import suffix_of
from tensorcell.files.temporary import OLD, place_of, remove, temporary_name
from tensorcell.files.tile_writing import TileSpec, tile_writer
from tensorcell.files.tiles import TileWriter
from tensorcell.files.whole_files import Move
from tensorcell.large.journal import KEPT, read_journal, unfinished_name
from tensorcell.volume import Index

OWNER = ".owner"
"""How the hidden file ends that names the OUT of the run to which a further output belongs."""


@dataclass
class Output:
    """One file.

    Attributes
    ----------
    path : Path
        As the user gave it.
    spec : TileSpec
        What was asked for.
    floats : bool
        Whether the file holds floats though integers were asked for: they have no NaN. The values are rounded all the
        same, so that it makes no difference when the first NaN comes.
    """

    path: Path
    spec: TileSpec
    floats: bool = False
    writer: TileWriter | None = field(default=None, repr=False)

    @property
    def part(self) -> Path:
        """The hidden name under which it is written."""
        return hidden_name(self.path, floats=self.floats)

    @property
    def stored(self) -> TileSpec:
        """What the file holds."""
        if not self.floats:
            return self.spec
        return self.spec._replace(dtype=np.promote_types(self.spec.dtype, np.float32))

    def open(self, *, resume: bool) -> None:
        """Begin the file, or go on with it.

        Raises
        ------
        InputError
            If it cannot be written; or if there is nothing to go on with.
        """
        if not resume:
            remove(self.part)
        elif not self.part.exists():
            raise InputError(
                f"{self.path}: expected what an earlier run wrote of it in {self.part.name}, got no such file; "
                "resume=False (--no-resume) begins anew"
            )
        self.writer = tile_writer(self.part, self.path, self.stored, resume=resume)

    def lacks(self, values: np.ndarray) -> bool:
        """Whether there are NaN among the values that the file cannot hold."""
        return np.dtype(self.stored.dtype).kind in "iu" and bool(np.isnan(values).any())

    def become_floats(self, written: Iterable[Index]) -> None:
        """Go on as a file of floats, into which the tiles are copied that were written; that of integers stays."""
        integers = self.writer
        assert integers is not None
        self.floats = True
        try:
            self.open(resume=False)
            for where in written:
                self.write(where, integers.read(where))
            self.flush()
        except BaseException:
            self.close()
            remove(self.part)
            self.floats, self.writer = False, integers
            raise
        integers.close()

    def write(self, where: tuple[int | slice, ...], values: np.ndarray) -> tuple[int, int]:
        """Write a part of it; how many voxels were rounded and clipped on the way to its data type."""
        assert self.writer is not None
        nowhere = np.isnan(values) if self.floats else None
        found = cast(values if nowhere is None else np.where(nowhere, 0, values), self.spec.dtype)
        data = found.data
        if nowhere is not None:
            data = data.astype(self.stored.dtype)
            data[nowhere] = np.nan
        with naming(self.path), _in_one_line():
            self.writer.write(where, data)
        return found.rounded, found.clipped

    def flush(self) -> None:
        """Have the disk hold what was written."""
        assert self.writer is not None
        with naming(self.path), _in_one_line():
            self.writer.flush()

    def complete(self) -> Any:
        """Finish the file under its hidden name."""
        assert self.writer is not None
        with naming(self.path), _in_one_line():
            return self.writer.complete()

    def close(self) -> None:
        """Close the file without finishing it."""
        if self.writer is not None:
            self.writer.close()


def hidden_name(path: Path, *, floats: bool) -> Path:
    """The name under which an output is written: another one if it holds floats in place of integers."""
    return unfinished_name(path, f"{'.floats' if floats else ''}{suffix_of(path)}")


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot be written: {reason(error)}") from error


def owner_of(path: Path) -> Path | None:
    """The OUT of the unfinished run that writes this file, which may be that OUT itself; None if there is none."""
    place = place_of(path)
    if unfinished_name(place, ".journal").exists():
        return place
    try:
        owner = Path(unfinished_name(place, OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return owner if place in outputs_named(owner) else None


def outputs_named(target: Path) -> list[Path]:
    """The outputs that the journal of an unfinished run on ``target`` names; none where it cannot be read."""
    with contextlib.suppress(InputError, AttributeError, KeyError, TypeError, ValueError):
        named = read_journal(unfinished_name(target, ".journal")).job["outputs"]
        return [place_of(path) for path, *_ in named.values()]
    return []


def check_owners(target: Path, others: Iterable[Path]) -> None:
    """Raise `InputError` if one of the outputs belongs to an unfinished run on another OUT."""
    for path in (target, *others):
        owner = owner_of(path)
        if owner not in (None, place_of(target)):
            raise InputError(
                f"{path}: belongs to the run on {owner}, which was stopped; go on with that (--resume), discard it "
                "(--no-resume), or name another file"
            )


def mark_owned(target: Path, others: Iterable[Path]) -> None:
    """Write down beside the other outputs of a run that they belong to that on ``target``."""
    for path in others:
        with naming(path), _in_one_line():
            unfinished_name(path, OWNER).write_text(str(place_of(target)), encoding="utf-8")


def discard(target: Path, others: Iterable[Path] = ()) -> None:
    """Remove what runs on ``target`` left that were stopped: of these outputs, and of those that the journal names."""
    for path in dict.fromkeys(map(place_of, (target, *others, *outputs_named(target)))):
        if owner_of(path) in (None, place_of(target)):
            for floats in (False, True):
                remove(hidden_name(path, floats=floats))
            remove(unfinished_name(path, OWNER))
            remove(unfinished_name(path, KEPT))
    remove(unfinished_name(target, ".journal"))


def put_in_place(parts: Mapping[Path, Path]) -> None:
    """Give finished files their names, all or none; ``parts`` holds their hidden names by their paths."""
    moves = [
        Move(place_of(path), part, temporary_name(path, OLD), place_of(path).exists()) for path, part in parts.items()
    ]
    try:
        for move in moves:
            with naming(move.target), _in_one_line():
                move.make(keep_old=len(moves) > 1)
    except BaseException:
        if any(move.part.exists() for move in moves):
            for move in moves:
                _take_back(move)
        raise
    for move in moves:
        remove(move.old)


def _take_back(move: Move) -> None:
    """Give a finished file its hidden name again, and what lay in its place before its own."""
    with contextlib.suppress(OSError):  # what lay there before then stays beside it under its second name
        if not move.part.exists() and (move.old.exists() or not move.existed):
            os.replace(move.target, move.part)
        if move.old.exists() and move.target.exists():
            move.old.unlink()  # a second name of what was not replaced yet
        elif move.old.exists():
            os.replace(move.old, move.target)
