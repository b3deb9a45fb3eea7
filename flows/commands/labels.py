"""`pseudolabel labels ...`: the commands about label sets and labels."""

import typer

from flows.commands.check import check

app = typer.Typer(name="labels", help="Look at label sets and labels.", no_args_is_help=True)
app.command()(check)
