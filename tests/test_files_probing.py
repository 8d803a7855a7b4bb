"""A library that crashes or hangs becomes one line, and nothing is lost."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
from volume_files import KNOWN, STACK, assert_same, hdf5, refuses

from tensorcell.files import hdf5_read, hdf5_write, probing, read, write
from tensorcell.files.probing import trust, try_first
from tensorcell.volume import Volume


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[probing._State]:
    """A state for the test alone, whose child process ends with it."""
    own = probing._State()
    monkeypatch.setattr(probing, "_state", own)
    yield own
    if own.child is not None:
        probing._end_child(own.child)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return hdf5(tmp_path / "a.h5", raw=STACK)


def calls(file: Path) -> list[list[str]]:
    traces = file.with_suffix(".calls")
    return [line.split() for line in traces.read_text().splitlines()] if traces.exists() else []


def test_a_crash_is_one_line_and_the_next_call_works(file: Path) -> None:
    refuses(lambda: try_first("probed_calls:crash", file), r"crashes its library \(SIGKILL\) before any value is read")
    refuses(lambda: try_first("probed_calls:leave", file), r"crashes its library \(status 3\) before any value is read")
    refuses(lambda: try_first("probed_calls:leave", file), "crashes its library")  # not remembered as survived
    try_first("probed_calls:fail", file)
    try_first("probed_calls:count", file)
    assert len(calls(file)) == 1


def test_a_call_that_never_ends_is_one_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try_first("probed_calls:count", file)
    monkeypatch.setattr(probing, "SECONDS", 0.2)
    refuses(lambda: try_first("probed_calls:hang", file), "keeps its library busy for more than 0.2 s before any value")
    monkeypatch.setattr(probing, "SECONDS", 60.0)
    try_first("probed_calls:count", file, "again")
    first, second = calls(file)
    assert first[0] != second[0]  # another process


def test_a_file_is_tried_once_by_one_process_until_it_changes(file: Path) -> None:
    for _ in range(3):
        try_first("probed_calls:count", file, "x")
    try_first("probed_calls:count", file, "y")
    assert [words for _, *words in calls(file)] == [["x"], ["y"]]
    assert len({process for process, *_ in calls(file)}) == 1
    assert calls(file)[0][0] != str(os.getpid())
    os.utime(file, ns=(1, 1))
    try_first("probed_calls:count", file, "x")
    assert len(calls(file)) == 3
    os.utime(file, ns=(2, 2))
    trust(file)
    try_first("probed_calls:count", file, "x")
    assert len(calls(file)) == 3


def test_without_a_child_process_nothing_is_tried(
    file: Path, state: probing._State, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("/none", "/bin/false", ""):
        monkeypatch.setattr(sys, "executable", program)
        fresh = probing._State()
        monkeypatch.setattr(probing, "_state", fresh)
        try_first("probed_calls:count", file)
        assert not fresh.possible
    assert calls(file) == []
    assert_same(read(file), Volume(STACK))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    before = probing._state
    monkeypatch.setattr(probing, "_inherited", [])
    probing._after_fork()
    assert probing._state is not before
    assert probing._inherited == [before]  # whose child process is that of the parent


def test_hdf5_that_crashes_or_hangs_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_read, "LOOK", "probed_calls:crash")
    refuses(lambda: read(file), f"^{file}: crashes its library")
    refuses(lambda: read(f"{file}:/raw"), "h5:/raw: crashes its library")
    monkeypatch.setattr(hdf5_read, "LOOK", "probed_calls:hang")
    monkeypatch.setattr(probing, "SECONDS", 0.2)
    refuses(lambda: read(file), "keeps its library busy for more than 0.2 s")


def test_hdf5_written_here_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_read, "LOOK", "probed_calls:crash")
    write(tmp_path / "a.h5", KNOWN)
    assert_same(read(tmp_path / "a.h5"), KNOWN)
    write(f"{tmp_path}/a.h5:/more", KNOWN)
    assert_same(read(f"{tmp_path}/a.h5:/more"), KNOWN)
    with h5py.File(tmp_path / "a.h5", "r+") as other:
        other["new"] = STACK
    refuses(lambda: read(tmp_path / "a.h5"), "crashes its library")


def test_writing_into_hdf5_that_crashes_keeps_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()
    monkeypatch.setattr(hdf5_write, "VISIT", "probed_calls:crash")
    refuses(lambda: write(f"{file}:/new", STACK), "a.h5:/new: crashes its library")
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_all_but_the_values_is_looked_at(file: Path) -> None:
    """The stand-ins above replace this call, which must do what reading does."""
    with pytest.raises(ValueError, match="has no dataset 'none', it has /raw"):
        hdf5_read.look(file, "none", None, None)
    hdf5_read.look(file, "raw", None, None)
    hdf5_write.visit(file)


def test_labels_are_read_only_where_nothing_else_names_the_axes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(file, "r+") as other:
        for dim, letter in zip(other["raw"].dims, "tyx", strict=True):
            dim.label = letter
    assert read(file).axes == "TYX"
    monkeypatch.setattr(hdf5_read, "_labels", lambda _: pytest.fail("the labels were read"))
    assert read(file, axes="ZYX").axes == "ZYX"
    with h5py.File(file, "r+") as other:
        other["raw"].attrs["axes"] = "ZYX"
    assert read(file).axes == "ZYX"
    with h5py.File(file, "r+") as other:
        del other["raw"].attrs["axes"]
        other["raw"].attrs["axistags"] = '{"axes": [{"key": "z"}, {"key": "y"}, {"key": "x"}]}'
    assert read(file).axes == "ZYX"
