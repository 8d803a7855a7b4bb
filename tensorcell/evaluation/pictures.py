"""Pictures of an evaluation: slices of the truth, the measurement and each result, and the errors of the results.

matplotlib is imported only when a picture is made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorcell.evaluation.cases import Degraded
from tensorcell.evaluation.cells import Cell
from tensorcell.evaluation.result import Picture
from tensorcell.evaluation.scores import Row
from tensorcell.evaluation.store import Store
from tensorcell.evaluation.tables import number
from tensorcell.files import claimed, write_whole
from tensorcell.pages.pictures import GAP, choose_slices, grey_scale, png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]

WIDTH, GAP_BETWEEN, SIDE, TITLE, HEAD, FOOT = 1.9, 0.06, 0.45, 0.25, 0.55, 0.35  # inches
TALLEST, FLATTEST = 3.0, 0.35
SCALE = 0.995
"""Quantile of a method's errors at which the colour scale would end for it alone."""


class Shown(NamedTuple):
    """A method's result in a picture."""

    method: str
    psnr: float
    xy: Array
    xz: Array


def draw_case(
    title: str, degraded: Degraded, shown: Sequence[Shown], spacing: tuple[float, float, float] | None
) -> Figure:
    """xy and xz slices of truth, measurement and each method, below them the absolute errors on one scale.

    Parameters
    ----------
    title : str
    degraded : Degraded
    shown : sequence of Shown
        The slices of each method's result, of the plane and row of :func:`tensorcell.pages.pictures.choose_slices`.
    spacing : (dz, dy, dx) or None
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    plane, row = choose_slices(degraded.measured, degraded.truth)
    given = degraded.measurement.grid
    truth = degraded.truth[plane], degraded.truth[:, row]
    errors = [(np.abs(one.xy - truth[0]), np.abs(one.xz - truth[1])) for one in shown]
    limit = _error_limit(errors)
    low, high = grey_scale(degraded.truth, np.ones(degraded.truth.shape, bool))
    columns: list[tuple[str, tuple[Array, ...]]] = [("truth", truth), ("measured", (given[plane], given[:, row]))]
    for one, apart in zip(shown, errors, strict=True):
        columns.append((f"{one.method}\n{number(one.psnr, 'psnr')} dB", (one.xy, one.xz, *apart)))

    heights = _heights(truth[0].shape, truth[1].shape, spacing)
    rows = (*heights, *heights)
    width = SIDE + len(columns) * (WIDTH + GAP_BETWEEN) + 0.1
    total = HEAD + sum(rows) + 3 * GAP_BETWEEN + FOOT + TITLE
    figure = Figure(figsize=(width, total), facecolor="white")
    grey, heat = (colormaps[name].with_extremes(bad=GAP) for name in ("gray", "inferno"))
    scales = [(grey, low, high)] * 2 + [(heat, 0.0, limit)] * 2
    for place, (name, images) in enumerate(columns):
        _draw_column(figure, SIDE + place * (WIDTH + GAP_BETWEEN), name, images, rows, scales)
    foot = f"plane {plane}, row {row}; blue: not measured; black {low:.2g}, white {high:.2g}; "
    _labels(figure, title, rows, f"{foot}errors: black 0, yellow {limit:.2g} and above")
    return figure


def _draw_column(
    figure: Figure, left: float, name: str, images: Sequence[Array], rows: Sequence[float], scales: Sequence[Any]
) -> None:
    """The images of one column, from the top; ``left`` and the heights of the rows are in inches."""
    width, total = (float(side) for side in figure.get_size_inches())
    top = total - TITLE - HEAD
    for image, height, (colours, low, high) in zip(images, rows, scales, strict=False):  # the truth has no errors
        ax = figure.add_axes((left / width, (top - height) / total, WIDTH / width, height / total))
        masked = np.ma.masked_invalid(image)
        ax.imshow(masked, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        ax.set_axis_off()
        if image is images[0]:
            ax.set_title(name, size=9, pad=4)
        top -= height + GAP_BETWEEN


def _error_limit(errors: Sequence[tuple[Array, Array]]) -> float:
    """End of the colour scale of errors: the median over the methods, so that a bad one does not hide the rest."""
    ends = [float(np.quantile(np.concatenate([xy.ravel(), xz.ravel()]), SCALE)) for xy, xz in errors]
    return float(np.median(ends or [1.0])) or 1.0


def _heights(
    xy: tuple[int, ...], xz: tuple[int, ...], spacing: tuple[float, float, float] | None
) -> tuple[float, float]:
    """Inches of the xy and xz panels, in the proportions of the sample where the voxel size is known."""
    dz, dy, dx = spacing or (1.0, 1.0, 1.0)
    found = [WIDTH * shape[0] * step / (shape[1] * dx) for shape, step in ((xy, dy), (xz, dz))]
    return min(TALLEST, max(FLATTEST, found[0])), min(TALLEST, max(FLATTEST, found[1]))


def _labels(figure: Figure, title: str, rows: Sequence[float], foot: str) -> None:
    width, total = (float(side) for side in figure.get_size_inches())
    figure.text(0.05 / width, (total - 0.06) / total, title, size=11, weight="bold", va="top")
    top = total - TITLE - HEAD
    for name, height in zip(("xy", "xz", "error xy", "error xz"), rows, strict=True):
        centre = (top - height / 2) / total
        figure.text(0.22 / width, centre, name, size=9, rotation=90, ha="center", va="center")
        top -= height + GAP_BETWEEN
    figure.text(SIDE / width, 0.12 / total, foot, size=8, va="center", color="#333333")


def write_pictures(store: Store, cells: Sequence[Cell], rows: Sequence[Row]) -> tuple[Picture, ...]:
    """Write a picture for each volume and case with a finished cell into the folder of the store."""
    groups: dict[tuple[str, str], list[tuple[Cell, Row]]] = {}
    for cell, row in zip(cells, rows, strict=True):
        if row.done:
            groups.setdefault((row.case, row.volume), []).append((cell, row))
    if groups:
        (store.folder / "pictures").mkdir(exist_ok=True)
    found = []
    for (case, volume), members in groups.items():
        shown = [
            Shown(row.method, row.psnr, *slices)
            for cell, row in members
            for slices in [store.picture_slices(cell)]
            if slices is not None
        ]
        cell, name = members[0][0], f"{volume}, {case}"
        file = "pictures/" + re.sub(r"[^A-Za-z0-9.+-]+", "_", f"{volume}--{case}").strip("_") + ".png"
        image = png_bytes(lambda: draw_case(name, cell.degraded, shown, cell.reference.spacing))  # noqa: B023
        with claimed([store.folder / file]):
            write_whole(store.folder / file, image)
        found.append(Picture(case, name, file))
    return tuple(found)
