"""Values of any library as plain NumPy arrays, and where the entries of masked arrays are valid."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.given import on_host, plain_parts
from tensorcell.volume_checks import check_mask


def as_array(value: Any, name: str) -> np.ndarray:
    """The value as a NumPy array; an array is not copied, unless it lies on a GPU (of CuPy, torch and others)."""
    value = plain_parts(on_host(value))
    if isinstance(value, str | os.PathLike):
        raise InputError(f"{name} is the path {str(value)!r}, expected an array; use tensorcell.read")
    if isinstance(value, list | tuple) and value and isinstance(value[0], str | os.PathLike):
        raise InputError(
            f"{name} is a list of paths, the first {str(value[0])!r}, expected arrays; use tensorcell.read"
        )
    try:
        array = np.asarray(value)
    except MemoryError:
        sizes = " x ".join(map(str, value.shape))
        raise InputError(f"{name} of {sizes} values does not fit into memory; use tensorcell.recover_file") from None
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name} of type {type(value).__name__} is not an array: {reason}") from error
    if array.dtype == object and array.ndim == 0:
        raise InputError(f"{name} is of type {type(value).__name__}, expected an array")
    return array


def array_and_mask(value: Any, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The value as a plain array, and where its entries are valid; None where it is not, nor holds, a masked array.

    >>> planes = [np.ma.masked_equal([[1, 2]], 2), np.array([[3, 4]])]
    >>> array_and_mask(planes, "data")[1].tolist()
    [[[True, False]], [[True, True]]]
    """
    if not holds_masked_array(value):
        return as_array(value, name), None
    if isinstance(value, np.ma.MaskedArray):
        return np.ma.getdata(value), ~np.ma.getmaskarray(value)
    parts = [array_and_mask(part, name) for part in value]
    whole = [np.ones(np.shape(array), bool) if valid is None else valid for array, valid in parts]
    return as_array([array for array, _ in parts], name), as_array(whole, f"mask of {name}")


def holds_masked_array(value: Any) -> bool:
    """Whether this is a masked array, or a list or tuple with one in it."""
    if isinstance(value, list | tuple):
        return any(holds_masked_array(part) for part in value)
    return isinstance(value, np.ma.MaskedArray)


def without_masked_arrays(data: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Plain data and mask, True = measured: neither entry may be masked, and the mask must be True."""
    plain, valid = array_and_mask(data, "data")
    if mask is None:
        return plain, valid
    given, known = array_and_mask(mask, "mask")
    check_mask(given, plain.shape)
    for part in (valid, known):
        if part is not None:
            given = given & part
    return plain, given
