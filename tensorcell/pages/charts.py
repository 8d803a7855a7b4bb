"""Histograms of a recovery: intensities before and after, and what the result leaves of the measurement."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tensorcell.pages.pictures import TEXT
from tensorcell.pages.viewer import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, AFTER = "#2f6690", "#d1495b"
"""Colours of what was given and of the result."""

BINS = 80

MOST_SAMPLES = 4_000_000
"""Voxels that a histogram is made of, at most; of more, every n-th."""


def draw_intensities(view: View) -> Figure:
    """Histograms of the measured voxels of the input and of all voxels of the result, on one logarithmic axis."""
    given, ours = sampled(view.given.data, view.measured), sampled(view.result)
    every = np.concatenate([given, ours])
    low, high = np.percentile(every, [0.05, 99.95]) if every.size else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    figure, ax = figure_of_one()
    for values, colour, name in ((given, BEFORE, "input, measured voxels"), (ours, AFTER, "result, all voxels")):
        if values.size:
            share = np.histogram(values, edges)[0] / values.size
            ax.stairs(np.where(share > 0, share, math.nan), edges, color=colour, linewidth=1.5, label=name)
    ax.set_yscale("log")
    ax.set_xlabel("intensity (unit of the data)", size=TEXT)
    ax.set_ylabel(f"share of the voxels, in {BINS} bins", size=TEXT)
    ax.legend(frameon=False, fontsize=TEXT - 1)
    return figure


def residual_of(view: View) -> np.ndarray | None:
    """Measured minus result at measured voxels that are no outliers; None where the result has other voxels."""
    if view.factor > 1:
        return None
    shared, places = view.grid.shared, view.grid.places
    given, ours = view.given.data[shared], view.result[places]
    clean = view.clean[shared] & np.isfinite(given) & np.isfinite(ours)  # a stack that was not recovered is NaN
    residual = sampled(given, clean) - sampled(ours, clean)
    return residual if residual.size else None


def draw_residual(residual: np.ndarray, noise: float | None) -> Figure:
    """Histogram of the residual, with the normal distribution of the noise if that is known."""
    limit = float(np.percentile(np.abs(residual), 99.9)) or float(np.abs(residual).max()) or 1.0
    edges = np.linspace(-limit, limit, BINS + 1)
    figure, ax = figure_of_one()
    share = np.histogram(residual, edges)[0] / residual.size
    ax.stairs(share, edges, color=AFTER, linewidth=1.5, label=f"residual, standard deviation {residual.std():.3g}")
    if noise:
        centres = (edges[1:] + edges[:-1]) / 2
        normal = np.exp(-0.5 * (centres / noise) ** 2) * (edges[1] - edges[0]) / (noise * math.sqrt(2 * math.pi))
        ax.plot(centres, normal, "--", color=BEFORE, label=f"noise alone, standard deviation {noise:.3g}")
    ax.set_xlabel("measured minus result (unit of the data)", size=TEXT)
    ax.set_ylabel(f"share of measured voxels,\nin {BINS} bins", size=TEXT)
    ax.set_ylim(0, 1.4 * max(share.max(), 1e-9))
    ax.legend(frameon=False, fontsize=TEXT - 1, loc="upper center")
    return figure


def sampled(values: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Finite values where ``mask`` (True = measured) is True, of a regular subgrid of rows and columns if many.

    >>> sampled(np.array([[[1.0, np.nan, 3.0]]]), np.array([[[True, True, False]]])).tolist()
    [1.0]
    """
    every = max(1, math.ceil(math.sqrt(values.size / MOST_SAMPLES)))
    part = np.s_[:, ::every, ::every]
    chosen = values[part] if mask is None else values[part][mask[part]]
    chosen = chosen.astype(float).ravel()
    finite: np.ndarray = chosen[np.isfinite(chosen)]
    return finite


def figure_of_one() -> tuple[Figure, Axes]:
    """A figure with one panel, wide enough for a column and small enough to be read on a telephone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 2.9), facecolor="white", layout="constrained")
    ax = figure.add_subplot()
    ax.tick_params(labelsize=TEXT - 1)
    ax.grid(color="#e3e6e9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax
