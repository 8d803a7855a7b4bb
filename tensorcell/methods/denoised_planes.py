"""Planes between measured ones that keep their noise: predicted from denoised planes as far as these predict better.

Linear prediction along z averages the noise of a few planes. Groups of patches remove most of it, and sometimes detail
as fine as a pixel with it, above all where that detail was taken for noise in the first place. So the measured planes
judge: each half of them (every second plane) is denoised by itself, and predicts the other half, of whose noise it
knows nothing. The share of the denoised planes in what predicts the missing ones is the lower limit of the slope of the
true on the proposed change, less twice the correlation of what denoising took from neighbouring planes of different
halves: noise is not shared by them. Half a gap away, structure is shared more than a gap away.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.device import on_device
from tensorcell.methods.errors import interpolated_along_z
from tensorcell.methods.kriging import filled_by_kriging
from tensorcell.methods.patches import Denoised, denoise_by_patches
from tensorcell.methods.protocol import Filled, Gaps, Problem
from tensorcell.settled import Settled
from tensorcell.solvers import LocalOptions, NoiseModel, Status
from tensorcell.solvers.arrays import as_double, count, from_host, namespace_of, scalar, to_host
from tensorcell.solvers.interplane import judged_slope
from tensorcell.solvers.kriging import kriged
from tensorcell.solvers.left_out_planes import every_second
from tensorcell.solvers.stein import sample_blocks

Array = npt.NDArray[Any]

NEGLIGIBLE = 0.05
"""Where the variance of the noise is a smaller share of the squared error between planes, the planes are not denoised:
what could be won is .2 dB."""

LEAST_SHARE = 0.05
"""A smaller share of denoised planes is none."""


class Share(NamedTuple):
    """Share of the denoised planes in what predicts the missing ones, and what it rests on."""

    value: float
    slope: float = 0.0
    error: float = 0.0
    """Of the slope."""
    planes: int = 0
    """Left-out planes."""

    @property
    def note(self) -> str:
        """What is to be said of it."""
        return (
            f"measured voxels are kept, and {100 * self.value:.0f} % of their noise is taken from what predicts the "
            f"planes between ({self.planes} left-out planes: slope of the true on the predicted change "
            f"{self.slope:.2f} +- {self.error:.2f})"
        )


NONE = Share(0.0)


class Source(NamedTuple):
    """The planes from which missing ones are predicted."""

    gaps: Gaps
    noise: NoiseModel
    """The noise that their measured voxels hold."""
    square: Array | None = None
    """Squared error of what was denoised, at the measured planes; None where nothing was."""
    notes: tuple[str, ...] = ()

    def carried(self, filled: Filled) -> Filled:
        """The planes predicted, with the error that their source carries into them."""
        if self.square is None:
            return filled
        error, square = (on_device(each, self.gaps.problem.fitting.device) for each in (filled.error, self.square))
        error = namespace_of(error).sqrt(error * error + interpolated_along_z(square, self.gaps))
        return filled._replace(error=to_host(error), notes=(*self.notes, *filled.notes))


def source_of(gaps: Gaps) -> Source:
    """The measured planes, denoised as far as left-out planes justify it where measured voxels are kept."""
    problem, estimate = gaps.problem, gaps.estimate
    worth_it = problem.keep and estimate.status is not Status.STOPPED  # who stops a run does not wait for more
    share = NONE
    if worth_it:
        share = problem.settled.once(
            "share of denoised planes", lambda: share_denoised(problem, estimate.value, gaps.grid)
        )
    if share.value < LEAST_SHARE:
        return Source(gaps, problem.noise_passed_on)
    found = denoised(problem, estimate.value, problem.model.inlier, problem.settled)
    value = (estimate.value + share.value * (found.value - estimate.value)).astype(estimate.value.dtype)
    noise = problem.model.noise.reduced(1 - share.value, "Denoised planes hold none.")
    mixed = gaps._replace(estimate=estimate._replace(value=value))
    return Source(mixed, noise, np.square(share.value * found.error), (share.note,))


def between_denoised(gaps: Gaps) -> Filled:
    """Predict the missing planes by kriging, from denoised planes as far as left-out planes justify it."""
    source = source_of(gaps)
    return source.carried(filled_by_kriging(source.gaps, source.noise))


def denoised(problem: Problem, values: Array, inlier: Array, settled: Settled | None = None) -> Denoised:
    """Planes of the problem, denoised by groups of patches."""
    return denoise_by_patches(
        values, inlier, problem.model.noise, problem.option(LocalOptions), problem.fitting.seed, settled=settled,
        device=problem.fitting.device,
    )  # fmt: skip


class Fold(NamedTuple):
    """Every second plane of a block, and the planes between them; arrays ``(planes, Y, X)`` on the device."""

    used: Array
    positions: Array
    measured: Array
    """True = a measured voxel of the planes used."""
    targets: Array
    """Positions of the planes left out."""
    kept: Array
    """Their prediction from the planes as they are."""
    errors: Array
    """Measured planes left out, less their prediction; 0 where nothing was measured."""
    told: Array
    """True = a measured voxel of the planes left out."""


def share_denoised(problem: Problem, values: Array, grid: Array) -> Share:
    """The share that left-out planes justify.

    Parameters
    ----------
    problem : Problem
    values : array ``(K, Y, X)``
        Measured planes, without gaps, on the host; they are predicted on the device of the problem.
    grid : float array ``(K,)``
        Their positions.
    """
    values, inlier = (on_device(each, problem.fitting.device) for each in (values, problem.model.inlier))
    xp, noise = namespace_of(values), problem.model.noise
    blocks = [folds_of(values[block], inlier[block], grid[block[0]], noise) for block, _ in sample_blocks(values.shape)]
    folds = [fold for folds in blocks for fold in folds]
    squares = sum(scalar(xp.sum(xp.square(as_double(fold.errors)))) for fold in folds)
    level = scalar(xp.mean(noise.variance(values), dtype=xp.float64)) * sum(count(fold.told) for fold in folds)
    if not level > NEGLIGIBLE * squares:
        return NONE
    products: list[float] = []
    norms: list[float] = []
    shared = removed = 0.0
    for folds in blocks:
        residuals = []
        for fold in folds:
            found = denoised(problem, to_host(fold.used), to_host(fold.measured))
            smooth = from_host(found.value, fold.used)
            better = predicted(smooth, fold.positions, fold.targets, NoiseModel.white(0.0))
            change = xp.where(fold.told, better - fold.kept, 0)
            products.extend(to_host(xp.sum(change * fold.errors, axis=(1, 2), dtype=xp.float64)))
            norms.extend(to_host(xp.sum(change * change, axis=(1, 2), dtype=xp.float64)))
            residuals.append((xp.where(fold.measured, fold.used - smooth, 0), fold.measured))
        if len(folds) == 2:
            product, norm = in_common(*residuals)
            shared, removed = shared + product, removed + norm
    if len(products) < 2:
        return NONE
    slope, error, weight = judged_slope(np.array(products), np.array(norms))
    correlation = shared / removed if removed > 0 else 0.0
    return Share(weight * min(1.0, max(0.0, 1 - 2 * correlation)), slope, error, len(products))


def folds_of(values: Array, inlier: Array, grid: Array, noise: NoiseModel) -> list[Fold]:
    """Both halves of the planes of a block, or as many as have enough planes."""
    xp = namespace_of(values, inlier)
    folds = []
    for used, out in every_second(len(grid)).folds:
        planes, left_out, measured, told = (
            xp.take(each, from_host(indices, values), axis=0) for each in (values, inlier) for indices in (used, out)
        )
        kept = predicted(planes, grid[used], grid[out], noise)
        errors = xp.where(told, left_out - kept, 0)
        folds.append(Fold(planes, grid[used], measured, grid[out], kept, errors, told))
    return folds


def predicted(planes: Array, positions: Array, targets: Array, noise: NoiseModel) -> Array:
    """Kriged planes at the targets."""
    found: Array = namespace_of(planes).stack([one.value for one in kriged(planes, positions, targets, noise)])
    return found


def in_common(even: tuple[Array, Array], odd: tuple[Array, Array]) -> tuple[float, float]:
    """Sums over neighbouring planes: of the products of what was taken from both, and of the mean squares.

    Both are given by their values and where these are known (0 elsewhere); planes of the two take turns.
    """
    (first, known), (second, told) = even, odd
    xp = namespace_of(first)
    product = norm = 0.0
    for shift in (0, 1):  # the odd plane above each even one, and the one below it
        count = min(len(first) - shift, len(second))
        a, b = first[shift : shift + count], second[:count]
        both = known[shift : shift + count] & told[:count]
        product += scalar(xp.sum(a * b, dtype=xp.float64))
        norm += scalar(xp.sum(xp.where(both, a * a + b * b, 0), dtype=xp.float64)) / 2
    return product, norm
