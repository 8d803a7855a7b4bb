"""Sub-voxel refinement of a placement by Gauss-Newton steps.

Let ``l`` be the low stack and ``m`` its prediction from the high stack, both filtered. A step solves

    min  || l - (alpha m + alpha sum_k d_k dm/dx_k) ||^2

for the contrast ``alpha`` and the steps ``d_k`` along z, y, x and, for a similarity, rotation and scale, each in voxels
of the high stack. It is halved until the correlation of ``l`` and ``m`` rises. This is done from coarse to fine: pixels
of both stacks are averaged over ``2^k x 2^k``, then over half as many.

Phase correlation with an upsampled Fourier transform (`skimage.registration.phase_cross_correlation`) does not reach a
tenth of a voxel here: with phases alone it fails under noise, and without that normalisation it is drawn towards zero
by what enters and leaves the field of view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tensorcell.pairs.placement import Box, Factors, Floats, Placement, binned, voxels
from tensorcell.pairs.prediction import SMOOTHING, Prediction, Predictor, correlation, filtered

MARGIN = 1.0
"""Pixels of the low stack that are left free at the border of the common region, so that steps stay inside."""

MOST_VOXELS = 2**20
"""Voxels of the low stack that are compared; of a larger stack, only the planes in the middle are."""

FEWEST_PLANES = 8
"""Planes of the low stack that are compared, however many voxels they have."""

STEPS, HALVINGS = 20, 5
LONGEST_STEP = 2.0
SMALLEST_STEP = 2e-3
"""Voxels of the high stack, or bins of them on the coarser levels."""


class Level(NamedTuple):
    """Both stacks with their pixels averaged over bins, and the predictor of the one from the other."""

    low: Floats
    high: Floats
    predictor: Predictor

    @staticmethod
    def of(low: Floats, high: Floats, factors: Factors, bins: int) -> Level:
        """The level of ``bins x bins`` pixels."""
        coarse = binned(high, 1, bins)
        return Level(binned(low, 1, bins), coarse, Predictor.of(coarse, factors))

    def box(self, placement: Placement, margin: float = 0.0) -> Box:
        """The voxels of the low stack that are compared at a placement; there may be none."""
        planes, rows, columns = self.predictor.box(placement, self.low.shape, margin)
        most = max(FEWEST_PLANES, MOST_VOXELS // max(1, voxels((slice(0, 1), rows, columns))))
        spare = max(0, planes.stop - planes.start - most)
        return slice(planes.start + spare // 2, planes.stop - (spare + 1) // 2), rows, columns

    def filtered(self, planes: Floats) -> Floats:
        """Planes as they are compared; smoothed along z only where the low stack has all planes of the high stack."""
        return filtered(planes, SMOOTHING if self.predictor.factors.axial == 1 else 0.0)

    def agreement(self, placement: Placement) -> float:
        """Correlation of the low stack and its prediction, both filtered; 0 where they have nothing in common."""
        box = self.box(placement)
        if not voxels(box):
            return 0.0
        return correlation(self.filtered(self.low[box]), self.filtered(self.predictor.at(placement, box).value))

    def overlap(self, placement: Placement) -> int:
        """Voxels of the low stack that are predicted."""
        return voxels(self.predictor.box(placement, self.low.shape))

    @property
    def radius(self) -> float:
        """Half the diagonal of the low stack, in voxels of the high stack."""
        return self.predictor.factors.lateral * math.hypot(*self.low.shape[1:]) / 2

    def refined(self, placement: Placement, similarity: bool, steps: int = STEPS) -> Placement:
        """The placement after at most so many Gauss-Newton steps, fewer if they are short."""
        box = self.box(placement, MARGIN)
        if not voxels(box):
            return placement
        observed = self.filtered(self.low[box])
        prediction = self.predictor.at(placement, box)
        agreement = correlation(observed, self.filtered(prediction.value))
        for _ in range(steps):
            slopes = self.slopes(placement, box, prediction, similarity)
            step = self.step(observed, prediction.value, slopes)
            for _ in range(HALVINGS):
                trial = placement.moved(step, self.radius)
                prediction = self.predictor.at(trial, box)
                reached = correlation(observed, self.filtered(prediction.value))
                if reached > agreement:
                    break
                step = step / 2
            else:
                break
            placement, agreement = trial, reached
            if np.abs(step).max() < SMALLEST_STEP:
                break
        return placement

    def slopes(
        self, placement: Placement, box: Box, prediction: Prediction, similarity: bool
    ) -> list[Floats]:  # fmt: skip
        """Derivatives of the prediction along z, y, x and, for a similarity, rotation and scale; for each voxel."""
        along = list(prediction.slopes)
        if similarity:
            _, y, x = self.predictor.positions(placement, box)
            centre = self.predictor.centre(placement)
            y, x = (y - centre[0]) / self.radius, (x - centre[1]) / self.radius
            along += [along[2] * y - along[1] * x, along[1] * y + along[2] * x]
        return along

    def step(self, observed: Floats, value: Floats, slopes: Sequence[Floats]) -> Floats:
        """The Gauss-Newton step along the slopes, in voxels."""
        columns = np.stack([self.filtered(each).ravel() for each in (value, *slopes)])
        answer = np.linalg.lstsq(columns @ columns.T, columns @ observed.ravel(), rcond=1e-9)[0]
        if answer[0] <= 0:  # the prediction is a negative of the low stack: no step is to be trusted
            return np.zeros(len(slopes))
        step = answer[1:] / answer[0]
        return np.asarray(step * min(1.0, LONGEST_STEP / max(float(np.abs(step).max()), LONGEST_STEP)))


def refined(low: Floats, high: Floats, factors: Factors, start: Placement, bins: int, similarity: bool) -> Placement:
    """The placement after refinement on all levels, from ``bins x bins`` pixels, a power of 2 or 0, to single ones."""
    placement = start
    while bins >= 1:
        found = Level.of(low, high, factors, bins).refined(placement.binned(bins), similarity)
        placement = found.enlarged(bins, start.centre)
        bins //= 2
    return placement
