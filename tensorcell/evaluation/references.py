"""References: volumes that serve as truth, scaled to [0, 1]."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.arguments import whole_number
from tensorcell.errors import InputError
from tensorcell.files import read
from tensorcell.model import noise_of_stack
from tensorcell.solvers import NoiseModel
from tensorcell.volume import Volume, stacks

Array = npt.NDArray[Any]

SMALLEST = (9, 7, 7)
"""Planes, rows and columns that the SSIM window of 7 needs in every case: every third of 9 planes spans 7 of them."""


class Reference(NamedTuple):
    """A volume that serves as truth."""

    label: str
    data: Array
    """float32 ``(Z, Y, X)`` on [0, 1], read-only."""
    spacing: tuple[float, float, float] | None
    noise: NoiseModel
    """The estimated noise of the reference. A restoration closer to it than this noise cannot be judged by it."""
    digest: str
    """Of shape and voxels."""

    @property
    def limit(self) -> float:
        """PSNR in decibels of the noise-free specimen against this reference; infinite where no noise was found.

        A restoration with a larger one is not closer to the specimen.
        """
        if self.noise.patches == 0:
            return math.inf
        variance = float(np.mean(np.asarray(self.noise.variance(self.data.astype(np.float64)))))
        return -10 * math.log10(variance) if variance > 0 else math.inf


def scaled(stack: Array) -> Array:
    """Clip to the 0.1 and 99.9 percentiles, and scale to [0, 1].

    Parameters
    ----------
    stack : array ``(Z, Y, X)``
        Intensities in any unit, finite.

    Returns
    -------
    float32 array of the same shape

    Raises
    ------
    InputError
        NaN or infinite values, or a stack without contrast between these percentiles.

    Examples
    --------
    >>> scaled(np.linspace(-5, 5, 1001).reshape(7, 11, 13)).max()
    np.float32(1.0)
    """
    values = np.asarray(stack, dtype=np.float64)
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise InputError(f"expected a reference that is finite everywhere, got {bad} NaN or infinite voxels")
    low, high = (float(v) for v in np.percentile(values, (0.1, 99.9)))
    if not high > low:
        raise InputError(f"expected a reference with contrast, got {low:g} at its 0.1 and 99.9 percentiles")
    return ((np.clip(values, low, high) - low) / (high - low)).astype(np.float32)


def references(volumes: Any, crop: Sequence[int] | None = None) -> list[Reference]:
    """Scaled references of volumes, arrays or paths; of a volume with channels or frames its first stack.

    The percentiles are those of the whole stack; ``crop`` (planes, rows, columns) then takes its centre.

    Parameters
    ----------
    volumes : Volume, array or path, a list of these, or a mapping of names to them
        Whatever `Volume.from_array` takes.
    crop : (planes, rows, columns), optional

    Raises
    ------
    InputError
        No volume, two of one name, or one that is masked, not finite, without contrast or too small.
    """
    several = not hasattr(volumes, "shape") and not hasattr(volumes, "to_tensor")
    if several and isinstance(volumes, Mapping):
        named = list(volumes.items())
    elif several and isinstance(volumes, Iterable) and not isinstance(volumes, str | os.PathLike):
        named = [(None, volume) for volume in volumes]
    else:
        named = [(None, volumes)]
    if not named:
        raise InputError("expected at least one volume to evaluate on, got none")
    found: list[Reference] = []
    for place, (name, given) in enumerate(named):
        label = str(name or (Path(given).name if isinstance(given, str | os.PathLike) else f"volume {place}"))
        volume = read(given) if isinstance(given, str | os.PathLike) else Volume.from_array(given)
        try:
            reference = _reference(label, volume, crop)
        except InputError as error:
            raise InputError(f"{label}: {error}") from None
        if reference.label in (other.label for other in found):
            raise InputError(f"{label}: expected volumes with different names, got this one twice")
        found.append(reference)
    return found


def _reference(label: str, volume: Volume, crop: Sequence[int] | None) -> Reference:
    if volume.mask is not None and not volume.mask.all():
        raise InputError("expected a reference that was measured everywhere, got one with a mask")
    stack = next(iter(stacks(volume)))
    data = scaled(stack.data)
    if stack.label:
        label = f"{label} {stack.label.replace(', ', ' ')}"
    if crop is not None:
        data = data[central(data.shape, crop)]
        label = f"{label} [{'x'.join(map(str, data.shape))}]"
    if any(side < least for side, least in zip(data.shape, SMALLEST, strict=True)):
        got, least = (" x ".join(map(str, sizes)) for sizes in (data.shape, SMALLEST))
        raise InputError(f"expected a reference of at least {least} voxels, got {got}")
    data = np.ascontiguousarray(data)
    data.setflags(write=False)
    digest = hashlib.sha256(str(data.shape).encode() + data.tobytes()).hexdigest()[:16]
    return Reference(label, data, volume.spacing, noise_of_stack(data, np.ones(data.shape, bool)), digest)


def central(shape: Sequence[int], sizes: Sequence[int]) -> tuple[slice, ...]:
    """The centre of an array, of at most the given sizes.

    >>> central((10, 8), (4, 20))
    (slice(3, 7, None), slice(0, 8, None))
    """
    try:
        whole = [whole_number("crop", size) for size in sizes]
    except InputError:
        whole = []
    if len(whole) != len(shape):
        raise InputError(f"expected a crop of {len(shape)} whole numbers of at least 1, got {tuple(sizes)}")
    pairs = [(side, min(side, size)) for side, size in zip(shape, whole, strict=True)]
    return tuple(slice((side - size) // 2, (side - size) // 2 + size) for side, size in pairs)
