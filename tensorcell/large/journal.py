"""What a run has finished so far, on disk, so that another run goes on after a crash, a kill or Ctrl-C.

The journal is a hidden file beside the output: a line on the job, one on each sample, one on each part whose voxels
have reached the disk, and one when all outputs are finished under their hidden names. A line that was cut off by a kill
is dropped; its part is recovered again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorcell.errors import InputError
from tensorcell.files.temporary import place_of, remove

VERSION = 3
"""Of the journal: others are not read."""

KEPT = ".stacks"
"""How the hidden name of the folder ends in which a run in memory keeps finished stacks (`tensorcell.checkpoint`)."""


def unfinished_name(output: Path, ending: str = "") -> Path:
    """The hidden name of an output that is not finished, the same in every run.

    >>> unfinished_name(Path("/data/out.zarr"), ".zarr").name
    '.out.zarr.unfinished.zarr'
    """
    place = place_of(output)
    return place.with_name(f".{place.name}.unfinished{ending}")


@dataclass
class Journal:
    """The journal of an output.

    Attributes
    ----------
    path : Path
    job : mapping
        All that the result depends on.
    samples : dict of label to dict
        What was said of the sample of each stack.
    parts : dict of (label, number) to dict
        What was said of each part that is done.
    floats : bool
        Whether OUT holds floats in place of integers, which have no NaN.
    end : dict or None
        What was said when all outputs were finished; those without a hidden name are in their places. None before.
    """

    path: Path
    job: Mapping[str, Any]
    samples: dict[str, Any] = field(default_factory=dict)
    parts: dict[tuple[str, int], Any] = field(default_factory=dict)
    floats: bool = False
    end: Any = None

    @staticmethod
    def of(output: Path, job: Mapping[str, Any], resume: bool | None) -> Journal:
        """The journal of a run: a new one, or that of an earlier run.

        Parameters
        ----------
        output : Path
        job : mapping
            All that the result depends on, of what JSON holds.
        resume : bool or None
            True: go on where there is something to go on from. False: begin anew. None: refuse to do either where an
            earlier run left something.

        Raises
        ------
        InputError
            If there is something to go on from, and ``resume`` does not say what to do; or if that is another job.
        """
        path = unfinished_name(output, ".journal")
        job = json.loads(json.dumps({"version": VERSION, **job}))
        if not path.exists() or resume is False:
            remove(path)
            remove(unfinished_name(output, KEPT))
            return Journal(path, job)
        found = read_journal(path)
        if resume is None:
            raise InputError(
                f"{output}: an earlier run finished {found.finished} of it and was stopped; "
                "resume=True (--resume) goes on, resume=False (--no-resume) begins anew"
            )
        if found.job != job:
            other = ", ".join(name for name in job if found.job.get(name) != job[name])
            raise InputError(
                f"{output}: what an earlier run began is another job: it differs in {other or 'its version'}; "
                "resume=False (--no-resume) begins anew"
            )
        found.rewrite()
        return found

    @property
    def in_parts(self) -> bool:
        """Whether it is that of a run in parts, and not of one in memory."""
        return "parts" in self.job

    @property
    def finished(self) -> str:
        """What is finished, in words."""
        count, word = len(self.parts), "part"
        if not self.in_parts:
            count, word = sum(len(facts["stacks"]) for facts in self.parts.values()), "stack"
        return f"{count} {word}{'' if count == 1 else 's'}"

    def begin(self) -> None:
        """Write the line on the job, if there is no journal yet."""
        if not self.path.exists():
            self.rewrite()

    def rewrite(self) -> None:
        """Write all that is known, without lines that were cut off."""
        lines: list[dict[str, Any]] = [{"job": self.job}]
        lines += [{"sample": label, "facts": facts} for label, facts in self.samples.items()]
        lines += [{"stack": label, "part": number, "facts": facts} for (label, number), facts in self.parts.items()]
        lines += [{"floats": True}] if self.floats else []
        lines += [] if self.end is None else [{"end": self.end}]
        new = self.path.with_name(f"{self.path.name}.new")
        with new.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.path)

    def add_sample(self, label: str, facts: Mapping[str, Any]) -> None:
        """Write down what was said of a sample."""
        self.samples[label] = facts
        self._add({"sample": label, "facts": facts})

    def add_part(self, label: str, number: int, facts: Mapping[str, Any]) -> None:
        """Write down that a part is done: its voxels are on the disk."""
        self.parts[label, number] = facts
        self._add({"stack": label, "part": number, "facts": facts})

    def add_floats(self) -> None:
        """Write down that OUT holds floats from now on, with all that was written before."""
        self.floats = True
        self._add({"floats": True})

    def add_end(self, facts: Mapping[str, Any]) -> None:
        """Write down that all outputs are finished, and wait only for their names."""
        self.end = facts
        self._add({"end": facts})

    def _add(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_journal(path: Path) -> Journal:
    """The journal that lies there.

    Raises
    ------
    InputError
        If the file is none.
    """
    try:
        first, *others = path.read_text(encoding="utf-8").split("\n")
        found = Journal(path, json.loads(first)["job"])
        for text in others[:-1]:  # the last is empty, or was cut off
            line = json.loads(text)
            if "sample" in line:
                found.samples[line["sample"]] = line["facts"]
            elif "floats" in line:
                found.floats = line["floats"]
            elif "end" in line:
                found.end = line["end"]
            else:
                found.parts[line["stack"], line["part"]] = line["facts"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        raise InputError(
            f"{path}: expected the journal of an earlier run, got something else; resume=False (--no-resume) begins "
            "anew"
        ) from None
    return found
