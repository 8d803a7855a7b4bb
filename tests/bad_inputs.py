"""Every bad input that the command line must answer with one clear line: ``python tests/bad_inputs.py`` prints them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

Make = Callable[[Path], list[str]]
SHAPE = (6, 12, 14)


def stack(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(10, 100, SHAPE).astype(np.float32)


def saved(folder: Path, array: np.ndarray, name: str = "in.npy") -> str:
    np.save(folder / name, array)
    return name


def with_nan(where: tuple[object, ...]) -> np.ndarray:
    array = stack()
    array[where] = np.nan
    return array


def truncated_tiff(folder: Path) -> list[str]:
    tifffile.imwrite(folder / "whole.tif", stack(), imagej=True, metadata={"axes": "ZYX"})
    content = (folder / "whole.tif").read_bytes()
    (folder / "whole.tif").unlink()
    (folder / "in.tif").write_bytes(content[: len(content) // 2])
    return ["in.tif", "out.tif"]


def small_file(name: str, content: bytes) -> Make:
    def make(folder: Path) -> list[str]:
        (folder / name).write_bytes(content)
        return [name, "out.tif"]

    return make


def tiff(array: np.ndarray, **options: object) -> Make:
    def make(folder: Path) -> list[str]:
        tifffile.imwrite(folder / "in.tif", array, **options)  # type: ignore[arg-type]
        return ["in.tif", "out.tif"]

    return make


def npy(array: np.ndarray, *more: str, out: str = "out.tif") -> Make:
    return lambda folder: [saved(folder, array), out, *more]


def mask(array: np.ndarray) -> Make:
    return lambda folder: [saved(folder, stack()), "out.tif", "--mask", saved(folder, array, "mask.npy")]


def same_output(folder: Path) -> list[str]:
    return [saved(folder, stack()), "in.npy"]


def linked_output(folder: Path) -> list[str]:
    name = saved(folder, stack())
    (folder / "link.npy").symlink_to(folder / name)
    return [name, "link.npy"]


def no_new_files(folder: Path) -> list[str]:
    """An output folder that takes no file: write-protected, or for the superuser one of the system's own."""
    place = folder / "protected"
    place.mkdir(mode=0o555)
    if os.access(place, os.W_OK) and Path("/proc").is_dir():
        place = Path("/proc")
    return [saved(folder, stack()), str(place / "out.tif")]


def folder_as_output(folder: Path) -> list[str]:
    (folder / "out.tif").mkdir()
    return [saved(folder, stack()), "out.tif"]


def taken_dataset(folder: Path) -> list[str]:
    (folder / "out.h5").write_bytes(b"this is no HDF5 file")
    return [saved(folder, stack()), "out.h5:/data", "--rank", "2"]


def photo_as_axes(folder: Path) -> list[str]:
    return [saved(folder, stack()), "out.tif", "--axes", "ZCX"]


def object_file(folder: Path) -> list[str]:
    np.save(folder / "in.npy", np.full(SHAPE, None, dtype=object), allow_pickle=True)
    return ["in.npy", "out.tif"]


infinite = stack()
infinite[2, 3, 4] = np.inf

CASES: dict[str, tuple[Make, str]] = {
    "missing file": (lambda folder: ["none.tif", "out.tif"], "none.tif"),
    "not an image": (small_file("in.tif", b"this is text, not a picture\n" * 20), "in.tif"),
    "truncated TIFF": (truncated_tiff, "in.tif"),
    "zero-byte file": (small_file("in.tif", b""), "in.tif"),
    "RGB photo": (tiff(np.zeros((40, 50, 3), np.uint8), photometric="rgb"), "colour image"),
    "one voxel": (npy(np.ones((1, 1, 1), np.float32)), "at least 2 x 2 pixels"),
    "one row": (npy(np.ones(40, np.float32)), "expected a plane"),
    "complex dtype": (npy(stack().astype(np.complex64)), "complex"),
    "object dtype": (object_file, "in.npy"),
    "all NaN": (npy(np.full(SHAPE, np.nan, np.float32)), "at least one measured voxel"),
    "infinite at a measured voxel": (npy(infinite), "1 infinite"),
    "mask of another shape": (mask(np.ones((6, 12, 13), bool)), "shape"),
    "mask with nothing observed": (mask(np.zeros(SHAPE, bool)), "at least one measured voxel"),
    "one row measured": (npy(with_nan((slice(None), slice(1, None)))), "at least 2 measured rows, got 1 of 12"),
    "one column measured": (npy(with_nan((slice(None), slice(None), slice(1, 14)))), "got 1 of 14"),
    "all planes but one missing": (npy(with_nan((slice(1, None),))), "at least 2 measured planes, got 1 of 6"),
    "4-D without axes": (npy(np.zeros((2, *SHAPE), np.float32)), "axes"),
    "rank larger than the mode": (npy(stack(), "--rank", "20"), "larger than"),
    "rank with two entries": (npy(stack(), "--rank", "3,4"), "2 entries"),
    "rank that is no number": (npy(stack(), "--rank", "many"), "many"),
    "negative data, nonnegative": (npy(stack() - 50, "--nonnegative"), "nonnegative"),
    "output folder missing": (npy(stack(), out="none/out.tif"), "none"),
    "output is a folder": (npy(stack(), out="."), "expected"),
    "output folder takes no file": (no_new_files, "cannot be written"),
    "output name is a folder": (folder_as_output, "is a folder"),
    "output is no HDF5 file": (taken_dataset, "no HDF5 file"),
    "output equal to mask": (
        lambda folder: [saved(folder, stack()), "m.npy", "--mask", saved(folder, np.ones(SHAPE, bool), "m.npy")],
        "for OUT than for --mask",
    ),
    "output equal to input": (same_output, "the same"),
    "output linked to input": (linked_output, "the same"),
    "two outputs alike": (npy(stack(), "--outliers", "out.tif"), "the same"),
    "unknown suffix": (npy(stack(), out="out.xyz"), ".xyz"),
    "unknown report suffix": (npy(stack(), "--report", "out.pdf"), ".pdf"),
    "cuda without a GPU": (npy(stack(), "--device", "cuda"), "GPU"),
    "unknown device": (npy(stack(), "--device", "tpu"), "tpu"),
    "unknown method": (npy(stack(), "--method", "magic"), "magic"),
    "axial factor zero": (npy(stack(), "--axial-factor", "0"), "axial factor"),
    "negative noise": (npy(stack(), "--noise", "-1"), "noise"),
    "negative seed": (npy(stack(), "--seed", "-1"), "seed"),
    "spacing with two entries": (npy(stack(), "--spacing", "1,2"), "--spacing"),
    "spacing that is not positive": (npy(stack(), "--spacing", "1,0,1"), "positive"),
    "axes without Z": (photo_as_axes, "ZCX"),
    "axes too many": (npy(stack(), "--axes", "TZYX"), "4 axes"),
    "no output named": (lambda folder: [saved(folder, stack())], "OUT"),
    "dtype that the format does not have": (npy(stack(), "--dtype", "float16", out="out.ome.tif"), "float16"),
    "unknown output dtype": (npy(stack(), "--dtype", "float3"), "float3"),
    "unknown option": (npy(stack(), "--magic"), "--magic"),
}


def run(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "tensorcell", "recover", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)


if __name__ == "__main__":
    for case, (make, _) in CASES.items():
        place = Path(tempfile.mkdtemp())
        given = make(place)
        answer = run(place, given)
        print(f"{case}\n    {answer.returncode}: {answer.stderr.strip()}")
        shutil.rmtree(place)
