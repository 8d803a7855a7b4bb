"""Outputs that one run holds for itself: a second run on one of them is refused, and what killed runs left is removed.

A run that is killed cannot remove its unfinished files. They bear the name of the output in their own, so that the next
run on that output finds them; a lock, which the system takes from a process that ends in any way, says that no other
run is making them at that moment.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tensorcell.errors import InputError
from tensorcell.files.formats import FilePath
from tensorcell.files.temporary import OLD, mark_of, place_of, remove


@contextmanager
def claimed(outputs: Sequence[FilePath], timeout: float = 0) -> Iterator[None]:
    """Hold outputs for this run until the end; unfinished files that killed runs left of them are removed.

    Parameters
    ----------
    outputs : sequence of paths
        Files or folders, without a path inside a file.
    timeout : float
        Seconds for which to wait for another run to end.

    Raises
    ------
    InputError
        If another run holds one of them.

    Examples
    --------
    >>> import tempfile
    >>> output = Path(tempfile.mkdtemp()) / "out.tif"
    >>> with claimed([output]):
    ...     with claimed([output]):
    ...         pass
    Traceback (most recent call last):
    ...
    tensorcell.errors.InputError: ...out.tif: another run is writing it; wait for it, or name another output
    """
    with ExitStack() as held:
        for path in dict.fromkeys(map(place_of, outputs)):
            held.enter_context(_lock(path, timeout))
            _remove_leftovers(path)
        yield


@contextmanager
def _lock(path: Path, timeout: float) -> Iterator[None]:
    """The lock of an output; where the file system has none, or no file can be made, nothing is locked."""
    from filelock import FileLock, Timeout

    if not path.parent.is_dir():
        yield
        return
    file = path.with_name(f"{mark_of(path)}lock")
    lock = FileLock(file, timeout=timeout)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{path}: another run is writing it; wait for it, or name another output") from None
    except (OSError, NotImplementedError):  # whether the output can be written is said by those that write it
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # while it is held: who opens it now sees that its name is gone
            file.unlink()
        lock.release()


def _remove_leftovers(path: Path) -> None:
    """Remove what killed runs left of an output; what lay in its place before comes back where nothing does now."""
    with contextlib.suppress(OSError):
        found = [each for each in path.parent.glob(f"{mark_of(path)}*") if not each.name.endswith("lock")]
        for each in found:
            if each.name.endswith(OLD) and not path.exists():
                os.replace(each, path)
            else:
                remove(each)
