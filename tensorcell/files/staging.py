"""Several outputs that appear all or not at all, and the checks of them before the work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tensorcell.errors import InputError
from tensorcell.files.messages import naming, not_written
from tensorcell.files.paths import check_writable, lies_inside, same_file, split_path
from tensorcell.files.table import suffix_of
from tensorcell.files.temporary import remove
from tensorcell.files.whole_files import Move
from tensorcell.files.writing import write
from tensorcell.volume import Volume


def check_outputs(
    inputs: Mapping[str, str | None],
    outputs: Mapping[str, str | None],
    suffixes: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Refuse outputs that cannot be written, or that would replace an input or each other, before any work.

    Parameters
    ----------
    inputs, outputs : mapping of str
        Paths by the names that the user knows, such as ``--mask``; None where none is given.
    suffixes : mapping of str, optional
        For outputs that are no volumes: the suffixes allowed, as `check_writable` takes them.

    Raises
    ------
    InputError
        In one line that starts with the path of the output.
    """
    earlier = [(name, path) for name, path in inputs.items() if path is not None]
    for name, path in outputs.items():
        if path is None:
            continue
        for other, used in earlier:
            if same_file(path, used):
                raise InputError(f"{path}: expected another file for {name} than for {other}, got the same")
            for inner, outer in ((path, used), (used, path)):
                if lies_inside(inner, outer):
                    raise InputError(f"{path}: expected a place beside {other}, got {inner} inside of {outer}")
        check_writable(path, (suffixes or {}).get(name))
        earlier.append((name, path))


def rehearse(path: str, small: Volume, dtype: Any = None, **options: Any) -> None:
    """Write a small volume of the kind that is to come, so that what the format refuses is said before the work.

    Parameters
    ----------
    path : str
        The output, which stays as it is: the trial has another name and is removed.
    small : Volume
        A few voxels, with the axes and the data type of the volume that is to come.
    dtype, **options
        As in `write`.
    """
    trial = _Output.of(path).move.part
    try:
        write(trial, small, dtype=dtype, **options)
    except InputError as error:
        raise InputError(str(error).replace(str(trial), path)) from None
    finally:
        remove(trial)


@contextmanager
def staged(outputs: Sequence[str]) -> Iterator[dict[str, str]]:
    """Temporary names beside the outputs; at the end all of them become the outputs, on any exception none.

    Outputs that existed before come back as they were if a later one cannot be put in its place. Messages name the
    output, not the temporary name.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with staged([f"{folder}/a.txt", f"{folder}/b.txt"]) as names:
    ...     for name in names.values():
    ...         done = pathlib.Path(name).write_text("whole")
    >>> sorted(path.name for path in folder.iterdir())
    ['a.txt', 'b.txt']
    """
    every = [_Output.of(path) for path in outputs]
    begun: list[Move] = []
    try:
        for output in every:
            output.prepare()
        yield {output.path: output.name for output in every}
        for output in every:
            begun.append(output.move)
            output.put_in_place(keep_old=len(every) > 1)
    except BaseException as error:
        for move in begun:
            move.undo()
        if isinstance(error, InputError):
            message = str(error)
            for output in every:
                message = message.replace(output.name, output.path)
            raise InputError(message) from None
        raise
    else:
        for move in begun:
            remove(move.old)
    finally:
        for output in every:
            remove(output.move.part)


@dataclass(frozen=True)
class _Output:
    """An output and its temporary name."""

    path: str
    """As the user gave it, with the path inside the file."""
    name: str
    """As `write` is to be called: the temporary name, with the path inside the file."""
    extends: bool
    """Whether a path inside the file is given, so that what else the file holds is kept."""
    move: Move

    @staticmethod
    def of(path: str) -> _Output:
        file, inside = split_path(path)
        move = Move.to(file, suffix_of(file))  # the suffix says the format
        name = str(move.part) if inside is None else f"{move.part}:{inside}"
        return _Output(path, name, inside is not None, move)

    def prepare(self) -> None:
        if self.extends:
            with self._naming():
                self.move.copy_target()

    def put_in_place(self, *, keep_old: bool) -> None:
        with self._naming():
            self.move.make(keep_old=keep_old)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        with naming(self.path):
            try:
                yield
            except OSError as error:
                raise InputError(not_written(error)) from None
