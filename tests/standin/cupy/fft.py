"""`cupy.fft`."""

from __future__ import annotations

import numpy as _np

from . import _function

for _name in dir(_np.fft):
    if not _name.startswith("_") and callable(getattr(_np.fft, _name)):
        globals()[_name] = _function(f"fft.{_name}", getattr(_np.fft, _name))
