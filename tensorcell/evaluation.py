"""`evaluate`: degrade references, restore them with any methods, and score all of them side by side.

A reference is scaled to [0, 1], degraded by a seeded case, restored from what was measured alone, and compared with
what it was, without any fit of scale or shift. Every cell (volume, case, method) runs in a fresh interpreter: a crash
or too little memory costs that cell and no other. Finished cells are kept in the folder, and a second run does what is
missing.

===============  ==================================================================================================
`CASES`          degradations: :class:`Case`, a pure function of the reference and a random generator
`METHODS`        restorers: :class:`Method`, a function of the :class:`Measurement`, which holds no truth
`evaluate`       the grid of cells, resumable
`Evaluation`     rows, means, differences; CSV, Markdown, pictures (:mod:`tensorcell.evaluation_page`)
===============  ==================================================================================================
"""

from __future__ import annotations

import csv
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import math
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell import metrics, recovery
from tensorcell.errors import InputError
from tensorcell.files import read, write_whole
from tensorcell.interpolation import interpolate_planes
from tensorcell.pages.pictures import choose_slices
from tensorcell.volume import Volume, stacks

Array = npt.NDArray[Any]
Noise = Literal["estimated", "given"]

SMALLEST = (9, 7, 7)
"""Planes, rows and columns that the SSIM window of 7 needs in every case: 9 planes leave 7 with every third kept."""


# ------------------------------------------------------------------------------------------------- references


class Reference(NamedTuple):
    """A volume that serves as truth."""

    label: str
    data: Array
    """float32 ``(Z, Y, X)`` on [0, 1], read-only."""
    spacing: tuple[float, float, float] | None
    noise: float
    """Its own noise, estimated: what no restoration can be told from."""
    digest: str


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
    """Scaled references of volumes, arrays or paths; of a volume with channels or frames the first of each.

    The percentiles are those of the whole stack; ``crop`` (planes, rows, columns) then takes its centre.
    """
    if isinstance(volumes, Mapping):
        named = list(volumes.items())
    elif isinstance(volumes, str | os.PathLike | Volume | np.ndarray):
        named = [(None, volumes)]
    else:
        named = [(None, volume) for volume in volumes]
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
    return Reference(label, data, volume.spacing, estimated_sigma(data), digest)


