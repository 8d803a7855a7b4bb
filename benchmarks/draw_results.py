"""One page of what asv measured: a dot plot for each question, ours beside peers.

    python benchmarks/draw_results.py results.png [--results .asv/results] [--commit HASH]

A dot is a measurement on a logarithmic axis, and the number beside it says how many times ours it is. What was skipped
or failed has no dot.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """What panels of the page show.

    Attributes
    ----------
    benchmark : str
        Name in asv.
    title : str
        In the words of a reader.
    unit : str
        Of the axis, in which the numbers are after multiplication with ``scale``.
    marks : str or None
        The parameter that colours and shapes of dots stand for; all others name rows.
    split : str or None
        The parameter of which each value has its own panel.
    ours : str or None
        Value of the first parameter to which the others are compared.
    """

    benchmark: str
    title: str
    unit: str
    scale: float = 1.0
    marks: str | None = None
    split: str | None = None
    ours: str | None = None


QUESTIONS = (
    Question(
        "bench_completion.ToError.time_to_error", "Completion: time to an error, problem", "s",
        marks="target", split="problem", ours="complete",
    ),
    Question(
        "bench_completion.ToErrorOutliers.time_to_error", "Outliers: time to an error, problem", "s",
        marks="target", split="problem", ours="complete",
    ),
    Question(
        "bench_completion.AsShipped.time_complete_tucker", "complete_tucker as shipped", "s", marks="dtype"
    ),
    Question("bench_sweep.Sweep.time_sweeps", "Ten ADMM sweeps", "s", marks="dtype"),
    Question("bench_recover.Recover.time_recover", "recover: time", "s", marks="case", ours="auto"),
    Question("bench_recover.Recover.track_psnr", "recover: PSNR", "dB", marks="case"),
    Question("bench_recover.Growth.time_recover", "recover: time by shape", "s", marks="shape"),
    Question("bench_recover.Growth.peakmem_recover", "recover: peak memory by shape", "GB", 1e-9, marks="shape"),
    Question("bench_estimators.Noise.time_noise", "Estimate of the noise", "s", marks="seen", ours="tensorcell"),
    Question("bench_estimators.Rank.time_rank", "Estimate of the rank", "s", marks="seen"),
    Question("bench_diffusion.Sampler.time_sample", "Samplers: 30 steps", "s", marks="samples"),
    Question("bench_files.Files.time_read", "Reading 34 MB", "s", marks="compress", ours="tif"),
    Question("bench_files.Files.time_write", "Writing 34 MB", "s", marks="compress", ours="tif"),
    Question("bench_start.Import.time_import", "Fresh interpreter and import", "ms", 1e3),
)  # fmt: skip
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "os^Dvp"
COLUMNS = 3
LINEAR = ("dB",)
"""Units on a linear axis, whose numbers are shown instead of ratios."""


FEW = 100.0
"""Axes that span less have more than the powers of ten on them."""


@dataclass(frozen=True)
class Dot:
    """One measurement: the row and the mark that it belongs to, and its value."""

    row: str
    mark: str
    value: float
    ours: bool


@dataclass(frozen=True)
class Panel:
    """What one set of axes shows."""

    question: Question
    title: str
    dots: tuple[Dot, ...]


def newest(folder: Path, commit: str | None = None) -> Mapping[str, Any]:
    """The last results that asv wrote to a folder, of a commit if one is given, of any machine."""
    files = [file for file in folder.glob(f"*/{commit or ''}*.json") if file.name != "machine.json"]
    if not files:
        raise SystemExit(
            f"expected results of asv in {folder}, of commit {commit or 'any'}, got none: see CONTRIBUTING.md"
        )
    found: Mapping[str, Any] = json.loads(max(files, key=lambda file: file.stat().st_mtime).read_text())
    return found


def parameter_names(folder: Path) -> dict[str, list[str]]:
    """The names of the parameters of each benchmark."""
    known = json.loads((folder / "benchmarks.json").read_text())
    return {name: entry["param_names"] for name, entry in known.items() if isinstance(entry, dict)}


def measured(results: Mapping[str, Any], benchmark: str, names: Sequence[str]) -> Iterator[tuple[Parameters, float]]:
    """Parameters and value of all that was measured by one benchmark; asv stores them in the order of the product."""
    entry = results["results"].get(benchmark)
    if entry is None:
        return
    fields = dict(zip(results["result_columns"], entry, strict=False))
    for values, value in zip(itertools.product(*fields["params"]), fields["result"] or (), strict=False):
        if isinstance(value, int | float) and math.isfinite(value):
            yield {name: plain(text) for name, text in zip(names, values, strict=True)}, float(value)


def plain(text: str) -> Any:
    """The value that asv stored as its ``repr``."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def shown(name: str, value: Any) -> str:
    """A parameter as a reader wants to see it: a number and a truth value say of what."""
    if isinstance(value, tuple):
        return " × ".join(map(str, value))
    return value if isinstance(value, str) else f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def panels(results: Mapping[str, Any], names: Mapping[str, list[str]]) -> list[Panel]:
    """All that can be drawn."""
    answers = (
        answered(question, list(measured(results, question.benchmark, names.get(question.benchmark, ()))))
        for question in QUESTIONS
    )
    return [panel for answer in answers for panel in answer]


