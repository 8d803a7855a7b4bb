"""The values in a file, of which parts are read when they are asked for, and what is known of a file before that.

What stands for values holds paths and places, never an open file, so that it can be sent to another process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files.claimed_sizes import check_claim
from tensorcell.files.layout import arrange, native
from tensorcell.files.messages import naming, reason
from tensorcell.files.units import Spacing
from tensorcell.lazy_volume import LazyVolume, resolved
from tensorcell.volume import Index, Volume
from tensorcell.volume_checks import check_kind, guess_axes

Box = tuple[slice, ...]
"""A slice with start, stop and step (of at least 1) for each axis; it takes something of each."""


class Values(ABC):
    """The values of an array in a file.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
        Data type of what is read; it is kept in the byte order of this machine.
    """

    files: Sequence[Path] = ()
    """The files and folders that hold the values."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape = tuple(int(size) for size in shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")

    @abstractmethod
    def read(self, box: Box) -> np.ndarray:
        """The values in a box, in memory of their own."""

    def whole(self) -> np.ndarray:
        """All values; an `InputError` if they do not fit into memory."""
        check_kind(self.shape, self.dtype)
        check_claim(self.shape, self.dtype)
        return self.read(whole_box(self.shape))


def whole_box(shape: tuple[int, ...]) -> Box:
    """The box that holds everything."""
    return tuple(slice(0, size, 1) for size in shape)


def length_of(taken: slice) -> int:
    """How many entries a slice of a `Box` takes."""
    return len(range(taken.start, taken.stop, taken.step))


class Held(Values):
    """Values that were read already, of these files."""

    def __init__(self, array: np.ndarray, files: Sequence[Path] = ()) -> None:
        super().__init__(array.shape, array.dtype)
        self.array, self.files = native(array), files

    def read(self, box: Box) -> np.ndarray:
        return self.array[box].copy()

    def whole(self) -> np.ndarray:
        return self.array


class Mapped(Values):
    """Values that lie in a file one after the other, as they are.

    Parameters
    ----------
    path : pathlib.Path
    offset : int
        Byte at which the first one lies.
    shape, dtype
        As stored.
    order : {"C", "F"}
        "F" if the first axis is the fastest.
    """

    def __init__(
        self, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"] = "C"
    ) -> None:
        super().__init__(shape, dtype)
        self.path, self.offset, self.stored, self.order = path, offset, dtype, order
        self.files = (path,)

    def read(self, box: Box) -> np.ndarray:
        mapped = np.memmap(self.path, self.stored, "r", self.offset, self.shape, self.order)
        return native(np.array(mapped[box]))


class Arranged(Values):
    """Values whose axes are put in another order, as `arrange` does it."""

    def __init__(self, values: Values, axes: str, wanted: str) -> None:
        sizes = dict(zip(axes, values.shape, strict=True))
        super().__init__(tuple(sizes.get(letter, 1) for letter in wanted), values.dtype)
        self.values, self.axes, self.wanted, self.files = values, axes, wanted, values.files

    def read(self, box: Box) -> np.ndarray:
        inner = tuple(box[self.wanted.index(letter)] for letter in self.axes)
        return arrange(self.values.read(inner), self.axes, self.wanted)

    def whole(self) -> np.ndarray:
        return arrange(self.values.whole(), self.axes, self.wanted)


def arranged(values: Values, axes: str, wanted: str) -> Values:
    """The values with their axes in the order ``wanted``."""
    return values if axes == wanted else Arranged(values, axes, wanted)


class Converted(Values):
    """Values of another data type, computed from each of those in a file by a function of a module."""

    def __init__(self, values: Values, dtype: Any, convert: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(values.shape, dtype)
        self.values, self.convert, self.files = values, convert, values.files

    def read(self, box: Box) -> np.ndarray:
        return self.convert(self.values.read(box))

    def whole(self) -> np.ndarray:
        return self.convert(self.values.whole())


class PlaneMask(Values):
    """Where an image was measured whose planes are there as a whole or not at all.

    Parameters
    ----------
    there : numpy.ndarray of bool
        For each plane, with the outer axes of the image.
    shape : tuple of int
        Of the image.
    """

    def __init__(self, there: np.ndarray, shape: tuple[int, ...]) -> None:
        super().__init__(shape, bool)
        self.there = there

    def read(self, box: Box) -> np.ndarray:
        inner = (1,) * (len(self.shape) - self.there.ndim)
        found = self.there[box[: self.there.ndim]]
        return np.broadcast_to(found.reshape(found.shape + inner), [length_of(taken) for taken in box]).copy()


def nonzero(values: Values) -> Values:
    """A mask from values that are not zero where something was measured."""
    return Converted(values, bool, as_bool)


def as_bool(array: np.ndarray) -> np.ndarray:
    """True where a value is not zero."""
    return array.astype(bool, copy=False)


class Opened(NamedTuple):
    """All that is known of a file before its values are read."""

    data: Values
    axes: str | None
    """None if neither the file nor the user says them."""
    spacing: Spacing | None
    metadata: Mapping[str, Any]
    mask: Values | None = None
    """True = measured."""

    def volume(self) -> Volume:
        """The volume, read as a whole."""
        axes = self.axes or guess_axes(self.data)
        data = self.data.whole()
        return Volume(data, axes, self.spacing, None if self.mask is None else self.mask.whole(), self.metadata)

    def lazily(self, path: str) -> LazyVolume:
        """The volume, of which parts are read; ``path`` begins the messages of errors."""
        check_kind(self.data.shape, self.data.dtype)
        mask = None if self.mask is None else FileArray(path, self.mask)
        axes = self.axes or guess_axes(self.data)
        return LazyVolume(FileArray(path, self.data), axes, self.spacing, mask, self.metadata)

    @staticmethod
    def of(volume: Volume) -> Opened:
        """A volume that was read."""
        mask = None if volume.mask is None else Held(volume.mask)
        return Opened(Held(volume.data), volume.axes, volume.spacing, volume.metadata, mask)


@dataclass(frozen=True, eq=False)
class FileArray:
    """Values as an array-like: an index of integers and slices gives a NumPy array, or an `InputError` in one line."""

    path: str
    """As the user gave it, for the messages."""
    values: Values

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self.values.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of what is read."""
        return self.values.dtype

    @property
    def files(self) -> Sequence[Path]:
        """The files and folders that hold the values."""
        return self.values.files

    def __getitem__(self, where: Index) -> np.ndarray:
        index = resolved(where, self.shape)
        box = tuple(each if isinstance(each, slice) else slice(each, each + 1, 1) for each in index)
        with naming(self.path), in_one_line():
            found = self.values.read(box)
        return found[tuple(slice(None) if isinstance(each, slice) else 0 for each in index)]


@contextmanager
def in_one_line() -> Iterator[None]:
    """Make an `InputError` of one line of whatever is raised while a file is read."""
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"does not fit into memory: {reason(error)}") from error
    except Exception as error:  # a damaged file can make its parser raise anything
        raise InputError(f"cannot be read: {reason(error)}") from error
