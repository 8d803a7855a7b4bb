"""Commands that the help shows; each of them stands in the README, too, where it is explained and its tests run it."""

from __future__ import annotations

EXAMPLES = {
    "recover": (
        "tensorcell recover stack.tif recovered.tif --report recovered.html",
        "tensorcell recover stack.tif recovered.tif --preview",
        "tensorcell recover stack.tif part.tif --crop 2:8,:,0:24",
        "tensorcell recover stack.tif finer.tif --axial-factor 2",
        "tensorcell recover stack.tif recovered.ome.tif --mask measured.tif --outliers outliers.tif --dtype input",
        "tensorcell recover 'scans/*.tif' recovered --dry-run",
    ),
    "diagnose": ("tensorcell diagnose stack.tif --axial-factor 2 --html diagnosis.html",),
    "plan": ("tensorcell plan stack.tif --axial-factors 1,2,3 --target-nrmse 0.1 --html plan.html",),
    "evaluate": (
        "tensorcell evaluate stack.tif --out evaluation --methods local,linear,tv --cases noise-0.1,planes-2 "
        "--crop 16,32,32",
    ),
    "train": (
        "tensorcell train stack.tif --axial-factor 4 --steps 50 --out prior",
        "tensorcell train stack.tif --kind microdiffuse3d --axial-factor 4 --lateral-factor 2 --psf-fwhm 3,1,1 "
        "--photons 100 --steps 2 --out model",
    ),
    "demo": ("tensorcell demo",),
}
"""By the name of the command."""


def epilog_of(name: str) -> str:
    """The end of a command's help."""
    title = "Example:" if len(EXAMPLES[name]) == 1 else "Examples:"
    return "\n\n".join((title, *(f"  {each}" for each in EXAMPLES[name])))
