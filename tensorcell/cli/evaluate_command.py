"""``tensorcell evaluate``: a grid of references, cases and methods, and its tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from tensorcell.cli import options as o
from tensorcell.cli.exits import Interrupted
from tensorcell.cli.parsing import list_of
from tensorcell.cli.preview import voxels_in_time
from tensorcell.cli.reading import Wanted, read_box
from tensorcell.cli.screen import show
from tensorcell.files import open_volume

GRID = "What is compared"
"""A panel of the help."""


def _methods() -> Iterable[str]:
    from tensorcell.evaluation import METHODS

    return ("all", *METHODS)


def _cases() -> Iterable[str]:
    from tensorcell.evaluation import CASES, KINDS

    return ("all", *dict.fromkeys((*KINDS, *CASES)))


def evaluate(
    sources: Annotated[list[str], typer.Argument(metavar="IN...", help="References, in the formats of recover.")],
    out: Annotated[
        Path, o.option("Folder for finished cells, tables and pictures.", o.OUTPUT, "--out", "-o", metavar="FOLDER")
    ],
    crop: o.Crop = None,
    preview: o.Preview = False,
    methods: Annotated[
        str,
        o.option(
            "Methods, such as auto,linear,bm4d+linear,rcan3d:FOLDER; all: every installed one.", GRID,
            metavar="all|NAME,NAME,...", autocompletion=o.listed_among(_methods),
        ),
    ] = "all",
    cases: Annotated[
        str,
        o.option(
            "Cases or kinds of cases, such as noise-0.05,planes; all: the whole grid.", GRID,
            metavar="all|NAME,NAME,...", autocompletion=o.listed_among(_cases),
        ),
    ] = "all",
    paper_table: Annotated[
        bool,
        o.option(
            "The cases of both papers, and tables in their form (RCT's Table 2, the figures of MicroDiffuse3D).", GRID,
            "--paper-table",
        ),
    ] = False,
    noise: Annotated[
        str,
        o.choice(
            ("estimated", "given"), panel=GRID,
            text="Standard deviation of the noise: estimated by each method, or given to all.",
        ),
    ] = "estimated",
    jobs: Annotated[int, o.option("Cells at a time; above 1, times are less exact.", o.RUN, min=1, metavar="N")] = 1,
    time_limit: Annotated[float | None, o.option("Seconds after which a cell is given up.", o.RUN)] = None,
    retry: Annotated[bool, o.option("Run failed and refused cells again.", o.RUN, "--retry")] = False,
    seed: Annotated[int, o.seed("the degradations and the methods")] = 0,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:  # fmt: skip
    """Degrade references, restore them by several methods side by side, and score them; a run can be resumed."""
    from tensorcell import evaluation

    wanted = None if cases == "all" else cases.split(",")
    if paper_table and wanted is None:
        wanted = [*evaluation.TABLE_2, *evaluation.FIGURES]
    central = crop is not None and ":" not in crop  # then references are scaled before they are cropped
    given: Any = sources
    if not central:
        given = parts_of(sources, Wanted(crop, preview, voxels_in_time("evaluate")), quiet=quiet)
    try:
        result = evaluation.evaluate(
            given,
            out=out,
            methods=None if methods == "all" else methods.split(","),
            cases=wanted,
            crop=list_of(crop, "--crop", int) if central and crop is not None else None,
            noise=noise,  # type: ignore[arg-type]
            seed=seed,
            jobs=jobs,
            time_limit=time_limit,
            retry=retry,
            progress=not quiet,
        )
    except KeyboardInterrupt:
        raise Interrupted(how_to_go_on(out)) from None
    if as_json:
        show(json.dumps(result.to_dict(), allow_nan=False), data=True)
    elif not quiet:
        show(result.paper_tables() if paper_table else result.summary())
        show(result.sentence)


def parts_of(sources: list[str], wanted: Wanted, *, quiet: bool) -> Any:
    """The references as `evaluate` takes them: paths, or the parts that are wanted of them by their names."""
    if wanted.all:
        return sources
    found = {}
    for source in sources:
        lazy = open_volume(source)
        box = wanted.box(lazy, quiet=quiet)
        place = "" if box is None else ",".join(f"{each.start}:{each.stop}" for each in box)
        found[f"{Path(source).name} [{place}]"], _ = read_box(lazy, None, box)
    return found


def how_to_go_on(out: Path) -> str:
    """The line that is printed after Ctrl-C."""
    from tensorcell.evaluation.store import CELLS

    if not (out / CELLS).exists():
        return "interrupted; no cell was finished"
    return f"interrupted; finished cells are in {out}, the same command goes on from there"
