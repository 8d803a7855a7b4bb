"""HDF5 files whose values lie in other files, and links: read from anywhere alike, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from volume_files import STACK, assert_same, hdf5, refuses

from tensorcell.files import claimed_sizes, read, write
from tensorcell.volume import Volume


def virtual(path: Path, source: str = "a.h5", taken: slice = slice(None), whole: bool = True) -> Path:
    """A virtual dataset of planes of ``raw`` in another file; with ``whole=False`` its last plane has no source."""
    count = len(range(*taken.indices(len(STACK))))
    layout = h5py.VirtualLayout((count + (not whole), *STACK.shape[1:]), np.uint16)
    layout[:count] = h5py.VirtualSource(source, "raw", STACK.shape)[taken]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("raw", layout)
    return path


def external(path: Path, *parts: tuple[str, int, int]) -> Path:
    """A dataset whose values lie in plain files: names, offsets and lengths."""
    with h5py.File(path, "w") as file:
        file.create_dataset("raw", STACK.shape, STACK.dtype, external=list(parts))
    return path


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the files; the working folder is another one, where files of the same names hold other values."""
    place, here = tmp_path / "files", tmp_path / "here"
    place.mkdir()
    here.mkdir()
    hdf5(here / "a.h5", raw=STACK + 1)
    (STACK + 1).tofile(here / "a.raw")
    monkeypatch.chdir(here)
    return place


def test_virtual_sources_lie_beside_the_file(away: Path) -> None:
    path = virtual(away / "v.h5")
    refuses(lambda: read(path), "values of /raw lie in 'a.h5', which is missing in its folder")
    hdf5(away / "a.h5", raw=STACK)
    assert_same(read(path), Volume(STACK))
    assert_same(read(virtual(away / "part.h5", taken=slice(1, 4))), Volume(STACK[1:4]))
    (Path.cwd() / "link.h5").symlink_to(path)
    assert_same(read("link.h5"), Volume(STACK))  # not what lies beside the link
    assert_same(read(virtual(away / "abs.h5", str(away / "a.h5"))), Volume(STACK))
    assert_same(read(virtual(away / "moved.h5", "/nowhere/a.h5")), Volume(STACK))  # as HDF5 does it
    refuses(lambda: read(virtual(away / "sub.h5", "sub/a.h5")), "lie in 'sub/a.h5', which is missing")


def test_virtual_datasets_without_all_their_values_are_refused(away: Path) -> None:
    hdf5(away / "a.h5", raw=STACK)
    refuses(lambda: read(virtual(away / "v.h5", whole=False)), "incomplete: 288 of 1728 voxels of /raw have no sou")
    hdf5(away / "a.h5", other=STACK)
    refuses(lambda: read(virtual(away / "v.h5")), "values of /raw lie in 'a.h5', which has no dataset 'raw'")
    hdf5(away / "a.h5", raw=STACK[:3])
    for taken in (slice(1, 4), slice(None)):
        refuses(lambda: read(virtual(away / "v.h5", taken=taken)), r"has shape \(3, .*\), expected at least \([45], 1")  # noqa: B023
    with h5py.File(away / "a.h5", "w") as file:
        file.create_dataset("raw", STACK.shape, np.uint16, chunks=(1, 16, 18))[:2] = 1
    refuses(lambda: read(virtual(away / "v.h5")), "is incomplete: 3 of 5 chunks of /raw were never written")
    virtual(away / "a.h5", "b.h5")
    refuses(lambda: read(virtual(away / "v.h5")), "lie in 'b.h5', which is missing")
    virtual(away / "b.h5", "a.h5")
    refuses(lambda: read(virtual(away / "v.h5")), "more than 16 virtual datasets that lead to each other")
    external(away / "a.h5", ("a.raw", 0, STACK.nbytes))
    refuses(lambda: read(virtual(away / "v.h5")), "those of 'raw' lie in further files; expected them in one")


