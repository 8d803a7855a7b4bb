"""Pages that are made from the code when the documentation is built, so that they cannot differ from it."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

import tensorcell as tc
from tensorcell.files.formats import Format, NotHeld
from tensorcell.files.table import FORMATS
from tensorcell.methods.table import METHODS

LISTED = ("datasets", "metrics", "solvers", "diffusion_guidance")
"""Packages whose public functions and classes have a page of the reference."""


def write_all(folder: Path) -> None:
    """Write the pages to a folder; those that have not changed are left, so that Sphinx does not read them again."""
    folder.mkdir(exist_ok=True)
    pages = {"formats.md": formats(), "methods.md": methods()}
    pages |= {f"{name}.rst": summary(f"tensorcell.{name}") for name in LISTED}
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def formats() -> str:
    """The table of file formats, with what is lost of a volume that is written in each."""
    rows = [("format", "suffixes", "read", "written", "not kept", "parts", "several in one file")]
    for one in FORMATS:
        parts = [name for name, way in (("read", one.open), ("written", one.tiles)) if way is not None]
        several = {"one": "", "several": "by name", "tree": "by path"}[one.holds]
        suffixes = " ".join(f"`{suffix}`" for suffix in one.suffixes)
        written = "yes" if one.write else "no"
        images = "images" if one.has_series else ""
        inside = ", ".join(filter(None, (several, images)))
        rows.append((one.name, suffixes, "yes", written, lost(one), " and ".join(parts), inside))
    return table(rows)


def lost(one: Format) -> str:
    """What a format does not keep of a volume with axes, a voxel size, a mask and metadata: it is written to see."""
    if one.write is None:
        return ""
    values = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    full = tc.Volume(values, axes="ZYX", spacing=(0.5, 0.2, 0.2), mask=values % 2 == 0, metadata={"specimen": "cells"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"volume{one.suffixes[0]}"
        try:
            found = one.write(path, full, None, False)
        except (ImportError, tc.InputError) as error:
            if isinstance(error, NotHeld):
                raise
            return f"(not tried here: {error})"
    return ", ".join(found.lost) or "nothing is lost"


def methods() -> str:
    """The methods of `recover`, with their options and defaults."""
    text = []
    for method in METHODS.values():
        text.append(f"**`{method.name}`**: {method.summary}\n")
        rows = [("option", "default", "what it does")]
        for options in method.options:
            rows += [
                (f"`{field.name}`", f"`{field.default!r}`", field.metadata.get("help", "")) for field in fields(options)
            ]
        text.append(table(rows))
    return "\n".join(text)


def summary(package: str) -> str:
    """A page of a package: the docstrings of its public names."""
    found = importlib.import_module(package)
    lines = [package, "=" * len(package), "", f".. currentmodule:: {package}", ""]
    for name in found.__all__:
        kind = "class" if isinstance(getattr(found, name), type) else "function"
        if callable(getattr(found, name)):
            lines += ["", f".. auto{kind}:: {name}"]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row is its head."""
    head, *rest = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *rest]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
