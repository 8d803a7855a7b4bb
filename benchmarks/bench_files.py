"""Reading and writing volumes, by format, beside tifffile alone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import require
from benchmarks.problems import some, volume_shape

SHAPE = (64, 512, 512)
LIBRARIES = {"zarr": "zarr", "mrc": "mrcfile"}
ALONE = "tif by tifffile alone"


class Files:
    """One volume of whole numbers, as cameras give it; the folder is one for temporary files."""

    params = (some(["tif", "ome.tif", "h5", "npz", "npy", "zarr", "mrc", ALONE]), some([False, True]))
    param_names = ("format", "compress")
    number = 1
    timeout = 300

    def setup(self, form: str, compress: bool) -> None:
        import tensorcell as tc

        self.folder = tempfile.TemporaryDirectory()  # cleaned up even where the rest is skipped
        if compress and form in ("npy", "mrc", ALONE):
            raise NotImplementedError(f"{form} is not compressed")
        if form in LIBRARIES:
            require(LIBRARIES[form])
        shape = volume_shape(SHAPE)
        counts = np.random.default_rng(0).poisson(100.0, shape).astype(np.uint16)
        self.volume = tc.Volume(counts, axes="ZYX", spacing=(0.5, 0.2, 0.2))
        self.path = Path(self.folder.name) / f"volume.{form.split()[0]}"
        self.form, self.compress = form, compress
        self.time_write()

    def teardown(self, *_: Any) -> None:
        self.folder.cleanup()

    def time_write(self, *_: Any) -> None:
        if self.form == ALONE:
            import tifffile

            tifffile.imwrite(self.path, self.volume.data, imagej=True)
            return
        import tensorcell as tc

        tc.write(self.path, self.volume, compress=self.compress, overwrite=True)

    def time_read(self, *_: Any) -> None:
        if self.form == ALONE:
            import tifffile

            tifffile.imread(self.path)
            return
        import tensorcell as tc

        tc.read(self.path)

    def track_size(self, *_: Any) -> float:
        files = [self.path] if self.path.is_file() else [file for file in self.path.rglob("*") if file.is_file()]
        return sum(file.stat().st_size for file in files) / self.volume.data.nbytes

    def peakmem_setup(self, *_: Any) -> None:
        """Baseline for the next ones."""

    def peakmem_read(self, *_: Any) -> None:
        self.time_read()

    def peakmem_write(self, *_: Any) -> None:
        self.time_write()

    track_size.unit = "of the array's bytes"  # type: ignore[attr-defined]
