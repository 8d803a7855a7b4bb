"""Whether a scan looks like those that networks were fitted to: they restore others confidently, and wrongly.

Pieces of scans are summed up by a few numbers that any change of specimen, labelling or optics moves: quantiles of the
normalised intensities and their spread, the shares of the power in six bands of lateral frequency, and the correlation
of neighbouring planes. The distance of a piece from the pieces fitted to is Mahalanobis' (the number of standard
deviations, along the directions in which those vary).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tensorcell.diffusion_guidance.microdiffuse3d.data import Source
from tensorcell.diffusion_guidance.microdiffuse3d.degradation import pixels_of

Doubles = npt.NDArray[np.float64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BANDS = (1e-9, 0.06, 0.12, 0.2, 0.3, 0.42, 0.8)
"""Limits of the bands, in cycles a measured pixel."""

PIECES = 200
"""Pieces from which mean and covariance are found."""

SHRINKAGE = 0.1
"""Weight of the diagonal in the covariance, which has more entries than pieces tell well."""

HIGHEST = 0.99
"""Share of the pieces fitted to that lie within the limit."""

FAR = 1.3
"""A scan whose median piece is so many times further than the limit is of another kind. Of networks fitted to simulated
cells, 33 scans of other such cells, half to nearly twice as many in a stack, reached 1.05; 10 real volumes 1.8 to 8."""


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Where the pieces of scans lie that networks were fitted to.

    Attributes
    ----------
    mean : tuple of k floats
        Of the features of :func:`features_of`.
    precision : tuple of k^2 floats
        Inverse of their covariance, row by row.
    limit : float
        Distance within which 99 % of the pieces lie.
    piece : three ints
        Their shape ``(d, h, w)`` in measured planes and pixels.
    """

    mean: tuple[float, ...]
    precision: tuple[float, ...]
    limit: float
    piece: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Check what a file may hold."""
        numbers = (*self.mean, *self.precision, self.limit)
        if not all(isinstance(each, int | float) and math.isfinite(each) for each in numbers) or not self.limit > 0:
            raise ValueError("expected finite numbers and a positive limit in the likeness")
        if not self.mean or len(self.precision) != len(self.mean) ** 2:
            raise ValueError(f"expected {len(self.mean) ** 2} entries of the precision, got {len(self.precision)}")
        if len(self.piece) != 3 or not all(isinstance(side, int) and side >= 1 for side in self.piece):
            raise ValueError(f"expected three sides of a piece of at least 1, got {self.piece}")

    @staticmethod
    def of(source: Source, lateral_factor: int, *, seed: int = 0) -> Likeness:
        """From examples, whose volumes are interpolated from pixels `lateral_factor` times larger."""
        generator = torch.Generator().manual_seed(seed)
        drawn = [pixels_of(source(1, generator).volume, lateral_factor)[0, 0].numpy() for _ in range(PIECES)]
        features = np.array([features_of(piece) for piece in drawn])
        mean, covariance = features.mean(axis=0), np.cov(features.T)
        covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(np.diag(covariance))
        covariance += 1e-9 * np.trace(covariance) / len(mean) * np.eye(len(mean))
        precision = np.asarray(np.linalg.inv(covariance), np.float64)
        depth, height, width = drawn[0].shape
        limit = float(np.quantile([distance(each, mean, precision) for each in features], HIGHEST))
        return Likeness(
            mean=tuple(mean.tolist()), precision=tuple(precision.ravel().tolist()), limit=limit,
            piece=(depth, height, width),
        )  # fmt: skip

    def strangeness(self, planes: npt.NDArray[Any]) -> float:
        """Distance of the median piece of normalised measured planes ``(d, h, w)``, in units of the limit."""
        precision = np.reshape(self.precision, (len(self.mean), len(self.mean)))
        sides = [min(side, whole) for side, whole in zip(self.piece, planes.shape, strict=True)]
        starts = [
            range(0, whole - side + 1, max(1, side // 2)) for side, whole in zip(sides, planes.shape, strict=True)
        ]
        mean, found = np.array(self.mean), []
        for z, y, x in itertools.product(*starts):
            piece = planes[z : z + sides[0], y : y + sides[1], x : x + sides[2]]
            found.append(distance(features_of(piece), mean, precision))
        return float(np.median(found)) / self.limit


def features_of(piece: npt.NDArray[Any]) -> Doubles:
    """The numbers that sum up a piece ``(d, h, w)`` of a normalised scan."""
    values = np.asarray(piece, np.float64)
    power = np.square(np.abs(np.fft.fft2(values - values.mean(axis=(1, 2), keepdims=True))))
    radius = np.hypot(np.fft.fftfreq(values.shape[1])[:, None], np.fft.fftfreq(values.shape[2]))
    total = float(power.sum()) + 1e-12
    shares = [
        math.log(float(power[:, (radius > low) & (radius <= high)].sum()) / total + 1e-6)
        for low, high in itertools.pairwise(BANDS)
    ]
    return np.array([
        *np.quantile(values, QUANTILES), math.log(float(values.std()) + 1e-6), *shares, correlation_along_z(values),
    ])  # fmt: skip


def correlation_along_z(values: Doubles) -> float:
    """Of neighbouring planes; 0 where there is one plane."""
    if len(values) < 2:
        return 0.0
    below, above = values[:-1] - values[:-1].mean(), values[1:] - values[1:].mean()
    scale = math.sqrt(float(np.sum(below**2)) * float(np.sum(above**2)))
    return float(np.sum(below * above)) / (scale + 1e-12)


def distance(features: Doubles, mean: Doubles, precision: Doubles) -> float:
    """Mahalanobis' distance over the root of the number of features: about 1 for pieces of the same kind."""
    off = features - mean
    return math.sqrt(max(float(off @ precision @ off), 0.0) / len(mean))
