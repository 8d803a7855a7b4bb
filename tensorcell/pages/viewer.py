"""The slices of a report that move: each stack of a recovery as layers of 8-bit planes.

`viewer.js` cuts the sections; what it reads is made here and lies in the page as JSON.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tensorcell.interpolation import interpolated_plane
from tensorcell.pages.pictures import GAP, OUTLIER, choose_slices, grey_image, grey_scale
from tensorcell.pages.tiles import QUALITIES, Grain, Layer, block_means, block_sums, coarser, tile_sides, to_levels
from tensorcell.plane_grid import PlaneGrid
from tensorcell.recovered import Recovery, share_left_open
from tensorcell.volume import Index, Stack, Volume, stacks, zyx_view
from tensorcell.volume_checks import Described

MOST_VOXELS = 7_000_000
"""Voxels of all stacks of a page, in each layer; a finer volume is shown on a coarser grid."""

LEAST_SIDE = 8
"""Voxels of the longest side of the grid below which no coarser one is tried."""

MOST_VIEWS, MOST_OTHERS = 12, 4
"""Stacks that a page shows: channels and positions (4 at most) times frames, which are spread over the series."""

COLOURS = {"gap": GAP, "outlier": OUTLIER, "invented": "#f2a33a"}

HEAT_STEPS = 17
"""Colours of the scale of uncertainty; between them colours are interpolated."""

HALO = 4
"""Planes on either side that the share of a plane that is left open depends on: the reach of its Gaussian window."""

SLAB = 16
"""Planes of which that share is computed at once."""

THUMBNAIL = 96
"""Pixels of the longer side of a small picture in the strip of stacks, at most."""

UNMEASURED, MEASURED, REPLACED = 0, 127, 255
"""Levels of the layer that says where voxels come from."""


class Shown(NamedTuple):
    """The stacks of a page as `viewer.js` reads them, and what is to be said of them."""

    stacks: list[dict[str, Any]]
    grain: str
    notes: list[str]


@dataclass(frozen=True, eq=False)
class View:
    """One stack of a recovery in whole, with all that layers are made of.

    Parameters
    ----------
    given : Stack
    measured : bool array of the shape of the planes given
        True = measured.
    replaced : bool array of the shape of the planes given, or None
        True = outlier.
    result : array (Z, Y, X)
    uncertainty : array (Z, Y, X) or None
    known : bool array (Z, Y, X)
        True = a measured voxel of the result.
    truth : array (Z, Y, X) or None
    grid : PlaneGrid
        Where the planes given lie in the result.
    share : array (Z, Y, X) or None
        The invented share, where it need not be computed.
    block : int
        Pixels of the file's result a side of which a pixel of these arrays is the mean; 1: they are the whole.
    whole : (int, int, int) or None
        Voxels of the file's result; None: those of ``result``.
    channel : str
        The name of its channel, if it has one.
    """

    given: Stack
    measured: np.ndarray
    replaced: np.ndarray | None
    result: np.ndarray
    uncertainty: np.ndarray | None
    known: np.ndarray
    truth: np.ndarray | None
    grid: PlaneGrid
    share: np.ndarray | None = None
    block: int = 1
    whole: tuple[int, int, int] | None = None
    channel: str = ""

    @property
    def factor(self) -> int:
        """Pixels of the result a side of one given."""
        return int(self.result.shape[1] // self.given.data.shape[1])

    @property
    def clean(self) -> np.ndarray:
        """Where the planes given hold measured voxels that are no outliers."""
        return self.measured if self.replaced is None else self.measured & ~self.replaced

    def is_open(self, z: int) -> np.ndarray:
        """Where plane z of the result is not what was measured there (Y, X)."""
        open_ = ~self.known[z]
        if self.replaced is not None and self.factor == 1 and z % self.grid.step.numerator == 0:
            open_ = open_ | self.replaced[self.grid.shared][z // self.grid.step.numerator]
        return np.asarray(open_)


def measured_planes(stack: Stack, measured: np.ndarray, grid: PlaneGrid) -> np.ndarray:
    """Where the planes given hold measured voxels: in planes of the result this is what the result says, if anything.

    Parameters
    ----------
    stack : Stack
        What was given.
    measured : bool array
        True = a measured voxel of the result.
    grid : PlaneGrid
    """
    seen = np.isfinite(stack.data) if stack.mask is None else np.isfinite(stack.data) & stack.mask
    if measured.any():  # else no voxel of the result was measured as such
        seen[grid.shared] = measured[grid.places]
    return np.asarray(seen)


def views(before: Volume, after: Recovery, truth: np.ndarray | None) -> Iterator[View]:
    """The stacks of a recovery that its page shows."""
    axes, outliers = after.volume.axes, after.outliers if after.outlier_count else None
    chosen = set(chosen_stacks(before.axes, before.shape))
    for place, stack in enumerate(stacks(before)):
        if place in chosen:
            where, known = stack.where, zyx_view(after.measured, axes, stack.where)
            yield View(
                stack,
                measured_planes(stack, known, after.grid),
                None if outliers is None else zyx_view(outliers, axes, where) != 0,
                zyx_view(after.volume.data, axes, where),
                zyx_view(after.uncertainty, axes, where),
                known,
                None if truth is None else zyx_view(truth, axes, where),
                after.grid,
                channel=channel_of(before, where),
            )


def channel_of(volume: Described, where: Index) -> str:
    """The name of the channel at a place, if the volume has names."""
    names = volume.metadata.get("channel_names")
    if "C" not in volume.axes or not isinstance(names, list | tuple):
        return ""
    place = where[volume.axes.index("C")]
    return str(names[place]) if isinstance(place, int) and place < len(names) else ""


def chosen_stacks(axes: str, shape: Sequence[int]) -> list[int]:
    """Numbers of the stacks that a page shows: the first channels and positions, and frames spread over the series.

    >>> chosen_stacks("TZYX", (50, 5, 8, 8))
    [0, 4, 8, 13, 17, 22, 26, 31, 35, 40, 44, 49]
    >>> chosen_stacks("CTZYX", (2, 3, 5, 8, 8))
    [0, 1, 2, 3, 4, 5]
    """
    outer = {letter: size for letter, size in zip(axes, shape, strict=True) if letter not in "ZYX"}
    numbers = np.arange(math.prod(outer.values())).reshape(tuple(outer.values()))
    if "T" in outer:
        frames = np.moveaxis(numbers, list(outer).index("T"), 0).reshape(outer["T"], -1)
    else:
        frames = numbers.reshape(1, -1)
    others = frames[:, :MOST_OTHERS]
    many = min(len(others), max(1, MOST_VIEWS // others.shape[1]))
    spread = np.linspace(0, len(others) - 1, many).astype(int)
    return sorted(int(number) for number in others[spread].ravel())


def grain_for(count: int, shape: tuple[int, ...], grid: PlaneGrid, factor: int) -> Grain:
    """The finest grid on which so many stacks of that shape (Z, Y, X) have no more voxels than a page holds.

    >>> from fractions import Fraction
    >>> grain_for(1, (99, 1024, 1024), PlaneGrid(50, Fraction(2)), 1)
    Grain(planes=1, pixels=4)
    """
    grain = Grain(1, 1)
    while count * math.prod(grain.shape(shape)) > MOST_VOXELS:
        grain = coarser(grain, shape, grid.step, factor)
    return grain


def ways_to_show(every: Sequence[View], total: int, spacing: tuple[float, float, float] | None) -> Iterator[Shown]:
    """What the slices of a page are cut from: on the finest grid in the best quality first, then in fewer bytes.

    Parameters
    ----------
    every : sequence of View
        Of one shape.
    total : int
        How many stacks there are, shown or not.
    spacing : (dz, dy, dx) or None
        Micrometres, of the voxels of the views.

    Notes
    -----
    Every voxel is read once for each grid that is tried, plane by plane; in nearly all cases one is.
    """
    shape, factor, grid = every[0].result.shape, every[0].factor, every[0].grid
    left_out = [f"the sliders go through {len(every)} of {total} stacks"] if len(every) < total else []
    grain = grain_for(len(every), shape, grid, factor)
    while True:
        layers = [layers_of(view, grain) for view in every]
        stacks_ = [described(view, some, grain, spacing) for view, some in zip(every, layers, strict=True)]
        said = said_of(grain, every[0])
        for quality in QUALITIES:
            found = [with_pictures(stack, some, quality) for stack, some in zip(stacks_, layers, strict=True)]
            yield Shown(found, said, left_out)
        if max(grain.shape(shape)) <= LEAST_SIDE:
            return
        grain = coarser(grain, shape, grid.step, factor)


def with_pictures(stack: dict[str, Any], layers: Sequence[Layer], quality: int) -> dict[str, Any]:
    """A stack as `viewer.js` reads it, with the mosaics of its layers."""
    said = zip(stack["layers"], layers, strict=True)
    return {**stack, "layers": [{**one, "image": embedded(layer.encoded(quality))} for one, layer in said]}


def layers_of(view: View, grain: Grain) -> list[Layer]:
    """The layers of a stack, those without any value left out."""
    low, high = window(view)
    given, result = given_planes(view, grain), thinned(view.result, grain)
    values, kind = given.at(result.shape, grain.planes)
    levels = to_levels(result, low, high)
    # Between measured pixels the result stands in the mosaic, since it is smooth there; the page shows a gap.
    seen = kind != UNMEASURED
    empty = ~seen.any(axis=(1, 2), keepdims=True)
    own = np.where(seen, to_levels(values, low, high), np.where(empty, 0, levels)).astype(np.uint8)
    found = [Layer("kind", "", kind, look="kind"), Layer("input", "input", own, low, high)]
    if empty.any() and not empty.all():
        linear = given.interpolated(len(result), grain.planes)
        found.append(Layer("linear", "linear interpolation along z", to_levels(linear, low, high), low, high))
    if np.isfinite(result).any():
        found.append(Layer("result", "result", levels, low, high))
        if view.uncertainty is not None:
            error = thinned(view.uncertainty, grain)
            most = float(np.nanmax(error, initial=0)) or 1.0
            found.append(Layer("uncertainty", "uncertainty", to_levels(error, 0, most), 0, most, "heat"))
        share = invented(view, grain)
        if share is not None:
            found.append(Layer("invented", "invented share", to_levels(share, 0, 1), 0, 1, "heat"))
    if view.truth is not None:
        found.append(Layer("truth", "truth", to_levels(thinned(view.truth, grain), low, high), low, high))
    return found


def window(view: View) -> tuple[float, float]:
    """Intensities between which contrast can be set: the range of the grey scale and as much again above it.

    Nothing is brighter or darker than measured voxels that are no outliers.
    """
    low, high = grey_scale(view.given.data, view.clean)
    width, planes = high - low, zip(view.given.data, view.clean, strict=True)
    ends = [(float(plane[clean].min()), float(plane[clean].max())) for plane, clean in planes if clean.any()]
    least, most = min((end[0] for end in ends), default=low), max((end[1] for end in ends), default=high)
    return min(low, max(least, low - width / 4)), max(high, min(most, high + width))


class GivenPlanes(NamedTuple):
    """The planes given on the lateral grid of the page."""

    values: np.ndarray
    """(planes given, Y, X) intensities; NaN = not measured."""
    replaced: np.ndarray
    """(planes given, Y, X): True = an outlier is in the block."""
    grid: PlaneGrid

    def at(self, shape: tuple[int, ...], distance: int) -> tuple[np.ndarray, np.ndarray]:
        """Intensities and kinds at every n-th plane of the result; a plane given between two is at the nearest one."""
        values, kind = np.full(shape, np.nan, np.float32), np.full(shape, UNMEASURED, np.uint8)
        for place, plane, wrong in zip(self.grid.positions, self.values, self.replaced, strict=True):
            z, rest = divmod(round(place), distance)
            if rest == 0 and z < len(values):
                values[z] = plane
                kind[z] = np.where(np.isnan(plane), UNMEASURED, np.where(wrong, REPLACED, MEASURED))
        return values, kind

    def interpolated(self, planes: int, distance: int) -> np.ndarray:
        """Linear interpolation along z at every n-th plane of the result."""
        seen = np.isfinite(self.values)
        places = [float(distance * z / self.grid.step) for z in range(planes)]
        return np.stack([interpolated_plane(self.values, seen, place) for place in places])


def given_planes(view: View, grain: Grain) -> GivenPlanes:
    """The planes given, as means of blocks or with repeated pixels."""
    side, repeat = (1, view.factor) if grain.pixels == 1 else (grain.pixels // view.factor, 1)
    planes = zip(view.given.data, view.measured, strict=True)
    values = np.stack([block_means(plane, side, known) for plane, known in planes])
    replaced = np.zeros(values.shape, bool)
    if view.replaced is not None:
        replaced = np.stack([block_sums(plane.astype(np.float32), side) > 0 for plane in view.replaced])
    values, replaced = (array.repeat(repeat, 1).repeat(repeat, 2) for array in (values, replaced))
    return GivenPlanes(values, replaced, view.grid)


def thinned(stack: np.ndarray, grain: Grain) -> np.ndarray:
    """Every n-th plane of a stack, with the means of its blocks."""
    return np.stack([block_means(plane, grain.pixels) for plane in stack[:: grain.planes]])


def invented(view: View, grain: Grain) -> np.ndarray | None:
    """`Recovery.invented` on the grid of the page, made of a few planes at a time; None where it is not known."""
    if view.share is not None:
        return thinned(view.share, grain)
    if view.uncertainty is None or view.block > 1:  # of means of blocks it would be another one
        return None
    planes, contrast = len(view.result), float(view.result.std(dtype=np.float64))
    found = []
    for first in range(0, planes, SLAB):
        lower, upper = max(0, first - HALO), min(planes, first + SLAB + HALO)
        part = share_left_open(view.result[lower:upper], view.uncertainty[lower:upper], contrast)
        for z in range(first, min(first + SLAB, planes)):
            if z % grain.planes == 0:
                found.append(block_means(np.where(view.is_open(z), part[z - lower], 0), grain.pixels))
    return np.stack(found)


def described(
    view: View, layers: Sequence[Layer], grain: Grain, spacing: tuple[float, float, float] | None
) -> dict[str, Any]:
    """One stack as `viewer.js` reads it, without its pictures."""
    rows, columns, beside = tile_sides(layers[0].levels.shape)
    mask = np.zeros(view.result.shape, bool)
    mask[view.grid.places] = view.measured[view.grid.shared].repeat(view.factor, 1).repeat(view.factor, 2)
    plane, row = choose_slices(mask, np.nan_to_num(view.result))
    start = (min(plane // grain.planes, len(layers[0].levels) - 1), row // grain.pixels, layers[0].levels.shape[2] // 3)
    keys = {layer.key: layer for layer in layers}
    bare = not (layers[0].levels[start[0]] != UNMEASURED).any()
    shown = keys.get("result", keys["input"])
    label = ": ".join(filter(None, (view.given.label, view.channel)))
    grains = (grain.planes, grain.pixels, grain.pixels)
    of_file = (grain.planes, grain.pixels * view.block, grain.pixels * view.block)
    return {
        "label": label if "result" in keys else f"{label} (not recovered)",
        "thumbnail": thumbnail(shown, keys["kind"], start[0], grey := grey_scale(view.given.data, view.clean)),
        "size": in_zyx(layers[0].levels.shape),
        "whole": in_zyx(view.whole or view.result.shape),
        "grain": in_zyx(of_file),
        "spacing": [step * own for step, own in zip(grains, spacing or (1.0, 1.0, 1.0), strict=True)],
        "known": spacing is not None,
        "tile": [rows, columns],
        "columns": beside,
        "start": in_zyx(start),
        "grey": list(grey),
        "left": "linear" if bare and "linear" in keys else "input",
        "right": shown.key,
        "heat": heat(),
        "colours": COLOURS,
        "replaced": view.replaced is not None,
        "layers": [
            {"key": one.key, "name": one.name, "low": one.low, "high": one.high, "look": one.look} for one in layers
        ],
    }


def in_zyx(values: Sequence[int]) -> dict[str, int]:
    """Whole numbers by axis.

    >>> in_zyx((3, 4, 5))
    {'z': 3, 'y': 4, 'x': 5}
    """
    return {axis: int(value) for axis, value in zip("zyx", values, strict=True)}


def thumbnail(layer: Layer, kind: Layer, plane: int, grey: tuple[float, float]) -> str:
    """A plane as a small picture; in that of an input, pixels that were not measured have their colour."""
    import imagecodecs

    levels = layer.levels[plane]
    every = -(-max(levels.shape) // THUMBNAIL)
    values = layer.low + levels[::every, ::every] * ((layer.high - layer.low) / 255)
    if layer.key == "input":
        values = np.where(kind.levels[plane, ::every, ::every] == UNMEASURED, np.nan, values)
        return embedded(bytes(imagecodecs.png_encode(grey_image(values, grey), level=9)))
    return embedded(bytes(imagecodecs.png_encode(to_levels(values, *grey), level=9)))


def embedded(picture: bytes) -> str:
    """A JPEG or PNG as the address of an image in a self-contained page."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode()


def heat() -> list[str]:
    """The colours of the scale of uncertainty, from the lowest."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in colormaps["magma"](np.linspace(0, 1, HEAT_STEPS))]


def said_of(grain: Grain, view: View) -> str:
    """What the page says of the grid of its slices and of its levels."""
    said, side, planes = [], grain.pixels * view.block, len(view.result)
    if side > 1:
        said.append(
            f"each pixel shown is the mean of {side} × {side} pixels, in which noise and fine detail "
            "are weaker than in the file; it is marked where one of them is an outlier, and measured where one is"
        )
    if grain.planes > 1:
        said.append(f"one of {grain.planes} planes is shown ({grain.shape(view.result.shape)[0]} of {planes})")
    if not view.grid.whole:
        said.append("an input plane that lies between two planes of the result stands at the nearest one")
    said.append("intensities are shown in 256 levels between the ends of the contrast sliders")
    text = "; ".join(said)
    return text[0].upper() + text[1:] + "."
