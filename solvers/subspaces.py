"""Leading subspaces: HOSVD (Gram or randomised), and a spectral start from masked, outlier-ridden data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import (
    Array,
    as_double,
    chunk_elements,
    clip,
    count,
    entries,
    from_host,
    is_numpy,
    namespace_of,
    order_statistics,
    scalar,
)
from .results import tucker_tensor
from .spread import MEDIAN_DEVIATION, UPPER_QUARTILE, median, robust_sigma
from .tensors import mode_product, multi_mode_product, unfold
from .threads import share_out_sums

if TYPE_CHECKING:
    from tensorly.tucker_tensor import TuckerTensor

IndexSet = npt.NDArray[np.int64]


def leading_vectors(matrix: Array, rank: int, *, method: str = "gram", seed: int = 0) -> Array:
    """Orthonormal basis of the leading left singular subspace, shape ``(m, rank)``.

    ``"gram"`` diagonalises ``M M'`` (exact to the square root of the machine precision, ``O(m^2 n)``);
    ``"randomised"`` takes a Gaussian sketch with two power iterations (Halko, Martinsson & Tropp 2011,
    doi:10.1137/090771806, Algorithm 4.4; ``O(m n rank)``), which suits wide unfoldings of large modes.

    Raises
    ------
    ValueError
        If the rank is not between 1 and the number of rows, or the method is unknown.

    >>> import numpy as np
    >>> abs(leading_vectors(np.diag([1.0, 5.0, 3.0]), 2)).round(6)
    array([[0., 0.],
           [1., 0.],
           [0., 1.]])
    """
    xp = namespace_of(matrix)
    rows, columns = matrix.shape
    if not 1 <= rank <= rows:
        raise ValueError(f"expected a rank from 1 to {rows}, got {rank}")
    if method == "gram":
        _, vectors = xp.linalg.eigh(matrix @ matrix.T)
        return xp.flip(vectors[:, rows - rank :], axis=1)
    if method != "randomised":
        raise ValueError(f"expected method 'gram' or 'randomised', got {method!r}")
    width = min(rows, columns, rank + 10)
    sketch = from_host(np.random.default_rng(seed).standard_normal((columns, width)), matrix)
    basis, _ = xp.linalg.qr(matrix @ xp.astype(sketch, matrix.dtype), mode="reduced")
    for _ in range(2):
        basis, _ = xp.linalg.qr(matrix.T @ basis, mode="reduced")
        basis, _ = xp.linalg.qr(matrix @ basis, mode="reduced")
    small = basis.T @ matrix
    _, vectors = xp.linalg.eigh(small @ small.T)
    vectors = xp.flip(vectors[:, width - min(rank, width) :], axis=1)
    basis = basis @ vectors
    return complete_basis(basis, rank, seed=seed)


def complete_basis(basis: Array, rank: int, *, seed: int = 0) -> Array:
    """Orthonormal columns extended to ``rank`` of them by random directions (unchanged where nothing is missing)."""
    xp = namespace_of(basis)
    missing = rank - basis.shape[1]
    if missing <= 0:
        return basis
    extra = from_host(np.random.default_rng(seed).standard_normal((basis.shape[0], missing)), basis)
    extra = xp.astype(extra, basis.dtype)
    for _ in range(2):
        extra = extra - basis @ (basis.T @ extra)
        extra, _ = xp.linalg.qr(extra, mode="reduced")
    return xp.concat([basis, extra], axis=1)


def hosvd(tensor: Array, rank: Sequence[int], *, method: str = "gram", seed: int = 0) -> TuckerTensor:
    """Sequentially truncated higher-order SVD of a fully observed tensor.

    The error is at most ``sqrt(k)`` times that of the best approximation of that multilinear rank (Vannieuwenhoven,
    Vandebril & Meerbergen 2012, doi:10.1137/110836067). The mode that shrinks most is truncated first.

    Parameters
    ----------
    tensor : array ``(I_1, ..., I_k)``
    rank : sequence of k ints
    method : {"gram", "randomised"}
        See :func:`leading_vectors`.

    Returns
    -------
    TuckerTensor
        Core ``(r_1, ..., r_k)`` and orthonormal factors ``(I_n, r_n)``.

    Raises
    ------
    ValueError
        If the rank does not fit the tensor.

    >>> import numpy as np
    >>> core, factors = hosvd(np.ones((3, 4, 5)), (1, 1, 1))
    >>> round(abs(float(core[0, 0, 0])) ** 2)
    60
    """
    if len(rank) != tensor.ndim:
        raise ValueError(f"rank has {len(rank)} entries, data has {tensor.ndim} axes")
    order = sorted(range(tensor.ndim), key=lambda mode: rank[mode] / tensor.shape[mode])
    core = tensor
    factors: list[Array] = [None] * tensor.ndim
    for mode in order:
        factors[mode] = leading_vectors(unfold(core, mode), rank[mode], method=method, seed=seed)
        core = mode_product(core, factors[mode].T, mode)
    return tucker_tensor(core, factors, tensor.dtype)


def recompress(core: Array, factors: Sequence[Array], rank: Sequence[int]) -> tuple[Array, list[Array]]:
    """Truncate a Tucker model with any (not orthonormal) factors to a smaller rank, by QR and HOSVD of the core.

    This is the retraction of Riemannian methods: it is quasi-optimal, and works on arrays of the size of the model.
    """
    xp = namespace_of(core, *factors)
    bases, triangles = zip(*(xp.linalg.qr(factor, mode="reduced") for factor in factors), strict=True)
    small = multi_mode_product(core, triangles)
    rotations = [leading_vectors(unfold(small, mode), rank[mode]) for mode in range(small.ndim)]
    core = multi_mode_product(small, rotations, transpose=True)
    return core, [basis @ rotation for basis, rotation in zip(bases, rotations, strict=True)]


class Spectra(NamedTuple):
    """Debiased second moments of masked data: for each mode the Gram matrix of its unfolding, and its eigenvalues."""

    vectors: list[Array]
    """Eigenvectors as columns, leading first, ``(I_n, I_n)``."""
    values: list[Array]
    """Eigenvalues in descending order (negative ones are noise), ``(I_n,)``."""
    centre: float
    """Median of the observed values, in the data's unit."""
    spread: float
    """Robust standard deviation of the observed values about ``centre``, in the data's unit."""
    ratio: float
    """Sampling ratio ``p``."""


