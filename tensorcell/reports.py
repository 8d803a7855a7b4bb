"""Pictures and reports of a recovery: a PNG of slices, or one HTML page with the facts beside them.

Every panel of a picture shares one grey scale and one pair of slices; voxels that were not measured have a flat
colour that no intensity has. matplotlib and jinja2 are imported only when a report is made.
"""

from __future__ import annotations

import base64
import io
import math
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.volume import Volume, stacks, zyx_view

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tensorcell.recovery import Recovery

REPORT_SUFFIXES = (".png", ".html")

GAP = "#2f6690"  # not measured
FILLED, KEPT, OUTLIER = "#2f6690", "#d9dcdf", "#d1495b"
MOST_STACKS = 4  # channels drawn in one picture
DPI = 120

# Inches.
PANEL, SPACE, LEFT, RIGHT, TOP, BOTTOM = 2.8, 0.08, 0.5, 0.15, 0.42, 0.62
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
        filled[z] = _interpolated_plane(values, mask, z)
    return filled


def _interpolated_plane(values: np.ndarray, mask: np.ndarray, z: int) -> np.ndarray:
    down, up = mask[z::-1], mask[z:]
    below, above = z - down.argmax(axis=0), z + up.argmax(axis=0)
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
    """Whether the picture shows the absolute differences to the truth below it."""


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
    """Black and white for a picture: the 0.5 and 99.8 percentiles where ``mask`` is True (a sample of them)."""
    step = tuple(max(1, round((values.size / 4e6) ** (1 / 3))) if n > 64 else 1 for n in values.shape)
    sample = tuple(slice(None, None, s) for s in step)
    chosen = values[sample][mask[sample]]
    if chosen.size == 0:
        chosen = values[mask]
    if chosen.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(chosen.astype(float), [0.5, 99.8]))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def choose_slices(mask: np.ndarray) -> tuple[int, int]:
    """The plane nearest to the middle that was not measured at all (else the middle one), and the middle row."""
    middle = len(mask) // 2
    empty = np.flatnonzero(~mask.any(axis=(1, 2)))
    plane = int(empty[np.abs(empty - middle).argmin()]) if empty.size else middle
    return plane, mask.shape[1] // 2


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
    title = 0.35 if picture.title else 0.0
    return title + TOP + rows + (0.45 + rows if _has_errors(picture) else 0.0) + BOTTOM


def _draw_picture(figure: Figure, picture: Picture, top: float) -> None:
    heights = _row_heights(picture)
    width, total = (float(side) for side in figure.get_size_inches())
    if picture.title:
        figure.text(LEFT / width, (top - 0.08) / total, picture.title, size=TITLE, weight="bold", va="top")
        top -= 0.35
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
        axes[0].set_title("error", size=TEXT, pad=4)
    width, total = (float(side) for side in figure.get_size_inches())
    x = LEFT + len(picture.panels) * (PANEL + SPACE) + 0.1
    bottom, height = top - sum(heights) - SPACE, sum(heights) + SPACE
    bar = figure.add_axes((x / width, (bottom + 0.1 * height) / total, 0.16 / width, 0.8 * height / total))
    figure.colorbar(mapping, cax=bar, extend="max")
    bar.tick_params(labelsize=TEXT - 1)
    bar.set_ylabel("absolute difference to the truth", size=TEXT)


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
    text = {"xy": "xy", "xz": "xz"}[name]
    ax.text(-0.03, 0.5, text, transform=ax.transAxes, ha="right", va="center", size=TITLE)


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
    """One line: where the slices lie, the grey scale, what the flat colour means."""
    from matplotlib.patches import Rectangle

    width, total = (float(side) for side in figure.get_size_inches())
    nz, ny, _ = picture.shape
    plane, row = f"plane z = {picture.plane} of 0–{nz - 1}", f"row y = {picture.row} of 0–{ny - 1}"
    if picture.plane_note:
        plane += f" ({picture.plane_note})"
    if picture.spacing is None:
        row += "; voxel size unknown, drawn as cubes"
    low, high = picture.grey
    x = LEFT
    if gaps:
        figure.patches.append(
            Rectangle((x / width, (top - 0.16) / total), 0.2 / width, 0.15 / total, facecolor=GAP,
                      transform=figure.transFigure, figure=figure)
        )  # fmt: skip
        figure.text((x + 0.28) / width, (top - 0.08) / total, "not measured", size=TEXT, va="center")
        x += 1.5
    text = f"xy: {plane}.  xz: {row}.  black {low:.4g}, white {high:.4g}"
    figure.text(x / width, (top - 0.08) / total, text, size=TEXT, va="center", color="#333333")


# ----------------------------------------------------------------------------------------------------- reports


