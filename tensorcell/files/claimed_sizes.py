"""What a header claims is compared with the memory that is free before any of it is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tensorcell.errors import InputError
from tensorcell.memory import free_memory, size_text


def check_claim(shape: Sequence[int], dtype: Any) -> int:
    """The bytes of an array of that shape; raise `InputError` if they are more than the free memory.

    >>> import numpy as np
    >>> check_claim((5, 16, 18), np.dtype("u2"))
    2880
    """
    claimed, free = math.prod(shape) * int(dtype.itemsize), free_memory()
    if free is not None and claimed > free:
        sizes = " x ".join(map(str, shape))
        raise InputError(
            f"claims {sizes} values of {dtype}, which need {size_text(claimed)} of memory; {size_text(free)} are free"
        )
    return claimed
