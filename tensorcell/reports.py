"""Pictures and reports of a recovery: a PNG of slices, or one HTML page with the facts beside them.

Every panel of a picture shares one grey scale and one pair of slices; voxels that were not measured have a flat
colour that no intensity has. matplotlib and jinja2 are imported only when a report is made.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files import check_writable, write_whole
from tensorcell.volume import Stack, Volume, stacks, zyx_view

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tensorcell.recovery import Recovery
    from tensorcell.solvers import IterationRecord

REPORT_SUFFIXES = (".png", ".html")

GAP = "#2f6690"  # not measured
MEASURED, OUTLIER = "#d9dcdf", "#d1495b"
MOST_STACKS = 4  # channels drawn in one picture
DPI = 120

# Inches.
PANEL, SPACE, LEFT, RIGHT, TOP, BOTTOM = 2.8, 0.08, 0.5, 0.15, 0.4, 0.75
LOWEST, HIGHEST = 0.45, 4.2  # of a panel
TITLE, TEXT = 14, 11  # points


# -------------------------------------------------------------------------------------------------- baseline


def interpolate_planes(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill a stack by linear interpolation along z, column by column.

    Parameters
    ----------
    values : numpy.ndarray (Z, Y, X)
        Intensities; anything, NaN too, where ``mask`` is False.
    mask : numpy.ndarray of bool (Z, Y, X)
        True = measured.

    Returns
    -------
    numpy.ndarray (Z, Y, X)
        float64 for float64 values, else float32: measured voxels as they are; the others between the nearest
        measured voxels above and below, or equal to the nearest one where there are none on one side; NaN in
        columns that were never measured.

    Examples
    --------
    >>> values = np.array([0.0, np.nan, np.nan, 3.0, np.nan]).reshape(5, 1, 1)
    >>> interpolate_planes(values, np.isfinite(values)).ravel().tolist()
    [0.0, 1.0, 2.0, 3.0, 3.0]
    """
    filled = np.empty(values.shape, np.result_type(values.dtype, np.float32))
    for z in range(len(values)):
        filled[z] = interpolated_plane(values, mask, z)
    return filled


def interpolated_plane(values: np.ndarray, mask: np.ndarray, z: float) -> np.ndarray:
    """One plane (Y, X) of `interpolate_planes`, also between the planes of the stack (0 <= z <= Z - 1)."""
    floor, ceiling = math.floor(z), math.ceil(z)
    down, up = mask[floor::-1], mask[ceiling:]
    below, above = floor - down.argmax(axis=0), ceiling + up.argmax(axis=0)
    has_below, has_above = down.any(axis=0), up.any(axis=0)
    below, above = np.where(has_below, below, above), np.where(has_above, above, below)
    low, high = (np.take_along_axis(values, i[None], axis=0)[0].astype(float) for i in (below, above))
    weight = (z - below) / np.maximum(above - below, 1)
    plane: np.ndarray = np.where(above > below, low * (1 - weight) + high * weight, low)
    plane[~(has_below | has_above)] = np.nan
    return plane


# ------------------------------------------------------------------------------------------------------ slices


@dataclass(frozen=True, eq=False)
class Panel:
    """One column of a picture: the same two slices of one version of a stack, NaN = not measured."""

    title: str
    xy: np.ndarray
    """(Y, X) intensities."""
    xz: np.ndarray
    """(Z, X) intensities."""
    errors: bool = False
    """Whether the absolute differences to the truth are shown below it."""


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
        Voxel size (dz, dy, dx) in micrometres; None: drawn with cubic voxels and without a scale bar.
    grey : (float, float)
        Intensities of black and of white.
    truth : Panel or None
        Drawn last, without gaps.
    title : str
        Above the panels, such as the channel.
    plane_note : str
        What to know about the plane, such as ``"not measured"``.
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
    """Panel of a stack (Z, Y, X) at a plane and a row; where ``mask`` (True = measured) is False it has gaps."""
    xy, xz = stack[plane].astype(float), stack[:, row].astype(float)
    if mask is not None:
        xy[~mask[plane]] = np.nan
        xz[~mask[:, row]] = np.nan
    return Panel(title, xy, xz)


