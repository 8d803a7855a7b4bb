"""Outputs that cannot be written, failures while writing, and the paths of outputs."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from volume_files import KNOWN, STACK, assert_same, refuses, tiff

from tensorcell.files import check_writable, read, same_file, split_path, write
from tensorcell.volume import Volume

SUFFIXES = [".tif", ".ome.tif", ".h5", ".npz", ".npy"]


def fail_while_writing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let every format fail after part of the output is in the temporary file."""

    def fail(*_: object, **__: object) -> None:
        raise error

    def half(stream: Any, *_: object, **__: object) -> None:
        stream.write(b"half a file")
        raise error

    monkeypatch.setattr(tifffile.TiffWriter, "close", fail)
    monkeypatch.setattr(h5py.AttributeManager, "__setitem__", fail)
    monkeypatch.setattr(np, "save", half)
    monkeypatch.setattr(np, "savez_compressed", half)


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, existing: bool
) -> None:
    path = tmp_path / f"a{suffix}"
    if existing:
        path.write_bytes(b"precious")
    fail_while_writing(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    refuses(lambda: write(path, KNOWN), f"^{re.escape(str(path))}: cannot be written: No space left on device$")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"precious"] * existing


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), RuntimeError("a defect of ours")], ids=repr)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interrupt_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, error: BaseException
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"precious")
    fail_while_writing(monkeypatch, error)
    with pytest.raises(type(error)):
        write(path, KNOWN)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"precious"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_at_the_very_end_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    (tmp_path / "a.tif").write_bytes(b"precious")
    monkeypatch.setattr(os, call, fail)
    refuses(lambda: write(tmp_path / "a.tif", KNOWN), "cannot be written: Disk quota exceeded")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"precious"]


FULL_DISK = """
import os, resource, signal, sys
import numpy as np
from tensorcell.errors import InputError
from tensorcell.files import read, write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
data = np.random.default_rng(0).normal(size=(20, 32, 32))
for suffix in (".tif", ".ome.tif", ".h5", ".npz", ".npy"):
    for compress in (True, False):
        try:
            write(sys.argv[1] + suffix, data, compress=compress)
        except InputError as error:
            assert "cannot be written: " in str(error) and "\\n" not in str(error), error
        else:
            raise AssertionError(suffix)
write(sys.argv[1] + ".tif", data[:3])
raw = open(sys.argv[1] + ".tif", "rb").read()
open(sys.argv[1] + ".tif", "wb").write(raw[:-500])
try:
    read(sys.argv[1] + ".tif")
except InputError:
    print(sorted(os.listdir(os.path.dirname(sys.argv[1]))))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the limit on file sizes is a Unix one")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """The system refuses to let a file grow: one line each, nothing on the terminal, no crash in a library."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "['out.tif']\n")
    if np.lib.NumpyVersion(np.__version__) >= "2.2.0":  # older ones leave the archive of savez open when it fails
        assert done.stderr == ""


def test_write_refuses_before_it_begins(tmp_path: Path) -> None:
    refuses(lambda: write(tmp_path / "a.png", KNOWN), "a.png: the suffix '.png' is unknown, expected one of .tif")
    refuses(lambda: write(tmp_path / "no" / "a.tif", KNOWN), "a.tif: the folder .*no does not exist")
    (tmp_path / "b.tif").mkdir()
    refuses(lambda: write(tmp_path / "b.tif", KNOWN), "b.tif: is a folder, expected a file name")
    refuses(lambda: write(tmp_path / "a.tif", STACK[0, 0]), "data has 1 axis")
    (tmp_path / "c.npy").write_bytes(b"old")
    refuses(lambda: write(tmp_path / "c.npy", KNOWN, overwrite=False), "c.npy: exists already")
    narrow = Volume(STACK[:, :, :1])
    refuses(lambda: write(tmp_path / "a.tif", narrow), "TIFF has no place for a volume one voxel wide along X")
    refuses(lambda: write(tmp_path / "a.ome.tif", STACK.astype("i8")), "OME-TIFF has no dtype int64, expected bool,")
    letters = Volume(STACK[None], "AZYX")
    refuses(lambda: write(tmp_path / "a.ome.tif", letters), "OME-TIFF has no axes AZYX, expected T, C, Z, Y, X")
    missing = Volume(np.full((2, 3, 4), np.nan))
    refuses(lambda: write(tmp_path / "a.tif", missing, dtype="u2"), "a.tif: cannot store NaN")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b.tif", "c.npy"]


