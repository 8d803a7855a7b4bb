"""How far restored volumes are to be believed: measured at examples that were held out of the fits.

The samples' spread is no standard deviation of the error: a network errs together with all its samples. So examples of
which the truth is known are restored, and the spread is scaled, by brightness, until the intervals hold it (split
conformal prediction, :mod:`tensorcell.solvers.calibration`). What a restored volume would have been measured as is
compared with the measurement, too: how far they differ at held-out examples is what a restoration of a scan of the same
kind may differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tensorcell.diffusion_guidance.microdiffuse3d.data import Example
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import along_z
from tensorcell.solvers.calibration import Calibration, calibrated

Floats = npt.NDArray[Any]

MOST_VOXELS = 400_000
"""Most voxels of held-out examples that are calibrated with."""

LEAST_MISFIT = 0.05
"""A misfit below this share of the measurement's standard deviation is as good as none."""

FEWEST = 4
"""Fewest examples that are restored, however long it takes."""

LEAST_SPREAD = 0.05
"""Part of the shape of the error that does not depend on the samples' spread, as a share of the error's root mean
square: few samples may agree by chance."""


@dataclass(frozen=True, kw_only=True)
class Widths:
    """A :class:`tensorcell.solvers.calibration.Calibration`, as it is written to a file."""

    intensities: tuple[float, ...]
    squares: tuple[float, ...]
    least: float

    @staticmethod
    def of(errors: Floats, shape: Floats, intensity: Floats) -> Widths:
        """From errors of any shape."""
        found = calibrated(errors, np.zeros(errors.size), shape, intensity)
        return Widths(
            intensities=tuple(found.intensities.tolist()),
            squares=tuple(found.squares.tolist()),
            least=float(found.least),
        )

    def __post_init__(self) -> None:
        """Check what a file may hold."""
        if not all(math.isfinite(number) for number in (*self.intensities, *self.squares, self.least)):
            raise ValueError("expected finite numbers in the calibration")
        if not self.intensities or len(self.intensities) != len(self.squares):
            raise ValueError(
                f"expected as many intensities as factors, got {len(self.intensities)} and {len(self.squares)}"
            )

    def __call__(self, intensity: Floats, shape: Floats | float) -> Floats:
        """Standard deviations."""
        found = Calibration(np.asarray(self.intensities), np.asarray(self.squares), self.least)
        return np.asarray(found(intensity, shape))


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What was found at held-out examples. Intensities are those of the truth, 0 to 1.

    Attributes
    ----------
    samples, steps : int
        With which they were restored; the factors hold for as many samples.
    error, interpolation : float
        Root mean square error of the mean of the samples, and of linear interpolation.
    without : float
        That of what is returned where the networks are not used, at the same examples. Infinite: not known.
    misfit : float
        Root mean square difference of what is measured of the restored volumes from the measurement, beyond noise, as a
        share of the measurement's standard deviation: the largest of nine tenths of the examples.
    floor : float
        Part of the shape of the error that does not depend on the spread.
    spread : Widths
        Standard deviations of the error, as a multiple of the samples' spread; for so many samples of so many steps.
    single : Widths
        Standard deviations of the error of one sample, whatever its spread: an upper bound for other numbers.
    """

    samples: int
    steps: int
    error: float
    interpolation: float
    misfit: float
    floor: float
    spread: Widths
    single: Widths
    without: float = math.inf

    def __post_init__(self) -> None:
        """Check what a file may hold."""
        finite = self.error, self.interpolation, self.misfit, self.floor
        if not all(0 <= number < math.inf for number in finite) or not self.without >= 0:
            raise ValueError("expected finite errors of at least 0 in the calibration")

    def excess(self, misfit: float) -> float:
        """A misfit as a multiple of that at held-out examples."""
        return misfit / max(self.misfit, LEAST_MISFIT)

    def width(self, mean: Floats, spread: Floats, *, samples: int, steps: int) -> Floats:
        """Standard deviation of the error of restored voxels of these means and spreads."""
        if (samples, steps) == (self.samples, self.steps):
            return self.spread(mean, np.hypot(spread, self.floor))
        return self.single(mean, 1.0)


class RestoredExample(NamedTuple):
    """A restored example, in intensities of its truth."""

    mean: Floats
    """``(D, H, W)``."""
    spread: Floats
    single: Floats
    """One of the samples."""
    misfit: float
    without: Floats | None = None
    """``(D, H, W)``: what is returned where the networks are not used, in any scale."""


def held_out(
    restore: Callable[[Example, torch.Generator], RestoredExample], examples: Sequence[Example], *, samples: int,
    steps: int, seconds: float = math.inf, seed: int = 0,
) -> HeldOut:  # fmt: skip
    """Restore held-out examples and compare them with their truth.

    Parameters
    ----------
    restore : callable
    examples : sequence of Example
        Of one volume each.
    samples, steps : int
        With which `restore` works.
    seconds : float
        Time after which no other example is begun, once there are :data:`FEWEST`.
    """
    began, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
    found: list[RestoredExample] = []
    truths: list[Floats] = []
    straight: list[Floats] = []
    squares: list[float] = []
    for example in examples:
        if len(found) >= FEWEST and time.perf_counter() - began > seconds:
            break
        found.append(restore(example, generator))
        truth = example.truth.numpy()
        truths.append(truth.ravel())
        if found[-1].without is not None:
            squares.append(float(np.mean(np.square(matched(found[-1].without, truth[0, 0]) - truth[0, 0]))))
        depth, planes = example.truth.shape[2], example.volume.shape[2]
        between = along_z(example.volume, -(-depth // planes))[:, :, :depth]
        straight.append(matched(between.numpy(), truth).ravel())
    true, linear = np.concatenate(truths).astype(np.float64), np.concatenate(straight)
    mean, spread, single = (
        np.concatenate([np.ravel(getattr(each, name)) for each in found]).astype(np.float64)
        for name in ("mean", "spread", "single")
    )
    chosen = np.random.default_rng(seed).permutation(mean.size)[:MOST_VOXELS]
    error = root_mean_square(mean - true)
    floor = LEAST_SPREAD * error
    mean, spread, single, true_chosen = mean[chosen], spread[chosen], single[chosen], true[chosen]
    return HeldOut(
        samples=samples, steps=steps, error=error, interpolation=root_mean_square(linear - true),
        misfit=float(np.quantile([each.misfit for each in found], 0.9)), floor=floor,
        spread=Widths.of(mean - true_chosen, np.hypot(spread, floor), mean),
        single=Widths.of(single - true_chosen, np.ones(single.size), single),
        without=math.sqrt(float(np.mean(squares))) if len(squares) == len(found) else math.inf,
    )  # fmt: skip


def root_mean_square(errors: Floats) -> float:
    """The root of the mean of squares."""
    return math.sqrt(float(np.mean(np.square(errors))))


def matched(values: npt.NDArray[Any], truth: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values with the scale and offset that suit the truth best, since each is normalised by itself."""
    x, y = np.ravel(values).astype(np.float64), np.ravel(truth).astype(np.float64)
    variance = float(np.var(x))
    slope = float(np.mean((x - x.mean()) * (y - y.mean()))) / variance if variance > 0 else 0.0
    return np.asarray(slope * (values - x.mean()) + y.mean())
