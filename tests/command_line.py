"""The command line, run in the process of the tests, and a stack for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorcell as tc
from tensorcell import cli


def call_here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run ``tensorcell`` with these arguments; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["tensorcell", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: object) -> int:
    """Run ``tensorcell`` with these arguments in a folder; returns its exit status."""
    monkeypatch.chdir(folder)
    return call_here(monkeypatch, *arguments)


def write_stack(folder: Path, shape: tuple[int, int, int], **simulated: Any) -> Path:
    """Write ``in.tif`` (uint8, with a voxel size) and ``mask.tif``, of simulated cells; returns the folder."""
    cells = tc.datasets.simulate_cells(shape, keep_pixels=0.8, seed=2, **simulated)
    counts = np.where(cells.mask, np.clip(np.rint(np.nan_to_num(cells.measured)), 0, 255), 0).astype(np.uint8)
    tc.write(folder / "in.tif", tc.Volume(counts, spacing=(0.5, 0.2, 0.1)))
    tc.write(folder / "mask.tif", tc.Volume(cells.mask.astype(np.uint8)))
    return folder
