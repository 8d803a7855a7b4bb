"""The table of formats: what it must fulfil, and that everything asks it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from volume_files import DUMMY, FOLDER, KNOWN, STACK, assert_same, names, refuses, write_dummy

import tensorcell as tc
from tensorcell import cli
from tensorcell.cli import in_memory
from tensorcell.files import (
    check_writable,
    read,
    read_mask,
    readable_formats,
    split_path,
    table,
    whole_files,
    writable_suffixes,
    write,
)
from tensorcell.files.formats import Format
from tensorcell.volume import Volume


@pytest.fixture
def dummy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of a format that can only be read, which the table holds during the test."""
    monkeypatch.setattr(table, "FORMATS", (*table.FORMATS, DUMMY))
    path = tmp_path / "in.dummy"
    write_dummy(path, Volume(STACK), None, False)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A volume of a format that is a folder, which the table holds during the test."""
    monkeypatch.setattr(table, "FORMATS", (*table.FORMATS, FOLDER))
    write(tmp_path / "in.fold", STACK)
    return tmp_path / "in.fold"


def check_installed(one: Format) -> None:
    """Skip the test where the library of a format is not installed."""
    library = {"OME-Zarr": "zarr", "MRC": "mrcfile"}.get(one.name)
    if library is not None:
        pytest.importorskip(library, reason="needs the extra 'formats'")


def run(monkeypatch: pytest.MonkeyPatch, place: Path, *arguments: str) -> int:
    """The exit status of the command line, run in this process."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["tensorcell", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------- the table


def test_suffixes_are_unique_and_in_lower_case() -> None:
    suffixes = [suffix for one in table.FORMATS for suffix in one.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in suffixes)
    assert len({one.name for one in table.FORMATS}) == len(table.FORMATS)


def test_the_longest_suffix_decides() -> None:
    names = {"a.tif": "TIFF", "a.OME.TIFF": "OME-TIFF", "a.b.ome.tif": "OME-TIFF", "ome.tif": "TIFF", "x.H5": "HDF5"}
    for name, expected in names.items():
        assert table.format_of(Path(name)).name == expected
    refuses(lambda: table.format_of(Path(".tif")), "the name has no suffix, expected one of .tif, .tiff, .ome.tif,")


@pytest.mark.parametrize("one", [one for one in table.FORMATS if one.write is not None], ids=lambda one: one.name)
def test_a_complete_format_keeps_everything(tmp_path: Path, one: Format) -> None:
    check_installed(one)
    volume = replace(KNOWN, mask=STACK > 9)
    written = write(tmp_path / f"a{one.suffixes[0]}", volume)
    assert (written.lost == ()) == one.complete
    if one.complete:
        again = read(tmp_path / f"a{one.suffixes[0]}")
        assert_same(again, volume)
        np.testing.assert_array_equal(again.mask, volume.mask)
        assert volume.metadata.items() <= again.metadata.items()


@pytest.mark.parametrize("one", [one for one in table.FORMATS if one.write is not None], ids=lambda one: one.name)
def test_a_format_is_written_with_its_data_types_and_no_others(tmp_path: Path, one: Format) -> None:
    check_installed(one)
    for name in ("bool", "int8", "int64", "uint64", "float16", "float64"):
        path = tmp_path / f"a{one.suffixes[0]}"
        if one.dtypes and name not in one.dtypes:
            refuses(lambda: write(path, STACK.astype(name)), rf"has no dtype {name}, .* \(or write .h5")  # noqa: B023
        else:
            write(path, (STACK % 100).astype(name))
            assert read(path).dtype == name


def test_texts_list_the_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(one.name in readable_formats() for one in table.FORMATS)
    by_name = {one.name: one for one in table.FORMATS}
    formats = [by_name[name] for name in ("TIFF", "HDF5", ".npz")]
    monkeypatch.setattr(table, "FORMATS", (*formats, DUMMY))
    assert readable_formats() == "TIFF, HDF5 (file.h5:/path), .npz (file.npz:name) or Dummy"
    assert writable_suffixes() == (".tif", ".tiff", ".h5", ".hdf5", ".npz")
    assert table.names_with_datasets() == "HDF5 and .npz"
    assert table.complete_suffixes() == ".h5 or .npz"


@pytest.mark.parametrize("command", ["recover", "diagnose"])
def test_help_lists_the_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert run(monkeypatch, tmp_path, command, "--help") == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())  # without the frame
    assert readable_formats() in shown
    if command == "recover":
        assert ", ".join(writable_suffixes()) in shown


