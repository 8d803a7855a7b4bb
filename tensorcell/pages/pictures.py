"""Pictures of stacks: panels of slices on one grey scale, and figures as PNG, alone or as parts of a page.

All panels of a picture show the same pair of slices on the same grey scale; voxels that were not measured have a flat
colour that no intensity has. matplotlib is imported only when something is drawn.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = "#2f6690"
"""Colour of voxels that were not measured."""

MEASURED, OUTLIER = "#d9dcdf", "#d1495b"
"""Colours of the map that shows where voxels come from."""

MOST_STACKS = 4
"""Most stacks (channels and frames) that a report shows."""

DPI, LEAST_DPI = 120, 30
"""Pixels an inch, and those of a picture that would have too many bytes."""

PANEL, SPACE, LEFT, RIGHT, TOP, BOTTOM = 2.8, 0.08, 0.5, 0.15, 0.4, 0.75
"""Inches: width of a panel, space between panels, and margins."""

LOWEST, HIGHEST = 0.45, 4.2
"""Inches: limits of the height of a panel."""

TITLE, TEXT = 14, 11
"""Points: sizes of the type."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One column of a picture: an xy and an xz slice of one version of a stack; NaN = not measured."""

    title: str
    xy: np.ndarray
    """(Y, X) intensities."""
    xz: np.ndarray
    """(Z, X) intensities."""
    errors: bool = False
    """Whether the absolute differences from the truth are shown below it."""
    grey: tuple[float, float] | None = None
    """Intensities of black and of white, where they are not those of the picture."""


@dataclass(frozen=True, eq=False)
class Picture:
    """Panels of one stack that belong together.

    Parameters
    ----------
    panels : sequence of Panel
        From left to right.
    plane, row : int
        Position of the xy slice along z and of the xz slice along y.
    shape : (int, int, int)
        Voxels (Z, Y, X).
    spacing : (float, float, float) or None
        Voxel size (dz, dy, dx) in micrometres; None: voxels are drawn as cubes, without a scale bar.
    grey : (float, float)
        Intensities of black and of white.
    truth : Panel or None
        The last column.
    title : str
        A line above the panels, such as the channel.
    plane_note : str
        A remark on the plane in the caption, such as ``"not measured"``.
    """

    panels: Sequence[Panel]
    plane: int
    row: int
    shape: tuple[int, ...]
    spacing: tuple[float, float, float] | None
    grey: tuple[float, float]
    truth: Panel | None = None
    title: str = ""
    plane_note: str = ""


def take_slices(title: str, stack: np.ndarray, plane: int, row: int, mask: np.ndarray | None = None) -> Panel:
    """Panel of a stack (Z, Y, X) at a plane and a row; voxels where ``mask`` (True = measured) is False become NaN."""
    xy, xz = stack[plane].astype(float), stack[:, row].astype(float)
    if mask is not None:
        xy[~mask[plane]] = np.nan
        xz[~mask[:, row]] = np.nan
    return Panel(title, xy, xz)


