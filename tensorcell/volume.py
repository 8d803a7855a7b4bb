"""A measured volume: intensities, the names of the axes, the voxel size, the mask and further metadata.

Everything in the user's layer takes and returns a `Volume`. The recovery works on 3-D stacks (Z, Y, X): `stacks` splits
a volume into one stack per channel and time frame, and `zyx_view` finds the same stack in an output array. A single
plane, and each of a series of them, is a stack of one plane there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorcell.errors import InputError
from tensorcell.given import given
from tensorcell.plain_arrays import array_and_mask, without_masked_arrays
from tensorcell.volume_checks import (
    check_axes,
    check_data,
    check_mask,
    check_spacing,
    described,
    guess_axes,
    pixel_size_of,
)
from tensorcell.volume_parts import part_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Index = tuple[int | slice, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Volume:
    """A microscopy volume with its axes, voxel size, mask and metadata.

    NumPy takes a volume for the array of its intensities (``np.asarray``, ``np.max``, ``plt.imshow`` ...), without its
    mask. ``volume[3]`` and ``volume[:, ::2, ::2]`` are volumes with the axes that remain and their voxel size. Two
    volumes are equal (``==``) only if they are the same object; ``np.array_equal`` compares their intensities.

    Parameters
    ----------
    data : numpy.ndarray
        Intensities in the caller's unit: integers of any size, float16/32/64 or bool (each computation converts them to
        float), with the axes in any order. NaN means not measured. The array is not copied. The mask of a
        `numpy.ma.MaskedArray`, where True means not measured, is inverted and joined with ``mask``.
    axes : str
        One upper-case letter for each axis of ``data``, each at most once; Y and X are always among them, and Z unless
        the data are single planes. C is the channel and T is time. Like these, other letters are further axes whose
        indices have a stack each.
    spacing : (float, float, float) or None
        Voxel size (dz, dy, dx) in micrometres, in this order whatever the order of ``axes``; None if it is unknown.
        For single planes (dy, dx) is enough; dz says nothing there and is set to dy.
    mask : numpy.ndarray of bool or None
        Shape of ``data``, True = measured; None if everything was measured. Masked entries are not measured.
    metadata : mapping of str
        What else is known: ``channel_names``, ``time_interval`` (seconds), ``source``, ``format`` and so on.

    Raises
    ------
    InputError
        If the parts do not fit together; the message says what was expected and what was given.

    Examples
    --------
    >>> volume = Volume(np.zeros((5, 64, 64), np.uint16), spacing=(0.5, 0.1, 0.1))
    >>> volume
    Volume(5 x 64 x 64 ZYX, uint16, 0.5 x 0.1 x 0.1 um)
    >>> volume[::2, 10:40], volume[0]
    (Volume(3 x 30 x 64 ZYX, uint16, 1 x 0.1 x 0.1 um), Volume(64 x 64 YX, uint16, 0.1 x 0.1 um))
    >>> np.asarray(volume).shape, len(volume)
    ((5, 64, 64), 5)
    """

    data: np.ndarray
    axes: str = "ZYX"
    spacing: tuple[float, float, float] | None = None
    mask: np.ndarray | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_data(self.data)
        if isinstance(self.data, np.ma.MaskedArray) or isinstance(self.mask, np.ma.MaskedArray):
            data, mask = without_masked_arrays(self.data, self.mask)
            object.__setattr__(self, "data", data)
            object.__setattr__(self, "mask", mask)
        check_axes(self.axes, self.data.shape)
        object.__setattr__(self, "spacing", check_spacing(self.spacing, self.axes))
        if self.mask is not None:
            check_mask(self.mask, self.data.shape)
        if not isinstance(self.metadata, Mapping):
            raise InputError(f"metadata must be a mapping, got {type(self.metadata).__name__}")

    @staticmethod
    def from_array(
        data: Any,
        axes: str | None = None,
        spacing: Sequence[float] | None = None,
        mask: Any = None,
    ) -> Volume:
        """Make a volume from an array, or a volume with other axes, another spacing or a further mask.

        Parameters
        ----------
        data : array_like or Volume
            An array of any library, in memory or not, a list of planes, an image of bioio, an Image layer of napari,
            a tensor of TensorLy, a `LazyVolume`, or the result of `recover` (its volume). Names of dimensions and
            coordinates of xarray become axes and voxel size (`tensorcell.given`). With ``axes=None`` an array
            without such names is a plane ``YX`` if it has two axes, a stack ``ZYX`` if it has three; more axes need
            ``axes``. The mask of a `numpy.ma.MaskedArray`, or of several in a list, where True means not measured, is
            inverted and kept.
        axes, spacing
            As in `Volume`. None keeps those of a given volume.
        mask : array_like of bool or integers, or None
            Shape of ``data``, nonzero = measured, masked = not measured. It is combined by AND with the mask that
            ``data`` has.

        Returns
        -------
        Volume
            It shares memory with ``data`` if that is an array.

        Raises
        ------
        InputError
            If ``data`` holds no planes (if it has fewer than two axes, looks like an RGB photo, is empty, or holds
            complex numbers, text or objects), if four or more axes have no names, or if a part does not fit.

        Examples
        --------
        >>> Volume.from_array(np.zeros((2, 5, 8, 8), np.float32), axes="TZYX")
        Volume(2 x 5 x 8 x 8 TZYX, float32, spacing unknown)
        """
        data = as_volume(data)
        if isinstance(data, Volume):
            volume = data
            if axes is not None:
                volume = dataclasses.replace(volume, axes=axes)
        else:
            known = given(data, axes, sized=spacing is not None)
            array, own_mask = array_and_mask(known.values, "data")
            check_data(array)
            volume = Volume(array, known.axes or guess_axes(array), known.spacing, own_mask, known.metadata)
        if spacing is not None:
            volume = dataclasses.replace(volume, spacing=check_spacing(spacing, volume.axes))
        if mask is not None:
            array, valid = mask_like(volume, mask)
            if array.dtype.kind not in "bui":
                raise InputError(f"mask must be bool or integer (nonzero = measured), got {array.dtype}")
            array = array.astype(bool, copy=False)
            if valid is not None:
                array = array & valid
            check_mask(array, volume.shape)
            joined = array if volume.mask is None else array & volume.mask
            volume = dataclasses.replace(volume, mask=joined)
        return volume

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``data``, in the order of ``axes``."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """Number of voxels."""
        return self.data.size

    @property
    def planes(self) -> int:
        """Number of planes of each stack; 1 where there is no axis Z.

        >>> Volume(np.zeros((3, 64, 64)), axes="TYX").planes
        1
        """
        return self.shape[self.axes.index("Z")] if "Z" in self.axes else 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of ``data``."""
        return self.data.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The intensities, as ``np.asarray(volume)`` and ``np.array(volume)`` ask for them; the mask is left out."""
        return np.array(self.data, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Any]:
        return (self[place] for place in range(len(self)))

    def __contains__(self, value: Any) -> bool:
        return value in self.data

    def __getitem__(self, key: Any) -> Any:
        """A part of the volume, which shares its memory.

        Parameters
        ----------
        key : int, slice, Ellipsis, or a tuple of these
            An integer leaves its axis out; a step multiplies the voxel size. The mask, the names of channels and the
            time between frames follow.
        key : anything else that NumPy takes
            Such as a bool array, None or a list of indices.

        Returns
        -------
        Volume, or an array or number
            A volume if its axes hold Y and X and it is not empty. Otherwise what NumPy gives.
        """
        return part_of(self, key)

    def plot(
        self, plane: int | None = None, row: int | None = None, column: int | None = None, *, stack: int = 0
    ) -> tuple[Axes, ...]:
        """Draw slices of one stack, the central ones by default, with a scale bar where the voxel size is known.

        Parameters
        ----------
        plane, row, column : int, optional
            Where the slices xy, xz and yz lie along z, y and x; negative ones count from the end.
        stack : int
            Which of several channels and frames is drawn, in the order of `stacks`.

        Returns
        -------
        tuple of matplotlib Axes
            Those of xy, yz and xz; of a single plane, that of xy alone. ``plt.show()`` shows them, where the screen is
            not a notebook, and ``plt.savefig`` saves them.

        Examples
        --------
        >>> axes = Volume(np.random.default_rng(0).random((5, 64, 64)), spacing=(0.5, 0.1, 0.1)).plot()
        >>> [ax.get_title() for ax in axes]
        ['xy at z = 2', 'yz at x = 32', 'xz at y = 32']
        """
        from tensorcell.pages.previews import draw_slices

        return draw_slices(shown_stack(self, stack), (plane, row, column))

    def to_xarray(self, dims: Sequence[str] | None = None) -> Any:
        """The volume as `xarray.DataArray`, with coordinates in micrometres where the voxel size is known.

        Parameters
        ----------
        dims : sequence of str, optional
            Names of the dimensions; by default the letters of ``axes`` in lower case.

        Returns
        -------
        xarray.DataArray
            It shares memory with ``data``, unless there is a mask: what was not measured is NaN there. ``attrs`` holds
            the metadata. `recover`, `diagnose`, `plan` and `write` take it back.

        Raises
        ------
        InputError
            If xarray is not installed, or ``dims`` do not fit.

        Examples
        --------
        >>> array = Volume(np.zeros((3, 4, 5)), spacing=(0.5, 0.1, 0.1)).to_xarray()
        >>> array.dims, array.z.values.tolist(), array.z.attrs["units"]
        (('z', 'y', 'x'), [0.0, 0.5, 1.0], 'um')
        """
        from tensorcell.labelled import to_xarray

        return to_xarray(self, dims)

    def __repr__(self) -> str:
        return f"Volume({described(self.shape, self.axes, self.dtype, self.spacing, masked=self.mask is not None)})"

    def _repr_html_(self) -> str:
        """What notebooks show: the central slices of the first stack, and the line of `repr`."""
        from tensorcell.pages.previews import with_slices

        return with_slices(repr(self), shown_stack(self, 0))


def shown_stack(volume: Volume, number: int) -> ShownStack:
    """What is drawn of a volume: the stack of that number.

    Raises
    ------
    InputError
        If there is no such stack.
    """
    places = list(stack_places(volume.axes, volume.shape))
    if not isinstance(number, Integral) or not -len(places) <= number < len(places):
        raise InputError(f"expected a stack from 0 to {len(places) - 1}, got {number!r}")
    where, label = places[number]
    mask = None if volume.mask is None else zyx_view(volume.mask, volume.axes, where)
    pixels, spacing = pixel_size_of(volume), volume.spacing
    if spacing is None and pixels is not None and volume.planes == 1:
        spacing = (pixels[0], *pixels)
    return ShownStack(zyx_view(volume.data, volume.axes, where), mask, spacing, label)


class ShownStack(NamedTuple):
    """A stack as pictures show it."""

    data: np.ndarray
    """Intensities (Z, Y, X)."""
    mask: np.ndarray | None
    """True = measured, of the same shape; None if everything was measured."""
    spacing: tuple[float, float, float] | None
    """(dz, dy, dx) in micrometres."""
    label: str


class Stack(NamedTuple):
    """One 3-D stack of a volume: a channel of a time frame."""

    where: Index
    """Its index in the volume, in the order of the axes: integers, and whole slices at Z, Y and X."""
    label: str
    """For messages, such as ``"T=0, C=1"``; empty where the volume has no outer axes."""
    data: np.ndarray
    """Intensities: a view of shape (Z, Y, X)."""
    mask: np.ndarray | None
    """True = measured: a view of shape (Z, Y, X), or None if everything was measured."""


def stacks(volume: Volume) -> Iterator[Stack]:
    """Split a volume into its 3-D stacks, one for each channel, time frame and index of a further axis.

    The stacks are views: nothing is copied. `zyx_view` gives the place of a result in an array that has the volume's
    axes; its Z, Y and X may have other lengths than the volume's.

    Examples
    --------
    >>> volume = Volume(np.arange(24.0).reshape(2, 3, 2, 2), axes="ZCYX")
    >>> out = np.empty(volume.shape)
    >>> for stack in stacks(volume):
    ...     print(stack.label, stack.data.shape)
    ...     zyx_view(out, volume.axes, stack.where)[...] = 2 * stack.data
    C=0 (2, 2, 2)
    C=1 (2, 2, 2)
    C=2 (2, 2, 2)
    >>> bool((out == 2 * volume.data).all())
    True
    """
    for where, label in stack_places(volume.axes, volume.shape):
        mask = None if volume.mask is None else zyx_view(volume.mask, volume.axes, where)
        yield Stack(where, label, zyx_view(volume.data, volume.axes, where), mask)


def stack_places(axes: str, shape: tuple[int, ...]) -> Iterator[tuple[Index, str]]:
    """Index and label of each stack of a volume with these axes (see `Stack`).

    >>> list(stack_places("YXC", (5, 7, 2)))[1]
    ((slice(None, None, None), slice(None, None, None), 1), 'C=1')
    """
    outer = [letter for letter in axes if letter not in "ZYX"]
    for position in np.ndindex(*(shape[axes.index(letter)] for letter in outer)):
        indices = dict(zip(outer, position, strict=True))
        label = ", ".join(f"{letter}={i}" for letter, i in indices.items())
        yield tuple(indices.get(letter, slice(None)) for letter in axes), label


def zyx_view(array: np.ndarray, axes: str, where: Index) -> np.ndarray:
    """View of shape (Z, Y, X) of the stack whose index is ``where``, in an array with the given axes (see `stacks`).

    >>> zyx_view(np.zeros((5, 7, 2)), "YXC", (slice(None), slice(None), 0)).shape
    (1, 5, 7)
    """
    inner = [letter for letter in axes if letter in "ZYX"]
    view = array[where].transpose([inner.index(letter) for letter in "ZYX" if letter in inner])
    return view if "Z" in inner else view[np.newaxis]


def as_volume(value: Any) -> Any:
    """The volume that stands behind a `LazyVolume`, a result of `recover`, or a list of planes; else the value."""
    if all(hasattr(value, name) for name in ("volume", "uncertainty", "measured")):
        return recovered_volume(value)
    if hasattr(value, "part") and hasattr(value, "axes"):
        return value.part([slice(None)] * len(value.shape))
    if isinstance(value, list | tuple) and value and all(isinstance(part, Volume) for part in value):
        return stacked(value)
    return value


def recovered_volume(result: Any) -> Volume:
    """The volume of a result of `recover`, with a note on what was filled in it."""
    volume: Volume = result.volume
    filled = 1 - float(result.measured.mean())
    if not filled:
        return volume
    note = f"{filled:.1%} of these voxels were filled by a recovery and count as measured"
    return dataclasses.replace(volume, metadata={**volume.metadata, "notes": [note]})


def stacked(planes: Sequence[Volume]) -> Volume:
    """Single planes as a stack; the step along z is not known.

    >>> stacked([Volume(np.zeros((4, 5)), "YX", (0.2, 0.1))] * 3).metadata["pixel_size"]
    (0.2, 0.1)
    """
    first = planes[0]
    if any((one.shape, one.axes, one.spacing) != (first.shape, first.axes, first.spacing) for one in planes):
        raise InputError("data is a list of volumes that differ in shape, axes or voxel size, expected planes alike")
    if "Z" in first.axes:
        raise InputError(f"data is a list of {len(planes)} volumes ({first.axes}), expected one, or planes of a stack")
    pixels = pixel_size_of(first)
    mask = None
    if any(one.mask is not None for one in planes):
        mask = np.stack([np.ones(one.shape, bool) if one.mask is None else one.mask for one in planes])
    metadata = {**first.metadata, **({} if pixels is None else {"pixel_size": pixels})}
    return Volume(np.stack([one.data for one in planes]), f"Z{first.axes}", None, mask, metadata)


def mask_like(volume: Volume, mask: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """A mask, with its axes in the order of the volume's where both have names, and where its entries are valid."""
    known = given(as_volume(mask), None, sized=True)
    array, valid = array_and_mask(known.values, "mask")
    names = mask.axes if isinstance(mask, Volume) else known.axes
    if names is not None and names != volume.axes and sorted(names) == sorted(volume.axes):
        order = [names.index(letter) for letter in volume.axes]
        array, valid = array.transpose(order), None if valid is None else valid.transpose(order)
    return array, valid
