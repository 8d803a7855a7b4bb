"""For the tests of files: stacks as Micro-Manager writes them, with an index of the pages before the pages."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def micro_manager_stack(
    path: Path,
    data: Any,
    indices: Sequence[tuple[int, int, int]],
    summary: dict[str, Any],
    *,
    indexed: int | None = None,
) -> Path:
    """Planes (uint16) with their indices (channel, slice, frame); the index map lists the first ``indexed`` of them."""
    text = json.dumps(
        {"MicroManagerVersion": "1.4", "Positions": 1, "SlicesFirst": True, "TimeFirst": False, **summary}
    )
    head = 40 + len(text)
    start = head + head % 2
    _, height, width = data.shape
    plane = height * width * 2
    tags = [json.dumps(dict(zip(("ChannelIndex", "SliceIndex", "FrameIndex"), one, strict=True))) for one in indices]
    places = []
    for tag in tags:
        places.append(start)
        start += 162 + plane + 16 + len(tag) + 1 + (len(tag) + 1) % 2
    pieces = []
    for number, (tag, place) in enumerate(zip(tags, places, strict=True)):
        extra = place + 162 + plane
        entries = [
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1),
            (273, 4, 1, place + 162), (277, 3, 1, 1), (278, 3, 1, height), (279, 4, 1, plane), (282, 5, 1, extra),
            (283, 5, 1, extra + 8), (296, 3, 1, 3), (51123, 2, len(tag) + 1, extra + 16),
        ]  # fmt: skip
        after = places[number + 1] if number + 1 < len(places) else 0
        directory = struct.pack("<H", 13) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        resolution = struct.pack("<4I", 100000, 1, 100000, 1)
        piece = directory + struct.pack("<I", after) + data[number].astype("<u2").tobytes() + resolution + tag.encode()
        pieces.append(piece + b"\0" * (2 - len(tag) % 2))
    rows = [(c, z, t, 0, place) for (c, z, t), place in zip(indices, places, strict=True)][:indexed]
    index = struct.pack("<II", 3453623, len(rows)) + np.array(rows, "<u4").tobytes()
    header = struct.pack("<2sHI", b"II", 42, places[0])
    header += struct.pack("<8I", 54773648, start, 483765892, 0, 99384722, 0, 2355492, len(text))
    path.write_bytes(header + text.encode() + b"\0" * (head % 2) + b"".join(pieces) + index)
    return path
