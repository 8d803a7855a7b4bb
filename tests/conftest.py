"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def volumes_folder() -> Path:
    """Folder of real volumes: ``TENSORCELL_DATA`` or ``../shared/data`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TENSORCELL_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"real volumes not found in {folder} (set TENSORCELL_DATA)")
    return folder
