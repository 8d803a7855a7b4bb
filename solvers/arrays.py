"""Array dispatch: which namespace, which dtype, and the only crossings between device and host.

Everything in :mod:`tensorcell.solvers` is written against the array API standard and runs on NumPy and
CuPy arrays (and on any strict implementation of the standard, which is how the tests prove it).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import array_api_compat
import array_api_compat.numpy
import numpy as np
import numpy.typing as npt

Array = Any
"""A NumPy, CuPy or other array of the array API standard."""


_NUMPY_ARRAYS = {np.ndarray}


def namespace_of(*arrays: Array | None) -> ModuleType:
    """Namespace shared by all arrays (``None`` is skipped), found without importing CuPy.

    Raises
    ------
    TypeError
        If an argument is not an array, or two arrays belong to different libraries.

    Examples
    --------
    >>> import numpy as np
    >>> namespace_of(np.ones(3), None).__name__
    'array_api_compat.numpy'
    """
    given = [array for array in arrays if array is not None]
    if {*map(type, given)} == _NUMPY_ARRAYS:  # at once, since arrays of all functions come here
        return array_api_compat.numpy
    for array in given:
        if not array_api_compat.is_array_api_obj(array):
            raise TypeError(f"expected NumPy or CuPy arrays, got {type(array).__name__}")
    try:
        return array_api_compat.array_namespace(*given)
    except TypeError:
        kinds = sorted({type(array).__module__.split(".")[0] for array in given})
        raise TypeError(f"expected arrays of one library, got {' and '.join(kinds)}") from None


def is_numpy(xp: ModuleType) -> bool:
    """Whether the namespace is NumPy's, so that Numba kernels may be used."""
    return array_api_compat.is_numpy_namespace(xp)


def is_cupy(xp: ModuleType) -> bool:
    """Whether the namespace is CuPy's, so that CUDA kernels may be used."""
    return array_api_compat.is_cupy_namespace(xp)


def to_host(array: Array) -> npt.NDArray[Any]:
    """NumPy array with the same content; copies from a device, not from host memory."""
    if isinstance(array, np.ndarray):
        return array
    if array_api_compat.is_cupy_array(array):
        return np.asarray(array.get())
    return np.asarray(array)


def from_host(array: npt.ArrayLike, like: Array) -> Array:
    """The host array in the namespace and on the device of ``like``."""
    xp = namespace_of(like)
    return xp.asarray(np.asarray(array), device=array_api_compat.device(like))


def scalar(value: Array) -> float:
    """A zero-dimensional array as a Python float (a synchronisation on a device)."""
    return float(value)


def as_float(array: Array) -> Array:
    """The array as float32 or float64: these two are kept (no copy), all other real types become float64.

    Raises
    ------
    TypeError
        For complex, object or text arrays.
    """
    xp = namespace_of(array)
    if array.dtype in (xp.float32, xp.float64):
        return array
    if not (xp.isdtype(array.dtype, "real floating") or xp.isdtype(array.dtype, ("bool", "integral"))):
        raise TypeError(f"expected real numbers, got dtype {array.dtype}")
    return xp.astype(array, xp.float64)


def within_mask(values: Array, mask: Array) -> Array:
    """The values where the mask (of the same shape) is True, 0 elsewhere, in C order; float32 or float64.

    ``where`` would branch at each entry, which takes NumPy ten times as long where the mask is scattered.

    >>> within_mask(np.array([1.0, np.nan]), np.array([True, False]))
    array([1., 0.])
    """
    xp = namespace_of(values, mask)
    if not is_numpy(xp):
        return xp.where(mask, values, xp.zeros_like(values))
    bits = np.dtype(f"i{values.dtype.itemsize}")
    kept = np.negative(mask.astype(bits, order="C"))  # all bits are 1 where the mask is True
    kept &= values.view(bits)
    return kept.view(values.dtype)


def entries(values: Array, mask: Array) -> Array:
    """``values[mask]``, for a mask of the same shape; without branches, as in :func:`within_mask`.

    >>> entries(np.array([1.0, 2.0, 3.0]), np.array([True, False, True]))
    array([1., 3.])
    """
    if not is_numpy(namespace_of(values, mask)):
        return values[mask]
    return values.ravel().take(np.flatnonzero(mask))


def ndimage(name: str, array: Array, *arguments: Any, **options: Any) -> Array:
    """A filter of ``scipy.ndimage``, computed where the array lies.

    Examples
    --------
    >>> ndimage("maximum_filter", np.array([0, 1, 0, 0, 0]), 3)
    array([1, 1, 1, 0, 0])
    """
    return _from_scipy("ndimage", name, array, *arguments, **options)


def fft(name: str, array: Array, *arguments: Any, **options: Any) -> Array:
    """A transform of ``scipy.fft``, computed where the array lies, in its precision.

    Examples
    --------
    >>> fft("dctn", np.ones((2, 2)), norm="ortho")
    array([[2., 0.],
           [0., 0.]])
    """
    return _from_scipy("fft", name, array, *arguments, **options)


