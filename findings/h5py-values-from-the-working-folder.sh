#!/usr/bin/env bash
# h5py 3.16.0: the values of one HDF5 file depend on the folder from which it is read, and nothing is said.
#
# A virtual dataset names its sources, usually by a relative name. Such a source is looked for beside the file that was
# opened, and, if it is not there, in the working folder: the same file gives the values of whatever lies there by that
# name, and the fill value where nothing does. If the file is opened through a symbolic link, the folder of the link is
# searched before that of the file. External raw data with a relative name are looked for in the working folder alone,
# never beside the file, and a file that is too short reads as zeros behind its end.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet h5py==3.16.0 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import os

import h5py
import numpy as np

assert h5py.__version__ == "3.16.0"
top = os.getcwd()
shape = (2, 3, 4)


def source(folder, value):
    os.makedirs(f"{top}/{folder}", exist_ok=True)
    with h5py.File(f"{top}/{folder}/source.h5", "w") as file:
        file["raw"] = np.full(shape, value, "u2")
    np.full(24, value, "u2").tofile(f"{top}/{folder}/raw.bin")


def seen(path, name, folder):
    os.chdir(f"{top}/{folder}")
    with h5py.File(path) as file:
        return np.unique(file[name][()]).tolist()


os.makedirs("scan")
os.makedirs("empty")
layout = h5py.VirtualLayout(shape, "u2")
layout[:] = h5py.VirtualSource("source.h5", "raw", shape)
with h5py.File("scan/stack.h5", "w") as file:
    file.create_virtual_dataset("virtual", layout)
    file.create_dataset("external", shape, "u2", external=[("raw.bin", 0, 48)])
path = f"{top}/scan/stack.h5"
source("other", 9)
lost = seen(path, "virtual", "empty"), seen(path, "virtual", "other")
source("scan", 7)
there = seen(path, "virtual", "empty"), seen(path, "virtual", "other")
external = seen(path, "external", "other")
os.symlink(path, f"{top}/other/link.h5")
linked = seen(f"{top}/other/link.h5", "virtual", "empty")
with open(f"{top}/other/raw.bin", "r+b") as file:
    file.truncate(20)
short = seen(path, "external", "other")
print("source missing:", lost, "| beside the file:", there, "| through a link:", linked)
print("external, another in the working folder:", external, "| that one cut off:", short)
assert lost == ([0], [9]) and there == ([7], [7]) and linked == [9]
assert external == [9] and short == [0, 9]
PYTHON
