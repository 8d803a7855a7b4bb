"""Damaged files of all formats are read or refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import fuzz_files
import pytest
from fuzz_files import Reader, cases, tally

import tensorcell as tc

pytest.importorskip("mrcfile", reason="needs the extra 'mrc'")


def test_damaged_files_are_read_or_refused_in_one_line() -> None:
    found = tally(300, seed=0)
    assert found.total() == 300
    assert {outcome for _, outcome in found} == {"read", "refused"}


def test_valid_files_are_read(tmp_path: Path) -> None:
    for path in fuzz_files.valid_files(tmp_path):
        assert tc.read(path).shape[-3:] == fuzz_files.STACK.shape


def test_cases_follow_from_the_seed(tmp_path: Path) -> None:
    made: list[list[bytes]] = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / name).mkdir()
        every = cases(80, seed, tmp_path / name)
        found = [(source, path.read_bytes()) for source, path in every if path.is_file()]
        # Others hold the time or an identifier of their own.
        made.append([raw for source, raw in found if source in ("imagej.tif", "tiles.tif", "own_0.npy")])
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    ("code", "outcome"),
    [("import os; os.abort()", "crash"), ("import time; time.sleep(99)", "hang"), ("print('traceback')", "traceback")],
)
def test_the_tally_tells_a_crash_and_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, outcome: str
) -> None:
    monkeypatch.setattr(fuzz_files, "SECONDS", 0.5 if outcome == "hang" else 30.0)
    reader = Reader(sys.executable, "-c", code)
    try:
        assert reader.outcome(tmp_path) == outcome
    finally:
        reader.close()