def test_write_follows_a_link_and_keeps_the_mode(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    target = tmp_path / "data" / "real.tif"
    target.touch(mode=0o640)
    (tmp_path / "link.tif").symlink_to(target)
    write(tmp_path / "link.tif", KNOWN)
    assert (tmp_path / "link.tif").is_symlink()
    assert_same(read(target), KNOWN)
    assert target.stat().st_mode & 0o777 == 0o640
    write(tmp_path / "new.tif", KNOWN)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "new.tif").stat().st_mode & 0o777 == 0o666 & ~umask


def test_check_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.tif", "a.OME.TIFF", "a.h5:/x/y", "a.npz"):
        check_writable(tmp_path / name)
    check_writable("relative.npy")
    check_writable(tmp_path / "r.html", [".png", ".html"])
    assert list(tmp_path.iterdir()) == []
    refuses(lambda: check_writable(tmp_path / "a.jpg"), "a.jpg: the suffix '.jpg' is unknown, expected one of .tif")
    refuses(lambda: check_writable(tmp_path / "a.tif", [".png", ".html"]), "expected one of .png, .html$")
    refuses(lambda: check_writable(tmp_path / "no" / "a.tif"), "the folder .*no does not exist")
    (tmp_path / "b.tif").mkdir()
    refuses(lambda: check_writable(tmp_path / "b.tif"), "is a folder, expected a file name")
    refuses(lambda: check_writable(tmp_path / f"{'a' * 300}.tif"), "cannot be written: File name too long")
    refuses(lambda: read(tmp_path / f"{'a' * 300}.tif"), "cannot be read: File name too long")
    (tmp_path / "c.tif").touch()
    check_writable(tmp_path / "c.tif")
    monkeypatch.setattr(os, "access", lambda *_: False)  # for the superuser it is always True
    refuses(lambda: check_writable(tmp_path / "c.tif"), "c.tif: is write-protected")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_check_writable_tries_even_for_the_superuser() -> None:
    refuses(lambda: check_writable("/proc/self/a.tif"), "/proc/self/a.tif: cannot be written: ")
    refuses(lambda: write("/proc/self/a.tif", KNOWN), "/proc/self/a.tif: cannot be written: ")


def test_same_file(tmp_path: Path) -> None:
    one = tiff(tmp_path / "one.tif")
    (tmp_path / "soft.tif").symlink_to(one)
    (tmp_path / "hard.tif").hardlink_to(one)
    tiff(tmp_path / "other.tif")
    for alias in ("soft.tif", "hard.tif", "../" + tmp_path.name + "/one.tif"):
        assert same_file(one, tmp_path / alias)
    assert not same_file(one, tmp_path / "other.tif")
    assert same_file(tmp_path / "new.h5:/a", f"{tmp_path}/./new.h5:/b")
    assert not same_file(one, tmp_path / "new.tif")


def test_split_path() -> None:
    assert split_path("a/b.h5:/c/d") == (Path("a/b.h5"), "c/d")
    assert split_path(Path("a/b.HDF5:c")) == (Path("a/b.HDF5"), "c")
    assert split_path("b.h5") == (Path("b.h5"), None)
    assert split_path("b.h5:/") == (Path("b.h5"), None)
    assert split_path("odd:name.tif") == (Path("odd:name.tif"), None)
