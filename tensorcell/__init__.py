"""Recover 3-D and 4-D microscopy volumes from too few, too noisy measurements.

>>> import tensorcell as tc
>>> cells = tc.datasets.simulate_cells((16, 32, 32), cells=4, axial_factor=2)
>>> tc.recover(cells.measured, axial_factor=2).volume.shape
(15, 32, 32)
"""

from tensorcell import datasets, metrics
from tensorcell.diagnosis import RecoveryReport, diagnose
from tensorcell.errors import InputError
from tensorcell.files import read, write
from tensorcell.planning import SamplingPlan, plan
from tensorcell.recovery import Recovery, recover
from tensorcell.volume import Volume

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "Recovery",
    "RecoveryReport",
    "SamplingPlan",
    "Volume",
    "datasets",
    "diagnose",
    "metrics",
    "plan",
    "read",
    "recover",
    "write",
]
