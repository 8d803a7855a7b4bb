"""The HTML page of a diagnosis: one self-contained file with pictures, numbers and their origin.

matplotlib and jinja2 are imported only when a page is made.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorcell import pages
from tensorcell.diagnosis.result import Diagnosis, in_axes, table
from tensorcell.pages.layout import rendered_page
from tensorcell.pages.pictures import TEXT, data_uri, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tensorcell.axial import AxialSpectrum

COLOURS = {"z": "#2f6690", "y": "#d1495b", "x": "#e09f3e"}
FEW = 20  # largest number of empty slices that are marked one by one
GREY, DARK = "#9aa3ab", "#1d2126"
VERDICT_COLOURS = {
    "impossible": "bad", "unlikely": "bad", "aliased": "bad", "unknown": "fair",
    "likely": "good", "guaranteed": "good", "resolved": "good",
}  # fmt: skip
"""Classes of the style sheet."""


def draw_ladder(report: Diagnosis) -> Figure:
    """The number of samples that each argument asks for, and the number measured, on one logarithmic axis."""
    figure, ax = _figure(7.6, 3.1)
    bound, total = report.bound, math.prod(report.shape)
    steps: list[tuple[str, float | None]] = [
        ("degrees of freedom (necessary)", bound.degrees_of_freedom),
        ("empirical threshold" + (", extrapolated" if report.extrapolated else ""), report.empirical_threshold),
        ("Theorem 2, as printed", bound.bound_theorem2),
        ("Theorem 2, full (for the verdict)", bound.bound_theorem2_full),
        ("Theorem 1, simplified", bound.bound_theorem1_simplified),
        ("Theorem 1, with coherences", bound.bound_theorem1),
    ]
    known = [(name, value) for name, value in steps if value is not None]
    largest = max(total, *(value for _, value in known))
    smallest = min(report.observed, *(value for _, value in known))
    ax.axvspan(total, 100 * largest, color="#eceff1", zorder=0)
    for place, (_, value) in enumerate(reversed(known)):
        reached = report.observed >= value
        ax.plot([smallest / 10, value], [place, place], color="#dfe3e7", linewidth=1, zorder=1)
        ax.plot(value, place, "o", color="#1b6e3c" if reached else "#b3261e", ms=8, zorder=3)
        ax.annotate(_samples(value), (value, place), (9, 0), textcoords="offset points", va="center", size=TEXT - 2,
                    in_layout=False)  # fmt: skip
    ax.axvline(report.observed, color=COLOURS["z"], linewidth=2, zorder=2)
    top = len(known) - 0.35
    ax.text(
        report.observed, top, f"measured {_samples(report.observed)} ", color=COLOURS["z"], size=TEXT - 1, ha="right"
    )
    ax.text(total, top, f" all voxels {_samples(total)}", color="#555b61", size=TEXT - 1)
    ax.set_yticks(range(len(known)), [name for name, _ in reversed(known)], size=TEXT - 1)
    ax.set_ylim(-0.6, len(known) + 0.1)
    ax.set_xscale("log")
    ax.set_xlim(smallest / 4, 30 * largest)
    ax.set_xlabel("number of samples (green: reached, red: not reached)", size=TEXT)
    ax.grid(False, axis="y")
    return figure


def draw_spectra(report: Diagnosis) -> Figure:
    """The values that the rank was read from, one panel an axis, with the edge of the noise and the chosen rank."""
    figure, panels = _figures(7.6, 2.6, 3)
    for ax, name, values, edge, rank in zip(
        panels, "zyx", report.spectra, report.spectra_edges, report.rank, strict=True
    ):
        shown = np.array(values)
        positive = shown > 0
        ax.plot(np.arange(1, len(shown) + 1)[positive], shown[positive], "o-", ms=3, color=COLOURS[name], linewidth=1)
        if edge > 0:
            ax.axhline(edge, color=GREY, linestyle="--", linewidth=1)
            place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "top"}
            ax.text(1, edge, "edge of noise", size=TEXT - 3, color="#555b61", **place)
            ax.set_ylim(min(edge, shown[positive].min(initial=edge)) / 4, None)
        ax.axvline(rank + 0.5, color=DARK, linewidth=1)
        ax.set_title(f"{name}: rank {rank}", size=TEXT)
        ax.set_yscale("log")
        ax.set_xlabel("component", size=TEXT - 1)
    panels[0].set_ylabel("size", size=TEXT - 1)
    return figure


def draw_slices(report: Diagnosis) -> Figure:
    """Share of the voxels of each slice that was measured, one panel an axis."""
    figure, panels = _figures(7.6, 2.2, 3)
    total = math.prod(report.shape)
    for ax, name, counts in zip(panels, "zyx", report.slice_counts, strict=True):
        share = counts * len(counts) / total
        ax.fill_between(np.arange(len(counts)), share, step="mid", color=COLOURS[name], alpha=0.75, linewidth=0)
        empty = np.flatnonzero(counts == 0)
        if 0 < len(empty) <= FEW:
            ax.plot(empty, np.full(len(empty), 0.02), "|", color="#b3261e", ms=7)
        ax.set_title(f"{name}: {len(empty)} of {len(counts)} empty" if len(empty) else f"{name}: none empty", size=TEXT)
        ax.set_ylim(0, 1.05)
        ax.set_xlim(-0.5, len(counts) - 0.5)
        ax.set_xlabel("slice", size=TEXT - 1)
    panels[0].set_ylabel("share measured", size=TEXT - 1)
    return figure


def draw_axial(report: Diagnosis) -> Figure:
    """Power spectra along z and within planes, the band limit, and the Nyquist frequency of the measured planes."""
    band = report.axial_band
    figure, ax = _figure(7.6, 2.9)
    shown: list[tuple[str, AxialSpectrum | None, str]] = [("along z", band.axial, COLOURS["z"])]
    if band.unit == "um":  # else the two have different units of length
        shown.append(("within planes", band.lateral, GREY))
    for name, spectrum, colour in shown:
        if spectrum is not None:
            ax.plot(spectrum.frequency, spectrum.power, color=colour, label=name)
    if band.axial is not None:
        ax.axhline(band.axial.level, color=COLOURS["z"], linestyle=":", linewidth=1, label="level that ends the band")
        ax.axhline(band.axial.floor, color=GREY, linestyle=":", linewidth=1, label="noise")
    if band.limit is not None:
        ax.axvline(band.limit, color=COLOURS["y"], label=f"band limit, by the {band.source}")
    if band.optics_limit is not None and band.unit == "um":
        ax.axvline(band.optics_limit, color=COLOURS["x"], linestyle="--", label="widefield optics")
    ax.axvline(
        0.5 / report.axial_step, color=DARK, linestyle="--", linewidth=1, label="Nyquist frequency of the planes"
    )
    ax.set_yscale("log")
    ax.set_xlim(0, None)
    ax.set_xlabel(f"cycles per {'µm' if band.unit == 'um' else band.unit}", size=TEXT)
    ax.set_ylabel("power", size=TEXT)
    ax.legend(frameon=False, fontsize=TEXT - 2)
    return figure


def draw_blocks(report: Diagnosis) -> Figure:
    """How the ranks of blocks are distributed."""
    assert report.blocks is not None
    figure, ax = _figure(7.6, 2.6)
    ranks = np.array(report.blocks.ranks)
    largest = ranks.max(axis=1)
    width = max(1, int(ranks.max()) // 30)
    edges = [first + 0.5 for first in range(0, int(ranks.max()) + width + 1, width)]
    ax.hist(largest, edges, color="#cfd6dc", label=f"largest entry, mean {largest.mean():.3g}")
    for name, values in zip("zyx", ranks.T, strict=True):
        ax.hist(values, edges, histtype="step", color=COLOURS[name], linewidth=1.5, label=f"along {name}")
    ax.set_xlabel("rank", size=TEXT)
    ax.set_ylabel("blocks", size=TEXT)
    ax.legend(frameon=False, fontsize=TEXT - 2)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure, (ax,) = _figures(width, height, 1)
    return figure, ax


def _figures(width: float, height: float, count: int) -> tuple[Figure, list[Axes]]:
    """A figure of panels in a row, in the style of the other reports."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    panels = [figure.add_subplot(1, count, place + 1) for place in range(count)]
    for ax in panels:
        ax.tick_params(labelsize=TEXT - 2)
        ax.grid(color="#e3e6e9", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _samples(value: float) -> str:
    """A count with three digits.

    >>> _samples(163_412), _samples(8_566_784), _samples(54)
    ('163 k', '8.57 M', '54')
    """
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


# --------------------------------------------------------------------------------------------------------- page

PAGE = """{% block header %}
<p>{% for name, word, colour in words %}{{ name }} <span class="word {{ colour }}">{{ word }}</span>
{% endfor %}</p>
<p class="sentence">{{ summary }}</p>{% endblock %}
{% block main %}
<ul>{% for reason in reasons %}<li>{{ reason }}</li>{% endfor %}</ul>
{% if stacks %}<h2>All stacks</h2>
<div class="wide" tabindex="0" role="region" aria-label="All stacks"><table>
<tr><th>stack</th><th>verdict</th><th>along z</th><th>measured</th><th>rank</th></tr>
{% for row in stacks %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</table></div>{% endif %}
<div class="row">{% for heading, alt, image in pictures %}
<div><h2>{{ heading }}</h2><div class="wide" tabindex="0" role="region" aria-label="{{ heading }}">
<img class="chart broad" alt="{{ alt }}" src="{{ image }}"></div></div>{% endfor %}
</div>
<h2>Facts</h2>
<table>{% for name, value in rows %}<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
<h2>How to read this</h2>
<p>A stack whose planes, rows and columns are mixtures of a few patterns has a low rank, and far fewer samples than
voxels determine it. The ladder compares the number of samples (measured voxels) with the numbers that are needed.
Below the degrees of freedom no method can recover a tensor of that rank. From the empirical threshold on, our solver
recovered random tensors in simulations. The theorems guarantee recovery of every tensor of that rank and coherence, but
their constant is unknown and set to 1 here, they hold for entries drawn uniformly at random and for a convex method
that nobody can compute, and they may ask for more samples than there are voxels (grey), so that they guarantee
nothing.</p>
<p>What the theorem does not cover: a plane, row or column that was never measured is in no equation, so no method that
rests on low rank alone recovers it, however many samples the others hold. For planes, smoothness along z takes the
place of the theorem: planes closer than the Nyquist step of the band limit determine all that lies between them. That
limit is an estimate; a spectrum shows only what is stronger than the noise, and planes that are too far apart fold high
frequencies onto low ones. Rows and columns are interpolated from those beside them, and their uncertainty comes from
rows and columns left out in gaps of the same width. Real cells are of low rank only approximately: the residual of the
model holds detail, and no number on this page measures how much detail a recovery loses.</p>
<p>Coherences (mu, alpha, lambda) say how evenly the model is spread over its voxels: mu is 1 for an even axis and
largest where one slice is unlike all others. They belong to a model fitted to this stack, and share its error.</p>
<h2>Where each number comes from</h2>
<table class="origins">{% for name, value, how in origins %}
<tr><th scope="row">{{ name }}</th><td class="number">{{ value }}</td><td>{{ how }}</td></tr>{% endfor %}</table>
{% endblock %}"""


@pages.page.register
def page(report: Diagnosis) -> str:
    """One self-contained HTML page."""
    name = ", ".join(part for part in (report.source, report.label) if part)
    pictures = [("Samples needed and measured", "Ladder of bounds", _picture(draw_ladder, report))]
    if report.spectra:
        pictures.append(("Spectra and rank", "Spectrum of each axis", _picture(draw_spectra, report)))
    pictures.append(("Where samples lie", "Measured share of each slice", _picture(draw_slices, report)))
    if report.axial_band.axial is not None:
        pictures.append(("Along z", "Power against frequency", _picture(draw_axial, report)))
    if report.blocks is not None:
        pictures.append(("Rank of blocks", "Distribution of ranks", _picture(draw_blocks, report)))
    words = (
        ("overall", report.overall_verdict),
        ("low-rank model", report.verdict),
        ("along z", report.axial_verdict),
    )
    content = report.to_dict()
    return rendered_page(
        PAGE,
        title=f"tensorcell: diagnosis of {name}" if name else "tensorcell: diagnosis",
        words=[(what, word, VERDICT_COLOURS[word]) for what, word in words],
        summary=report.answer,
        reasons=(*report.notes, report.summary, *report.reasons),
        stacks=[
            *map(_stack_row, report.stacks),
            *((label, "not diagnosed", "", "", "") for label in report.not_diagnosed),
        ],
        pictures=pictures,
        rows=[(name.strip(), value) for name, value in table(report)],
        origins=[(key, _value(content.get(key)), in_axes(how)) for key, how in report.obtained.items()],
    )


def _stack_row(report: Diagnosis) -> tuple[str, ...]:
    rank = " × ".join(map(str, report.rank))
    return report.label, report.verdict, report.axial_verdict, f"{report.observed_ratio:.3g}", rank


def _picture(draw: Any, report: Diagnosis) -> str:
    return data_uri(png_bytes(lambda: draw(report)))


def _value(value: Any) -> str:
    """A number, or several, short enough for a table; lists of indices as their lengths.

    >>> _value([1.23456, 7]), _value([[1, 2], [], []]), _value(None), _value(1234567)
    ('1.23, 7', '2, 0, 0 of them', '', '1,234,567')
    """
    if value is None:
        return ""
    if isinstance(value, list):
        if value and isinstance(value[0], list):
            return (
                ", ".join(str(len(part)) for part in value) + " of them" if len(value) == 3 else f"{len(value)} blocks"
            )
        return ", ".join(map(_value, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
