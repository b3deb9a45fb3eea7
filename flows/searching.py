"""What a user asks of a store: options to requests, requests to terms.

Ids, and files whose bytes the store knows, are looked up in it; the rest takes a model.
"""

import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from flows import resources
from flows.asking import embed_files
from flows.progress import listener
from pipeline.arrays import Floats
from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.homes import without_tilde
from pipeline.images.decoding import image_id
from pipeline.images.paths import path_text, whole_path
from pipeline.search.queries import Filters, Term
from pipeline.search.requests import Item, Kind, Request, parse_item, require_no_faults
from pipeline.search.searcher import Searcher
from pipeline.store import Store

_HITS = 1 << 20  # in memory at a time: some 200 MB


@dataclass(frozen=True)
class Itself:
    """Which images that are asked for may answer themselves."""

    ids: bool
    files: bool


def request(wanted: Mapping[Kind, list[str]], unwanted: Mapping[Kind, list[str]]) -> Request:
    """Return what is asked for by a command's options; it may be nothing.

    Raises:
        InputError: one is empty, its weight is no number above 0, or nothing is wanted.
    """
    items = [parse_item(kind, one) for kind, given in wanted.items() for one in given]
    items += [parse_item(kind, one, away=True) for kind, given in unwanted.items() for one in given]
    try:
        return Request(tuple(items))
    except InputError as fault:
        raise InputError(f"the query {fault}") from fault


def moment(option: str, given: str | None) -> datetime | None:
    """Read a date or a time in ISO 8601; without an offset it is UTC, a date its first moment.

    Raises:
        InputError: it is neither.
    """
    if given is None:
        return None
    try:
        read = datetime.fromisoformat(given.strip())
    except ValueError:
        raise InputError(
            f"{option} {given!r}: write a date or a time, such as 2026-05-01 or "
            "2026-05-01T18:30+02:00"
        ) from None
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read


def whole_prefix(given: str) -> str:
    """Return the beginning of paths as a store writes them: local ones are absolute there."""
    if "://" in given:
        return given
    whole = path_text(whole_path(given))
    return f"{whole.rstrip('/')}/" if given.endswith("/") else whole


def terms_of(
    config: Config,
    store: Store,
    searcher: Searcher,
    requests: Sequence[Request],
    itself: Itself,
    batch: Path | None,
) -> list[list[Term]]:
    """Turn requests into terms; a model is loaded only for texts and for images that are new.

    Args:
        config: which model, and how it is run.
        store: what is searched.
        searcher: its snapshot.
        requests: what is asked for.
        itself: which images may answer themselves.
        batch: the file that the requests stand in; None: it is one, and stands in none.

    Raises:
        InputError: a request cannot be answered: before a model is loaded, as far as that can be
            told without; or the config's model is not that of the store.
    """
    asked = list(dict.fromkeys(item for request in requests for item in request.items))
    terms, faults = _known_terms(searcher, asked, itself)
    _refuse(requests, _placed(requests, faults), batch)
    rest = [item for item in asked if item not in terms]
    if rest:
        store.require(resources.encoder(config).identity)
        new, faults = _new_terms(config, rest)
        _refuse(requests, _placed(requests, faults), batch)
        terms |= new
    made = [[terms[item] for item in request.items] for request in requests]
    wrong = {}
    for place, query in enumerate(made):
        try:
            searcher.check(query)
        except InputError as fault:
            wrong[place] = str(fault)
    _refuse(requests, wrong, batch)
    return made


def answers(
    searcher: Searcher, queries: Sequence[Sequence[Term]], k: int, filters: Filters
) -> Iterator[pl.DataFrame]:
    """Yield the images for each query; so many queries at once as their answers have room."""
    step = max(1, _HITS // k)
    heard = listener.get()
    heard.stage("search", len(queries), "queries")
    for at in range(0, len(queries), step):
        block = queries[at : at + step]
        yield from searcher.find_many(block, k, filters)
        heard.advance(len(block), 0)


def _known_terms(
    searcher: Searcher, items: Sequence[Item], itself: Itself
) -> tuple[dict[Item, Term], dict[Item, str]]:
    """Return terms of what the store knows, and what is wrong with items that no model can mend."""
    terms, faults = {}, {}
    for item in items:
        try:
            if (term := _known(searcher, item, itself)) is not None:
                terms[item] = term
        except InputError as fault:
            faults[item] = str(fault)
    return terms, faults


def _known(searcher: Searcher, item: Item, itself: Itself) -> Term | None:
    if item.kind == "id":
        return searcher.term(item.value, item.weight, itself=itself.ids)
    if item.kind == "text":
        return None
    path = _file_of(item)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe would hang, a device may never end
            what = "a folder" if stat.S_ISDIR(mode) else "no file of bytes"
            raise InputError(f"{item.value}: is {what}; search takes image files")
        identity = image_id(path.read_bytes())
    except OSError as error:
        raise InputError(f"{item.value}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a null in its name, or what no encoding has
        raise InputError(f"{item.value!r}: cannot be the name of a file: {error}") from error
    if not searcher.holds(identity):
        return None
    return searcher.term(identity, item.weight, itself=itself.files)


def _new_terms(config: Config, items: Sequence[Item]) -> tuple[dict[Item, Term], dict[Item, str]]:
    """Return terms made by the model, and why there is none of other items."""
    from pipeline.clip.prompts import unreadable

    encoder = resources.encoder(config)
    faults: dict[Item, str] = {}
    vectors: dict[str, dict[str, Floats]] = {"text": {}, "image": {}}
    texts = list(dict.fromkeys(item.value for item in items if item.kind == "text"))
    if texts:
        why = unreadable(texts, encoder)
        faults |= {item: why[item.value] for item in items if item.value in why}
        whole = [text for text in texts if text not in why]
        vectors["text"] = dict(zip(whole, encoder.encode_texts(whole), strict=True))
    images = {item: str(_file_of(item)) for item in items if item.kind == "image"}
    if images:
        seen = embed_files(config, list(dict.fromkeys(images.values())))
        found = dict(zip(seen.names, seen.vectors, strict=True))
        for item, path in images.items():
            if path in found:
                vectors["image"][item.value] = found[path]
            else:
                faults[item] = f"{item.value}: {seen.refused[path]}"
    terms = {
        item: Term(vectors[item.kind][item.value], item.kind, item.weight)
        for item in items
        if item.kind != "id" and item not in faults
    }
    return terms, faults


def _file_of(item: Item) -> Path:
    return without_tilde(item.value)


def _placed(requests: Sequence[Request], faults: Mapping[Item, str]) -> dict[int, str]:
    """Return the first fault of each request by its place."""
    placed = {}
    for place, asked in enumerate(requests if faults else ()):
        told = [faults[item] for item in asked.items if item in faults]
        if told:
            placed[place] = told[0]
    return placed


def _refuse(requests: Sequence[Request], faults: Mapping[int, str], batch: Path | None) -> None:
    """Raise InputError over faults by the place of their request, where there are any."""
    if batch is not None:
        lines = {requests[place].line or 0: why for place, why in faults.items()}
        require_no_faults(batch, lines, len(requests))
    elif faults:
        raise InputError(next(iter(faults.values())))
