"""Cases: the ways to degrade a reference, what a method sees of it, and what it is judged by."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.errors import InputError
from tensorcell.evaluation.references import Reference

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Measurement:
    """What a method gets to see.

    Attributes
    ----------
    data : float32 array ``(planes, Y, X)``
        NaN = not measured. With ``axial_factor`` s these are planes 0, s, 2s, ... of the wanted stack.
    axial_factor : int
    lateral_factor : int
        Pixels given are means of so many by so many pixels of the wanted stack.
    sigma : float or None
        Standard deviation of the noise where it is given to all methods; None: each estimates it.
    options : mapping
        Further arguments for :func:`tensorcell.recover`.
    """

    data: Array
    axial_factor: int = 1
    sigma: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    lateral_factor: int = 1
    series: Array | None = None
    """The frames ``(T, planes, Y, X)`` of which ``data`` is one, for methods that know of time."""
    frame: int = 0
    """The one."""

    @property
    def grid(self) -> Array:
        """The data on the grid of the wanted stack, NaN where nothing was measured; larger pixels are repeated."""
        data = self.data
        if self.lateral_factor > 1:
            data = data.repeat(self.lateral_factor, 1).repeat(self.lateral_factor, 2)
        if self.axial_factor == 1:
            return data
        planes = (len(data) - 1) * self.axial_factor + 1
        full = np.full((planes, *data.shape[1:]), np.nan, data.dtype)
        full[:: self.axial_factor] = data
        return full


@dataclass(frozen=True, eq=False)
class Degraded:
    """A degraded reference: what a method sees, and what it is judged by."""

    measurement: Measurement
    truth: Array
    """``(Z, Y, X)``, cut to the last measured plane."""
    measured: Bools
    """Of the truth's shape, True = measured."""


