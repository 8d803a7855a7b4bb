"""The version of the code that the scores of a method depend on, so that changed code repeats its cells."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tensorcell.evaluation.methods import Method, Run

PACKAGE = Path(__file__).absolute().parent.parent
JUDGES = ("cases", "cells", "references", "scores", "segmentation")
"""Modules of this folder that decide what a method gets and how it is judged."""
SHARED = ("tensorcell.metrics", "tensorcell.interpolation", "tensorcell.solvers.spread")
"""Further code that scores or methods of other packages depend on: modules, or packages with all their files."""
UNRELATED = ("__main__.py", "cli", "cli.py", "demo.py", "evaluation", "page.py", "pages", "planning")
"""Files and folders of the package that no result of :func:`tensorcell.recover` depends on."""


def code_version(method: Method) -> str:
    """Digest of the code that a method's scores come from, and the versions of the packages it needs."""
    files = {PACKAGE / "evaluation" / f"{name}.py" for name in JUDGES}
    for name in SHARED:
        files.update(_module_files(name))
    files.add(Path(sys.modules[plain_function(method.run).__module__].__file__ or __file__).absolute())
    if method.ours:
        skipped = UNRELATED if method.learns else (*UNRELATED, "diffusion_guidance")
        files.update(python_files(PACKAGE, skipped))
    digest = hashlib.sha256()
    for name, file in sorted((_place(file), file) for file in files):
        digest.update(name.encode() + file.read_bytes())
    distributions = importlib.metadata.packages_distributions() if method.needs else {}
    versions = [
        f"{name} {importlib.metadata.version(distributions[name][0])}" for name in method.needs if name in distributions
    ]
    fitted = [f"weights {method.weights}"] if method.weights else []
    return " ".join((digest.hexdigest()[:12], *versions, *fitted))


def plain_function(run: Run) -> Any:
    """The function inside of partial ones."""
    found: Any = run
    while isinstance(found, functools.partial):
        found = found.func
    return found


def python_files(folder: Path, skipped: Collection[str] = ()) -> Iterator[Path]:
    """All Python files of a folder and of its sub-folders, links followed; those of the names skipped are left out."""
    for entry in folder.iterdir():
        if entry.name in skipped:
            continue
        if entry.is_dir():
            yield from python_files(entry, skipped)
        elif entry.suffix == ".py" and not entry.name.endswith("_page.py"):
            yield entry


def _module_files(name: str) -> Iterator[Path]:
    """The file of a module, or all files of a package."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name)
    if spec.submodule_search_locations is None:
        yield Path(spec.origin).absolute()
    else:
        yield from python_files(Path(spec.origin).absolute().parent)


def _place(file: Path) -> str:
    """Where a file is in the package, since files of two folders may have one name; elsewhere its name."""
    return file.relative_to(PACKAGE).as_posix() if file.is_relative_to(PACKAGE) else file.name
