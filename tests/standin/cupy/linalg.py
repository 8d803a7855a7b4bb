"""`cupy.linalg`."""

from __future__ import annotations

import numpy as _np

from . import _function

for _name in dir(_np.linalg):
    if not _name.startswith("_") and callable(getattr(_np.linalg, _name)) and _name != "LinAlgError":
        globals()[_name] = _function(f"linalg.{_name}", getattr(_np.linalg, _name))
