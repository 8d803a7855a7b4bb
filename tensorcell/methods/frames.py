"""Frames of a time series as one problem; a single stack is a series of one frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.methods.blend import blended_trial
from tensorcell.methods.few import trial_of_few
from tensorcell.methods.protocol import Estimate, Problem
from tensorcell.methods.trial import GlobalTrial, PatchTrial, global_trial
from tensorcell.methods.tucker import global_estimate, was_stopped
from tensorcell.solvers import LocalOptions, NoiseModel, frame_drift
from tensorcell.solvers.autocorrelation import mean_of
from tensorcell.solvers.drift import is_related
from tensorcell.solvers.residual_kriging import NeighbourEstimate
from tensorcell.solvers.spread import robust_sigma

Array = npt.NDArray[Any]

AROUND = 1.0
"""Gaussian width, in voxels, of the intensity that tells the variance of a voxel."""

FEWEST = 1000
"""Fewest pairs of voxels from which the noise is told."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Problems of the frames of a series, in their order, of equal shape."""

    problems: Sequence[Problem]
    found: Sequence[NeighbourEstimate] | None
    """The global estimate of each, where it was made already."""
    drift: npt.NDArray[np.int64] | None
    """Where the specimen lies in each frame; None for a single stack."""

    @property
    def stopped(self) -> bool:
        """Whether the callback ended the fit of a frame."""
        return any(was_stopped(one) for one in self.problems)

    @property
    def values(self) -> Array:
        """``(T, K, Y, X)``, or ``(K, Y, X)`` for a single stack."""
        return joined([one.stack.values for one in self.problems])

    @property
    def inlier(self) -> Array:
        """True = measured and no outlier."""
        return joined([one.model.inlier for one in self.problems])

    def starts(self) -> Sequence[NeighbourEstimate]:
        """The global estimate of each; a stack that is only denoised needs none, and so they are not kept here."""
        return [global_estimate(one) for one in self.problems] if self.found is None else self.found

    @cached_property
    def noise(self) -> NoiseModel:
        """The law of the noise of all frames."""
        return mean_law([one.model.noise for one in self.problems])

    @property
    def needs_sweeps(self) -> bool:
        """Whether a frame has gaps that groups of patches are to complete."""
        return any(one.needs_sweeps for one in self.problems)

    @property
    def notes(self) -> list[str]:
        """What is to be said of the series."""
        if self.drift is None:
            return []
        way = np.ptp(self.drift, axis=0)
        first, *_, last = (one.label for one in self.problems)
        said = f"frames {first} to {last} were recovered together; frames=1 recovers each by itself"
        if way.any():
            z, y, x = way.tolist()
            said += f"; the specimen moves as a whole by up to {z}, {y}, {x} voxels along z, y, x, and was followed"
        return [said]

    def trials(self, options: LocalOptions) -> tuple[GlobalTrial | None, PatchTrial] | None:
        """Errors of the global model, and of groups of patches, at voxels left out of the frames that need it.

        None where none does. Where too few could be left out there are no errors of the global model, and a smooth fill
        stands in the place of the patches.
        """
        if not any(one.needs_trial for one in self.problems):
            return None
        first = self.problems[0]

        def found() -> tuple[GlobalTrial | None, PatchTrial]:
            trial, seed = self.trial(), first.fitting.seed
            if trial is None:
                return None, trial_of_few(self.values, self.inlier, self.noise, seed)
            return trial, blended_trial(trial, options, seed)

        return first.settled.once("errors in gaps", found)

    def trial(self) -> GlobalTrial | None:
        """Voxels left out of the frames that need it; None where none does, or where too few could be left out."""
        found = [global_trial(one) for one in self.problems if one.needs_trial]
        known = [one for one in found if one is not None]
        if len(known) < 2:
            return known[0] if known else None
        names = ("values", "training", "left_out", "start")
        arrays = {name: np.stack([getattr(one, name) for one in known]) for name in names}
        spread, outliers = max(one.spread for one in known), any(one.outliers for one in known)
        device = self.problems[0].fitting.device
        return GlobalTrial(**arrays, noise=self.noise, spread=spread, outliers=outliers, device=device)


