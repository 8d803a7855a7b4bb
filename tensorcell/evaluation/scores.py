"""The scores of a cell: an estimate compared with the truth, on [0, 1] and without a fit of scale or shift."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell import metrics
from tensorcell.errors import InputError
from tensorcell.evaluation.cases import Degraded
from tensorcell.evaluation.segmentation import objects

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """The outcome of one cell and its scores on [0, 1]; NaN where a score does not apply."""

    volume: str
    case: str
    method: str
    status: str = "done"
    """"done", or "refused: ..." or "failed: ..." with the reason."""
    psnr: float = math.nan
    """Decibels, data range 1."""
    ssim: float = math.nan
    """3-D, window of 7."""
    nrmse: float = math.nan
    """Relative error in the Frobenius norm."""
    psnr_missing: float = math.nan
    """Like the next two scores, over the voxels that were not measured."""
    ssim_missing: float = math.nan
    nrmse_missing: float = math.nan
    profile_ccc: float = math.nan
    """Mean concordance of z profiles."""
    profile_pcc: float = math.nan
    """Mean correlation of z profiles."""
    hf_error: float = math.nan
    """Relative error of the power spectrum above half of the Nyquist frequency."""
    ms_ssim: float = math.nan
    """Of planes; it and the next seven for the cases of MicroDiffuse3D alone."""
    ccc: float = math.nan
    """Concordance of voxels."""
    pcc: float = math.nan
    """Correlation of voxels."""
    profile_ssim: float = math.nan
    """1-D SSIM of z profiles."""
    sharpness: float = math.nan
    """Variance of the Laplacian, as a share of that of the truth."""
    dice: float = math.nan
    """Of the foreground of a segmentation of estimate and truth (:mod:`tensorcell.evaluation.segmentation`)."""
    object_f1: float = math.nan
    """Of its objects."""
    pq: float = math.nan
    """Panoptic quality of its objects."""
    piqe: float = math.nan
    """Without a reference, lower is better; for the cases of Table 2 alone."""
    seconds: float = math.nan
    """Wall time of the restoration, compiled beforehand."""
    memory: float = math.nan
    """Peak in MiB above what the process held before the restoration: interpreter, libraries, input."""
    seed: int = 0
    noise: str = "estimated"
    """Whether the methods estimated the noise or were given it."""
    version: str = ""
    """Version of the code that the cell depends on."""

    @property
    def done(self) -> bool:
        """Whether there are scores."""
        return self.status == "done"


SCORES = (
    "psnr", "ssim", "nrmse", "psnr_missing", "ssim_missing", "nrmse_missing", "profile_ccc", "profile_pcc", "hf_error",
    "ms_ssim", "ccc", "pcc", "profile_ssim", "sharpness", "dice", "object_f1", "pq", "piqe", "seconds", "memory",
)  # fmt: skip
LOWER_IS_BETTER = ("nrmse", "nrmse_missing", "hf_error", "piqe", "seconds", "memory")


def score(degraded: Degraded, estimate: Array) -> dict[str, float]:
    """All scores of an estimate; one that cannot be computed for this volume is left out.

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
    return {name: float(value) for name, value in found.items()} | computed(more)


def downstream(truth: Array, estimate: Array) -> dict[str, float]:
    """Scores of what is done next with a restored stack: those of MicroDiffuse3D's figures beside :func:`score`."""
    first, second = objects(truth), objects(estimate)
    more: dict[str, Callable[[], float]] = {
        "ms_ssim": lambda: metrics.ms_ssim(truth, estimate, data_range=1),
        "ccc": lambda: metrics.ccc(truth, estimate),
        "pcc": lambda: metrics.pcc(truth, estimate),
        "profile_ssim": lambda: metrics.profile_ssim(truth, estimate, data_range=1),
        "sharpness": lambda: metrics.laplacian_variance(estimate) / metrics.laplacian_variance(truth),
        "dice": lambda: metrics.dice(first > 0, second > 0),
        "object_f1": lambda: metrics.f1(first, second, of="objects"),
        "pq": lambda: metrics.panoptic_quality(first, second),
    }
    return computed(more)


def computed(scores: dict[str, Callable[[], float]]) -> dict[str, float]:
    """The scores that can be computed of this volume, such as not of one that is constant or black."""
    found = {}
    for name, compute in scores.items():
        with suppress(InputError, ZeroDivisionError):
            found[name] = float(compute())
    return {name: value for name, value in found.items() if not math.isnan(value)}
