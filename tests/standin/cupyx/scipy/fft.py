"""`cupyx.scipy.fft`."""

from __future__ import annotations

from cupy import _function
from scipy import fft as _fft

for _name in dir(_fft):
    if not _name.startswith("_") and callable(getattr(_fft, _name)):
        globals()[_name] = _function(f"cupyx.scipy.fft.{_name}", getattr(_fft, _name))
