"""`cupy.cuda`: one device."""

from __future__ import annotations

from types import SimpleNamespace

from .device import Device as Device


class CUDARuntimeError(RuntimeError): ...


runtime = SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=CUDARuntimeError)
Stream = SimpleNamespace(null=None)
