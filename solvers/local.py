"""Local low rank: completion and denoising by groups of similar patches, each shrunk as a small Tucker tensor.

Biological volumes are not of low rank as a whole; the tensor of a few dozen similar patches is. The factors of a group
along the patch axes are those of its HOSVD, and the one along the stack is the Haar transform: adapted factors of that
mode would fit the noise, since ``K`` patches have as many unknowns there as samples. A filter pass shrinks the core of
every group (:mod:`tensorcell.solvers.patch_groups`), in a first stage by a hard threshold, in a second one by Wiener's
gains with factors and energies from the first estimate.

==========  =====================================================================  =====================
symbol      meaning                                                                shape, unit
==========  =====================================================================  =====================
``Y, W``    data, mask (True = measured)                                           ``(Z, Y, X)``
``E``       sparse outliers                                                        ``(Z, Y, X)``
``F``       estimate                                                               ``(Z, Y, X)``
``T``       completed data: ``Y`` where measured and ``E = 0``, elsewhere ``F``    ``(Z, Y, X)``
``X``       one group of similar patches                                           ``(K, p, p, p)``
``U_n``     factors of a group; ``U_0`` the Haar transform                         ``(p, p)``, ``(K, K)``
``C``       core ``X x_n U_n'``                                                    ``(K, p, p, p)``
``sigma``   standard deviation of the noise                                        unit of the data
``s_j``     noise level assumed in sweep j of a completion, descending             unit of the data
==========  =====================================================================  =====================

Stage one: ``C <- C [|C| > 2.9 sigma]``. Stage two, with a pilot group of core ``P`` in the pilot's factors:
``C <- C P^2 / (P^2 + c sigma^2)``. Where neighbouring voxels share noise, each entry of the core has a ``sigma`` of its
own (:mod:`tensorcell.solvers.autocorrelation`).

In a series of frames, each patch of a group is followed from frame to frame, and the Haar transform runs over time
first: what stays is averaged, what changes stays apart.

Missing voxels are completed by sweeps: sweep j filters ``T`` at level ``s_j`` and puts the result where no voxel was
measured. Measured voxels further than ``4.5 s_j`` from the estimate count as missing in the next sweep, and
``E = Y - F`` there: a soft threshold would leave its own height of the outlier in the group, whose factors follow it.
The levels fall from the error of the start to the noise, as the thresholds of robust PCA do.

Measured voxels are denoised after the sweeps by a mixture of estimates (:mod:`tensorcell.solvers.patch_denoising`).

References
----------
.. [1] M. Maggioni, V. Katkovnik, K. Egiazarian, A. Foi, Nonlocal transform-domain filter for volumetric data denoising
   and reconstruction, doi:10.1109/TIP.2012.2210725 (BM4D: groups, two stages, aggregation).
.. [2] A. Rajwade, A. Rangarajan, A. Banerjee, Image denoising using the higher order singular value decomposition,
   doi:10.1109/TPAMI.2012.140 (HOSVD of groups).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, namespace_of, scalar
from .autocorrelation import WHITE, Autocorrelation
from .autocorrelation import checked as checked_autocorrelation
from .checks import one_or_three, power_of_two, whole_number
from .iteration import Measures, iterate
from .local_problem import Completion, checked, completion, neighbour_mean
from .noise import NoiseModel
from .noise_terms import Noise, terms_of
from .patch_denoising import DenoisingLaws, denoised
from .patch_groups import HARD, SLAB_VOXELS, Box, Drift, filtered, fitted, three
from .results import IterationRecord, Status
from .slabs import parts_of
from .threads import one_blas_thread

OUTLIER = 4.5
"""Outlier threshold in standard deviations of the noise: Gaussian noise exceeds it once in 150 000 voxels."""


@dataclass(frozen=True, kw_only=True)
class LocalOptions:
    """Options of :func:`local_tucker`.

    Attributes
    ----------
    patch : int or three ints
        Sides of a patch; they are cut to the volume's sides. In a single plane, where patches have fewer voxels, one
        number means two more along y and x.
    reach : int or three ints
        Similar patches are looked for at most this far away along each axis; in a single plane, one number means twice
        as far.
    group : int
        Patches in a group, a power of two.
    step : int
        Distance between reference patches, one more in the sweeps; the cost falls with its cube.
    sweeps : int
        Sweeps that complete missing voxels.
    frames : int
        In a time series, each patch of a group is followed over so many frames (rounded down to a power of two), and
        ``group`` counts it in all of them; twice as many in the second stage of denoising. 1: each frame is by itself.

    Raises
    ------
    ValueError
        If a value is not a whole number (NumPy's integers are, ``True`` and ``2.0`` are not) or out of range.
    """

    patch: int | tuple[int, int, int] = field(
        default=5, metadata={"help": "Side of a patch in voxels, or three sides along z, y and x."}
    )
    reach: int | tuple[int, int, int] = field(
        default=5,
        metadata={"help": "Voxels within which similar patches are looked for, or three numbers along z, y and x."},
    )
    group: int = field(default=32, metadata={"help": "Number of similar patches in a group, a power of two."})
    step: int = field(
        default=3, metadata={"help": "Voxels from one reference patch to the next; a larger number is faster."}
    )
    sweeps: int = field(default=6, metadata={"help": "Number of sweeps that complete missing voxels."})
    frames: int = field(
        default=4,
        metadata={"help": "Frames over which patches of a time series are followed; 1: each frame is by itself."},
    )

    def __post_init__(self) -> None:
        for name, least in (("patch", 1), ("reach", 0)):
            object.__setattr__(self, name, one_or_three(getattr(self, name), name, least))
        for name in ("step", "sweeps", "frames"):
            object.__setattr__(self, name, whole_number(getattr(self, name), name, 1))
        object.__setattr__(self, "group", power_of_two(self.group, "group"))

    def for_shape(self, shape: Sequence[int]) -> LocalOptions:
        """The options themselves; for a single plane, larger patches from further away, where numbers were given."""
        if len(shape) < 3 or shape[-3] > 1 or not (isinstance(self.patch, int) and isinstance(self.reach, int)):
            return self
        return replace(self, patch=(1, self.patch + 2, self.patch + 2), reach=(0, 2 * self.reach, 2 * self.reach))

    @property
    def sides(self) -> tuple[int, int, int]:
        """Sides of a patch along z, y and x."""
        return three(self.patch)


class LocalState(NamedTuple):
    """All that is needed to go on; arrays in float32 ``(Z, Y, X)``, never written to by a later step."""

    estimate: Array
    """``F``, less the mean of the measured voxels."""
    outliers: Array
    """``E``, zero where no outlier was found."""
    spread: Array
    """Disagreement of the overlapping estimates of each voxel."""
    sweep: int
    """Number of sweeps made."""


Callback = Callable[[IterationRecord, LocalState], bool | None]


@dataclass(frozen=True, kw_only=True)
class LocalResult:
    """What :func:`local_tucker` returns; arrays ``(Z, Y, X)`` in the data's namespace and unit.

    Attributes
    ----------
    value : float array
        The estimate, at measured voxels too (denoised).
    spread : float array
        Disagreement of the overlapping estimates of each voxel, a standard deviation: it ranks voxels by how uncertain
        they are, and has to be scaled to become an error.
    error : float array or None
        Standard deviation of the error where ``value`` denoises a measured voxel: Stein's estimate, as a function
        of the spread. None where no voxel was denoised.
    outliers : float array
        ``E``, zero where no outlier was found.
    weights : dict of str to float
        Shares of the estimates that denoising mixed; empty where no voxel was denoised.
    predicted : float
        Root mean squared error of ``value`` at measured voxels by Stein's estimate; NaN where no voxel was denoised.
    status : Status
        ``COMPLETED``, or why the sweeps ended early (``STOPPED`` by the callback, ``DIVERGED``).
    history : tuple of IterationRecord
        The records given, and one for each sweep.
    state : LocalState
        All that is needed to go on: pass it as ``initial_state``.
    laws : DenoisingLaws or None
        What denoising found from the data as a whole: pass it as ``laws`` to denoise other parts of the same stack
        alike. None where no voxel was denoised.
    """

    value: Array
    spread: Array
    error: Array | None
    outliers: Array
    weights: dict[str, float]
    predicted: float
    status: Status
    history: tuple[IterationRecord, ...]
    state: LocalState
    laws: DenoisingLaws | None = None


@one_blas_thread()
def local_tucker(
    data: Array,
    mask: Array | None = None,
    *,
    noise: float,
    initial: Array | None = None,
    levels: Sequence[float] | None = None,
    robust: bool = True,
    denoise: bool = True,
    options: LocalOptions | None = None,
    callback: Callback | None = None,
    history: tuple[IterationRecord, ...] = (),
    initial_state: LocalState | None = None,
    drift: Sequence[Sequence[int]] | npt.NDArray[np.integer] | None = None,
    correlation: Sequence[Sequence[float]] = WHITE,
    stabilised: NoiseModel | None = None,
    laws: DenoisingLaws | None = None,
    inner: Box | None = None,
    seed: int = 0,
    overwrite_data: bool = False,
) -> LocalResult:
    """Complete and denoise a volume by low-rank models of groups of similar patches.

    Parameters
    ----------
    data : array ``(Z, Y, X)`` or ``(T, Z, Y, X)``
        Any real type and unit; anything, NaN too, where the mask is False. Computed in float32, relative to the mean.
        Patches of a series of frames are followed from frame to frame.
    mask : bool array of the same shape, or None
        True = measured; None: every voxel.
    noise : float
        Standard deviation of Gaussian noise, in the data's unit (stabilise the variance of other noise first).
    initial : array of the same shape, optional
        A first guess; a mean over neighbours where none is given. With ``robust`` it should not hold the data
        themselves where they were measured, since voxels are judged by it.
    levels : sequence of float, optional
        Noise levels of the sweeps that complete missing voxels, descending: the first about as large as the error of
        ``initial``. Default: from a quarter of the standard deviation of the data to the noise.
    robust : bool
        Whether the sweeps look for outliers. Without it, they estimate missing voxels alone, which costs less where
        these are few; measured voxels are then returned as they are, unless they are denoised.
    denoise : bool
        Whether to denoise measured voxels after the completion; False ends with a second stage at the last level.
    options : LocalOptions, optional
    callback : callable, optional
        ``callback(record, state)`` after each sweep; returning True stops.
    history : tuple of IterationRecord
        Records of earlier stages, which are continued.
    initial_state : LocalState, optional
        State of an earlier call with the same arguments, in place of a first guess. Going on equals not having
        stopped, bit for bit on NumPy.
    drift : whole numbers ``(T, 3)``, optional
        Where the specimen lies in each frame, in voxels along z, y and x: see :func:`frame_drift`. A patch is looked
        for two voxels around the place where it would be then, in the frames before and after.
    correlation : Autocorrelation, optional
        Correlation of the noise of neighbouring voxels (:attr:`NoiseModel.autocorrelation` is an estimate), or three
        sequences of it at lags of 0, 1, 2 ... voxels along z, y and x. Denoising weighs by it: noise that is shared
        looks like structure to a filter that takes it for white. The sweeps do not. Default: white noise.
    stabilised : NoiseModel, optional
        Noise of the measurement, where the data are its values of :func:`tensorcell.solvers.generalised_anscombe`:
        filters are then mixed, denoised intensities corrected and errors told by what the noise of photons does to
        them. Default: the noise of the data is Gaussian.
    laws : DenoisingLaws, optional
        Weights of the filters, correction and errors that another part of the same stack gave
        (:attr:`LocalResult.laws`). Parts that overlap by a few dozen voxels are then denoised as the whole is: where a
        voxel is as far from the border of its part as filters reach, its value is the same but for rounding.
    inner : three slices, optional
        What is wanted of the volume, which saves time: around it, estimates are as good as those inside need them. The
        borders of this box are ranges with a start and a stop along z, y and x.
    seed : int
        Seed of the perturbation that Stein's estimate needs.
    overwrite_data : bool
        Whether the data may be written over, which saves a copy of float32 data without a mask.

    Returns
    -------
    LocalResult
        After a stop by the callback (or a sweep that was not finite) ``value`` is the estimate of the last sweep. The
        second stage, or denoising, which takes longer than all sweeps together, is left out.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together.

    Notes
    -----
    A sweep is one pass over all groups::

        T <- Y where W and E = 0, F elsewhere          F <- first stage of T at level s_j
        E <- W (Y - F) where |Y - F| > 4.5 s_j, with ``robust``

    Records hold ``||W (Y - F - E)|| / ||W Y||`` before the sweep, the outliers and their threshold after it, and the
    relative change of ``T`` less the mean of the data. The cost is linear in the number of voxels. Memory beyond data
    and mask: about 45 bytes a voxel.

    Examples
    --------
    >>> import numpy as np
    >>> z, y, x = np.mgrid[:12, :24, :24] / 6
    >>> truth = np.sin(x + z) * np.cos(y)
    >>> noisy = truth + 0.2 * np.random.default_rng(0).standard_normal(truth.shape)
    >>> error = local_tucker(noisy, noise=0.2).value - truth
    >>> bool(error.std() < 0.05)
    True
    """
    options = (LocalOptions() if options is None else options).for_shape(data.shape)
    shared = checked_autocorrelation(correlation)
    y, mask, centre = checked(data, mask, noise, overwrite_data, None if laws is None else laws.centre)
    sigma = float(noise)
    way = checked_drift(drift, y.shape)
    problem = completion(y, mask, centre, sigma, levels, robust, options, options.sweeps, way, inner)
    done = 0 if initial_state is None else initial_state.sweep
    state, ended, history = iterate(
        lambda state: step(problem, state),
        init(problem, initial, centre) if initial_state is None else checked_state(initial_state, problem),
        stage="local",
        tolerance=0.0,  # no sweep settles: each has a level of its own
        max_iterations=len(problem.levels) - done,
        callback=callback,
        history=history,
    )
    status = Status.COMPLETED if ended is Status.MAX_ITERATIONS else ended
    value, spread, error, weights, predicted, laws = final_stage(
        problem, state, status, sigma if denoise else 0, options, seed, way,
        None if stabilised is None else terms_of(stabilised, sigma, centre), shared, laws, inner,
    )  # fmt: skip
    xp = namespace_of(y)
    dtype = data.dtype if data.dtype in (xp.float32, xp.float64) else xp.float64
    return LocalResult(
        value=xp.astype(value, dtype, copy=False) + centre,
        spread=xp.astype(spread, dtype, copy=False),
        error=None if error is None else xp.astype(error, dtype, copy=False),
        outliers=xp.astype(state.outliers, dtype, copy=False),
        weights=weights,
        predicted=predicted,
        status=status,
        history=history,
        state=state,
        laws=None if laws is None else laws._replace(centre=centre),
    )


def checked_drift(drift: Sequence[Sequence[int]] | npt.NDArray[np.integer] | None, shape: Sequence[int]) -> Drift:
    """Where each frame lies, as tuples; empty where it was not given."""
    if drift is None:
        return ()
    given = np.asarray(drift)
    wanted = (shape[0], 3) if len(shape) == 4 else (1, 3)
    if given.shape != wanted or given.dtype.kind not in "iu":
        raise ValueError(f"expected a drift of whole numbers, {wanted}, got {given.dtype} of shape {given.shape}")
    return tuple((int(z), int(y), int(x)) for z, y, x in given)


def init(problem: Completion, initial: Array | None, centre: float) -> LocalState:
    """The first guess, and the outliers it shows at the first level; the data where every voxel was measured."""
    y = problem.y
    xp = namespace_of(y, initial)
    if initial is not None and tuple(initial.shape) != tuple(y.shape):
        raise ValueError(f"initial has shape {tuple(initial.shape)}, data has {tuple(y.shape)}")
    nothing = xp.zeros(y.shape, dtype=y.dtype)  # takes no memory until it is written to
    if not problem.levels:  # in gaps, y is the mean of the data
        known = y if initial is None else xp.where(problem.mask, y, xp.astype(initial - centre, xp.float32))
        return LocalState(known, nothing, nothing, 0)
    estimate = neighbour_mean(y, problem.mask) if initial is None else xp.astype(initial - centre, xp.float32)
    if not bool(xp.all(xp.isfinite(estimate))):
        raise ValueError("expected finite numbers as initial, got NaN or infinity")
    outliers = far_off(problem, estimate, problem.levels[0]) if problem.robust else nothing
    return LocalState(estimate, outliers, nothing, 0)


def step(problem: Completion, state: LocalState) -> tuple[LocalState, Measures]:
    """One sweep; the equations stand in the notes of :func:`local_tucker`."""
    xp = namespace_of(problem.y)
    level = problem.levels[state.sweep]
    before = completed(problem, state)
    estimate, spread = filtered(before, before, None, level, HARD, problem.geometry, problem.wanted)
    outliers = far_off(problem, estimate, level) if problem.robust else state.outliers
    new = LocalState(estimate, outliers, spread, state.sweep + 1)
    measures = Measures(
        change=change(problem, before, new),
        residual=misfit(problem, state) / (problem.norm + 1e-300),
        outliers=int(xp.count_nonzero(outliers)),
        threshold=OUTLIER * level if problem.robust else 0.0,
        settled=False,
    )
    return new, measures


def completed(problem: Completion, state: LocalState, planes: slice = slice(None)) -> Array:
    """``T``: the data where they were measured and are no outlier, the estimate elsewhere."""
    part = planes, ...
    use = problem.mask[part] & (state.outliers[part] == 0)
    return namespace_of(problem.y).where(use, problem.y[part], state.estimate[part])


def change(problem: Completion, before: Array, state: LocalState) -> float:
    """Relative change of ``T``, a few planes at a time."""
    xp = namespace_of(before)
    squares = size = xp.zeros((), dtype=xp.float64)
    for planes in parts_of(before, SLAB_VOXELS):
        after = completed(problem, state, planes)
        squares, size = squares + sum_of_squares(after - before[planes, ...]), size + sum_of_squares(after)
    return math.sqrt(scalar(squares)) / (math.sqrt(scalar(size)) + 1e-300)


def sum_of_squares(array: Array) -> Array:
    """The sum of the squares in double precision, an array without axes: nothing waits for it until it is read."""
    xp = namespace_of(array)
    return xp.sum(array**2, dtype=xp.float64)


def far_off(problem: Completion, estimate: Array, level: float) -> Array:
    """``E``: how far measured voxels are from the estimate, where that is more than the threshold at this level."""
    xp = namespace_of(estimate)
    deviation = problem.y - estimate
    return xp.where(problem.mask & (xp.abs(deviation) > OUTLIER * level), deviation, xp.zeros_like(deviation))


def misfit(problem: Completion, state: LocalState) -> float:
    """``||W (Y - F - E)||``, a few planes at a time."""
    xp = namespace_of(problem.y)
    squares = xp.zeros((), dtype=xp.float64)
    for planes in parts_of(problem.y, SLAB_VOXELS):
        part = planes, ...
        rest = problem.y[part] - state.estimate[part] - state.outliers[part]
        squares = squares + sum_of_squares(xp.where(problem.mask[part], rest, xp.zeros_like(rest)))
    return math.sqrt(scalar(squares))


def final_stage(
    problem: Completion, state: LocalState, status: Status, sigma: float, options: LocalOptions, seed: int,
    drift: Drift, terms: Noise | None, correlation: Autocorrelation, laws: DenoisingLaws | None,
    inner: Box | None,
) -> tuple[Array, Array, Array | None, dict[str, float], float, DenoisingLaws | None]:  # fmt: skip
    """What follows the sweeps: value, spread, error, weights, predicted error, laws.

    No voxel is denoised at ``sigma`` 0.
    """
    if status is not Status.COMPLETED:
        return state.estimate, state.spread, None, {}, math.nan, None
    whole = completed(problem, state) if problem.levels else state.estimate
    if sigma > 0:
        return denoised(whole, problem.mask, sigma, options, seed, drift, terms, correlation, laws, inner)
    if not problem.levels:
        return whole, state.spread, None, {}, math.nan, None
    value, spread = filtered(
        whole, state.estimate, state.estimate, problem.levels[-1], 1.0, fitted(options, whole.shape, drift),
        problem.wanted,
    )  # fmt: skip
    return value, spread, None, {}, math.nan, None


def checked_state(state: LocalState, problem: Completion) -> LocalState:
    """The state of an earlier call in float32, after checking that it belongs to this problem."""
    xp = namespace_of(problem.y, *state[:3])
    for name, array in zip(state._fields, state[:3], strict=False):
        if tuple(array.shape) != tuple(problem.y.shape):
            raise ValueError(f"state has {name} of shape {tuple(array.shape)}, data has {tuple(problem.y.shape)}")
    if not 0 <= state.sweep <= len(problem.levels):
        raise ValueError(f"state comes after sweep {state.sweep}, expected one of 0 to {len(problem.levels)}")
    estimate, outliers, spread = (xp.astype(array, xp.float32, copy=False) for array in state[:3])
    return LocalState(estimate, outliers, spread, int(state.sweep))
