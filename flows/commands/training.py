"""The commands that make and use heads: train, self-train, predict."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands import (
    Assignments,
    ConfigFile,
    Device,
    Json,
    Model,
    Plain,
    StoreFolder,
    TopK,
    Truth,
    Wait,
)

Heads = Annotated[
    str | None,
    typer.Option(
        "--heads",
        help="auto, all, or some of linear, logistic, mlp, multimodal, pairwise, prompt: the "
        "preferred one first.",
    ),
]
SideText = Annotated[
    str | None,
    typer.Option("--side-text", help="none, file-name, captions, shards or a CSV (path,text)."),
]
SideColumns = Annotated[
    str | None,
    typer.Option("--side-columns", help="CSV or Parquet: path, and columns to learn from."),
]
AllowLeakage = Annotated[
    bool,
    typer.Option("--allow-leakage", help="Train though side information gives labels away."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Same seed, same weights.")]


def train(
    store: StoreFolder = None,
    heads: Heads = None,
    truth: Truth = None,
    side_text: SideText = None,
    side_columns: SideColumns = None,
    allow_leakage: AllowLeakage = False,
    seed: Seed = None,
    model: Model = None,
    device: Device = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Wait = False,
    plain: Plain = False,
    as_json: Json = False,
) -> None:
    """Fit heads to the selection, compare them with the labels they learn from, save the best."""
    from flows import driver
    from flows.settings import resolve
    from flows.training_tables import show_training

    given = {
        "store": store,
        "select.truth": truth,
        "train.heads": heads,
        "train.side_text": side_text,
        "train.side_columns": side_columns,
        "train.allow_leakage": allow_leakage or None,
        "train.seed": seed,
        "encoder.model": model,
        "encoder.device": device,
    }
    resolved = resolve(config, given, assignments)
    summary = driver.train(resolved, plain=plain, wait=wait)
    show_training(summary, as_json=as_json)


def self_train(
    store: StoreFolder = None,
    heads: Heads = None,
    seed: Seed = None,
    use: Annotated[
        bool, typer.Option("--use", help="Put the labels of the last round that counts in force.")
    ] = False,
    model: Model = None,
    device: Device = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Relabel the store by heads, in up to three rounds that must not drift; each is kept."""
    from flows import training, training_tables
    from flows.console import progress_shown
    from flows.settings import resolve
    from pipeline.locking import writer_lock
    from pipeline.opening import open_store

    given = {
        "store": store,
        "train.heads": heads,
        "train.seed": seed,
        "encoder.model": model,
        "encoder.device": device,
    }
    resolved = resolve(config, given, assignments)
    with writer_lock(open_store(resolved.store), wait=wait), progress_shown("load"):
        summary = training.self_train(resolved, use=use)
    training_tables.show_self_training(summary, used=use, as_json=as_json)


def predict(
    images: Annotated[
        list[Path] | None,
        typer.Argument(help="Image files or folders [default: every image of the store]."),
    ] = None,
    store: StoreFolder = None,
    top_k: TopK = None,
    use: Annotated[
        bool, typer.Option("--use", help="Put the head's labels in force, for select and export.")
    ] = False,
    model: Model = None,
    device: Device = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Label image files, folders, or every image of the store, by the trained head."""
    from flows import training, training_tables
    from flows.asking import files_of, vectors_of_files
    from flows.console import print_json, progress_shown
    from flows.settings import resolve
    from pipeline.errors import InputError
    from pipeline.locking import writer_lock
    from pipeline.opening import open_store
    from pipeline.training.models import load_head

    given = {
        "store": store,
        "labels.top_k": top_k,
        "encoder.model": model,
        "encoder.device": device,
    }
    resolved = resolve(config, given, assignments)
    opened = open_store(resolved.store)
    if not images:
        with writer_lock(opened, wait=wait), progress_shown("load"):
            written = training.predict(resolved, use=use)
        training_tables.show_predictions(resolved, written, used=use, as_json=as_json)
        return
    if use:
        raise InputError("predict --use: is for the images of the store; name no files with it")
    load_head(opened)  # a store without one is told before a model is loaded for nothing
    with progress_shown("load"):
        asked = vectors_of_files(resolved, files_of(images))
        rows = training.predict_files(resolved, asked)
    if as_json:
        print_json([*rows.to_dicts(), *asked.left_out()])
        return
    training_tables.show_file_predictions(rows, asked.refused)
