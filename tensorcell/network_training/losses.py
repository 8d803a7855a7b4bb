"""The table of losses of a fit, as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorcell.files import write_whole

LOSSES = "losses.csv"


class LossTable:
    """A CSV file of losses to which rows are added; those after the step from which a fit goes on are dropped."""

    def __init__(self, path: Path, stage: str, done: int) -> None:
        self.stage = stage
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if row[:1] != [stage] or int(row[1]) <= done]
        kept = io.StringIO(newline="")
        csv.writer(kept, lineterminator="\n").writerows(rows)
        write_whole(path, kept.getvalue().encode("utf-8"))  # a kill leaves the old table, or the new one
        self.file = path.open("a", encoding="utf-8", newline="")
        self.writer = csv.writer(self.file, lineterminator="\n")

    def __enter__(self) -> LossTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, step: int, loss: float, heldout: float) -> None:
        """A row; the held-out loss is empty before the first look."""
        self.writer.writerow([self.stage, step, repr(loss), "" if math.isnan(heldout) else repr(heldout)])
        self.file.flush()


def resumed_at(folder: Path) -> int:
    """The step from which a fit goes on."""
    from tensorcell.diffusion_guidance.priors import read_safetensors

    return int(read_safetensors(folder / "training_state.safetensors")["counted"][0])


def with_losses(save: Callable[[Path], Any], losses: str, folder: Path) -> None:
    """Write a folder, and the table of losses into it."""
    save(folder)
    (folder / LOSSES).write_text(losses, encoding="utf-8")
