"""`cupy.cuda`: one device."""

from __future__ import annotations

from types import SimpleNamespace

from .device import Device as Device


class CUDARuntimeError(RuntimeError): ...


free = 8 * 10**9
"""Bytes that are said to be free."""

runtime = SimpleNamespace(
    getDeviceCount=lambda: 1, CUDARuntimeError=CUDARuntimeError, memGetInfo=lambda: (free, 16 * 10**9)
)
Stream = SimpleNamespace(null=None)
