"""`pseudolabel`: the command line. Exit codes: 0 done, 1 failed, 2 bad input, 3 store is busy."""

import io
import multiprocessing
import signal
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from flows.commands import labels, query, report, run, training, upkeep
from flows.commands.api import api
from flows.commands.audit import audit
from flows.commands.caption import caption
from flows.commands.duplicates import duplicates
from flows.commands.search import search
from flows.commands.serve import deploy, serve
from pipeline.errors import PseudolabelError, exit_code

if multiprocessing.current_process().name != "MainProcess":  # parent_process() is not set yet
    # A run that `serve` has started: Ctrl-C in their terminal is for serve alone, which then stops
    # its run. Here, for nothing of ours is called before Prefect is imported, which takes seconds.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"pseudolabel {version('pseudolabel')}")
        raise typer.Exit


app = typer.Typer(
    name="pseudolabel",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    *(run.demo, run.init, run.run, run.relabel, run.select, serve, deploy),
    *(query.classify, search, duplicates, api),
    *(training.train, training.self_train, training.predict),
    *(report.evaluate, audit, caption, report.export, report.report, report.status),
    *(upkeep.verify, upkeep.compact, upkeep.forget),
):
    app.command()(command)
app.add_typer(labels.app)


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_tell_version
        ),
    ] = False,
) -> None:
    """New images in a folder become pseudo-labels, a search index and a trained model."""


def main() -> None:
    """Run the command line; a user's mistake is told in a line, without a traceback."""
    from flows.quiet import quiet_libraries

    quiet_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except PseudolabelError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    except OSError as error:  # a full disk, a folder that may not be written, a silent bucket
        told = f"{error.filename or 'input or output'}: {error.strerror}"
        print(f"error: {told if error.strerror else error}", file=sys.stderr)
        sys.exit(1)
