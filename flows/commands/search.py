"""The command that asks a store: search."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands import Assignments, ConfigFile, Device, Json, Model, StoreFolder

Many = list[str] | None


def search(
    images: Annotated[
        Many, typer.Argument(help="Image files to compare with.", show_default=False)
    ] = None,
    text: Annotated[Many, typer.Option("--text", help='Words, or "words^2": of weight 2.')] = None,
    image_ids: Annotated[
        Many, typer.Option("--id", help="An image of the store: its id, or 6 digits of it or more.")
    ] = None,
    not_text: Annotated[Many, typer.Option("--not-text", help="Away from these words.")] = None,
    not_image: Annotated[Many, typer.Option("--not-image", help="Away from this file.")] = None,
    not_id: Annotated[Many, typer.Option("--not-id", help="Away from this image.")] = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            "--batch", help="Queries, one a row: JSON Lines or .csv; answers are JSON Lines."
        ),
    ] = None,
    store: StoreFolder = None,
    k: Annotated[int, typer.Option("-k", help="Images to find, 1 to 10,000.")] = 10,
    label: Annotated[
        Many, typer.Option("--label", help="Only images so labelled; repeated: any of these.")
    ] = None,
    min_confidence: Annotated[
        float, typer.Option("--min-confidence", help="Only images labelled this surely, 0 to 1.")
    ] = 0.0,
    path: Annotated[
        str | None, typer.Option("--path", help="Only paths with this in them.")
    ] = None,
    path_prefix: Annotated[
        str | None, typer.Option("--path-prefix", help="Only paths that begin so.")
    ] = None,
    selected: Annotated[
        bool | None,
        typer.Option("--selected/--not-selected", help="Only what training gets, or does not."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Only what was first seen then or later: 2026-05-01 (UTC)."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Only what was first seen before then (UTC).")
    ] = None,
    include_self: Annotated[
        bool | None,
        typer.Option(
            "--include-self/--no-self",
            help="Whether images asked for may answer themselves [default: files may, ids not].",
        ),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Draw the query and its answers: FILE.png.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the answers: FILE.parquet or FILE.csv.")
    ] = None,
    model: Model = None,
    device: Device = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Find the images of a store that are most like images, ids and texts, away from others."""
    from flows import searching
    from flows.answering import Outputs, answer, answer_all
    from flows.console import progress_shown
    from flows.settings import resolve
    from pipeline.errors import InputError
    from pipeline.opening import open_store
    from pipeline.search.queries import Filters
    from pipeline.search.requests import read_requests
    from pipeline.search.searcher import Searcher, require_k

    require_k(k)
    outputs = Outputs(sheet=sheet, out=out, as_json=as_json)
    outputs.require(batch=batch is not None)
    filters = Filters(
        labels=tuple(label or ()),
        min_confidence=min_confidence,
        path_contains=path,
        path_prefix=None if path_prefix is None else searching.whole_prefix(path_prefix),
        kept=selected,
        since=searching.moment("--since", since),
        until=searching.moment("--until", until),
    )
    request = searching.request(
        wanted={"image": images or [], "id": image_ids or [], "text": text or []},
        unwanted={"image": not_image or [], "id": not_id or [], "text": not_text or []},
    )
    if (batch is None) == (not request.items):
        raise InputError("search: give an image file, --id or --text, or a file of them by --batch")
    requests = [request] if batch is None else read_requests(batch)
    given = {"store": store, "encoder.model": model, "encoder.device": device}
    resolved = resolve(config, given, assignments)
    opened = open_store(resolved.store)
    with progress_shown("open"):
        searcher = Searcher.open(opened)
        searcher.require(filters)
        itself = searching.Itself(ids=include_self is True, files=include_self is not False)
        queries = searching.terms_of(resolved, opened, searcher, requests, itself, batch)
        found = searching.answers(searcher, queries, k, filters)
        if batch is not None:
            answer_all(requests, found, outputs)
            return
        hits = next(found)
    answer(resolved, searcher, request, hits, outputs)
