"""What becomes of the answers to queries: a table, JSON, a file, a picture."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flows import resources
from flows.console import notes, out, print_json, show, table
from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.folder import LocalFolder
from pipeline.images.paths import name_of
from pipeline.search.requests import Item, Request
from pipeline.search.searcher import Searcher

_NUMBERS = {"standing": "standing", "image_cosine": "image cosine", "text_cosine": "text cosine"}

_DIGITS = 8  # of an id: enough for --id, and room for the path


@dataclass(frozen=True)
class Outputs:
    """Where answers go beside the terminal."""

    sheet: Path | None
    out: Path | None
    as_json: bool

    def require(self, *, batch: bool) -> None:
        """Raise InputError over files that could not be written in the end."""
        from pipeline.reports.hits import require_format

        if self.out is not None:
            require_format(self.out)
        if self.sheet is None:
            return
        if batch:
            raise InputError("--sheet draws one query: leave it or --batch out")
        require_png(self.sheet)


def require_png(sheet: Path) -> None:
    """Raise InputError over a sheet that is no name of a PNG file."""
    if sheet.suffix.lower() != ".png" or sheet.is_dir():
        raise InputError(f"--sheet {sheet}: name a file that ends in .png")


def answer(
    config: Config, searcher: Searcher, request: Request, hits: pl.DataFrame, outputs: Outputs
) -> None:
    """Give the answer to one query."""
    from pipeline.reports.hits import hits_file

    if outputs.out is not None:
        with hits_file(outputs.out) as file:
            file.write(_ranked(hits))
    if outputs.sheet is not None:
        _draw(config, searcher, request, hits, outputs.sheet)
    if outputs.as_json:
        print_json(hits.to_dicts())
        return
    columns = [name for name in _NUMBERS if hits[name].null_count() < len(hits)]
    shown = table(*(_NUMBERS[name] for name in columns), "label", "score", "id", "path")
    for hit in hits.iter_rows(named=True):
        score = "-" if hit["score"] is None else f"{hit['score']:.2f}"
        numbers = [f"{hit[name]:.3f}" for name in columns]
        shown.add_row(*numbers, hit["label"] or "-", score, hit["image_id"][:_DIGITS], hit["path"])
    if len(hits):
        show(f"Nearest to {_told(request.items)}", shown)
    else:
        out.print("No image answers: none that is there passes the filters.")
    for file_written in (outputs.out, outputs.sheet):
        if file_written is not None:
            notes.print(f"written: {file_written}", soft_wrap=True)


def answer_all(
    requests: Sequence[Request], found: Iterable[pl.DataFrame], outputs: Outputs
) -> None:
    """Give the answers to queries of a file in their order, as JSON Lines or as one file."""
    from pipeline.reports.hits import hits_file

    if outputs.out is None:
        for request, hits in zip(requests, found, strict=True):
            row = {"line": request.line, "key": request.key, "hits": hits.to_dicts()}
            json.dump(row, sys.stdout, ensure_ascii=False)
            sys.stdout.write("\n")
        return
    total = 0
    with hits_file(outputs.out) as file:
        for request, hits in zip(requests, found, strict=True):
            whose = [
                pl.lit(request.line).alias("line"),
                pl.lit(request.key, pl.String).alias("key"),
            ]
            file.write(hits.select(*whose, pl.all()).pipe(_ranked))
            total += len(hits)
    if outputs.as_json:
        print_json({"queries": len(requests), "hits": total, "out": str(outputs.out)})
    else:
        notes.print(f"{len(requests)} queries, {total} hits: {outputs.out}", soft_wrap=True)


def _ranked(hits: pl.DataFrame) -> pl.DataFrame:
    return hits.with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32))


def _told(items: Sequence[Item]) -> str:
    """Return what was asked for, for people."""
    told = []
    for item in items:
        weight = "" if item.weight in (1, -1) else f"^{abs(item.weight):g}"
        told.append(f"{'not ' if item.weight < 0 else ''}{item.value}{weight}")
    return ", ".join(told)


def _draw(
    config: Config, searcher: Searcher, request: Request, hits: pl.DataFrame, sheet: Path
) -> None:
    from pipeline.reports.query_sheet import Asked, query_sheet

    asked = []
    for item in request.items:
        path = item.value
        if item.kind == "id":
            path = str(searcher.about(item.value)["path"])
        words = item.value if item.kind == "text" else name_of(path)
        asked.append(Asked(words, None if item.kind == "text" else path, item.weight))
    with resources.thumbnail_decoders(config) as pool:
        png = query_sheet(asked, hits, decode=pool.decode)
    LocalFolder(sheet.parent).write(sheet.name, png)
