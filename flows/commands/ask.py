"""The commands that answer: classify, search, predict, evaluate, export, status."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands import (
    Assignments,
    ConfigFile,
    Device,
    Json,
    Labels,
    Model,
    Precision,
    StoreFolder,
    Template,
    TopK,
)

if TYPE_CHECKING:
    from pipeline.clip.encoder import Encoder
    from pipeline.config import Config
    from pipeline.images.decoding import Picture

Images = Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)]


def classify(
    images: Images,
    labels: Labels = None,
    model: Model = None,
    template: Template = None,
    top_k: TopK = None,
    device: Device = None,
    precision: Precision = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Zero-shot answers for single images; no store is needed."""
    import numpy as np

    from flows import stages
    from flows.console import out, percent, print_json, table
    from flows.settings import resolve
    from pipeline.clip.prompts import embed_labels
    from pipeline.labels.classify import classify as classify_vectors

    resolved = resolve(
        config,
        {
            "labels.label_set": labels,
            "labels.template": template,
            "labels.top_k": top_k,
            "encoder.model": model,
            "encoder.device": device,
            "encoder.precision": precision,
        },
        assignments,
    )
    label_set = stages.label_set(resolved)
    encoder = stages.encoder(resolved)
    pictures = _decode(images, encoder, resolved)
    vectors = encoder.encode_images(np.stack([picture.pixels for picture in pictures]))
    answers = classify_vectors(
        vectors,
        label_set,
        embed_labels(label_set, encoder),
        encoder.identity,
        top_k=resolved.labels.top_k,
        abstain_below=resolved.labels.abstain_below,
    )
    if as_json:
        print_json([{"path": str(p), **asdict(a)} for p, a in zip(images, answers, strict=True)])
        return
    for path, answer in zip(images, answers, strict=True):
        note = "" if answer.label else "  (abstained)"
        shown = table(f"{path}{note}", "label", "score", right=("score",))
        for label, share in answer.top:
            shown.add_row(label, percent(share))
        out.print(shown)


