"""The HDF5 file of phase transitions: which cells were computed, with which settings and by which versions.

The file's attributes hold its format, the settings and the versions. A group for each shape and pattern holds ``rank``
(cells, k), ``samples`` (cells,) and ``successes`` (cells,).
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .planted_problems import Job, Method, Pattern, Rank, Shape

Ints = npt.NDArray[np.int64]

FORMAT = "tensorcell phase transitions, 1"


class Store:
    """The cells of one shape and pattern in a file, which is read, and written anew after each cell."""

    def __init__(self, path: Path, job: Job) -> None:
        self.path = path
        self.group = f"{'x'.join(map(str, job.shape))} {job.pattern}"
        self.attributes = {"shape": job.shape, "pattern": job.pattern}
        self.settings = {
            "method": method_name(job.method),
            "trials": job.trials,
            "success": job.success,
            "noise": job.noise,
            "outliers": job.outliers,
            "seed": job.seed,
        }
        if not path.parent.is_dir():
            raise ValueError(f"expected path in a folder that exists, got {path}")
        if path.is_dir():
            raise ValueError(f"expected path as a file, got the folder {path}")

    def read(self) -> dict[tuple[Rank, int], int]:
        """Successes by rank and samples; refuses a file with other settings."""
        if not self.path.exists():
            return {}
        with opened(self.path) as file:
            there = json.loads(file.attrs["settings"])
            for name, value in self.settings.items():
                if there[name] != value:
                    raise ValueError(
                        f"{self.path} was computed with {name} {there[name]}, expected {value}: choose another file"
                    )
            if self.group not in file:
                return {}
            group = file[self.group]
            rows = zip(group["rank"][:].tolist(), group["samples"][:].tolist(), group["successes"][:], strict=True)
            return {(tuple(rank), samples): int(successes) for rank, samples, successes in rows}

    def write(self, found: dict[tuple[Rank, int], int]) -> None:
        """Write all cells of this shape and pattern, in an order that does not depend on the run."""
        import h5py

        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            # The file is written anew, since HDF5 does not give the space of deleted groups back.
            with h5py.File(part, "w") as file:
                file.attrs["format"] = FORMAT
                file.attrs["settings"] = json.dumps(self.settings)
                file.attrs["versions"] = json.dumps(versions())
                if self.path.exists():
                    with opened(self.path) as before:
                        for name in before:
                            if name != self.group:
                                before.copy(name, file)
                group = file.create_group(self.group)
                group.attrs.update(self.attributes)
                cells = sorted(found)
                group["rank"] = np.array([rank for rank, _ in cells], dtype=np.int64)
                group["samples"] = np.array([samples for _, samples in cells], dtype=np.int64)
                group["successes"] = np.array([found[cell] for cell in cells], dtype=np.int64)
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)


class Recorded(NamedTuple):
    """All cells of one shape and pattern in a file."""

    shape: Shape
    pattern: Pattern
    trials: int
    ranks: Ints  # (cells, k)
    samples: Ints  # (cells,)
    successes: Ints  # (cells,)


def recorded(path: Path) -> list[Recorded]:
    """The cells of every shape and pattern in a file, in the order of its groups."""
    with opened(path) as file:
        trials = int(json.loads(file.attrs["settings"])["trials"])
        return [
            Recorded(
                tuple(map(int, group.attrs["shape"])),
                group.attrs["pattern"],
                trials,
                *(group[name][:] for name in ("rank", "samples", "successes")),
            )
            for group in file.values()
        ]


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file of ours, open for reading."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError:
        raise ValueError(
            f"expected an HDF5 file of phase transitions, got {path}, which cannot be read as one"
        ) from None
    with file:
        if "format" not in file.attrs or file.attrs["format"] != FORMAT:
            raise ValueError(f"expected an HDF5 file with format {FORMAT!r}, got {path} without it")
        yield file


def method_name(method: Method) -> str:
    """Module and name of a method, with the arguments that ``functools.partial`` fixed.

    >>> from tensorcell.solvers import complete_tucker
    >>> method_name(partial(complete_tucker, robust=False)).rpartition(".")[2]
    'complete_tucker(robust=False)'
    """
    if isinstance(method, partial):
        fixed = [*map(repr, method.args), *(f"{name}={value!r}" for name, value in sorted(method.keywords.items()))]
        return f"{method_name(method.func)}({', '.join(fixed)})"
    name = getattr(method, "__qualname__", type(method).__qualname__)
    return f"{getattr(method, '__module__', type(method).__module__)}.{name}"


def versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    import numba
    import scipy

    own = sys.modules[__name__.partition(".")[0]]
    return {
        "tensorcell": str(getattr(own, "__version__", "unknown")),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": numba.__version__,
    }
