"""The HTML page of a sampling plan: one self-contained file with a picture, the table and what it rests on.

matplotlib and jinja2 are imported only when a page is made.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tensorcell import pages
from tensorcell.pages.layout import rendered_page
from tensorcell.pages.pictures import TEXT, data_uri, png_bytes
from tensorcell.planning.result import PlannedChoice, SamplingPlan, row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#2f6690", "#d1495b", "#e09f3e", "#1b6e3c", "#6b4c9a", "#5c6670")
GREY, DARK = "#9aa3ab", "#1d2126"
HEADINGS = (
    "planes",
    "apart",
    "pixels",
    "exposure",
    "PSNR, dB",
    "90 %",
    "linear, dB",
    "NRMSE",
    "90 %",
    "time saved",
    "dose saved",
)


def draw_choices(plan: SamplingPlan) -> Figure:
    """Predicted PSNR against the light dose, a line for each share of pixels and exposure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.6), facecolor="white", layout="constrained")
    ax = figure.add_subplot()
    groups: dict[tuple[float, float], list[PlannedChoice]] = {}
    for choice in plan.choices:
        groups.setdefault((choice.pixel_fraction, choice.exposure_factor), []).append(choice)
    for place, ((pixels, exposure), choices) in enumerate(groups.items()):
        name = f"{100 * pixels:.3g}% of the pixels, {100 * exposure:.3g}% of the exposure"
        _draw_line(
            ax,
            choices,
            COLOURS[place % len(COLOURS)],
            name if len(groups) > 1 else "recover",
            "" if place else "linear along z",
        )
    if plan.target.psnr is not None:
        ax.axhline(plan.target.psnr, color=DARK, linewidth=1, linestyle="--", label="wanted PSNR")
    if plan.best is not None:
        ax.axvline(_dose(plan.best), color=GREY, linewidth=1, zorder=0, label="advised")
    _finish_axes(ax, sorted({round(_dose(choice), 2) for choice in plan.choices}))
    return figure


def _dose(choice: PlannedChoice) -> float:
    """Light dose in percent of the pilot's."""
    return 100 * (1 - choice.dose_saved)


def _draw_line(ax: Any, choices: list[PlannedChoice], colour: str, name: str, linear_name: str) -> None:
    """Choices of one share of pixels and exposure: points with their intervals, and crosses of linear interpolation."""
    dose = [_dose(choice) for choice in choices]
    # Where the noise outweighs the error, only the lower end is known: an open triangle stands there.
    known = [choice.psnr if math.isfinite(choice.psnr) else choice.psnr_interval[0] for choice in choices]
    ax.plot(dose, known, color=colour, linewidth=1.5, label=name, zorder=2)
    for choice, x, y in zip(choices, dose, known, strict=True):
        low, high = choice.psnr_interval
        bounded = not math.isfinite(high)
        ax.plot([x, x], [low, y if bounded else high], color=colour, linewidth=3, alpha=0.35, zorder=1)
        ax.plot(x, y, "^" if bounded else "o", color=colour, mfc="white" if bounded else colour, ms=7, zorder=3)
        ax.annotate(f"1/{choice.axial_factor}", (x, y), (6, 6), textcoords="offset points", size=TEXT - 2)
    linear = [choice.linear_psnr if math.isfinite(choice.linear_psnr) else math.nan for choice in choices]
    ax.plot(dose, linear, "x", color=colour, alpha=0.8, ms=6, zorder=2, label=linear_name)


def _finish_axes(ax: Any, doses: list[float]) -> None:
    ax.set_xscale("log")
    shown = [dose for place, dose in enumerate(doses) if place == 0 or dose > 1.25 * doses[place - 1]]
    ax.set_xticks(shown, [f"{dose:.3g} %" for dose in shown])
    ax.minorticks_off()
    ax.set_xlabel("light dose, share of the pilot's", size=TEXT)
    ax.set_ylabel("predicted PSNR, dB", size=TEXT)
    ax.tick_params(labelsize=TEXT - 1)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#dfe3e7", linewidth=0.8)
    ax.legend(fontsize=TEXT - 2, frameon=False, loc="best")


PAGE = """{% block header %}<p class="sentence">{{ sentence }}</p>{% endblock %}
{% block main %}
<div class="wide" tabindex="0" role="region" aria-label="Predicted PSNR">
<img class="chart broad" alt="Predicted PSNR of each choice against its light dose" src="{{ picture }}"></div>
<h2>The choices</h2>
<div class="wide" tabindex="0" role="region" aria-label="The choices"><table class="numbers">
<tr>{% for name in headings %}<th>{{ name }}</th>{% endfor %}<th></th></tr>
{% for cells, mark, best in rows %}<tr{% if best %} class="best"{% endif %}>
{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}<td>{{ mark }}</td></tr>{% endfor %}
</table></div>
{% for remark in remarks %}<p>+ {{ remark }}</p>{% endfor %}
<p>{{ rule }}</p>
<h2>What is known of the pilot</h2>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
<h2>What this rests on</h2>
<ul>{% for line in assumptions %}<li>{{ line }}</li>{% endfor %}</ul>
<h2>How to read this</h2>
<p>Each point is a way to sample; its label is the share of the planes that is imaged. The pilot was degraded in this
way and recovered, and the result was compared with the measured voxels that had been left out. These are noisy, so the
variance of their noise was subtracted: the PSNR and NRMSE are those against the noise-free intensity, and can be higher
than what a comparison with a noisy image shows. Bars are 90 % intervals; an open triangle is a lower bound, where the
noise of the pilot outweighs the error. Crosses are linear interpolation along z: where they are level with the points,
the recovery adds nothing to it. A choice is advised only if the worse end of its interval meets the wanted error.</p>
{% endblock %}"""


@pages.page.register
def plan_page(plan: SamplingPlan) -> str:
    """One self-contained HTML page of a plan."""
    facts = (
        f"Used: {' × '.join(map(str, plan.shape))} voxels (z, y, x); range for the PSNR: {plan.data_range:.4g} "
        f"(0.1 to 99.9 percentile, unit of the data); {plan.seconds:.0f} s."
    )
    return rendered_page(
        PAGE,
        title="tensorcell: sampling plan",
        sentence=plan.sentence,
        rule=plan.rule,
        picture=data_uri(png_bytes(lambda: draw_choices(plan))),
        headings=HEADINGS,
        rows=[(row(choice), plan.mark(choice), choice == plan.best) for choice in plan.choices],
        remarks=plan.remarks,
        notes=(facts, *plan.notes),
        assumptions=plan.assumptions,
    )
