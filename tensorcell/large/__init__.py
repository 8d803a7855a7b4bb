"""Volumes larger than memory: recovered part by part, alike in all parts.

1. A stack is cut into parts that fit into the memory allowed (`cut`). Each is read with a rim around it, and what is
   recovered of the rim is thrown away.
2. One pass over the stack finds where it has structure, and what would stop a recovery (`survey`).
3. What an estimate rests on as a whole is found on a sample of blocks, with and without structure (`sample`).
4. Every part is recovered by the stages of `tensorcell.recovery`, with what the sample told (`part`).
"""

from __future__ import annotations

from tensorcell.large.recovery import FileRecovery, Progress, recover_file

__all__ = ["FileRecovery", "Progress", "recover_file"]
