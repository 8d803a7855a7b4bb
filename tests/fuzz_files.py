"""Damaged files of all formats, each of which must be read or refused: ``python tests/fuzz_files.py N SEED [FOLDER]``.

Small valid files, and files within folders that are read as one, are changed at random, the same for the same seed,
and read in a child process with limits of time and of memory. The table counts by format what became of them; what is
neither read nor refused in one line is kept in FOLDER. Damage of the values alone is not noticed in formats without
checksums: such files are read.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import tifffile

import tensorcell as tc
from tensorcell.files import table

SECONDS = 90.0
"""More than a library of HDF5 is tried for before its file is refused."""
MEMORY = 4 * 2**30
OUTCOMES = ("read", "refused", "traceback", "crash", "hang")

STACK = np.random.default_rng(0).integers(0, 4000, (4, 12, 14)).astype(np.uint16)
VOLUME = tc.Volume(STACK, spacing=(0.5, 0.2, 0.1), mask=STACK > 9, metadata={"channel_names": ["DAPI"]})


def labelled(path: Path) -> None:
    """HDF5 as others write it, with everything that is read: labels, tags, chunks and filters, links."""
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("g/raw", data=STACK, chunks=(2, 6, 7), compression="gzip", shuffle=True)
        for dim, label in zip(stored.dims, ("depth", "height", "width"), strict=True):
            dim.label = label
        stored.attrs["element_size_um"] = [0.5, 0.2, 0.1]
        stored.attrs["long"] = "x" * 5000
        file["note"] = ["a text", "and another one"]
        file["link"] = h5py.SoftLink("/g/raw")


def latest(path: Path) -> None:
    """HDF5 in its newest form."""
    with h5py.File(path, "w", libver="latest") as file:
        stored = file.create_dataset("raw", data=STACK, chunks=(2, 6, 7), maxshape=(None, None, None), fletcher32=True)
        stored.attrs["axistags"] = json.dumps({"axes": [{"key": key, "resolution": 0.5} for key in "zyx"]})
        stored.attrs["axis_units"] = json.dumps(dict.fromkeys("zyx", "um"))


def bdv(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for number in range(2):
            file[f"t00000/s{number:02d}/0/cells"] = STACK.view(np.int16)
            file[f"s{number:02d}/resolutions"] = np.ones((1, 3))


def imaris(path: Path) -> None:
    with h5py.File(path, "w") as file:
        channel = file.create_group("DataSet/ResolutionLevel 0/TimePoint 0/Channel 0")
        channel["Data"] = np.pad(STACK, [(0, 4), (0, 4), (0, 2)])
        image = file.create_group("DataSetInfo/Image")
        for letter, axis, count in zip("ZYX", "210", STACK.shape, strict=True):
            channel.attrs[f"ImageSize{letter}"] = np.frombuffer(str(count).encode(), "S1")
            image.attrs[f"ExtMin{axis}"] = np.frombuffer(b"0", "S1")
            image.attrs[f"ExtMax{axis}"] = np.frombuffer(b"12.5", "S1")


def mrc(path: Path) -> None:
    import mrcfile

    with mrcfile.new(path, STACK) as file:
        file.voxel_size = 1000.0


def nifti(path: Path) -> None:
    import nibabel

    image = nibabel.Nifti1Image(STACK.T, np.diag([0.1, 0.2, 0.5, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, path)


def nrrd(path: Path) -> None:
    import nrrd as library

    header = {"space directions": np.diag([0.1, 0.2, 0.5]), "space units": ["um"] * 3, "space dimension": 3}
    library.write(str(path), STACK.T, header)


def ngff(path: Path) -> None:
    tc.write(path, tc.Volume(np.stack([STACK, STACK]), "CZYX", (0.5, 0.2, 0.1)))


def zarr_2(path: Path) -> None:
    import zarr

    stored = zarr.create_array(path, shape=STACK.shape, chunks=(2, 6, 7), dtype=STACK.dtype, zarr_format=2)
    stored[...] = STACK
    stored.attrs["axes"] = "ZYX"


OPTIONAL: dict[str, Callable[[Path], object]] = {
    "map.mrc": mrc, "volume.nii": nifti, "packed.nii.gz": nifti, "volume.nrrd": nrrd, "image.ome.zarr": ngff,
    "array.zarr": zarr_2,
}  # fmt: skip
"""Those for which a library is needed that may be missing."""

VALID: dict[str, Callable[[Path], object]] = {
    "imagej.tif": lambda path: tifffile.imwrite(
        path, STACK, photometric="minisblack", imagej=True, metadata={"axes": "ZYX", "spacing": 2}
    ),
    "tiles.tif": lambda path: tifffile.imwrite(
        path, STACK, photometric="minisblack", tile=(16, 16), compression="zlib", metadata=None
    ),
    "labelled.h5": labelled,
    "latest.h5": latest,
    "bdv.h5": bdv,
    "imaris.ims": imaris,
}
"""Files as other programs write them; beside them stand those that tensorcell writes, of every format that it does."""


def valid_files(folder: Path) -> list[Path]:
    """A small valid file of each kind."""
    for name, make in VALID.items():
        make(folder / name)
    for one in table.FORMATS:
        if one.write is not None and not one.is_folder:
            for compress in (False, True):
                tc.write(folder / f"own_{int(compress)}{one.suffixes[0]}", VOLUME, compress=compress)
    for name, make in OPTIONAL.items():
        try:
            make(folder / name)
        except (ImportError, tc.InputError) as error:  # the latter from what writes a format whose library is missing
            print(f"{name} is left out: {error}", file=sys.stderr)
    return sorted(folder.iterdir())


def damaged(raw: bytes, random: np.random.Generator) -> bytes:
    """The bytes after one to four changes, most of them near the beginning, where headers are."""
    changed = bytearray(raw)
    for _ in range(random.integers(1, 5)):
        reach = len(changed) if random.random() < 0.5 else min(len(changed), 2048)
        place = int(random.integers(0, max(reach, 1)))
        kind = random.integers(0, 6)
        if kind == 0:
            changed[place : place + 1] = bytes([random.integers(0, 256)])
        elif kind == 1:  # one bit
            changed[place : place + 1] = bytes(
                byte ^ (1 << int(random.integers(0, 8))) for byte in changed[place : place + 1]
            )
        elif kind == 2:  # a length or an offset that is wrong
            width = int(random.choice([2, 4, 8]))
            value = int(random.choice([0, 1, 2**15, 2**31 - 1, 2 ** (8 * width) - 1, len(raw)])) % 2 ** (8 * width)
            changed[place : place + width] = value.to_bytes(width, "little")
        elif kind == 3:
            del changed[place : place + int(random.integers(1, 64))]
        elif kind == 4:
            other = int(random.integers(0, max(len(changed), 1)))
            changed[place : place + 16] = changed[other : other + 16]
        else:
            del changed[max(place, 1) :]
    return bytes(changed)


def damage(source: Path, path: Path, random: np.random.Generator) -> None:
    """Write a damaged copy; of a folder, one file is damaged, half of the time one that describes the others."""
    if source.is_file():
        path.write_bytes(damaged(source.read_bytes(), random))
        return
    shutil.copytree(source, path)
    files = sorted(each for each in path.rglob("*") if each.is_file())
    described = [each for each in files if each.suffix == ".json" or each.name.startswith(".z")]
    chosen = described if random.random() < 0.5 else files
    one = chosen[random.integers(0, len(chosen))]
    one.write_bytes(damaged(one.read_bytes(), random))


def cases(count: int, seed: int, folder: Path) -> Iterator[tuple[str, Path]]:
    """Damaged files, one after the other in the same folder, and the names of those that they were made from."""
    (folder / "valid").mkdir()
    sources = valid_files(folder / "valid")
    for number in range(count):
        source = sources[number % len(sources)]
        path = folder / f"case{''.join(source.suffixes)}"
        damage(source, path, np.random.default_rng([seed, number]))
        yield source.name, path
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


class Reader:
    """A child process that reads files and says what became of each; another one takes over when it dies."""

    def __init__(self, *words: str) -> None:
        self.words = words or (sys.executable, __file__, "--serve")
        self.child: subprocess.Popen[str] | None = None

    def outcome(self, path: Path) -> str:
        if self.child is None:
            self.child = subprocess.Popen(self.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        child, late = self.child, threading.Event()
        timer = threading.Timer(SECONDS, lambda: (late.set(), child.kill()))
        timer.start()
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{path}\n")
        child.stdin.flush()
        answer = child.stdout.readline().strip()
        timer.cancel()
        if not answer:
            self.close()
        return "hang" if late.is_set() else answer or "crash"

    def close(self) -> None:
        if self.child is not None:
            self.child.communicate()
            self.child = None


def serve() -> None:
    """Read the files whose paths come in, and say of each whether it was read, refused, or raised anything else."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        try:
            tc.read(line.rstrip("\n"))
            answer = "read"
        except tc.InputError as error:
            answer = "refused" if "\n" not in str(error) else "traceback"
        except BaseException:
            answer = "traceback"
        print(answer, flush=True)