def estimated_in_runs(
    problems: Sequence[Problem], estimate: Callable[[Frames], list[Estimate]]
) -> tuple[list[Estimate], list[str]]:
    """Estimates of all frames, run by run of frames that show the same specimen, and notes on these."""
    found, notes = [], []
    runs = started(problems)
    for run in runs:
        found += estimate(run)
        notes += run.notes
    if len(runs) > 1:
        firsts = ", ".join(run.problems[0].label for run in runs[1:][:8])
        notes.append(f"frames that show something else than the ones before begin at {firsts}; they share nothing")
    return found, notes


def started(problems: Sequence[Problem]) -> list[Frames]:
    """Runs of frames that show the same specimen.

    Their noise is no larger than what two of them differ by.
    """
    if len(problems) == 1:
        return [Frames(problems, None, None)]
    problems = no_noisier_than_changes(problems)
    starts = [global_estimate(one) for one in problems]
    shown = [
        np.where(one.model.inlier, one.stack.values, start.value) for one, start in zip(problems, starts, strict=True)
    ]
    drift = frame_drift(np.stack(shown))
    cuts = [
        number
        for number in range(1, len(shown))
        if not is_related(
            shown[number - 1], shown[number], drift[number] - drift[number - 1], problems[number].model.noise.sigma
        )
    ]
    runs = []
    for first, last in pairwise([0, *cuts, len(shown)]):
        way = drift[first:last] - drift[first] if last - first > 1 else None
        runs.append(Frames(problems[first:last], starts[first:last], way))
    return runs


def no_noisier_than_changes(problems: Sequence[Problem]) -> list[Problem]:
    """The problems with their noise lowered where successive frames differ by less than it.

    Texture as fine as a pixel is taken for noise in a single frame, and does not change from frame to frame. What moves
    makes the differences larger than the noise, so that they only bound it.
    """
    from scipy.ndimage import gaussian_filter

    if any(one.noise is not None or not one.model.noise.sigma > 0 for one in problems):
        return list(problems)
    changes = []
    for before, after in pairwise(problems):
        variance, known = np.zeros(before.stack.values.shape), np.ones(before.stack.values.shape, bool)
        for one in (before, after):
            values, law = one.stack.values, one.model.noise
            known &= one.model.inlier & (values != law.low) & (values != law.high)
            variance += law.variance(gaussian_filter(values, AROUND))
        known &= variance > 0
        changes.append((after.stack.values - before.stack.values)[known] / np.sqrt(variance[known]))
    found = np.concatenate(changes)
    if found.size < FEWEST:
        return list(problems)
    share = robust_sigma(found)
    if not 0 < share < 1:
        return list(problems)
    reason = f"Successive frames differ by {100 * share:.0f} % of that, so that the noise is no larger."
    return [replace(one, model=replace(one.model, noise=one.model.noise.reduced(share, reason))) for one in problems]


def joined(arrays: Sequence[Array]) -> Array:
    """Arrays along a new first axis; a single one as it is."""
    return arrays[0] if len(arrays) == 1 else np.stack(arrays)


def separate(array: Array, count: int) -> list[Array]:
    """The inverse of :func:`joined`."""
    return [array] if count == 1 else list(array)


def mean_law(laws: Sequence[NoiseModel]) -> NoiseModel:
    """The mean of the variances; that of one frame as it is.

    >>> mean_law([NoiseModel.white(1.0), NoiseModel.white(7.0)]).sigma
    5.0
    """
    if len(laws) == 1:
        return laws[0]
    gain, offset, floor, square = (
        float(np.mean([getattr(law, name) ** power for law in laws]))
        for name, power in (("gain", 1), ("offset", 1), ("floor", 1), ("sigma", 2))
    )
    shared = mean_of([law.autocorrelation for law in laws])
    return replace(laws[0], gain=gain, offset=offset, floor=floor, sigma=float(np.sqrt(square)), autocorrelation=shared)