def grey_scale(values: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Black and white for a picture: the 0.5 and 99.8 percentiles where ``mask`` is True.

    Of more than four million voxels a regular sample is taken.

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
    """A plane and a row to show: near the middle, and the plane not measured at all if there is such a one.

    Where ``values`` (Z, Y, X) are given and the middle shows little (less than half of the contrast of the best plane
    or row), the one with the most contrast is taken.

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


# ----------------------------------------------------------------------------------------------------- drawing


def draw(pictures: Sequence[Picture]) -> Figure:
    """Draw pictures, one below the other.

    Each has a row of xy slices, a row of xz slices with the physical aspect ratio, and where a panel asks for
    errors two rows of absolute differences to the truth, all of one scale.
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


def _row_heights(picture: Picture) -> tuple[float, float]:
    """Heights in inches of the xy and the xz row."""
    dz, dy, dx = picture.spacing or (1.0, 1.0, 1.0)
    nz, ny, nx = picture.shape
    ratios = ny * dy / (nx * dx), nz * dz / (nx * dx)
    xy, xz = (min(HIGHEST, max(LOWEST, PANEL * ratio)) for ratio in ratios)
    return xy, xz


def _has_errors(picture: Picture) -> bool:
    return picture.truth is not None and any(panel.errors for panel in picture.panels)


def _picture_height(picture: Picture) -> float:
    rows = sum(_row_heights(picture)) + SPACE
    title = 0.3 if picture.title else 0.0
    return title + TOP + rows + (0.45 + rows if _has_errors(picture) else 0.0) + BOTTOM


def _draw_picture(figure: Figure, picture: Picture, top: float) -> None:
    heights = _row_heights(picture)
    width, total = (float(side) for side in figure.get_size_inches())
    if picture.title:
        figure.text(LEFT / width, (top - 0.08) / total, picture.title, size=TITLE, weight="bold", va="top")
        top -= 0.3
    top -= TOP
    shown = [*picture.panels, *([picture.truth] if picture.truth is not None else [])]
    for column, panel in enumerate(shown):
        axes = _panel_axes(figure, column, top, heights)
        for ax, image, name in zip(axes, (panel.xy, panel.xz), ("xy", "xz"), strict=True):
            _show(ax, _grey_image(image, picture.grey), name, picture)
            if column == 0:
                _row_label(ax, name)
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


def _draw_errors(figure: Figure, picture: Picture, top: float, heights: tuple[float, float]) -> None:
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
        for ax, image, name in zip(axes, pair, ("xy", "xz"), strict=True):
            colours = mapping.to_rgba(np.nan_to_num(image), bytes=True)[..., :3]
            colours[np.isnan(image)] = _rgb(GAP)
            _show(ax, colours, name, picture)
            if column == min(differences):
                _row_label(ax, name)
        axes[0].set_title("absolute difference to the truth", size=TEXT, pad=4)
    width, total = (float(side) for side in figure.get_size_inches())
    x = LEFT + len(picture.panels) * (PANEL + SPACE) + 0.1
    bottom, height = top - sum(heights) - SPACE, sum(heights) + SPACE
    bar = figure.add_axes((x / width, (bottom + 0.1 * height) / total, 0.16 / width, 0.8 * height / total))
    figure.colorbar(mapping, cax=bar, extend="max")
    bar.tick_params(labelsize=TEXT - 1)


def _panel_axes(figure: Figure, column: int, top: float, heights: tuple[float, float]) -> list[Axes]:
    width, total = (float(side) for side in figure.get_size_inches())
    made = []
    for height in heights:
        x, y = LEFT + column * (PANEL + SPACE), top - height
        made.append(figure.add_axes((x / width, y / total, PANEL / width, height / total)))
        top -= height + SPACE
    return made


def _show(ax: Axes, colours: np.ndarray, name: str, picture: Picture) -> None:
    """An RGB image with the physical aspect ratio; gaps stay flat where it is enlarged."""
    dz, dy, dx = picture.spacing or (1.0, 1.0, 1.0)
    aspect = (dy if name == "xy" else dz) / dx
    enlarged = max(colours.shape[1] / PANEL, colours.shape[0] / HIGHEST) < DPI
    ax.imshow(colours, aspect=aspect, interpolation="nearest" if enlarged else "antialiased")
    ax.set_axis_off()


def _row_label(ax: Axes, name: str) -> None:
    ax.text(-0.03, 0.5, name, transform=ax.transAxes, ha="right", va="center", size=TITLE)


def _grey_image(image: np.ndarray, grey: tuple[float, float]) -> np.ndarray:
    """uint8 RGB of a slice with its gaps in their flat colour."""
    low, high = grey
    gap = np.isnan(image)
    level = np.clip((np.where(gap, low, image) - low) / (high - low), 0, 1)
    colours = np.repeat((255 * level + 0.5).astype(np.uint8)[..., None], 3, axis=2)
    colours[gap] = _rgb(GAP)
    return colours


def _rgb(colour: str) -> tuple[int, int, int]:
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
    """Two lines: where the slices lie; what the flat colour means and the grey scale."""
    width, total = (float(side) for side in figure.get_size_inches())
    nz, ny, _ = picture.shape
    plane, row = f"plane z = {picture.plane} of 0–{nz - 1}", f"row y = {picture.row} of 0–{ny - 1}"
    if picture.plane_note:
        plane += f" ({picture.plane_note})"
    low, high = picture.grey
    scale = f"black {_number(low, high - low)}, white {_number(high, high - low)}"
    if picture.spacing is None:
        scale += "; cubic voxels assumed"
    figure.text(LEFT / width, (top - 0.08) / total, f"xy: {plane}; xz: {row}", size=TEXT, va="center", color="#333333")
    x, y = LEFT, top - 0.32
    if gaps:
        x = _swatch(figure, x, y, GAP, "not measured")
    figure.text(x / width, y / total, scale, size=TEXT, va="center", color="#333333")


def _swatch(figure: Figure, x: float, y: float, colour: str, text: str) -> float:
    """A legend entry at (x, y) inches; returns where the next one goes."""
    from matplotlib.patches import Rectangle

    width, total = (float(side) for side in figure.get_size_inches())
    box = (x / width, (y - 0.075) / total), 0.2 / width, 0.15 / total
    figure.add_artist(Rectangle(*box, facecolor=colour, transform=figure.transFigure))
    figure.text((x + 0.28) / width, y / total, text, size=TEXT, va="center", color="#333333")
    return x + 0.55 + 0.088 * len(text)


def _number(value: float, width: float) -> str:
    """An intensity with as many digits as a grey scale of that width needs.

    >>> _number(1234.567, 800.0), _number(0.01234, 0.5)
    ('1235', '0.012')
    """
    if width < 1e-3 or max(width, abs(value)) >= 1e6:
        return f"{value:.4g}"
    digits = max(0, 2 - math.floor(math.log10(width)))
    return f"{round(value, digits) + 0.0:.{digits}f}"


# ----------------------------------------------------------------------------------------------------- reports


def recovery_pictures(before: Volume, after: Recovery, truth: Any = None) -> list[Picture]:
    """One picture a stack (four at most): input on the grid of the output, linear along z where planes lack, result.

    With a truth (array or Volume like the output) it is shown too, and the differences to it.
    """
    known = None if truth is None else _like_output(truth, after)
    outliers = after.outliers if after.outlier_count else None
    return [_recovery_picture(stack, after, outliers, known) for stack in list(stacks(before))[:MOST_STACKS]]


def _recovery_picture(stack: Stack, after: Recovery, outliers: np.ndarray | None, truth: np.ndarray | None) -> Picture:
    axes, where = after.volume.axes, stack.where
    result, mask = zyx_view(after.volume.data, axes, where), zyx_view(after.measured, axes, where)
    factor = (len(result) - 1) // (len(stack.data) - 1)
    seen = mask[::factor]
    plane, row = choose_slices(mask, result)
    given = Panel("Input", np.full(result.shape[1:], np.nan), np.full(result[:, row].shape, np.nan))
    if plane % factor == 0:
        given.xy[...] = np.where(seen[plane // factor], stack.data[plane // factor], np.nan)
    given.xz[::factor] = np.where(seen[:, row], stack.data[:, row], np.nan)
    panels = [given]
    if not mask.any(axis=(1, 2)).all():
        rows = slice(row, row + 1)
        xy = interpolated_plane(stack.data, seen, plane / factor)
        xz = [interpolated_plane(stack.data[:, rows], seen[:, rows], z / factor)[0] for z in range(len(result))]
        panels.append(Panel("Linear interpolation", xy, np.stack(xz), errors=True))
    panels.append(replace(take_slices("tensorcell", result, plane, row), errors=True))
    clean = seen if outliers is None else seen & (zyx_view(outliers, axes, where) == 0)
    return Picture(
        panels,
        plane,
        row,
        result.shape,
        after.volume.spacing,
        grey_scale(stack.data, clean),
        None if truth is None else take_slices("Truth", zyx_view(truth, axes, where), plane, row),
        title=stack.label,
        plane_note="" if mask[plane].any() else "not measured",
    )


def _like_output(truth: Any, after: Recovery) -> np.ndarray:
    array = np.asarray(truth.data if isinstance(truth, Volume) else truth)
    if array.shape != after.volume.shape:
        raise InputError(f"truth has shape {array.shape}, the recovered volume has shape {after.volume.shape}")
    return array


def picture_bytes(pictures: Sequence[Picture]) -> bytes:
    """The pictures as one PNG."""
    return png_bytes(lambda: draw(pictures))


def png_bytes(make: Callable[[], Figure]) -> bytes:
    """A figure as PNG, drawn in matplotlib's own style whatever the user has set."""
    import matplotlib.style

    stream = io.BytesIO()
    with matplotlib.style.context("default", after_reset=True):
        make().savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


# ----------------------------------------------------------------------------------- what was done with voxels


def draw_map(before: Volume, after: Recovery) -> Figure:
    """Where the first stack's voxels come from, in the slices of its picture: measured, filled, or an outlier."""
    from matplotlib.figure import Figure

    stack = next(stacks(before))
    mask = zyx_view(after.measured, after.volume.axes, stack.where)
    factor = (len(mask) - 1) // (len(stack.data) - 1)
    outlier = np.zeros(mask.shape, bool)
    outlier[::factor] = zyx_view(after.outliers, after.volume.axes, stack.where) != 0
    plane, row = choose_slices(mask, zyx_view(after.volume.data, after.volume.axes, stack.where))
    picture = Picture([], plane, row, mask.shape, after.volume.spacing, (0, 1))
    heights = _row_heights(picture)
    width, total = LEFT + 2 * PANEL + 0.5 + RIGHT, max(heights) + TOP + 0.1
    figure = Figure(figsize=(width, total), facecolor="white")
    parts: tuple[tuple[str, Any], ...] = (("xy", np.s_[plane]), ("xz", np.s_[:, row]))
    for column, (name, part) in enumerate(parts):
        height = heights[column]
        x, y = LEFT + column * (PANEL + 0.5), total - TOP - height
        ax = figure.add_axes((x / width, y / total, PANEL / width, height / total))
        _show(ax, _map_image(mask[part], outlier[part]), name, picture)
        _row_label(ax, name)
    shares = outlier.mean(), mask.mean()
    texts = (f"measured {shares[1] - shares[0]:.1%}", f"filled {1 - shares[1]:.1%}", f"outlier {shares[0]:.1%}")
    x = LEFT
    for colour, text in zip((MEASURED, GAP, OUTLIER), texts, strict=True):
        x = _swatch(figure, x, total - 0.2, colour, text)
    return figure


def _map_image(mask: np.ndarray, outlier: np.ndarray) -> np.ndarray:
    colours = np.empty((*mask.shape, 3), np.uint8)
    colours[mask], colours[~mask], colours[outlier] = _rgb(MEASURED), _rgb(GAP), _rgb(OUTLIER)
    return colours


def draw_history(history: Sequence[IterationRecord]) -> Figure:
    """Change and residual over the iterations, one curve a stack, on a logarithmic axis."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    runs = split_runs(history)
    figure = Figure(figsize=(7.2, 3.0), facecolor="white", layout="constrained")
    ax = figure.add_subplot()
    curves = {"change": ("#2f6690", "relative change of the model"), "residual": ("#d1495b", "relative residual")}
    for name, (colour, label) in curves.items():
        for number, run in enumerate(runs):
            x, y = [record.iteration for record in run], [getattr(record, name) for record in run]
            first = number == 0
            ax.plot(x, y, "o-", ms=3, color=colour, alpha=1.0 if first else 0.4, label=label if first else None)
    stages = [record.iteration for record in runs[0] if record.stage == runs[0][-1].stage]
    if stages[0] > 1:
        ax.axvline(stages[0] - 0.5, color="#999999", linewidth=0.8)
        ax.text(stages[0] - 0.4, 1.0, runs[0][-1].stage, size=TEXT - 1, va="bottom", color="#666666",
                transform=ax.get_xaxis_transform())  # fmt: skip
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("iteration", size=TEXT)
    ax.tick_params(labelsize=TEXT - 1)
    ax.grid(color="#e3e6e9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=TEXT - 1)
    return figure


def split_runs(history: Sequence[IterationRecord]) -> list[list[IterationRecord]]:
    """The records of each stack: a new one begins where iterations do not count on."""
    runs: list[list[IterationRecord]] = []
    for record in history:
        if not runs or record.iteration <= runs[-1][-1].iteration:
            runs.append([])
        runs[-1].append(record)
    return runs


# ------------------------------------------------------------------------------------------------------- files


def write_report(
    path: str | os.PathLike[str], before: Volume, after: Recovery, truth: np.ndarray | Volume | None = None
) -> None:
    """Write a picture (``.png``) or a self-contained page (``.html``) of a recovery.

    Parameters
    ----------
    path : path
        Output; appears whole or not at all.
    before, after : Volume, Recovery
        What was given to :func:`tensorcell.recover` and what came back.
    truth : array or Volume of the output's shape, optional
        Shown beside it, with the absolute differences to it.

    Raises
    ------
    InputError
        Unknown suffix, a truth of another shape, or the file cannot be written.
    """
    target = Path(path)
    check_writable(target, REPORT_SUFFIXES)
    image = picture_bytes(recovery_pictures(before, after, truth))
    content = image if target.suffix.lower() == ".png" else page(before, after, image).encode()
    write_whole(target, content)


def facts(before: Volume, after: Recovery) -> dict[str, Any]:
    """What a report and ``--json`` say of a recovery; plain numbers, texts and lists.

    ``rank`` and ``noise`` are one entry, or a dict of one for each channel and frame; ``spacing`` is in micrometres,
    ``noise`` in the data's unit.
    """
    ranks = {k: list(v) for k, v in after.rank.items()} if isinstance(after.rank, dict) else list(after.rank)
    return {
        "input_shape": list(before.shape),
        "shape": list(after.volume.shape),
        "axes": after.volume.axes,
        "spacing": None if after.volume.spacing is None else list(after.volume.spacing),
        "dtype": str(after.volume.dtype),
        "measured": int(np.count_nonzero(after.measured)),
        "observed_ratio": float(after.measured.mean()),
        "rank": ranks,
        "noise": after.noise,
        "outliers": after.outlier_count,
        "status": str(after.status),
        "iterations": len(after.history),
        "seconds": round(after.seconds, 3),
        "notes": list(after.notes),
    }


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #1d2126 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
img { max-width: 100%; height: auto } table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .3rem 1.5rem .3rem 0; border-bottom: 1px solid #dfe3e7; text-align: left; vertical-align: top }
th { font-weight: 600 } li { margin: .2rem 0 } .row { display: flex; flex-wrap: wrap; gap: 1.5rem 3rem }
.row > div { flex: 1 1 26rem; min-width: 0 } p { max-width: 48rem }
</style>
<h1>{{ title }}</h1>
<p>{{ sentence }}</p>
{% if notes %}<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
<img alt="Slices of the input and of the result" src="{{ picture }}">
<div class="row">
<div><h2>Facts</h2>
<table>{% for name, value in rows %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table></div>
<div><h2>Where the voxels come from</h2>
<img alt="Map of measured voxels, filled voxels and outliers" src="{{ map }}">
{% if curve %}<h2>How the fit went</h2>
<img alt="Change and residual over the iterations" src="{{ curve }}">{% endif %}</div>
</div>
<h2>How to read this</h2>
<p>All panels of a stack share one grey scale, set by the measured voxels that are no outliers, and show the same two
slices; blue voxels were not measured. Measured voxels keep their value unless the stack was complete (then it is
denoised), this was asked for, or they were taken for outliers: those that are far from the model and from their
neighbours. Filled voxels are estimates. Between pixels they rest on a low-rank model and on measured neighbours; in a
plane that was never measured they are interpolated along z and hold no detail that its neighbours do not hold.</p>
<p>The change per iteration should fall; where it ends above the tolerance, the fit was stopped early. The residual is
what the model leaves of the measured voxels: the noise, and structure that is not of low rank.</p>
</html>
"""


def page(before: Volume, after: Recovery, image: bytes) -> str:
    """One self-contained HTML page."""
    import jinja2

    source = str(before.metadata.get("source", ""))
    share = float(after.measured.mean())
    notes = list(after.notes)
    shown = sum(1 for _ in stacks(before))
    if shown > MOST_STACKS:
        notes.append(f"the pictures show {MOST_STACKS} of {shown} stacks")
    return (
        jinja2.Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            title=f"tensorcell: {source}" if source else "tensorcell: recovery",
            sentence=f"The fit {after.status}. {share:.1%} of the voxels of the result were measured.",
            notes=notes,
            picture=data_uri(image),
            map=data_uri(png_bytes(lambda: draw_map(before, after))),
            curve=data_uri(png_bytes(lambda: draw_history(after.history))) if after.history else "",
            rows=_rows(before, after),
        )
    )


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _rows(before: Volume, after: Recovery) -> list[tuple[str, str]]:
    """The table of facts, as text."""

    def grid(volume: Volume) -> str:
        return f"{' × '.join(map(str, volume.shape))} ({volume.axes}), {volume.dtype}"

    def each(value: Any, text: Callable[[Any], str]) -> str:
        if not isinstance(value, dict):
            return text(value)
        parts = [f"{label}: {text(one)}" for label, one in value.items()]
        return "; ".join(parts[:12]) + ("; ..." if len(parts) > 12 else "")

    measured, spacing = int(np.count_nonzero(after.measured)), after.volume.spacing
    size = "unknown" if spacing is None else " × ".join(f"{step:.4g}" for step in spacing) + " µm (z, y, x)"
    return [
        ("input", grid(before)),
        ("result", grid(after.volume)),
        ("voxel size", size),
        ("measured voxels", f"{measured:,} of {after.measured.size:,} ({measured / after.measured.size:.1%})"),
        ("outliers", f"{after.outlier_count:,} ({after.outlier_count / max(1, measured):.2%} of the measured voxels)"),
        ("noise", each(after.noise, lambda noise: f"{noise:.3g}") + " (standard deviation, unit of the data)"),
        ("Tucker rank", each(after.rank, lambda rank: " × ".join(map(str, rank)) + " (z, y, x)")),
        ("iterations", str(len(after.history))),
        ("time", f"{after.seconds:.1f} s"),
    ]
