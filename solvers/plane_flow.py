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

from .kriging import bands_of

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

RADIUS, WARPS = 5, 3
"""Radius of the Gaussian window in which the flow is constant, in pixels, and rounds of warping on each scale."""

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

    up: Singles
    """``(2, Y, X)``: what lies at a pixel of the plane below is found this far from it in the plane above."""
    down: Singles
    """The same from the plane above to the one below."""


def flow_between(below: Floats, above: Floats) -> Flow:
    """The optical flow between two planes ``(Y, X)``, whatever their unit and offset."""
    if below.size > LARGE:
        return enlarged(flow_between(halved(below), halved(above)), below.shape)
    from skimage.registration import optical_flow_ilk

    lowest = min(float(below.min()), float(above.min()))
    spread = max(float(below.std(dtype=np.float64)), float(above.std(dtype=np.float64))) or 1.0
    # The library takes systems of equations for singular by an absolute bound: it finds no motion in small numbers.
    lower, upper = (((plane - lowest) / spread).astype(np.float32) for plane in (below, above))
    up, down = (
        optical_flow_ilk(  # type: ignore[no-untyped-call]
            here, there, radius=RADIUS, num_warp=WARPS, gaussian=True
        )
        for here, there in ((lower, upper), (upper, lower))
    )
    return Flow(up, down)


def halved(plane: Floats) -> Floats:
    """Means of 2 x 2 pixels; an odd last row or column counts twice."""
    rows, columns = plane.shape
    even = np.pad(plane, ((0, rows % 2), (0, columns % 2)), mode="edge")
    return np.asarray(even.reshape(len(even) // 2, 2, -1, 2).mean(axis=(1, 3)), plane.dtype)


def enlarged(flow: Flow, shape: tuple[int, ...]) -> Flow:
    """The flow between planes of this shape, from that between their halves."""
    from scipy.ndimage import map_coordinates

    places = (np.indices(shape, dtype=np.float32) - 0.5) / 2
    up, down = (np.stack([2 * map_coordinates(part, places, order=1, mode="nearest") for part in way]) for way in flow)
    return Flow(up, down)


def along_flow(below: Floats, above: Floats, flow: Flow, share: float) -> Floats:
    """The plane at this share of the way from the plane below to the one above."""
    from scipy.ndimage import map_coordinates

    pixels = np.indices(below.shape, dtype=np.float32)
    lower = map_coordinates(below, pixels + np.float32(share) * flow.down, order=1, mode="nearest")
    upper = map_coordinates(above, pixels + np.float32(1 - share) * flow.up, order=1, mode="nearest")
    return np.asarray((1 - share) * lower + share * upper, below.dtype)


class MovingPlanes:
    """Planes along the flow between measured ones, the flow of each gap computed once while targets lie in it."""

    def __init__(self, values: Floats, positions: Doubles) -> None:
        self.values, self.positions = values, positions
        self.upper = 0
        self.flow: Flow | None = None

    def at(self, target: float) -> Floats:
        """The plane at this position, strictly between two measured ones."""
        upper = int(np.searchsorted(self.positions, target))
        below, above = self.values[upper - 1 : upper + 1]
        if self.flow is None or upper != self.upper:
            self.upper, self.flow = upper, flow_between(below, above)
        lower, higher = self.positions[upper - 1 : upper + 1]
        return along_flow(below, above, self.flow, float((target - lower) / (higher - lower)))


class Proposal(NamedTuple):
    """A left-out plane, its prediction, and the plane along the flow."""

    value: Floats
    """The prediction that is to be corrected."""
    left: Doubles
    """``(J,)``: expected energy of its error in each band."""
    flowed: Floats
    truth: Floats
    """The measured plane."""


class FlowLaw(NamedTuple):
    """Share of the correction that each band deserves."""

    weights: Doubles
    """``(J,)`` at the left-out planes."""
    left: Doubles
    """``(J,)``: expected energy of the error there."""
    bands: Singles
    """``(J, Y, X)``: the bands of planes of this shape."""

    def at(self, left: Doubles) -> Doubles:
        """The weights ``(J,)`` of a plane whose error is expected to have this energy in each band."""
        ratio = np.divide(left, self.left, out=np.ones_like(left), where=self.left > 0)
        return np.asarray(self.weights * np.sqrt(np.minimum(ratio, 1)))

    def correction(self, value: Floats, flowed: Floats, left: Doubles) -> Floats:
        """What is to be added to a predicted plane."""
        from scipy.fft import dctn, idctn

        gains = np.tensordot(self.at(left).astype(np.float32), self.bands, 1)
        return np.asarray(idctn(gains * dctn(flowed - value, norm="ortho"), norm="ortho"), value.dtype)


def flow_law(proposals: Sequence[Proposal]) -> FlowLaw | None:
    """The weights that left-out planes support; None where they support none."""
    from scipy.fft import dctn

    if len(proposals) < FEWEST:
        return None
    products, squares = [], []
    bands, _ = bands_of(*proposals[0].value.shape)
    for one in proposals:
        change, truth = (dctn(plane - one.value, norm="ortho") for plane in (one.flowed, one.truth))
        products.append([np.sum(band * change * truth, dtype=np.float64) for band in bands])
        squares.append([np.sum(band * change * change, dtype=np.float64) for band in bands])
    slopes, errors = slopes_of(np.array(products), np.array(squares))
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
