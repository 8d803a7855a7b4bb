"""Whether the installed CuPy has what was called of the stand-in, with those arguments.

Reads a list of calls as JSON, each a name, the number of its arguments and its keywords; prints what does not fit.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from typing import Any


def signature_of(function: Any) -> inspect.Signature:
    """Its signature; that of a compiled function stands in the first line of its description."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        line = (function.__doc__ or "").strip().splitlines()[0].replace("\\", "")
    found = re.search(r"\((.*)\)", line)
    if found is None:
        raise ValueError(f"no signature in {line!r}")
    names: dict[str, Any] = {}
    exec(f"def function({found[1]}): ...", names)
    return inspect.signature(names["function"])


def trouble_of(name: str, count: int, keywords: list[str]) -> str | None:
    """What is wrong with a call, or None."""
    parts = name.split(".")
    further = parts[0] == "cupyx"  # as in cupyx.scipy.ndimage.gaussian_filter
    place = importlib.import_module(".".join(parts[:3]) if further else "cupy")
    for part in parts[3:] if further else parts:
        if not hasattr(place, part):
            return f"{name}: there is none"
        place = getattr(place, part)
    own = parts[0] == "ndarray"
    try:
        signature_of(place).bind(*[None] * (count + own), **dict.fromkeys(keywords))
    except (TypeError, ValueError) as error:
        return f"{name}: {error}"
    return None


if __name__ == "__main__":
    import cupy

    found = [trouble for call in json.load(sys.stdin) if (trouble := trouble_of(*call))]
    json.dump({"version": cupy.__version__, "trouble": found}, sys.stdout)