def answered(question: Question, found: Sequence[tuple[Parameters, float]]) -> Iterator[Panel]:
    """The panels of one question; a parameter of which one value was measured is not named in the rows."""
    names = list(found[0][0]) if found else []
    varying = [name for name in names if len({str(parameters[name]) for parameters, _ in found}) > 1]
    rows = [name for name in varying if name not in (question.marks, question.split)]
    parts: dict[str, list[Dot]] = {}
    for parameters, value in found:
        title = f"{question.title} ({parameters[question.split]})" if question.split else question.title
        row = ", ".join(shown(name, parameters[name]) for name in rows)
        mark = shown(question.marks, parameters[question.marks]) if question.marks else ""
        ours = question.ours is not None and parameters[names[0]] == question.ours
        parts.setdefault(title, []).append(Dot(row, mark, value * question.scale, ours))
    for title, dots in parts.items():
        yield Panel(question, title, tuple(dots))


def label(dot: Dot, panel: Panel) -> str:
    """What stands beside a dot: how many times ours it is, or the number where nothing is compared."""
    reference = [other.value for other in panel.dots if other.ours and other.mark == dot.mark]
    if dot.ours or not reference:
        return f"{dot.value:.3g} {panel.question.unit}"
    return f"{dot.value / reference[0]:.2g}×"


def draw_panel(axes: Any, panel: Panel) -> None:
    """One set of axes: rows from the top, a colour and a shape for each mark, those of a row below each other."""
    from matplotlib.ticker import LogLocator, NullFormatter

    rows = list(dict.fromkeys(dot.row for dot in panel.dots))
    marks = list(dict.fromkeys(dot.mark for dot in panel.dots))
    for place, mark in enumerate(marks):
        dots = [dot for dot in panel.dots if dot.mark == mark]
        heights = [rows.index(dot.row) + (place + 0.5) / len(marks) - 0.5 for dot in dots]
        style = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
        axes.plot([dot.value for dot in dots], heights, linestyle="", markersize=4.5, label=mark, **style)
        for dot, height in zip(dots, heights, strict=True):
            axes.annotate(
                label(dot, panel), (dot.value, height), xytext=(5, 0), textcoords="offset points", va="center",
                fontsize=6.5, color=style["color"], fontweight="bold" if dot.ours else "normal",
            )  # fmt: skip
    axes.set_yticks(range(len(rows)), rows, fontsize=7.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    for row in range(1, len(rows)):
        axes.axhline(row - 0.5, color="0.9", linewidth=0.6)
    if panel.question.unit in LINEAR:
        axes.margins(x=0.2)
    else:
        values = [dot.value for dot in panel.dots]
        low, high = min(values) / 1.5, max(values) * max(2.0, (max(values) / min(values)) ** 0.25)
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > FEW else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(panel.question.unit, fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_title(panel.title, fontsize=9, loc="left")
    if marks != [""]:
        axes.legend(
            fontsize=6.5, frameon=False, ncols=len(marks), loc="lower right", bbox_to_anchor=(1.0, 1.0),
            borderaxespad=0.1, handletextpad=0.1, columnspacing=0.8,
        )  # fmt: skip


def draw(shown_panels: Sequence[Panel], foot: str, path: Path) -> None:
    """The page, with as much height for a panel as its row of panels needs."""
    from matplotlib.figure import Figure

    lines = [shown_panels[start : start + COLUMNS] for start in range(0, len(shown_panels), COLUMNS)]
    heights = [
        1.1 + max(0.16 * len({(dot.row, dot.mark) for dot in panel.dots}) + 0.1 for panel in line) for line in lines
    ]
    figure = Figure(figsize=(5.2 * COLUMNS, sum(heights) + 0.5), layout="constrained")
    grid = figure.add_gridspec(len(lines), COLUMNS, height_ratios=heights)
    for place, panel in enumerate(shown_panels):
        draw_panel(figure.add_subplot(grid[place // COLUMNS, place % COLUMNS]), panel)
    figure.suptitle(
        "Benchmarks of tensorcell: what was measured (bold: ours), or how many times ours it is",
        fontsize=11,
    )
    figure.supxlabel(foot, fontsize=7)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, read, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the picture (.png, .svg or .pdf)")
    parser.add_argument("--results", type=Path, default=Path(".asv/results"), help="default: %(default)s")
    parser.add_argument("--commit", help="beginning of its hash; default: the last that was measured")
    given = parser.parse_args(arguments)
    results = newest(given.results, given.commit)
    machine = results["params"]
    cores = f"{machine.get('cpu', 'processor unknown')}, {machine.get('num_cpu', '?')} cores"
    foot = f"commit {results['commit_hash'][:8]}; {cores}; {machine.get('os', '')}"
    found = panels(results, parameter_names(given.results))
    if not found:
        raise SystemExit(f"expected results of one of {', '.join(q.benchmark for q in QUESTIONS)}, got none")
    draw(found, foot, given.out)


if __name__ == "__main__":
    main()