def tally(count: int, seed: int, keep: Path | None = None) -> Counter[tuple[str, str]]:
    """How many damaged files of each kind were read, refused, and so on; the bad ones are kept in a folder."""
    found: Counter[tuple[str, str]] = Counter()
    reader = Reader()
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number, (name, path) in enumerate(cases(count, seed, Path(folder))):
                outcome = reader.outcome(path)
                found[name, outcome] += 1
                if keep is not None and outcome not in ("read", "refused"):
                    copied = shutil.copytree if path.is_dir() else shutil.copyfile
                    copied(path, keep / f"{outcome}_{number}_{path.name}")
        finally:
            reader.close()
    return found


def main() -> None:
    count, seed = (int(word) for word in [*sys.argv[1:], *["300", "0"][len(sys.argv) - 1 :]][:2])
    found = tally(count, seed, Path(sys.argv[3]) if len(sys.argv) > 3 else None)
    print(f"{'':16}" + "".join(f"{outcome:>10}" for outcome in OUTCOMES))
    every = sorted({name for name, _ in found})
    for name, names in [(name, [name]) for name in every] + [("all", every)]:
        counts = [sum(found[one, outcome] for one in names) for outcome in OUTCOMES]
        print(f"{name:16}" + "".join(f"{count:10d}" for count in counts))


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        main()
