"""Cells: one volume, case and method, what their result depends on, and how they are measured."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tensorcell import metrics
from tensorcell.errors import InputError
from tensorcell.evaluation.cases import FIGURES, TABLE_2, Case, Degraded
from tensorcell.evaluation.memory import peak, reset_peak
from tensorcell.evaluation.methods import Method
from tensorcell.evaluation.references import Reference, central
from tensorcell.evaluation.scores import Row, downstream, score
from tensorcell.files import write_whole
from tensorcell.pages.pictures import choose_slices

Array = npt.NDArray[Any]
Noise = Literal["estimated", "given"]


@dataclass(frozen=True, eq=False)
class Cell:
    """One volume, case and method, with all that the result depends on."""

    reference: Reference
    case: Case
    method: Method
    seed: int
    noise: Noise
    version: str

    @property
    def key(self) -> str:
        """The same for cells that give the same result."""
        parts = (
            self.reference.digest, self.case.name, self.case.says, self.method.name, self.seed, self.noise, self.version
        )  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]

    @property
    def degraded(self) -> Degraded:
        """The degraded reference; it holds the standard deviation of the noise only where methods are given it."""
        degraded = self.case.apply(self.reference, self.seed)
        if self.noise == "given":
            return degraded
        return replace(degraded, measurement=replace(degraded.measurement, sigma=None))

    @property
    def title(self) -> str:
        """Volume, case and method."""
        return f"{self.reference.label}, {self.case.name}, {self.method.name}"

    def row_of(self, found: Mapping[str, Any]) -> Row:
        """A row of the table with what was found."""
        return Row(
            volume=self.reference.label,
            case=self.case.name,
            method=self.method.name,
            seed=self.seed,
            noise=self.noise,
            version=self.version,
            **{name: value for name, value in found.items() if name != "traceback"},
        )


WARM_UP = (13, 24, 24)
"""Planes, rows and columns of the tiny volume that a method restores before it is timed."""


class NotWrittenError(Exception):
    """The disk does not take what a cell found, for which its method is not to blame."""


def measure(cell: Cell, slices: Path | None = None) -> dict[str, Any]:
    """Degrade, restore and score one cell in this process; the two slices that a picture shows go to a file."""
    method, degraded = cell.method, cell.degraded
    small = cell.reference.data[central(cell.reference.data.shape, WARM_UP)]
    tiny = replace(cell, reference=cell.reference._replace(data=small)).degraded
    with suppress(Exception):  # kernels are compiled and modules imported; what goes wrong shows in the cell itself
        (method.warm_up or method.run)(tiny.measurement, cell.seed)
    before = reset_peak()
    start = time.perf_counter()
    estimate = np.asarray(method.run(degraded.measurement, cell.seed))
    seconds = time.perf_counter() - start
    found: dict[str, Any] = {"seconds": seconds, "memory": max(0.0, peak() - before)}
    found |= score(degraded, estimate)
    if method.ours and cell.case.name in TABLE_2:
        with suppress(InputError):
            found["piqe"] = float(metrics.piqe(np.clip(estimate, 0, 1), data_range=1.0))
    if cell.case.name in FIGURES:
        found |= downstream(degraded.truth, estimate)
    if slices is not None:
        plane, row = choose_slices(degraded.measured, degraded.truth)
        stream = io.BytesIO()
        np.savez_compressed(stream, xy=estimate[plane].astype(np.float32), xz=estimate[:, row].astype(np.float32))
        try:
            write_whole(slices, stream.getvalue())
        except InputError as error:
            raise NotWrittenError(str(error)) from error
    return found
