"""Samples of the planes between measured ones, drawn from a lateral prior, and the uncertainty that follows from them.

The denoiser of a volume is made of that of slices: the levels take the xz and the yz slices in turn (a product of
perpendicular priors, arXiv 2303.08440), each slice with its measured rows as condition. Guidance is applied after it:

=========== =====================================================================================================
"data"      measured planes are put back into every estimate
"tucker"    the estimate is projected to a Tucker rank that follows the error still expected in it
"smooth"    gradients along z are kept smooth (:class:`~tensorcell.diffusion_guidance.terms.AxialSmoothness`)
"lateral"   xy slices take their turn, too, without a condition
=========== =====================================================================================================

The uncertainty u is a function of ``sqrt(s e)``, where s is the standard deviation of the samples, averaged over a few
pixels, and e the error that kriging states for itself. At left-out planes the voxels are sorted into groups by it, and
u of a group is the width that holds 90 % of its errors. Between the groups u is interpolated, and beyond them it grows
in proportion. This is in the manner of split conformal prediction (doi:10.1007/3-540-36755-1_29) without its guarantee:
weights and widths come from the same planes, at twice the gap. One width for all voxels would be that of the
background, where most voxels are and errors are small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from tensorcell.diffusion_guidance.data_terms import GaussianConsistency
from tensorcell.diffusion_guidance.exchange import on_host, tensor_of
from tensorcell.diffusion_guidance.networks import without_denormals
from tensorcell.diffusion_guidance.operators import Planes
from tensorcell.diffusion_guidance.options import GUIDANCE
from tensorcell.diffusion_guidance.paths import Denoiser, karras_levels
from tensorcell.diffusion_guidance.planes import PriorFill, checked_planes, grid_rows, middle_rows, regressed
from tensorcell.diffusion_guidance.priors import LateralPrior, VolumePrior
from tensorcell.diffusion_guidance.samplers import sample
from tensorcell.diffusion_guidance.slices import condition_of
from tensorcell.diffusion_guidance.solver_terms import TuckerProjection
from tensorcell.diffusion_guidance.terms import AxialSmoothness, Term
from tensorcell.solvers import NoiseModel
from tensorcell.solvers.spread import conformal_width

Floats = npt.NDArray[np.float32]
Callback = Callable[[int, int], bool | None]

USUAL = ("data",)
"""The guidance where none is asked for."""

HIGHEST_LEVEL, LOWEST_LEVEL = 3.0, 0.02
"""First and last level in prior units: they are far above and far below the error of an interpolation."""

TUCKER_STRENGTH = 0.5
"""Share of the expected error of an estimate that the Tucker projection takes for noise."""

SMOOTHNESS = 0.1
"""Weight of the guidance "smooth"."""

SPREAD_WINDOW = 5
"""Side, in pixels, of the window over which the samples' variance is averaged: that of a few samples is noisy."""

SPREAD_FLOOR = 0.1
"""Smallest spread, over its root mean square: a few samples may agree by chance."""

GROUPS, SMALLEST_GROUP = 16, 250
"""Largest number of groups of voxels, and smallest number of voxels in one."""


@dataclass(frozen=True, eq=False)
class PlaneSamples:
    """Samples of a stack; measured planes are the same in all.

    Attributes
    ----------
    mean : float32 array ((m - 1) s + 1, Y, X)
        Mean of the means of antithetic pairs; a last sample without a partner counts as a pair.
    std : float32 array of that shape, or None with one sample
    samples : float32 array (K, ...) or None unless asked for
    count : int
        Number of samples drawn, fewer than asked for if the callback stopped.
    """

    mean: Floats
    std: Floats | None
    samples: Floats | None
    count: int


