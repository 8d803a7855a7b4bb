"""The logger ``tensorcell``: stages of a recovery with their seconds (INFO), and what was decided (DEBUG).

Nothing is shown unless the program that uses this package asks for it, as by ``logging.basicConfig(level="INFO")``.
"""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("tensorcell")
LOGGER.addHandler(logging.NullHandler())
