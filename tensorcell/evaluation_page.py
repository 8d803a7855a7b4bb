"""Tables, pictures and the page of an evaluation.

matplotlib and jinja2 are imported only when a picture or page is made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorcell.errors import InputError
from tensorcell.evaluation import (
    CASES,
    LOWER_IS_BETTER,
    METHODS,
    TABLE_2,
    Cell,
    Degraded,
    Evaluation,
    Mean,
    Row,
    Store,
)
from tensorcell.files import write_whole
from tensorcell.pages.pictures import GAP, choose_slices, grey_scale, png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = tuple[str, list[str], list[list[str]]]
"""Heading, names of the columns, rows of cells; the best cells are marked as in Markdown: ``**1.23**``."""

TITLES = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "nrmse": "NRMSE",
    "psnr_missing": "PSNR missing",
    "ssim_missing": "SSIM missing",
    "nrmse_missing": "NRMSE missing",
    "profile_ccc": "CCC z",
    "profile_pcc": "PCC z",
    "hf_error": "HF error",
    "piqe": "PIQE",
    "seconds": "s",
    "memory": "MiB",
}
DIGITS = {"psnr": 2, "psnr_missing": 2, "seconds": 1, "memory": 0, "piqe": 1}
NONE = "–"


# ----------------------------------------------------------------------------------------------------- tables


def number(value: float, name: str) -> str:
    """A score with the digits that mean something.

    >>> number(31.4159, "psnr"), number(0.98765, "ssim"), number(float("nan"), "ssim")
    ('31.42', '0.9877', '–')
    """
    if math.isnan(value):
        return NONE
    return "∞" if math.isinf(value) else f"{value:.{DIGITS.get(name, 4)}f}"


def tables(result: Evaluation) -> list[Table]:
    """All tables: means of PSNR and SSIM, differences to others for each of our methods, every cell."""
    found = mean_tables(result)
    for method in _ours(result.rows):
        table = _differences_table(result, method)
        if table:
            found.append((f"{method} minus others: PSNR in dB, mean (lowest) over volumes", *table))
    for case in dict.fromkeys(row.case for row in result.rows):
        says = CASES[case].says if case in CASES else ""
        rows = [row for row in result.rows if row.case == case]
        found.append((f"{case}: {says}" if says else case, *_cells_table(rows)))
    return found


def mean_tables(result: Evaluation) -> list[Table]:
    """PSNR and SSIM, on all voxels and PSNR on missing ones: a table for each kind of cases."""
    means = result.means()
    found: list[Table] = []
    volumes = len({row.volume for row in result.rows})
    over = f"mean of {volumes} volumes" if volumes > 1 else "one volume"
    for kind, cases in _by_kind(result.rows).items():
        for name in ("psnr", "ssim", "psnr_missing"):
            table = _means_table(means, cases, name, volumes)
            if table and any(cell != NONE for row in table[1] for cell in row[1:]):
                heading = f"{kind[0].upper()}{kind[1:]}: {TITLES[name]}, {over}"
                found.append((heading, *table))
    return found


def _by_kind(rows: Sequence[Row]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for case in dict.fromkeys(row.case for row in rows):
        kinds.setdefault(CASES[case].kind if case in CASES else "other cases", []).append(case)
    return kinds


def _ours(rows: Sequence[Row]) -> list[str]:
    names = dict.fromkeys(row.method for row in rows if row.done)
    return [name for name in names if name in METHODS and METHODS[name].ours]


def _means_table(
    means: Sequence[Mean], cases: Sequence[str], name: str, volumes: int
) -> tuple[list[str], list[list[str]]] | None:
    """Methods by cases. A mean over fewer volumes says over how many, and is never the best."""
    found = {(mean.method, mean.case): mean for mean in means if mean.case in cases}
    methods = list(dict.fromkeys(method for method, _ in found))
    if not methods:
        return None
    best = {}
    for case in cases:
        full = [
            found[m, case].scores[name] for m in methods if (m, case) in found and found[m, case].volumes == volumes
        ]
        best[case] = _best(full, name)
    rows = []
    for method in methods:
        cells = [method]
        for case in cases:
            mean = found.get((method, case))
            if mean is None:
                cells.append(NONE)
                continue
            text = number(mean.scores[name], name)
            complete = mean.volumes == volumes
            marked = f"**{text}**" if complete and mean.scores[name] == best[case] else text
            cells.append(marked if complete else f"{text} ({mean.volumes} of {volumes})")
        rows.append(cells)
    return ["method", *cases], rows


def _best(values: Sequence[float], name: str) -> float:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan
    return min(known) if name in LOWER_IS_BETTER else max(known)


def _differences_table(result: Evaluation, method: str) -> tuple[list[str], list[list[str]]] | None:
    """Others by cases; "A or B" is the better of two in each volume."""
    cases = list(dict.fromkeys(row.case for row in result.rows))
    others = [name for name in dict.fromkeys(row.method for row in result.rows if row.done) if name != method]
    rivals: list[tuple[str, ...]] = [(name,) for name in others]
    for pair in (("linear", "cubic"), ("bm4d+linear", "bm4d+cubic")):
        if set(pair) <= set(others):
            rivals.append(pair)
    rows = []
    for names in rivals:
        gains = {gain.case: gain for gain in result.differences(method, names)}
        both = {row.case for row in result.rows if row.done and row.method in names}
        if gains:
            texts = (
                f"{gains[c].mean:+.2f} ({gains[c].lowest:+.2f})" if c in gains and c in both else NONE for c in cases
            )
            rows.append([" or ".join(names), *texts])
    return (["against", *cases], rows) if rows else None


def _cells_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    shown = [name for name in TITLES if any(not math.isnan(getattr(row, name)) for row in rows)]
    body = []
    for row in rows:
        same = [other.psnr for other in rows if other.volume == row.volume and other.done]
        cells = [number(getattr(row, name), name) for name in shown]
        if row.done and row.psnr == _best(same, "psnr"):
            cells[0] = f"**{cells[0]}**"
        body.append([row.volume, row.method, *cells, "" if row.done else row.status])
    columns = ["volume", "method", *(TITLES[name] for name in shown), ""]
    if not any(cells[-1] for cells in body):
        return columns[:-1], [cells[:-1] for cells in body]
    return columns, body


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    texts = [[cell.replace("|", "\\|") for cell in cells] for cells in (columns, *rows)]
    widths = [max(3, *(len(cells[k]) for cells in texts)) for k in range(len(columns))]
    left = {k for k, name in enumerate(columns) if name in ("volume", "method", "against", "setting", "")}
    padded = [
        "| "
        + " | ".join(
            c.ljust(w) if k in left else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        + " |"
        for cells in texts
    ]
    rule = "|" + "|".join("-" * (w + 2) if k in left else "-" * (w + 1) + ":" for k, w in enumerate(widths)) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])


def markdown(result: Evaluation) -> str:
    """The tables as Markdown."""
    parts = ["# Restoration, side by side", "\n".join(f"- {note}" for note in result.notes)]
    for heading, columns, rows in tables(result):
        parts += [f"## {heading}", _markdown_table(columns, rows)]
    return "\n\n".join(parts) + "\n"


def summary(result: Evaluation) -> str:
    """The tables of means, and the reasons of cells without scores, as Markdown."""
    parts = [f"{heading}\n\n{_markdown_table(columns, rows)}" for heading, columns, rows in mean_tables(result)]
    reasons = dict.fromkeys(f"{row.method}, {row.case}: {row.status}" for row in result.failed)
    return "\n\n".join([*parts, *(["\n".join(reasons)] if reasons else [])]) + "\n"


def paper_table(result: Evaluation, method: str) -> str:
    """Table 2 of "Recover Cell Tensor": its settings and its columns, means over the volumes."""
    means = {mean.case: mean for mean in result.means() if mean.method == method}
    settings = [case for case in TABLE_2 if case in means]
    if not settings:
        raise InputError(f"expected finished cells of {method} in the cases {', '.join(TABLE_2)}, got none")
    rows = []
    for case in TABLE_2:
        scores = means[case].scores if case in means else {}
        psnr, ssim, piqe = (number(scores.get(name, math.nan), name) for name in ("psnr", "ssim", "piqe"))
        rows.append([TABLE_2[case], psnr, ssim, NONE, NONE, piqe, NONE])
    columns = ["setting", "PSNR ↑", "SSIM ↑", "LPIPS ↓", "NIQE ↓", "PIQE ↓", "NRQM ↑"]
    said = f"Method {method}, means over {max(means[case].volumes for case in settings)} volume(s). "
    said += "LPIPS, NIQE and NRQM need files of their authors and are left out (see tensorcell.metrics)."
    return f"{_markdown_table(columns, rows)}\n\n{said}\n"


# --------------------------------------------------------------------------------------------------- pictures

WIDTH, GAP_BETWEEN, SIDE, HEAD, FOOT = 1.9, 0.06, 0.45, 0.55, 0.35  # inches
TALLEST, FLATTEST = 3.0, 0.35
SCALE = 0.995
"""Quantile of a method's errors at which the colour scale would end for it alone."""


