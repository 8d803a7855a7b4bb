"""The commands put together, and the one place that turns exceptions into exit statuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.core import TyperGroup

import tensorcell
from tensorcell.cli import signals
from tensorcell.cli.diagnose_command import diagnose
from tensorcell.cli.evaluate_command import evaluate
from tensorcell.cli.exits import USER, Interrupted
from tensorcell.cli.plan_command import plan
from tensorcell.cli.recover_command import recover
from tensorcell.cli.train_command import train
from tensorcell.errors import InputError

BY_TYPER = 130
"""What some versions of typer turn Ctrl-C into."""

APP = typer.Typer(
    help="Recover 3-D and 4-D microscopy volumes from too few, too noisy measurements.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    cls=TyperGroup,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tensorcell {tensorcell.__version__}")
        raise typer.Exit


@APP.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Recover 3-D and 4-D microscopy volumes from too few, too noisy measurements."""


def demo(folder: Annotated[Path, typer.Argument(help="Folder for the files.")] = Path("tensorcell-demo")) -> None:
    """Simulate cells, degrade them, recover them, and show the scores."""
    from tensorcell.demo import run_demo

    run_demo(folder)


for _command in (recover, diagnose, plan, evaluate, train, demo):
    APP.command()(_command)


def fail(message: str, status: int) -> NoReturn:
    """End with one line on stderr."""
    print("tensorcell: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(status)


def main() -> None:
    """Run the command line; every error in the user's input ends with one line on stderr and status 2.

    A request to terminate (as schedulers of clusters send it) is handled like Ctrl-C: nothing partial is left behind.
    """
    earlier = signals.raise_interrupts()
    try:
        status = APP(standalone_mode=False)
    except InputError as error:
        fail(str(error), USER)
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
