"""`diagnose` and what it returns; the page of a diagnosis is registered here."""

from tensorcell.diagnosis import page as _page
from tensorcell.diagnosis.result import AXIAL_VERDICTS, VERDICTS, Diagnosis, in_axes
from tensorcell.diagnosis.stack_diagnosis import diagnose

__all__ = ["AXIAL_VERDICTS", "VERDICTS", "Diagnosis", "diagnose", "in_axes"]

del _page
