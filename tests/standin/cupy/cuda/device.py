"""`cupy.cuda.device`."""

from __future__ import annotations

from typing import Any


class Device:
    def __init__(self, number: int = 0) -> None:
        self.id, self.pci_bus_id = number, f"0000:{number}:00.0"
        self.attributes = {"MaxSharedMemoryPerBlockOptin": 101376}

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id
