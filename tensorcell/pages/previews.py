"""Small pictures of stacks: what ``plot()`` draws, and what notebooks show of a volume or a result.

Arrays in, figures and HTML out: this module knows no result, so that results may import it when they are drawn.
matplotlib is imported only then.
"""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from tensorcell.errors import InputError
from tensorcell.pages.pictures import GAP, data_uri, grey_scale, rgb, scale_bar_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PIXELS = 256
"""Pixels of a slice a side in a notebook: of larger ones every second or n-th is shown."""

MOST_BYTES = 70_000
"""Bytes of a picture in a notebook, which become a third more as text: of noise fewer pixels are shown."""

NOTEBOOK_DPI = 80

WIDTH, GAP_INCHES, MARGIN, TITLE = 3.2, 0.12, 0.1, 0.28
"""Inches: the longest side of the slice xy, the space between slices, the rim, and the line of a title."""

LEAST, MOST = 0.35, 3.2
"""Inches: limits of the other side of the slices along z."""


class Shown(Protocol):
    """What is drawn: see `tensorcell.volume.ShownStack`."""

    @property
    def data(self) -> np.ndarray: ...

    @property
    def mask(self) -> np.ndarray | None: ...

    @property
    def spacing(self) -> tuple[float, float, float] | None: ...

    @property
    def label(self) -> str: ...


class Layer(NamedTuple):
    """One version of a stack in a row of a picture."""

    title: str
    data: np.ndarray
    """(Z, Y, X)."""
    mask: np.ndarray | None = None
    """True = shown; what is False has the colour of voxels that were not measured."""
    colours: str = "gray"
    """Name of a colour map of matplotlib."""
    limits: tuple[float, float] | None = None
    """Values of the ends of the colour map; by default the 0.5 and 99.8 percentiles."""


class Slices(NamedTuple):
    """The slices of a stack."""

    xy: np.ndarray
    yz: np.ndarray
    """(Y, Z): beside xy, with the same rows."""
    xz: np.ndarray
    """(Z, X): below xy, with the same columns."""


def draw_slices(shown: Shown, places: Sequence[int | None]) -> tuple[Axes, ...]:
    """Draw the slices of a stack with pyplot: xy, yz beside it and xz below it, with their physical proportions.

    Parameters
    ----------
    shown : Shown
    places : (plane, row, column)
        None stands for the middle.

    Returns
    -------
    tuple of Axes
        xy, yz, xz; only xy of a single plane.
    """
    from matplotlib import pyplot

    places = positions(shown.data.shape, places)
    layer = Layer(shown.label, shown.data, shown.mask)
    figure = pyplot.figure(figsize=figure_size(shown.data.shape, shown.spacing, 1), facecolor="white")
    return _draw_layer(figure, layer, shown.spacing, places, 0, 1, every=1, named=True)


def positions(shape: Sequence[int], places: Sequence[int | None]) -> tuple[int, int, int]:
    """The plane, row and column to be drawn; the middle where none is given.

    >>> positions((5, 64, 64), (None, -1, 3))
    (2, 63, 3)
    """
    found = []
    for name, size, place in zip(("plane", "row", "column"), shape, places, strict=True):
        chosen = size // 2 if place is None else place
        if not -size <= chosen < size:
            raise InputError(f"expected a {name} from 0 to {size - 1}, got {place}")
        found.append(int(chosen) % size)
    plane, row, column = found
    return plane, row, column


def with_slices(line: str, shown: Shown) -> str:
    """A line of text and the central slices of a stack, as a piece of HTML below 100 kB."""
    label = f"{shown.label}: the middle of the stack" if shown.label else "the middle of the stack"
    image = picture([Layer("", shown.data, shown.mask)], shown.spacing, positions(shown.data.shape, (None,) * 3))
    return f"<div><code>{html.escape(line)}</code><br>{image_tag(image, label)}</div>"