def draw_case(
    title: str,
    degraded: Degraded,
    shown: Sequence[tuple[str, float, np.ndarray, np.ndarray]],
    spacing: tuple[float, float, float] | None,
) -> Figure:
    """xy and xz slices of truth, measurement and each method, below them the absolute errors on one scale.

    Parameters
    ----------
    title : str
    degraded : Degraded
    shown : sequence of (name, PSNR, xy slice, xz slice)
    spacing : (dz, dy, dx) or None
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    plane, row = choose_slices(degraded.measured, degraded.truth)
    given = degraded.measurement.grid
    truth = degraded.truth[plane], degraded.truth[:, row]
    columns: list[tuple[str, tuple[np.ndarray, np.ndarray], bool]] = [
        ("truth", truth, False),
        ("measured", (given[plane], given[:, row]), False),
        *((f"{name}\n{number(psnr, 'psnr')} dB", (xy, xz), True) for name, psnr, xy, xz in shown),
    ]
    limit = _error_limit([pair for _, pair, judged in columns if judged], truth)
    low, high = grey_scale(degraded.truth, np.ones(degraded.truth.shape, bool))

    heights = _heights(truth[0].shape, truth[1].shape, spacing)
    rows = (*heights, *heights)
    width = SIDE + len(columns) * (WIDTH + GAP_BETWEEN) + 0.1
    total = HEAD + sum(rows) + 3 * GAP_BETWEEN + FOOT + 0.25
    figure = Figure(figsize=(width, total), facecolor="white")
    grey, heat = (colormaps[name].with_extremes(bad=GAP) for name in ("gray", "inferno"))
    for place, (name, pair, judged) in enumerate(columns):
        images = (
            [*pair, *(np.abs(image - true) for image, true in zip(pair, truth, strict=True))] if judged else list(pair)
        )
        top = total - 0.25 - HEAD
        for k, image in enumerate(images):
            left = SIDE + place * (WIDTH + GAP_BETWEEN)
            ax = figure.add_axes((left / width, (top - rows[k]) / total, WIDTH / width, rows[k] / total))
            top -= rows[k] + GAP_BETWEEN
            colours: Any = (grey, low, high) if k < 2 else (heat, 0.0, limit)
            ax.imshow(
                np.ma.masked_invalid(image),
                cmap=colours[0],
                vmin=colours[1],
                vmax=colours[2],
                aspect="auto",
                interpolation="nearest",
            )
            ax.set_axis_off()
            if k == 0:
                ax.set_title(name, size=9, pad=4)
    _labels(
        figure,
        title,
        rows,
        f"plane {plane}, row {row}; blue: not measured; black {low:.2g}, white {high:.2g}; "
        f"errors: black 0, yellow {limit:.2g} and above",
    )
    return figure


def _error_limit(images: Sequence[tuple[np.ndarray, ...]], truth: tuple[np.ndarray, ...]) -> float:
    """End of the colour scale of errors: the median over the methods, so that a bad one does not hide the rest."""
    ends = []
    for pair in images:
        errors = [np.abs(image - true).ravel() for image, true in zip(pair, truth, strict=True)]
        ends.append(float(np.quantile(np.concatenate(errors), SCALE)))
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
    top = total - 0.25 - HEAD
    for name, height in zip(("xy", "xz", "error xy", "error xz"), rows, strict=True):
        centre = (top - height / 2) / total
        figure.text(0.22 / width, centre, name, size=9, rotation=90, ha="center", va="center")
        top -= height + GAP_BETWEEN
    figure.text(SIDE / width, 0.12 / total, foot, size=8, va="center", color="#333333")


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 90rem; margin: 2rem auto; padding: 0 1rem; color: #1d2126 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem } img { max-width: 100%; height: auto }
.wide { overflow-x: auto } table { border-collapse: collapse; margin: .5rem 0 }
td, th { padding: .2rem .9rem .2rem .1rem; border-bottom: 1px solid #dfe3e7; text-align: right; white-space: nowrap }
td, th { font-size: .9rem } td.text, th.text { text-align: left } ul { max-width: 60rem }
</style>
<h1>{{ title }}</h1>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% for heading, columns, rows, pictures in sections %}<h2>{{ heading }}</h2>
<div class="wide"><table><tr>{% for name in columns %}<th{% if name in text %} class="text"{% endif %}>{{ name }}</th>
{% endfor %}</tr>
{% for cells in rows %}<tr>{% for cell in cells %}<td{% if columns[loop.index0] in text %} class="text"{% endif %}>
{%- if cell.startswith("**") %}<b>{{ cell.strip("*") }}</b>{% else %}{{ cell }}{% endif %}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% for name, file in pictures %}<p><img loading="lazy" alt="{{ name }}" src="{{ file }}"></p>
{% endfor %}{% endfor %}
</html>
"""


