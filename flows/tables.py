"""The summaries of runs and commands, as tables for a person or as JSON."""

from typing import TYPE_CHECKING

import polars as pl

from flows import sentences
from flows.agreement_tables import show_agreement
from flows.console import out, percent, print_json, show, table
from flows.drop import DropSummary
from flows.evaluation import show_evaluation
from flows.plan import Plan
from flows.relabel import RelabelSummary
from flows.training_tables import show_training
from pipeline.catalog import current_files, present_images
from pipeline.config import Config
from pipeline.opening import open_store
from pipeline.training.selection import SelectSummary

if TYPE_CHECKING:
    from pipeline.images.forgetting import Forgetting
    from pipeline.reports.verify import VerifySummary

_SHOWN_FAILURES = 10
_SHOWN_CLASSES = 30


def show_nothing_new(config: Config, found: Plan, *, as_json: bool) -> None:
    """Say that there is nothing to do."""
    if as_json:
        print_json({"nothing_new": True, "known": found.known, "waiting": found.waiting})
        return
    if not found.known and not found.waiting:
        out.print(f"No files in {', '.join(config.sources)}: nothing to do.", style="bold")
        return
    out.print(f"Nothing new: all {found.known} files are known to {config.store}.", style="bold")
    if found.waiting:
        out.print(
            f"{found.waiting} files are younger than {config.scan.settle_seconds:g} s and wait for "
            "the next run (--set scan.settle_seconds=0 takes them now)."
        )


def show_forgetting(found: "Forgetting") -> None:
    """Say what forgetting a source means."""
    statuses = found.rows["status"].value_counts(sort=True).iter_rows()
    counts = ", ".join(f"{count} {status}" for status, count in statuses)
    out.print(
        f"{len(found.rows)} files of {found.source} to be recorded as gone ({counts or 'none'}); "
        f"{found.images} images lie under no other path: labels, search and export leave them out "
        "then, and the selection from the next run on",
        soft_wrap=True,
    )
    if found.kept:
        out.print(f"{found.kept} files stay: another source that is named has them, too")


def show_drop(config: Config, summary: DropSummary) -> None:
    """Show what one run did, and where everything is."""
    from pipeline.reports.evaluate import evaluate

    out.print(f"\n{sentences.of_drop(summary.scan, summary.embed)}", style="bold")
    _show_failures(config, summary.run_id)
    if summary.label is not None:
        if config.select.truth:
            store, wanted = open_store(config.store), config.select
            found = evaluate(store, wanted.truth, threshold=wanted.min_confidence)
            show_evaluation(found, as_json=False)
        else:
            _show_labels(config)
        if summary.report is not None:
            show_agreement(summary.report.agreement)
    if summary.select is not None:
        show_selection(summary.select, as_json=False)
    if summary.train is not None:
        show_training(summary.train, as_json=False)
    elif summary.not_trained:
        out.print(f"not trained: {summary.not_trained}")
    _show_places(config, summary)
    if summary.report and summary.report.drift in ("some", "strong"):
        told = f"drift is {summary.report.drift}: {summary.report.drift_reason}"
        out.print(told, style="bold", soft_wrap=True)


def show_relabelling(config: Config, summary: RelabelSummary, *, as_json: bool) -> None:
    """Show what was labelled, how fast, and what the labels are now."""
    if as_json:
        print_json(summary)
        return
    label, took = summary.label, summary.seconds["label"]
    if label.labelled:
        speed = f"{summary.images_per_second:.0f} images/s"
        told = sentences.of_labelling(label)
        out.print(f"\n{told}, in {took:.1f} s: {speed}", style="bold")
    else:
        out.print("\nAll images had these labels already: they are in force.", style="bold")
    _show_labels(config)
    if summary.select is None:
        out.print("The selection is still of the labels before; `pseudolabel select` makes it anew")
    else:
        show_selection(summary.select, as_json=False)
    out.print(f"The labels are in {config.store}/{label.table}; no head was trained on them")