def _from_scipy(module: str, name: str, array: Array, *arguments: Any, **options: Any) -> Array:
    """A function of SciPy. CuPy's arrays are handed to its namesake in ``cupyx.scipy``; further arrays among the
    arguments lie where the first one does. Arrays of other libraries go through the host.
    """
    if is_cupy(namespace_of(array)):
        return getattr(importlib.import_module(f"cupyx.scipy.{module}"), name)(array, *arguments, **options)
    found = getattr(importlib.import_module(f"scipy.{module}"), name)(to_host(array), *arguments, **options)
    return from_host(found, array)


def interpolated(places: Array, at: npt.ArrayLike, values: npt.ArrayLike) -> Array:
    """The piecewise linear function through ``values`` at the ascending numbers ``at``, constant beyond its ends.

    Examples
    --------
    >>> interpolated(np.array([0.5, 3.0]), [0, 1], [10.0, 20.0])
    array([15., 20.])
    """
    at, values = np.asarray(at, np.float64), np.asarray(values, np.float64)
    xp = namespace_of(places)
    if is_cupy(xp):
        return xp.interp(contiguous(places), from_host(at, places), from_host(values, places))
    return from_host(np.interp(to_host(places), at, values), places)


def interpolation_at(
    places: Array, low: float, high: float, count: int
) -> Callable[[Sequence[float] | npt.NDArray[np.floating[Any]]], Array]:
    """A function that interpolates ``count`` values, which stand at even distances from ``low`` to ``high``.

    It is constant beyond these ends, NaN at NaN, and its results have the dtype of the places. It is some four times as
    fast as :func:`interpolated`, which looks for each place, and ten times where several functions are interpolated.

    Examples
    --------
    >>> interpolation_at(np.array([-1.0, 0.5, 3.0]), 0.0, 2.0, 3)([10.0, 20.0, 40.0])
    array([10., 15., 40.])
    """
    xp, last = namespace_of(places), count - 1
    way = clip((places - low) * (last / (high - low) if last else 0.0), 0.0, float(last))
    left = xp.astype(xp.where(xp.isnan(way), xp.zeros_like(way), way), xp.int32)  # NaN has no place, and stays NaN
    way, left = way - xp.astype(left, places.dtype), xp.reshape(left, (-1,))

    def at(values: Sequence[float] | npt.NDArray[np.floating[Any]]) -> Array:
        below = np.asarray(values, np.float64)
        steps = np.append(np.diff(below), 0.0)  # nothing lies beyond the last one
        start, rise = (
            xp.reshape(xp.take(xp.astype(from_host(each, places), places.dtype), left), places.shape)
            for each in (below, steps)
        )
        return start + way * rise

    return at


def clip(array: Array, lower: float | None, upper: float | None) -> Array:
    """``min(max(array, lower), upper)``; on CuPy its own function, which needs no masks and no synchronisation."""
    xp = namespace_of(array)
    if is_cupy(xp):
        from cupy import clip as cupy_clip

        return cupy_clip(array, lower, upper)
    return xp.clip(array, lower, upper)


def chunk_elements(xp: ModuleType) -> int:
    """Entries to handle at a time: few on the host, so that freed chunks stay small; many on a GPU."""
    return 1 << 25 if is_cupy(xp) else 1 << 18


def count(mask: Array) -> int:
    """Number of True entries."""
    xp = namespace_of(mask)
    if is_numpy(xp) or is_cupy(xp):
        return int(xp.count_nonzero(mask))
    return int(xp.sum(xp.astype(mask, xp.int64)))


def order_statistics(values: Array, places: Sequence[int]) -> list[float]:
    """What would stand at these places of a 1-D array if it were sorted, as Python floats (NaN counts as largest)."""
    xp = namespace_of(values)
    ordered = xp.partition(values, places) if is_numpy(xp) or is_cupy(xp) else xp.sort(values)
    return [scalar(ordered[place]) for place in places]


def scatter(size: int, positions: Array, values: Array) -> Array:
    """One-dimensional array of zeros with ``values`` at ``positions``."""
    xp = namespace_of(values)
    if is_numpy(xp) or is_cupy(xp):
        dense = xp.zeros((size,), dtype=values.dtype)
        dense[positions] = values
        return dense
    host = np.zeros(size, dtype=to_host(values).dtype)  # the standard has no scatter
    host[to_host(positions)] = to_host(values)
    return from_host(host, values)


def contiguous(array: Array) -> Array:
    """The array in C order, so that planes are views (a copy only where it is not in C order)."""
    flags = getattr(array, "flags", None)
    if flags is None or flags["C_CONTIGUOUS"]:
        return array
    return namespace_of(array).asarray(array, order="C", copy=True)


def as_double(array: Array) -> Array:
    """The array as float64 (no copy when it is float64 already)."""
    xp = namespace_of(array)
    return xp.astype(array, xp.float64, copy=False)