def write_pages(result: Evaluation, cells: Sequence[Cell], store: Store) -> None:
    """Write ``scores.csv``, ``scores.md``, a picture for each volume and case, and ``index.html`` with all of it."""
    import jinja2

    result.to_csv(result.folder / "scores.csv")
    write_whole(result.folder / "scores.md", result.to_markdown().encode())
    pictures = _write_pictures(result, cells, store)
    sections = [
        (heading, columns, rows, pictures.get(heading.split(":")[0], [])) for heading, columns, rows in tables(result)
    ]
    html = (
        jinja2.Environment(autoescape=True)
        .from_string(PAGE)
        .render(
            title="tensorcell: restoration, side by side",
            notes=result.notes,
            sections=sections,
            text=("volume", "method", "against", ""),
        )
    )
    write_whole(result.folder / "index.html", html.encode())


def _write_pictures(result: Evaluation, cells: Sequence[Cell], store: Store) -> dict[str, list[tuple[str, str]]]:
    """Pictures by case: name and file, relative to the folder."""
    groups: dict[tuple[str, str], list[tuple[Cell, Row]]] = {}
    for cell, row in zip(cells, result.rows, strict=True):
        if row.done:
            groups.setdefault((row.case, row.volume), []).append((cell, row))
    if groups:
        (result.folder / "pictures").mkdir(exist_ok=True)
    found: dict[str, list[tuple[str, str]]] = {}
    for (case, volume), members in groups.items():
        shown = [
            (row.method, row.psnr, *slices)
            for cell, row in members
            for slices in [store.picture_slices(cell)]
            if slices is not None
        ]
        cell = members[0][0]
        name = f"{volume}, {case}"
        file = "pictures/" + re.sub(r"[^A-Za-z0-9.+-]+", "_", f"{volume}--{case}").strip("_") + ".png"
        image = png_bytes(lambda: draw_case(name, cell.degraded, shown, cell.reference.spacing))  # noqa: B023
        write_whole(result.folder / file, image)
        found.setdefault(case, []).append((name, file))
    return found
