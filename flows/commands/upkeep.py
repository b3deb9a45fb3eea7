"""The commands that keep a store sound: verify, compact."""

from typing import Annotated

import typer

from flows.commands import Assignments, ConfigFile, Json, StoreFolder, Wait


def verify(
    store: StoreFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Check every byte of a store and set aside what is damaged (exit code 1 if anything is)."""
    from datetime import UTC, datetime

    from flows import tables
    from flows.console import progress_shown
    from flows.progress import listener
    from flows.settings import resolve
    from pipeline.locking import writer_lock
    from pipeline.opening import damaged_store
    from pipeline.reports.verify import verify as verify_store

    opened = damaged_store(resolve(config, {"store": store}, assignments).store)
    with progress_shown("verify"), writer_lock(opened, wait=wait):
        listener.get().stage("verify", len(opened.folder.sizes()))
        summary = verify_store(opened, now=datetime.now(UTC), on_progress=_tell)
    tables.show_verification(summary, as_json=as_json)
    if summary.faults:
        raise typer.Exit(1)


def compact(
    store: StoreFolder = None,
    part_rows: Annotated[
        int | None, typer.Option("--part-rows", help="Rows of a merged part at most.", min=1)
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Merge small parts into large ones; readers may go on meanwhile."""
    from flows import stages
    from flows.console import out, print_json, progress_shown
    from flows.settings import resolve
    from pipeline.locking import writer_lock
    from pipeline.opening import open_store

    given = {"store": store, "run.part_rows": part_rows}
    resolved = resolve(config, given, assignments)
    with progress_shown("compact"), writer_lock(open_store(resolved.store), wait=wait):
        summary = stages.compact(resolved)
    if as_json:
        print_json(summary)
    else:
        out.print(
            f"{summary.before} parts are now {summary.after}; {summary.rows} rows were rewritten"
        )


def _tell(files: int) -> None:
    from flows.progress import listener

    listener.get().advance(files, 0)
