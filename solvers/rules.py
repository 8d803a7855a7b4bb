"""The pointwise rules of a pass over the data, which the array twin and the fused kernels share."""

from __future__ import annotations

from enum import IntEnum


class Rule(IntEnum):
    """What the pass puts in the place of the model, entry by entry (``e`` is the sparse part).

    With ``clip = min(max(., -tau), tau)`` on observed entries:

    - ``RESIDUAL``: ``d = y - x``.
    - ``HUBER``: ``e = soft(y - x, tau)``, so ``d = y - x - e = clip(y - x)``.
    - ``EQUALITY`` (the constraint ``x + e = y`` with scaled dual ``l``, RCT Eqs. 11-12): ``R = y - x - l``,
      ``c = clip(R)``, ``l_new = (1 - gamma) l - gamma c``, ``d = l + c - l_new``.
    - ``CURVATURE``: ``d = x`` (the masked model itself, for Gauss-Newton).

    Entries that were not observed get ``d = 0``, or, with ``nonnegative``, the constraint ``x = z >= 0`` with the same
    scaled dual: ``c = min(x + l, 0)``, ``l_new = (1 - gamma) l + gamma c``, ``d = l - c - l_new``.
    """

    RESIDUAL = 0
    HUBER = 1
    EQUALITY = 2
    CURVATURE = 3
