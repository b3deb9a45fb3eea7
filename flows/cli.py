"""`pseudolabel`: the command line. Exit codes: 0 done, 1 failed, 2 bad input, 3 store is busy."""

import sys

import click
import typer

from flows.commands import ask, run
from pipeline.errors import InputError, PseudolabelError, StoreBusyError

app = typer.Typer(
    name="pseudolabel",
    help="New images in a folder become pseudo-labels, a search index and a trained model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for make in (run.demo, run.init, run.run, run.select, run.train, run.serve):
    app.command()(make)
for answer in (ask.classify, ask.search, ask.predict, ask.evaluate, ask.export, ask.status):
    app.command()(answer)


def main() -> None:
    """Run the command line; a user's mistake is told in a line, without a traceback."""
    from flows.quiet import quiet_libraries

    quiet_libraries()
    try:
        code = app(standalone_mode=False)
    except click.ClickException as error:  # an unknown option, a missing argument
        error.show()
        sys.exit(2)
    except PseudolabelError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(_exit_code(error))
    except (KeyboardInterrupt, click.Abort):
        print(
            "stopped; what was committed stays, and the next run goes on from it", file=sys.stderr
        )
        sys.exit(130)
    sys.exit(code or 0)


def _exit_code(error: PseudolabelError) -> int:
    if isinstance(error, StoreBusyError):
        return 3
    return 2 if isinstance(error, InputError) else 1