def show_selection(summary: SelectSummary, *, as_json: bool) -> None:
    """Show what was selected, why the rest was not, and how the classes are balanced."""
    if as_json:
        print_json(summary)
        return
    shown = table("images", "what", right=("images",))
    shown.add_row(str(summary.kept), "kept", style="bold")
    shown.add_row(str(summary.train), "  to train on")
    shown.add_row(str(summary.valid), "  to tell when to stop")
    for reason, count in summary.left_out.items():
        shown.add_row(str(count), f"left out: {reason}")
    show("Selection for training", shown)
    columns = ("images", "share", "kept", "share of kept")
    shown = table("label", *columns, right=columns)
    for line in summary.classes[:_SHOWN_CLASSES]:
        shares = percent(line.share), percent(line.kept_share)
        shown.add_row(line.label, str(line.images), shares[0], str(line.kept), shares[1])
    if rest := summary.classes[_SHOWN_CLASSES:]:
        images, kept = sum(line.images for line in rest), sum(line.kept for line in rest)
        shown.add_row(f"and {len(rest)} smaller classes", str(images), "", str(kept), "")
    show("Classes before and after", shown)


def show_verification(summary: "VerifySummary", *, as_json: bool) -> None:
    """Show what was checked, and each fault with what was done about it."""
    if as_json:
        print_json(summary)
        return
    checked = f"{summary.files} files ({summary.bytes / 1e6:.1f} MB), {summary.images} vectors"
    if summary.index:
        checked += f", the index ({summary.index})"
    if not summary.faults and not summary.lost:
        out.print(f"sound: {checked} checked", style="bold")
        return
    if summary.faults:
        shown = table("file", "fault", "what was done")
        for fault in summary.faults:
            shown.add_row(fault.file, fault.what, fault.done)
        show(f"Faults, in {checked}", shown)
    if summary.lost:
        out.print(f"{summary.lost} files lost their vectors; the next run reads them again")


def _show_failures(config: Config, run_id: str) -> None:
    files = current_files(open_store(config.store), ["status", "reason", "run_id"])
    failed = files.filter((pl.col("status") == "unreadable") & (pl.col("run_id") == run_id))
    for path, reason in failed.select("path", "reason").head(_SHOWN_FAILURES).iter_rows():
        out.print(f"  unreadable: {path}: {reason}", style="red", soft_wrap=True)
    if len(failed) > _SHOWN_FAILURES:
        out.print(f"  and {len(failed) - _SHOWN_FAILURES} more, in the table files")


def _show_labels(config: Config) -> None:
    from pipeline.labels.labelling import current_labels

    store = open_store(config.store)
    run = current_labels(store)
    wanted = ["image_id", "label", "confidence", "calibrated"]
    labels = store.read(run.table, wanted).unique("image_id")
    labels = labels.join(present_images(store), on="image_id", how="semi")
    counts = labels.group_by("label").agg(pl.len().alias("n"), pl.col("confidence").mean())
    mean = "mean confidence" if labels["calibrated"].all() else "mean score"
    shown = table("label", "images", mean, right=("images", mean))
    for label, count, score in counts.sort("n", "label", descending=[True, False]).iter_rows():
        shown.add_row(label or "(abstained)", str(count), f"{score:.2f}")
    show("Labels", shown)


def _show_places(config: Config, summary: DropSummary) -> None:
    if summary.report is None:
        return
    places = {
        "search index": "index" if summary.index else None,
        "selection": "selections/default" if summary.select else None,
        "trained head": summary.train.head if summary.train else None,
        "report": summary.report.page,
        "contact sheet": summary.report.contact_sheet,
        "run summary": summary.report.summary,
    }
    tables = ["files", "embeddings", summary.label.table] if summary.label else ["files"]
    shown = table("what", "where")
    shown.add_row("tables (Parquet)", ", ".join(f"{config.store}/{name}" for name in tables))
    for what, where in places.items():
        if where:
            shown.add_row(what, f"{config.store}/{where}")
    show("Everything is in", shown)
    took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.seconds.items())
    out.print(f"took {took}")
    _show_split(summary)


def _show_split(summary: DropSummary) -> None:
    """Show what finding and embedding were spent on: what to make faster."""
    embed, spent = summary.embed, summary.embed.seconds
    if not embed.embedded:
        return
    rate = embed.embedded / max(summary.seconds["embed"], 1e-3)
    out.print(
        f"embedded {rate:.0f} images/s, {embed.batch_size} at a time: inference "
        f"{spent['inference']:.1f} s, waiting for data {spent['waiting']:.1f} s; beside that "
        f"reading {spent['reading']:.1f} s and decoding {spent['decoding']:.1f} s, of all threads "
        f"together, and writing {spent['writing']:.1f} s; before it, listing "
        f"{summary.seconds['scan']:.1f} s"
    )
