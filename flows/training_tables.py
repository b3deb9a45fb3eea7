"""What training and predicting came to, as tables for a person or as JSON."""

from typing import TYPE_CHECKING

import polars as pl

from flows.console import out, percent, print_json, show, table, tell_refused
from pipeline.config import Config
from pipeline.labels.label_runs import run_of

if TYPE_CHECKING:
    from pipeline.training.head_labels import HeadLabels
    from pipeline.training.self_training import SelfTraining
    from pipeline.training.train import TrainSummary


def show_training(summary: "TrainSummary", *, as_json: bool) -> None:
    """Show the head beside its baselines."""
    if as_json:
        print_json(summary)
        return
    title = (
        f"Training: {summary.train} samples of {summary.classes} classes, {summary.valid} held "
        f"out, {summary.seconds:.1f} s"
    )
    by_truth = summary.measured_by == "truth"
    right = "accuracy" if by_truth else "agreement with pseudo-labels"
    columns = [right, "mean recall", "calibration error", "seconds"]
    shown = table(f"on {summary.measured_on} held out", *columns, right=tuple(columns))
    for line in summary.comparison:
        took = "-" if line.seconds is None else f"{line.seconds:.1f}"
        shares = (line.accuracy, line.macro_recall, line.calibration_error)
        style = "bold" if line.method == summary.kind else None
        shown.add_row(line.method, *map(percent, shares), took, style=style)
    show(title, shown)
    out.print(f"saved: {summary.kind} ({summary.chosen})")
    for said in [*summary.side, *([summary.leakage.words] if summary.leakage else [])]:
        out.print(said)


def show_self_training(summary: "SelfTraining", *, used: bool, as_json: bool) -> None:
    """Show what each round changed, and whether it counts."""
    if as_json:
        print_json(summary)
        return
    columns = ("labels changed", "surest kept")
    shown = table("round", *columns, "counts", "run", "why", right=columns)
    for each in summary.rounds:
        counts = "yes" if each.counts else "no"
        shares = percent(each.flips), percent(each.retention)
        shown.add_row(str(each.number), *shares, counts, run_of(each.table), each.why)
    show("Self-training", shown)
    out.print(_what_of(summary.table, used=used))


def show_predictions(config: Config, written: "HeadLabels", *, used: bool, as_json: bool) -> None:
    """Show where the labels of a head are."""
    if as_json:
        print_json(written)
        return
    out.print(f"{written.labelled} images labelled by the head into {config.store}/{written.table}")
    out.print(_what_of(written.table, used=used))


def show_file_predictions(rows: pl.DataFrame, refused: dict[str, str]) -> None:
    """Show what a head says of images that the user named."""
    shown = table("image", "label", "score", right=("score",))
    for path, label, score in rows.select("path", "label", "score").iter_rows():
        shown.add_row(path, label, percent(score))
    show("Predictions of the trained head", shown)
    tell_refused(refused)


def _what_of(table_name: str, *, used: bool) -> str:
    run = run_of(table_name)
    if used:
        return f"label run {run} is in force; `pseudolabel select` makes the selection anew"
    return f"compare: `pseudolabel labels diff current {run}`; turn to it: `labels use {run}`"