def search(
    image: Annotated[Path | None, typer.Argument(help="An image file to compare with.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="Words instead of an image.")] = None,
    store: StoreFolder = None,
    k: Annotated[int, typer.Option("-k", help="Images to find.")] = 10,
    label: Annotated[str | None, typer.Option("--label", help="Only images so labelled.")] = None,
    min_confidence: Annotated[
        float, typer.Option("--min-confidence", help="Only images labelled this surely, 0 to 1.")
    ] = 0.0,
    path: Annotated[
        str | None, typer.Option("--path", help="Only paths with this in them.")
    ] = None,
    model: Model = None,
    device: Device = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Find the images of a store most similar to an image or a text."""
    import numpy as np

    from flows import stages
    from flows.console import out, print_json, table
    from flows.settings import resolve
    from pipeline.errors import InputError
    from pipeline.search.queries import Filters, find_similar
    from pipeline.store import open_store

    if (image is None) == (text is None):
        raise InputError("search: give either an image file or --text")
    given = {"store": store, "encoder.model": model, "encoder.device": device}
    resolved = resolve(config, given, assignments)
    opened = open_store(resolved.store)
    encoder = stages.encoder(resolved)
    opened.require(encoder.identity)
    if image is not None:
        pixels = _decode([image], encoder, resolved)[0].pixels
        query = encoder.encode_images(np.stack([pixels]))
    else:
        query = encoder.encode_texts([str(text)])
    filters = Filters(label=label, min_confidence=min_confidence, path_contains=path)
    hits = find_similar(opened, query, k, filters)
    if as_json:
        print_json(hits.to_dicts())
        return
    shown = table(f"nearest to {image or text!r}", "cosine", "label", "score", "path")
    for hit in hits.iter_rows(named=True):
        score = "-" if hit["score"] is None else f"{hit['score']:.2f}"
        shown.add_row(f"{hit['cosine']:.3f}", hit["label"] or "-", score, hit["path"])
    out.print(shown)


def predict(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Image files [default: every image of the store].")
    ] = None,
    store: StoreFolder = None,
    top_k: TopK = None,
    model: Model = None,
    device: Device = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another writer.")] = False,
    as_json: Json = False,
) -> None:
    """Apply the trained head to image files, or to every image of the store."""
    import numpy as np

    from flows import stages
    from flows.console import out, percent, print_json, table
    from flows.settings import resolve
    from pipeline.locking import writer_lock
    from pipeline.store import open_store
    from pipeline.training.models import load_head
    from pipeline.training.predict import predict_store, predict_vectors, ranked_labels

    given = {
        "store": store,
        "labels.top_k": top_k,
        "encoder.model": model,
        "encoder.device": device,
    }
    resolved = resolve(config, given, assignments)
    opened, k = open_store(resolved.store), resolved.labels.top_k
    if not images:
        with writer_lock(opened, wait=wait):
            summary = predict_store(opened, top_k=k, encoder=lambda: stages.encoder(resolved))
        if as_json:
            print_json(summary)
        else:
            out.print(f"{summary.predicted} images predicted into {opened.root / summary.table}")
        return
    head, encoder = load_head(opened), stages.encoder(resolved)
    opened.require(encoder.identity)
    pictures = _decode(images, encoder, resolved)
    vectors = encoder.encode_images(np.stack([picture.pixels for picture in pictures]))
    names = [str(path) for path in images]
    answers = predict_vectors(opened, head, vectors, names, lambda: encoder)
    rows = ranked_labels(answers, head.classes, k).to_dicts()
    if as_json:
        print_json([{"path": name, **row} for name, row in zip(names, rows, strict=True)])
        return
    shown = table("Predictions of the trained head", "image", "label", "score", right=("score",))
    for name, row in zip(names, rows, strict=True):
        shown.add_row(name, row["label"], percent(row["score"]))
    out.print(shown)


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
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Compare the current labels with true ones."""
    from flows import tables
    from flows.settings import resolve
    from pipeline.reports.evaluate import evaluate as evaluate_store
    from pipeline.store import open_store

    given = {"store": store, "select.min_confidence": threshold}
    resolved = resolve(config, given, assignments)
    opened, bar = open_store(resolved.store), resolved.select.min_confidence
    tables.show_evaluation(evaluate_store(opened, truth, threshold=bar), as_json=as_json)


def export(
    destination: Annotated[Path, typer.Argument(help="File or folder to write.", metavar="OUT")],
    form: Annotated[
        str,
        typer.Option("--format", help="parquet, csv, imagefolder, webdataset or label-studio."),
    ] = "parquet",
    store: StoreFolder = None,
    selected: Annotated[bool, typer.Option("--selected", help="Only the selection.")] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Write files and labels as one flat table, or in the layout of another tool."""
    from flows.console import out, print_json
    from flows.settings import resolve
    from pipeline.reports.export import export as export_store
    from pipeline.store import open_store

    resolved = resolve(config, {"store": store}, assignments)
    opened = open_store(resolved.store)
    summary = export_store(opened, destination, form, selected_only=selected)
    if as_json:
        print_json(summary)
    else:
        out.print(f"wrote {summary.rows} rows to {summary.out} ({summary.format})")


def status(
    store: StoreFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Say what is in a store."""
    from flows.console import out, print_json, table
    from flows.settings import resolve
    from pipeline.reports.status import status as store_status
    from pipeline.store import open_store

    found = store_status(open_store(resolve(config, {"store": store}, assignments).store))
    if as_json:
        print_json(found)
        return
    shown = table(f"Store {found.store}", "what", "value")
    shown.add_row("encoder", found.encoder or "none yet")
    shown.add_row("runs", f"{found.runs}, the last {found.last_run or '-'}")
    shown.add_row("files", ", ".join(f"{n} {name}" for name, n in found.files.items()) or "none")
    shown.add_row("images embedded", f"{found.embeddings}, {found.indexed} in the search index")
    shown.add_row("label set", found.label_set or "none yet")
    most = [f"{name} {count}" for name, count in list(found.labels.items())[:12]]
    shown.add_row("labels", ", ".join(most) + (" ..." if len(found.labels) > 12 else ""))
    shown.add_row("selected", str(found.selected))
    shown.add_row("trained head", "yes" if found.trained else "no")
    shown.add_row("on disk", f"{found.bytes / 1e6:.1f} MB")
    out.print(shown)


def _decode(images: list[Path], encoder: "Encoder", config: "Config") -> "list[Picture]":
    """Decode the files a user named; one that is no image is the user's to know at once."""
    from pipeline.errors import InputError
    from pipeline.images.decoding import Refusal, decode

    pictures = []
    for path in images:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        outcome = decode(data, str(path), encoder.fit, max_pixels=config.scan.max_pixels)
        if isinstance(outcome, Refusal):
            raise InputError(f"{path}: {outcome.reason}")
        pictures.append(outcome)
    return pictures
