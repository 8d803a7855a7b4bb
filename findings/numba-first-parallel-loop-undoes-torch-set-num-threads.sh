#!/usr/bin/env bash
# Numba 0.68.1 and torch 2.13.0 (Linux, pip wheels): the first parallel loop of Numba in a process undoes
# torch.set_num_threads.
#
# Numba's threading layer "omp", which is taken where TBB is missing, and torch use one OpenMP runtime of the process.
# When Numba starts its threads, at the first call of a function with parallel=True, it sets the number of threads of
# that runtime to its own, NUMBA_NUM_THREADS or the number of cores. torch's operations take as many from then on, although
# the program set another number before, and Numba was told nothing of it. Later calls change nothing, and neither does
# numba.set_num_threads: a program that sets torch's threads once, at its start, must set them again afterwards, or start
# Numba's threads first. OMP_NUM_THREADS=1 in the environment does not prevent it. Nothing is warned of.
#
# Seen: torch.get_num_threads() is 1 after torch.set_num_threads(1), 3 after a parallel loop with NUMBA_NUM_THREADS=3,
# 1 again after torch.set_num_threads(1), and stays 1 in the next loop.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet numba==0.68.1 numpy==2.4.6 torch==2.13.0
OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=3 "$work/env/bin/python" - <<'PYTHON'
import numba
import numpy as np
import torch

assert numba.__version__ == "0.68.1" and torch.__version__.startswith("2.13.0")


@numba.njit(parallel=True)
def total(values):
    found = 0.0
    for i in numba.prange(values.size):
        found += values[i]
    return found


seen = {}
torch.set_num_threads(1)
seen["set to 1"] = torch.get_num_threads()
total(np.ones(1000))
seen["after the first parallel loop"] = torch.get_num_threads()
torch.set_num_threads(1)
seen["set to 1 again"] = torch.get_num_threads()
total(np.ones(1000))
seen["after the second parallel loop"] = torch.get_num_threads()
for when, threads in seen.items():
    print(f"{when}: torch has {threads} threads")
print("Numba's threading layer:", numba.threading_layer())
assert numba.threading_layer() == "omp"
assert list(seen.values()) == [1, 3, 1, 1], seen
PYTHON
