#!/usr/bin/env bash
# nibabel 5.4.2: the context manager that is to keep its log from printing takes the handler away for good, and what is
# logged meanwhile, and ever after, is printed without it.
#
# A program that reads folders of NIfTI volumes puts `imageglobals.LoggingOutputSuppressor` around `nibabel.load`, so
# that remarks on headers do not mix with its own output. It keeps the logger's list of handlers, not a copy: removing
# them empties that list, and at the end none is put back. A logger without a handler is served by the handler of last
# resort of Python's logging, which prints warnings on standard error. So nothing is suppressed, and after the first use
# the program has lost the handler that nibabel (or the program itself) had installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet nibabel==5.4.2 numpy==2.4.6
cd "$work"
cat >read.py <<'PYTHON'
import nibabel
import numpy as np
from nibabel import imageglobals

assert nibabel.__version__ == "5.4.2"
image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([0.1, 0.2, 0.5, 1]))
nibabel.save(image, "volume.nii")
before = list(imageglobals.logger.handlers)
with imageglobals.LoggingOutputSuppressor():
    loaded = nibabel.load("volume.nii")
    imageglobals.logger.warning("logged while output is suppressed")
assert np.array_equal(np.asarray(loaded.dataobj), np.asarray(image.dataobj))
after = list(imageglobals.logger.handlers)
print(f"handlers before: {len(before)}, after: {len(after)}")
assert len(before) == 1 and not after
PYTHON
"$work/env/bin/python" read.py 2>printed.txt
printf 'printed on standard error: %s\n' "$(cat printed.txt)"
test "$(cat printed.txt)" = "logged while output is suppressed"
