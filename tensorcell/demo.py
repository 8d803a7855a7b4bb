"""``tensorcell demo``: simulated cells are measured in two ways and recovered, and scored beside a simple baseline."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from tensorcell import metrics
from tensorcell.datasets import SimulatedCells, simulate_cells
from tensorcell.errors import InputError
from tensorcell.files import write
from tensorcell.interpolation import interpolate_planes
from tensorcell.pages.pictures import Picture, choose_slices, grey_scale, picture_bytes, take_slices
from tensorcell.progress import ProgressBar
from tensorcell.recovered import Recovery
from tensorcell.recovery import recover
from tensorcell.volume import Volume

SHAPE = (33, 128, 128)
SPACING = (0.3, 0.2, 0.2)


@dataclass(frozen=True, eq=False)
class Case:
    """One way of measuring, with the estimates of a baseline and of `recover`, all on the grid of the truth."""

    name: str
    """Begins the names of the files."""
    title: str
    """For the table and the picture."""
    cells: SimulatedCells
    axial_factor: int
    given: np.ndarray
    """Measured intensities, NaN elsewhere."""
    mask: np.ndarray
    """True = measured."""
    baseline: np.ndarray
    """Estimate of the baseline."""
    baseline_name: str
    result: Recovery


def median_fill(stack: np.ndarray) -> np.ndarray:
    """Replace every voxel by the median of the measured voxels in its 3 x 3 x 3 neighbourhood (NaN = not measured).

    Where there are none, it is the median of all measured voxels.
    """
    padded = np.pad(stack, 1, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3))
    filled = np.empty_like(stack)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # raised for a neighbourhood without any measured voxel
        for z in range(len(stack)):
            filled[z] = np.nanmedian(windows[z].reshape(*stack.shape[1:], 27), axis=-1)
    return np.where(np.isnan(filled), np.nanmedian(stack), filled)


def pixels_case() -> Case:
    """Half of the pixels are not measured, and 5 % of the measured ones are outliers."""
    cells = simulate_cells(SHAPE, spacing=SPACING, keep_pixels=0.5, outliers=0.05, peak_photons=400.0, seed=1)
    result = recover(cells.measured, spacing=cells.spacing)
    return Case(
        "pixels", "Half of the pixels missing, 5 % of the others wrong", cells, 1, cells.measured, cells.mask,
        median_fill(cells.measured), "3 x 3 x 3 median", result,
    )  # fmt: skip


def planes_case() -> Case:
    """Every second plane is measured."""
    cells = simulate_cells(SHAPE, spacing=SPACING, axial_factor=2, peak_photons=400.0, seed=1)
    result = recover(cells.measured, axial_factor=2, spacing=cells.spacing)
    given = np.full(cells.truth.shape, np.nan, np.float32)
    given[::2] = cells.measured
    mask = ~np.isnan(given)
    return Case(
        "planes", "Every 2nd plane measured", cells, 2, given, mask, interpolate_planes(given, mask),
        "linear interpolation", result,
    )  # fmt: skip


def picture(case: Case) -> Picture:
    """Slices of the input, the baseline, the result and the truth."""
    plane, row = choose_slices(case.mask)
    clean = np.where(case.result.outliers != 0, np.nan, case.cells.measured)
    grey = grey_scale(clean, ~np.isnan(clean))
    panels = [
        take_slices("Input", case.given, plane, row, case.mask),
        take_slices(case.baseline_name.capitalize(), case.baseline, plane, row),
        take_slices("tensorcell", case.result.volume.data, plane, row),
    ]
    return Picture(
        panels, plane, row, case.cells.truth.shape, case.cells.truth_spacing, grey,
        take_slices("Truth", case.cells.truth, plane, row), title=case.title,
        plane_note="" if case.mask[plane].any() else "not measured",
    )  # fmt: skip


def scores(case: Case, estimate: np.ndarray) -> dict[str, float]:
    """PSNR on all voxels and on those that were not measured, SSIM and NRMSE, against the noise-free truth."""
    truth = case.cells.truth
    peak = float(np.percentile(truth, 99.9))
    return {
        "psnr": metrics.psnr(truth, estimate, data_range=peak),
        "psnr_missing": metrics.psnr(truth, estimate, data_range=peak, mask=~case.mask),
        "ssim": metrics.ssim(truth, estimate, data_range=peak),
        "nrmse": metrics.nrmse(truth, estimate),
    }


def score_table(title: str, found: dict[str, dict[str, float]]) -> Table:
    """A table with one row for each method."""
    table = Table("", title=f"{title}: scores against the noise-free truth", box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("PSNR, all", "PSNR, missing", "SSIM", "NRMSE"):
        table.add_column(column, justify="right")
    for method, score in found.items():
        decibels = (f"{score[name]:.2f} dB" for name in ("psnr", "psnr_missing"))
        table.add_row(method, *decibels, f"{score['ssim']:.3f}", f"{score['nrmse']:.3f}")
    return table


def run_demo(folder: Path, *, quiet: bool = False) -> dict[str, Any]:
    """Run both cases, print a table of scores for each and write the files; return the scores by case and method.

    ``quiet`` shows neither progress nor scores.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror or error}") from None
    console = Console(highlight=False, markup=False, quiet=quiet)
    console.soft_wrap = not console.is_terminal  # a terminal's lines are broken at spaces, those of a file are not
    found: dict[str, Any] = {}
    with ProgressBar(enabled=False if quiet else None, runs=("pixels", "planes")):
        cases = [make() for make in (pixels_case, planes_case)]
    for case in cases:
        methods = {case.baseline_name: case.baseline, "tensorcell": case.result.volume.data}
        found[case.name] = {method: scores(case, estimate) for method, estimate in methods.items()}
        console.print(score_table(case.title, found[case.name]))
        for note in case.result.notes:
            console.print(f"  {note}")
        console.print()
        for name, data, spacing in (
            ("input", case.cells.measured, case.cells.spacing),
            ("output", case.result.volume.data, case.result.volume.spacing),
            ("truth", case.cells.truth, case.cells.truth_spacing),
            ("outliers", case.result.outliers, case.cells.spacing),
        ):
            write(folder / f"{case.name}_{name}.tif", Volume(data, spacing=spacing))
    target = folder / "before_after.png"
    part = folder / ".before_after.part"
    try:
        part.write_bytes(picture_bytes([picture(case) for case in cases]))
        part.replace(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    console.print(f"Look at {target}; inputs, outputs, truths and outliers lie beside it.")
    return found
