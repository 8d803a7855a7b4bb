"""`recover`: a stack with gaps, noise and outliers in, a whole stack out.

Every channel and time frame is one 3-D stack and is recovered on its own:

1. planes that hold (nearly) nothing are set aside: no low-rank argument says anything about them;
2. on the others, :func:`tensorcell.solvers.complete_tucker` fits a robust Tucker model;
3. voxels far from the model *and* from their neighbours are outliers (:func:`tensorcell.gaps.isolated`);
4. what the model leaves over and neighbours share is carried into the gaps (:mod:`tensorcell.gaps`);
5. ``method="local"`` goes on from there with groups of similar patches (:mod:`tensorcell.solvers.local`), which
   complete the gaps and, where measured voxels are not kept, denoise them;
6. planes that were set aside are filled along z (:mod:`tensorcell.solvers.interplane`), with ``method="diffusion"``
   by a prior fitted to the lateral slices, too (:mod:`tensorcell.diffusion_guidance`);
7. errors at left-out measured voxels, Stein's estimate and left-out planes tell the uncertainty.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from tensorcell import gaps
from tensorcell.errors import InputError
from tensorcell.solvers import CompletionResult, IterationRecord, Status, complete_tucker, estimate_rank
from tensorcell.solvers.anscombe import generalised_anscombe, inverse_anscombe
from tensorcell.solvers.interplane import fill_planes
from tensorcell.solvers.local import LocalOptions, local_tucker
from tensorcell.solvers.noise import NoiseModel, estimate_noise
from tensorcell.solvers.rank_limits import affordable
from tensorcell.solvers.spread import COVERED, NORMAL_QUANTILE
from tensorcell.volume import Volume, stacks, zyx_view

Array = npt.NDArray[Any]
METHODS = ("auto", "tucker", "local", "diffusion")
GUIDANCE = ("data", "tucker", "smooth", "lateral")
DEVICES = ("auto", "cpu", "cuda")
SLAB_VOXELS = 1 << 22
SURROUNDINGS = (1.0, 2.0, 2.0)
"""Widths of the window in which the variance of the result counts as structure."""
LEAST_CONTRAST = 0.02
"""Of the standard deviation of a stack: less than this is no structure."""
RARE = 0.02
"""Share of the measured voxels that must lie far outside the intensities around them for others to be believed, too."""
LEAST_SHARE = 0.65
"""Share of the squared width of left-out errors that is never put down to noise: the noise is an estimate, too."""
SHARED = 0.2
"""Correlation of the noise of neighbouring voxels from which on a note warns; gaps and outliers feign smaller ones."""
OUTLIER_ROUNDS = 3
"""How often outliers are looked for: those found no longer stand by others among the neighbours."""
EMPTY_PLANE = 0.01
"""A plane with a smaller share of measured voxels than this tells the model nothing and is filled along z."""


@dataclass(frozen=True, kw_only=True)
class TuckerOptions:
    """Options of ``method="tucker"``, passed to :func:`recover` by name.

    Attributes
    ----------
    robust : bool
        Look for outliers.
    tolerance : float
        Relative change of the model at which the fit ends.
    max_iterations : int
        Largest number of Gauss-Newton steps after the first sweeps.
    neighbours : bool
        Carry the residual that neighbours share into the gaps; False gives the bare low-rank model there.
    """

    robust: bool = True
    tolerance: float = 1e-2
    max_iterations: int = 5
    neighbours: bool = True

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise InputError(f"expected a positive tolerance, got {self.tolerance}")
        if self.max_iterations < 1:
            raise InputError(f"expected max_iterations of at least 1, got {self.max_iterations}")


@dataclass(frozen=True, kw_only=True)
class DiffusionOptions:
    """Options of ``method="diffusion"``, passed to :func:`recover` by name.

    Attributes
    ----------
    prior : None, path or LateralPrior
        None: one is fitted to the stack itself. Else one for the axial factor at hand, of ``tensorcell train`` say.
    samples, steps : int
        How many samples of the posterior, and in how many steps each.
    guidance : sequence of {"data", "tucker", "smooth", "lateral"}
        What guides the samples: see :mod:`tensorcell.diffusion_guidance.plane_samples`.
    fit_steps : int
        Largest number of steps of the fit; it ends earlier if held-out slices are no longer predicted better.
    cache : path, optional
        Folder for the fitted priors. If it holds those of the same stack and options, they are taken; those of others
        are neither used nor replaced. A fit for planes that was interrupted goes on from the state beside the folder.
    allow_pickle : bool
        Accept a prior whose weights are a pickle (loaded weights-only).
    keep_samples : bool
        Return the samples: `samples` volumes of memory.
    """

    prior: Any = None
    samples: int = 8
    steps: int = 20
    guidance: Sequence[str] = ("data",)
    fit_steps: int = 2000
    cache: str | Path | None = None
    allow_pickle: bool = False
    keep_samples: bool = False

    def __post_init__(self) -> None:
        for name in ("samples", "steps", "fit_steps"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise InputError(f"expected a whole number of at least 1 as {name}, got {value!r}")
        if isinstance(self.guidance, str):
            object.__setattr__(self, "guidance", tuple(part for part in self.guidance.split(",") if part))
        if not isinstance(self.guidance, Sequence):
            raise InputError(f"expected guidance as names, got {self.guidance!r}")
        unknown = [name for name in self.guidance if name not in GUIDANCE]
        if unknown:
            raise InputError(f"expected guidance among {', '.join(GUIDANCE)}, got {unknown[0]!r}")


class Stage(NamedTuple):
    """Second argument of the callback while a prior is fitted or sampled."""

    step: int
    steps: int
    message: str = ""


class _Outliers(NamedTuple):
    """Outliers of one stack: place of the stack, flat positions in it, values ``E``."""

    where: tuple[int | slice, ...]
    positions: Array
    values: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Recovery:
    """What :func:`recover` returns.

    Attributes
    ----------
    volume : Volume
        The recovered volume: axes and unit of the input, spacing ``(dz / axial_factor, dy, dx)``, float32 (float64 for
        float64 and 32- or 64-bit integer input), no NaN.
    measured : bool array of the volume's shape
        Which voxels were measured. Where ``keep_measured`` held, those that are not outliers hold the measured value.
    uncertainty : float array of the volume's shape
        ``u``, in the data's unit: ``volume +- 1.645 u`` is to hold the noise-free intensity with probability .9. At
        kept voxels the noise; at denoised ones from Stein's estimate; in gaps from the errors at measured voxels left
        out of a second fit; between planes from left-out planes, brought to the real gap.
    rank : tuple of int, or dict of label to tuple
        Tucker rank used; a dict where there are several channels or frames.
    status : Status
        The worst of all stacks; ``str(status)`` is a sentence.
    history : tuple of IterationRecord
        Iterations of all stacks, one after another.
    samples : float array (K, ...) or None
        Samples of the posterior about `volume`, if ``keep_samples`` asked for them.
    noise : float or dict of label to float
        Standard deviation of the noise that was given or estimated, in the data's unit.
    notes : tuple of str
        What one should know of this result, a line each.
    seconds : float
        Wall time.
    """

    volume: Volume
    measured: npt.NDArray[np.bool_]
    uncertainty: npt.NDArray[np.floating]
    rank: Any
    status: Status
    history: tuple[IterationRecord, ...]
    noise: Any
    notes: tuple[str, ...]
    seconds: float
    input_shape: tuple[int, ...]
    _outliers: tuple[_Outliers, ...] = field(repr=False)
    samples: npt.NDArray[np.floating] | None = None

    @property
    def outliers(self) -> Array:
        """The sparse part ``E``, shaped like the input, zero where nothing was flagged (made anew at each access)."""
        dense = np.zeros(self.input_shape, self.volume.data.dtype)
        for part in self._outliers:
            stack = zyx_view(dense, self.volume.axes, part.where)
            stack[np.unravel_index(part.positions, stack.shape)] = part.values
        return dense

    @property
    def invented(self) -> Array:
        """Share of the result that the measurement does not determine, per voxel, in [0, 1] (made at each access).

        ``u^2 / (u^2 + v)``, the part of the variance that is left open: u is the uncertainty, v the variance of the
        result under a Gaussian window of 1, 2 and 2 voxels along z, y and x. 0 at measured voxels that were not
        replaced, near 1 where no structure is known. What is below a fiftieth of the stack's contrast is no structure.
        """
        share = np.zeros(self.volume.shape, self.volume.data.dtype)
        flagged = self.outliers != 0
        for part in self._outliers:
            open_ = ~zyx_view(self.measured, self.volume.axes, part.where)
            step = (len(open_) - 1) // max(1, len(zyx_view(flagged, self.volume.axes, part.where)) - 1)
            open_[::step] |= zyx_view(flagged, self.volume.axes, part.where)
            values = zyx_view(self.volume.data, self.volume.axes, part.where)
            u = zyx_view(self.uncertainty, self.volume.axes, part.where)
            zyx_view(share, self.volume.axes, part.where)[...] = np.where(open_, share_left_open(values, u), 0)
        return share

    @property
    def outlier_count(self) -> int:
        """Number of measured voxels flagged as outliers."""
        return sum(len(part.positions) for part in self._outliers)


class _Request(NamedTuple):
    """The checked arguments that are the same for every stack."""

    method: str
    axial_factor: int
    rank: Any
    noise: float | None
    nonnegative: bool | None
    keep_measured: bool | None
    device: str
    seed: int
    options: TuckerOptions
    local: LocalOptions
    diffusion: DiffusionOptions
    prior_name: str
    """What notes call the prior given."""
    key: str
    """Digest of a stack and of what a fit to it depends on."""
    callback: Callable[[IterationRecord, Any], bool | None] | None


class _StackResult(NamedTuple):
    volume: Array
    uncertainty: Array
    measured: Array
    positions: Array
    values: Array
    rank: tuple[int, ...]
    status: Status
    history: tuple[IterationRecord, ...]
    noise: float
    notes: tuple[str, ...]
    samples: Array | None = None


def recover(
    data: Volume | npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    axial_factor: int = 1,
    method: Literal["auto", "tucker", "local", "diffusion"] = "auto",
    rank: Literal["auto"] | int | Sequence[int] = "auto",
    noise: Literal["auto"] | float = "auto",
    nonnegative: Literal["auto"] | bool = "auto",
    keep_measured: Literal["auto"] | bool = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    progress: bool = False,
    callback: Callable[[IterationRecord, Any], bool | None] | None = None,
    axes: str | None = None,
    spacing: tuple[float, float, float] | None = None,
    **options: Any,
) -> Recovery:
    """Recover a volume from too few, too noisy, partly wrong measurements.

    Parameters
    ----------
    data : Volume or array
        Intensities in any unit; NaN means not measured. An unknown 3-D array is ZYX.
    mask : bool array of the same shape, optional
        True = measured. Measured is what the mask *and* NaN allow; an infinity there is an error.
    axial_factor : int
        ``s``: the planes given are planes 0, s, 2s, ... of the wanted stack, which has ``(n - 1) s + 1`` planes.
    method : {"auto", "tucker", "local", "diffusion"}
        ``"tucker"``: global robust Tucker completion, with what the model leaves over interpolated between neighbours.
        ``"local"``: from there on by groups of similar patches, each of low rank. ``"auto"``: in the gaps the one with
        the smaller error at left-out measured voxels, ``"local"`` for denoising; the notes say which and why.
        ``"diffusion"``: goes on from ``"auto"`` with a prior fitted to the stack itself (minutes; needs the extra
        ``diffusion``): planes between evenly spaced ones, and denoising.
    rank : "auto", int or three ints
        Tucker rank along z, y and x. "auto": ranks from the spectra and a few smaller and larger ones, the one that
        predicts left-out measured voxels best.
    noise : "auto" or float
        Standard deviation of the noise in the data's unit. A value above 0 asks for denoised measured voxels.
    nonnegative : "auto" or bool
        "auto": the result has no negative values if the measured voxels have none. True makes it a constraint of the
        fit and negative measured voxels an error.
    keep_measured : "auto" or bool
        Whether measured voxels that are not outliers come back bit for bit. "auto": a fully measured input is denoised;
        with ``axial_factor`` above 1, a mask or NaN, and no ``noise`` given, measured voxels are kept.
    device : {"auto", "cpu", "cuda"}
        Where the Tucker fit runs (priors run on the CPU); "auto" takes a GPU if CuPy finds one.
    seed : int
        For the choice of left-out voxels.
    progress : bool
        Show a progress bar on stderr, if that is a terminal.
    callback : callable, optional
        ``callback(record, state)`` after every iteration of the fit; returning True stops the fit.
    axes, spacing
        For arrays: as in :class:`Volume`.
    **options
        Fields of :class:`TuckerOptions`; of :class:`tensorcell.solvers.LocalOptions` unless the method is
        ``"tucker"``; of :class:`DiffusionOptions` if it is ``"diffusion"``.

    Returns
    -------
    Recovery

    Raises
    ------
    InputError
        If the input cannot be used; one line says what, expected and got.
    TypeError
        For an unknown option.

    Notes
    -----
    A low-rank model says nothing about a plane that was never measured. Such planes are interpolated along z, and the
    notes name them. Channels and frames are recovered one by one. Memory: about 80 bytes a voxel for float32 output.

    Examples
    --------
    >>> import numpy as np
    >>> from tensorcell.datasets import simulate_cells
    >>> cells = simulate_cells((24, 48, 48), cells=6, keep_pixels=0.5, seed=1)
    >>> result = recover(cells.measured)
    >>> kept = cells.mask & (result.outliers == 0)
    >>> bool(np.array_equal(result.volume.data[kept], cells.measured[kept]))
    True
    """
    start = time.perf_counter()
    volume = Volume.from_array(data, axes=axes, spacing=spacing, mask=mask)
    request = _checked(
        volume, axial_factor, method, rank, noise, nonnegative, keep_measured, device, seed, options, callback
    )
    if progress:
        from tensorcell.progress import with_progress

        bar, shown = with_progress(callback)
        with bar:
            return _recover_volume(volume, request._replace(callback=shown), start)
    return _recover_volume(volume, request, start)


def _recover_volume(volume: Volume, request: _Request, start: float) -> Recovery:
    """Recover every stack of the volume and put the results together."""
    parts, labels = [], []
    axis = volume.axes.index("Z")
    shape = list(volume.shape)
    shape[axis] = (shape[axis] - 1) * request.axial_factor + 1
    dtype = float_type(volume.dtype)
    out, uncertainty, measured = np.empty(shape, dtype), np.empty(shape, dtype), np.zeros(shape, bool)
    outliers: list[_Outliers] = []
    drawn: list[tuple[Any, Array | None]] = []
    for stack in stacks(volume):
        try:
            part = _recover_stack(stack.data, stack.mask, _for_stack(request, stack.label))
        except InputError as error:
            raise InputError(f"{stack.label}: {error}" if stack.label else str(error)) from None
        zyx_view(out, volume.axes, stack.where)[...] = part.volume
        zyx_view(uncertainty, volume.axes, stack.where)[...] = part.uncertainty
        zyx_view(measured, volume.axes, stack.where)[...] = part.measured
        drawn.append((stack.where, part.samples))
        outliers.append(_Outliers(stack.where, part.positions, part.values))
        labels.append(stack.label)
        parts.append(part._replace(volume=np.empty(0), uncertainty=np.empty(0), measured=np.empty(0), samples=None))
    order = list(Status)
    several = len(parts) > 1
    metadata = {k: v for k, v in volume.metadata.items() if k not in ("format",)}
    fine = None
    if volume.spacing is not None:
        fine = (volume.spacing[0] / request.axial_factor, *volume.spacing[1:])
    return Recovery(
        volume=Volume(out, axes=volume.axes, spacing=fine, metadata=metadata),
        measured=measured,
        uncertainty=uncertainty,
        rank={k: p.rank for k, p in zip(labels, parts, strict=True)} if several else parts[0].rank,
        status=max((p.status for p in parts), key=_severity(order)),
        history=tuple(record for p in parts for record in p.history),
        noise={k: p.noise for k, p in zip(labels, parts, strict=True)} if several else parts[0].noise,
        notes=tuple(f"{k}: {n}" if several else n for k, p in zip(labels, parts, strict=True) for n in p.notes),
        seconds=time.perf_counter() - start,
        input_shape=volume.shape,
        _outliers=tuple(outliers),
        samples=_together(drawn, out, volume.axes),
    )


def _together(drawn: Sequence[tuple[Any, Array | None]], out: Array, axes: str) -> Array | None:
    """The samples of all stacks: as many as every stack has that has any; the result where a stack has none."""
    counts = [len(samples) for _, samples in drawn if samples is not None]
    if not counts:
        return None
    whole = np.stack([out] * min(counts))
    for where, samples in drawn:
        if samples is not None:
            for one, sample in zip(whole, samples[: len(whole)], strict=True):
                zyx_view(one, axes, where)[...] = sample
    return whole


def _for_stack(request: _Request, label: str) -> _Request:
    """The request for one of several stacks: each keeps its prior in a folder of its own."""
    if not label or request.diffusion.cache is None:
        return request
    folder = Path(request.diffusion.cache) / "".join(c if c.isalnum() else "-" for c in label)
    return request._replace(diffusion=replace(request.diffusion, cache=folder))


def share_left_open(values: Array, u: Array) -> Array:
    """``u^2 / (u^2 + v)``; see :attr:`Recovery.invented`.

    >>> share_left_open(np.zeros((3, 3, 3)), np.zeros((3, 3, 3))).max()
    np.float64(0.0)
    """
    centred = values - values.mean(dtype=np.float64)
    mean = gaussian_filter(centred, SURROUNDINGS)
    variance = np.maximum(gaussian_filter(np.square(centred), SURROUNDINGS) - np.square(mean), 0)
    open_ = np.square(u.astype(np.float64))
    total = open_ + np.maximum(variance, (LEAST_CONTRAST * float(centred.std())) ** 2)
    share: Array = np.divide(open_, total, out=np.zeros_like(total), where=total > 0)
    return share


def _severity(order: list[Status]) -> Callable[[Status], int]:
    ranked = [
        Status.UNCHANGED, Status.CONVERGED, Status.COMPLETED, Status.STALLED, Status.MAX_ITERATIONS, Status.STOPPED,
        Status.DIVERGED,
    ]  # fmt: skip
    return lambda status: ranked.index(status) if status in ranked else len(order)


def float_type(dtype: npt.DTypeLike) -> type[np.floating]:
    """Float type that holds all values of the dtype: float32 up to 16-bit integers, float64 above."""
    dtype = np.dtype(dtype)
    small = (
        dtype == np.bool_ or (dtype.kind in "iu" and dtype.itemsize <= 2) or (dtype.kind == "f" and dtype.itemsize <= 4)
    )
    return np.float32 if small else np.float64


def _checked(
    volume: Volume,
    axial_factor: Any,
    method: Any,
    rank: Any,
    noise: Any,
    nonnegative: Any,
    keep_measured: Any,
    device: Any,
    seed: int,
    options: dict[str, Any],
    callback: Any,
) -> _Request:
    """Check every argument that does not depend on the stack."""
    if method not in METHODS:
        raise InputError(f"expected method {' or '.join(METHODS)}, got {method!r}")
    whole = isinstance(axial_factor, Real) and not isinstance(axial_factor, bool) and float(axial_factor).is_integer()
    if not whole or axial_factor < 1:
        raise InputError(f"expected a whole axial factor of at least 1, got {axial_factor!r}")
    if not isinstance(noise, str) and not (isinstance(noise, Real) and 0 <= float(noise) < math.inf):
        raise InputError(f"expected noise 'auto' or a standard deviation of at least 0, got {noise!r}")
    if isinstance(noise, str) and noise != "auto":
        raise InputError(f"expected noise 'auto' or a standard deviation of at least 0, got {noise!r}")
    for name, value in (("nonnegative", nonnegative), ("keep_measured", keep_measured)):
        if value not in ("auto", True, False):
            raise InputError(f"expected {name} 'auto', True or False, got {value!r}")
    if not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"expected a whole number of at least 0 as seed, got {seed!r}")
    rank = whole_rank(rank)
    check_shape(volume)
    tucker, local, diffusion = _split_options(method, options)
    prior_name = ""
    if method == "diffusion":
        _check_torch()
        from tensorcell.diffusion_guidance.recovery import checked_cache, given_prior

        if seed >= 2**32:
            raise InputError(f"expected a seed below 2**32 for method diffusion, got {seed}")
        prior, prior_name = given_prior(diffusion.prior, diffusion.allow_pickle)
        diffusion = replace(diffusion, prior=prior, cache=checked_cache(diffusion.cache))
    return _Request(
        method=method,
        axial_factor=int(axial_factor),
        rank=rank,
        noise=None if isinstance(noise, str) else float(noise),
        nonnegative=None if nonnegative == "auto" else bool(nonnegative),
        keep_measured=None if keep_measured == "auto" else bool(keep_measured),
        device=choose_device(device),
        seed=seed,
        options=tucker,
        local=local,
        diffusion=diffusion,
        prior_name=prior_name,
        key="",
        callback=callback,
    )


def _check_torch() -> None:
    for name in ("torch", "safetensors"):
        if importlib.util.find_spec(name) is None:
            raise InputError(f'method "diffusion" needs {name}, found none (pip install "tensorcell[diffusion]")')


def _split_options(method: str, options: dict[str, Any]) -> tuple[TuckerOptions, LocalOptions, DiffusionOptions]:
    """The options of each stage; an unknown name is a TypeError."""
    local_names = {each.name for each in fields(LocalOptions)} if method != "tucker" else set()
    names = {each.name for each in fields(DiffusionOptions)} if method == "diffusion" else set()

    def chosen(wanted: set[str]) -> dict[str, Any]:
        return {name: value for name, value in options.items() if name in wanted}

    try:
        local = LocalOptions(**chosen(local_names))
    except ValueError as error:
        raise InputError(str(error)) from None
    return TuckerOptions(**chosen(set(options) - local_names - names)), local, DiffusionOptions(**chosen(names))


def whole_rank(rank: Any) -> tuple[int, ...] | None:
    """Three whole numbers, or None for "auto"."""
    if isinstance(rank, str) and rank == "auto":
        return None
    if isinstance(rank, str) or (np.ndim(rank) != 0 and np.ndim(rank) != 1):
        raise InputError(f"expected rank 'auto', a whole number or three, got {rank!r}")
    numbers = tuple(rank) if np.ndim(rank) else (rank,) * 3
    if len(numbers) != 3:
        raise InputError(f"rank has {len(numbers)} entries, a stack has 3 axes (z, y, x)")
    if not all(isinstance(r, Integral) and not isinstance(r, bool) and int(r) >= 1 for r in numbers):
        raise InputError(f"expected whole numbers of at least 1 as rank, got {rank!r}")
    return tuple(int(r) for r in numbers)


def check_shape(volume: Volume) -> None:
    sizes = {axis: volume.shape[volume.axes.index(axis)] for axis in "ZYX"}
    if sizes["Z"] < 2:
        raise InputError(f"expected a stack of at least 2 planes, got {sizes['Z']}")
    if min(sizes["Y"], sizes["X"]) < 2:
        raise InputError(f"expected planes of at least 2 x 2 pixels, got {sizes['Y']} x {sizes['X']}")


def choose_device(device: str) -> str:
    """``"cpu"`` or ``"cuda"``; an explicit ``"cuda"`` without CuPy and a GPU is an error."""
    if device not in DEVICES:
        raise InputError(f"expected device {' or '.join(DEVICES)}, got {device!r}")
    if device == "cpu" or (device == "auto" and importlib.util.find_spec("cupy") is None):
        return "cpu"
    problem = _cuda_problem()
    if problem and device == "cuda":
        raise InputError(f"device 'cuda' needs a CUDA GPU and CuPy: {problem}")
    return "cpu" if problem else "cuda"


def _cuda_problem() -> str | None:
    try:
        import cupy
    except ImportError:
        return 'CuPy is not installed (pip install "tensorcell[cuda12]")'
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return str(error).splitlines()[0]
    return None if count else "no GPU found"


def _recover_stack(data: Array, mask: Array | None, request: _Request) -> _StackResult:
    """Recover one 3-D stack (see the top of this file for the steps)."""
    y = np.ascontiguousarray(data, dtype=float_type(data.dtype))
    seen = ~np.isnan(y)
    if mask is not None:
        seen &= mask
    check_measured(y, seen)
    notes: list[str] = []
    lowest, highest = float(np.min(y, where=seen, initial=np.inf)), float(np.max(y, where=seen, initial=-np.inf))
    factor = request.axial_factor
    planes = (y.shape[0] - 1) * factor + 1
    measured = np.zeros((planes, *y.shape[1:]), bool)
    measured[::factor] = seen
    if lowest == highest:
        value = np.full(measured.shape, lowest, y.dtype)
        note = f"all measured voxels have the value {lowest:g}: returned as it is"
        nothing = np.zeros(0, np.int64)
        return _StackResult(
            value, np.zeros_like(value), measured, nothing, nothing.astype(y.dtype), (1, 1, 1), Status.UNCHANGED, (),
            0.0, (note,),
        )  # fmt: skip
    if request.nonnegative and lowest < 0:
        raise InputError(f"nonnegative=True, but measured values go down to {lowest:g}")

    full = bool(seen.all())
    if not full:
        y = np.where(seen, y, 0)  # whatever stands under the mask must not reach any arithmetic
    keep = request.keep_measured
    if keep is None:
        keep = (factor > 1 or not full) and not request.noise
    share = seen.mean(axis=(1, 2))
    known = np.flatnonzero(share >= min(EMPTY_PLANE, 0.5 * share.max()))
    if len(known) < 2:
        raise InputError(f"expected at least 2 measured planes, got {len(known)} of {len(share)}")
    stack, kept = (y, seen) if len(known) == len(share) else (y[known], seen[known])
    lateral = never_measured(kept)
    if lateral:
        raise InputError(lateral)

    if request.method == "diffusion":
        fitting = (factor, request.noise, keep, request.seed, request.diffusion.fit_steps)
        request = request._replace(key=digest(np.where(kept, stack, np.nan), *fitting))
    noise = _noise_of(stack, kept, request)
    rank = request.rank
    if rank is None and kept.all() and request.method != "tucker":  # the model only looks for outliers then
        rank = estimate_rank(stack, kept, method="threshold", noise=request.noise or None, voxels=RANK_VOXELS).rank
    elif rank is None:
        rank = choose_rank(stack, kept, request)
    check_rank(rank, stack.shape, len(known) < len(share))
    estimate = estimate_stack(stack, kept, tuple(rank), noise, keep, request)
    notes.extend(estimate.notes)
    if noise.correlated and np.nanmax(noise.correlation) > SHARED:
        notes.append(f"{noise.sentence} Noise that neighbours share looks like structure and stays.")

    grid = factor * known
    volume, uncertainty = estimate.best, estimate.error
    positions, values = estimate.positions, estimate.values
    samples = estimate.samples if len(grid) == planes else None
    if len(grid) < planes:
        remaining = 0.0 if keep else math.sqrt(float(np.mean(np.square(uncertainty, dtype=np.float64))))
        passed = noise if keep else 0.0
        notes.append(_planes_note(grid, planes))
        spacing = _even_spacing(grid, planes)
        if request.method == "diffusion" and spacing > 1 and estimate.status is not Status.STOPPED:
            from tensorcell.diffusion_guidance.recovery import diffused_planes

            diffused = diffused_planes(volume, spacing, passed, _diffusion_request(request, estimate.history))
            volume, error, samples = diffused.volume.astype(y.dtype, copy=False), diffused.error, diffused.samples
            notes.extend(diffused.notes)
        else:
            filled = fill_planes(volume, grid, planes, noise=passed, denoise=False)
            volume, error = np.asarray(filled.volume), np.asarray(filled.error)
            notes.append(f"between planes: {filled.sentence}")
            if request.method == "diffusion" and spacing == 0:
                notes.append("the measured planes are not evenly spaced: a lateral prior says nothing between them")
        between = np.hypot(error, remaining)
        between[grid] = uncertainty
        uncertainty = between
    elif request.method == "diffusion" and (keep or noise.sigma == 0):
        notes.append("no plane is missing and there is no noise to be taken away: a prior adds nothing")
    if request.nonnegative or (request.nonnegative is None and lowest >= 0):
        np.maximum(volume, 0, out=volume)
        if samples is not None:
            np.maximum(samples, 0, out=samples)
    plane = math.prod(y.shape[1:])
    positions = known[positions // plane] * plane + positions % plane
    if keep:
        inlier = seen.copy()
        inlier.ravel()[positions] = False
        np.copyto(volume[::factor], y, where=inlier)
        if samples is not None:
            np.copyto(samples[:, ::factor], y, where=inlier)
    if request.prior_name and not any(note.startswith(request.prior_name) for note in notes):
        notes.append(f"{request.prior_name} was not used: it is not of the kind that this stack needs")
    if request.method == "diffusion" and request.diffusion.keep_samples and samples is None:
        notes.append("no samples were drawn of this stack")
    if len(positions):
        notes.append(f"{len(positions)} of {int(seen.sum())} measured voxels stand out and were replaced as outliers")
    return _StackResult(
        volume, uncertainty.astype(y.dtype, copy=False), measured, positions, values, tuple(rank), estimate.status,
        estimate.history, float(noise.sigma), tuple(notes), samples,
    )  # fmt: skip


def _even_spacing(grid: Array, planes: int) -> int:
    """Planes from one measured one to the next; 0 where that differs, or some lie beyond the measured ones."""
    steps = np.unique(np.diff(grid))
    return int(steps[0]) if len(steps) == 1 and grid[0] == 0 and grid[-1] == planes - 1 else 0


def _diffusion_request(request: _Request, history: tuple[IterationRecord, ...]) -> Any:
    """What the torch module is asked; its progress goes to the callback as records of further stages."""
    from tensorcell.diffusion_guidance.recovery import DiffusionRequest

    options = request.diffusion
    before = history[-1].iteration if history else 0
    begun: dict[str, float] = {}

    def record(stage: str, step: int, value: float) -> IterationRecord:
        now = time.perf_counter()
        return IterationRecord(
            iteration=before + step, stage=stage, change=math.nan, residual=value, outliers=0, threshold=0.0,
            seconds=now - begun.setdefault(stage, now),
        )  # fmt: skip

    def report(stage: str, step: int, steps: int, value: float) -> bool:
        return request.callback is not None and bool(request.callback(record(stage, step, value), Stage(step, steps)))

    def say(message: str) -> None:
        if request.callback is not None:
            request.callback(record("prior", 0, math.nan), Stage(0, 1, message))

    given = {name: getattr(options, name) for name in ("prior", "cache", "fit_steps", "samples", "steps")}
    return DiffusionRequest(
        **given, prior_name=request.prior_name, key=request.key, guidance=tuple(options.guidance),
        keep_samples=options.keep_samples, seed=int(request.seed), report=report, say=say,
    )  # fmt: skip


def digest(values: Array, *options: Any) -> str:
    """Of values, their shape, and options.

    >>> digest(np.zeros((2, 3)), 1) == digest(np.zeros((3, 2)), 1)
    False
    """
    found = hashlib.sha256(repr((values.shape, *options)).encode())
    found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()[:12]


def _noise_of(stack: Array, kept: Array, request: _Request) -> NoiseModel:
    """The noise given, of constant variance, or the one estimated."""
    if request.noise is not None:
        return NoiseModel(gain=0.0, offset=request.noise**2, sigma=request.noise)
    return estimate_noise(stack, kept)


class _Estimate(NamedTuple):
    """All voxels of the measured planes: value, standard deviation of its error; outliers; how it was obtained."""

    best: Array
    error: Array
    positions: Array
    values: Array
    status: Status
    history: tuple[IterationRecord, ...]
    notes: tuple[str, ...]
    samples: Array | None = None


def estimate_stack(
    stack: Array, kept: Array, rank: tuple[int, ...], noise: NoiseModel, keep: bool, request: _Request
) -> _Estimate:
    """Estimate the voxels of measured planes, by the method asked for."""
    fit = _complete(stack, kept, rank, request)
    best, positions, values, own = _best_estimate(stack, kept, fit, noise.sigma, keep, request)
    notes = []
    samples: Array | None = None
    if fit.status in (Status.MAX_ITERATIONS, Status.DIVERGED) and request.method == "tucker":
        notes.append(f"the fit {fit.status}")
    inlier = kept.copy()
    inlier.ravel()[positions] = False
    if len(positions) and request.noise is None:
        noise = estimate_noise(stack, inlier)  # without what stands out
    history, status = fit.history, fit.status
    gaps_left = not inlier.all()
    error = np.sqrt(noise.variance(best)) * (1.0 if keep else math.sqrt(own))
    chosen = request.method
    stopped = fit.status is Status.STOPPED
    trial = left_out_trial(stack, inlier, rank, noise, request) if gaps_left and not stopped else None
    if chosen in ("auto", "diffusion") and trial is not None and keep:
        chosen = "local" if trial.local < trial.tucker else "tucker"
        notes.append(
            f"method {chosen}: at {len(trial.errors)} left-out measured voxels the error of the groups of patches is "
            f"{trial.local:.4g}, of the global model {trial.tucker:.4g}"
        )
    elif chosen in ("auto", "diffusion"):
        chosen = "local"
    if stopped:
        chosen = "tucker"
    if chosen == "local" and min(stack.shape) < max(request.local.sides):
        notes.append(f"patches cut to {min(stack.shape)} voxels along the shortest side of {stack.shape}")
    if chosen == "local":
        levels = trial.levels if trial is not None else None
        found = local_by_noise(stack, inlier, best, noise, levels, not keep, request, fit.history)
        best, history = found.best, found.history
        cut_short = levels is not None and len(history) < len(fit.history) + len(levels)
        status = Status.STOPPED if cut_short else Status.COMPLETED
        if found.error is not None:
            error = found.error
        samples = found.samples
        if found.weights and not keep:
            parts = ", ".join(
                f"{name} {100 * weight:.0f} %" for name, weight in found.weights.items() if weight > 0.005
            )
            notes.append(f"denoised by groups of similar patches at a noise of {noise.sigma:.4g}; combined: {parts}")
        notes.extend(found.notes)
        if trial is not None:
            error = np.where(inlier, error, trial.uncertainty(found.spread)).astype(stack.dtype)
    elif trial is not None:
        error = np.where(inlier, error, trial.typical).astype(stack.dtype)
    if keep:
        np.copyto(best, stack, where=inlier)
    return _Estimate(best, error, positions, values, status, history, tuple(notes), samples)


class _Local(NamedTuple):
    """Groups of patches: value, disagreement, error of denoised voxels (None where nothing was), weights, history."""

    best: Array
    spread: Array
    error: Array | None
    weights: dict[str, float]
    history: tuple[IterationRecord, ...]
    notes: tuple[str, ...] = ()
    samples: Array | None = None


def local_by_noise(
    stack: Array,
    inlier: Array,
    start: Array,
    noise: NoiseModel,
    levels: Sequence[float] | None,
    denoise: bool,
    request: _Request,
    history: tuple[IterationRecord, ...] = (),
) -> _Local:
    """:func:`local_tucker` in the data's unit; noise that grows with the intensity is stabilised before denoising.

    Gaps are completed first, in the data's unit. With ``method="diffusion"`` a prior corrects what was denoised.
    """
    callback, seed = request.callback, request.seed
    sigma = noise.sigma
    missing = not inlier.all()
    best, spread = start, np.zeros_like(stack)
    if missing:
        completed = local_tucker(
            stack, inlier, noise=sigma, initial=start, levels=levels, robust=False, denoise=False,
            options=request.local, callback=callback, history=history, seed=seed,
        )  # fmt: skip
        best, spread, history = completed.value.astype(stack.dtype), completed.spread, completed.history
    if not denoise or sigma == 0:
        return _Local(best, spread, None, {}, history)
    whole = np.where(inlier, stack, best) if missing else stack
    level = sigma if noise.gain == 0 else 1.0
    stable = whole if noise.gain == 0 else generalised_anscombe(whole, noise)

    def restore(y: Array) -> Any:
        return local_tucker(y, None, noise=level, options=request.local, seed=seed)

    def back(values: Array) -> Array:
        return np.asarray(values if noise.gain == 0 else inverse_anscombe(values, noise))

    found = restore(stable)
    value, error, samples = found.value, found.error, None
    notes: tuple[str, ...] = ()
    if request.method == "diffusion":
        from tensorcell.diffusion_guidance.recovery import diffused_noise

        asked = _diffusion_request(request, history)
        value, error, samples, notes = diffused_noise(stable, level, found.value, found.error, restore, inlier, asked)
    if noise.gain != 0:
        error = (back(value + error) - back(value - error)) / 2
    samples = None if samples is None else np.stack([back(one) for one in samples])
    return _Local(back(value).astype(stack.dtype), found.spread, error, found.weights, history, notes, samples)


class _Trial(NamedTuple):
    """Errors at measured voxels that a second fit of a central block did not see."""

    tucker: float
    """Root mean square error of the global model with its neighbours, of what is beyond the noise."""
    local: float
    levels: tuple[float, ...]
    errors: Array
    spreads: Array
    typical: float
    """Uncertainty of the global model."""
    sigma: float

    def uncertainty(self, spread: Array) -> Array:
        """Standard deviations in gaps: conformal quantiles of left-out errors among voxels of similar spread."""
        order = np.argsort(self.spreads)
        parts = np.array_split(order, max(1, min(8, len(order) // 250)))
        middle = np.array([np.median(self.spreads[part]) for part in parts])
        width = np.array([conformal(self.errors[part], self.sigma) for part in parts])
        return np.asarray(np.interp(spread, middle, width))


def conformal(errors: Array, sigma: float) -> float:
    """Standard deviation whose 90 % interval covers that share of the left-out voxels, without their noise.

    The quantile of split conformal prediction (Papadopoulos et al. 2002, doi:10.1007/3-540-36755-1_29).
    """
    share = min(1.0, COVERED * (1 + 1 / len(errors)))
    width = float(np.quantile(np.abs(errors), share)) / NORMAL_QUANTILE
    return math.sqrt(max(width**2 - sigma**2, LEAST_SHARE * width**2))


def left_out_trial(
    stack: Array, inlier: Array, rank: tuple[int, ...], noise: NoiseModel, request: _Request
) -> _Trial | None:
    """Leave measured voxels of a central block out, fit it by both methods, and look at the errors there.

    None where fewer than 200 voxels could be left out. Of two upper bounds of the noise the smaller one counts.
    """
    sigma = noise.sigma if request.noise is not None else min(noise.sigma, gaps.estimate_noise(stack, inlier))
    block = gaps.central_block(stack.shape, TRIAL_VOXELS)
    y, w = np.ascontiguousarray(stack[block]), inlier[block]
    left_out = w & (np.random.default_rng([request.seed, 2]).random(y.shape) < HELD_OUT)
    training = w & ~left_out
    if left_out.sum() < 200 or never_measured(training):
        return None
    quick = request._replace(options=_quick(request.options), callback=None)
    fitting = affordable(tuple(map(min, rank, y.shape)), y.shape, int(training.sum()) / 2)
    fit = _complete(y, training, fitting, quick)
    start, *_ = _best_estimate(y, training, fit, 0.0, True, quick)
    first = (start - y)[left_out].astype(np.float64)
    cap = 5 * 1.4826 * max(float(np.median(np.abs(first))), 1e-30)

    def beyond_noise(errors: Array) -> float:
        capped = float(np.mean(np.clip(errors, -cap, cap) ** 2))
        return math.sqrt(max(capped - sigma**2, 0.01 * capped))

    before = beyond_noise(first)
    levels = tuple(np.geomspace(max(before, sigma), max(sigma, before / 8), request.local.sweeps).tolist())
    found = local_by_noise(y, training, start, noise, levels, False, quick)
    errors = (found.best - y)[left_out].astype(np.float64)
    return _Trial(
        before, beyond_noise(errors), levels, errors, np.asarray(found.spread)[left_out], conformal(first, sigma), sigma
    )


def check_measured(y: Array, seen: Array) -> None:
    if not seen.any():
        raise InputError(
            f"expected at least one measured voxel, got none of {y.size} (NaN or False in the mask everywhere)"
        )
    infinite = int(np.count_nonzero(np.isinf(y) & seen))
    if infinite:
        raise InputError(f"expected finite values at measured voxels, got {infinite} infinite")


def never_measured(seen: Array) -> str | None:
    """Complaint about rows or columns that no plane measured, or None."""
    for axis, name in ((1, "y"), (2, "x")):
        empty = np.flatnonzero(~seen.any(axis=tuple(a for a in range(3) if a != axis)))
        if len(empty):
            shown = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
            return (
                f"expected every row and column to be measured in some plane, got none at {name} = {shown} "
                f"({len(empty)} of {seen.shape[axis]}); crop the stack"
            )
    return None


def check_rank(rank: Sequence[int], shape: Sequence[int], some_missing: bool) -> None:
    for name, r, size in zip("zyx", rank, shape, strict=True):
        if r > size:
            what = "measured planes" if name == "z" and some_missing else f"size of {name}"
            raise InputError(f"rank {r} along {name} is larger than the {what}, {size}")
    for axis, name in enumerate("zyx"):
        others = math.prod(rank) // rank[axis]
        if rank[axis] > others:
            raise InputError(f"rank {rank[axis]} along {name} is larger than the product of the other two, {others}")


def _planes_note(grid: Array, planes: int) -> str:
    missing = np.setdiff1d(np.arange(planes), grid)
    outside = missing[(missing < grid[0]) | (missing > grid[-1])]
    shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    note = f"{len(missing)} of {planes} planes were not measured and are interpolated along z: {shown}"
    if len(outside):
        note += f" ({len(outside)} of them lie beyond the measured planes and repeat the nearest one)"
    return note


def _complete(stack: Array, kept: Array, rank: Sequence[int], request: _Request) -> CompletionResult:
    """The Tucker fit on the chosen device, its arrays on the host."""
    options = request.options

    def fit(y: Any, w: Any) -> CompletionResult:
        return complete_tucker(
            y,
            w,
            tuple(rank),
            robust=options.robust,
            tolerance=options.tolerance,
            max_iterations=options.max_iterations,
            nonnegative=bool(request.nonnegative),
            callback=request.callback,
            seed=request.seed,
        )

    if request.device == "cpu":
        return fit(stack, kept)
    import cupy

    from tensorcell.solvers.results import SparsePart, tucker_tensor

    result = fit(cupy.asarray(stack), cupy.asarray(kept))
    core, factors = result.tucker
    return CompletionResult(
        tucker=tucker_tensor(core.get(), [factor.get() for factor in factors], stack.dtype),
        sparse=SparsePart(*(part.get() for part in result.sparse)),
        status=result.status,
        history=result.history,
        state=None,
        nonnegative=result.nonnegative,
    )


def model_planes(result: CompletionResult, planes: slice) -> Array:
    """The model ``X`` on a range of planes, without forming the rest of it."""
    core, (left, *others) = result.tucker
    part = np.tensordot(left[planes], core, axes=1)
    part = np.matmul(others[0], part)
    return np.asarray(np.matmul(part, others[1].T))


def slabs(shape: Sequence[int]) -> list[slice]:
    step = max(1, SLAB_VOXELS // math.prod(shape[1:]))
    return [slice(first, min(shape[0], first + step)) for first in range(0, shape[0], step)]


def _best_estimate(
    stack: Array, kept: Array, result: CompletionResult, noise: float, keep: bool, request: _Request
) -> tuple[Array, Array, Array, float]:
    """Model plus what neighbours share of the residual, for every voxel of the measured planes; the outliers; ``w``.

    With ``r = y - x`` and ``s`` its mean over measured neighbours (the voxel itself left out, weight and widths chosen
    by leaving out): gaps get ``x + s``; measured voxels stay as they are with ``keep``. One that is to be denoised gets
    ``x + s + w (r - s)`` with Wiener's
    ``w = 1 - noise^2 / var(r - s)``: its own word counts as far as it is more than noise.
    """
    positions, values = _find_outliers(stack, kept, result)
    inlier = kept.copy()
    inlier.ravel()[positions] = False
    kernel, spread = gaps.Kernel(1.0, 1.0, 0.0), 0.0
    block = gaps.central_block(stack.shape)
    residual = stack[block] - model_planes(result, block[0])[:, block[1], block[2]]
    if request.options.neighbours:
        kernel = gaps.choose_kernel(residual, inlier[block])
    if not keep:
        shared = gaps.shared_residual(residual, inlier[block], kernel, leave_out=True)
        rest = (residual - shared)[inlier[block]]
        spread = float(np.mean(rest.astype(float) ** 2)) if rest.size else 0.0
    own = max(0.0, 1 - noise**2 / spread) if spread > 0 else 0.0
    best = np.empty_like(stack)
    halo = math.ceil(3 * kernel.width_z) + 1
    for slab in slabs(stack.shape):
        wide = slice(max(0, slab.start - halo), min(len(stack), slab.stop + halo))
        inner = slice(slab.start - wide.start, slab.stop - wide.start)
        model = model_planes(result, wide)
        left = np.where(inlier[wide], stack[wide] - model, 0)
        shared = gaps.shared_residual(left, inlier[wide], kernel, leave_out=not keep)
        part = model + shared
        if own > 0:
            part += np.where(inlier[wide], own * (left - shared), 0)
        best[slab] = part[inner]
    if keep:
        np.copyto(best, stack, where=inlier)
    return best, positions, values, own


def _find_outliers(stack: Array, kept: Array, result: CompletionResult) -> tuple[Array, Array]:
    """Flagged voxels that also stand out from their neighbours: flat positions, and how far they are off the model.

    Those found are no longer counted as neighbours, and the rest are looked at again: two in one neighbourhood would
    excuse each other. The sharpest structure stands out from the model as outliers do, but not from its neighbours'
    intensities: only where those that do are many, the others are believed, too.
    """
    positions, values = np.asarray(result.sparse.positions), np.asarray(result.sparse.values)
    if not len(positions):
        return positions, values
    threshold = result.history[-1].threshold
    alone = np.zeros(len(positions), bool)
    plane = math.prod(stack.shape[1:])
    trusted = kept
    for _ in range(OUTLIER_ROUNDS):
        before = int(alone.sum())
        for slab in slabs(stack.shape):
            wide = slice(max(0, slab.start - 1), min(len(stack), slab.stop + 1))
            here = np.flatnonzero(~alone & (positions >= slab.start * plane) & (positions < slab.stop * plane))
            if len(here):
                residual = stack[wide] - model_planes(result, wide)
                alone[here] = gaps.isolated(residual, trusted[wide], positions[here] - wide.start * plane, threshold)
        if alone.sum() == before:
            break
        trusted = kept.copy()
        trusted.ravel()[positions[alone]] = False
    beyond = np.zeros(len(positions), bool)
    for slab in slabs(stack.shape):
        wide = slice(max(0, slab.start - 1), min(len(stack), slab.stop + 1))
        here = np.flatnonzero(alone & (positions >= slab.start * plane) & (positions < slab.stop * plane))
        around = stack[wide], kept[wide], positions[here] - wide.start * plane
        beyond[here] = gaps.beyond_neighbours(*around, factor=2.0)
    if beyond.sum() < RARE * kept.sum():
        alone = beyond
    return positions[alone], values[alone]


RANK_SHARES = (0.1, 0.2, 0.35)
HELD_OUT = 0.05
TRIAL_VOXELS = 300_000
RANK_VOXELS = 1_000_000


def choose_rank(stack: Array, kept: Array, request: _Request) -> tuple[int, ...]:
    """Of two estimates and a few shares of the sides, the rank that predicts left-out measured voxels best.

    One voxel in twenty is left out; the error counted is that of the whole estimate, model and neighbours, each voxel's
    capped at five times the typical one since outliers cannot be predicted. The trials run on a central block of
    at most 300 000 voxels.
    """
    quick_look = estimate_rank(stack, kept, method="threshold", noise=request.noise or None, voxels=RANK_VOXELS).rank
    estimate = estimate_rank(stack, kept, method="residual", noise=request.noise or None, voxels=RANK_VOXELS).rank
    block = gaps.central_block(stack.shape, TRIAL_VOXELS)
    y, w = np.ascontiguousarray(stack[block]), kept[block]
    left_out = w & (np.random.default_rng([request.seed, 1]).random(y.shape) < HELD_OUT)
    training = w & ~left_out
    if left_out.sum() < 100 or training.sum() < 100 or never_measured(training):
        return affordable(quick_look, stack.shape, int(kept.sum()) / 5)

    def candidates(shape: Sequence[int], observed: int) -> list[tuple[int, ...]]:
        shares = [tuple(max(1, round(share * size)) for size in shape) for share in RANK_SHARES]
        found = [tuple(map(min, rank, shape)) for rank in (quick_look, estimate)]
        return [affordable(rank, shape, observed / 4) for rank in (*found, *shares)]

    quick = request._replace(options=_quick(request.options), callback=None)
    errors: dict[tuple[int, ...], Array] = {}
    trials = candidates(y.shape, int(training.sum()))
    for rank in trials:
        if rank not in errors:
            result = _complete(y, training, rank, quick)
            best, *_ = _best_estimate(y, training, result, 0.0, True, quick)
            errors[rank] = np.abs(best[left_out] - y[left_out]).astype(np.float64)
    typical = min(max(float(np.median(e)) / 0.6745, float(np.quantile(e, 0.9)) / 1.645) for e in errors.values())
    overall = min(math.sqrt(float(np.mean(e**2))) for e in errors.values())
    cap = 5 * typical if typical > 1e-3 * overall else math.inf  # most of a nearly empty volume is predicted exactly
    capped = {rank: np.minimum(error, cap) ** 2 for rank, error in errors.items()}
    winner = min(trials, key=lambda rank: float(capped[rank].mean()))
    return candidates(stack.shape, int(kept.sum()))[trials.index(winner)]


def _quick(options: TuckerOptions) -> TuckerOptions:
    return TuckerOptions(
        robust=options.robust, tolerance=max(1e-2, options.tolerance), max_iterations=2, neighbours=options.neighbours
    )
