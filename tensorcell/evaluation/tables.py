"""The tables of an evaluation, and their form in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tensorcell.errors import InputError
from tensorcell.evaluation.cases import CASES, FIGURES, TABLE_2
from tensorcell.evaluation.means import Mean, differences, means
from tensorcell.evaluation.methods import METHODS, WEIGHTED
from tensorcell.evaluation.scores import LOWER_IS_BETTER, Row
from tensorcell.evaluation.segmentation import segmenter


class Table(NamedTuple):
    """A table of texts; the best cells are marked as in Markdown: ``**1.23**``."""

    heading: str
    columns: list[str]
    rows: list[list[str]]
    case: str = ""
    """Of which case it lists the cells; empty where it is about several."""


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
    "ms_ssim": "MS-SSIM",
    "ccc": "CCC",
    "pcc": "PCC",
    "profile_ssim": "1-D SSIM",
    "sharpness": "sharpness",
    "dice": "Dice",
    "object_f1": "F1",
    "pq": "PQ",
    "piqe": "PIQE",
    "seconds": "s",
    "memory": "MiB",
}
DIGITS = {"psnr": 2, "psnr_missing": 2, "seconds": 1, "memory": 0, "piqe": 1}
NONE = "–"
TEXT_COLUMNS = ("volume", "method", "against", "setting", "")
"""Columns of texts, which are aligned to the left."""


def number(value: float, name: str) -> str:
    """A score with as many digits as carry meaning.

    >>> number(31.4159, "psnr"), number(0.98765, "ssim"), number(float("nan"), "ssim")
    ('31.42', '0.9877', '–')
    """
    if math.isnan(value):
        return NONE
    return "∞" if math.isinf(value) else f"{value:.{DIGITS.get(name, 4)}f}"


def all_tables(rows: Sequence[Row]) -> list[Table]:
    """Means of PSNR and SSIM, differences to others for each of our methods, and every cell."""
    found = mean_tables(rows)
    for method in _ours(rows):
        table = _differences_table(rows, method)
        if table.rows:
            found.append(table)
    for case in dict.fromkeys(row.case for row in rows):
        found.append(_cells_table(case, [row for row in rows if row.case == case]))
    return found


def mean_tables(rows: Sequence[Row]) -> list[Table]:
    """PSNR and SSIM on all voxels, and PSNR on missing ones: a table for each kind of cases."""
    found: list[Table] = []
    volumes = len({row.volume for row in rows})
    over = f"mean of {volumes} volumes" if volumes > 1 else "one volume"
    for kind, cases in _by_kind(rows).items():
        for name in ("psnr", "ssim", "psnr_missing"):
            columns, body = _means_table(means(rows), cases, name, volumes)
            if any(cell != NONE for cells in body for cell in cells[1:]):
                found.append(Table(f"{kind[0].upper()}{kind[1:]}: {TITLES[name]}, {over}", columns, body))
    return found


def _by_kind(rows: Sequence[Row]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for case in dict.fromkeys(row.case for row in rows):
        kinds.setdefault(CASES[case].kind if case in CASES else "other cases", []).append(case)
    return kinds


def _ours(rows: Sequence[Row]) -> list[str]:
    """Our methods that finished a cell."""
    names = dict.fromkeys(row.method for row in rows if row.done)
    kinds = {name: name.partition(":")[0] for name in names}
    return [name for name, kind in kinds.items() if kind in WEIGHTED or (kind in METHODS and METHODS[kind].ours)]


def _means_table(
    found: Sequence[Mean], cases: Sequence[str], name: str, volumes: int
) -> tuple[list[str], list[list[str]]]:
    """Methods by cases. A mean over fewer volumes says over how many, and is never the best."""
    by_place = {(mean.method, mean.case): mean for mean in found if mean.case in cases}
    best = {
        case: _best([m.scores[name] for m in by_place.values() if m.case == case and m.volumes == volumes], name)
        for case in cases
    }

    def cell(mean: Mean | None) -> str:
        if mean is None:
            return NONE
        text = number(mean.scores[name], name)
        if mean.volumes < volumes:
            return f"{text} ({mean.volumes} of {volumes})"
        return f"**{text}**" if mean.scores[name] == best[mean.case] else text

    methods = dict.fromkeys(method for method, _ in by_place)
    rows = [[method, *(cell(by_place.get((method, case))) for case in cases)] for method in methods]
    return ["method", *cases], rows


def _best(values: Sequence[float], name: str) -> float:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan
    return min(known) if name in LOWER_IS_BETTER else max(known)


def _differences_table(rows: Sequence[Row], method: str) -> Table:
    """Others by cases; "A or B" is the better of two in each volume."""
    cases = list(dict.fromkeys(row.case for row in rows))
    others = [name for name in dict.fromkeys(row.method for row in rows if row.done) if name != method]
    rivals: list[tuple[str, ...]] = [(name,) for name in others]
    for pair in (("linear", "cubic"), ("bm4d+linear", "bm4d+cubic")):
        if set(pair) <= set(others):
            rivals.append(pair)
    body = []
    for names in rivals:
        gains = {gain.case: gain for gain in differences(rows, method, names)}
        both = {row.case for row in rows if row.done and row.method in names}
        if gains:
            texts = (
                f"{gains[c].mean:+.2f} ({gains[c].lowest:+.2f})" if c in gains and c in both else NONE for c in cases
            )
            body.append([" or ".join(names), *texts])
    return Table(f"{method} minus others: PSNR in dB, mean (lowest) over volumes", ["against", *cases], body)


def _cells_table(case: str, rows: Sequence[Row]) -> Table:
    """Every cell of a case; the best PSNR of each volume is marked."""
    heading = f"{case}: {CASES[case].says}" if case in CASES else case
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
        columns, body = columns[:-1], [cells[:-1] for cells in body]
    return Table(heading, columns, body, case)


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    texts = [[cell.replace("|", "\\|") for cell in cells] for cells in (columns, *rows)]
    widths = [max(3, *(len(cells[k]) for cells in texts)) for k in range(len(columns))]
    left = [name in TEXT_COLUMNS for name in columns]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if flush else c.rjust(w) for c, w, flush in zip(cells, widths, left, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 2) if flush else "-" * (w + 1) + ":" for w, flush in zip(widths, left, strict=True))
    return "\n".join([line(texts[0]), f"|{rule}|", *map(line, texts[1:])])


def markdown(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """Notes and tables as Markdown."""
    parts = ["# Restoration, side by side", "\n".join(f"- {note}" for note in notes)]
    for table in all_tables(rows):
        parts += [f"## {table.heading}", _markdown_table(table.columns, table.rows)]
    return "\n\n".join(parts) + "\n"


def summary(rows: Sequence[Row]) -> str:
    """The tables of means, and the reasons of cells without scores, as Markdown."""
    parts = [f"{table.heading}\n\n{_markdown_table(table.columns, table.rows)}" for table in mean_tables(rows)]
    reasons = dict.fromkeys(f"{row.method}, {row.case}: {row.status}" for row in rows if not row.done)
    return "\n\n".join([*parts, *(["\n".join(reasons)] if reasons else [])]) + "\n"


def paper_table(rows: Sequence[Row], method: str) -> str:
    """Table 2 of "Recover Cell Tensor": its settings and its columns, means over the volumes."""
    found: Mapping[str, Mean] = {mean.case: mean for mean in means(rows) if mean.method == method}
    settings = [case for case in TABLE_2 if case in found]
    if not settings:
        raise InputError(f"expected finished cells of {method} in the cases {', '.join(TABLE_2)}, got none")
    body = []
    for case in TABLE_2:
        scores = found[case].scores if case in found else {}
        psnr, ssim, piqe = (number(scores.get(name, math.nan), name) for name in ("psnr", "ssim", "piqe"))
        body.append([TABLE_2[case], psnr, ssim, NONE, NONE, piqe, NONE])
    columns = ["setting", "PSNR ↑", "SSIM ↑", "LPIPS ↓", "NIQE ↓", "PIQE ↓", "NRQM ↑"]
    said = f"Method {method}, means over {max(found[case].volumes for case in settings)} volume(s). "
    said += "LPIPS, NIQE and NRQM need files of their authors and are left out (see tensorcell.metrics)."
    return f"{_markdown_table(columns, body)}\n\n{said}\n"


def paper_tables(rows: Sequence[Row]) -> str:
    """`paper_table` of each of our methods that finished a cell of it."""
    ours = [method for method in _ours(rows) if any(r.done and r.method == method and r.case in TABLE_2 for r in rows)]
    found = [paper_table(rows, method) for method in ours]
    found += [figure_table(rows, case) for case in FIGURES if any(row.done and row.case == case for row in rows)]
    if not found:
        raise InputError("expected a finished cell of one of our methods for the table, got none")
    return "\n".join(found)


def figure_table(rows: Sequence[Row], case: str) -> str:
    """The scores of one setting of "MicroDiffuse3D", all methods side by side, means over the volumes."""
    found = {mean.method: mean for mean in means(rows) if mean.case == case}
    names = (
        "psnr", "ssim", "ms_ssim", "pq", "dice", "object_f1", "ccc", "pcc", "profile_ssim", "hf_error", "sharpness"
    )  # fmt: skip
    best = {name: _best([mean.scores[name] for mean in found.values()], name) for name in names}
    body = []
    for method, mean in found.items():
        texts = [number(mean.scores[name], name) for name in names]
        marked = [f"**{t}**" if mean.scores[n] == best[n] else t for n, t in zip(names, texts, strict=True)]
        body.append([method, *marked])
    columns = ["method", *(f"{TITLES[name]} {'↓' if name in LOWER_IS_BETTER else '↑'}" for name in names)]
    columns[-1] = f"{TITLES['sharpness']} → 1"
    said = f"{FIGURES[case]}: means over {max(mean.volumes for mean in found.values())} volume(s). "
    said += f"Objects by {segmenter()}. LPIPS needs a file of its authors and is left out (see tensorcell.metrics)."
    return f"{_markdown_table(columns, body)}\n\n{said}\n"