def sample_planes(
    planes: npt.ArrayLike,
    prior: LateralPrior,
    *,
    samples: int = 8,
    steps: int = 20,
    guidance: Sequence[str] = USUAL,
    seed: int = 0,
    keep: bool = False,
    slices_at_once: int = 8,
    callback: Callback | None = None,
) -> PlaneSamples:
    """Draw stacks that agree with the measured planes.

    Parameters
    ----------
    planes : array (m, Y, X)
        Measured planes 0, s, 2s, ... with ``s = prior.axial_factor``, without gaps.
    prior : LateralPrior
    samples, steps : int
        Number of samples, which come in antithetic pairs, and of the steps of each; at least 1.
    guidance : sequence of {"data", "tucker", "smooth", "lateral"}
        What guides the samples; see the table of the module.
    seed : int
    keep : bool
        Whether the samples themselves are returned, which takes the memory of K volumes.
    slices_at_once : int
        Number of slices in one call of the network.
    callback : callable ``(step, steps) -> bool or None``
        After each step of all samples; True stops, and samples not finished are left out.

    Returns
    -------
    PlaneSamples
        In the unit of the planes.

    Raises
    ------
    ValueError
        If the planes do not fit the prior, a number is below 1, or a guidance is unknown.

    Notes
    -----
    The cost is ``samples * steps`` passes of the network over the slices of one orientation, and memory for about
    twenty volumes whatever the number of samples (plus those kept).
    """
    values = checked_planes(planes, prior)
    if samples < 1 or steps < 1:
        raise ValueError(f"expected at least 1 sample and 1 step, got {samples} and {steps}")
    unknown = [name for name in guidance if name not in GUIDANCE]
    if unknown:
        raise ValueError(f"expected guidance among {', '.join(GUIDANCE)}, got {unknown[0]!r}")
    factor, shape = prior.axial_factor, (grid_rows(values, prior.axial_factor), *values.shape[1:])
    levels = falling_levels(steps)
    denoise = volume_denoiser(values, prior, levels, guidance, slices_at_once)
    measured = prior.standardise(tensor_of(values, prior.device))[None, None]
    terms: list[Term] = [AxialSmoothness(SMOOTHNESS)] if "smooth" in guidance else []
    data = GaussianConsistency(Planes(factor), measured, 0.0) if "data" in guidance else None
    centre = prior.standardise(tensor_of(regressed(prior, values), prior.device))[None, None]

    moments = PairMoments(shape)
    kept, drawn, rounds = [], 0, -(-samples // 2)
    with without_denormals():
        for turn in range(rounds):
            count = min(2, samples - 2 * turn)
            generator, start = _beginning(centre, levels[0], count, seed, turn)
            stopped: list[bool] = []

            def reporting(
                step: int, all_steps: int, _: Tensor, turn: int = turn, stopped: list[bool] = stopped
            ) -> bool:
                if callback is not None and callback(turn * all_steps + step + 1, rounds * all_steps):
                    stopped.append(True)
                return bool(stopped)

            found = sample(
                denoise, (1, *shape), levels=levels, method="ode", measurement=data, terms=terms, samples=count,
                antithetic=count == 2, generator=generator, start=start, callback=reporting, device=prior.device,
            )  # fmt: skip
            if stopped and found.steps < steps:
                break
            volumes = on_host(prior.restore(found.samples[:, 0]))
            if "data" in guidance:
                volumes[:, ::factor] = values
            if keep:
                kept.append(volumes)
            drawn += count
            moments.add(volumes)
            if stopped:
                break
    if not drawn:
        return PlaneSamples(on_host(prior.restore(centre[0, 0])), None, None, 0)
    std = moments.std() if drawn > 1 else None
    return PlaneSamples(moments.mean(), std, np.concatenate(kept) if keep else None, drawn)


class PairMoments:
    """Mean and standard deviation of antithetic pairs of volumes that are added one pair after another."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.total, self.squares, self.within, self.pairs = np.zeros(shape), np.zeros(shape), np.zeros(shape), 0

    def add(self, volumes: Floats) -> None:
        """Count a pair (2, Z, Y, X), or a last volume (1, Z, Y, X) without a partner as a pair."""
        middle = volumes.mean(axis=0, dtype=np.float64)
        self.within += np.square(volumes[0] - middle)
        self.total += middle
        self.squares += np.square(middle)
        self.pairs += 1

    def mean(self) -> Floats:
        """Mean of the means of the pairs."""
        mean: Floats = (self.total / self.pairs).astype(np.float32)
        return mean

    def std(self) -> Floats:
        """Standard deviation of the samples, whose variance is that within pairs plus that between pairs.

        A sample is its pair's mean plus or minus half the difference; the two are uncorrelated by symmetry.
        """
        between = self.squares - self.pairs * np.square(self.total / self.pairs)
        between = np.maximum(between, 0) / max(self.pairs - 1, 1)
        std: Floats = np.sqrt(self.within / self.pairs + between).astype(np.float32)
        return std


def _beginning(centre: Tensor, level: float, count: int, seed: int, turn: int) -> tuple[torch.Generator, Tensor]:
    """The random numbers of one pair (or of a single sample), and its states (count, 1, Z, Y, X) at the first level."""
    own = np.random.SeedSequence([seed, turn]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(own >> 1))
    noise = torch.randn(centre.shape, generator=generator, device=generator.device).to(centre)
    return generator, centre + level * (torch.cat([noise, -noise]) if count == 2 else noise)


def falling_levels(steps: int) -> list[float]:
    """Levels ``(steps + 1,)`` from the highest to the lowest, and then zero."""
    return [*karras_levels(HIGHEST_LEVEL, LOWEST_LEVEL, steps).tolist(), 0.0]


def volume_denoiser(
    values: Floats, prior: LateralPrior, levels: Sequence[float], guidance: Sequence[str], slices_at_once: int
) -> Denoiser:
    """``E[x0 | x, measured planes]`` of volumes (K, 1, Z, Y, X): slices of one orientation at each of the levels.

    The orientation follows from the place of the level in the ladder, so that nothing is remembered between calls. A
    prior of volumes is shown whole volumes.
    """
    factor = prior.axial_factor
    grid = torch.zeros(grid_rows(values, factor), *values.shape[1:], device=prior.device)
    grid[::factor] = tensor_of(values, prior.device)
    whole = prior.standardise(grid)  # (Z, Y, X)
    tucker = TuckerProjection() if "tucker" in guidance else None
    tau = prior.network.config.condition_error

    def guided(estimate: Tensor, level: float) -> Tensor:
        if tucker is None:
            return estimate
        # The error of the best estimate of a Gaussian of standard deviation tau about the condition.
        expected = level * tau / math.hypot(level, tau)
        return tucker(estimate, TUCKER_STRENGTH * expected)

    if isinstance(prior, VolumePrior):
        condition = condition_of(whole[None, None], factor)

        def denoise_volumes(x: Tensor, level: float | Tensor) -> Tensor:
            each = [prior.denoise(one, level, condition) for one in torch.split(x, 1)]
            return guided(torch.cat(each), float(level))

        return denoise_volumes

    conditions = {axis: condition_of(whole.movedim(axis, 0)[:, None], factor) for axis in (1, 2)}
    turns = (1, 2, 0) if "lateral" in guidance else (1, 2)
    place = {level: turns[step % len(turns)] for step, level in enumerate(levels)}

    def denoise_slices(x: Tensor, level: float | Tensor) -> Tensor:
        axis = place.get(float(level), 1)
        result = torch.empty_like(x)
        for volume, out in zip(x[:, 0], result[:, 0], strict=True):
            slices = volume.movedim(axis, 0)[:, None]  # (n, 1, H, W)
            for first in range(0, len(slices), slices_at_once):
                piece = slice(first, first + slices_at_once)
                rows = conditions[axis][piece] if axis else None
                out.movedim(axis, 0)[piece] = prior.denoise(slices[piece], level, rows)[:, 0]
        return guided(result, float(level))

    return denoise_slices


def calibrated(
    fill: PriorFill,
    spread: Floats,
    left_out_spread: Floats,
    *,
    factor: int,
    noise: float | NoiseModel = 0.0,
) -> Floats:
    """The uncertainty u of a fill between its measured planes.

    Parameters
    ----------
    fill : PriorFill
        A fill with at least one turn of left-out planes.
    spread : float32 array of the volume's shape
        Standard deviation of its samples.
    left_out_spread : float32 array ((k - 1) s + 1, Y, X)
        Standard deviation of samples between the kept planes of ``fill.turns[0]``.
    factor : int
        ``s``.
    noise : float or NoiseModel
        Noise of the left-out planes.
    """
    turn = fill.turns[0]
    left_out = middle_rows(_size(left_out_spread, np.float32(fill.ratio) * turn.error), factor).ravel()
    errors = np.abs(middle_rows(turn.outcome, factor) - turn.truth).ravel()
    parts = np.array_split(np.argsort(left_out), max(1, min(GROUPS, len(errors) // SMALLEST_GROUP)))
    model = noise if isinstance(noise, NoiseModel) else NoiseModel.white(noise)
    variance = model.variance(middle_rows(turn.outcome, factor)).ravel()
    sizes = [float(np.median(left_out[part])) for part in parts]
    widths = [conformal_width(errors[part], math.sqrt(float(np.mean(variance[part])))) for part in parts]
    size = _size(spread, fill.error)
    beyond = np.maximum(size / sizes[-1], 1.0) if sizes[-1] > 0 else 1.0
    u: Floats = (np.interp(size, sizes, widths) * beyond).astype(np.float32)
    return u


def _size(spread: Floats, error: Floats) -> Floats:
    """``sqrt(s e)``, by which the uncertainty is looked up."""
    size: Floats = np.sqrt(smoothed(spread) * error)
    return size


def smoothed(spread: Floats) -> Floats:
    """Root of the variance averaged over a few pixels of each plane, at least a tenth of the root mean square.

    >>> smoothed(np.ones((1, 4, 4), np.float32)).round(2).max()
    np.float32(1.0)
    """
    variance = np.square(spread)
    floor = np.float32(SPREAD_FLOOR**2) * variance.mean()
    nearby: Floats = np.sqrt(np.maximum(uniform_filter(variance, (1, SPREAD_WINDOW, SPREAD_WINDOW)), floor))
    return nearby
