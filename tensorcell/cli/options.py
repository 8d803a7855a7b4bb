"""Options that several commands share: what each is called, its panel of the help, its values and what completes it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer

from tensorcell.files import readable_formats, writable_suffixes

INPUT, SAMPLING, METHOD, MODEL = "Input", "What was measured", "Method", "How it is recovered"
OUTPUT, RUN, SAID = "Output", "How it runs", "What is shown"
MANY = "Several inputs"
"""Panels of the help, in their order."""

SOURCES_HELP = f"Stack to read: {readable_formats()}; several files, a pattern in quotes, or a folder of them"
TARGET_HELP = f"Output file, its suffix sets the format: {', '.join(writable_suffixes())}; a folder for several inputs"
MISSING_PLANES_HELP = (
    "Planes of a set or folder of files that are in none of them were not measured; without this, an incomplete set of "
    "OME-TIFF files is an error."
)
PSF_HELP = (
    "Full widths at half maximum z,y,x of the point spread function: in micrometres if the voxel size is known, else "
    "in voxels. Bright voxels narrower than it are defects."
)
CROP_HELP = (
    "Take a part: z0:z1,y0:y1,x0:x1, counted from 0 as in Python, such as 10:20,:,-256: (in front of them further axes "
    "of the file, such as T). A number alone takes so many from the middle."
)
PREVIEW_HELP = "Take as large a part from the middle as is done in about a minute on this machine, and say which."


class _Stderr(logging.Handler):
    """Log lines on stderr, wherever that is at the moment: progress bars move out of their way."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def show_log(wanted: bool) -> bool:
    """Show what the package logs, with the time since its start."""
    log = logging.getLogger("tensorcell")
    for handler in [each for each in log.handlers if isinstance(each, _Stderr)]:
        log.removeHandler(handler)
    if wanted:
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    return wanted


def among(values: Iterable[str]) -> Callable[[str], list[str]]:
    """What completes one of these values.

    >>> among(["auto", "local"])("a")
    ['auto']
    """
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]  # typer asks for this name


def listed_among(values: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What completes the last of several values with commas between them.

    >>> listed_among(lambda: ["linear", "local"])("linear,l")
    ['linear,linear', 'linear,local']
    """

    def completed(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{value}" for value in values() if value.startswith(last)]

    return completed


def choice(names: Mapping[str, str] | Iterable[str], *spelt: str, text: str, panel: str, shown: str = "") -> Any:
    """An option with one of these values, each with its explanation if there are explanations.

    ``shown`` stands for the values where they are too many for a line.
    """
    values = list(names)
    if isinstance(names, Mapping):
        text = "\n\n".join([*([text] if text else []), *(f"{name}: {said}" for name, said in names.items())])
    return typer.Option(
        *spelt, help=text, metavar=shown or "|".join(values), autocompletion=among(values), rich_help_panel=panel
    )


def option(text: str, panel: str, *spelt: str, **how: Any) -> Any:
    """An option in a panel."""
    return typer.Option(*spelt, help=text, rich_help_panel=panel, **how)


Source = Annotated[str, typer.Argument(metavar="IN", help=f"Stack to read: {readable_formats()}.")]
Axes = Annotated[
    str | None, option("Axes, such as TZYX, where the file does not state them.", INPUT, metavar="LETTERS")
]
Dataset = Annotated[
    str | None,
    option(
        "Dataset to read, where the file holds several: /group/name in HDF5, a name in .npz; it may also follow the "
        "file's name after a colon.", INPUT, metavar="NAME",
    ),
]  # fmt: skip
Series = Annotated[
    str | None,
    option("Number (from 0) or name of the image to read, where the file holds several.", INPUT, metavar="NAME"),
]
Spacing = Annotated[
    str | None,
    option("Voxel size dz,dy,dx in micrometres; dy,dx is enough for single planes.", INPUT, metavar="DZ,DY,DX"),
]
Crop = Annotated[str | None, option(CROP_HELP, INPUT, metavar="Z0:Z1,Y0:Y1,X0:X1")]
Preview = Annotated[bool, option(PREVIEW_HELP, INPUT, "--preview")]
Mask = Annotated[str | None, option("Mask file of the input's shape; not zero = measured.", SAMPLING, metavar="FILE")]
MissingValue = Annotated[
    str | None,
    option("Voxels that have exactly this value were not measured, such as 0 for padding.", SAMPLING, metavar="VALUE"),
]
MissingPlanes = Annotated[bool, option(MISSING_PLANES_HELP, SAMPLING, "--missing-planes")]
AxialFactor = Annotated[
    int, option("s: the planes given are planes 0, s, 2s, ... of the wanted stack.", SAMPLING, metavar="S")
]
Psf = Annotated[str | None, option(PSF_HELP, SAMPLING, metavar="Z,Y,X")]
Rank = Annotated[
    str, option("auto, one rank for all axes, or three (z,y,x).", MODEL, metavar="auto|R|Z,Y,X",
                autocompletion=among(["auto"])),
]  # fmt: skip
Noise = Annotated[
    str,
    option(
        "auto, or the standard deviation of the noise in the data's unit.", MODEL, metavar="auto|SIGMA",
        autocompletion=among(["auto"]),
    ),
]  # fmt: skip
Page = Annotated[
    str | None, option("Write a page to this file (.html).", OUTPUT, "--html", "--out", "-o", metavar="FILE")
]
AsJson = Annotated[bool, option("Print one JSON object on stdout and nothing else.", SAID, "--json")]
Quiet = Annotated[bool, option("Show no progress and no summary.", SAID, "--quiet", "-q")]
Verbose = Annotated[
    bool, option("Show the log: the stages of the computation, and how long each took.", SAID, "--verbose", "-v",
                 callback=show_log),
]  # fmt: skip


def seed(what: str) -> Any:
    """The option --seed."""
    return option(f"Seed for {what}.", RUN, min=0, metavar="N")
