"""The HTML page of a sampling plan: one self-contained file with a picture, the table and what it rests on.

matplotlib and jinja2 are imported only when a page is made.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tensorcell import pages
from tensorcell.pages.pictures import TEXT, data_uri, png_bytes
from tensorcell.planning.result import PlannedChoice, SamplingPlan, row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#2f6690", "#d1495b", "#e09f3e", "#1b6e3c", "#6b4c9a", "#5c6670")
GREY, DARK = "#9aa3ab", "#1d2126"
HEADINGS = (
    "planes",
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


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1d2126 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem } p, ul { max-width: 48rem }
img { max-width: 100%; height: auto } .wide { overflow-x: auto } .sentence { font-size: 1.15rem }
table { border-collapse: collapse; margin: 1rem 0 } .best { background: #e6f2ea; font-weight: 600 }
td, th { padding: .3rem .7rem .3rem .1rem; border-bottom: 1px solid #dfe3e7; text-align: right }
td, th { font-size: .95rem; white-space: nowrap }
</style>
<h1>{{ title }}</h1>
<p class="sentence">{{ sentence }}</p>
<img alt="Predicted PSNR of each choice against its light dose" src="{{ picture }}">
<h2>The choices</h2>
<div class="wide"><table><tr>{% for name in headings %}<th>{{ name }}</th>{% endfor %}<th></th></tr>
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
</html>
"""


@pages.page.register
def plan_page(plan: SamplingPlan) -> str:
    """One self-contained HTML page of a plan."""
    import jinja2

    facts = (
        f"Used: {' × '.join(map(str, plan.shape))} voxels (z, y, x); range for the PSNR: {plan.data_range:.4g} "
        f"(0.1 to 99.9 percentile, unit of the data); {plan.seconds:.0f} s."
    )
    return (
        jinja2.Environment(autoescape=True)
        .from_string(PAGE)
        .render(
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
    )
