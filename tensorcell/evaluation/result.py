"""What an evaluation found: a row for each cell, and the tables made of them."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from tensorcell.evaluation import tables
from tensorcell.evaluation.means import Difference, Mean, differences, means
from tensorcell.evaluation.scores import Row
from tensorcell.files import write_whole
from tensorcell.solvers.iteration import duration


class Picture(NamedTuple):
    """A picture of one volume and case."""

    case: str
    name: str
    """What it shows."""
    file: str
    """Path relative to the folder of the evaluation."""


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """What `evaluate` returns; ``str()`` is its tables of means.

    Attributes
    ----------
    rows : tuple of Row
        One a cell: volume by volume, case by case.
    reused : int
        Cells that were finished in an earlier run.
    seconds : float
        Wall time of this run.
    notes : tuple of str
        What one should know of the scores, a line each.
    folder : Path
        Where everything was written.
    pictures : tuple of Picture
        Pictures of the results in that folder.
    """

    rows: tuple[Row, ...]
    reused: int
    seconds: float
    notes: tuple[str, ...]
    folder: Path
    pictures: tuple[Picture, ...] = ()

    @property
    def failed(self) -> tuple[Row, ...]:
        """Cells without scores."""
        return tuple(row for row in self.rows if not row.done)

    def means(self) -> tuple[Mean, ...]:
        """Means over volumes, for each case and method; a method with no finished cell in a case is left out."""
        return means(self.rows)

    def differences(self, method: str, against: str | Sequence[str], *, score: str = "psnr") -> tuple[Difference, ...]:
        """How much better a method scores than the best of others in the same volume, case by case.

        Only volumes count where the method and at least one of the others are done.

        Parameters
        ----------
        method : str
        against : str or sequence of str
            With several, the best of them in each volume.
        score : str
            One of `SCORES`; where lower is better, the sign is turned.
        """
        return differences(self.rows, method, against, score)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write all rows as CSV; a score that does not apply is empty."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        names = [part.name for part in fields(Row)]
        writer.writerow(names)
        for row in self.rows:
            values = [getattr(row, name) for name in names]
            writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in values])
        write_whole(path, stream.getvalue().encode())

    def to_markdown(self) -> str:
        """Means, differences between our methods and the others, and every cell, as Markdown tables."""
        return tables.markdown(self.rows, self.notes)

    def summary(self) -> str:
        """The tables of means alone, for a terminal."""
        return tables.summary(self.rows)

    def paper_table(self, method: str = "auto") -> str:
        """Means of a method in the form of Table 2 of "Recover Cell Tensor", as Markdown.

        Raises
        ------
        InputError
            The method has no finished cell in any of its settings.
        """
        return tables.paper_table(self.rows, method)

    def paper_tables(self) -> str:
        """`paper_table` of each of our methods that finished a cell of it."""
        return tables.paper_tables(self.rows)

    def __str__(self) -> str:
        return f"{self.summary()}\n{self.sentence}"

    def __repr__(self) -> str:
        return str(self)

    @property
    def sentence(self) -> str:
        """How many cells there are, how many of them this run did, and where the page is."""
        text = f"{len(self.rows)} cells: {len(self.rows) - self.reused} done now in {duration(self.seconds)}, "
        text += f"{self.reused} from before"
        if self.failed:
            text += f"; {len(self.failed)} have no scores"
        return f"{text}; {self.folder / 'index.html'}"

    def to_dict(self) -> dict[str, Any]:
        """Rows, means and notes as plain numbers and texts for JSON; a score that does not apply is None."""

        def plain(value: Any) -> Any:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return {
            "rows": [{name: plain(value) for name, value in asdict(row).items()} for row in self.rows],
            "means": [
                {"case": m.case, "method": m.method, "volumes": m.volumes, **{k: plain(v) for k, v in m.scores.items()}}
                for m in self.means()
            ],
            "notes": list(self.notes),
            "reused": self.reused,
            "seconds": round(self.seconds, 3),
            "folder": str(self.folder),
        }