def numbered(folder: Path, file: bytes = b"a-%b.h5", dataset: bytes = b"raw") -> Path:
    """A virtual dataset whose blocks are in numbered files, without end."""
    space = h5py.h5s.create_simple(STACK.shape, (h5py.h5s.UNLIMITED, *STACK.shape[1:]))
    space.select_hyperslab((0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1), STACK.shape, STACK.shape)
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_virtual(space, file, dataset, h5py.h5s.create_simple(STACK.shape))
    with h5py.File(folder / "v.h5", "w") as opened:
        h5py.h5d.create(opened.id, b"raw", h5py.h5t.NATIVE_UINT16, space, made)
    return folder / "v.h5"


@pytest.mark.parametrize(("name", "form"), [("a-{}.h5", b"a-%b.h5"), ("{}", b"%b"), ("50%.{}.h5", b"50%%.%b.h5")])
def test_virtual_datasets_of_numbered_files_are_read(away: Path, name: str, form: bytes) -> None:
    """Their shape is that of the files which happen to be there: HDF5 ends at the first that is not."""
    for number in range(11):
        hdf5(away / name.format(number), raw=STACK + number)
    path = numbered(away, form)
    volume = read(path)
    assert_same(volume, Volume(np.concatenate([STACK + number for number in range(11)])))
    assert volume.metadata["notes"] == [
        f"its values are in 11 numbered files, to {name.format(10)}; whether later ones are missing it does not say"
    ]
    (away / name.format(2)).unlink()
    lacking, found = (name.format(number) for number in (2, "[1345678790]+"))
    refuses(lambda: read(path), f"is incomplete: {lacking} is missing, and {found} is there: /raw ends before it")


def test_virtual_datasets_of_numbered_files_that_are_not_whole_are_refused(away: Path) -> None:
    for number in range(3):
        hdf5(away / f"a-{number}.h5", raw=STACK[: 5 - number])
        hdf5(Path.cwd() / f"a-{number}.h5", raw=STACK)
    path = numbered(away)
    refuses(lambda: read(path), r"in 'a-1.h5', where 'raw' has (1152 voxels, expected 1440|shape)")
    (away / "a-1.h5").unlink()
    refuses(lambda: read(path), "values of /raw lie in 'a-1.h5', which is missing")  # HDF5 takes that of this folder
    refuses(lambda: read(numbered(away, b"../files/%b.h5")), "v.h5: ")
    hdf5(away / "a-0.h5", raw0=STACK)
    refuses(lambda: read(numbered(away, b"a-0.h5", b"raw%b")), "in the numbered 'raw%b', expected one by name")


def test_growing_virtual_datasets_are_read(away: Path) -> None:
    with h5py.File(away / "a.h5", "w") as file:
        file.create_dataset("raw", data=STACK, maxshape=(None, 16, 18))
    layout = h5py.VirtualLayout(STACK.shape, np.uint16, maxshape=(None, 16, 18))
    source = h5py.VirtualSource("a.h5", "raw", STACK.shape, maxshape=(None, 16, 18))
    layout[0 : h5py.UNLIMITED, :, :] = source[0 : h5py.UNLIMITED, :, :]
    with h5py.File(away / "v.h5", "w") as file:
        file.create_virtual_dataset("raw", layout)
    assert_same(read(away / "v.h5"), Volume(STACK))
    (away / "a.h5").unlink()
    refuses(lambda: read(away / "v.h5"), "v.h5: ")


def test_external_values_lie_beside_the_file_and_are_whole(away: Path) -> None:
    path = external(away / "e.h5", ("a.raw", 0, h5py.h5f.UNLIMITED))
    refuses(lambda: read(path), "values of /raw lie in 'a.raw', which is missing")
    STACK.tofile(away / "a.raw")
    for inside in (None, "raw"):
        assert_same(read(path, dataset=inside), Volume(STACK))
    STACK[3:].tofile(away / "b.raw")
    half = STACK[:3].nbytes
    two = external(away / "two.h5", ("a.raw", 0, half), ("b.raw", 0, STACK.nbytes - half))
    assert_same(read(two), Volume(STACK))
    short = external(away / "short.h5", ("a.raw", 100, STACK.nbytes))
    refuses(lambda: read(short), "is incomplete: 'a.raw' holds 2780 of 2880 bytes of /raw")
    with (away / "b.raw").open("r+b") as file:
        file.truncate(10)
    refuses(lambda: read(two), "is incomplete: 'b.raw' holds 10 of 1152 bytes of /raw")


