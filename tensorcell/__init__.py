"""Recover 3-D and 4-D microscopy volumes from too few, too noisy measurements.

>>> import tensorcell as tc
>>> cells = tc.datasets.simulate_cells((16, 32, 32), cells=4, axial_factor=2)
>>> tc.recover(cells.measured, axial_factor=2).volume.shape
(15, 32, 32)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tensorcell.version import __version__

if TYPE_CHECKING:
    from tensorcell import datasets, metrics
    from tensorcell.diagnosis import Diagnosis, diagnose
    from tensorcell.errors import InputError
    from tensorcell.evaluation import evaluate
    from tensorcell.files import open_volume, read, write
    from tensorcell.for_deepinv import to_deepinv_denoiser, to_deepinv_physics
    from tensorcell.large import FileRecovery, recover_file
    from tensorcell.lazy_volume import LazyVolume
    from tensorcell.planning import SamplingPlan, plan
    from tensorcell.recovered import Recovery
    from tensorcell.recovery import recover
    from tensorcell.trained import train
    from tensorcell.volume import Volume

    RecoveryReport = Diagnosis

__all__ = [
    "Diagnosis",
    "FileRecovery",
    "InputError",
    "LazyVolume",
    "Recovery",
    "RecoveryReport",
    "SamplingPlan",
    "Volume",
    "__version__",
    "datasets",
    "diagnose",
    "evaluate",
    "metrics",
    "open_volume",
    "plan",
    "read",
    "recover",
    "recover_file",
    "to_deepinv_denoiser",
    "to_deepinv_physics",
    "train",
    "write",
]

_PLACES = {
    "Diagnosis": "diagnosis",
    "FileRecovery": "large",
    "InputError": "errors",
    "LazyVolume": "lazy_volume",
    "Recovery": "recovered",
    "SamplingPlan": "planning",
    "Volume": "volume",
    "diagnose": "diagnosis",
    "evaluate": "evaluation",
    "open_volume": "files",
    "plan": "planning",
    "read": "files",
    "recover": "recovery",
    "recover_file": "large",
    "to_deepinv_denoiser": "for_deepinv",
    "to_deepinv_physics": "for_deepinv",
    "train": "trained",
    "write": "files",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for, so that ``import tensorcell`` takes no time."""
    if name == "RecoveryReport":  # what `Diagnosis` was called before
        found = __getattr__("Diagnosis")
    elif name in _PLACES:
        found = getattr(importlib.import_module(f"tensorcell.{_PLACES[name]}"), name)
    elif name in __all__:
        found = importlib.import_module(f"tensorcell.{name}")
    else:
        raise AttributeError(f"module 'tensorcell' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
