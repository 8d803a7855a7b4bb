"""Sample data for napari: simulated cells, measured in two ways, and the truth."""

from __future__ import annotations

from typing import Any

from tensorcell.datasets import simulate_cells
from tensorcell.napari_plugin.layers import LayerData, layers_of
from tensorcell.volume import Volume

SHAPE = (25, 96, 96)
CELLS = 20
PHOTONS = 400.0


def missing_pixels() -> list[LayerData]:
    """Cells of which half of the pixels were not measured, and a twentieth of the others are wrong."""
    return sample("half of the pixels", keep_pixels=0.5, outliers=0.05)


def missing_planes() -> list[LayerData]:
    """Cells of which every second plane was measured."""
    return sample("every second plane", axial_factor=2)


def sample(name: str, **measured: Any) -> list[LayerData]:
    """The truth, hidden, and above it what was measured."""
    cells = simulate_cells(SHAPE, spacing=(0.3, 0.2, 0.2), cells=CELLS, peak_photons=PHOTONS, seed=1, **measured)
    truth = layers_of(Volume(cells.truth, spacing=cells.truth_spacing), "cells: truth")
    for _, meta, _ in truth:
        meta["visible"] = False
    seen = layers_of(Volume(cells.measured, spacing=cells.spacing), f"cells: {name}")
    for _, meta, _ in seen:
        meta["contrast_limits"] = truth[0][1]["contrast_limits"]  # that of the measurement is set by the wrong voxels
    return [*truth, *seen]
