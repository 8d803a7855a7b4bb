"""Groups of similar patches in the data's unit: completion of the gaps, and denoising with the noise stabilised."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tensorcell.device import on_device
from tensorcell.fitting import Callback
from tensorcell.settled import Settled
from tensorcell.solvers import IterationRecord, LocalOptions, LocalResult, NoiseModel, local_tucker
from tensorcell.solvers.anscombe import destabilised, destabilised_error, stabilised
from tensorcell.solvers.arrays import clip, namespace_of, ndimage, to_host, within_mask
from tensorcell.solvers.local import LocalState
from tensorcell.solvers.slabs import in_parts

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

MEAN_OF = 20_000
"""Voxels from which the mean of a residual is taken: its noise is then far below any error of an estimate."""

SLAB_VOXELS = 1 << 18
"""Voxels that are brought back from the stabilised scale at a time."""

LEAST_SHARE = 0.01
"""Nothing is added where there is less light around than this share of the largest."""

MOST = 0.5
"""Where more than this share of the light would be added or taken away, the law of the noise is wrong, and nothing is
done: what contradicts the measurement is returned as measured later."""

Restore = Callable[[Array], LocalResult]


class Stabilised(NamedTuple):
    """A stack whose noise has one standard deviation at all intensities, and what groups of patches make of it."""

    values: Array
    """``(K, Y, X)``, without gaps."""
    sigma: float
    """Standard deviation of the noise."""
    value: Array
    """The denoised stack."""
    error: Array
    """Standard deviation of its error."""
    restore: Restore
    """A function that denoises other values with the same noise."""
    measured: Bools
    """True where a value was measured; estimates stand elsewhere."""


class Corrected(NamedTuple):
    """A better estimate of a stabilised stack."""

    value: Array
    error: Array
    samples: Array | None
    notes: tuple[str, ...]


class Correct(Protocol):
    """A function that improves the estimate of a stabilised stack by groups of patches."""

    def __call__(self, found: Stabilised) -> Corrected: ...


class Denoised(NamedTuple):
    """A denoised stack, in the data's unit."""

    value: Array
    error: Array
    weights: dict[str, float]
    """Mean weight of each filter in the combination that minimises Stein's estimate of the error."""
    notes: tuple[str, ...] = ()
    samples: Array | None = None


def complete_by_patches(
    stack: Array,
    inlier: Bools,
    start: Array,
    sigma: float,
    *,
    levels: Sequence[float] | None,
    options: LocalOptions,
    seed: int,
    callback: Callback | None = None,
    history: tuple[IterationRecord, ...] = (),
    drift: Array | None = None,
    settled: Settled | None = None,
    device: str = "cpu",
) -> LocalResult:
    """Complete the voxels that are no inliers by groups of patches, from a first estimate on; outliers are known."""
    return by_patches(
        device,
        stack,
        inlier,
        start,
        noise=sigma,
        levels=levels,
        robust=False,
        denoise=False,
        options=options,
        callback=callback,
        history=history,
        drift=drift,
        inner=None if settled is None else settled.inner_of(stack.shape),
        seed=seed,
    )


def by_patches(
    device: str, data: Array, mask: Bools | None, initial: Array | None = None, *, overwrite_data: bool = False,
    **options: Any,
) -> LocalResult:  # fmt: skip
    """:func:`tensorcell.solvers.local_tucker` on a device, from and to the host."""
    on_it = [on_device(array, device) for array in (data, mask, initial)]
    found = local_tucker(
        on_it[0], on_it[1], initial=on_it[2], overwrite_data=overwrite_data or device != "cpu", **options
    )
    if device == "cpu":
        return found
    estimate, outliers, disagreement, sweep = found.state
    return replace(
        found,
        value=to_host(found.value),
        spread=to_host(found.spread),
        error=None if found.error is None else to_host(found.error),
        outliers=to_host(found.outliers),
        state=LocalState(to_host(estimate), to_host(outliers), to_host(disagreement), sweep),
    )


def denoise_by_patches(
    whole: Array,
    measured: Bools,
    noise: NoiseModel,
    options: LocalOptions,
    seed: int,
    correct: Correct | None = None,
    *,
    drift: Array | None = None,
    overwrite: bool = False,
    settled: Settled | None = None,
    device: str = "cpu",
) -> Denoised:
    """Denoise a stack without gaps; noise that grows with the intensity is stabilised first.

    Parameters
    ----------
    whole : float array ``(K, Y, X)`` or ``(T, K, Y, X)``
        Measured values, and estimates in the gaps.
    measured : bool array of the same shape
        True where a value was measured.
    noise : NoiseModel
        With a positive standard deviation.
    correct : callable, optional
        A function that improves the result of a single stack while the noise is stabilised.
    drift : int array ``(T, 3)``, optional
        Where the specimen lies in each frame.
    overwrite : bool
        Whether ``whole`` may be written over.
    settled : Settled, optional
        What a sample told, where this is a part of a stack. Nothing is taken from it, or kept there, by default.
    device : {"cpu", "cuda"} or a string as "cuda:1"
        Where groups of patches are filtered.
    """
    settled = Settled() if settled is None else settled
    given, known = on_device(whole, device), on_device(measured, device)
    values, level = stabilised(given, noise)

    def restored(by: Callable[..., LocalResult], y: Any, overwrite: bool = False) -> LocalResult:
        return by(
            y, None, noise=level, options=options, drift=drift, stabilised=noise, correlation=noise.autocorrelation,
            laws=settled.told("weights"), inner=settled.inner_of(y.shape), seed=seed, overwrite_data=overwrite,
        )  # fmt: skip

    own = overwrite or given is not whole  # what was put on a device may be written over
    found = restored(local_tucker, values, correct is None and (own or values is not given))
    settled.once("weights", lambda laws=found.laws: laws)  # type: ignore[misc]
    value, weights = found.value, found.weights
    error = namespace_of(value).zeros_like(value) if found.error is None else found.error  # there is no noise
    del found  # its other arrays
    samples: Array | None = None
    notes: tuple[str, ...] = ()
    if correct is not None:
        restore = partial(restored, partial(by_patches, device))
        better = correct(Stabilised(to_host(values), level, to_host(value), to_host(error), restore, measured))
        value, error = on_device(better.value, device), on_device(better.error, device)
        samples, notes = better.samples, better.notes
    if noise.gain > 0:

        def bring_back(planes: slice) -> None:
            wide = destabilised_error(value[planes], error[planes], noise)
            value[planes], error[planes] = destabilised(value[planes], noise), wide

        in_parts(bring_back, value, SLAB_VOXELS)
    light = light_of(value, given, known, noise, settled)
    value = to_host(value + light)
    if samples is not None:
        samples = np.stack([destabilised(one, noise) + to_host(light) for one in samples])
    return Denoised(value.astype(whole.dtype, copy=False), to_host(error), weights, notes, samples)


def light_of(value: Any, whole: Any, measured: Any, noise: NoiseModel, settled: Settled | None = None) -> Any:
    """The light that denoising of stabilised noise has lost, or one 0 where the noise was not stabilised."""
    xp = namespace_of(value)
    if noise.gain == 0:
        return xp.zeros(1, dtype=value.dtype)
    settled = Settled() if settled is None else settled
    lowest = settled.once("lowest intensity", lambda: float(xp.min(xp.where(measured, whole, xp.inf))))
    return lost_light(whole - value, clip(value - lowest, 0.0, None), measured, settled)


def lost_light(residual: Any, photons: Any, measured: Any, settled: Settled) -> Any:
    """What the estimate lacks of the measured light around each voxel, shared out in proportion to its own light.

    A mean of stabilised values is not the stabilised mean: where structure is smoothed, light is lost, or won where the
    law of the noise is not quite right. The measurement has the right amount, as far around as hardly any noise is left
    in its mean. A dark background stays dark.

    Parameters
    ----------
    residual, photons, measured : arrays ``(Z, Y, X)`` or ``(T, Z, Y, X)``
        Measurement less estimate, the estimate above the lowest measurement, and where it was measured.
    settled : Settled
        What a sample told, where this is a part of a stack.
    """
    xp, sides, space = namespace_of(residual), residual.shape[-3:], (-3, -2, -1)

    def around(values: Any) -> Any:
        inside = within_mask(values, measured)
        if math.prod(sides) <= MEAN_OF:
            return xp.sum(inside, axis=space, keepdims=True, dtype=xp.float64)
        width = next(width for width in np.geomspace(1, 1e4, 100) if covered(sides, width) >= MEAN_OF)
        return ndimage("gaussian_filter", inside, float(width), axes=space, truncate=3)

    light = around(photons)
    brightest = settled.once("brightest light", lambda: float(xp.max(light)))
    bright = light > LEAST_SHARE * brightest
    share = around(residual) / xp.where(bright, light, xp.ones_like(light))
    return xp.where(bright & (xp.abs(share) <= MOST), share, xp.zeros_like(share)) * photons


def covered(sides: Sequence[int], width: float) -> float:
    """Number of voxels of whose noise a Gaussian mean has the variance.

    >>> round(covered((1, 500, 500), 10.0))
    1257
    """
    return float(np.prod([min(side, 2 * np.sqrt(np.pi) * width) for side in sides]))
