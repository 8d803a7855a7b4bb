#!/usr/bin/env bash
# zarr 3.1.6: how many chunks an array has on disk is found by making the name of every chunk that its shape allows.
#
# Microscopes write arrays of which most chunks never exist (a stage that visited a few places, a run that was stopped),
# and a reader asks `Array.nchunks_initialized` whether any is missing. One would expect that the folder is listed and
# its entries counted. The folder is listed, but then the name of each possible chunk is made and looked for in the
# list, entry by entry: the cost follows the shape in the metadata, and where all chunks exist it grows with the square
# of their number. With one chunk on the disk, 1000 and 100 000 possible chunks make as many names.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet zarr==3.1.6 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import asyncio
import sys

import zarr

assert zarr.__version__ == "3.1.6"


def names_made(possible, zarr_format):
    array = zarr.create_array(
        f"{possible}_{zarr_format}.zarr", shape=(possible,), chunks=(1,), dtype="u1", zarr_format=zarr_format
    )
    array[0] = 7  # the only chunk on the disk
    calls = 0

    def count(frame, event, _):
        nonlocal calls
        calls += event == "call" and frame.f_code.co_name == "encode_chunk_key"

    sys.setprofile(count)
    try:
        there = asyncio.run(array.async_array.nchunks_initialized())  # in this thread, to be seen by the count
    finally:
        sys.setprofile(None)
    assert there == 1, there
    return calls


for zarr_format in (2, 3):
    found = {possible: names_made(possible, zarr_format) for possible in (1_000, 100_000)}
    print(f"format {zarr_format}: names made to count one chunk, by possible chunks: {found}")
    assert found[100_000] == 100 * found[1_000] >= 100_000, found
PYTHON
