"""How far restored volumes are to be believed: measured at examples that were held out of the fits.

The samples' spread is no standard deviation of the error: a network errs together with all its samples. So examples of
which the truth is known are restored, and the spread is scaled, by brightness, until the intervals hold it (split
conformal prediction, :mod:`tensorcell.solvers.calibration`). What a restored volume would have been measured as is
compared with the measurement, too: how far they differ at held-out examples is what a restoration of a scan of the same
kind may differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tensorcell.diffusion_guidance.microdiffuse3d.data import Source
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import along_z
from tensorcell.solvers.calibration import Calibration, calibrated

MOST_VOXELS = 400_000
"""Most voxels of held-out examples that are calibrated with."""

LEAST_SPREAD = 0.05
"""Part of the shape of the error that does not depend on the samples' spread, as a share of the error's root mean
square: few samples may agree by chance."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What was found at held-out examples. Intensities are those of the truth, 0 to 1.

    Attributes
    ----------
    samples, steps : int
        With which they were restored; the factors hold for as many samples.
    error, interpolation : float
        Root mean square error of the mean of the samples, and of linear interpolation.
    misfit : float
        Root mean square difference of what is measured of the restored volumes from the measurement, beyond noise, as a
        share of the measurement's standard deviation: the largest of nine tenths of the examples.
    floor : float
        Part of the shape of the error that does not depend on the spread.
    intensities, squares, least
        Of the :class:`tensorcell.solvers.calibration.Calibration` of the errors.
    """

    samples: int
    steps: int
    error: float
    interpolation: float
    misfit: float
    floor: float
    intensities: tuple[float, ...]
    squares: tuple[float, ...]
    least: float

    def __post_init__(self) -> None:
        """Check what a file may hold."""
        numbers = (
            self.error,
            self.interpolation,
            self.misfit,
            self.floor,
            self.least,
            *self.intensities,
            *self.squares,
        )
        if not all(math.isfinite(number) and number >= -1e6 for number in numbers):
            raise ValueError("expected finite numbers in the calibration")
        if not self.intensities or len(self.intensities) != len(self.squares):
            raise ValueError(
                f"expected as many intensities as factors, got {len(self.intensities)} and {len(self.squares)}"
            )

    def width(self, mean: npt.NDArray[Any], spread: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        """Standard deviation of the error of restored voxels of these means and spreads."""
        found = Calibration(np.asarray(self.intensities), np.asarray(self.squares), self.least)
        return found(mean, np.hypot(spread, self.floor))


def held_out(
    restore: Callable[[torch.Tensor, int, torch.Generator], tuple[Any, Any, float]], source: Source, *, samples: int,
    steps: int, examples: int = 12, seed: int = 0,
) -> HeldOut:  # fmt: skip
    """Restore held-out examples and compare them with their truth.

    Parameters
    ----------
    restore : callable
        ``(volume (1, d, H, W), planes, generator) -> (mean, spread, misfit)``, arrays ``(D, H, W)`` in intensities of
        the truth.
    source : Source
        Held-out examples.
    samples, steps : int
        With which `restore` works.
    """
    generator = torch.Generator().manual_seed(seed)
    means, spreads, truths, straight, misfits = [], [], [], [], []
    for _ in range(examples):
        volume, truth = source(1, generator)
        mean, spread, misfit = restore(volume[0], truth.shape[2], generator)
        means.append(np.ravel(mean))
        spreads.append(np.ravel(spread))
        truths.append(truth.numpy().ravel())
        straight.append(matched(along_z(volume, truth.shape[2] // volume.shape[2]).numpy(), truth.numpy()).ravel())
        misfits.append(misfit)
    mean, spread, true, linear = (
        np.concatenate(each).astype(np.float64) for each in (means, spreads, truths, straight)
    )
    chosen = np.random.default_rng(seed).permutation(mean.size)[:MOST_VOXELS]
    errors = mean[chosen] - true[chosen]
    error = math.sqrt(float(np.mean(np.square(mean - true))))
    floor = LEAST_SPREAD * error
    found = calibrated(errors, np.zeros(errors.size), np.hypot(spread[chosen], floor), mean[chosen])
    return HeldOut(
        samples=samples, steps=steps, error=error, interpolation=math.sqrt(float(np.mean(np.square(linear - true)))),
        misfit=float(np.quantile(misfits, 0.9)), floor=floor, intensities=tuple(found.intensities.tolist()),
        squares=tuple(found.squares.tolist()), least=float(found.least),
    )  # fmt: skip


def matched(values: npt.NDArray[Any], truth: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values with the scale and offset that suit the truth best, since each is normalised by itself."""
    x, y = np.ravel(values).astype(np.float64), np.ravel(truth).astype(np.float64)
    variance = float(np.var(x))
    slope = float(np.mean((x - x.mean()) * (y - y.mean()))) / variance if variance > 0 else 0.0
    return np.asarray(slope * (values - x.mean()) + y.mean())
