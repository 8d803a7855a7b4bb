"""The methods of `recover`, one line each; `recover`, the command line, `evaluate` and progress bars read it."""

from __future__ import annotations

from collections.abc import Mapping

from tensorcell.methods import auto, diffusion, fast, local, microdiffuse3d, tucker
from tensorcell.methods.protocol import Method

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        auto.METHOD,
        tucker.METHOD,
        local.METHOD,
        fast.METHOD,
        diffusion.METHOD,
        microdiffuse3d.METHOD,
    )
}
