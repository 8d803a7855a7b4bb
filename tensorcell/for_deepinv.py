"""What users of deepinv take from here: a measurement with its operator, and denoisers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.arguments import checked_noise
from tensorcell.errors import InputError
from tensorcell.plane_grid import PlaneGrid, wanted_grid
from tensorcell.prior_training import check_torch
from tensorcell.solvers import estimate_noise
from tensorcell.stack import given_stack
from tensorcell.volume import Volume, stacks, zyx_view

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]

ORDER = "TCZYX"
"""The axes of deepinv's tensors: samples, channels, and space."""


class DeepinvProblem(NamedTuple):
    """What the algorithms of deepinv take, and the way back; made by `to_deepinv_physics`."""

    y: torch.Tensor
    """float32 ``(B, C, D, H, W)``, or ``(B, C, H, W)`` of single planes: frames are samples; measured values in [0, 1],
    0 where nothing was measured."""
    physics: Any
    """``deepinv.physics.Inpainting``, whose ``mask`` is 1 where it was measured, with Gaussian noise."""
    to_volume: Callable[[Any], Volume]
    """Makes a volume of a tensor of the shape of ``y``: in the unit, axes and voxel size of the data, float32."""


def to_deepinv_physics(
    data: Volume | npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    axial_factor: int = 1,
    noise: Literal["auto"] | float = "auto",
    axes: str | None = None,
    spacing: Sequence[float] | None = None,
) -> DeepinvProblem:
    """A measurement with missing voxels and planes as deepinv takes it: ``y, physics, to_volume``.

    Parameters
    ----------
    data, mask, axial_factor, axes, spacing
        As for `recover`: mask True = measured, NaN = not measured; the planes given are planes 0, s, 2s, ... of the
        wanted ones. Axes are among T, C, Z, Y, X.
    noise : "auto" or float
        Standard deviation of the noise in the unit of the data; estimated by `tensorcell.solvers.estimate_noise` where
        not given (the root mean square where it grows with the intensity).

    Returns
    -------
    DeepinvProblem

    Raises
    ------
    InputError
        If torch or deepinv is not installed, or the data cannot be used; one line says what, expected and got.

    Notes
    -----
    deepinv's samplers are made for images in [0, 1]: the smallest measured value becomes 0, the largest 1. Memory is
    that of a float64 and three float32 copies of the wanted volume. The noise of a stack is estimated in about half a
    second.
    """
    check_torch()
    import torch

    from tensorcell.diffusion_guidance.compute import same_threads
    from tensorcell.diffusion_guidance.deepinv_modules import inpainting

    volume = Volume.from_array(data, axes=axes, spacing=spacing, mask=mask)
    if foreign := [letter for letter in volume.axes if letter not in ORDER]:
        raise InputError(f"expected axes among {', '.join(ORDER)} for deepinv, got {foreign[0]} in {volume.axes}")
    sigma = checked_noise(noise)
    grid = wanted_grid(volume, axial_factor)
    with same_threads():
        values, seen, own = on_grid(volume, grid, estimate=sigma is None)
    low, high = float(values[seen].min()), float(values[seen].max())
    width = (high - low) or 1.0
    y = np.where(seen, (values - low) / width, 0).astype(np.float32)
    letters = "".join(letter for letter in ORDER if letter in volume.axes)

    def to_volume(found: Any) -> Volume:
        result = np.asarray(found.detach().cpu() if hasattr(found, "detach") else found)
        if result.shape != y.shape:
            raise InputError(f"expected a result of shape {y.shape}, got {result.shape}")
        own_axes = [axis for axis, letter in enumerate(laid_out(volume.axes)) if letter in volume.axes]
        plain = result.reshape([result.shape[axis] for axis in own_axes])
        back = plain.transpose([letters.index(letter) for letter in volume.axes])
        size = None if volume.spacing is None or grid.spacing is None else (grid.spacing, *volume.spacing[1:])
        return replace(volume, data=np.asarray(back * width + low, np.float32), mask=None, spacing=size)

    try:
        physics = inpainting(seen, (own if sigma is None else sigma) / width)
    except ImportError as error:
        raise InputError(str(error)) from None
    return DeepinvProblem(torch.from_numpy(y), physics, to_volume)


def to_deepinv_denoiser(denoiser: Any = "local", problem: DeepinvProblem | None = None) -> Any:
    """A denoiser as deepinv calls its own, ``denoiser(x, sigma)``: for its plug-and-play methods and samplers.

    Parameters
    ----------
    denoiser : {"local", "tucker"}, prior, path or callable
        ``"local"``: groups of similar patches; ``"tucker"``: the global Tucker model at the rank that stands out of the
        noise. A prior, or the folder of one that `train` wrote: its network without a condition, on the xz and the
        yz slices if it is lateral. A callable ``(x, sigma) -> x0`` is taken as it is.
    problem : DeepinvProblem, optional
        A prior is brought into the unit of this measurement, as `recover` does; otherwise x is taken to be in the unit
        of the data to which the prior was fitted.

    Returns
    -------
    torch.nn.Module
        ``module(x, sigma)`` with x ``(B, C, D, H, W)`` (``(B, C, H, W)``: slices), and sigma the standard deviation of
        its noise in the unit of x, a number or one a sample. It needs no deepinv. Gradients pass through priors, not
        through ``"local"`` and ``"tucker"``.

    Raises
    ------
    InputError
        If torch is not installed, or the denoiser is none or cannot be read; one line says what, expected and got.

    Examples
    --------
    >>> import pytest; torch = pytest.importorskip("torch")
    >>> noisy = torch.randn(1, 1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> bool(to_deepinv_denoiser("tucker")(noisy, 1.0).std() < 0.5)
    True
    """
    check_torch()
    from tensorcell.diffusion_guidance.deepinv_modules import PROJECTIONS, DenoiserModule
    from tensorcell.diffusion_guidance.fill_stack import adapted_prior
    from tensorcell.diffusion_guidance.priors import LateralPrior, load_prior

    try:
        if isinstance(denoiser, str | os.PathLike) and denoiser not in PROJECTIONS:
            denoiser = load_prior(denoiser)
        if problem is not None and isinstance(denoiser, LateralPrior):
            measured = problem.y[problem.physics.mask.bool()].numpy()
            denoiser = adapted_prior(denoiser, measured, float(problem.physics.noise_model.sigma))
        return DenoiserModule(denoiser)
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None


def on_grid(volume: Volume, grid: PlaneGrid, *, estimate: bool) -> tuple[Array, npt.NDArray[np.bool_], float]:
    """Values and where they were measured, both as deepinv lays them out, and the noise of all stacks if asked for."""
    sizes = dict(zip(volume.axes, volume.shape, strict=True)) | ({"Z": grid.planes} if "Z" in volume.axes else {})
    letters = laid_out(volume.axes)
    values = np.zeros([sizes.get(letter, 1) for letter in letters])
    seen = np.zeros(values.shape, bool)
    squares = []
    for stack in stacks(volume):
        given = given_stack(stack.data, stack.mask)
        index = dict(zip(volume.axes, stack.where, strict=True))
        where = tuple(index.get(letter, slice(None) if letter in "ZYX" else 0) for letter in letters)
        zyx_view(values, letters, where)[grid.places] = np.where(given.mask, given.given_values, 0)
        zyx_view(seen, letters, where)[grid.places] = given.mask
        if estimate and not given.constant:
            planes = given.mask.any((1, 2))
            squares.append(estimate_noise(given.given_values[planes], given.mask[planes]).sigma ** 2)
    return values, seen, math.sqrt(float(np.mean(squares))) if squares else 0.0


def laid_out(axes: str) -> str:
    """The axes of a volume's tensor.

    >>> laid_out("ZYX"), laid_out("CYX")
    ('TCZYX', 'TCYX')
    """
    return ORDER if "Z" in axes else ORDER.replace("Z", "")
