"""What the scores return: a float with attributes, and the curve of a Fourier correlation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


class Score(float):
    """A float that carries further numbers as attributes; arithmetic with it gives plain floats.

    >>> score = Score(0.5, planes=(0.25, 0.75))
    >>> score + 1, score.planes
    (1.5, (0.25, 0.75))
    """

    def __new__(cls, value: float, **details: Any) -> Self:
        score = super().__new__(cls, value)
        score.__dict__.update(details)
        return score


class PlaneScore(Score):
    """Mean over planes."""

    planes: tuple[float, ...]
    """Score of each plane; NaN where a plane has none, and the mean leaves that plane out."""


class MultiScaleSSIM(PlaneScore):
    """What `ms_ssim` returns."""

    scales: tuple[int, ...]
    """Pixels of the plane along a side of one pixel of each scale: 1, 2, 4, ..."""
    weights: tuple[float, ...]
    """Exponent of each scale; they add up to 1."""


class ProfileScore(Score):
    """Mean over z profiles."""

    profiles: int
    """Number of profiles in the mean."""
    left_out: int
    """Number of profiles without a score: too few of their voxels are scored, or their reference is constant."""


class PanopticQuality(Score):
    """What `panoptic_quality` returns: ``pq = sq * rq``."""

    sq: float
    """Segmentation quality: mean IoU of the matched objects."""
    rq: float
    """Recognition quality: ``tp / (tp + fp / 2 + fn / 2)``."""
    tp: int
    """Number of matched objects."""
    fp: int
    """Number of objects of the estimate without a match."""
    fn: int
    """Number of objects of the reference without a match."""

    @property
    def pq(self) -> float:
        """The score itself."""
        return float(self)


class F1Score(Score):
    """What `f1` returns."""

    of: str
    """What is counted: ``"objects"`` or ``"voxels"``."""
    precision: float
    """``tp / (tp + fp)``."""
    recall: float
    """``tp / (tp + fn)``."""
    tp: int
    """Number of true positives."""
    fp: int
    """Number of false positives."""
    fn: int
    """Number of false negatives."""


class SpectralScore(Score):
    """What `hf_spectral_error` returns."""

    reference_share: float
    """Share of the power of the reference, after its mean is subtracted, that lies in the band."""
    estimate_share: float
    """The same share of the estimate."""


@dataclass(frozen=True, eq=False)
class FourierCorrelation:
    """Correlation of two images or volumes in rings or shells of the Fourier domain.

    Attributes
    ----------
    frequency : float64 array ``(shells,)``
        Radius of each shell in cycles per unit of length; the zero frequency belongs to no shell.
    correlation : float64 array ``(shells,)``
        Between -1 and 1; NaN in a shell where one of the two has no power.
    coefficients : int array ``(shells,)``
        Number of Fourier coefficients in each shell (of the full transform).
    threshold : float
        Correlation at which the resolution is read off the curve.
    resolution : float
        1 / frequency of the first crossing below ``threshold``, interpolated linearly, in units of ``spacing`` (in
        voxels without a spacing). Where the curve never crosses the threshold, it is two voxels of the finest axis,
        and ``limited_by_sampling`` is True. It is infinite where the first shell is already below the threshold.
    limited_by_sampling : bool
        Whether the curve stays above the threshold up to the highest frequency.
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    coefficients: NDArray[np.int64]
    threshold: float
    resolution: float
    limited_by_sampling: bool