def grey_scale(values: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Intensities of black and of white: the 0.5 and 99.8 percentiles where ``mask`` is True.

    If there are more than four million voxels, the percentiles are those of a regular subgrid.

    >>> grey_scale(np.linspace(0, 1000, 1001).reshape(1, 1, -1), np.ones((1, 1, 1001), bool))
    (5.0, 998.0)
    """
    step = tuple(max(1, round((values.size / 4e6) ** (1 / 3))) if n > 64 else 1 for n in values.shape)
    sample = tuple(slice(None, None, s) for s in step)
    chosen = values[sample][mask[sample]]
    if chosen.size == 0:
        chosen = values[mask]
    if chosen.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(chosen.astype(float), [0.5, 99.8]))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def choose_slices(mask: np.ndarray, values: np.ndarray | None = None) -> tuple[int, int]:
    """Choose the plane and the row to show: those nearest to the middle.

    If some planes were not measured at all, the plane is one of these. If ``values`` (Z, Y, X) are given and the plane
    or row near the middle has less than half of the contrast of the best one, the best one is taken; contrast is the
    standard deviation.

    >>> mask = np.ones((7, 4, 4), bool)
    >>> mask[1::2] = False
    >>> choose_slices(mask)
    (3, 2)
    """
    empty = np.flatnonzero(~mask.any(axis=(1, 2)))
    planes, rows = empty if empty.size else np.arange(len(mask)), np.arange(mask.shape[1])
    if values is None:
        return _best_index(planes, len(mask) // 2, None), int(rows[len(rows) // 2])
    step = max(1, round((values.size / 4e6) ** 0.5))
    plane = _best_index(planes, len(mask) // 2, [float(values[z, ::step, ::step].std()) for z in planes])
    row = _best_index(rows, len(rows) // 2, [float(values[::step, y, ::step].std()) for y in rows])
    return plane, row


def _best_index(candidates: np.ndarray, middle: int, contrast: list[float] | None) -> int:
    nearest = int(np.abs(candidates - middle).argmin())
    if contrast is not None and contrast[nearest] < 0.5 * max(contrast):
        nearest = int(np.argmax(contrast))
    return int(candidates[nearest])


def draw(pictures: Sequence[Picture]) -> Figure:
    """Draw pictures, one below the other.

    Each picture has a row of xy slices and a row of xz slices, both with the physical aspect ratio. If a panel asks for
    errors, two rows of absolute differences from the truth follow, all on one scale.
    """
    from matplotlib.figure import Figure

    columns = max(len(p.panels) + (p.truth is not None) for p in pictures)
    width = LEFT + columns * PANEL + (columns - 1) * SPACE + RIGHT
    heights = [_picture_height(picture) for picture in pictures]
    figure = Figure(figsize=(width, sum(heights)), facecolor="white")
    top = sum(heights)
    for picture, height in zip(pictures, heights, strict=True):
        _draw_picture(figure, picture, top)
        top -= height
    return figure


def row_heights(picture: Picture) -> tuple[float, ...]:
    """Heights in inches of the row of xy slices and, unless there is a single plane, of the row of xz slices."""
    dz, dy, dx = picture.spacing or (1.0, 1.0, 1.0)
    nz, ny, nx = picture.shape
    ratios = ny * dy / (nx * dx), nz * dz / (nx * dx)
    xy, xz = (min(HIGHEST, max(LOWEST, PANEL * ratio)) for ratio in ratios)
    return (xy, xz) if nz > 1 else (xy,)


def _has_errors(picture: Picture) -> bool:
    return picture.truth is not None and any(panel.errors for panel in picture.panels)


def _picture_height(picture: Picture) -> float:
    rows = sum(row_heights(picture)) + SPACE
    title = 0.3 if picture.title else 0.0
    return title + TOP + rows + (0.45 + rows if _has_errors(picture) else 0.0) + BOTTOM


def _draw_picture(figure: Figure, picture: Picture, top: float) -> None:
    heights = row_heights(picture)
    width, total = (float(side) for side in figure.get_size_inches())
    if picture.title:
        figure.text(LEFT / width, (top - 0.08) / total, picture.title, size=TITLE, weight="bold", va="top")
        top -= 0.3
    top -= TOP
    shown = [*picture.panels, *([picture.truth] if picture.truth is not None else [])]
    for column, panel in enumerate(shown):
        axes = _panel_axes(figure, column, top, heights)
        for ax, image, name in zip(axes, (panel.xy, panel.xz), ("xy", "xz"), strict=False):
            show(ax, grey_image(image, panel.grey or picture.grey), name, picture)
            if column == 0:
                row_label(ax, name)
        axes[0].set_title(panel.title, size=TITLE, pad=6)
        if column == 0:
            _scale_bar(axes[0], picture)
        if np.isnan(panel.xy).all():
            axes[0].text(
                0.5, 0.5, "plane not measured", color="white", size=TEXT, ha="center", va="center",
                transform=axes[0].transAxes,
            )  # fmt: skip
    top -= sum(heights) + SPACE
    if _has_errors(picture):
        top -= 0.45
        _draw_errors(figure, picture, top, heights)
        top -= sum(heights) + SPACE
    gaps = any(np.isnan(panel.xy).any() or np.isnan(panel.xz).any() for panel in shown)
    _caption(figure, picture, top - 0.1, gaps)


def _draw_errors(figure: Figure, picture: Picture, top: float, heights: tuple[float, ...]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    assert picture.truth is not None
    truth = picture.truth
    differences = {
        column: (np.abs(panel.xy - truth.xy), np.abs(panel.xz - truth.xz))
        for column, panel in enumerate(picture.panels)
        if panel.errors
    }
    everything = np.concatenate([image.ravel() for pair in differences.values() for image in pair])
    everything = everything[np.isfinite(everything)]
    limit = float(np.percentile(everything, 99.5)) if everything.size else 1.0
    mapping = ScalarMappable(Normalize(0, limit or 1.0), "magma")
    for column, pair in differences.items():
        axes = _panel_axes(figure, column, top, heights)
        for ax, image, name in zip(axes, pair, ("xy", "xz"), strict=False):
            colours = mapping.to_rgba(np.nan_to_num(image), bytes=True)[..., :3]
            colours[np.isnan(image)] = rgb(GAP)
            show(ax, colours, name, picture)
            if column == min(differences):
                row_label(ax, name)
        axes[0].set_title("absolute difference from the truth", size=TEXT, pad=4)
    width, total = (float(side) for side in figure.get_size_inches())
    x = LEFT + len(picture.panels) * (PANEL + SPACE) + 0.1
    bottom, height = top - sum(heights) - SPACE, sum(heights) + SPACE
    bar = figure.add_axes((x / width, (bottom + 0.1 * height) / total, 0.16 / width, 0.8 * height / total))
    figure.colorbar(mapping, cax=bar, extend="max")
    bar.tick_params(labelsize=TEXT - 1)


def _panel_axes(figure: Figure, column: int, top: float, heights: tuple[float, ...]) -> list[Axes]:
    width, total = (float(side) for side in figure.get_size_inches())
    made = []
    for height in heights:
        x, y = LEFT + column * (PANEL + SPACE), top - height
        made.append(figure.add_axes((x / width, y / total, PANEL / width, height / total)))
        top -= height + SPACE
    return made


def show(ax: Axes, colours: np.ndarray, name: str, picture: Picture) -> None:
    """Show an RGB image with the physical aspect ratio; an enlarged image is not smoothed, so that gaps stay flat.

    An image with fewer pixels than the slice has every second or n-th of them.
    """
    (dz, dy, dx), (nz, ny, nx) = picture.spacing or (1.0, 1.0, 1.0), picture.shape
    height = ny * dy if name == "xy" else nz * dz
    aspect = height / colours.shape[0] / (nx * dx / colours.shape[1])
    enlarged = max(colours.shape[1] / PANEL, colours.shape[0] / HIGHEST) < DPI
    ax.imshow(colours, aspect=aspect, interpolation="nearest" if enlarged else "antialiased")
    ax.set_axis_off()


def row_label(ax: Axes, name: str) -> None:
    """Write the name of a row of slices to the left of its first panel."""
    ax.text(-0.03, 0.5, name, transform=ax.transAxes, ha="right", va="center", size=TITLE)


def grey_image(image: np.ndarray, grey: tuple[float, float]) -> np.ndarray:
    """A slice as uint8 RGB on the grey scale; NaN gets the colour of voxels that were not measured."""
    low, high = grey
    gap = np.isnan(image)
    level = np.clip((np.where(gap, low, image) - low) / (high - low), 0, 1)
    colours = np.repeat((255 * level + 0.5).astype(np.uint8)[..., None], 3, axis=2)
    colours[gap] = rgb(GAP)
    return colours


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour such as ``"#2f6690"``."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def scale_bar_length(extent: float) -> float:
    """A round length (1, 2 or 5 times a power of ten) of at most about a quarter of the extent.

    >>> scale_bar_length(25.6)
    5.0
    """
    target = 0.28 * extent
    power = 10.0 ** math.floor(math.log10(target))
    return max(step * power for step in (1, 2, 5) if step * power <= target)


def _scale_bar(ax: Axes, picture: Picture) -> None:
    if picture.spacing is None:
        return
    pixels = picture.shape[2]
    length = scale_bar_length(pixels * picture.spacing[2])
    share = length / (pixels * picture.spacing[2])
    from matplotlib.patches import Rectangle

    box: dict[str, Any] = {"transform": ax.transAxes, "zorder": 3}
    ax.add_patch(Rectangle((0.04, 0.05), share, 0.022, facecolor="white", edgecolor="black", linewidth=0.6, **box))
    from matplotlib.patheffects import withStroke

    ax.text(
        0.04 + share / 2, 0.085, _micrometres(length), color="white", size=TEXT, ha="center", va="bottom",
        path_effects=[withStroke(linewidth=2.2, foreground="black")], **box,
    )  # fmt: skip


def _micrometres(length: float) -> str:
    if length >= 1000:
        return f"{length / 1000:g} mm"
    return f"{length:g} µm" if length >= 0.1 else f"{length * 1000:g} nm"


def _caption(figure: Figure, picture: Picture, top: float, gaps: bool) -> None:
    """Write two lines: the positions of the slices; the meaning of the flat colour and the grey scale."""
    width, total = (float(side) for side in figure.get_size_inches())
    nz, ny, _ = picture.shape
    plane, row = f"plane z = {picture.plane} of 0–{nz - 1}", f"row y = {picture.row} of 0–{ny - 1}"
    if picture.plane_note:
        plane += f" ({picture.plane_note})"
    low, high = picture.grey
    scale = f"black {_number(low, high - low)}, white {_number(high, high - low)}"
    if picture.spacing is None:
        scale += "; cubic voxels assumed" if nz > 1 else "; square pixels assumed"
    slices = f"xy: {plane}; xz: {row}" if nz > 1 else f"{ny} x {picture.shape[2]} pixels"
    figure.text(LEFT / width, (top - 0.08) / total, slices, size=TEXT, va="center", color="#333333")
    x, y = LEFT, top - 0.32
    if gaps:
        x = swatch(figure, x, y, GAP, "not measured")
    figure.text(x / width, y / total, scale, size=TEXT, va="center", color="#333333")


def swatch(figure: Figure, x: float, y: float, colour: str, text: str) -> float:
    """Draw a legend entry at (x, y) inches; return the x of the next entry."""
    from matplotlib.patches import Rectangle

    width, total = (float(side) for side in figure.get_size_inches())
    box = (x / width, (y - 0.075) / total), 0.2 / width, 0.15 / total
    figure.add_artist(Rectangle(*box, facecolor=colour, transform=figure.transFigure))
    figure.text((x + 0.28) / width, y / total, text, size=TEXT, va="center", color="#333333")
    return x + 0.55 + 0.088 * len(text)


def _number(value: float, width: float) -> str:
    """An intensity as text, with as many digits as a grey scale of that width needs.

    >>> _number(1234.567, 800.0), _number(0.01234, 0.5)
    ('1235', '0.012')
    """
    if width < 1e-3 or max(width, abs(value)) >= 1e6:
        return f"{value:.4g}"
    digits = max(0, 2 - math.floor(math.log10(width)))
    return f"{round(value, digits) + 0.0:.{digits}f}"


def picture_bytes(pictures: Sequence[Picture], most: float = math.inf) -> bytes:
    """The pictures as one PNG; one of more than ``most`` bytes is drawn with fewer pixels."""
    return png_bytes(lambda: draw(pictures), most)


def png_bytes(make: Callable[[], Figure], most: float = math.inf) -> bytes:
    """A figure as PNG, drawn in matplotlib's default style whatever style the user has set."""
    import matplotlib.style

    dpi = DPI
    while True:
        stream = io.BytesIO()
        with matplotlib.style.context("default", after_reset=True):
            make().savefig(stream, format="png", dpi=dpi)
        if stream.tell() <= most or dpi <= LEAST_DPI:
            return stream.getvalue()
        dpi = max(LEAST_DPI, int(0.7 * dpi))


def data_uri(png: bytes) -> str:
    """A PNG as the address of an image in a self-contained page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
