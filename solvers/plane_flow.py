"""Planes between measured planes along the flow of structure that moves sideways from one plane to the next.

Kriging (:mod:`tensorcell.solvers.kriging`) predicts each voxel from those above and below it. A tilted filament or the
slope of a nucleus is found beside them: it moves sideways from plane to plane. The optical flow between two measured
planes (Lucas and Kanade's, from coarse to fine) says where to, and each of them is carried along its part of the way:

    ``F(x) = (1 - t) below(x + t b(x)) + t above(x + (1 - t) a(x))``

with ``b`` the flow from the plane above to the one below, ``a`` the one back, and ``t`` the share of the way. Which of
two predictions is right differs from stack to stack and with the size of detail, so that the stack itself decides, one
band of lateral frequencies at a time: at measured planes that are left out, the weight of the correction ``F - K`` of
the kriged plane ``K`` is the slope of the true on the proposed correction,

    ``w_j = <F - K, Y - K>_j / |F - K|_j^2``,

drawn towards 0 as far as its jackknife error over planes asks. Left-out planes lie in gaps twice as large. Detail that
kriging resolves in the gap itself, but not in one twice as large, is not to be moved: the weight is multiplied with the
root of the ratio in which kriging expects the error of the band to fall.

References
----------
G. Le Besnerais, F. Champagnat, Dense optical flow by iterative local window registration, ICIP 2005,
doi:10.1109/ICIP.2005.1529706.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Array, fft, from_host, namespace_of, ndimage, to_host
from .kriging import bands_of

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]

RADIUS, WARPS = 5, 3
"""Radius of the Gaussian window in which the flow is constant, in pixels, and rounds of warping on each scale."""

SINGULAR = 1e-14
"""Determinant below which a window, in units of the planes' contrast, does not tell the flow; it is taken to be 0."""

LARGE = 1 << 14
"""Planes of more pixels are halved before their flow is found: it is smooth, and they are finely sampled as a rule."""

SMALLEST_SIDE = 16
"""Planes with a shorter side have no flow."""

FEWEST, MOST = 4, 16
"""Fewest left-out planes that judge a correction, and largest number of them that are used."""

EXPECTED = 0.3
"""Standard deviation of the weights before they are measured; their mean is 0."""

LEAST_WEIGHT = 0.05
"""Where no band has a larger weight, planes are not moved at all."""


class Flow(NamedTuple):
    """Sideways motion of structure between two planes, in pixels."""

    up: Array
    """``(2, Y, X)``: what lies at a pixel of the plane below is found this far from it in the plane above."""
    down: Array
    """The same from the plane above to the one below."""


def flow_between(below: Array, above: Array) -> Flow:
    """The optical flow between two planes ``(Y, X)``, whatever their unit and offset.

    It lies where they do. It is found on the host, from planes of at most `LARGE` pixels.
    """
    if below.size > LARGE:
        return enlarged(flow_between(halved(below), halved(above)), below)
    here, there = to_host(namespace_of(below).stack([below, above]))
    return Flow(*(from_host(way, below) for way in flow_on_host(here, there)))


def flow_on_host(below: Floats, above: Floats) -> tuple[Floats, Floats]:
    """The flow of small planes up and down, each ``(2, Y, X)``.

    It is that of scikit-image's ``optical_flow_ilk``, in less than half of the time: both ways share the scales, one
    call smooths all products, and systems of two equations are solved as such.
    """
    lowest = min(float(below.min()), float(above.min()))
    spread = max(float(below.std(dtype=np.float64)), float(above.std(dtype=np.float64))) or 1.0
    lower, upper = (scales_of(((plane - lowest) / spread).astype(np.float32)) for plane in (below, above))
    return from_coarse_to_fine(lower, upper), from_coarse_to_fine(upper, lower)


def scales_of(plane: Floats) -> list[Floats]:
    """The plane at all scales, each half of the next one, the coarsest first."""
    from skimage.transform import pyramid_reduce

    scales = [plane]
    while min(scales[-1].shape) > 2 * SMALLEST_SIDE:
        scales.append(pyramid_reduce(scales[-1], 2))  # type: ignore[no-untyped-call]
    return scales[::-1]


def from_coarse_to_fine(still: Sequence[Floats], moving: Sequence[Floats]) -> Floats:
    """Where what lies at a pixel of one plane is found in the other one, ``(2, Y, X)``, from both at all scales."""
    from scipy.ndimage import zoom

    flow: Floats = np.zeros((2, *still[0].shape), np.float32)
    for here, there in zip(still, moving, strict=True):
        ratio = np.divide(here.shape, flow.shape[1:])
        if np.any(ratio != 1):
            flow = ratio.astype(np.float32)[:, None, None] * zoom(flow, (1, *ratio), order=0, mode="nearest")
        for _ in range(WARPS):
            flow = warped_closer(here, there, flow)
    return flow


def warped_closer(still: Floats, moving: Floats, flow: Floats) -> Floats:
    """Lucas and Kanade's flow after one more round: the least squares of ``still - moving(x + flow)`` in windows."""
    from scipy.ndimage import gaussian_filter

    found = moved(moving, np.indices(still.shape, np.float32) + flow)
    dy, dx = np.gradient(found)
    wanted = dy * flow[0] + dx * flow[1] + still - found
    products = np.stack([dy * dy, dy * dx, dx * dx, dy * wanted, dx * wanted])
    smooth = gaussian_filter(products, (2 * RADIUS + 1) / 4, mode="mirror", axes=(1, 2)).astype(np.float64)
    yy, yx, xx, y, x = smooth
    determinant = yy * xx - yx * yx
    told = np.abs(determinant) >= SINGULAR
    solved = np.stack([xx * y - yx * x, yy * x - yx * y]) / np.where(told, determinant, 1)
    return np.where(told, solved, 0).astype(np.float32)


