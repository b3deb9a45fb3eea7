"""The commands that tell of a store: evaluate, export, report, status."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands import Assignments, ConfigFile, Json, StoreFolder, Wait


def evaluate(
    truth: Annotated[
        str,
        typer.Option("--truth", help="A CSV file (path,label), or folders named as the labels."),
    ],
    store: StoreFolder = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="For coverage [default: select.min_confidence]."),
    ] = None,
    destination: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for evaluation.json and the pictures.", metavar="FOLDER"
        ),
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Compare the current labels with true ones; --out draws pictures of it."""
    from flows.evaluation import show_evaluation
    from flows.settings import resolve
    from pipeline.opening import open_store
    from pipeline.reports.evaluate import evaluate as evaluate_store
    from pipeline.reports.evaluate import write_evaluation

    given = {"store": store, "select.min_confidence": threshold}
    resolved = resolve(config, given, assignments)
    opened, bar = open_store(resolved.store), resolved.select.min_confidence
    evaluation = evaluate_store(opened, truth, threshold=bar)
    written = write_evaluation(evaluation, destination) if destination else []
    show_evaluation(evaluation, as_json=as_json, written=written)


def export(
    destination: Annotated[Path, typer.Argument(help="File or folder to write.", metavar="OUT")],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="parquet, csv, imagefolder, webdataset or label-studio "
            "[default: csv for a name in .csv, else parquet].",
        ),
    ] = None,
    store: StoreFolder = None,
    selected: Annotated[bool, typer.Option("--selected", help="Only the selection.")] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Write files and labels as one flat table, or in the layout of another tool."""
    from flows.console import out, print_json
    from flows.settings import resolve
    from pipeline.opening import open_store
    from pipeline.reports.export import export as export_store

    resolved = resolve(config, {"store": store}, assignments)
    opened = open_store(resolved.store)
    form = form or ("csv" if destination.suffix.lower() == ".csv" else "parquet")
    summary = export_store(opened, destination, form, selected_only=selected)
    if as_json:
        print_json(summary)
    else:
        out.print(f"wrote {summary.rows} rows to {summary.out} ({summary.format})")


def report(
    run: Annotated[
        str | None,
        typer.Argument(help="A run, or how its name begins [default: the last].", metavar="[RUN]"),
    ] = None,
    store: StoreFolder = None,
    destination: Annotated[
        Path | None,
        typer.Option("--out", help="Write the page there, and nothing to the store."),
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Make the page of a run again: what arrived, what failed, labels, drift, training."""
    from flows import reporting
    from flows.console import out, print_json
    from flows.settings import resolve
    from pipeline.locking import writer_lock
    from pipeline.opening import open_store
    from pipeline.reports.verdict import verdict
    from pipeline.runs import find_run

    resolved = resolve(config, {"store": store}, assignments)
    opened = open_store(resolved.store)
    run_id = find_run(opened, run)
    if destination:
        found = reporting.told(opened, run_id)
        destination.write_bytes(reporting.page_bytes(resolved, found))
        place = str(destination)
    else:
        with writer_lock(opened, wait=wait):
            found, name = reporting.rebuild(resolved, run_id, opened)
        place = f"{opened.location}/{name}"
    told = verdict(found)
    if as_json:
        content = {"verdict": told.headline, "points": [point.words for point in told.points]}
        print_json({**content, "report": place, **found.as_json()})
        return
    out.print(told.headline, style="bold")
    for point in told.points:
        out.print(f"  {point.words}", soft_wrap=True)
    out.print(f"report: {place}", soft_wrap=True)


def status(
    store: StoreFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Say what is in a store."""
    from flows.console import print_json, show, table
    from flows.settings import resolve
    from pipeline.opening import open_store
    from pipeline.reports.status import status as store_status

    found = store_status(open_store(resolve(config, {"store": store}, assignments).store))
    if as_json:
        print_json(found)
        return
    shown = table("what", "value")
    shown.add_row("encoder", found.encoder or "none yet")
    shown.add_row("runs", f"{found.runs}, the last {found.last_run or '-'}")
    shown.add_row("files", ", ".join(f"{n} {name}" for name, n in found.files.items()) or "none")
    shown.add_row("images embedded", f"{found.embeddings}, {found.indexed} in the search index")
    if found.index:
        shown.add_row("search index", str(found.index))
    shown.add_row("label set", found.label_set or "none yet")
    most = [f"{name} {count}" for name, count in list(found.labels.items())[:12]]
    shown.add_row("labels", ", ".join(most) + (" ..." if len(found.labels) > 12 else ""))
    if found.caption_model:
        shown.add_row("captions", f"{found.captioned}, by {found.caption_model}")
    shown.add_row("selected", str(found.selected))
    shown.add_row("trained head", "yes" if found.trained else "no")
    shown.add_row("on disk", f"{found.bytes / 1e6:.1f} MB")
    show(f"Store {found.store}", shown)
