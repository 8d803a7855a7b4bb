"""Finished cells of a folder, so that a second run does only what is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorcell.evaluation.cells import Cell

Array = npt.NDArray[Any]


CELLS = "cells.jsonl"
"""Name of the file of finished cells."""


class Store:
    """Finished cells of a folder; each is a line of JSON in ``cells.jsonl`` that is appended in one write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / CELLS
        self.slices = folder / "slices"

    def load(self) -> dict[str, dict[str, Any]]:
        """What was found for each key, by its last line; a line that was cut off by a crash is skipped."""
        found: dict[str, dict[str, Any]] = {}
        if self.file.exists():
            for line in self.file.read_text().splitlines():
                with suppress(ValueError, KeyError, TypeError):
                    record = json.loads(line)
                    found[record["key"]] = record["found"]
        return found

    def add(self, cell: Cell, found: Mapping[str, Any], slices: Path | None) -> None:
        """Add a cell: its slices first, then its line in one write."""
        if slices is not None:
            self.slices.mkdir(exist_ok=True)
            os.replace(slices, self.slices / f"{cell.key}.npz")
        names = {"volume": cell.reference.label, "case": cell.case.name, "method": cell.method.name, "seed": cell.seed}
        line = json.dumps({"key": cell.key, **names, "version": cell.version, "found": found}) + "\n"
        with self.file.open("ab+") as file:
            if file.tell() and not _ends_line(file):
                line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def picture_slices(self, cell: Cell) -> tuple[Array, Array] | None:
        """The xy and xz slice of a cell's result; None where they are missing."""
        try:
            with np.load(self.slices / f"{cell.key}.npz") as stored:
                return stored["xy"], stored["xz"]
        except (OSError, ValueError, KeyError):
            return None


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
