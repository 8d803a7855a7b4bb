"""What networks are trained with: stacks of files, published cubes, and pairs of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.errors import InputError
from tensorcell.files import split_path
from tensorcell.finer_pixels import enlarged
from tensorcell.network_training.request import ModelRequest
from tensorcell.prior_training import read_part
from tensorcell.volume import stacks

if TYPE_CHECKING:
    from tensorcell.pairs import Registered
    from tensorcell.pairs.registration import Transform

Floats = npt.NDArray[np.float32]

HIGH, LOW = "hr_cube", "lr_cube"
"""Names of the published data sets of HDF5 files: cubes ``(N, D, H, W)`` and ``(N, d, H, W)``."""


class Volumes(NamedTuple):
    """What is trained with."""

    names: list[str]
    high: list[Floats]
    low: list[Floats]
    """Scans of the same specimens, at the lateral size of the others; empty where there are none."""
    spacing: tuple[float, float, float] | None


def read_volumes(request: ModelRequest) -> Volumes:
    """The volumes of all files, and the scans that belong to them."""
    names: list[str] = []
    high: list[Floats] = []
    low: list[Floats] = []
    spacing = None
    for number, source in enumerate(request.sources):
        published = published_cubes(source)
        if published is not None:
            if request.crop is not None or request.preview:
                raise InputError(f"{source}: expected a stack for --crop and --preview, got cubes")
            found, scans = published
        else:
            found, step = complete_stacks(source, request)
            spacing = spacing or step
            scans = complete_stacks(request.low[number], request)[0] if request.low else []
        if scans and len(scans) != len(found):
            raise InputError(f"{source}: expected a scan for each of {len(found)} volumes, got {len(scans)}")
        named = [f"{source} {n}" if len(found) > 1 else source for n in range(len(found))]
        if request.register is not None and scans:
            pairs = [registered(*pair, request, request.register) for pair in zip(named, scans, found, strict=True)]
            scans, found = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        names += named
        high += found
        low += [at_size(scan, volume, source) for scan, volume in zip(scans, found, strict=False)]
    if low and len(low) != len(high):
        raise InputError(f"expected scans of all volumes or of none, got {len(low)} for {len(high)}")
    return Volumes(names, high, low, spacing)


def registered(
    name: str, scan: Floats, volume: Floats, request: ModelRequest, transform: Transform
) -> tuple[Floats, Floats]:
    """The region that scan and volume have in common, the scan at the lateral size of the volume."""
    from tensorcell.pairs import register

    try:
        pair = register(
            scan, volume, axial_factor=request.axial_factor, lateral_factor=request.lateral_factor,
            transform=transform, seed=request.seed,
        )  # fmt: skip
    except InputError as error:
        raise InputError(f"{name}: its scan cannot be registered: {error}") from None
    if not request.quiet:
        for line in (registered_as(pair), *pair.notes):
            print(f"{name}: {line}", file=sys.stderr)
    low, high, factor = pair.low.data, pair.high.data, request.axial_factor
    return low, high if len(high) == factor * len(low) else high[: factor * (len(low) - 1) + 1]


def registered_as(pair: Registered) -> str:
    """What registration found, in one line."""
    shift = ", ".join(f"{step:.2f}" for step in pair.shift)
    turned = ""
    if pair.matches is not None:
        turned = f", turned by {pair.rotation:.2f} degrees, enlarged by {pair.scale:.4f}"
    return (
        f"the scan lies {shift} voxels (z, y, x) beside its place{turned}; correlation {pair.agreement_before:.3f} "
        f"before and {pair.agreement_after:.3f} after, {pair.share:.0%} in common"
    )


def published_cubes(source: str) -> tuple[list[Floats], list[Floats]] | None:
    """Cubes of an HDF5 file with the published names, or None where the file is not one."""
    path, inside = split_path(source)
    if inside is not None or path.suffix.lower() not in (".h5", ".hdf5"):
        return None
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get(HIGH), h5py.Dataset):
                return None
            found = [checked_cubes(file[HIGH], f"{source}:/{HIGH}")]
            found.append(checked_cubes(file[LOW], f"{source}:/{LOW}") if LOW in file else [])
            return found[0], found[1]
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error}") from None


def checked_cubes(stored: Any, name: str) -> list[Floats]:
    """Cubes ``(N, D, H, W)``, one by one."""
    if stored.ndim != 4:
        raise InputError(f"{name}: expected cubes of shape (N, D, H, W), got {stored.shape}")
    return [np.asarray(stored[number], np.float32) for number in range(len(stored))]


def complete_stacks(source: str, request: ModelRequest) -> tuple[list[Floats], tuple[float, float, float] | None]:
    """The stacks of a file, in which every voxel must have been measured."""
    volume = read_part(source, request)
    found = []
    for stack in stacks(volume):
        data = np.asarray(stack.data, np.float32)
        missing = int(np.count_nonzero(~np.isfinite(data)))
        if stack.mask is not None:
            missing = max(missing, int(np.count_nonzero(~stack.mask)))
        if missing:
            name = f"{source} {stack.label}".strip()
            raise InputError(f"{name}: expected a complete stack to train with, got {missing} gaps")
        found.append(data)
    return found, volume.spacing


def at_size(scan: Floats, volume: Floats, source: str) -> Floats:
    """The scan at the lateral size of the volume."""

    factors = {size / part for size, part in zip(volume.shape[1:], scan.shape[1:], strict=True)}
    factor = factors.pop()
    if factors or factor != int(factor) or factor < 1:
        raise InputError(
            f"{source}: expected a scan whose sides are those of the volume over a whole number, got {scan.shape[1:]} "
            f"for {volume.shape[1:]}"
        )
    return enlarged(scan, int(factor)).astype(np.float32) if factor > 1 else scan
