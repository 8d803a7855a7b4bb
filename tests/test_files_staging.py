"""Several outputs that appear all or not at all, files and folders; checks before the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volume_files import FOLDER, STACK, assert_same, names, refuses

from tensorcell.errors import InputError
from tensorcell.files import check_outputs, read, rehearse, staged, table, whole_files, write
from tensorcell.volume import Volume


@pytest.fixture(autouse=True)
def folder_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "FORMATS", (*table.FORMATS, FOLDER))


def outputs(place: Path) -> list[str]:
    return [str(place / name) for name in ("a.ome.tif", "b.fold", "c.h5:/new")]


def test_staged_outputs_appear_together(tmp_path: Path) -> None:
    write(tmp_path / "c.h5", STACK)
    write(tmp_path / "b.fold:/old", STACK)
    with staged(outputs(tmp_path)) as temporary:
        for step, name in enumerate(temporary.values()):
            write(name, STACK + step)
        assert not (tmp_path / "a.ome.tif").exists()
        assert_same(read(tmp_path / "b.fold:/old"), Volume(STACK))
    for step, name in enumerate(outputs(tmp_path)):
        np.testing.assert_array_equal(read(name).data, STACK + step)
    assert_same(read(tmp_path / "c.h5", dataset="data"), Volume(STACK))
    assert names(tmp_path) == ["a.ome.tif", "b.fold", "b.fold/data", "b.fold/folder.json", "c.h5"]


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=repr)
@pytest.mark.parametrize("links", [False, True])
def test_staged_outputs_are_undone_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_before: bool, error: BaseException, links: bool
) -> None:
    """The last rename fails, with and without a disk that has hard links."""
    if there_before:
        for name in ("a.ome.tif", "b.fold", "c.h5"):
            write(tmp_path / name, STACK)
    before = names(tmp_path)
    real_replace = whole_files.os.replace

    def fail(first: Path, second: Path) -> None:
        if Path(second) == tmp_path / "c.h5" and str(first).endswith(".h5"):  # not when an older file is put back
            raise error
        real_replace(first, second)

    def no_links(*_: Any) -> None:
        raise OSError(1, "Operation not permitted")

    def work() -> None:
        with staged(outputs(tmp_path)) as temporary:
            for name in temporary.values():
                write(name, STACK + 1)
            monkeypatch.setattr(whole_files.os, "replace", fail)

    if not links:
        monkeypatch.setattr(whole_files.os, "link", no_links)
    with pytest.raises((InputError, KeyboardInterrupt)) as caught:
        work()
    if isinstance(caught.value, InputError):
        assert str(caught.value) == f"{tmp_path}/c.h5:/new: cannot be written: No space left on device"
    assert names(tmp_path) == before
    if there_before:
        for name in ("a.ome.tif", "b.fold", "c.h5"):
            assert_same(read(tmp_path / name), Volume(STACK))


def test_staged_messages_name_the_output(tmp_path: Path) -> None:
    def work() -> None:
        with staged([f"{tmp_path}/a.tif", f"{tmp_path}/b.h5:/x"]) as temporary:
            write(temporary[f"{tmp_path}/b.h5:/x"], STACK[0, 0])
            write(temporary[f"{tmp_path}/a.tif"], STACK[:, :, :1])

    refuses(work, "data has 1 axis")

    def narrow() -> None:
        with staged([f"{tmp_path}/a.tif"]) as temporary:
            write(temporary[f"{tmp_path}/a.tif"], STACK[:, :, :1])

    refuses(narrow, rf"^{tmp_path}/a.tif: TIFF has no place for a volume one voxel wide along X \(or write .h5")
    assert names(tmp_path) == []


def test_an_output_that_appears_while_the_work_runs_is_kept(tmp_path: Path) -> None:
    """If the work fails, a file that somebody else has put there in the meantime is not ours to remove."""

    def work() -> None:
        with staged([f"{tmp_path}/a.tif"]):
            (tmp_path / "a.tif").write_bytes(b"somebody else's")
            raise InputError("no")

    refuses(work, "^no$")
    assert (tmp_path / "a.tif").read_bytes() == b"somebody else's"


def test_rehearse(tmp_path: Path) -> None:
    small = Volume(np.zeros((2, 2, 2), np.float32))
    for name in outputs(tmp_path):
        rehearse(name, small)
    refuses(
        lambda: rehearse(f"{tmp_path}/a.ome.tif", small, "float16"),
        rf"^{tmp_path}/a.ome.tif: OME-TIFF has no dtype float16",
    )
    assert names(tmp_path) == []


def test_check_outputs(tmp_path: Path) -> None:
    write(tmp_path / "in.h5", STACK)
    (tmp_path / "link.h5").symlink_to(tmp_path / "in.h5")
    given = {"IN": f"{tmp_path}/in.h5:/data", "--mask": None}
    check_outputs(given, {"OUT": f"{tmp_path}/out.tif", "--report": f"{tmp_path}/r.html"}, {"--report": [".html"]})
    refuses(
        lambda: check_outputs(given, {"OUT": f"{tmp_path}/link.h5:/new"}),
        "link.h5:/new: expected another file for OUT than for IN, got the same",
    )
    twice = {"OUT": f"{tmp_path}/out.tif", "--outliers": f"{tmp_path}/./out.tif"}
    refuses(lambda: check_outputs(given, twice), "expected another file for --outliers than for OUT, got the same")
    page = {"--report": f"{tmp_path}/r.tif"}
    refuses(lambda: check_outputs(given, page, {"--report": [".html"]}), "'.tif' is unknown, expected one of .html$")


def test_no_volume_that_is_a_folder_is_written_into_another_one(tmp_path: Path) -> None:
    (tmp_path / "in.zarr" / "0").mkdir(parents=True)
    (tmp_path / "link.zarr").symlink_to(tmp_path / "in.zarr")
    given, inner = {"IN": f"{tmp_path}/in.zarr"}, f"{tmp_path}/in.zarr/out.zarr"
    for path in (inner, f"{tmp_path}/in.zarr/0/out.tif", f"{tmp_path}/link.zarr/out.tif"):
        refuses(lambda path=path: check_outputs(given, {"OUT": path}), "expected a place beside IN, got .* inside of")
    refuses(lambda: check_outputs({"IN": inner}, {"OUT": given["IN"]}), "expected a place beside IN, got")
    new = {"OUT": f"{tmp_path}/out.zarr", "--outliers": f"{tmp_path}/out.zarr/e.tif"}
    refuses(lambda: check_outputs(given, new), "expected a place beside OUT, got")
    check_outputs(given, {"OUT": f"{tmp_path}/in.zarr.tif"})
    check_outputs({"IN": str(tmp_path)}, {"OUT": f"{tmp_path}/out.zarr"})  # a folder of planes
