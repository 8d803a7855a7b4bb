"""The report of a recovery: a PNG of slices, or one HTML page with the facts beside them.

matplotlib and jinja2 are imported only when a report is made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from tensorcell.errors import InputError
from tensorcell.files import check_writable, write_whole
from tensorcell.interpolation import interpolated_plane
from tensorcell.pages.charts import draw_intensities, draw_residual, residual_of
from tensorcell.pages.layout import asset, rendered_page
from tensorcell.pages.pictures import (
    GAP,
    LEFT,
    MEASURED,
    MOST_STACKS,
    OUTLIER,
    PANEL,
    RIGHT,
    TEXT,
    TOP,
    Panel,
    Picture,
    choose_slices,
    data_uri,
    grey_scale,
    picture_bytes,
    png_bytes,
    rgb,
    row_heights,
    row_label,
    show,
    swatch,
    take_slices,
)
from tensorcell.pages.viewer import COLOURS, Shown, View, measured_planes, views, ways_to_show
from tensorcell.plane_grid import PlaneGrid
from tensorcell.recovered import Recovery
from tensorcell.solvers import IterationRecord
from tensorcell.volume import Stack, Volume, stack_places, stacks, zyx_view
from tensorcell.volume_checks import Described

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tensorcell.large.cut import Box
    from tensorcell.large.survey import Source

REPORT_SUFFIXES = (".png", ".html")

MOST_BYTES = 8_000_000
"""Bytes of a page, all that lies in it counted: with more, its slices would be on a coarser grid."""


def recovery_pictures(before: Volume, after: Recovery, truth: Any = None) -> list[Picture]:
    """One picture for each stack, four at most.

    A picture shows the input on the grid of the output (a plane that lies between two planes of it at the nearest one),
    linear interpolation along z if some planes were not measured, and the result. If a truth (array or Volume of the
    output's shape) is given, it and the absolute differences from it are shown, too.
    """
    reference = None if truth is None else _like_output(truth, after)
    outliers = after.outliers if after.outlier_count else None
    return [_recovery_picture(stack, after, outliers, reference) for stack in list(stacks(before))[:MOST_STACKS]]


def _recovery_picture(stack: Stack, after: Recovery, outliers: np.ndarray | None, truth: np.ndarray | None) -> Picture:
    axes, where = after.volume.axes, stack.where
    result = zyx_view(after.volume.data, axes, where)
    grid = after.grid
    measured = measured_planes(stack, zyx_view(after.measured, axes, where), grid)
    mask = _repeated(grid.spread(measured), result.shape)
    plane, row = choose_slices(mask, result)
    fill = not mask.any(axis=(1, 2)).all()
    clean = measured
    if outliers is not None:
        clean = measured & (zyx_view(outliers, axes, where) == 0)
    return Picture(
        panels_of(Held(stack.data, measured), Held(result), grid, plane, row, fill=fill),
        plane,
        row,
        result.shape,
        after.volume.spacing,
        grey_scale(stack.data, clean),
        None if truth is None else take_slices("Truth", zyx_view(truth, axes, where), plane, row),
        title=stack.label,
        plane_note="" if mask[plane].any() else "not measured",
    )


class Held(NamedTuple):
    """A stack in memory, read as `tensorcell.large.survey.Source` says."""

    data: np.ndarray
    mask: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sides along z, y and x."""
        planes, rows, columns = self.data.shape
        return planes, rows, columns

    def read(self, box: Box) -> tuple[np.ndarray, np.ndarray | None]:
        """Intensities of a box, and where they were measured."""
        return self.data[box], None if self.mask is None else self.mask[box]


def panels_of(
    given: Source, result: Source, grid: PlaneGrid, plane: int, row: int, *, fill: bool, every: int = 1,
    near: int | None = None,
) -> list[Panel]:  # fmt: skip
    """What was given, linear interpolation if it is wanted, and the result, in a plane and a row of the result.

    Parameters
    ----------
    given, result : Source
        Only what is shown is read of them.
    grid : PlaneGrid
        Where the planes given lie in the result.
    plane, row : int
    fill : bool
        Whether linear interpolation is shown.
    every : int
        Every how many-th row and column is shown, a multiple of the pixels of the result a side of one given unless 1.
    near : int, optional
        How many planes given on either side of a plane are interpolated; all by default.
    """
    factor = result.shape[1] // given.shape[1]
    step, pixels = max(1, every // factor), factor if every == 1 else 1
    rows, planes = slice(row // factor, row // factor + 1), len(grid.positions)
    ours = replace(slices_of("tensorcell", result, plane, row, every), errors=True)
    shown = Panel("Input", np.full(ours.xy.shape, np.nan), np.full(ours.xz.shape, np.nan))

    def read(along: slice, lines: slice, height: int) -> tuple[np.ndarray, np.ndarray]:
        values, known = given.read((along, lines, slice(None, None, step)))
        seen = np.isfinite(values) if known is None else known & np.isfinite(values)
        return _finer(values, height, pixels), _finer(seen, height, pixels)

    values, seen = read(slice(0, planes), rows, 1)
    for place, value, known in zip(grid.positions, values, seen, strict=True):
        if round(place) < len(shown.xz):
            shown.xz[round(place)] = np.where(known[0], value[0], np.nan)
    at = plane / float(grid.step)
    first, last = 0, planes
    if not fill:
        first, last = round(at), round(at) + 1
    elif near is not None:
        first, last = max(0, math.floor(at) - near), min(planes, math.ceil(at) + near + 1)
    panels = [shown]
    around, known_around = read(slice(first, last), slice(None, None, step), pixels)
    for place, value, known in zip(grid.positions[first:last], around, known_around, strict=True):
        if place == plane:
            shown.xy[...] = np.where(known, value, np.nan)
    if fill:
        places = [float(z / grid.step) for z in range(len(shown.xz))]
        filled = [interpolated_plane(values, seen, place)[0] for place in places]
        panels.append(
            Panel("Linear interpolation", interpolated_plane(around, known_around, at - first), np.stack(filled), True)
        )
    return [*panels, ours]


def slices_of(title: str, stack: Source, plane: int, row: int, every: int = 1) -> Panel:
    """A plane and a row of a stack, of which every how many-th row and column is shown."""
    across = slice(None, None, every)
    xy, _ = stack.read((slice(plane, plane + 1), across, across))
    xz, _ = stack.read((slice(None), slice(row, row + 1), across))
    return Panel(title, xy[0].astype(float), xz[:, 0].astype(float))


def _repeated(planes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Planes with their pixels repeated to the lateral size of the result."""
    rows, columns = (size // own for size, own in zip(shape[1:], planes.shape[1:], strict=True))
    return _finer(planes, rows, columns)


def _finer(planes: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Planes with each of their pixels repeated along y and x."""
    return planes.repeat(rows, 1).repeat(columns, 2) if max(rows, columns) > 1 else planes


def _like_output(truth: Any, after: Recovery) -> np.ndarray:
    array = np.asarray(truth.data if isinstance(truth, Volume) else truth)
    if array.shape != after.volume.shape:
        raise InputError(f"truth has shape {array.shape}, the recovered volume has shape {after.volume.shape}")
    return array


def draw_map(before: Volume, after: Recovery) -> Figure:
    """Show where the voxels of the first stack come from, in the slices of its picture: measured, filled or outlier."""
    from matplotlib.figure import Figure

    stack = next(stacks(before))
    mask = zyx_view(after.measured, after.volume.axes, stack.where)
    outlier = after.grid.spread(_repeated(zyx_view(after.outliers, after.volume.axes, stack.where), mask.shape) != 0)
    plane, row = choose_slices(mask, zyx_view(after.volume.data, after.volume.axes, stack.where))
    picture = Picture([], plane, row, mask.shape, after.volume.spacing, (0, 1))
    heights = row_heights(picture)
    width, total = LEFT + 2 * PANEL + 0.5 + RIGHT, max(heights) + TOP + 0.1
    figure = Figure(figsize=(width, total), facecolor="white")
    parts: tuple[tuple[str, Any], ...] = (("xy", np.s_[plane]), ("xz", np.s_[:, row]))
    for column, (height, (name, part)) in enumerate(zip(heights, parts, strict=False)):
        x, y = LEFT + column * (PANEL + 0.5), total - TOP - height
        ax = figure.add_axes((x / width, y / total, PANEL / width, height / total))
        show(ax, _map_image(mask[part], outlier[part]), name, picture)
        row_label(ax, name)
    shares = outlier.mean(), mask.mean()
    texts = (f"measured {shares[1] - shares[0]:.1%}", f"filled {1 - shares[1]:.1%}", f"outlier {shares[0]:.1%}")
    x = LEFT
    for colour, text in zip((MEASURED, GAP, OUTLIER), texts, strict=True):
        x = swatch(figure, x, total - 0.2, colour, text)
    return figure


def _map_image(mask: np.ndarray, outlier: np.ndarray) -> np.ndarray:
    colours = np.empty((*mask.shape, 3), np.uint8)
    colours[mask], colours[~mask], colours[outlier] = rgb(MEASURED), rgb(GAP), rgb(OUTLIER)
    return colours


def draw_history(history: Sequence[IterationRecord]) -> Figure:
    """Draw change and residual over the iterations on a logarithmic axis, with one curve for each stack."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    runs = split_runs(history)
    figure = Figure(figsize=(5.4, 2.9), facecolor="white", layout="constrained")
    ax = figure.add_subplot()
    curves = {"change": ("#2f6690", "relative change of the model"), "residual": ("#d1495b", "relative residual")}
    for name, (colour, label) in curves.items():
        for number, run in enumerate(runs):
            # A stage that has no residual of its own says 0, which a logarithmic axis does not hold.
            x, y = [record.iteration for record in run], [getattr(record, name) or math.nan for record in run]
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
    """The records of each stack: a new stack begins where the number of the iteration does not rise."""
    runs: list[list[IterationRecord]] = []
    for record in history:
        if not runs or record.iteration <= runs[-1][-1].iteration:
            runs.append([])
        runs[-1].append(record)
    return runs


def write_report(
    path: str | os.PathLike[str], before: Volume, after: Recovery, truth: np.ndarray | Volume | None = None
) -> None:
    """Write a picture (``.png``) or a self-contained page (``.html``) of a recovery.

    Parameters
    ----------
    path : path
        The file to write; it appears whole or not at all.
    before, after : Volume, Recovery
        What was given to :func:`tensorcell.recover` and what it returned.
    truth : array or Volume of the output's shape, optional
        It is shown beside the result, with the absolute differences from it.

    Raises
    ------
    InputError
        If the suffix is unknown, the truth has another shape, or the file cannot be written.
    """
    target = Path(path)
    check_writable(target, REPORT_SUFFIXES)
    pictures = recovery_pictures(before, after, truth)
    if target.suffix.lower() == ".png":
        write_whole(target, picture_bytes(pictures))
    else:
        write_whole(target, page(before, after, pictures, truth).encode())


def facts(before: Volume, after: Recovery) -> dict[str, Any]:
    """What a report and ``--json`` say of a recovery, in plain numbers, texts and lists.

    ``rank`` and ``noise`` are one entry, or a dict with one for each channel and frame (None: not recovered).
    ``spacing`` is in micrometres,
    ``noise`` in the data's unit.
    """
    ranks: Any = after.rank
    if isinstance(ranks, dict):
        ranks = {label: None if rank is None else list(rank) for label, rank in ranks.items()}
    else:
        ranks = list(ranks)
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
        "defects": dict(after.defects),
        "status": str(after.status),
        "not_recovered": dict(after.not_recovered),
        "iterations": len(after.history),
        "seconds": round(after.seconds, 3),
        "notes": list(after.notes),
    }


PAGE = """{% block header %}<p class="sentence">{{ sentence }}</p>{% endblock %}
{% block main %}
<div class="still"><img alt="Slices of the input and of the result" src="{{ picture }}">
{% if left_out %}<p>{{ left_out }}</p>{% endif %}
{% if map %}<h2>Where the voxels come from</h2>
<img alt="Map of measured voxels, filled voxels and outliers" src="{{ map }}">{% endif %}
{% if stacks %}<noscript><p>With JavaScript, sliders here go through all slices.</p></noscript>{% endif %}</div>
{% if stacks %}{% include "viewer.html" %}{% endif %}
{% if notes %}<h2>What to know of this result</h2>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
<div class="row">
<div><h2>Facts</h2>
<table>
{% for name, value in rows %}<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table></div>
<div>{% for heading, alt, image, line in charts %}<h2>{{ heading }}</h2>
{% if image %}<img class="chart" alt="{{ alt }}" src="{{ image }}">{% endif %}{% if line %}<p>{{ line }}</p>{% endif %}
{% endfor %}</div>
</div>
<h2>How to read this</h2>
<p>All slices of a stack are shown on one grey scale, which is set by the {{ scale }};
blue voxels were not measured. Measured voxels keep their value, with three exceptions: a complete stack is
denoised, any stack is denoised if this was asked for, and outliers are replaced. Outliers are defects that no
microscope draws: dead, stuck and hot pixels of the camera, and single voxels that share no light with their neighbours.
Filled voxels are estimates. In a plane with measured pixels they rest on
a low-rank model and on measured neighbours; in a plane without any they are interpolated along z and hold no detail
that the neighbouring planes do not hold. Rows and columns that were measured in no plane are interpolated along y and x
in the same way.</p>
{% if "uncertainty" in keys %}<p>The uncertainty u is in the unit of the data: the result ± 1.645 u is to hold the
intensity without noise in nine of ten voxels.</p>{% endif %}
{% if "invented" in keys %}<p>The invented share is the part of the local contrast that the measurement leaves open,
from 0 (measured) to 1 (nothing is known); do not measure where it is high.</p>{% endif %}
{% if history %}<p>The change per iteration should fall; if it ends above the tolerance, the fit was stopped early. The
relative residual is what the model does not explain of the measured voxels: the noise, and structure that is not of low
rank.</p>
{% endif %}{% endblock %}
{% block end %}{% if stacks %}{% for stack in stacks %}
<script type="application/json" data-tiles>{{ stack | tojson }}</script>{% endfor %}
<script>
{{ script | safe }}</script>{% endif %}{% endblock %}
"""


def page(
    before: Volume, after: Recovery, pictures: Sequence[Picture], truth: np.ndarray | Volume | None = None, *,
    most: int = MOST_BYTES,
) -> str:  # fmt: skip
    """One self-contained HTML page.

    Parameters
    ----------
    before, after : Volume, Recovery
    pictures : sequence of Picture
        The slices for readers without JavaScript.
    truth : array or Volume of the output's shape, optional
    most : int
        Bytes of the page, unless its texts and charts alone have more.
    """
    measured = int(np.count_nonzero(after.measured))
    rows = rows_of(
        before, after.volume, measured=measured, outliers=after.outlier_count, whole=after.grid.whole,
        noise=after.noise, rank=after.rank, counts=("iterations", len(after.history)), seconds=after.seconds,
    )  # fmt: skip
    reference = None if truth is None else _like_output(truth, after)
    image, charts = picture_bytes(pictures, share_of_stills(most)), charts_of(before, after)
    places = chart(lambda: draw_map(before, after))

    def render(shown: Shown) -> str:
        return rendered(
            before, rows, sentence_on(str(after.status), measured / after.measured.size), after.notes, image, shown,
            scale="measured voxels that are not outliers", charts=charts, map=places, history=after.history,
        )  # fmt: skip

    total = sum(1 for _ in stack_places(before.axes, before.shape))
    return first_within(most, render, ways_to_show(list(views(before, after, reference)), total, after.volume.spacing))


def share_of_stills(most: int) -> int:
    """Bytes that the still pictures of a page of ``most`` bytes may have; as text they take a third more."""
    return most // 5


def first_within(most: int, render: Callable[[Shown], str], ways: Iterable[Shown]) -> str:
    """The page that `render` makes of the first way to show the slices with which it has at most ``most`` bytes.

    With none of them, it is the page with still pictures alone.
    """
    for shown in ways:
        text = render(shown)
        if len(text.encode()) <= most:
            return text
    return render(Shown([], "", ["the page has no slices that move: they would make it too large"]))


def charts_of(before: Volume, after: Recovery) -> list[tuple[str, str, str, str]]:
    """Heading, description, picture and line below it of each chart."""
    first = next(views(before, after, None))
    name = f" ({first.given.label})" if first.given.label else ""
    charts = [
        ("Intensities" + name, "Histograms of input and result", chart(lambda: draw_intensities(first)), ""),
        residual_chart(first, noise_of(after, first.given.label), name),
    ]  # fmt: skip
    if after.history:
        picture = chart(lambda: draw_history(after.history))
        charts.append(("How the fit went", "Change and residual over the iterations", picture, ""))
    return charts


def chart(make: Callable[[], Figure]) -> str:
    """A chart as the address of its picture."""
    return data_uri(png_bytes(make))


def residual_chart(view: View, noise: float | None, name: str) -> tuple[str, str, str, str]:
    """The chart of the residual of a stack, or a line that says why there is none."""
    heading, residual = "Residual: measured minus result" + name, residual_of(view)
    if residual is None:
        return heading, "", "", "No pixel of the result stands for a measured one, so there is no residual to show."
    if not residual.any():
        return heading, "", "", "Measured voxels that are no outliers keep their value: the residual is 0 at each."
    line = "With the noise alone, it would follow the dashed line; where it is wider, structure was smoothed away."
    picture = chart(lambda: draw_residual(residual, noise))
    return heading, "Histogram of measured minus result", picture, line if noise else ""


def noise_of(after: Recovery, label: str) -> float | None:
    """Standard deviation of the noise of a stack, if it is known."""
    noise = after.noise.get(label) if isinstance(after.noise, dict) else after.noise
    return None if noise is None else float(noise)


def sentence_on(status: str, share: float) -> str:
    """The first line of a page."""
    return f"The fit {status}. {share:.1%} of the voxels of the result were measured."


def rendered(
    before: Described, rows: Sequence[tuple[str, str]], sentence: str, notes: Sequence[str], image: bytes, shown: Shown,
    *, scale: str, **further: Any,
) -> str:  # fmt: skip
    """The page with these facts, the PNG of the slices, the stacks that move, and what else the template names.

    ``scale`` is what the grey scale is set by.
    """
    keys = {layer["key"] for stack in shown.stacks for layer in stack["layers"]}
    source = str(before.metadata.get("source", ""))
    total = sum(1 for _ in stack_places(before.axes, before.shape))
    left_out = f"the pictures show {MOST_STACKS} of {total} stacks" if total > MOST_STACKS else ""
    return rendered_page(
        PAGE, title=f"tensorcell: {source}" if source else "tensorcell: recovery", sentence=sentence,
        notes=[*notes, *shown.notes], left_out=left_out, picture=data_uri(image), rows=rows, scale=scale,
        stacks=shown.stacks, grain=shown.grain, keys=keys, colours=COLOURS, script=asset("viewer.js"), **further,
    )  # fmt: skip


class Sized(Protocol):
    """What the table says of a volume."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def axes(self) -> str: ...

    @property
    def dtype(self) -> Any: ...

    @property
    def spacing(self) -> tuple[float, float, float] | None: ...


def rows_of(
    before: Sized, after: Sized, *, measured: int, outliers: int, whole: bool, noise: Any, rank: Any,
    counts: tuple[str, int], seconds: float,
) -> list[tuple[str, str]]:  # fmt: skip
    """Names and values of the table of facts, as text.

    Parameters
    ----------
    before, after : Sized
        What was given and what was made.
    measured, outliers : int
        Measured voxels of the result, and outliers among all.
    whole : bool
        Whether every plane given is one of the result.
    noise, rank : one entry, or dict of label to entry
    counts : (str, int)
        What was counted besides, such as iterations.
    seconds : float
    """

    def grid(volume: Sized) -> str:
        return f"{' × '.join(map(str, volume.shape))} ({volume.axes}), {volume.dtype}"

    def each(value: Any, text: Callable[[Any], str]) -> str:
        if not isinstance(value, dict):
            return text(value)
        parts = [f"{label}: {'not recovered' if one is None else text(one)}" for label, one in value.items()]
        return "; ".join(parts[:12]) + ("; ..." if len(parts) > 12 else "")

    share, voxels = "", math.prod(after.shape)
    if measured and whole:  # else planes or pixels given are none of the result
        share = f" ({outliers / measured:.2%} of the measured voxels)"
    size = "unknown" if after.spacing is None else " × ".join(f"{step:.4g}" for step in after.spacing) + " µm (z, y, x)"
    return [
        ("input", grid(before)),
        ("result", grid(after)),
        ("voxel size", size),
        ("measured voxels", f"{measured:,} of {voxels:,} ({measured / voxels:.1%})"),
        ("outliers", f"{outliers:,}{share}"),
        ("noise", each(noise, lambda noise: f"{noise:.3g}") + " (standard deviation, unit of the data)"),
        ("Tucker rank", each(rank, lambda rank: " × ".join(map(str, rank)) + " (z, y, x)")),
        (counts[0], str(counts[1])),
        ("time", f"{seconds:.1f} s"),
    ]