def central(shape: Sequence[int], sizes: Sequence[int]) -> tuple[slice, ...]:
    """The centre of an array, of at most the given sizes.

    >>> central((10, 8), (4, 20))
    (slice(3, 7, None), slice(0, 8, None))
    """
    if len(sizes) != len(shape) or any(int(size) != size or size < 1 for size in sizes):
        raise InputError(f"expected a crop of {len(shape)} whole numbers of at least 1, got {tuple(sizes)}")
    pairs = [(side, min(side, int(size))) for side, size in zip(shape, sizes, strict=True)]
    return tuple(slice((side - size) // 2, (side - size) // 2 + size) for side, size in pairs)


# ------------------------------------------------------------------------------------------------------ cases


@dataclass(frozen=True, eq=False)
class Measurement:
    """What a method gets to see.

    Attributes
    ----------
    data : float32 array ``(planes, Y, X)``
        NaN = not measured. With ``axial_factor`` s these are planes 0, s, 2s, ... of the wanted stack.
    axial_factor : int
    sigma : float or None
        Standard deviation of the noise where it is given to all methods; None: each estimates it.
    options : mapping
        Further arguments for :func:`tensorcell.recover`.
    """

    data: Array
    axial_factor: int = 1
    sigma: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grid(self) -> Array:
        """The data on the grid of the wanted stack, NaN where nothing was measured."""
        if self.axial_factor == 1:
            return self.data
        planes = (len(self.data) - 1) * self.axial_factor + 1
        full = np.full((planes, *self.data.shape[1:]), np.nan, self.data.dtype)
        full[:: self.axial_factor] = self.data
        return full


@dataclass(frozen=True, eq=False)
class Degraded:
    """A degraded reference: what a method sees, and what it is judged by."""

    measurement: Measurement
    truth: Array
    """``(Z, Y, X)``, cut to the last kept plane."""
    measured: npt.NDArray[np.bool_]
    """Of the truth's shape, True = measured."""


@dataclass(frozen=True)
class Case:
    """One way to degrade a reference.

    Attributes
    ----------
    name : str
    kind : str
        Which methods it is for: "clean", "noise", "planes", "noisy planes", "gaps" (voxels missing, some of the others
        wrong), "artefacts" (nothing missing, some voxels wrong).
    says : str
        What is done, for tables.
    degrade : callable
        ``degrade(truth, rng) -> Degraded``, pure: the truth is not written to, the generator is the only chance.
    """

    name: str
    kind: str
    says: str
    degrade: Callable[[Array, np.random.Generator], Degraded]

    def apply(self, reference: Reference, seed: int) -> Degraded:
        """Degrade a reference; the same seed, case and voxels give the same noise, whatever the methods."""
        words = hashlib.sha256(f"{self.name} {reference.digest}".encode()).digest()
        rng = np.random.default_rng([seed, *np.frombuffer(words, np.uint32)])
        return self.degrade(reference.data, rng)


def _complete(data: Array, truth: Array, sigma: float | None = None, **options: Any) -> Degraded:
    return Degraded(Measurement(np.asarray(data, np.float32), 1, sigma, options), truth, np.ones(truth.shape, bool))


def degrade_clean(truth: Array, rng: np.random.Generator) -> Degraded:
    """Nothing is done."""
    return _complete(truth, truth)


def degrade_noise(truth: Array, rng: np.random.Generator, *, sigma: float) -> Degraded:
    """``v + sigma n``, n standard normal."""
    return _complete(truth + sigma * rng.standard_normal(truth.shape), truth, sigma, keep_measured=False)


def degrade_poisson(truth: Array, rng: np.random.Generator, *, peak: float, sigma: float = 0.01) -> Degraded:
    """``poisson(peak v) / peak + sigma n``. Its noise is not of one standard deviation, so that none is given."""
    noisy = rng.poisson(peak * truth.astype(np.float64)) / peak + sigma * rng.standard_normal(truth.shape)
    return _complete(noisy, truth, keep_measured=False)


def degrade_planes(truth: Array, rng: np.random.Generator, *, factor: int, sigma: float = 0.0) -> Degraded:
    """Keep planes 0, s, 2s, ... of the reference cut to the last kept plane; with ``sigma`` they are noisy."""
    truth = truth[: (len(truth) - 1) // factor * factor + 1]
    kept = truth[::factor]
    measured = np.zeros(truth.shape, bool)
    measured[::factor] = True
    if sigma == 0:
        return Degraded(Measurement(kept, factor), truth, measured)
    noisy = (kept + sigma * rng.standard_normal(kept.shape)).astype(np.float32)
    return Degraded(Measurement(noisy, factor, sigma, {"keep_measured": False}), truth, measured)


def _masked(data: Array, truth: Array, measured: npt.NDArray[np.bool_]) -> Degraded:
    return Degraded(Measurement(np.where(measured, data, np.nan).astype(np.float32)), truth, measured)


def degrade_pixels(truth: Array, rng: np.random.Generator, *, keep: float, outliers: float = 0.05) -> Degraded:
    """Keep a share of the voxels at random; a share of these is replaced by uniform numbers in [0, 2]."""
    measured = rng.random(truth.shape) < keep
    wrong = rng.random(truth.shape) < outliers
    return _masked(np.where(wrong, rng.uniform(0, 2, truth.shape), truth), truth, measured)


def degrade_lines(truth: Array, rng: np.random.Generator, *, missing: float = 0.2) -> Degraded:
    """A share of the rows of each plane is missing."""
    seen = rng.random(truth.shape[:2]) >= missing
    return _masked(truth, truth, np.broadcast_to(seen[..., None], truth.shape).copy())


def degrade_blocks(
    truth: Array, rng: np.random.Generator, *, missing: float = 0.1, block: tuple[int, int, int] = (3, 8, 8)
) -> Degraded:
    """The stack is cut into blocks, and a share of these is missing."""
    counts = [math.ceil(side / size) for side, size in zip(truth.shape, block, strict=True)]
    chosen = rng.permutation(math.prod(counts)) < max(1, round(missing * math.prod(counts)))
    lost = np.kron(chosen.reshape(counts), np.ones(block, bool))
    return _masked(truth, truth, ~lost[tuple(slice(side) for side in truth.shape)])


def degrade_stripes(truth: Array, rng: np.random.Generator, *, sigma: float = 0.05) -> Degraded:
    """Every row of every plane is shifted by an offset of its own, normal with standard deviation ``sigma``."""
    return _complete(truth + sigma * rng.standard_normal((*truth.shape[:2], 1)), truth, keep_measured=False)


def degrade_hot_pixels(truth: Array, rng: np.random.Generator, *, share: float = 0.005) -> Degraded:
    """A share of the pixels of the camera reads uniform numbers in [.5, 2] in every plane."""
    hot = rng.random(truth.shape[1:]) < share
    hot.flat[rng.integers(hot.size)] = True  # a small camera has one, too
    return _complete(np.where(hot, rng.uniform(0.5, 2, truth.shape), truth), truth)


def _cases() -> Iterator[Case]:
    p = functools.partial
    yield Case("clean", "clean", "the reference itself", degrade_clean)
    for sigma in (0.01, 0.05, 0.1):
        yield Case(f"noise-{sigma:g}", "noise", f"Gaussian noise, sigma {sigma:g}", p(degrade_noise, sigma=sigma))
    for peak in (20, 100):
        says = f"Poisson noise of {peak} photons at 1, and Gaussian noise, sigma 0.01"
        yield Case(f"poisson-{peak}", "noise", says, p(degrade_poisson, peak=peak))
    for factor in (2, 3, 4):
        says = f"planes 0, {factor}, {2 * factor}, ... kept"
        yield Case(f"planes-{factor}", "planes", says, p(degrade_planes, factor=factor))
    for factor in (2, 3, 4):
        says = f"planes 0, {factor}, {2 * factor}, ... kept, with Gaussian noise, sigma 0.05"
        noisy = p(degrade_planes, factor=factor, sigma=0.05)
        yield Case(f"planes-{factor}+noise-0.05", "noisy planes", says, noisy)
    for keep in (50, 20, 5):
        says = f"{keep} % of the voxels kept, 5 % of these replaced by uniform numbers in [0, 2]"
        yield Case(f"pixels-{keep}", "gaps", says, p(degrade_pixels, keep=keep / 100))
    yield Case("lines", "gaps", "20 % of the rows of each plane missing", degrade_lines)
    yield Case("blocks", "gaps", "10 % of the blocks of 3 x 8 x 8 voxels missing", degrade_blocks)
    yield Case("stripes", "artefacts", "every row of a plane shifted by an offset, sigma 0.05", degrade_stripes)
    yield Case(
        "hot-pixels", "artefacts", "0.5 % of the pixels hot, uniform in [0.5, 2], in all planes", degrade_hot_pixels
    )


CASES: Mapping[str, Case] = {case.name: case for case in _cases()}
KINDS = tuple(dict.fromkeys(case.kind for case in CASES.values()))

TABLE_2: Mapping[str, str] = {
    "clean": "Original (clean)",
    "noise-0.01": "+ Gaussian noise (sigma = 0.01)",
    "noise-0.05": "+ Gaussian noise (sigma = 0.05)",
    "noise-0.1": "+ Gaussian noise (sigma = 0.1)",
    "planes-2": "+ Downsampling x2",
    "planes-3": "+ Downsampling x3",
    "planes-4": "+ Downsampling x4",
}
"""Rows of Table 2 of "Recover Cell Tensor"."""


def choose_cases(wanted: Iterable[str | Case] | None = None) -> tuple[Case, ...]:
    """Cases by name, by the beginning of a name up to a hyphen, or by kind; None: all but ``clean``.

    >>> [case.name for case in choose_cases(["poisson", "noise-0.1"])]
    ['poisson-20', 'poisson-100', 'noise-0.1']
    """
    if wanted is None:
        return tuple(case for case in CASES.values() if case.kind != "clean")
    found: dict[str, Case] = {}
    for item in [wanted] if isinstance(wanted, str | Case) else wanted:
        if isinstance(item, Case):
            matching = [item]
        elif item in CASES:
            matching = [CASES[item]]
        else:
            matching = [c for c in CASES.values() if item and (c.name.startswith(f"{item}-") or c.kind == item)]
        if not matching:
            raise InputError(f"expected cases among {', '.join(CASES)}, got {item!r}")
        found |= {case.name: case for case in matching}
    if not found:
        raise InputError("expected at least one case, got none")
    return tuple(found.values())


# ---------------------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Method:
    """One way to restore.

    Attributes
    ----------
    name : str
    run : callable
        ``run(measurement, seed) -> array`` on the grid of the wanted stack. Of a module, not a lambda: it is found
        again by its name in a fresh interpreter.
    kinds : tuple of str
        Kinds of :class:`Case` that it is for.
    needs : tuple of str
        Modules that have to be installed.
    ours : bool
        Whether it is this package's; its cells are repeated when any code of the package changes.
    """

    name: str
    run: Callable[[Measurement, int], Array]
    kinds: tuple[str, ...] = KINDS
    needs: tuple[str, ...] = ()
    ours: bool = False

    @property
    def missing(self) -> tuple[str, ...]:
        """What it needs and is not installed."""
        return tuple(name for name in self.needs if importlib.util.find_spec(name) is None)


def run_recover(measurement: Measurement, seed: int, *, method: Any) -> Array:
    """:func:`tensorcell.recover` with one of its methods."""
    given = {} if measurement.sigma is None else {"noise": measurement.sigma}
    arguments: dict[str, Any] = {**measurement.options, **given}
    result = recovery.recover(
        measurement.data, axial_factor=measurement.axial_factor, method=method, seed=seed, **arguments
    )
    return result.volume.data


def run_none(measurement: Measurement, seed: int) -> Array:
    """The measurement as it is."""
    return measurement.data


def run_along_z(measurement: Measurement, seed: int, *, form: str) -> Array:
    """Interpolate whole planes along z: "nearest", "linear", "cubic" (not-a-knot spline) or "pchip".

    "linear" fills single voxels, too: between the nearest measured ones above and below; a column that was never
    measured gets the median of what was.
    """
    from scipy.interpolate import CubicSpline, PchipInterpolator

    if form == "linear":
        grid = measurement.grid
        filled = interpolate_planes(grid, ~np.isnan(grid))
        return np.where(np.isnan(filled), np.nanmedian(grid), filled)
    data, factor = measurement.data, measurement.axial_factor
    planes = np.arange((len(data) - 1) * factor + 1)
    if form == "nearest":
        return data[(planes + factor // 2) // factor]
    make = {"cubic": CubicSpline, "pchip": PchipInterpolator}[form]
    return np.asarray(make(factor * np.arange(len(data)), data.astype(np.float64), axis=0)(planes))


def run_median(measurement: Measurement, seed: int) -> Array:
    """Every voxel the median of what was measured among its 3 x 3 x 3; without any, of what the last pass filled."""
    grid = measurement.grid
    filled = np.full(grid.shape, np.nan, np.float32)
    source = grid
    while np.isnan(filled).any():
        found = _nan_median(source, np.isnan(filled))
        filled = np.where(np.isnan(filled), found, filled)
        source = np.where(np.isnan(grid), filled, grid)
    return filled


def _nan_median(stack: Array, wanted: npt.NDArray[np.bool_]) -> Array:
    """Median of the finite voxels among 3 x 3 x 3, where it is wanted; NaN where there are none."""
    padded = np.pad(stack, 1, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3))
    found = np.full(stack.shape, np.nan, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a neighbourhood without any
        for z in np.flatnonzero(wanted.any(axis=(1, 2))):
            found[z][wanted[z]] = np.nanmedian(windows[z][wanted[z]].reshape(-1, 27), axis=1)
    return found


# --- denoisers of complete stacks


def estimated_sigma(stack: Array) -> float:
    """Noise of a complete stack from its finest diagonal wavelet coefficients.

    ``median|d| / .6745`` over the Daubechies-2 coefficients that are of high frequency along every axis, zeros left out
    (Donoho & Johnstone 1994, doi:10.1093/biomet/81.3.425): the estimate of scikit-image's `estimate_sigma`, which needs
    PyWavelets for it.

    Parameters
    ----------
    stack : array ``(Z, Y, X)``
        Without NaN.

    Returns
    -------
    float
        In the unit of the data; 0 where all coefficients are zero. Structure of one voxel's size adds to it.

    Examples
    --------
    >>> round(estimated_sigma(np.random.default_rng(0).normal(0, 2.0, (24, 48, 48))), 1)
    2.0
    """
    root = math.sqrt(3)
    high = np.array([root - 1, 3 - root, -(3 + root), 1 + root]) / (4 * math.sqrt(2))
    detail = np.asarray(stack, np.float64)
    for axis in range(detail.ndim):
        padded = np.moveaxis(
            np.pad(detail, [(3, 3) if a == axis else (0, 0) for a in range(detail.ndim)], "symmetric"), axis, -1
        )
        detail = np.moveaxis(np.lib.stride_tricks.sliding_window_view(padded, 4, -1)[..., 1::2, :] @ high, -1, axis)
    values = np.abs(detail[detail != 0])
    return float(np.median(values)) / 0.674489750196 if values.size else 0.0


def _sigma(measurement: Measurement) -> float:
    return estimated_sigma(measurement.data) if measurement.sigma is None else measurement.sigma


TRIAL = (24, 48, 48)
"""Voxels of the central part on which the parameters of peers are chosen."""


def least_by_sure(
    denoise: Callable[[Array, float], Array], stack: Array, sigma: float, parameters: Sequence[float], seed: int
) -> float:
    """The parameter with the smallest estimated mean squared error, from the noisy stack alone.

    Stein's estimate ``mean((f(y) - y)^2) - sigma^2 + 2 sigma^2 div f(y) / N``, with the divergence along one random
    direction b of signs: ``b . (f(y + eps b) - f(y)) / eps``, eps = sigma / 10.

    References
    ----------
    Ramani, Blu & Unser 2008, doi:10.1109/TIP.2008.2001404.
    """
    y = np.asarray(stack[central(stack.shape, TRIAL)], np.float64)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], y.shape)
    step = sigma / 10

    def risk(parameter: float) -> float:
        clean, moved = denoise(y, parameter), denoise(y + step * signs, parameter)
        divergence = float(np.mean(signs * (moved - clean))) / step
        return float(np.mean((clean - y) ** 2)) + 2 * sigma**2 * divergence

    return min(parameters, key=risk)


def run_tv(measurement: Measurement, seed: int) -> Array:
    """Total variation (Chambolle) of scikit-image; the weight of 6 with the least estimated error."""
    import skimage.restoration

    chambolle: Any = skimage.restoration.denoise_tv_chambolle
    sigma = _sigma(measurement)
    if sigma == 0:
        return measurement.data

    def denoise(y: Array, weight: float) -> Array:
        return np.asarray(chambolle(y, weight))

    weights = [factor * sigma for factor in (0.25, 0.35, 0.5, 0.7, 1.0, 1.4)]
    return denoise(measurement.data, least_by_sure(denoise, measurement.data, sigma, weights, seed))


def run_nlm(measurement: Measurement, seed: int) -> Array:
    """Non-local means of scikit-image, 3-D patches; the filter strength of 5 with the least estimated error."""
    from skimage.restoration import denoise_nl_means

    sigma = _sigma(measurement)
    if sigma == 0:
        return measurement.data

    def denoise(y: Array, strength: float) -> Array:
        return np.asarray(denoise_nl_means(y, patch_size=3, patch_distance=4, h=strength, sigma=sigma, fast_mode=True))

    strengths = [factor * sigma for factor in (0.3, 0.45, 0.6, 0.8, 1.1)]
    return denoise(measurement.data, least_by_sure(denoise, measurement.data, sigma, strengths, seed))


def run_wavelet(measurement: Measurement, seed: int) -> Array:
    """Wavelet shrinkage of scikit-image: BayesShrink, Daubechies 2, averaged over the 2 x 2 x 2 shifts of one voxel."""
    from skimage.restoration import denoise_wavelet

    sigma, data = _sigma(measurement), measurement.data
    if sigma == 0:
        return data
    total = np.zeros(data.shape)
    for shift in np.ndindex(2, 2, 2):
        moved = np.roll(data, shift, (0, 1, 2))
        clean = denoise_wavelet(moved, sigma, "db2", "soft", method="BayesShrink", rescale_sigma=False)
        total += np.roll(clean, [-step for step in shift], (0, 1, 2))
    return total / 8


def run_bm4d(measurement: Measurement, seed: int) -> Array:
    """BM4D of the package ``bm4d`` with its defaults (non-commercial licence: a measuring stick)."""
    from bm4d import bm4d

    sigma = _sigma(measurement)
    return measurement.data if sigma == 0 else np.asarray(bm4d(measurement.data, sigma))


def run_two(measurement: Measurement, seed: int, *, first: Any, second: Any) -> Array:
    """Denoise the given planes, then interpolate between them."""
    clean = np.asarray(first(replace(measurement, axial_factor=1), seed), np.float32)
    return np.asarray(second(replace(measurement, data=clean), seed))


# --- TensorLy


def _tensorly_input(stack: Array, seed: int) -> tuple[Array, Array, Array]:
    """Values (the median where nothing was measured), the mask, and the mask without a twentieth left out."""
    mask = ~np.isnan(stack)
    values = np.where(mask, stack, np.nanmedian(stack)).astype(np.float64)
    return values, mask, mask & (np.random.default_rng(seed).random(stack.shape) >= 0.05)


def _left_out_error(estimate: Array, values: Array, mask: Array, fitted: Array) -> float:
    """Mean absolute error at left-out voxels: outliers among them weigh little, bright structure still counts."""
    left_out = mask & ~fitted
    return float(np.mean(np.abs(estimate[left_out] - values[left_out])))


def _tensorly_tucker(values: Array, mask: Array, share: float, seed: int) -> Array:
    import tensorly
    from tensorly.decomposition import tucker

    rank = [max(1, round(share * side)) for side in values.shape]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its remarks on ranks
        # tol=0: its error under a mask is taken against a stale norm, and its own stop comes too early.
        decomposition = tucker(values, rank, mask=mask, n_iter_max=50, tol=0, random_state=seed)
    return np.asarray(tensorly.tucker_to_tensor(decomposition))


def run_tensorly_tucker(measurement: Measurement, seed: int) -> Array:
    """TensorLy's masked Tucker; ranks, as a share of the sides, by the error at left-out voxels of the central part."""
    grid = measurement.grid
    values, mask, fitted = _tensorly_input(grid[central(grid.shape, TRIAL)], seed)
    errors = {
        share: _left_out_error(_tensorly_tucker(values, fitted, share, seed), values, mask, fitted)
        for share in (0.08, 0.15, 0.25, 0.4, 0.6)
    }
    values, mask, _ = _tensorly_input(grid, seed)
    return _tensorly_tucker(values, mask, min(errors, key=lambda share: errors[share]), seed)


def _robust_pca(values: Array, mask: Array, weight: float) -> Array:
    from tensorly.decomposition import robust_pca

    low_rank, _ = robust_pca(values, mask=mask.astype(np.float64), reg_E=weight, n_iter_max=100, verbose=0)
    return np.asarray(low_rank)


def run_robust_pca(measurement: Measurement, seed: int) -> Array:
    """TensorLy's robust PCA; the weight of its sparse part by the error at left-out voxels of the central part."""
    grid = measurement.grid
    values, mask, fitted = _tensorly_input(grid[central(grid.shape, TRIAL)], seed)
    errors = {
        weight: _left_out_error(_robust_pca(values, fitted, weight), values, mask, fitted)
        for weight in (0.02, 0.05, 0.1, 0.2, 1.0)
    }
    values, mask, _ = _tensorly_input(grid, seed)
    return _robust_pca(values, mask, min(errors, key=lambda weight: errors[weight]))


def _methods() -> Iterator[Method]:
    p = functools.partial
    for name in dict.fromkeys((*recovery.METHODS, "tucker", "local", "auto", "diffusion")):
        yield Method(name, p(run_recover, method=name), KINDS, ours=True)
    complete = ("clean", "noise", "artefacts")
    yield Method("none", run_none, complete)
    for form in ("nearest", "linear", "cubic", "pchip"):
        kinds = ("planes", "noisy planes") + (("gaps",) if form == "linear" else ())
        yield Method(form, p(run_along_z, form=form), kinds)
    yield Method("median", run_median, ("gaps", "artefacts"))
    yield Method("tv", run_tv, complete)
    yield Method("wavelet", run_wavelet, complete, ("pywt",))
    yield Method("nlm", run_nlm, complete)
    yield Method("bm4d", run_bm4d, complete, ("bm4d",))
    yield Method("tensorly-tucker", run_tensorly_tucker, ("noise", "gaps", "artefacts"))
    yield Method("robust-pca", run_robust_pca, ("noise", "gaps", "artefacts"))


METHODS: Mapping[str, Method] = {method.name: method for method in _methods()}
DENOISERS = ("tv", "wavelet", "nlm", "bm4d")
INTERPOLATORS = ("nearest", "linear", "cubic", "pchip")


def choose_methods(wanted: Iterable[str | Method] | None = None) -> tuple[Method, ...]:
    """Methods by name; ``"bm4d+linear"`` denoises planes and interpolates between them. None: all that are installed.

    Without a choice, ``diffusion`` is left out, and denoising before interpolation is done by BM4D where it is
    installed, by non-local means otherwise.
    """
    if wanted is None:
        known = [METHODS[name] for name in dict.fromkeys((*recovery.METHODS, *METHODS))]
        plain = [
            m for m in known if not m.missing and (not m.ours or m.name in recovery.METHODS) and m.name != "diffusion"
        ]
        first = "bm4d" if METHODS["bm4d"] in plain else "nlm"
        return (*plain, *(_by_name(f"{first}+{second}") for second in ("linear", "cubic")))
    found: dict[str, Method] = {}
    for item in [wanted] if isinstance(wanted, str | Method) else wanted:
        method = item if isinstance(item, Method) else _by_name(item)
        if method.missing:
            raise InputError(f"method {method.name} needs {' and '.join(method.missing)}, which is not installed")
        found[method.name] = method
    if not found:
        raise InputError("expected at least one method, got none")
    return tuple(found.values())


def _by_name(name: str) -> Method:
    if name in METHODS:
        return METHODS[name]
    first, _, second = name.partition("+")
    if first in DENOISERS and second in INTERPOLATORS:
        steps = METHODS[first], METHODS[second]
        run = functools.partial(run_two, first=steps[0].run, second=steps[1].run)
        return Method(name, run, ("noisy planes",), steps[0].needs)
    raise InputError(
        f"expected methods among {', '.join(METHODS)} or DENOISER+INTERPOLATOR such as bm4d+linear, got {name!r}"
    )


# ----------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell: what became of it, and its scores on [0, 1]; NaN where a score does not apply."""

    volume: str
    case: str
    method: str
    status: str = "done"
    """"done", or "refused: ..." and "failed: ..." with the reason."""
    psnr: float = math.nan
    """Decibels, data range 1."""
    ssim: float = math.nan
    """3-D, window of 7."""
    nrmse: float = math.nan
    """Relative error in the Frobenius norm."""
    psnr_missing: float = math.nan
    """On voxels alone that were not measured; so the next two."""
    ssim_missing: float = math.nan
    nrmse_missing: float = math.nan
    profile_ccc: float = math.nan
    """Mean concordance of z profiles."""
    profile_pcc: float = math.nan
    """Mean correlation of z profiles."""
    hf_error: float = math.nan
    """Relative error of the power spectrum above half of the Nyquist frequency."""
    piqe: float = math.nan
    """Without a reference, lower is better; for the cases of Table 2 alone."""
    seconds: float = math.nan
    """Wall time of the restoration, compiled beforehand."""
    memory: float = math.nan
    """Peak in MiB above what the process held before: interpreter, libraries, input."""
    seed: int = 0
    noise: str = "estimated"
    """Whether the methods estimated the noise or were given it."""
    version: str = ""
    """Of the code that made it."""

    @property
    def done(self) -> bool:
        """Whether there are scores."""
        return self.status == "done"


SCORES = (
    "psnr", "ssim", "nrmse", "psnr_missing", "ssim_missing", "nrmse_missing", "profile_ccc", "profile_pcc", "hf_error",
    "piqe", "seconds", "memory",
)  # fmt: skip
LOWER_IS_BETTER = ("nrmse", "nrmse_missing", "hf_error", "piqe", "seconds", "memory")


def score(degraded: Degraded, estimate: Array) -> dict[str, float]:
    """All scores of an estimate; one that the volume does not allow is left out.

    Raises
    ------
    InputError
        The estimate has another shape than the truth, or NaN or infinite values.
    """
    truth, missing = degraded.truth, ~degraded.measured
    estimate = np.asarray(estimate)
    if estimate.shape != truth.shape:
        raise InputError(f"the method returned shape {estimate.shape}, expected {truth.shape}")
    bad = int(np.count_nonzero(~np.isfinite(estimate)))
    if bad:
        raise InputError(f"the method returned {bad} NaN or infinite voxels, expected finite numbers")
    found = {
        "psnr": metrics.psnr(truth, estimate, data_range=1),
        "ssim": metrics.ssim(truth, estimate, data_range=1, window=7),
        "nrmse": metrics.nrmse(truth, estimate),
    }
    more: dict[str, Callable[[], float]] = {
        "profile_ccc": lambda: metrics.profile_ccc(truth, estimate),
        "profile_pcc": lambda: metrics.profile_pcc(truth, estimate),
        "hf_error": lambda: metrics.hf_spectral_error(truth, estimate),
    }
    if missing.any():
        more |= {
            "psnr_missing": lambda: metrics.psnr(truth, estimate, data_range=1, mask=missing),
            "ssim_missing": lambda: metrics.ssim(truth, estimate, data_range=1, window=7, mask=missing),
            "nrmse_missing": lambda: metrics.nrmse(truth, estimate, mask=missing),
        }
    for name, compute in more.items():
        with suppress(InputError):  # such as a reference that is constant or black where it is scored
            found[name] = compute()
    return {name: float(value) for name, value in found.items()}


# ---------------------------------------------------------------------------------------------- cells, one by one


@dataclass(frozen=True, eq=False)
class Cell:
    """One volume, case and method, with what its result depends on."""

    reference: Reference
    case: Case
    method: Method
    seed: int
    noise: Noise
    version: str

    @property
    def key(self) -> str:
        """The same for cells that give the same result."""
        parts = (
            self.reference.digest, self.case.name, self.case.says, self.method.name, self.seed, self.noise, self.version
        )  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]

    @property
    def degraded(self) -> Degraded:
        """The reference degraded; the noise is in it only where it is given to the methods."""
        degraded = self.case.apply(self.reference, self.seed)
        if self.noise == "given":
            return degraded
        return replace(degraded, measurement=replace(degraded.measurement, sigma=None))

    def row(self, **found: Any) -> Row:
        """A row of the table with what was found."""
        return Row(
            volume=self.reference.label,
            case=self.case.name,
            method=self.method.name,
            seed=self.seed,
            noise=self.noise,
            version=self.version,
            **found,
        )


def code_version(method: Method) -> str:
    """Digest of the code that a method's scores come from, and the versions of the packages it needs."""
    package = Path(__file__).parent
    files = [Path(__file__), *(package / "metrics").glob("*.py")]
    run: Any = method.run
    while isinstance(run, functools.partial):
        run = run.func
    files.append(Path(sys.modules[run.__module__].__file__ or __file__))
    if method.ours:
        folders = [package, package / "solvers"] + (
            [package / "diffusion_guidance"] if method.name == "diffusion" else []
        )
        pages = ("_page.py", "cli.py", "demo.py")
        files += [file for folder in folders for file in folder.glob("*.py") if not file.name.endswith(pages)]
    digest = hashlib.sha256()
    for file in sorted(set(files)):
        digest.update(file.name.encode() + file.read_bytes())
    distributions = importlib.metadata.packages_distributions() if method.needs else {}
    versions = [
        f"{name} {importlib.metadata.version(distributions[name][0])}" for name in method.needs if name in distributions
    ]
    return " ".join((digest.hexdigest()[:12], *versions))


WARM_UP = (13, 24, 24)
CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tensorcell.evaluation import work; work(sys.argv[2])"
)


def work(folder: str) -> None:
    """Do the cell of ``folder/task.pkl`` in this process, which is there for it alone."""
    with suppress(OSError):  # where the system has such a file: when memory ends, this process goes before its parent
        Path("/proc/self/oom_score_adj").write_text("1000")
    write_whole(Path(folder) / "found.json", json.dumps(attempt(Path(folder))).encode())


def attempt(folder: Path) -> dict[str, Any]:
    """What `measure` finds for the cell of a folder, or the reason why it finds nothing."""
    try:
        cell, data = pickle.loads((folder / "task.pkl").read_bytes())
        cell = replace(cell, reference=cell.reference._replace(data=np.load(data, mmap_mode="r")))
        return measure(cell, folder / "slices.npz")
    except InputError as error:
        return {"status": f"refused: {' '.join(str(error).split())}"}
    except MemoryError:
        return {"status": "failed: not enough memory"}
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return {"status": f"failed: {reason}", "traceback": traceback.format_exc()}


def measure(cell: Cell, slices: Path | None = None) -> dict[str, Any]:
    """Degrade, restore and score one cell here; the two slices that a picture shows go to a file."""
    method, degraded = cell.method, cell.degraded
    small = cell.reference.data[central(cell.reference.data.shape, WARM_UP)]
    tiny = replace(cell, reference=cell.reference._replace(data=small)).degraded
    first = METHODS["auto"] if method.name == "diffusion" else method  # nobody waits for a prior of a tiny volume
    with suppress(Exception):  # kernels are compiled and modules imported; what goes wrong shows in the cell itself
        first.run(tiny.measurement, cell.seed)
    before = _reset_peak()
    start = time.perf_counter()
    estimate = np.asarray(method.run(degraded.measurement, cell.seed))
    seconds = time.perf_counter() - start
    found: dict[str, Any] = {"seconds": seconds, "memory": max(0.0, _peak() - before)}
    found |= score(degraded, estimate)
    if method.ours and cell.case.name in TABLE_2:
        with suppress(InputError):
            found["piqe"] = float(metrics.piqe(np.clip(estimate, 0, 1), data_range=1.0))
    if slices is not None:
        plane, row = choose_slices(degraded.measured, degraded.truth)
        stream = io.BytesIO()
        np.savez_compressed(stream, xy=estimate[plane].astype(np.float32), xz=estimate[:, row].astype(np.float32))
        write_whole(slices, stream.getvalue())
    return found


def _reset_peak() -> float:
    """Memory of this process in MiB; the peak counts from here where the system can do that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS") or _peak()


def _peak() -> float:
    found = _status_mib("VmHWM")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _status_mib(name: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)


class _Running(NamedTuple):
    cell: Cell
    process: subprocess.Popen[bytes]
    folder: Path
    begun: float


def _run(
    cells: Sequence[Cell], folder: Path, jobs: int, time_limit: float | None
) -> Iterator[tuple[Cell, dict[str, Any], Path | None, float]]:
    """Run cells, ``jobs`` at a time: each with what was found, the file of its slices, and its wall time in all."""
    queue, running = list(cells), list[_Running]()
    with tempfile.TemporaryDirectory(prefix=".tensorcell-", dir=folder, ignore_cleanup_errors=True) as scratch:
        try:
            while queue or running:
                while queue and len(running) < jobs:
                    running.append(_start(queue.pop(0), Path(scratch)))
                ended = [run for run in running if run.process.poll() is not None or _is_late(run, time_limit)]
                for run in ended:
                    running.remove(run)
                    late = run.process.poll() is None
                    if late:
                        run.process.kill()
                        run.process.wait()
                    found = {"status": f"failed: over the time limit of {time_limit:g} s"} if late else _outcome(run)
                    slices = run.folder / "slices.npz"
                    yield run.cell, found, slices if slices.exists() else None, time.perf_counter() - run.begun
                if not ended:
                    time.sleep(0.02)
        finally:
            for run in running:
                run.process.kill()
                run.process.wait()


def _is_late(run: _Running, time_limit: float | None) -> bool:
    return time_limit is not None and time.perf_counter() - run.begun > time_limit


def _start(cell: Cell, scratch: Path) -> _Running:
    """A fresh interpreter for one cell, in a session of its own: Ctrl-C reaches us alone, and we end it."""
    folder = _prepare(cell, scratch)
    command = [sys.executable, "-c", CHILD, json.dumps(sys.path), str(folder)]
    quiet = subprocess.DEVNULL
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=errors, start_new_session=True)
    return _Running(cell, process, folder, time.perf_counter())


def _prepare(cell: Cell, scratch: Path) -> Path:
    """A folder with the task; the voxels of a reference lie beside it, once for all its cells."""
    data = scratch / f"{cell.reference.digest}.npy"
    if not data.exists():
        np.save(data, cell.reference.data)
    folder = Path(tempfile.mkdtemp(dir=scratch))
    light = replace(cell, reference=cell.reference._replace(data=np.zeros(0, np.float32)))
    (folder / "task.pkl").write_bytes(pickle.dumps((light, str(data))))
    return folder


def _outcome(run: _Running) -> dict[str, Any]:
    result = run.folder / "found.json"
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text())
        return found
    status = run.process.returncode
    said = (run.folder / "stderr").read_text(errors="replace").strip().splitlines()
    reason = f"ended with status {status}" if status >= 0 else f"killed by signal {-status}"
    if status == -9:
        reason += ", most likely for lack of memory"
    return {"status": f"failed: {reason}" + (f": {said[-1][:200]}" if said else "")}


# ------------------------------------------------------------------------------------------------ finished cells


class Store:
    """Finished cells of a folder: one line of JSON each in ``cells.jsonl``, appended whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "cells.jsonl"
        self.slices = folder / "slices"

    def load(self) -> dict[str, dict[str, Any]]:
        """Cells by key, the last one of each; a line that was cut off by a crash is skipped."""
        found: dict[str, dict[str, Any]] = {}
        if self.file.exists():
            for line in self.file.read_text().splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    record = json.loads(line)
                    found[record["key"]] = record["found"]
        return found

    def add(self, cell: Cell, found: Mapping[str, Any], slices: Path | None) -> None:
        """Keep a cell: its slices first, then its line in one write."""
        if slices is not None:
            self.slices.mkdir(exist_ok=True)
            os.replace(slices, self.slices / f"{cell.key}.npz")
        names = {"volume": cell.reference.label, "case": cell.case.name, "method": cell.method.name, "seed": cell.seed}
        line = json.dumps({"key": cell.key, **names, "version": cell.version, "found": found}) + "\n"
        with self.file.open("ab+") as file:
            if file.tell() and not _ends_line(file):
                line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def picture_slices(self, cell: Cell) -> tuple[Array, Array] | None:
        """The xy and xz slice of a cell's result."""
        try:
            with np.load(self.slices / f"{cell.key}.npz") as stored:
                return stored["xy"], stored["xz"]
        except (OSError, ValueError, KeyError):
            return None


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


# ------------------------------------------------------------------------------------------------------ the grid


class Progress(NamedTuple):
    """How far a run has come."""

    done: int
    total: int
    """Cells to do in this run; those kept from earlier ones are not counted."""
    reused: int
    cell: str
    """The one that was finished last."""
    seconds_left: float
    """From the pace of each method so far; NaN before the first cell."""


class Mean(NamedTuple):
    """Means of a method's scores over the volumes where it was done."""

    case: str
    method: str
    volumes: int
    scores: Mapping[str, float]


class Difference(NamedTuple):
    """How much better a method is than the best of others, volume by volume (positive: better)."""

    case: str
    mean: float
    lowest: float
    volume: str
    """Where it is lowest."""
    volumes: int


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` returns.

    Attributes
    ----------
    rows : tuple of Row
        One a cell: volume by volume, case by case.
    reused : int
        Cells that were finished in an earlier run.
    seconds : float
        Wall time of this run.
    notes : tuple of str
        What one should know of the scores, a line each.
    folder : Path
        Where everything was written.
    """

    rows: tuple[Row, ...]
    reused: int
    seconds: float
    notes: tuple[str, ...]
    folder: Path

    @property
    def failed(self) -> tuple[Row, ...]:
        """Cells without scores."""
        return tuple(row for row in self.rows if not row.done)

    def means(self) -> tuple[Mean, ...]:
        """Means over volumes, for each case and method; a method with no finished cell in a case is left out."""
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in self.rows:
            if row.done:
                groups[row.case, row.method].append(row)
        return tuple(
            Mean(case, method, len(rows), {name: _mean([getattr(row, name) for row in rows]) for name in SCORES})
            for (case, method), rows in groups.items()
        )

    def differences(self, method: str, against: str | Sequence[str], *, score: str = "psnr") -> tuple[Difference, ...]:
        """How much better a method scores than the best of others in the same volume, case by case.

        Counted are volumes where the method and at least one of the others are done.

        Parameters
        ----------
        method : str
        against : str or sequence of str
            With several, the best of them in each volume.
        score : str
            One of `SCORES`; where lower is better, the sign is turned.
        """
        if score not in SCORES:
            raise InputError(f"expected a score among {', '.join(SCORES)}, got {score!r}")
        sign = -1.0 if score in LOWER_IS_BETTER else 1.0
        others = (against,) if isinstance(against, str) else tuple(against)
        values = {(r.case, r.volume, r.method): sign * getattr(r, score) for r in self.rows if r.done}
        gains: dict[str, dict[str, float]] = defaultdict(dict)
        for (case, volume, name), value in values.items():
            rivals = [values[case, volume, other] for other in others if (case, volume, other) in values]
            if name == method and rivals and math.isfinite(value - max(rivals)):
                gains[case][volume] = value - max(rivals)
        return tuple(
            Difference(case, _mean(list(found.values())), found[worst], worst, len(found))
            for case, found in gains.items()
            for worst in [min(found, key=lambda volume: found[volume])]
        )

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write all rows as CSV; a score that does not apply is empty."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        names = [part.name for part in fields(Row)]
        writer.writerow(names)
        for row in self.rows:
            values = [getattr(row, name) for name in names]
            writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in values])
        write_whole(path, stream.getvalue().encode())

    def to_markdown(self) -> str:
        """Means, differences between our methods and the others, and every cell, as Markdown tables."""
        from tensorcell.evaluation_page import markdown

        return markdown(self)

    def summary(self) -> str:
        """The tables of means alone, for a terminal."""
        from tensorcell.evaluation_page import summary

        return summary(self)

    def paper_table(self, method: str = "auto") -> str:
        """Means of a method in the form of Table 2 of "Recover Cell Tensor", as Markdown.

        Raises
        ------
        InputError
            The method has no finished cell in any of its settings.
        """
        from tensorcell.evaluation_page import paper_table

        return paper_table(self, method)

    def paper_tables(self) -> str:
        """`paper_table` of each of our methods."""
        ours = dict.fromkeys(row.method for row in self.rows if row.method in METHODS and METHODS[row.method].ours)
        finished = [
            name for name in ours if any(row.done and row.case in TABLE_2 for row in self.rows if row.method == name)
        ]
        if not finished:
            raise InputError("expected a finished cell of one of our methods for the table, got none")
        return "\n".join(self.paper_table(name) for name in finished)

    @property
    def sentence(self) -> str:
        """How many cells there are, how many were done now, and where they are."""
        text = f"{len(self.rows)} cells: {len(self.rows) - self.reused} done now in {duration(self.seconds)}, "
        text += f"{self.reused} from before"
        if self.failed:
            text += f"; {len(self.failed)} have no scores"
        return f"{text}; {self.folder / 'index.html'}"

    def to_dict(self) -> dict[str, Any]:
        """Rows, means and notes as plain numbers and texts for JSON; a score that does not apply is None."""

        def plain(value: Any) -> Any:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return {
            "rows": [{name: plain(value) for name, value in asdict(row).items()} for row in self.rows],
            "means": [
                {"case": m.case, "method": m.method, "volumes": m.volumes, **{k: plain(v) for k, v in m.scores.items()}}
                for m in self.means()
            ],
            "notes": list(self.notes),
            "reused": self.reused,
            "seconds": round(self.seconds, 3),
            "folder": str(self.folder),
        }


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def evaluate(
    volumes: Any,
    *,
    out: str | os.PathLike[str],
    methods: Iterable[str | Method] | None = None,
    cases: Iterable[str | Case] | None = None,
    crop: Sequence[int] | None = None,
    noise: Noise = "estimated",
    seed: int = 0,
    jobs: int = 1,
    time_limit: float | None = None,
    retry: bool = False,
    progress: bool | Callable[[Progress], None] = False,
) -> Evaluation:
    """Degrade references, restore them with several methods and score all in one table.

    Parameters
    ----------
    volumes : Volume, array or path, a sequence of these, or a mapping of names to them
        References. Each is clipped to its 0.1 and 99.9 percentiles and scaled to [0, 1]. Of a volume with channels or
        frames the first stack is taken; its label says so. They should have little noise of their own: it limits what
        any method can score.
    out : path
        Folder for ``cells.jsonl`` (finished cells), ``scores.csv``, ``scores.md``, ``index.html`` and ``pictures``.
    methods : names or Method, optional
        See `METHODS` and `choose_methods`. A method is run on the cases it is for.
    cases : names or Case, optional
        See `CASES` and `choose_cases`.
    crop : (planes, rows, columns), optional
        Take the centre of each reference, after scaling.
    noise : {"estimated", "given"}
        Whether every method estimates the noise for itself, or all are given the standard deviation where it is one.
        Nothing else of the truth reaches any method.
    seed : int
        For the degradation, and for methods that draw numbers.
    jobs : int
        Cells at a time. With more than 1 they share the processors, and seconds mean less.
    time_limit : float, optional
        Seconds after which a cell is given up, the start of its interpreter included.
    retry : bool
        Do cells again that failed or were refused.
    progress : bool or callable
        True: a bar on stderr, if that is a terminal. A callable gets a `Progress` at the start and after every cell.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        An unknown case or method, a method whose package is not installed, a volume that cannot serve as reference, or
        no cell at all; one line says what, expected and got. What fails inside a cell is a row, not an error.

    Notes
    -----
    A cell is kept under a key of the voxels, case, method, seed, ``noise`` and the source code that it depends on: a
    changed solver repeats the cells of our methods, and those of other packages stay. Memory here: the references.
    """
    start = time.perf_counter()
    if noise not in ("estimated", "given"):
        raise InputError(f"expected noise 'estimated' or 'given', got {noise!r}")
    if isinstance(jobs, bool) or int(jobs) != jobs or jobs < 1:
        raise InputError(f"expected at least 1 job, got {jobs}")
    if time_limit is not None and not time_limit > 0:
        raise InputError(f"expected a positive time limit in seconds, got {time_limit}")
    chosen_cases, chosen_methods = choose_cases(cases), choose_methods(methods)
    for method in chosen_methods:
        _check_importable(method)
    cells = _cells(references(volumes, crop), chosen_cases, chosen_methods, seed, noise)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder for the results: {error.strerror}") from None
    store = Store(folder)
    known = store.load()
    if retry:
        known = {key: found for key, found in known.items() if found.get("status", "done") == "done"}
    waiting = [cell for cell in cells if cell.key not in known]
    reused = len(cells) - len(waiting)
    with _reporter(progress, len(waiting)) as report:
        pace = _Pace(waiting, jobs)
        report(Progress(0, len(waiting), reused, "", pace.left()))
        for cell, found, slices, seconds in _run(waiting, folder, jobs, time_limit):
            store.add(cell, found, slices)
            known[cell.key] = found
            pace.add(cell, seconds)
            name = f"{cell.reference.label}, {cell.case.name}, {cell.method.name}"
            report(Progress(pace.done, len(waiting), reused, name, pace.left()))
    rows = tuple(
        cell.row(**{name: value for name, value in known[cell.key].items() if name != "traceback"}) for cell in cells
    )
    notes = _notes(cells, rows, jobs)
    if waiting and any(code_version(method) != version for method, version in _versions(cells)):
        notes += ("the code was changed while this ran: repeat it",)
    result = Evaluation(rows, reused, time.perf_counter() - start, notes, folder)
    from tensorcell.evaluation_page import write_pages

    write_pages(result, cells, store)
    return result


def _cells(
    stacks_: Sequence[Reference], cases: Sequence[Case], methods: Sequence[Method], seed: int, noise: Noise
) -> list[Cell]:
    versions = {method.name: code_version(method) for method in methods}
    cells = [
        Cell(reference, case, method, seed, noise, versions[method.name])
        for reference in stacks_
        for case in cases
        for method in methods
        if case.kind in method.kinds
    ]
    for method in methods:
        if not any(case.kind in method.kinds for case in cases):
            wanted = ", ".join(case.name for case in cases)
            raise InputError(f"method {method.name} is for {', '.join(method.kinds)}, got the cases {wanted}")
    return cells


def _versions(cells: Sequence[Cell]) -> list[tuple[Method, str]]:
    return list({cell.method.name: (cell.method, cell.version) for cell in cells}.values())


def _check_importable(method: Method) -> None:
    """A fresh interpreter has to find the function by its module and name."""
    try:
        pickle.dumps(method)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"method {method.name} must be a function of a module, not a lambda or local: {error}"
        ) from None
    run: Any = method.run
    while isinstance(run, functools.partial):
        run = run.func
    if run.__module__ == "__main__":
        raise InputError(
            f"method {method.name} must be a function of an importable module, got one of the script itself"
        )


def _notes(cells: Sequence[Cell], rows: Sequence[Row], jobs: int) -> tuple[str, ...]:
    """What limits the scores, and how they came about."""
    notes = []
    for reference in {cell.reference.label: cell.reference for cell in cells}.values():
        shape, cap = " x ".join(map(str, reference.data.shape)), -20 * math.log10(reference.noise or 1e-10)
        notes.append(
            f"{reference.label}: {shape} voxels, own noise about {reference.noise:.2g}; a PSNR near "
            f"{cap:.0f} dB or above says nothing"
        )
    first = cells[0]
    given = "given to all methods where it is one" if first.noise == "given" else "estimated by each method"
    notes.append(f"seed {first.seed}; the standard deviation of the noise is {given}; no method sees the truth")
    notes.append(
        "scores on [0, 1] without a fit of scale or shift; memory is the peak above that before the restoration"
    )
    if jobs > 1:
        notes.append(f"{jobs} cells ran at a time and shared the processors: seconds do not compare with other runs")
    lost = sum(not row.done for row in rows)
    if lost:
        notes.append(f"{lost} of {len(rows)} cells have no scores; the table gives the reason")
    notes.append(f"Python {platform.python_version()}, {os.cpu_count()} processors")
    return tuple(notes)


class _Pace:
    """What the cells that wait will take: by the seconds of their method so far, else by those of all."""

    def __init__(self, cells: Sequence[Cell], jobs: int) -> None:
        self.waiting = defaultdict[str, int](int)
        for cell in cells:
            self.waiting[cell.method.name] += 1
        self.spent = defaultdict[str, list[float]](list)
        self.jobs, self.done = jobs, 0

    def add(self, cell: Cell, seconds: float) -> None:
        self.done += 1
        self.waiting[cell.method.name] -= 1
        self.spent[cell.method.name].append(seconds)

    def left(self) -> float:
        everything = [seconds for spent in self.spent.values() for seconds in spent]
        if not everything:
            return 0.0 if not any(self.waiting.values()) else math.nan
        parts = (count * float(np.mean(self.spent[name] or everything)) for name, count in self.waiting.items())
        return sum(parts) / self.jobs


@contextmanager
def _reporter(progress: bool | Callable[[Progress], None], total: int) -> Iterator[Callable[[Progress], None]]:
    """What is called after every cell: the caller's own, or a bar on stderr if that is a terminal."""
    if callable(progress):
        yield progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Bar(
        *columns, console=Console(stderr=True), transient=True, disable=not (progress and sys.stderr.isatty())
    ) as bar:
        task = bar.add_task("", total=total)

        def show(step: Progress) -> None:
            left = "" if math.isnan(step.seconds_left) else f"about {duration(step.seconds_left)} left; "
            bar.update(task, completed=step.done, description=f"{left}{step.cell or 'first cell'}")

        yield show


def duration(seconds: float) -> str:
    """Whole seconds, minutes or hours.

    >>> duration(7.4), duration(400), duration(9000)
    ('7 s', '7 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
