"""The command that computes the table of phase transitions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tensorcell.solvers import thresholds
from tensorcell.solvers.planted_problems import whole_samples
from tensorcell.solvers.thresholds import read_table

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def command(benchmark_module: Any) -> Any:
    return benchmark_module("phase_transitions")


def test_shipped_table_is_what_the_command_computes(command: Any) -> None:
    planned = set()
    for part in command.PLAN:
        for rank, ratios in zip(part.ranks, part.ratios(), strict=True):
            whole = (rank,) * len(part.shape) if isinstance(rank, int) else rank
            planned |= {
                (part.shape, part.pattern, whole, whole_samples(part.shape, part.pattern, ratio)) for ratio in ratios
            }
    there = [(c.shape, c.pattern, c.rank, m) for c in thresholds.shipped() for m in c.samples]
    assert len(there) == len(set(there))
    assert set(there) == planned
    assert {c.trials for c in thresholds.shipped()} == {10}


def test_command_computes_resumes_and_reports(command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.h5"
    words = ["--path", str(path), "--trials", "2", "--workers", "1", "--shape", "12x11x10", "--ranks", "1,2x3x2"]
    assert command.main([*words, "--multiples", "1.5,20"]) == 0
    first = capsys.readouterr()
    assert first.err.count("\n") == 4
    assert "[4/4] 12x11x10 uniform, rank 2,3,2: 1,320 samples, 2 of 2 recovered" in first.err
    assert first.out.startswith("12x11x10 uniform, rank 1,1,1: half recovered from ")
    assert first.out.count("\n") == 2
    assert command.main([*words, "--multiples", "1.5,20"]) == 0
    assert capsys.readouterr() == (first.out, "")
    assert command.main([*words, "--multiples", "1.2,1.3", "--quiet"]) == 0
    assert "never half recovered" in capsys.readouterr().out
    assert command.main([*words, "--seed", "7"]) == 2
    assert capsys.readouterr().err.endswith("was computed with seed 0, expected 7: choose another file\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shape", "12x12"], "expected --shape and --ranks together, got one of them"),
        (["--shape", "12xa", "--ranks", "1"], "expected sizes such as 30x20x10, got '12xa'"),
        (
            ["--shape", "12x12", "--ranks", "1", "--multiples", "a"],
            "expected --multiples as numbers with commas, got 'a'",
        ),
        (["--shape", "12x12", "--ranks", "13"], "rank 13 does not fit mode 0 of size 12"),
    ],
)
def test_command_refuses_in_one_line(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert command.main(["--path", str(tmp_path / "t.h5"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_command_interrupted_says_what_is_kept(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "phase_transition", interrupted)
    assert command.main(["--path", str(tmp_path / "t.h5")]) == 130
    assert capsys.readouterr().err == f"phase_transitions: interrupted; finished cells are in {tmp_path / 't.h5'}\n"


def test_command_runs_as_a_script(command: Any, tmp_path: Path) -> None:
    words = ["--path", str(tmp_path / "t.h5"), "--trials", "1", "--workers", "1", "--shape", "9x9", "--ranks", "1"]
    done = subprocess.run(
        [sys.executable, command.__file__, *words, "--multiples", "2,4", "--quiet"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("9x9 uniform, rank 1,1: ")
    assert len(read_table(tmp_path / "t.h5")[0].samples) == 2
