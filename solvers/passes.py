"""Occasional passes over the data, a few planes at a time: norms, flags, and the sparse part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from .arrays import Array, chunk_elements, count, namespace_of
from .proximal import soft_threshold
from .results import SparsePart
from .rules import Rule
from .sweeps import planes_model, sweep
from .tensors import planes_of


def chunks(data: Array) -> list[slice]:
    """Ranges of planes with about ``chunk_elements`` entries each."""
    planes = planes_of(data).shape[0]
    step = max(1, chunk_elements(namespace_of(data)) * planes // math.prod(data.shape))
    return [slice(first, min(planes, first + step)) for first in range(0, planes, step)]


def observed_norm(data: Array, mask: Array) -> float:
    """``||P_Omega(Y)||``."""
    return math.sqrt(observed_squares(data, mask))


def observed_squares(data: Array, mask: Array) -> float:
    """``||P_Omega(Y)||^2``."""
    xp = namespace_of(data, mask)
    nothing = [xp.zeros((size, 1), dtype=xp.float64) for size in data.shape]
    return sweep(data, mask, xp.zeros((1,) * data.ndim), nothing, rule=Rule.RESIDUAL).read().fit


def rounding(data: Array, norm: float) -> float:
    """Residual that rounding alone explains, in the data's unit."""
    return 50 * float(namespace_of(data).finfo(data.dtype).eps) * norm / math.sqrt(0.01 * math.prod(data.shape))


def residuals(data: Array, core: Array, factors: Sequence[Array]) -> Iterator[tuple[slice, Array]]:
    """Ranges of planes with ``Y - X`` there (anything where nothing was observed)."""
    xp = namespace_of(data, core)
    leading, left, right = planes_model(core, factors, data.dtype)
    y = planes_of(data)
    for part in chunks(data):
        yield part, y[part, :, :] - xp.matmul(xp.matmul(left, leading[part, :, :]), right.T)


def keep_inliers(data: Array, mask: Array, core: Array, factors: Sequence[Array], threshold: float, kept: Array) -> int:
    """Set ``kept`` to the observed entries with ``|Y - X| <= threshold``; return how many are left out."""
    xp = namespace_of(data, mask)
    w, k = planes_of(mask), planes_of(kept)
    flagged = 0
    for part, residual in residuals(data, core, factors):
        k[part, :, :] = w[part, :, :] & (xp.abs(residual) <= threshold)
        flagged += count(w[part, :, :] & ~k[part, :, :])
    return flagged


def sparse_part(
    data: Array,
    mask: Array,
    core: Array,
    factors: Sequence[Array],
    threshold: float,
    *,
    dual: Array | None = None,
    soft: bool = False,
) -> SparsePart:
    """Outliers in coordinate form: ``R = Y - X - L`` where it is above the threshold (``L`` = 0 without a dual).

    With ``soft`` the values are shrunk by the threshold, as the proximal map does, without it they are ``R`` itself.
    """
    xp = namespace_of(data, mask)
    if not math.isfinite(threshold):
        return SparsePart(xp.zeros((0,), dtype=xp.int64), xp.zeros((0,), dtype=data.dtype))
    w = planes_of(mask)
    plane = math.prod(data.shape[-2:])
    positions, values = [], []
    for part, residual in residuals(data, core, factors):
        if dual is not None:
            residual = residual - planes_of(dual)[part, :, :]
        flagged = xp.reshape(w[part, :, :] & (xp.abs(residual) > threshold), (-1,))
        found = xp.reshape(residual, (-1,))[flagged]
        positions.append(xp.nonzero(flagged)[0] + part.start * plane)
        values.append(soft_threshold(found, threshold) if soft else found)
    return SparsePart(xp.concat(positions), xp.concat(values))
