"""The check of a GPU, and the model of a run there, on the stand-in for CuPy; prints what the model counts as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import gpu_check, gpu_model


def main() -> None:
    gpu_model.start()
    status = gpu_check.main()
    found = gpu_model.counted("complete", (6, 18, 18))
    stages = {name: asdict(cost) for name, cost in found["stages"].items()}
    print(json.dumps({"status": status, "host": found["host"], "unknown": found["unknown"], "stages": stages}))


if __name__ == "__main__":
    main()
