"""A value that stands for "not measured": padding, corners of mosaics, planes after a run that was stopped."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from tensorcell.arguments import is_number
from tensorcell.errors import InputError
from tensorcell.volume import Volume


def without_value(volume: Volume, missing_value: Any) -> tuple[Volume, tuple[str, ...]]:
    """The volume with all voxels of a value marked as not measured, and a note if there is none.

    Parameters
    ----------
    volume : Volume
    missing_value : number or None
        The exact value, in the data's unit; NaN, which never counts as measured, changes nothing. None: no value.

    Raises
    ------
    InputError
        If it is no number.

    Examples
    --------
    >>> import numpy as np
    >>> volume, notes = without_value(Volume(np.arange(27.0).reshape(3, 3, 3) // 9), 0)
    >>> int(volume.mask.sum()), notes
    (18, ())
    """
    if missing_value is None:
        return volume, ()
    if not is_number(missing_value):
        raise InputError(f"expected a number as missing value, got {missing_value!r}")
    if math.isnan(missing_value):
        return volume, ()
    measured = volume.data != missing_value
    if measured.all():
        return volume, (f"no voxel has the missing value {missing_value:g}",)
    return replace(volume, mask=measured if volume.mask is None else measured & volume.mask), ()


def missing_value_of(text: str | None) -> int | float | None:
    """The number that the command line gave.

    >>> missing_value_of("0"), missing_value_of("-1.5"), missing_value_of(None)
    (0, -1.5, None)
    """
    if text is None:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise InputError(f"expected a number for --missing-value, got {text!r}")
