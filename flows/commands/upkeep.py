"""The commands that keep a store sound: verify, compact, forget."""

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


def forget(
    source: Annotated[str, typer.Argument(help="The source, as the config named it.")],
    store: StoreFolder = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do.")] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Record the files of a source that is not named any more as gone; no file is deleted."""
    from contextlib import nullcontext
    from datetime import UTC, datetime

    from flows.console import out, print_json
    from flows.settings import resolve
    from flows.tables import show_forgetting
    from pipeline.images.forgetting import find_forgotten
    from pipeline.images.forgetting import forget as forget_source
    from pipeline.locking import writer_lock
    from pipeline.opening import open_store

    resolved = resolve(config, {"store": store}, assignments)
    opened = open_store(resolved.store)
    with nullcontext() if dry_run else writer_lock(opened, wait=wait):
        found = find_forgotten(opened, source, resolved.sources)
        if not as_json:
            show_forgetting(found)
        if not dry_run:
            forget_source(opened, found, now=datetime.now(UTC))
    if as_json:
        statuses = dict(found.rows["status"].value_counts(sort=True).iter_rows())
        told = {"source": found.source, "files": len(found.rows), "status": statuses}
        print_json({**told, "images": found.images, "kept": found.kept, "forgotten": not dry_run})
    elif not dry_run:
        out.print("forgotten; naming the source again takes all of it back")


def _tell(files: int) -> None:
    from flows.progress import listener

    listener.get().advance(files, 0)
