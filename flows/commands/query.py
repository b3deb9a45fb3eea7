"""The commands that ask a model: classify, search."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

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

Images = Annotated[list[Path], typer.Argument(help="Image files or folders.", show_default=False)]


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
    from flows.asking import files_of, vectors_of_files
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
    asked = vectors_of_files(resolved, files_of(images))
    encoder = resources.encoder(resolved)
    answers = classify_vectors(
        asked.vectors,
        label_set,
        resources.label_vectors(resolved),
        encoder.identity,
        top_k=resolved.labels.top_k,
        abstain_below=resolved.labels.abstain_below,
    )
    if as_json:
        print_json([{"path": p, **asdict(a)} for p, a in zip(asked.names, answers, strict=True)])
        return
    for path, answer in zip(asked.names, answers, strict=True):
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
    from flows.asking import files_of, vectors_of_files
    from flows.console import print_json, show, table
    from flows.settings import resolve
    from pipeline.errors import InputError
    from pipeline.opening import open_store
    from pipeline.search.index import load_index
    from pipeline.search.queries import Filters, Term
    from pipeline.search.searcher import Searcher

    if (image is None) == (text is None):
        raise InputError("search: give either an image file or --text")
    given = {"store": store, "encoder.model": model, "encoder.device": device}
    resolved = resolve(config, given, assignments)
    opened = open_store(resolved.store)
    load_index(opened)  # a store without one is told before a model is loaded for nothing
    files = files_of([image]) if image is not None else {}
    encoder = resources.encoder(resolved)
    opened.require(encoder.identity)
    if files:
        query = vectors_of_files(resolved, files).vectors
    else:
        query = encoder.encode_texts([str(text)])
    labels = () if label is None else (label,)
    filters = Filters(labels=labels, min_confidence=min_confidence, path_contains=path)
    term = Term(query[0], "text" if text is not None else "image")
    hits = Searcher.open(opened).find([term], k, filters)
    if as_json:
        print_json(hits.to_dicts())
        return
    shown = table("cosine", "label", "score", "path")
    for hit in hits.iter_rows(named=True):
        score = "-" if hit["score"] is None else f"{hit['score']:.2f}"
        shown.add_row(f"{hit[f'{term.kind}_cosine']:.3f}", hit["label"] or "-", score, hit["path"])
    show(f"Nearest to {image or text}", shown)