@pytest.mark.parametrize("name", ["../a.h5", "/etc/hostname", "inside/../../a.h5", "link/a.h5"])
def test_values_outside_of_the_folder_are_refused(away: Path, name: str) -> None:
    hdf5(away.parent / "a.h5", raw=STACK)
    (away / "inside").mkdir()
    (away / "link").symlink_to(away.parent)
    outside = r"lie in '.*', outside of its folder; expected a file in the same folder or below"
    refuses(lambda: read(virtual(away / "v.h5", name)), outside)
    refuses(lambda: read(external(away / "e.h5", (name, 0, STACK.nbytes))), outside)
    with h5py.File(away / "l.h5", "w") as file:
        file["raw"] = h5py.ExternalLink(name, "/raw")
        file["soft"] = h5py.SoftLink("/raw")
    for inside in ("raw", "soft"):
        refuses(lambda: read(away / "l.h5", dataset=inside), "'raw' is a link to /raw in '.*', outside of its folder")  # noqa: B023


def test_links_are_followed_beside_the_file(away: Path) -> None:
    with h5py.File(hdf5(away / "a.h5", **{"g/raw": STACK}), "r+") as file:
        file["near"] = h5py.SoftLink("g")
        file["g/far"] = h5py.SoftLink("/near/raw")
        file["gone"] = h5py.SoftLink("/none")
        file["circle"] = h5py.SoftLink("/circle")
        file["back"] = h5py.ExternalLink("b.h5", "/forth")
    with h5py.File(away / "b.h5", "w") as file:
        file["linked"] = h5py.ExternalLink("a.h5", "/near/far")
        file["forth"] = h5py.ExternalLink("a.h5", "/back")
        file["lost"] = h5py.ExternalLink("a.h5", "/nothing")
    for name in ("near", "near/raw", "near/far", "/g/./far"):
        assert_same(read(away / "a.h5", dataset=name), Volume(STACK))
    assert_same(read(away / "b.h5", dataset="linked"), Volume(STACK))
    refuses(lambda: read(away / "a.h5", dataset="gone"), "has no dataset 'gone', it has /g/raw")
    refuses(lambda: read(away / "b.h5", dataset="lost"), "has no dataset 'lost', it has none")
    for name in ("circle", "back"):
        refuses(lambda: read(away / "a.h5", dataset=name), "is the end of more than 16 links")  # noqa: B023


WRITES: dict[str, Callable[[h5py.File], None]] = {
    "soft": lambda file: file.__setitem__("a", h5py.SoftLink("/g")),
    "external": lambda file: file.__setitem__("a", h5py.ExternalLink("other.h5", "/")),
    "dangling": lambda file: file.__setitem__("a", h5py.SoftLink("/none")),
}


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("inside", ["a/raw", "a", "a/x/raw"])
def test_nothing_is_written_through_a_link(away: Path, kind: str, inside: str) -> None:
    """Another file, which is no output, would be changed; or a name be written that is not the one asked for."""
    other = hdf5(away / "other.h5", raw=STACK)
    path = hdf5(away / "out.h5", **{"g/raw": STACK})
    with h5py.File(path, "r+") as file:
        WRITES[kind](file)
    before = other.read_bytes(), path.read_bytes()
    refuses(lambda: write(f"{path}:/{inside}", STACK + 1), "'a' is a link to .* in the file, expected a group or da")
    assert (other.read_bytes(), path.read_bytes()) == before
    with h5py.File(path, "r+") as file:
        file["b_mask"] = file.get("a", getlink=True)
    before = other.read_bytes(), path.read_bytes()
    refuses(lambda: write(f"{path}:/b", STACK + 1), "'b_mask' is a link to")
    assert (other.read_bytes(), path.read_bytes()) == before


def test_more_than_the_memory_is_refused(away: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimed_sizes, "free_memory", lambda: 10**3)
    with h5py.File(away / "a.h5", "w") as file:
        file.create_dataset("raw", data=np.zeros((4, 10, 10), "f4"), chunks=(2, 5, 5))
    refuses(lambda: read(away / "a.h5"), "claims 4 x 10 x 10 values of float32, which need .* of memory")
