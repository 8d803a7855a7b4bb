"""Names of unfinished files, which tell the output that they are to become, and the removal of files."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from pathlib import Path

from tensorcell.files.formats import FilePath

MARK = ".tensorcell-"
"""How the names of unfinished files and of locks begin; the dot hides them."""

OLD = ".old"
"""How the second name of what lay in the place of an output ends."""


def mark_of(path: Path) -> str:
    """How the unfinished files of an output begin: the same in every run, and another for every output."""
    return f"{MARK}{hashlib.sha256(path.name.encode()).hexdigest()[:12]}-"


def place_of(path: FilePath) -> Path:
    """Where an output lies, if its path is a link, too."""
    return Path(os.path.realpath(path))


def temporary_name(path: FilePath, ending: str = ".part") -> Path:
    """A new hidden name in the folder of an output; if that is a link, in the folder of its target."""
    target = place_of(path)
    return target.with_name(f"{mark_of(target)}{secrets.token_hex(8)}{ending}")


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists; no error is raised, so that an earlier one is shown."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except (OSError, ValueError):
        return