def masked_spectra(data: Array, mask: Array, *, spreads: float | None = 4.0) -> Spectra:
    """Spectra of all unfoldings from the observed entries alone.

    With ``Z = W (Y - centre)`` and sampling ratio ``p``, entries of ``Z_(n) Z_(n)'`` off the diagonal have the mean
    ``p^2`` times the wanted ones and those on it ``p`` times; both are divided out (deflation of the diagonal, cf.
    Cai, Li, Poor & Chen 2021, doi:10.1214/20-AOS1986), then the constant ``centre`` is added back. ``spreads`` limits
    ``|Z|`` to that many spreads (a robust standard deviation) so that outliers do not take over the leading vectors.

    Cost: ``sum_n I_n`` multiplications a voxel, in the data's dtype; memory of a few planes and the Gram matrices.
    """
    xp = namespace_of(data, mask)
    centre, spread = location_and_spread(data, mask)
    limit = spreads * spread if spreads is not None and spread > 0 else None
    total = math.prod(data.shape)

    # Chunks are ranges of the first mode, whose products are added for modes 2..k. Mode 1 needs all of its indices at
    # once, so that its chunks are ranges of the second mode.
    def moments(axis: int, first: int, last: int) -> list[tuple[Array, Array]]:
        modes = [0] if axis == 1 else list(range(1, data.ndim))
        found = [
            (xp.zeros((n, n), dtype=xp.float64), xp.zeros((n,), dtype=xp.float64))
            for n in (data.shape[mode] for mode in modes)
        ]
        step = max(1, chunk_elements(xp) * data.shape[axis] // total)
        for start in range(first, last, step):
            values = centred(data, mask, centre, limit, axis, slice(start, min(last, start + step)))
            for place, mode in enumerate(modes):
                # The last mode's unfolding is the transpose of a view: no copy.
                unfolded = xp.reshape(values, (-1, data.shape[-1])).T if mode == data.ndim - 1 else unfold(values, mode)
                gram, row_sums = found[place]
                gram += unfolded @ unfolded.T
                row_sums += xp.sum(unfolded, axis=1)
        return found

    found = in_shares(lambda first, last: moments(1, first, last), data.shape[1], is_numpy(xp))
    found += in_shares(lambda first, last: moments(0, first, last), data.shape[0], is_numpy(xp))
    observed = count(mask)
    ratio = observed / total
    vectors, eigenvalues = [], []
    for gram, row_sums in found:
        size = gram.shape[0]
        eye = xp.eye(size, dtype=xp.float64)
        gram = gram * (1 - (1 - ratio) * eye) / ratio**2
        mean = row_sums / ratio
        gram = gram + centre * (mean[:, None] + mean[None, :]) + centre**2 * (total / size)
        value, vector = xp.linalg.eigh(gram)
        vectors.append(xp.flip(vector, axis=1))
        eigenvalues.append(xp.flip(value))
    return Spectra(vectors, eigenvalues, centre, spread, ratio)


def centred(data: Array, mask: Array, centre: float, limit: float | None, axis: int, part: slice) -> Array:
    """Observed values less ``centre``, limited in size, zero elsewhere; of a range of the first or second mode."""
    xp = namespace_of(data, mask)
    chosen = (slice(None),) * axis + (part, ...)
    if is_numpy(xp):
        from .kernels_numba import read_only, take_centred

        # np.where would take several times as long where the mask is random.
        flat = (*data.shape[:2], -1)
        out = np.empty(data[chosen].shape, dtype=data.dtype)
        first, left = (part.start, 0) if axis == 0 else (0, part.start)
        bound = data.dtype.type(math.inf if limit is None else limit)
        take_centred(
            read_only(data.reshape(flat)), read_only(mask.reshape(flat)), data.dtype.type(centre), bound, first, left,
            out.reshape(*out.shape[:2], -1),
        )  # fmt: skip
        return out
    values = xp.where(mask[chosen], data[chosen] - centre, xp.zeros((), dtype=data.dtype))
    return values if limit is None else clip(values, -limit, limit)


def in_shares(
    work: Callable[[int, int], list[tuple[Array, Array]]], size: int, threads: bool
) -> list[tuple[Array, Array]]:
    """``work(first, last)`` over ``range(size)``: in shares on threads where wanted, and added in order."""
    if not threads:
        return work(0, size)
    parts = share_out_sums(work, size)
    added = []
    for same in zip(*parts, strict=True):
        grams, row_sums = zip(*same, strict=True)
        added.append((sum(grams[1:], grams[0]), sum(row_sums[1:], row_sums[0])))
    return added


def subgrid(shape: Sequence[int], budget: int, seed: int) -> list[IndexSet]:
    """Sorted random index sets, one a mode, whose product has about ``budget`` entries (all, where that is enough)."""
    generator = np.random.default_rng(seed)
    counts = list(shape)
    while np.prod([float(each) for each in counts]) > budget:
        largest = int(np.argmax(counts))
        counts[largest] = max(1, int(counts[largest] * 0.9))
    return [np.sort(generator.choice(size, each, replace=False)) for size, each in zip(shape, counts, strict=True)]


def take_grid(array: Array, grid: Sequence[IndexSet]) -> Array:
    """The entries at the product of the index sets, as a smaller tensor."""
    xp = namespace_of(array)
    for mode in sorted(range(array.ndim), key=lambda n: len(grid[n]) / array.shape[n]):  # large cuts first
        if len(grid[mode]) < array.shape[mode]:
            array = xp.take(array, from_host(grid[mode], array), axis=mode)
    return array


def location_and_spread(data: Array, mask: Array, *, budget: int = 1 << 16, seed: int = 0) -> tuple[float, float]:
    """Median and robust standard deviation of the observed entries (of a random subgrid when large)."""
    grid = subgrid(data.shape, budget, seed)
    values = take_grid(data, grid)[take_grid(mask, grid)]
    if values.shape[0] == 0:
        values = data[mask]
    centre = median(values)
    return centre, robust_sigma(values - centre)


RESIDUALS = 1 << 15
"""Number of observed entries on which the scale of a residual is estimated."""


def residual_indices(shape: Sequence[int], observed: float, budget: int = RESIDUALS) -> list[IndexSet]:
    """The random subgrid of which about ``budget`` entries are observed if ``observed`` of all entries are."""
    size = math.prod(shape)
    return subgrid(shape, int(min(size, budget * size / max(observed, 1.0))), seed=1)


class ResidualGrid:
    """A fixed random subgrid of the data, on which the scale of the residual is cheap to estimate."""

    def __init__(self, indices: Sequence[IndexSet], values: Array, observed: Array) -> None:
        """``values`` and ``observed`` are data and mask at the product of the index sets, as smaller tensors."""
        self.indices, self.observed = indices, observed
        self.values = entries(values, observed)

    @classmethod
    def of(cls, data: Array, mask: Array, budget: int = RESIDUALS) -> ResidualGrid:
        """The grid of a tensor: all of it where nothing is observed on the random subgrid."""
        indices = residual_indices(data.shape, count(mask), budget)
        observed = take_grid(mask, indices)
        if bool(namespace_of(data, mask).any(observed)):
            return cls(indices, take_grid(data, indices), observed)
        return cls([np.arange(size) for size in data.shape], data, mask)

    def scale(self, core: Array, factors: Sequence[Array], robust: bool) -> float:
        """Standard deviation of the residual over observed entries: root mean square, or a robust one.

        Robust: the larger of two standard deviations, one from the median of ``|r|`` and one from its upper quartile
        (they agree for a normal distribution). The second is needed where half of a volume is empty, since the median
        of ``|r|`` is then close to zero; up to a quarter of the entries may be outliers.
        """
        xp = namespace_of(core)
        rows = [take_grid(f, [index, np.arange(f.shape[1])]) for f, index in zip(factors, self.indices, strict=True)]
        residual = xp.abs(as_double(self.values) - entries(multi_mode_product(core, rows), self.observed))
        if robust:
            size = residual.shape[0]
            middle, upper = order_statistics(residual, [size // 2, (3 * size) // 4])
            return max(middle / MEDIAN_DEVIATION, upper / UPPER_QUARTILE)
        return math.sqrt(scalar(xp.mean(residual**2)))