def with_layers(
    text: str, versions: Mapping[str, np.ndarray], shape: Sequence[int], spacing: tuple[float, float, float] | None
) -> str:
    """The central slices of several versions of a stack, and a text below them, as a piece of HTML below 100 kB.

    Parameters
    ----------
    text : str
        Lines of a terminal.
    versions : mapping of str to array
        Of one shape; rows and columns may be every second or n-th of the stack. That of the name ``uncertainty`` has a
        scale of its own, from 0; the others have that of ``recovered``.
    shape : (int, int, int)
        Voxels of the stack.
    spacing : (dz, dy, dx) or None
        Micrometres, of the stack.
    """
    recovered = versions["recovered"]
    every = -(-shape[2] // recovered.shape[2])
    grey = grey_scale(recovered, np.isfinite(recovered))
    layers = []
    for name, values in versions.items():
        if name == "uncertainty":
            largest = grey_scale(values, np.isfinite(values))[1]
            layers.append(Layer(f"{name}, 0 to {largest:.3g}", values, None, "magma", (0.0, largest)))
        else:
            layers.append(Layer(name, values, limits=grey))
    steps = spacing or (1.0, 1.0, 1.0)
    image = picture(
        layers, (steps[0], steps[1] * every, steps[2] * every), positions(recovered.shape, (None,) * 3),
        bar=spacing is not None,
    )  # fmt: skip
    return f"<div>{image_tag(image, ', '.join(versions))}<pre>{html.escape(text)}</pre></div>"


def image_tag(png: bytes, description: str) -> str:
    """An image of a self-contained piece of HTML."""
    return f'<img alt="{html.escape(description)}" style="max-width: 100%" src="{data_uri(png)}">'


def picture(
    layers: Sequence[Layer],
    spacing: tuple[float, float, float] | None,
    places: tuple[int, int, int],
    *,
    bar: bool = True,
) -> bytes:
    """The slices of several versions of one stack side by side, as a PNG of a size for notebooks.

    Parameters
    ----------
    layers : sequence of Layer
        Of one shape.
    spacing : (dz, dy, dx) or None
        Micrometres. None: voxels are drawn as cubes, without a scale bar.
    places : (plane, row, column)
    bar : bool
        Whether a scale bar is drawn where the voxel size is known.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    shape = layers[0].data.shape
    layers = [layer._replace(limits=layer.limits or grey_scale(layer.data, measured(layer))) for layer in layers]
    every = max(1, -(-max(shape[1:]) // MOST_PIXELS))
    while True:
        stream = io.BytesIO()
        with matplotlib.style.context("default", after_reset=True):
            figure = Figure(figsize=figure_size(shape, spacing, len(layers)), facecolor="white")
            for number, layer in enumerate(layers):
                _draw_layer(figure, layer, spacing, places, number, len(layers), every=every, named=False, bar=bar)
            figure.savefig(stream, format="png", dpi=NOTEBOOK_DPI)
        if stream.tell() <= MOST_BYTES or 8 * every > max(shape[1:]):
            return stream.getvalue()
        every *= 2


def panel_sizes(shape: Sequence[int], spacing: tuple[float, float, float] | None) -> tuple[float, float, float]:
    """Inches of the depth, height and width of the slices."""
    sides = [n * step for n, step in zip(shape, spacing or (1.0, 1.0, 1.0), strict=True)]
    scale = WIDTH / max(sides[1:])
    height, width = (max(LEAST, scale * side) for side in sides[1:])
    depth = 0.0 if shape[0] == 1 else min(MOST, max(LEAST, scale * sides[0]))
    return depth, height, width


def figure_size(shape: Sequence[int], spacing: tuple[float, float, float] | None, count: int) -> tuple[float, float]:
    """Inches of the width and height of a figure with so many versions of a stack."""
    depth, height, width = panel_sizes(shape, spacing)
    one = width + (GAP_INCHES + depth if depth else 0)
    below = TITLE + depth if depth else 0
    return count * one + (count - 1) * 3 * GAP_INCHES + 2 * MARGIN, TITLE + height + below + 2 * MARGIN


def _draw_layer(
    figure: Figure, layer: Layer, spacing: tuple[float, float, float] | None, places: tuple[int, int, int],
    number: int, count: int, *, every: int, named: bool, bar: bool = True,
) -> tuple[Axes, ...]:  # fmt: skip
    """Draw one version of a stack; ``every`` how many-th row and column is shown, ``named``: with titles of slices."""
    shape = layer.data.shape
    depth, height, width = panel_sizes(shape, spacing)
    total_width, total_height = figure_size(shape, spacing, count)
    left = MARGIN + number * (width + (GAP_INCHES + depth if depth else 0) + 3 * GAP_INCHES)
    bottom = MARGIN + (depth + TITLE if depth else 0)
    frames = {"xy": (left, bottom, width, height)}
    if depth:
        frames["yz"] = (left + width + GAP_INCHES, bottom, depth, height)
        frames["xz"] = (left, MARGIN, width, depth)
    slices = slices_of(layer.data, places, every)
    shown = None if layer.mask is None else slices_of(layer.mask, places, every)
    limits = layer.limits or grey_scale(layer.data, measured(layer))
    titles = dict(zip(("xy", "yz", "xz"), _titles(places), strict=True))
    made = []
    for name, (x, y, w, h) in frames.items():
        ax = figure.add_axes((x / total_width, y / total_height, w / total_width, h / total_height))
        image = coloured(getattr(slices, name), None if shown is None else getattr(shown, name), layer.colours, limits)
        ax.imshow(image, aspect="auto", interpolation="nearest")
        ax.set_axis_off()
        if (image == rgb(GAP)).all():
            ax.text(0.5, 0.5, "not measured", color="white", size=9, ha="center", va="center", transform=ax.transAxes)
        if named:
            prefix = f"{layer.title}, " if layer.title and name == "xy" else ""
            ax.set_title(prefix + titles[name], size=9, pad=3)
        elif layer.title and name == "xy":
            ax.set_title(layer.title, size=10, pad=4)
        made.append(ax)
    if bar and spacing is not None:
        _scale_bar(made[0], shape[2] * spacing[2])
    return tuple(made)


def measured(layer: Layer) -> np.ndarray:
    """Where a layer has values to be shown."""
    finite: np.ndarray = np.isfinite(layer.data)
    return finite if layer.mask is None else finite & layer.mask


def _titles(places: tuple[int, int, int]) -> tuple[str, str, str]:
    plane, row, column = places
    return f"xy at z = {plane}", f"yz at x = {column}", f"xz at y = {row}"


def slices_of(stack: np.ndarray, places: tuple[int, int, int], every: int = 1) -> Slices:
    """The slices at a plane, a row and a column, of which every how many-th row and column is taken."""
    plane, row, column = places
    return Slices(stack[plane, ::every, ::every], stack[:, ::every, column].T, stack[:, row, ::every])


def coloured(image: np.ndarray, shown: np.ndarray | None, colours: str, limits: tuple[float, float]) -> np.ndarray:
    """A slice as RGB; NaN, and what is not shown, has the colour of voxels that were not measured."""
    from matplotlib import colormaps

    low, high = limits
    values = image.astype(float)
    gap = np.isnan(values) if shown is None else np.isnan(values) | ~shown
    level = np.clip((np.where(gap, low, values) - low) / ((high - low) or 1.0), 0, 1)
    rgba: Any = colormaps[colours](level, bytes=True)
    found: np.ndarray = np.array(rgba[..., :3])
    found[gap] = rgb(GAP)
    return found


def _scale_bar(ax: Axes, extent: float) -> None:
    """A bar of a round length in the lower left corner."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    length = scale_bar_length(extent)
    box: dict[str, Any] = {"transform": ax.transAxes, "zorder": 3}
    ax.add_patch(
        Rectangle((0.04, 0.05), length / extent, 0.022, facecolor="white", edgecolor="black", linewidth=0.6, **box)
    )
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm" if length >= 0.1 else f"{1000 * length:g} nm"
    ax.text(
        0.04 + length / extent / 2, 0.085, text, color="white", size=9, ha="center", va="bottom",
        path_effects=[withStroke(linewidth=2, foreground="black")], **box,
    )  # fmt: skip
