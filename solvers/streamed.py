"""The robust Tucker model of a stack that does not fit into memory: sweeps whose sums are added over blocks.

The steps are those of :func:`tensorcell.solvers.robust_tucker_admm` with ``fidelity="huber"``, which has no dual and so
no state of the size of the data. Only the start differs: spectra of the unfoldings are no sums over blocks that cut all
modes, so that the model to start from is fitted to a sample of evenly spaced indices of each mode, and its factors are
interpolated between them.
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
    robust_tucker_admm,
    step_with,
    supported,
)
from .arrays import Array, as_double, count
from .blocks import Block, BlockedStack, MapBlocks, Read, Sample
from .checks import check_state, checked_rank, effective_tolerance
from .iteration import Measures, iterate
from .rank_limits import Rank, affordable
from .results import CompletionResult, IterationRecord, SparsePart, tucker_tensor
from .subspaces import IndexSet, complete_basis, residual_indices
from .tensors import multi_mode_product
from .threads import one_blas_thread

START_VOXELS = 1 << 22
"""Number of voxels of the sample to which the model to start from is fitted."""

START_TOLERANCE, START_ITERATIONS = 1e-3, 60
"""Where the fit of the sample ends: its factors are interpolated, so that more digits would be of no use."""

UNKNOWNS = 2.0
"""Least number of observed entries of the sample for each unknown of its fit."""


@one_blas_thread()
def streamed_tucker(
    shape: Sequence[int],
    read: Read,
    blocks: Sequence[Block],
    rank: int | Sequence[int],
    *,
    options: AdmmOptions | None = None,
    start: tuple[Array, Sequence[Array]] | None = None,
    start_voxels: int = START_VOXELS,
    map_blocks: MapBlocks = map,
    callback: Callable[[IterationRecord, AdmmState], bool | None] | None = None,
    history: tuple[IterationRecord, ...] = (),
    initial_state: AdmmState | None = None,
) -> CompletionResult:
    """Fit the robust Tucker model of a stack that is read block by block, again in every sweep.

    Parameters
    ----------
    shape : k ints
        Sizes of the stack ``(I_1, ..., I_k)``.
    read : callable
        ``read(block) -> (data, mask)`` with arrays of the block's shape on the host: float32 or float64 (other real
        types become float64, which is slow), anything where the mask is False; a bool mask, True = observed, or None:
        every entry. The same block must give the same values every time.
    blocks : sequence of tuples of k slices
        They partition the stack; any mode may be cut, and the blocks may differ in size.
    rank : int or k ints
        Multilinear rank.
    options : AdmmOptions, optional
        Of the sweeps, with ``fidelity="huber"``, which is the default here.
    start : (core, factors), optional
        Model to start from: core ``(r_1, ..., r_k)``, factors ``(I_n, r_n)`` with orthonormal columns. Without it a
        sample of the stack is fitted.
    start_voxels : int
        Largest number of voxels of this sample: the product of evenly spaced indices of each mode, of those at which
        anything was observed.
    map_blocks : callable
        ``map_blocks(function, blocks)`` runs a function on every block, by default one after the other. ``function``
        can be pickled if ``read`` can, and holds the model. One that adds results of several blocks with ``+`` on the
        way may give fewer results than there are blocks.
    callback : callable, optional
        ``callback(record, state)`` after each sweep; returning True stops.
    history : tuple of IterationRecord
        Of an earlier call, to be continued.
    initial_state : AdmmState, optional
        State of an earlier call. Going on equals not having stopped, bit for bit where ``map_blocks`` gives the same
        results in the same order.

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
    The stack is read twice before the sweeps (once to count and check the observed entries, once to take the sample,
    and the 32768 observed voxels on which the scale of the residual is estimated), and once in each sweep. A sweep
    costs what one over the stack in memory does; for each block, core and factors go to it and as much comes back.
    Memory: one block, the sample, and a few copies of core and factors.

    The problem is not convex. A start from a sample may end in another stationary point than the spectral start of
    :func:`tensorcell.solvers.robust_tucker_admm`, and the threshold, which follows the residual down, may stay
    elsewhere.

    References
    ----------
    RCT, Algorithm 1, with Huber's loss; see :mod:`tensorcell.solvers.admm`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> stack = np.einsum("ir,jr,kr->ijk", *(rng.random((n, 2)) for n in (20, 21, 22)))
    >>> blocks = [(slice(0, 20), slice(y, min(y + 8, 21)), slice(0, 22)) for y in (0, 8, 16)]
    >>> fit = streamed_tucker(stack.shape, lambda block: (stack[block], None), blocks, 2)
    >>> tile = (slice(5, 9), slice(0, 21), slice(10, 20))
    >>> bool(abs(fit_of_tile(fit, tile).value - stack[tile]).max() < 1e-5)
    True
    """
    options = AdmmOptions(fidelity="huber") if options is None else options
    if options.fidelity != "huber":
        raise ValueError(f"expected fidelity 'huber', which has no dual of the data's size, got {options.fidelity!r}")
    stack = BlockedStack(tuple(map(int, shape)), read, tuple(blocks), map_blocks)
    rank = checked_rank(rank, stack.shape)
    check_state(initial_state, rank)
    survey = stack.survey
    wanted = [residual_indices(stack.shape, survey.observed)]
    if start is None and initial_state is None:
        wanted.append(sample_indices(survey.counts, rank, start_voxels))
    residual, *sample = stack.samples(wanted)
    grid, norm = stack.residual_grid(residual), math.sqrt(survey.squares)
    if initial_state is None:
        model = start_from_sample(sample[0], survey.counts, rank, options) if start is None else start
        initial_state = first_state(grid, *checked_model(model, stack.shape, rank), options)

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


def start_from_sample(
    sample: Sample, counts: Sequence[npt.NDArray[np.int64]], rank: Rank, options: AdmmOptions
) -> tuple[Array, list[Array]]:
    """Core and factors of the whole stack from a robust fit of a sample.

    A factor's rows between those of the sample are interpolated linearly, rows of indices at which nothing was observed
    are zero. The QR decomposition of each factor then moves what it lacks in orthonormality into the core, so that the
    model stays the same. Directions for which the sample is too small are random, and unused by the core.
    """
    observed = count(sample.mask)
    if observed == 0:
        raise ValueError(
            f"expected observed entries in the sample of {sample.mask.size} voxels that the fit starts from, got none; "
            "give more start_voxels, or a start"
        )
    own = affordable(tuple(map(min, rank, sample.data.shape)), sample.data.shape, observed / UNKNOWNS)
    quick = replace(options, tolerance=START_TOLERANCE, max_iterations=START_ITERATIONS)
    core, factors = robust_tucker_admm(sample.data, sample.mask, own, options=quick).state[:2]
    bases, triangles = [], []
    for indices, factor, known, size in zip(sample.indices, factors, counts, rank, strict=True):
        places = np.arange(len(known))
        rows = np.stack([np.interp(places, indices, column) for column in factor.T], axis=1)
        basis, triangle = np.linalg.qr(rows)
        bases.append(supported(complete_basis(basis, size), known > 0))
        triangles.append(bases[-1].T @ basis @ triangle)
    return multi_mode_product(core, triangles), bases
