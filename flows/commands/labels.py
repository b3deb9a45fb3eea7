"""`pseudolabel labels ...`: what a label set will do, and the label runs that a store keeps."""

from typing import Annotated

import typer

from flows.commands import Assignments, ConfigFile, Json, StoreFolder, Wait
from flows.commands.agreement import agreement
from flows.commands.check import check

app = typer.Typer(
    name="labels",
    help="Check a label set; list label runs, compare two, go back to one.",
    no_args_is_help=True,
)
app.command()(check)
app.command()(agreement)
RUN = "Short digest of a label run, or its beginning; or current, or previous."


@app.command("list")
def list_(
    store: StoreFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Show every label run of a store, and which one is in force."""
    from flows.label_runs import show_label_runs
    from flows.settings import resolve
    from pipeline.labels.label_runs import label_runs
    from pipeline.opening import open_store

    opened = open_store(resolve(config, {"store": store}, assignments).store)
    show_label_runs(label_runs(opened), as_json=as_json)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(help=RUN)] = "previous",
    after: Annotated[str, typer.Argument(help=RUN)] = "current",
    examples: Annotated[
        int, typer.Option("--examples", help="Changed images to name.", min=0)
    ] = 10,
    store: StoreFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Show what changed from one label run to another one, with examples."""
    from flows.label_runs import show_label_diff
    from flows.settings import resolve
    from pipeline.labels.label_runs import find_run
    from pipeline.opening import open_store
    from pipeline.reports.label_diff import label_diff

    opened = open_store(resolve(config, {"store": store}, assignments).store)
    tables = find_run(opened, before), find_run(opened, after)
    show_label_diff(label_diff(opened, *tables, examples=examples), as_json=as_json)


@app.command()
def use(
    run: Annotated[str, typer.Argument(help=RUN)],
    store: StoreFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Put a label run in force again; the next `run` asks what its config asks, as ever."""
    from datetime import UTC, datetime

    from flows.console import out, print_json
    from flows.settings import resolve
    from pipeline.labels.label_runs import use_run
    from pipeline.locking import writer_lock
    from pipeline.opening import open_store

    opened = open_store(resolve(config, {"store": store}, assignments).store)
    with writer_lock(opened, wait=wait):
        table = use_run(opened, run, now=datetime.now(UTC))
    if as_json:
        print_json({"table": table})
    else:
        out.print(f"{table} is in force now; `pseudolabel select` makes the selection anew")