@dataclass(frozen=True)
class Case:
    """One way to degrade a reference.

    Attributes
    ----------
    name : str
    kind : str
        What decides which methods are run on it: "clean", "noise", "planes", "noisy planes", "gaps" (voxels are
        missing and some of the others wrong), "artefacts" (no voxel is missing, some are wrong), "resolution" (planes
        and pixels are fewer), "time" (noisy planes of a frame among others).
    says : str
        What is done, for tables.
    degrade : callable
        ``degrade(truth, rng) -> Degraded``, pure: it does not write to the truth and takes all chance from the
        generator.
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
    """A degradation after which every voxel is still measured."""
    return Degraded(Measurement(np.asarray(data, np.float32), 1, sigma, options), truth, np.ones(truth.shape, bool))


def degrade_clean(truth: Array, rng: np.random.Generator) -> Degraded:
    """Nothing is done."""
    return _complete(truth, truth)


def degrade_noise(truth: Array, rng: np.random.Generator, *, sigma: float) -> Degraded:
    """``v + sigma n``, n standard normal."""
    return _complete(truth + sigma * rng.standard_normal(truth.shape), truth, sigma, keep_measured=False)


def degrade_poisson(truth: Array, rng: np.random.Generator, *, peak: float, sigma: float = 0.01) -> Degraded:
    """``poisson(peak v) / peak + sigma n``: noise without one standard deviation, so that none is given to methods."""
    noisy = rng.poisson(peak * truth.astype(np.float64)) / peak + sigma * rng.standard_normal(truth.shape)
    return _complete(noisy, truth, keep_measured=False)


def degrade_planes(truth: Array, rng: np.random.Generator, *, factor: int, sigma: float = 0.0) -> Degraded:
    """Measure planes 0, s, 2s, ... of the reference, cut to the last of them; with ``sigma`` they are noisy."""
    truth = truth[: (len(truth) - 1) // factor * factor + 1]
    planes = truth[::factor]
    measured = np.zeros(truth.shape, bool)
    measured[::factor] = True
    if sigma == 0:
        return Degraded(Measurement(planes, factor), truth, measured)
    noisy = (planes + sigma * rng.standard_normal(planes.shape)).astype(np.float32)
    return Degraded(Measurement(noisy, factor, sigma, {"keep_measured": False}), truth, measured)


def degrade_resolution(
    truth: Array, rng: np.random.Generator, *, factor: int, lateral: int, psf: float = 0.0, photons: float = math.inf
) -> Degraded:
    """Measure planes 0, s, 2s, ... in pixels of ``f x f``, after a Gaussian PSF of widths ``(2 psf, psf, psf)`` voxels.

    The reference is cut to the last measured plane and to whole pixels. With `photons` at 1, and a read noise of .01.
    """
    from scipy.ndimage import gaussian_filter

    planes = (len(truth) - 1) // factor * factor + 1
    rows, columns = (size // lateral * lateral for size in truth.shape[1:])
    truth = truth[:planes, :rows, :columns]
    seen = gaussian_filter(truth.astype(np.float64), (2 * psf, psf, psf), mode="nearest")[::factor]
    seen = seen.reshape(len(seen), rows // lateral, lateral, columns // lateral, lateral).mean(axis=(2, 4))
    if math.isfinite(photons):
        seen = rng.poisson(photons * seen) / photons + 0.01 * rng.standard_normal(seen.shape)
    measurement = Measurement(seen.astype(np.float32), factor, lateral_factor=lateral)
    return Degraded(measurement, truth, np.zeros(truth.shape, bool))


def degrade_series(
    truth: Array, rng: np.random.Generator, *, frames: int, factor: int, sigma: float, step: float = 0.5
) -> Degraded:
    """Noisy planes of a specimen that drifts and deforms; the frame in the middle is judged.

    Per frame it drifts by `step` voxels along y, half of that along x, and each part of it moves by a smooth random way
    of standard deviation ``step / 2``, half of that along z. Cubic splines move it: linear ones would smooth the other
    frames, so that they lacked what the judged one shows.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    truth = truth[: (len(truth) - 1) // factor * factor + 1]
    places = np.indices(truth.shape, np.float32)
    ways = np.stack([gaussian_filter(rng.standard_normal(truth.shape).astype(np.float32), 6) for _ in range(3)])
    ways *= step / 2 / ways.std() * np.array([0.5, 1, 1], np.float32)[:, None, None, None]
    ways += step * np.array([0, 1, 0.5], np.float32)[:, None, None, None]
    middle = frames // 2
    seen = np.empty((frames, len(range(0, len(truth), factor)), *truth.shape[1:]), np.float32)
    for number, frame in enumerate(seen):
        moved = truth if number == middle else map_coordinates(truth, places + (number - middle) * ways, order=3)
        frame[...] = moved[::factor] + sigma * rng.standard_normal(frame.shape)
    measured = np.zeros(truth.shape, bool)
    measured[::factor] = True
    options = {"keep_measured": False}
    return Degraded(Measurement(seen[middle], factor, sigma, options, series=seen, frame=middle), truth, measured)


def _masked(data: Array, truth: Array, measured: Bools) -> Degraded:
    """A degradation after which some voxels are not measured."""
    return Degraded(Measurement(np.where(measured, data, np.nan).astype(np.float32)), truth, measured)


def degrade_pixels(truth: Array, rng: np.random.Generator, *, share: float, outliers: float = 0.05) -> Degraded:
    """Measure a share of the voxels at random; a share of these is replaced by uniform numbers in [0, 2]."""
    measured = rng.random(truth.shape) < share
    wrong = rng.random(truth.shape) < outliers
    return _masked(np.where(wrong, rng.uniform(0, 2, truth.shape), truth), truth, measured)


def degrade_lines(truth: Array, rng: np.random.Generator, *, missing: float = 0.2) -> Degraded:
    """A share of the rows of each plane is missing."""
    measured = rng.random(truth.shape[:2]) >= missing
    return _masked(truth, truth, np.broadcast_to(measured[..., None], truth.shape).copy())


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
    hot.flat[rng.integers(hot.size)] = True  # a small image has at least one
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
        says = f"planes 0, {factor}, {2 * factor}, ... measured"
        yield Case(f"planes-{factor}", "planes", says, p(degrade_planes, factor=factor))
    for factor in (2, 3, 4):
        says = f"planes 0, {factor}, {2 * factor}, ... measured, with Gaussian noise, sigma 0.05"
        noisy = p(degrade_planes, factor=factor, sigma=0.05)
        yield Case(f"planes-{factor}+noise-0.05", "noisy planes", says, noisy)
    for percent in (50, 20, 5):
        says = f"{percent} % of the voxels measured, 5 % of these replaced by uniform numbers in [0, 2]"
        yield Case(f"pixels-{percent}", "gaps", says, p(degrade_pixels, share=percent / 100))
    yield Case(
        "sr-4x4",
        "resolution",
        "every 4th plane measured, in pixels of 4 x 4",
        p(degrade_resolution, factor=4, lateral=4),
    )
    yield Case(
        "sr-2x4", "resolution",
        "every 4th plane measured, in pixels of 2 x 2, with a PSF of widths 2, 1, 1 voxels and 100 photons at 1",
        p(degrade_resolution, factor=4, lateral=2, psf=1.0, photons=100),
    )  # fmt: skip
    says = "Poisson noise of 25 photons at 1 (signal to noise 5 at the brightest), and Gaussian noise, sigma 0.01"
    yield Case("snr-5", "noise", says, p(degrade_poisson, peak=25))
    yield Case(
        "time-10", "time",
        "every 2nd plane of ten frames, with Gaussian noise, sigma 0.05, of a specimen that drifts and deforms; one is "
        "judged",
        p(degrade_series, frames=10, factor=2, sigma=0.05),
    )  # fmt: skip
    yield Case("lines", "gaps", "20 % of the rows of each plane missing", degrade_lines)
    yield Case("blocks", "gaps", "10 % of the blocks of 3 x 8 x 8 voxels missing", degrade_blocks)
    yield Case("stripes", "artefacts", "every row of a plane shifted by an offset, sigma 0.05", degrade_stripes)
    yield Case(
        "hot-pixels", "artefacts", "0.5 % of the pixels hot, uniform in [0.5, 2], in all planes", degrade_hot_pixels
    )


CASES: Mapping[str, Case] = {case.name: case for case in _cases()}
"""All cases by name."""
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


FIGURES: Mapping[str, str] = {
    "sr-4x4": "3D super-resolution (16-fold)",
    "sr-2x4": "joint noise and resolution",
    "snr-5": "3D denoising (SNR 5)",
}
"""Settings of Figures 2 to 4 of "MicroDiffuse3D"."""


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
