"""The commands put together, and the one place that turns exceptions into exit statuses."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.core import TyperGroup

import tensorcell
from tensorcell.cli import options as o
from tensorcell.cli import signals
from tensorcell.cli.diagnose_command import diagnose
from tensorcell.cli.evaluate_command import evaluate
from tensorcell.cli.examples import epilog_of
from tensorcell.cli.exits import USER, Interrupted
from tensorcell.cli.plan_command import plan
from tensorcell.cli.recover_command import recover
from tensorcell.cli.screen import for_terminal
from tensorcell.cli.train_command import train
from tensorcell.errors import InputError

BY_TYPER = 130
"""What some versions of typer turn Ctrl-C into."""

NAMED = ("axes", "dataset", "series", "spacing", "spacing_z", "missing_value", "missing_planes")
"""Arguments of Python that messages name with ``=``."""

HELP = {"help_option_names": ["-h", "--help"]}
"""Both names of the option that shows the help."""

APP = typer.Typer(
    help="Recover 3-D and 4-D microscopy volumes from too few, too noisy measurements.",
    no_args_is_help=True,
    context_settings=HELP,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    cls=TyperGroup,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tensorcell {tensorcell.__version__}")
        raise typer.Exit


@APP.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Recover 3-D and 4-D microscopy volumes from too few, too noisy measurements."""


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for the files.")] = Path("tensorcell-demo"),
    out: Annotated[
        Path | None, o.option("The folder, in place of the argument.", o.OUTPUT, "--out", "-o", metavar="FOLDER")
    ] = None,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Simulate cells, degrade them, recover them, and show the scores."""
    from tensorcell.demo import run_demo

    run_demo(folder if out is None else out, quiet=quiet)


def help_of(command: Callable[..., None]) -> str:
    """The paragraphs of a command's description, each on one line, which the terminal breaks where it is full."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


for _command in (recover, diagnose, plan, evaluate, train, demo):
    _name = _command.__name__
    APP.command(_name, help=help_of(_command), epilog=epilog_of(_name), context_settings=HELP)(_command)


def in_flags(message: str) -> str:
    """A message with the options as they are called here, where it names arguments of Python.

    >>> in_flags("spacing_z=0.1 needs the voxel size: give spacing=(dz, dy, dx)")
    '--spacing-z 0.1 needs the voxel size: give --spacing dz,dy,dx'
    >>> in_flags("dataset= is for HDF5; pass axes=, for example axes='TZYX'")
    "--dataset is for HDF5; pass --axes, for example --axes 'TZYX'"
    """

    def flag(found: re.Match[str]) -> str:
        name, several, value = found.groups()
        given = several.replace(", ", ",") if several is not None else value
        return f"--{name.replace('_', '-')}" + (f" {given}" if given else "")

    return re.sub(rf"(?<![\w/.-])({'|'.join(NAMED)})=(?:\(([^()]*)\)|([^\s,;:]*))", flag, message)


def fail(message: str, status: int) -> NoReturn:
    """End with one line on stderr."""
    print(for_terminal("tensorcell: " + " ".join(message.split()), sys.stderr), file=sys.stderr)
    raise SystemExit(status)


def main() -> None:
    """Run the command line; every error in the user's input ends with one line on stderr and status 2.

    A request to terminate (as schedulers of clusters send it) is handled like Ctrl-C: nothing partial is left behind.
    """
    earlier = signals.raise_interrupts()
    try:
        status = APP(standalone_mode=False, prog_name="tensorcell")
    except InputError as error:
        fail(in_flags(str(error)), USER)
    except Interrupted as error:
        fail(str(error), signals.status())
    except (typer.Abort, KeyboardInterrupt):
        fail("interrupted", signals.status())
    except MemoryError:
        fail("not enough memory for this volume; crop it or use a machine with more", USER)
    except Exception as error:
        message = getattr(error, "format_message", None)  # usage errors of click, of which typer may hold a copy
        if message is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message())
            raise SystemExit(USER) from None
        fail(message(), USER)
    finally:
        signals.restore(earlier)
    if status == BY_TYPER:
        fail("interrupted", signals.status())
    raise SystemExit(status or 0)
