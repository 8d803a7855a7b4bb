"""Gaps by a mixture of the global estimate, a smooth fill and groups of patches, with weights from left-out voxels.

A global model is of little use to a small stack, and a smooth fill (:mod:`tensorcell.solvers.smooth_fill`) to a stack
of fine structures. Which of its variants suits a stack, and how much each estimate counts, left-out measured voxels
say. They lie next to measured ones: further away, the smooth fill is no more than the start of the groups of patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.device import on_device
from tensorcell.methods.trial import GlobalTrial, PatchTrial, patch_trial
from tensorcell.solvers import LocalOptions
from tensorcell.solvers.arrays import to_host
from tensorcell.solvers.smooth_fill import in_line, smooth_fill
from tensorcell.solvers.spread import robust_sigma
from tensorcell.solvers.stein import simplex_weights

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]

AXIAL = (1 / 16, 16.0)
"""Range of the weight of bending along z; powers of 2 are tried."""

SMOOTHING = (0.03, 0.3)
"""Strengths of smoothing that are tried."""

CLEARLY = 0.9
"""Voxels that stand out are left out where the error without them is below this share of that with them."""

FAR, USUAL = 10.0, 0.99
"""Others are left out that differ from their prediction by more than so many times this quantile of the errors."""

PRIOR = 30
"""The best single estimate counts as much as this many left-out voxels that support it."""

GROUPS, GROUP = 8, 250
"""Largest number of groups that bound the noise, and fewest voxels in one."""

ROUNDS = 5
"""Rounds in which the weights of errors beyond the cap are lowered."""

WORTH = 0.99
"""Sweeps by groups of patches are made where they lower the error below this share of that without them."""


@dataclass(frozen=True)
class Fill:
    """A variant of the smooth fill."""

    axial: float = 1.0
    smoothing: float = 0.0
    limit: float = math.inf
    """Measured voxels that stand out from a smoothed stack are left out where they differ by more from a fill without
    them."""

    def sound(self, values: Array, known: Bools, start: Array) -> Bools:
        """Voxels that the gaps are filled from; `known` is True where a voxel was measured and is no outlier."""
        if self.limit == math.inf:
            return known
        calm: Bools = in_line(values, known, start)
        if self.limit == 0:
            return calm
        return supported(values, known, calm, smooth_fill(values, calm, start=start), self.limit)

    def __call__(self, values: Array, sound: Bools, start: Array | None) -> Array:
        """The fill of all voxels; `start` is a first guess."""
        filled: Array = smooth_fill(values, sound, axial=self.axial, smoothing=self.smoothing, start=start)
        return filled


@dataclass(frozen=True)
class Blend:
    """A smooth fill, and the shares of the estimates."""

    fill: Fill
    first: float
    """Share of the fill in the start of the sweeps; the rest is the global estimate."""
    reach: int
    """Distance from the next measured voxel, along the longest axis, at which left-out voxels lay at most."""
    final: tuple[float, ...] = ()
    """Shares of global estimate, fill and groups of patches in the result; empty: it is that start."""

    @property
    def sentence(self) -> str:
        """What fills the gaps.

        >>> Blend(Fill(axial=2.0), first=0.6, reach=1, final=(0.1, 0.2, 0.7)).sentence
        'gaps: 10 % global model, 20 % smooth fill (bending along z counts 2), 70 % groups of patches'
        """
        names = ("global model", f"smooth fill (bending along z counts {self.fill.axial:g})", "groups of patches")
        shares = self.final or (1 - self.first, self.first)
        named = [(round(100 * share), name) for share, name in zip(shares, names, strict=False)]
        return "gaps: " + ", ".join(f"{percent} % {name}" for percent, name in named if percent)

    def of(self, values: Array, inlier: Bools, model: Array, device: str = "cpu") -> Sources:
        """The estimates of whole stacks that it mixes; `model` is the global one. The device is where gaps are filled;
        all arrays are on the host."""
        placed, known, start = (on_device(array, device) for array in (values, inlier, model))
        on_it = self.fill.sound(placed, known, start)
        alone = self.first == 1 and not self.final  # a model that does not count is no guess either: it may be far off
        filled = to_host(self.fill(placed, on_it, None if alone else start))
        sound = to_host(on_it)
        return Sources(self, sound, np.asarray(distances(sound) <= self.reach), model, filled)


@dataclass(frozen=True, eq=False)
class Sources:
    """What a blend mixes; arrays ``(K, Y, X)`` or ``(T, K, Y, X)``."""

    blend: Blend
    sound: Bools
    """Voxels that the gaps are filled from."""
    near: Bools
    """Voxels as near to these as left-out voxels were: the mixtures hold there."""
    model: Array
    fill: Array

    @property
    def start(self) -> Array:
        """The start of the sweeps."""
        shares = (1 - self.blend.first, self.blend.first)
        return mixed(shares, (self.model, self.fill)).astype(self.model.dtype)

    def with_patches(self, patches: Array) -> Array:
        """The result: the groups of patches alone where nothing was measured nearby."""
        found = mixed(self.blend.final, (self.model, self.fill, patches))
        return np.where(self.near, found, patches).astype(self.model.dtype)

    @property
    def notes(self) -> list[str]:
        """What fills the gaps, and whether measured voxels were not used for that."""
        if self.blend.fill.limit == math.inf:
            return [self.blend.sentence]
        return [
            self.blend.sentence,
            "measured voxels that stand out from a smoothed stack were kept as they are, and not used to fill gaps",
        ]


def distances(known: Bools) -> npt.NDArray[np.int32]:
    """Distance to the next known voxel of the same frame along the longest axis."""
    from scipy.ndimage import distance_transform_cdt

    if known.ndim > 3:
        return np.stack([distances(frame) for frame in known])
    return np.asarray(distance_transform_cdt(~known, metric="chessboard"), np.int32)


def blended_trial(trial: GlobalTrial, options: LocalOptions, seed: int) -> PatchTrial:
    """Errors of the best mixture at the left-out voxels; its levels are empty where sweeps are not worth their time."""
    if trial.exact:
        return patch_trial(trial, options, seed)
    trial, fill, filled = chosen_fill(trial)
    errors = [trial.errors, trial.errors_of(filled)]
    weights = best_weights(errors, trial.cap)
    start = mixed(weights, [trial.start, filled]).astype(trial.start.dtype)
    patches = patch_trial(replace(trial, start=start), options, seed)
    reach = int(distances(trial.training)[trial.left_out].max())
    blend = Blend(fill, float(weights[1]), reach)
    before = trial.errors_of(start)
    if not patches.levels:
        return replace(patches, blend=blend, telling=trial.telling)
    final = best_weights([*errors, patches.errors], trial.cap)
    after = mixed(final, [*errors, patches.errors])
    if trial.beyond_noise(after) > WORTH * trial.beyond_noise(before):
        patches = replace(patches, levels=(), spreads=np.zeros_like(before))
        after = before
    else:
        blend = replace(blend, final=tuple(final.tolist()))
    variance = trial.noise_variance
    keys = patches.spreads if patches.levels else start[trial.left_out]
    variance = quietest(after, variance, keys) * variance
    return replace(
        patches, noise_variance=variance, error=trial.beyond_noise(after), errors=after,
        intensities=after + trial.values[trial.left_out], least_share=trial.least_share(after), blend=blend,
        telling=trial.telling,
    )  # fmt: skip


def quietest(errors: Doubles, noise: Doubles, keys: Array) -> float:
    """Largest share of the stated variance of the noise that the errors at left-out voxels allow, at most 1.

    These errors hold the noise. So it is no larger than the core of the errors in any group of voxels with similar
    keys, among them those of the background, where estimates are best. Texture as fine as a pixel, which the noise
    was taken to hold, is not there.
    """
    known = noise > 0
    if not known.any():
        return 1.0
    off, keys = (errors[known] / np.sqrt(noise[known])), keys[known]
    groups = max(1, min(GROUPS, off.size // GROUP))
    parts = np.array_split(np.argsort(keys), groups)
    return float(min(1.0, *(robust_sigma(off[part]) for part in parts))) ** 2


def chosen_fill(trial: GlobalTrial) -> tuple[GlobalTrial, Fill, Array]:
    """The trial without outliers, the variant with the smallest error at left-out voxels, and its fill of the block.

    All voxels that stand out are left out of the training where this lowers the capped error clearly; else, where
    outliers were found, those that are further from their prediction than left-out voxels are. The weight along z is
    then doubled or halved as long as this helps by more than a standard error, and smoothing is tried.
    """
    best, capped = Fill(), replace(trial, outliers=True)
    filled = best(trial.values, trial.training, trial.start)
    strict = replace(best, limit=0.0)
    calm = strict.sound(trial.values, trial.training, filled)
    other = best(trial.values, calm, filled)
    plain, without = (np.mean(capped.capped(trial.errors_of(found)) ** 2) for found in (filled, other))
    if without < CLEARLY**2 * plain:
        trial, best, filled = replace(capped, training=calm), strict, other
    elif trial.outliers:
        usual = float(np.quantile(np.abs(trial.errors_of(other)), USUAL))
        mild = replace(best, limit=FAR * usual)
        known = supported(trial.values, trial.training, calm, other, mild.limit)
        if usual > 0 and not np.array_equal(known, trial.training):
            trial, best, filled = replace(trial, training=known), mild, best(trial.values, known, filled)
    least = trial.capped(trial.errors_of(filled)) ** 2

    def improves(fill: Fill) -> bool:
        nonlocal best, filled, least
        found = fill(trial.values, trial.training, filled)
        squares = trial.capped(trial.errors_of(found)) ** 2
        gain = least - squares
        if np.mean(gain) > np.std(gain) / np.sqrt(gain.size):
            best, filled, least = fill, found, squares
            return True
        return False

    if trial.values.shape[-3] > 1:
        for factor in (2.0, 0.5):
            while AXIAL[0] <= best.axial * factor <= AXIAL[1] and improves(replace(best, axial=best.axial * factor)):
                pass
    for smoothing in SMOOTHING:
        if not improves(replace(best, smoothing=smoothing)):
            break
    return trial, best, filled


def supported(values: Array, known: Bools, calm: Bools, filled: Array, limit: float) -> Bools:
    """Known voxels that do not stand out, and those that differ by no more than the limit from a fill without them."""
    found: Bools = calm | (known & (abs(values - filled) <= limit))
    return found


def mixed(weights: Sequence[float] | Doubles, estimates: Sequence[Array]) -> Array:
    """The weighted sum."""
    return np.asarray(sum(weight * each for weight, each in zip(weights, estimates, strict=True)))


def best_weights(errors: Sequence[Doubles], cap: float) -> Doubles:
    """Shares that add up to 1, for which the mixture of estimates with these errors has the smallest squared error.

    Errors beyond the cap count in proportion only, as in Huber's loss. No share is negative: what was extrapolated from
    the differences of the estimates would be far off where the left-out voxels were not like the gaps.

    >>> best_weights([np.array([1.0, -1.0] * 50), np.array([-3.0, 3.0] * 50)], np.inf).round(1)
    array([0.8, 0.2])
    """
    columns = np.stack(errors)
    best = int(np.argmin(np.mean(np.clip(columns, -cap, cap) ** 2, axis=1)))
    change, weight = columns - columns[best], np.ones(columns.shape[1])
    for _ in range(ROUNDS):
        prior = PRIOR / weight.size * np.square(change) @ weight
        shares, _ = simplex_weights((columns * weight) @ columns.T + np.diag(prior), np.zeros(len(columns)))
        if np.isinf(cap):
            break
        weight = np.minimum(1.0, cap / np.maximum(np.abs(shares @ columns), 1e-300))
    return np.asarray(shares)