def recovery_pictures(before: Volume, after: Recovery, truth: np.ndarray | None = None) -> list[Picture]:
    """One picture a stack (four at most): input on the grid of the output, linear along z where planes lack, result."""
    factor = (after.volume.shape[after.volume.axes.index("Z")] - 1) // (before.shape[before.axes.index("Z")] - 1)
    pictures = []
    for stack in list(stacks(before))[:MOST_STACKS]:
        result = zyx_view(after.volume.data, after.volume.axes, stack.where)
        mask = zyx_view(after.measured, after.volume.axes, stack.where)
        given = np.full(result.shape, np.nan, result.dtype)
        given[::factor] = stack.data
        plane, row = choose_slices(mask)
        panels = [take_slices("Input", given, plane, row, mask)]
        if not mask.any(axis=(1, 2)).all():
            panels.append(take_slices("Linear interpolation", interpolate_planes(given, mask), plane, row))
        panels.append(take_slices("tensorcell", result, plane, row))
        known = None if truth is None else take_slices("Truth", truth, plane, row)
        note = "" if mask[plane].any() else "not measured"
        pictures.append(
            Picture(
                panels, plane, row, result.shape, after.volume.spacing, grey_scale(given, mask), known,
                title=stack.label, plane_note=note,
            )
        )  # fmt: skip
    return pictures


def picture_bytes(pictures: Sequence[Picture]) -> bytes:
    """The pictures as one PNG."""
    stream = io.BytesIO()
    draw(pictures).savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


def write_report(
    path: str | os.PathLike[str], before: Volume, after: Recovery, truth: np.ndarray | None = None
) -> None:
    """Write a picture (``.png``) or a self-contained page (``.html``) of a recovery.

    Parameters
    ----------
    path : path
        Output; appears whole or not at all.
    before, after : Volume, Recovery
        What was given to :func:`tensorcell.recover` and what came back.
    truth : array of the output's shape (Z, Y, X), optional
        Shown beside it.

    Raises
    ------
    InputError
        Unknown suffix, or the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in REPORT_SUFFIXES:
        raise InputError(f"{target}: expected a report ending in {' or '.join(REPORT_SUFFIXES)}, got {target.suffix!r}")
    image = picture_bytes(recovery_pictures(before, after, truth))
    content = image if target.suffix.lower() == ".png" else page(before, after, image).encode()
    part = target.with_name(f".tensorcell-{secrets.token_hex(8)}.part")
    try:
        part.write_bytes(content)
        os.replace(part, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def facts(before: Volume, after: Recovery) -> dict[str, Any]:
    """What a report and ``--json`` say of a recovery; plain numbers, texts and lists."""

    def per_stack(value: Any) -> Any:
        return {k: per_stack(v) for k, v in value.items()} if isinstance(value, dict) else value

    ranks = {k: list(v) for k, v in after.rank.items()} if isinstance(after.rank, dict) else list(after.rank)
    return {
        "input_shape": list(before.shape),
        "shape": list(after.volume.shape),
        "axes": after.volume.axes,
        "spacing": None if after.volume.spacing is None else list(after.volume.spacing),
        "dtype": str(after.volume.dtype),
        "observed_ratio": float(after.measured.mean()),
        "rank": ranks,
        "noise": per_stack(after.noise),
        "outliers": after.outlier_count,
        "status": str(after.status),
        "iterations": len(after.history),
        "seconds": round(after.seconds, 3),
        "notes": list(after.notes),
    }


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1d2126 }
img { max-width: 100%; height: auto } table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .3rem 1rem .3rem 0; border-bottom: 1px solid #dfe3e7; text-align: left; vertical-align: top }
li { margin: .2rem 0 }
</style>
<h1>{{ title }}</h1>
<p>{{ sentence }}</p>
{% if notes %}<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
<img alt="Slices of the input and of the result" src="data:image/png;base64,{{ picture }}">
<table>{% for name, value in rows %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
<h2>How to read this</h2>
<p>All panels share one grey scale and show the same two slices; blue voxels were not measured. Measured voxels keep
their value unless the stack was complete (then it is denoised) or they were taken for outliers: those that are far from
the model and from their neighbours. Filled voxels are estimates. Between pixels they rest on a low-rank model and on
measured neighbours; in a plane that was never measured they are interpolated along z and hold no detail that the planes
beside it do not hold. The change per iteration should fall; where it ends above the tolerance, the fit was stopped
early.</p>
<table><tr><th>iteration</th><th>stage</th><th>change</th><th>residual</th><th>outliers in the fit</th></tr>
{% for r in history %}<tr><td>{{ r.iteration }}</td><td>{{ r.stage }}</td><td>{{ "%.2g"|format(r.change) }}</td>
<td>{{ "%.3g"|format(r.residual) }}</td><td>{{ r.outliers }}</td></tr>{% endfor %}</table>
</html>
"""


def page(before: Volume, after: Recovery, image: bytes) -> str:
    """One self-contained HTML page."""
    import jinja2

    known = facts(before, after)
    rows = [(name.replace("_", " "), value) for name, value in known.items() if name not in ("notes", "status")]
    source = before.metadata.get("source", "")
    return (
        jinja2.Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            title=f"tensorcell: {Path(str(source)).name}" if source else "tensorcell: recovery",
            sentence=f"The fit {known['status']}. {known['observed_ratio']:.1%} of the voxels were measured.",
            notes=known["notes"],
            picture=base64.b64encode(image).decode(),
            rows=rows,
            history=after.history[:200],
        )
    )
