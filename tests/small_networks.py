"""Networks so small that a few steps of fitting them take a second, for tests of the commands that fit them."""

from __future__ import annotations

from dataclasses import replace

import pytest


def shrink_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit small networks to small pieces and few samples, where the size ``tiny`` is asked for; needs torch."""
    from tensorcell.diffusion_guidance.microdiffuse3d import Sampling
    from tensorcell.diffusion_guidance.microdiffuse3d.config import SIZES
    from tensorcell.network_training import stages

    monkeypatch.setattr(stages, "PIECE", (4, 16, 16))
    monkeypatch.setattr(stages, "VAE_WIDTHS", {"tiny": 8})
    monkeypatch.setattr(stages, "DECODERS", {"tiny": {"channels": 8, "groups": 1, "blocks": 1}})
    monkeypatch.setattr(stages, "ESTIMATES", {"small": {"channels": 8, "blocks": 1}})
    monkeypatch.setattr(stages, "SAMPLING", Sampling(samples=2, steps=2))
    monkeypatch.setattr(stages, "EXAMPLES", 2)
    tiny = replace(
        SIZES["tiny"], token_width=12, condition_width=4, injected_width=8, blocks=1, heads=2, head_width=4,
        positions=(4, 2, 2), encoder_width=4, encoder_groups=2, encoder_heads=2,
    )  # fmt: skip
    monkeypatch.setitem(SIZES, "tiny", tiny)
