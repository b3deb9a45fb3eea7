"""Answers: what was drawn and what a person said of it, in a table that only ever grows.

An answer is the true label, so it serves every label run with the same classes. It is not bound to
what the model said of the image.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from pipeline.errors import InputError
from pipeline.identity import digest
from pipeline.label_set import LabelSet, normal_word
from pipeline.store import Store
from pipeline.tables import AUDITS

LABEL, NONE, CANNOT = "label", "none of these", "cannot tell"
COLUMNS = ["image_id", "path", "label", "score", "answer"]
_WORDS = {
    "none of these": NONE,
    "none": NONE,
    "cannot tell": CANNOT,
    "can't tell": CANNOT,
    "?": CANNOT,
}
_RIGHT = {"right", "yes"}
_TOLD = 5  # faults of a file


@dataclass(frozen=True)
class Given:
    """What was said of one image."""

    image_id: str
    answer: str  # LABEL, NONE or CANNOT
    label: str | None  # the true class, where the answer is LABEL


def require_no_answers(label_set: LabelSet) -> None:
    """Refuse classes whose name or alias is a word that answers are given in.

    Raises:
        InputError: there is one: nobody could tell which of the two was meant.
    """
    for word in label_set.index_of():
        if word in _WORDS or word in _RIGHT:
            raise InputError(
                f"label set {label_set.name!r}: {word!r} is an answer of an audit and cannot be a "
                "label of it, too: give the class another name"
            )


def table_of(label_set: LabelSet) -> str:
    """Return the name of the table that holds the answers about a label set."""
    return f"audits/{label_set.name}"


def all_rows(store: Store, label_set: LabelSet) -> pl.DataFrame:
    """Return what was drawn and answered about just these classes, oldest first: `tables.AUDITS`.

    Label sets of one name may have other classes, and "none of these" means another thing then.
    """
    return store.read(table_of(label_set)).filter(pl.col("classes") == _classes(label_set))


def last_rows(store: Store, label_set: LabelSet) -> pl.DataFrame:
    """Return the row that counts of each image that was drawn."""
    return all_rows(store, label_set).unique("image_id", keep="last", maintain_order=True)


def answered_until(store: Store, label_set: LabelSet) -> str | None:
    """Return when the newest answer was given, ISO 8601 with time zone; None: there is none."""
    newest = all_rows(store, label_set).filter(pl.col("answer").is_not_null())["at"].max()
    return newest.isoformat() if isinstance(newest, datetime) else None


def learnt(rows: pl.DataFrame, until: str | None) -> pl.Series:
    """Return the ids of the images that were answered up to a moment of `answered_until`.

    Args:
        rows: `all_rows` of the store.
        until: None: there are none.
    """
    if until is None:
        return pl.Series("image_id", [], pl.String)
    early = pl.col("answer").is_not_null() & (pl.col("at") <= datetime.fromisoformat(until))
    return rows.filter(early)["image_id"].unique()


def answers_state(store: Store, label_set: LabelSet) -> str:
    """Return what changes with every answer; empty when there is none."""
    parts = [part for part in store.parts(table_of(label_set)) if part.endswith("-answers")]
    return digest([parts, _classes(label_set)]) if parts else ""


def record_draw(store: Store, label_set: LabelSet, drawn: pl.DataFrame, *, now: datetime) -> None:
    """Record who is to be asked about; the store's lock must be held.

    Args:
        store: the store to write to.
        label_set: the classes to choose from.
        drawn: image_id, path, label_shown, score, stratum, weight and round.
        now: the present, with time zone.
    """
    empty = [pl.lit(None, pl.String).alias(name) for name in ("answer", "label_given", "by")]
    _write(store, label_set, drawn.with_columns(empty), "drawn", now)


def record_answers(
    store: Store, label_set: LabelSet, given: Sequence[Given], *, by: str, now: datetime
) -> int:
    """Record answers about images that were drawn; return how many say something new.

    Args:
        store: the store; its lock must be held.
        label_set: the classes to choose from.
        given: an answer for each image.
        by: who gave them.
        now: the present, with time zone.
    """
    said = pl.DataFrame(
        [(g.image_id, g.answer, g.label) for g in given],
        schema={"image_id": pl.String, "new": pl.String, "new_label": pl.String},
        orient="row",
    )
    rows = last_rows(store, label_set).join(said, on="image_id")
    same = pl.col("answer").eq_missing(pl.col("new")) & pl.col("label_given").eq_missing(
        pl.col("new_label")
    )
    rows = rows.filter(~same).with_columns(
        answer=pl.col("new"), label_given=pl.col("new_label"), by=pl.lit(by)
    )
    if len(rows):
        _write(store, label_set, rows, "answers", now)
    return len(rows)


def read_answers(file: Path, drawn: pl.DataFrame, label_set: LabelSet) -> list[Given]:
    """Read the answers of a CSV file; lines without one are passed over.

    Args:
        file: with the columns image_id and answer: the name or an alias of a class, "right",
            "none of these" or "cannot tell". A class of such a name goes before.
        drawn: `last_rows` of the store.
        label_set: the classes.

    Raises:
        InputError: a column is missing; or names the lines with an unknown image or label.
    """
    shown = dict(drawn.select("image_id", "label_shown").iter_rows())
    classes, names = label_set.index_of(), label_set.names
    found: dict[str, tuple[Given, int]] = {}
    faults = []
    for line, image_id, text in _lines(file):
        word = normal_word(text)
        if not word:
            continue
        if image_id not in shown:
            faults.append(f"line {line}: {image_id!r} was not drawn by an audit of these labels")
            continue
        if word in classes:
            given = Given(image_id, LABEL, names[classes[word]])
        elif word in _RIGHT:
            given = Given(image_id, LABEL, shown[image_id])
        elif word in _WORDS:
            given = Given(image_id, _WORDS[word], None)
        else:
            faults.append(f"line {line}: {text!r} is no label of {label_set.name}")
            continue
        before = found.setdefault(image_id, (given, line))
        if before[0] != given:
            faults.append(f"line {line}: another answer for {image_id} than in line {before[1]}")
    if faults:
        more = f"\n... and {len(faults) - _TOLD} more" if len(faults) > _TOLD else ""
        told = "\n".join(f"{file}: {fault}" for fault in faults[:_TOLD])
        some = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
        raise InputError(
            f"{told}{more}\nAn answer is one of {some}, "
            f"right, {NONE} or {CANNOT}. Nothing was taken"
        )
    return [given for given, _ in found.values()]


def _lines(file: Path) -> list[tuple[int, str, str]]:
    """Return number, image id and answer of each line."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            head = lines.readline()
            lines.seek(0)
            delimiter = ";" if ";" in head and "," not in head else ","  # as some Excels write it
            reader = csv.DictReader(lines, delimiter=delimiter)
            columns = reader.fieldnames or []
            if not {"image_id", "answer"} <= set(columns):
                raise InputError(
                    f"{file}: needs the columns image_id and answer, has {list(columns)}"
                )
            return [
                (reader.line_num, (row["image_id"] or "").strip(), row["answer"] or "")
                for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read as CSV: {error}") from error


def _write(store: Store, label_set: LabelSet, rows: pl.DataFrame, kind: str, now: datetime) -> None:
    table = table_of(label_set)
    last = max((int(part.split("-")[0]) for part in store.parts(table)), default=0)
    rows = rows.with_columns(classes=pl.lit(_classes(label_set)), at=pl.lit(now))
    content = rows.select(AUDITS.names).to_arrow().cast(AUDITS)
    store.write_part(table, f"{last + 1:06}-{kind}", content)


def _classes(label_set: LabelSet) -> str:
    return digest(sorted(label_set.names))
