"""The robust Tucker model of a stack that does not fit into memory: sweeps whose sums are added over blocks.

The steps are those of :func:`tensorcell.solvers.robust_tucker_admm` with ``fidelity="huber"``, which has no dual and so
no state of the size of the data. The start is its spectral start, too, but for one thing: the spectrum of a mode's
unfolding is no sum over blocks that cut this mode, so that it is computed from some of the unfolding's columns, those
at evenly spaced indices of the other modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from .admm import (
    AdmmOptions,
    AdmmState,
    first_state,
    start_core,
    step_with,
    supported,
)
from .arrays import Array, as_double, count
from .blocks import Block, BlockedStack, Sample
from .checks import check_state, checked_rank, effective_tolerance
from .completion import complete_tucker
from .iteration import Measures, iterate
from .predictive_rank import RANK_VOXELS, Fit, choose_rank
from .rank_limits import Rank
from .ranks import RankEstimate
from .results import CompletionResult, IterationRecord, SparsePart, tucker_tensor
from .subspaces import IndexSet, masked_spectra, residual_indices
from .sweeps import Sweep
from .threads import one_blas_thread

START_VOXELS = 1 << 24
"""Number of voxels of all samples from which the subspaces to start from are computed."""


@one_blas_thread()
def streamed_tucker(
    stack: BlockedStack,
    rank: int | Sequence[int],
    *,
    options: AdmmOptions | None = None,
    start: tuple[Array, Sequence[Array]] | None = None,
    start_voxels: int = START_VOXELS,
    callback: Callable[[IterationRecord, AdmmState], bool | None] | None = None,
    history: tuple[IterationRecord, ...] = (),
    initial_state: AdmmState | None = None,
) -> CompletionResult:
    """Fit the robust Tucker model of a stack that is read block by block, again in every sweep.

    Parameters
    ----------
    stack : BlockedStack
        Shape, blocks, and how they are read.
    rank : int or k ints
        Multilinear rank.
    options : AdmmOptions, optional
        Of the sweeps, with ``fidelity="huber"``, which is the default here.
    start : (core, factors), optional
        Model to start from: core ``(r_1, ..., r_k)``, factors ``(I_n, r_n)`` with orthonormal columns. Without it,
        the start is computed from samples of the stack.
    start_voxels : int
        Largest number of voxels of these samples together, one a mode: all of its indices, and evenly spaced ones of
        the others, of those at which anything was observed. Where each sample is the whole stack, the start is that of
        :func:`tensorcell.solvers.robust_tucker_admm`.
    callback : callable, optional
        ``callback(record, state)`` after each sweep; returning True stops.
    history : tuple of IterationRecord
        Of an earlier call, to be continued.
    initial_state : AdmmState, optional
        State of an earlier call. Going on equals not having stopped, bit for bit where the stack's
        ``map_blocks`` gives the same results in the same order.

    Returns
    -------
    CompletionResult
        ``tucker`` is the model of the stack. ``sparse`` is empty: outliers are of the size of the data. ``value`` forms
        the whole stack; :func:`fit_of_tile` gives the model of a part of it.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together, if nothing was observed, or a value that is not finite.

    Notes
    -----
    Before the first sweep the stack is read twice (once to count and check the observed entries, which ``stack`` keeps,
    and once to take the samples and the 32768 observed voxels on which the scale of the residual is estimated), and
    three times more for the core to start from. Each sweep reads it once. A sweep costs what one over the stack in
    memory does; for each block, core and factors go to it, and the core and the rows of its range come back. Memory:
    one block, the samples, a few copies of core and factors, and the Gram matrix of each mode.

    The problem is not convex: where the start is not that of the fit in memory, the fit may end in another stationary
    point, and the threshold, which follows the residual down, may stay elsewhere.

    References
    ----------
    RCT, Algorithm 1, with Huber's loss; see :mod:`tensorcell.solvers.admm`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> data = np.einsum("ir,jr,kr->ijk", *(rng.random((n, 2)) for n in (20, 21, 22)))
    >>> blocks = tuple((slice(0, 20), slice(y, min(y + 8, 21)), slice(0, 22)) for y in (0, 8, 16))
    >>> stack = BlockedStack(data.shape, lambda block: (data[block], None), blocks)
    >>> fit = streamed_tucker(stack, 2)
    >>> tile = (slice(5, 9), slice(0, 21), slice(10, 20))
    >>> bool(abs(fit_of_tile(fit, tile).value - data[tile]).max() < 1e-5)
    True
    """
    options = AdmmOptions(fidelity="huber") if options is None else options
    if options.fidelity != "huber":
        raise ValueError(f"expected fidelity 'huber', which has no dual of the data's size, got {options.fidelity!r}")
    rank = checked_rank(rank, stack.shape)
    check_state(initial_state, rank)
    survey = stack.survey
    wanted = [residual_indices(stack.shape, survey.observed)]
    if start is None and initial_state is None:
        wanted += fibre_indices(survey.counts, rank, start_voxels)
    residual, *fibres = stack.samples(wanted)
    grid, norm = stack.residual_grid(residual), math.sqrt(survey.squares)
    if initial_state is None:
        model = start_from_fibres(stack, fibres, rank) if start is None else checked_model(start, stack.shape, rank)
        initial_state = first_state(grid, *model, options)

    def step(state: AdmmState) -> tuple[AdmmState, Measures]:
        return step_with(partial(stack.sweep, threshold=state.threshold), state, options, norm, grid)

    state, status, history = iterate(
        step,
        initial_state,
        stage="admm",
        tolerance=effective_tolerance(options.tolerance, np.empty(0, survey.dtype)),
        max_iterations=options.max_iterations,
        callback=callback,
        history=history,
    )
    return CompletionResult(
        tucker=tucker_tensor(state.core, state.factors, survey.dtype),
        sparse=no_outliers(survey.dtype),
        status=status,
        history=history,
        state=state,
    )


def streamed_rank(
    stack: BlockedStack,
    *,
    fit: Fit | None = None,
    noise: float | None = None,
    voxels: int = RANK_VOXELS,
    seed: int = 0,
) -> RankEstimate:
    """The rank that :func:`tensorcell.solvers.predictive_rank.choose_rank` finds on a sample of a stack.

    The sample is the product of evenly spaced indices of each mode, of those at which anything was observed. A tensor
    of low multilinear rank has the same one on it. Real stacks have no low rank, and the more voxels there are, the
    more directions stand out of the noise. So this is the rank that a stack of the sample's size supports: it counts
    what is coarse enough to be seen in it, is at most half of the sample's sizes where all of it was observed, and
    leaves finer structure to methods that work on tiles.

    Parameters
    ----------
    stack : BlockedStack
        Three modes.
    fit : callable, optional
        ``fit(stack, mask, rank)``, the fit by which ranks of a stack with gaps are judged; by default a short one of
        :func:`tensorcell.solvers.complete_tucker`. What neighbours share of its residual is not added, since voxels of
        the sample are no neighbours.
    noise : float, optional
        Standard deviation of the noise, where it is known.
    voxels : int
        Largest number of voxels of the sample.
    seed : int
        Seed for the choice of the left-out voxels.

    Returns
    -------
    RankEstimate

    Raises
    ------
    ValueError
        If nothing was observed in the sample.

    Notes
    -----
    The stack is read twice, once if it has been surveyed before.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> data = np.einsum("ir,jr,kr->ijk", *(rng.standard_normal((n, 3)) for n in (20, 30, 40)))
    >>> blocks = tuple((slice(0, 20), slice(0, 30), slice(x, x + 20)) for x in (0, 20))
    >>> streamed_rank(BlockedStack(data.shape, lambda block: (data[block], None), blocks), voxels=8000).rank
    (3, 3, 3)
    """
    wanted = sample_indices(stack.survey.counts, (1,) * len(stack.shape), voxels)
    (sample,) = stack.samples([wanted])
    check_observed(sample)
    data = np.where(sample.mask, sample.data, np.zeros((), sample.data.dtype))
    found = choose_rank(data, sample.mask, fit or short_fit, noise=noise, neighbours=False, seed=seed)
    sizes = " x ".join(map(str, data.shape))
    return replace(found, reason=f"{found.reason}, of a sample of {sizes} voxels")


def short_fit(data: Array, mask: Array, rank: Rank) -> CompletionResult:
    """A fit that is good enough to compare ranks."""
    return complete_tucker(data, mask, rank, tolerance=1e-2, max_iterations=2)


def fit_of_tile(fit: CompletionResult, tile: Block) -> CompletionResult:
    """The part of a fit that belongs to a tile of the stack, without forming anything of the tile's size.

    Parameters
    ----------
    fit : CompletionResult
        Of the whole stack.
    tile : k slices
        Ranges of indices, without a step.

    Returns
    -------
    CompletionResult
        The rows of the factors that belong to the tile, whose columns are **not orthonormal**; no outliers, and no
        state to go on from. Its rank is that of the whole stack and may exceed the tile's sizes.

    Raises
    ------
    ValueError
        If the tile has another number of modes than the fit, or a step.
    """
    core, factors = fit.tucker
    if len(tile) != len(factors) or any(part.step not in (None, 1) for part in tile):
        raise ValueError(f"expected a tile as {len(factors)} slices without a step, got {tile}")
    rows = [factor[part] for factor, part in zip(factors, tile, strict=True)]
    return replace(fit, tucker=tucker_tensor(core, rows, core.dtype), sparse=no_outliers(core.dtype), state=None)


def no_outliers(dtype: npt.DTypeLike) -> SparsePart:
    """An empty sparse part."""
    return SparsePart(np.zeros(0, np.int64), np.zeros(0, dtype))


def checked_model(
    model: tuple[Array, Sequence[Array]], shape: Sequence[int], rank: Rank
) -> tuple[Array, tuple[Array, ...]]:
    """Core and factors in double precision, after checking that their shapes fit."""
    core, factors = model
    shapes, expected = [array.shape for array in (core, *factors)], [rank, *zip(shape, rank, strict=True)]
    if shapes != expected:
        raise ValueError(f"start has a core and factors of shapes {shapes}, expected {expected}")
    return as_double(core), tuple(map(as_double, factors))


def sample_indices(counts: Sequence[npt.NDArray[np.int64]], rank: Rank, voxels: int) -> list[IndexSet]:
    """Evenly spaced indices of each mode at which anything was observed, whose product has at most so many entries.

    The mode that has most indices for each of its rank's directions is thinned first.
    """
    observed = [np.flatnonzero(count) for count in counts]
    sizes = list(map(len, observed))
    while math.prod(sizes) > max(1, voxels):
        most = max(range(len(sizes)), key=lambda mode: (sizes[mode] > 1, sizes[mode] / rank[mode]))
        sizes[most] = max(1, int(0.95 * sizes[most]))
    return [
        indices[np.linspace(0, len(indices) - 1, size).round().astype(np.int64)]
        for indices, size in zip(observed, sizes, strict=True)
    ]


def fibre_indices(counts: Sequence[npt.NDArray[np.int64]], rank: Rank, voxels: int) -> list[list[IndexSet]]:
    """For each mode all of its indices, and some of the others; about so many entries at most in all samples."""
    samples = []
    for mode, known in enumerate(counts):
        others, ranks = [*counts[:mode], *counts[mode + 1 :]], (*rank[:mode], *rank[mode + 1 :])
        indices = sample_indices(others, ranks, voxels // (len(counts) * len(known)))
        samples.append([*indices[:mode], np.arange(len(known)), *indices[mode:]])
    return samples


def start_from_fibres(stack: BlockedStack, samples: Sequence[Sample], rank: Rank) -> tuple[Array, tuple[Array, ...]]:
    """Core and factors to start from: as :func:`tensorcell.solvers.admm.spectral_start`, each mode from its sample."""
    survey, factors, locations = stack.survey, [], []
    for mode, (sample, size) in enumerate(zip(samples, rank, strict=True)):
        check_observed(sample)
        spectra = masked_spectra(sample.data, sample.mask)
        factors.append(supported(spectra.vectors[mode][:, :size], survey.counts[mode] > 0))
        locations.append((spectra.centre, spectra.spread))
    centre, spread = map(float, np.median(locations, axis=0))

    def swept(core: Array, limit: float) -> Sweep:
        return stack.sweep(core, factors, limit)

    ratio = survey.observed / math.prod(stack.shape)
    return start_core(swept, factors, centre, spread, ratio), tuple(factors)


def check_observed(sample: Sample) -> None:
    """Complain about a sample in which nothing was observed."""
    if count(sample.mask) == 0:
        sizes = " x ".join(map(str, sample.mask.shape))
        raise ValueError(f"expected observed entries in the sample of {sizes} voxels, got none; a larger one may help")
