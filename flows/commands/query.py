"""The commands that ask a model: classify, search, predict."""

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
    from pipeline.arrays import Floats
    from pipeline.clip.encoder import Encoder
    from pipeline.config import Config

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
    from flows import resources
    from flows.console import percent, print_json, show, table
    from flows.settings import resolve
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
    label_set = resources.label_set(resolved)
    files = _read(images)
    encoder = resources.encoder(resolved)
    answers = classify_vectors(
        _embed(files, encoder, resolved),
        label_set,
        resources.label_vectors(resolved),
        encoder.identity,
        top_k=resolved.labels.top_k,
        abstain_below=resolved.labels.abstain_below,
    )
    if as_json:
        print_json([{"path": p, **asdict(a)} for p, a in zip(files, answers, strict=True)])
        return
    for path, answer in zip(files, answers, strict=True):
        note = "" if answer.label else "  (abstained)"
        shown = table("label", "score", right=("score",))
        for entry in answer.top:
            shown.add_row(entry.label, percent(entry.score))
        show(f"{path}{note}", shown)


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
    from flows import resources
    from flows.console import print_json, show, table
    from flows.settings import resolve
    from pipeline.errors import InputError
    from pipeline.opening import open_store
    from pipeline.search.index import load_index
    from pipeline.search.queries import Filters, find_similar

    if (image is None) == (text is None):
        raise InputError("search: give either an image file or --text")
    given = {"store": store, "encoder.model": model, "encoder.device": device}
    resolved = resolve(config, given, assignments)
    opened = open_store(resolved.store)
    load_index(opened)  # a store without one is told before a model is loaded for nothing
    files = _read([image]) if image is not None else {}
    encoder = resources.encoder(resolved)
    opened.require(encoder.identity)
    query = _embed(files, encoder, resolved) if files else encoder.encode_texts([str(text)])
    filters = Filters(label=label, min_confidence=min_confidence, path_contains=path)
    hits = find_similar(opened, query, k, filters)
    if as_json:
        print_json(hits.to_dicts())
        return
    shown = table("cosine", "label", "score", "path")
    for hit in hits.iter_rows(named=True):
        score = "-" if hit["score"] is None else f"{hit['score']:.2f}"
        shown.add_row(f"{hit['cosine']:.3f}", hit["label"] or "-", score, hit["path"])
    show(f"Nearest to {image or text}", shown)


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
    import polars as pl

    from flows import resources
    from flows.console import out, percent, print_json, show, table
    from flows.settings import resolve
    from pipeline.images.decoding import image_id
    from pipeline.images.paths import path_text, whole_path
    from pipeline.locking import writer_lock
    from pipeline.opening import open_store
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
            summary = predict_store(opened, top_k=k, encoder=lambda: resources.encoder(resolved))
        if as_json:
            print_json(summary)
        else:
            out.print(
                f"{summary.predicted} images predicted into {opened.location}/{summary.table}"
            )
        return
    files = _read(images)
    head, encoder = load_head(opened), resources.encoder(resolved)
    opened.require(encoder.identity)
    vectors, names = _embed(files, encoder, resolved), list(files)
    seen = {
        "image_id": [image_id(data) for data in files.values()],
        "path": [path_text(whole_path(name)) for name in names],
    }
    answers = predict_vectors(opened, head, vectors, pl.DataFrame(seen), lambda: encoder)
    rows = ranked_labels(answers, head.classes, k).to_dicts()
    if as_json:
        print_json([{"path": name, **row} for name, row in zip(names, rows, strict=True)])
        return
    shown = table("image", "label", "score", right=("score",))
    for name, row in zip(names, rows, strict=True):
        shown.add_row(name, row["label"], percent(row["score"]))
    show("Predictions of the trained head", shown)


def _read(images: list[Path]) -> dict[str, bytes]:
    """Read the files a user named, before a model is loaded for nothing."""
    from pipeline.errors import InputError

    files = {}
    for path in images:
        try:
            files[str(path)] = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return files


def _embed(files: dict[str, bytes], encoder: "Encoder", config: "Config") -> "Floats":
    """Decode and embed files; one that is no image is the user's to know at once."""
    import numpy as np

    from flows import resources
    from pipeline.errors import InputError
    from pipeline.images.decoding import Refusal

    vectors = []
    with resources.decoders(config, 1) as pool:
        for name, data in files.items():
            outcome = pool.decode(data, name)
            if isinstance(outcome, Refusal):
                raise InputError(f"{name}: {outcome.reason}")
            vectors.append(encoder.encode_images(outcome.pixels[None]))
    return np.concatenate(vectors)
