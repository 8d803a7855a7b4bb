"""`cupyx.scipy.ndimage`."""

from __future__ import annotations

from cupy import _function
from scipy import ndimage as _ndimage

for _name in dir(_ndimage):
    if not _name.startswith("_") and callable(getattr(_ndimage, _name)):
        globals()[_name] = _function(f"cupyx.scipy.ndimage.{_name}", getattr(_ndimage, _name))
