"""The line in a result's metadata that says what was done to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorcell.version import __version__


def processed(metadata: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata with a line on a recovery with these options, after the lines of earlier runs.

    >>> processed({"processing": "cropped"}, {"noise": 2.0})["processing"].splitlines()[0]
    'cropped'
    """
    said = ", ".join(f"{name}={value}" for name, value in options.items())
    line = f"tensorcell {__version__} recover: {said}"
    before = metadata.get("processing")
    return {**metadata, "processing": f"{before}\n{line}" if before else line}
