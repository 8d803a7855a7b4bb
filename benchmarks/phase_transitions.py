"""Computes the table of phase transitions that ships with the package, or the transition of one shape.

    python benchmarks/phase_transitions.py [--path FILE] [--trials 10] [--workers N] [--shape 30x30x30 --ranks 1,2]

Finished cells are kept in the file: run the command again to go on. One line for each rank says from how many samples
half of the planted tensors are recovered. The exit status is 0, 2 for bad input, and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

if __name__ == "__main__":  # run as a script: find `tensorcell` where it is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tensorcell.solvers.checks import checked_rank
from tensorcell.solvers.phase_simulation import Cell, phase_transition
from tensorcell.solvers.planted_problems import Pattern, Rank, Shape, checked_shape
from tensorcell.solvers.rank_limits import degrees_of_freedom
from tensorcell.solvers.thresholds import TABLE


class Planned(NamedTuple):
    """A part of the shipped table: one shape, and the same multiples of the degrees of freedom for some ranks."""

    shape: Shape
    ranks: tuple[int | Rank, ...]
    multiples: tuple[float, ...]
    pattern: Pattern = "uniform"

    def ratios(self) -> list[list[float]]:
        """Sampling ratios, ``(ranks, multiples)``; multiples above full sampling become full sampling."""
        voxels = math.prod(self.shape)
        free = [degrees_of_freedom(checked_rank(rank, self.shape), self.shape) for rank in self.ranks]
        return [[min(1.0, multiple * f / voxels) for multiple in self.multiples] for f in free]


LOW, MIDDLE, HIGH = (2, 2.5, 3, 3.5, 4, 5, 6.5), (2, 2.5, 3, 3.5, 4, 5), (1.25, 1.5, 1.75, 2, 2.5)

PLAN = (
    Planned((30, 30, 30), (1, 2), LOW),
    Planned((30, 30, 30), (3, 5), (1.5, *MIDDLE)),
    Planned((30, 30, 30), (8, 12), (*HIGH, 2.25, 3)),
    Planned((50, 50, 50), (1, 2), LOW[1:]),
    Planned((50, 50, 50), (3, 5), MIDDLE),
    Planned((50, 50, 50), (8, 12), HIGH),
    Planned((60, 50, 20), ((5, 5, 5),), MIDDLE),
    Planned((60, 50, 20), ((12, 8, 4),), HIGH),
    Planned((12, 12, 12, 12), (1, 2), LOW),
    Planned((12, 12, 12, 12), (3,), (1.1, *HIGH, 2.25, 3)),
    Planned((12, 12, 12, 12), (5,), (1.1, *HIGH)),
    Planned((80, 80), (2, 8), MIDDLE),
    Planned((30, 30, 30), (2, 4), (6, 9, 13, 18, 25, 35), "lines"),
    Planned((30, 30, 30), (2,), (75, 148), "planes"),
)
"""The shipped table: a hundredth to a half of the entries of small tensors, about eight minutes on one core."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the shipped table, or the transition of one shape; exit status 0, 2 for bad input, 130 on Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        plan = planned(options)
        for part in plan:
            found = phase_transition(
                part.shape,
                part.ranks,
                part.ratios(),
                pattern=part.pattern,
                trials=options.trials,
                noise=options.noise,
                outliers=options.outliers,
                success=options.success,
                seed=options.seed,
                workers=options.workers,
                path=options.path,
                callback=None if options.quiet else partial(show_progress, part),
            )
            for rank, free, half, ratio in zip(
                found.ranks, found.degrees_of_freedom, found.threshold, found.oversampling, strict=True
            ):
                reached = (
                    f"half recovered from {half:,.0f} samples, {ratio:.2f} times"
                    if math.isfinite(half)
                    else ("never half recovered;")
                )
                sys.stdout.write(f"{titled(part, rank)}: {reached} {free:,} degrees of freedom\n")
    except (TypeError, ValueError) as error:
        sys.stderr.write(f"phase_transitions: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"phase_transitions: interrupted; finished cells are in {options.path}\n")
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line; defaults of :func:`phase_transition` hold where nothing is given."""
    made = argparse.ArgumentParser(
        prog="python benchmarks/phase_transitions.py",
        description="Compute the table of phase transitions that ships with the package, or that of one shape. "
        "Finished cells are kept: run it again to go on.",
    )
    made.add_argument(
        "--path", type=Path, default=Path(TABLE), help="HDF5 file to write and resume (default %(default)s)"
    )
    made.add_argument("--trials", type=int, default=10, help="tensors a cell (default %(default)s)")
    made.add_argument("--workers", type=int, default=None, help="processes (default: all cores)")
    made.add_argument("--seed", type=int, default=0, help="seed (default %(default)s)")
    made.add_argument("--success", type=float, default=1e-3, help="relative error that counts (default %(default)s)")
    made.add_argument("--noise", type=float, default=0.0, help="noise in root mean squares (default %(default)s)")
    made.add_argument("--outliers", type=float, default=0.0, help="share of outliers (default %(default)s)")
    made.add_argument("--shape", help="only this shape, such as 30x30x30, with --ranks")
    made.add_argument("--ranks", help="ranks, such as 1,2,4x3x2")
    made.add_argument(
        "--multiples", default="1.5,2,2.5,3,3.5,4,5", help="samples / degrees of freedom (default %(default)s)"
    )
    made.add_argument(
        "--pattern", choices=get_args(Pattern), default="uniform", help="with --shape (default %(default)s)"
    )
    made.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return made


def planned(options: argparse.Namespace) -> tuple[Planned, ...]:
    """What the options ask for."""
    if options.shape is None and options.ranks is None:
        return PLAN
    if options.shape is None or options.ranks is None:
        raise ValueError("expected --shape and --ranks together, got one of them")
    ranks = tuple(rank[0] if len(rank) == 1 else rank for rank in map(sizes_in, options.ranks.split(",")))
    try:
        multiples = tuple(map(float, options.multiples.split(",")))
    except ValueError:
        raise ValueError(f"expected --multiples as numbers with commas, got {options.multiples!r}") from None
    return (Planned(checked_shape(sizes_in(options.shape)), ranks, multiples, options.pattern),)


def sizes_in(text: str) -> tuple[int, ...]:
    """``"30x20x10"`` as ``(30, 20, 10)``."""
    try:
        return tuple(map(int, text.split("x")))
    except ValueError:
        raise ValueError(f"expected sizes such as 30x20x10, got {text!r}") from None


def show_progress(part: Planned, cell: Cell) -> None:
    """One line a cell on stderr."""
    sys.stderr.write(
        f"[{cell.done}/{cell.total}] {titled(part, cell.rank)}: {cell.samples:,} samples, "
        f"{cell.successes} of {cell.trials} recovered\n"
    )
    sys.stderr.flush()


def titled(part: Planned, rank: Rank) -> str:
    """Shape, pattern and rank in words."""
    return f"{'x'.join(map(str, part.shape))} {part.pattern}, rank {','.join(map(str, rank))}"


if __name__ == "__main__":
    sys.exit(main())
