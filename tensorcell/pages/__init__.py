"""What users look at: pages and pictures.

A result has its page in a module that imports the result and registers it here; results know only :func:`write`. So a
page may show whatever its result holds, and no result depends on how it is shown.
"""

from __future__ import annotations

import os
from functools import singledispatch
from pathlib import Path
from typing import Any

from tensorcell.files import check_writable, write_whole


@singledispatch
def page(result: Any) -> str:
    """One self-contained HTML page that shows a result.

    Raises
    ------
    TypeError
        If no page is registered for this kind of result.
    """
    raise TypeError(f"expected a result that has a page, got {type(result).__name__}")


def write(result: Any, path: str | os.PathLike[str]) -> None:
    """Write the page of a result; the file appears whole or not at all.

    Raises
    ------
    InputError
        If the suffix is not ``.html`` or the file cannot be written.
    TypeError
        If no page is registered for this kind of result.
    """
    target = Path(path)
    check_writable(target, (".html",))
    write_whole(target, page(result).encode())