def halved(plane: Array) -> Array:
    """Means of 2 x 2 pixels; an odd last row or column counts twice."""
    xp = namespace_of(plane)
    rows, columns = plane.shape
    even = xp.pad(plane, ((0, rows % 2), (0, columns % 2)), mode="edge")
    return xp.mean(xp.reshape(even, (even.shape[0] // 2, 2, -1, 2)), axis=(1, 3))


def enlarged(flow: Flow, plane: Array) -> Flow:
    """The flow between planes like this one, from that between their halves."""
    xp = namespace_of(plane)
    places = (xp.indices(plane.shape, dtype=xp.float32) - 0.5) / 2
    return Flow(*(xp.stack([2 * moved(part, places) for part in way]) for way in flow))


def along_flow(below: Array, above: Array, flow: Flow, share: float) -> Array:
    """The plane at this share of the way from the plane below to the one above."""
    xp = namespace_of(below)
    pixels = xp.indices(below.shape, dtype=xp.float32)
    lower = moved(below, pixels + share * flow.down)
    upper = moved(above, pixels + (1 - share) * flow.up)
    return (1 - share) * lower + share * upper


def moved(plane: Array, places: Array) -> Array:
    """The plane at places ``(2, ...)`` between its pixels, interpolated linearly."""
    return ndimage("map_coordinates", plane, places, order=1, mode="nearest")


class MovingPlanes:
    """Planes along the flow between measured ones, the flow of each gap computed once while targets lie in it."""

    def __init__(self, values: Array, positions: Doubles) -> None:
        self.values, self.positions = values, positions
        self.upper = 0
        self.flow: Flow | None = None

    def at(self, target: float) -> Array:
        """The plane at this position, strictly between two measured ones."""
        upper = int(np.searchsorted(self.positions, target))
        below, above = self.values[upper - 1 : upper + 1]
        if self.flow is None or upper != self.upper:
            self.upper, self.flow = upper, flow_between(below, above)
        lower, higher = self.positions[upper - 1 : upper + 1]
        return along_flow(below, above, self.flow, float((target - lower) / (higher - lower)))


class Proposal(NamedTuple):
    """A left-out plane, its prediction, and the plane along the flow."""

    value: Array
    """The prediction that is to be corrected."""
    left: Doubles
    """``(J,)``: expected energy of its error in each band."""
    flowed: Array
    truth: Array
    """The measured plane."""


class FlowLaw(NamedTuple):
    """Share of the correction that each band deserves."""

    weights: Doubles
    """``(J,)`` at the left-out planes."""
    left: Doubles
    """``(J,)``: expected energy of the error there."""
    bands: Array
    """``(J, Y, X)``: the bands of planes of this shape."""

    def at(self, left: Doubles) -> Doubles:
        """The weights ``(J,)`` of a plane whose error is expected to have this energy in each band."""
        ratio = np.divide(left, self.left, out=np.ones_like(left), where=self.left > 0)
        return np.asarray(self.weights * np.sqrt(np.minimum(ratio, 1)))

    def correction(self, value: Array, flowed: Array, left: Doubles) -> Array:
        """What is to be added to a predicted plane."""
        xp = namespace_of(value)
        gains = xp.tensordot(from_host(self.at(left).astype(np.float32), value), self.bands, axes=1)
        return fft("idctn", gains * fft("dctn", flowed - value, norm="ortho"), norm="ortho")


def flow_law(proposals: Sequence[Proposal]) -> FlowLaw | None:
    """The weights that left-out planes support; None where they support none."""
    if len(proposals) < FEWEST:
        return None
    xp = namespace_of(proposals[0].value)
    products, squares = [], []
    rows, columns = proposals[0].value.shape
    bands, _ = bands_of(rows, columns, xp)
    for one in proposals:
        change, truth = (fft("dctn", plane - one.value, norm="ortho") for plane in (one.flowed, one.truth))
        products.append(xp.stack([xp.sum(band * change * truth, dtype=xp.float64) for band in bands]))
        squares.append(xp.stack([xp.sum(band * change * change, dtype=xp.float64) for band in bands]))
    slopes, errors = slopes_of(*(to_host(xp.stack(sums)) for sums in (products, squares)))
    weights = np.clip(slopes / (1 + np.square(errors / EXPECTED)), 0, 1)
    if not np.max(weights, initial=0) > LEAST_WEIGHT:
        return None
    return FlowLaw(weights, np.mean([one.left for one in proposals], axis=0), bands)


def slopes_of(products: Doubles, squares: Doubles) -> tuple[Doubles, Doubles]:
    """Slopes ``sum <d, e> / sum <d, d>`` of several corrections ``(n, J)``, and their jackknife errors over ``n``."""
    parts = [products.sum(axis=0), *(products.sum(axis=0) - one for one in products)]
    norms = [squares.sum(axis=0), *(squares.sum(axis=0) - one for one in squares)]
    slope, *without = np.divide(parts, norms, out=np.zeros_like(parts), where=np.array(norms) > 0)
    spread = without - np.mean(without, axis=0)
    return slope, np.sqrt((len(products) - 1) * np.mean(np.square(spread), axis=0))