def test_import_loads_no_library_of_a_format() -> None:
    libraries = ("h5py", "tifffile", "imagecodecs", "zarr")
    script = f"import sys, tensorcell.files; print([name for name in {libraries} if name in sys.modules])"
    place = Path(tc.__path__[0]).parent
    done = subprocess.run([sys.executable, "-c", script], cwd=place, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------- a format that can only be read


def test_a_read_only_format_is_read(dummy: Path) -> None:
    assert_same(tc.read(dummy), Volume(STACK))
    assert tc.read(dummy).metadata == {"format": "Dummy", "dataset": None, "source": "in.dummy"}
    np.testing.assert_array_equal(read_mask(dummy), STACK != 0)
    assert "Dummy" in readable_formats()
    assert ".dummy" not in writable_suffixes()


def test_a_read_only_format_is_not_written(dummy: Path, tmp_path: Path) -> None:
    listed = ", ".join(writable_suffixes())
    expected = rf"a.dummy: Dummy \(.dummy\) can be read but not written, expected one of {listed}$"
    refuses(lambda: tc.write(tmp_path / "a.dummy", STACK), expected)
    refuses(lambda: check_writable(tmp_path / "a.dummy"), expected)
    refuses(lambda: write(tmp_path / "a.png", STACK), f"the suffix '.png' is unknown, expected one of {listed}$")
    refuses(lambda: read(tmp_path / "a.png"), "the suffix '.png' is unknown, expected one of .tif, .* .dummy$")
    assert list(tmp_path.iterdir()) == [dummy]


@pytest.mark.parametrize("more", [("out.dummy",), ("out.tif", "--outliers", "out.dummy")])
def test_recover_refuses_a_read_only_output_before_any_work(
    dummy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    monkeypatch.setattr(in_memory, "read", lambda *_, **__: pytest.fail("the input was read"))
    assert run(monkeypatch, dummy.parent, "recover", "in.dummy", *more) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("tensorcell: out.dummy: Dummy (.dummy) can be read but not written, expected one of .tif,")
    assert list(dummy.parent.iterdir()) == [dummy]


# ---------------------------------------------------------------------------------------- a format that is a folder


def test_a_folder_is_written_replaced_and_extended(folder: Path) -> None:
    assert_same(read(folder), Volume(STACK))
    write(folder, STACK + 1)
    np.testing.assert_array_equal(read(folder).data, STACK + 1)
    assert split_path(f"{folder}:/more") == (folder, "more")
    write(f"{folder}:/more", STACK + 2)
    np.testing.assert_array_equal(read(folder).data, STACK + 1)
    np.testing.assert_array_equal(read(folder, dataset="more").data, STACK + 2)
    write(folder, STACK)
    assert names(folder.parent) == ["in.fold", "in.fold/data", "in.fold/folder.json"]


def test_a_folder_of_something_else_is_never_replaced(folder: Path) -> None:
    photos = folder.with_name("photos.fold")
    photos.mkdir()
    write(photos, STACK)  # an empty one holds nothing to lose
    (photos / "folder.json").unlink()
    for path in (photos, f"{photos}:/more"):
        refuses(lambda: write(path, STACK), "photos.fold.*: is a folder without folder.json, expected a new name")  # noqa: B023
    folder.with_name("file.fold").touch()
    refuses(lambda: check_writable(folder.with_name("file.fold")), "is a file, expected a new name or a folder of Fol")
    refuses(lambda: read(folder.with_name("file.fold")), "is a file, expected a folder")
    refuses(lambda: read(folder.with_name("none.fold")), "no such folder")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=repr)
@pytest.mark.parametrize("step", [1, 2])
def test_a_folder_survives_a_failing_rename(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, step: int, when: str
) -> None:
    """The first rename puts the older folder aside, the second moves the new one to its place."""
    real_replace, calls = whole_files.os.replace, [0]

    def fail(first: Path, second: Path) -> None:
        calls[0] += 1
        if when == "after":
            real_replace(first, second)
        if calls[0] == step:
            raise error
        if when == "before":
            real_replace(first, second)

    monkeypatch.setattr(whole_files.os, "replace", fail)
    with pytest.raises((tc.InputError, KeyboardInterrupt)):
        write(folder, STACK + 1)
    assert_same(read(folder), Volume(STACK))
    assert names(folder.parent) == ["in.fold", "in.fold/data", "in.fold/folder.json"]
