"""Requests: what a user asks for, before it has vectors; a command's options, or a file of rows.

A text, an image file or an id may end in `^` and a number, its weight: "dog^2". What itself ends
so is given one more: "x^2^1" is the text "x^2".
"""

import csv
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import InputError

Kind = Literal["image", "id", "text"]
_WEIGHT = re.compile(r"\^\s*([+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+|nan|inf(?:inity)?))\s*$", re.I)
_KINDS: tuple[Kind, ...] = ("image", "id", "text")
_COLUMNS = {name for kind in _KINDS for name in (kind, f"not_{kind}")} | {"key"}
_TOLD = 5  # faults of a file, one by one


@dataclass(frozen=True)
class Item:
    """One thing asked for."""

    kind: Kind
    value: str  # the words, the path of a file, or the id or the beginning of it
    weight: float  # below 0: away from it


@dataclass(frozen=True)
class Request:
    """One query."""

    items: tuple[Item, ...]
    key: str | None = None  # what the user calls it
    line: int | None = None  # of the file that it stands in; None: it stands in none

    def __post_init__(self) -> None:
        if self.items and all(item.weight < 0 for item in self.items):
            raise InputError(
                "says only what is not wanted: it needs a text, an image or an id to look for, too"
            )


def parse_item(kind: Kind, given: str, *, away: bool = False) -> Item:
    """Read a text, a path or an id with its weight, 1 where none is given.

    >>> parse_item("text", "dog^2.5"), parse_item("text", "x^2^1", away=True)
    (Item(kind='text', value='dog', weight=2.5), Item(kind='text', value='x^2', weight=-1.0))

    Raises:
        InputError: nothing is asked for, or the weight is no number above 0.
    """
    found = _WEIGHT.search(given)
    value = (given[: found.start()] if found else given).strip()
    weight = float(found[1]) if found else 1.0
    if not value:
        raise InputError(f"{'not ' if away else ''}{kind} {given!r}: is empty")
    if not math.isfinite(weight) or weight <= 0:
        raise InputError(
            f"{given!r}: the weight behind ^ must be a number above 0; what is not wanted is asked "
            f"for as --not-{kind}, or not_{kind} in a file"
        )
    return Item(kind, value, -weight if away else weight)


def read_requests(file: Path) -> list[Request]:
    """Read queries, one a row: JSON Lines, or CSV (by its name, *.csv) with a row of column names.

    Columns: text, image, id, not_text, not_image, not_id and key, which may all be left out or
    empty. In JSON each may be a list. Paths are taken from the working folder.

    Raises:
        InputError: the file cannot be read, holds no row, or some rows are bad: each with its line.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(_csv_rows(lines) if file.suffix.lower() == ".csv" else _json_rows(lines))
    except (OSError, UnicodeDecodeError, csv.Error, InputError) as error:
        raise InputError(f"queries {file}: cannot be read: {error}") from error
    if not rows:
        raise InputError(f"queries {file}: holds no row")
    found: list[Request] = []
    faults: dict[int, str] = {}
    keys: dict[str, int] = {}
    for line, content in rows:
        try:
            request = _request(line, content)
            if request.key is not None and keys.setdefault(request.key, line) != line:
                raise InputError(f"key {request.key!r} stands in line {keys[request.key]} already")
            found.append(request)
        except InputError as fault:
            faults[line] = str(fault)
    require_no_faults(file, faults, len(rows))
    return found


def require_no_faults(file: Path, faults: dict[int, str], rows: int) -> None:
    """Raise InputError that tells the faults of a file by line; nothing where there are none."""
    if faults:
        told = [f"line {line}: {why}" for line, why in sorted(faults.items())[:_TOLD]]
        more = f"\n  and {len(faults) - _TOLD} more" if len(faults) > _TOLD else ""
        first = f"queries {file}: {len(faults)} of {rows} rows cannot be answered"
        raise InputError("\n  ".join([f"{first}, so none is:", *told]) + more)


def _csv_rows(lines: Iterable[str]) -> Iterable[tuple[int, object]]:
    reader = csv.DictReader(lines)
    names = [name.strip() for name in reader.fieldnames or ()]
    if len(set(names)) < len(names):
        raise InputError(f"two columns have one name: {', '.join(names)}")
    for row in reader:
        if None in row:
            yield reader.line_num, InputError("has more cells than there are column names")
        else:
            yield reader.line_num, {name.strip(): cell for name, cell in row.items()}


def _json_rows(lines: Iterable[str]) -> Iterable[tuple[int, object]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, InputError(f"is no JSON: {error}")


def _request(line: int, content: object) -> Request:
    if isinstance(content, InputError):
        raise content
    if not isinstance(content, dict):
        raise InputError('is no JSON object, such as {"text": "a dog", "not_text": "a toy"}')
    strange = sorted(set(content) - _COLUMNS)
    if strange:
        raise InputError(f"has {strange[0]!r}, which is none of {', '.join(sorted(_COLUMNS))}")
    items = []
    for kind in _KINDS:
        for name in (kind, f"not_{kind}"):
            given = [text for text in _texts(name, content.get(name)) if text.strip()]
            items += [parse_item(kind, text, away=name != kind) for text in given]
    if not items:
        raise InputError("asks for nothing: it needs a text, an image or an id")
    key = content.get("key")
    return Request(tuple(items), None if key in (None, "") else str(key), line)


def _texts(name: str, given: object) -> list[str]:
    listed = given if isinstance(given, list) else [] if given is None else [given]
    texts = [one for one in listed if isinstance(one, str)]
    if len(texts) < len(listed):
        raise InputError(f"{name} must be a text, or a list of texts, got {given!r}")
    return texts
