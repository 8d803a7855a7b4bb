"""``tensorcell evaluate``: a grid of references, cases and methods, and its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tensorcell.cli.exits import Interrupted
from tensorcell.cli.parsing import JSON_HELP, list_of
from tensorcell.cli.screen import show


def evaluate(
    sources: Annotated[list[str], typer.Argument(metavar="IN...", help="References, in the formats of recover.")],
    out: Annotated[Path, typer.Option(help="Folder for finished cells, tables and pictures.")],
    methods: Annotated[
        str, typer.Option(help="Methods, such as auto,linear,bm4d+linear,rcan3d:FOLDER; all: every installed one.")
    ] = "all",
    cases: Annotated[str, typer.Option(help="Cases, such as noise-0.05,planes; all: the whole grid.")] = "all",
    crop: Annotated[str | None, typer.Option(help="Crop references to their centre: planes,rows,columns.")] = None,
    noise: Annotated[
        str, typer.Option(help="Standard deviation of the noise: estimated by each method, or given to all.")
    ] = "estimated",
    paper_table: Annotated[
        bool,
        typer.Option(
            "--paper-table",
            help="The cases of both papers, and tables in their form (RCT's Table 2, the figures of MicroDiffuse3D).",
        ),
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at a time; above 1, times are less exact.")] = 1,
    time_limit: Annotated[float | None, typer.Option(help="Seconds after which a cell is given up.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run failed and refused cells again.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed for the degradations and the methods.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Degrade references, restore them by several methods side by side, and score them; a run can be resumed."""
    from tensorcell import evaluation

    wanted = None if cases == "all" else cases.split(",")
    if paper_table and wanted is None:
        wanted = [*evaluation.TABLE_2, *evaluation.FIGURES]
    try:
        result = evaluation.evaluate(
            sources,
            out=out,
            methods=None if methods == "all" else methods.split(","),
            cases=wanted,
            crop=None if crop is None else list_of(crop, "--crop", int),
            noise=noise,  # type: ignore[arg-type]
            seed=seed,
            jobs=jobs,
            time_limit=time_limit,
            retry=retry,
            progress=True,
        )
    except KeyboardInterrupt:
        raise Interrupted(how_to_go_on(out)) from None
    if as_json:
        show(json.dumps(result.to_dict(), allow_nan=False))
        return
    show(result.paper_tables() if paper_table else result.summary())
    show(result.sentence)


def how_to_go_on(out: Path) -> str:
    """The line that is printed after Ctrl-C."""
    from tensorcell.evaluation.store import CELLS

    if not (out / CELLS).exists():
        return "interrupted; no cell was finished"
    return f"interrupted; finished cells are in {out}, the same command goes on from there"
