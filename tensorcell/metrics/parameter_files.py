"""Files of published parameters that the caller has; nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from tensorcell.errors import InputError

PathLike = str | os.PathLike[str]


def existing_file(what: str, path: Any) -> Path:
    """The path of a file that exists; ``what`` names the argument in messages."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{what} is {path!r}, expected the path of a file")
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{what}: no file {file}; expected the published one, nothing is downloaded")
    return file


def named_arrays(path: Path, names: Sequence[Sequence[str]], expected: str) -> list[NDArray[Any]]:
    """One array of a ``.mat``, ``.npz`` or HDF5 file for each group of names that it may have.

    ``expected`` ends the messages where the file does not hold what is wanted.
    """
    try:
        stored = _stored_arrays(path)
    except Exception as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}), {expected}") from None
    arrays = []
    for group in names:
        array = next((stored[name] for name in group if name in stored), None)
        if array is None:
            raise InputError(f"{path} has no {group[0]}, {expected}")
        if array.dtype.kind not in "buif":
            raise InputError(f"{group[0]} in {path} has dtype {array.dtype}, {expected}")
        arrays.append(array)
    return arrays


def _stored_arrays(path: Path) -> dict[str, Any]:
    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            return {key: np.asarray(item) for key, item in file.items() if isinstance(item, h5py.Dataset)}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    return dict(scipy.io.loadmat(path))
