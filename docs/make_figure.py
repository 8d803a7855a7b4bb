"""Make the picture of the README: ``python docs/make_figure.py [OUT.png]``."""

from __future__ import annotations

import sys
from pathlib import Path

from tensorcell.demo import picture, pixels_case, planes_case
from tensorcell.pages.pictures import picture_bytes

if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("before_after.png")
    target.write_bytes(picture_bytes([picture(pixels_case()), picture(planes_case())]))
