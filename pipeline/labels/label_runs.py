"""The label runs that a store keeps side by side: which there are, and which one is meant.

A run is named by the 12 hex digits that its folder bears, by an unambiguous beginning of them, or
as `current` or `previous`.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from pipeline.errors import DamagedFileError, InputError, StoreError
from pipeline.labels.labelling import current_table, missing_parts
from pipeline.labels.provenance import CURRENT, Provenance, provenance, record
from pipeline.store import Store

_NEVER = ""  # sorts before every time


@dataclass(frozen=True)
class LabelRunState:
    """One label run as it is now."""

    run: str  # its short digest
    table: str
    label_set: str  # its name
    current: bool
    previous: bool  # in force before the current one
    rows: int | None  # null: written by another version of this program
    abstained: int | None
    mean_score: float | None  # of all rows, abstained or not; null: there is none
    calibrated: bool | None  # all of it, by an audit
    unlabelled: int  # images of the store that it has no row of
    provenance: Provenance | None  # null: none was kept


def label_runs(store: Store) -> list[LabelRunState]:
    """Return every label run of a store, the last one that came into force first.

    Raises:
        DamagedFileError: a part, or what is kept of a run, is not as it was written.
    """
    kept = {table: provenance(store, table) for table in label_tables(store)}
    current, previous = current_table(store), _previous(store, kept)

    def when(table: str) -> tuple[bool, str, str]:
        told = kept[table]
        return table == current, told.turned_to_at if told else _NEVER, table

    return [
        _state(store, table, kept[table], current=table == current, previous=table == previous)
        for table in sorted(kept, key=when, reverse=True)
    ]


def label_tables(store: Store) -> list[str]:
    """Return the tables of all label runs, in alphabetical order."""
    folders = {name.rpartition("/")[0] for name in store.folder.sizes() if _is_part(name)}
    return sorted(folders)


def find_run(store: Store, given: str) -> str:
    """Return the table of the label run that a user means.

    Raises:
        InputError: there is none, or more than one; they are named.
    """
    tables = label_tables(store)
    if not tables:
        raise InputError(f"{store.location}: holds no labels yet; `pseudolabel run` makes them")
    known = {table: provenance(store, table) for table in tables}
    named = {"current": current_table(store), "previous": _previous(store, known)}
    if given in named:
        if (table := named[given]) not in tables:
            raise InputError(
                f"{store.location}: no label run is the {given} one: {_listed(tables)}"
            )
        return table
    found = [table for table in tables if given and run_of(table).startswith(given.lower())]
    if len(found) != 1:
        number = "no label run" if not found else f"{len(found)} label runs"
        raise InputError(
            f"label run {given!r}: {number} of {store.location} begins so: "
            f"{_listed(found or tables)}; or say current or previous"
        )
    return found[0]


def use_run(store: Store, given: str, *, now: datetime) -> str:
    """Put a label run in force that is whole; return its table.

    Args:
        store: the store; its lock must be held.
        given: which run.
        now: the present, with time zone.

    Raises:
        InputError: there is no such run, it does not cover all images, or nobody knows any more
            what it was asked.
    """
    table = find_run(store, given)
    told = provenance(store, table)
    if told is None:
        raise InputError(
            f"{table}: nobody knows any more what it was asked; `pseudolabel relabel` asks anew"
        )
    if missing_parts(store, table):
        raise InputError(
            f"{table}: has no label of {_unlabelled(store, table)} images that came later; "
            "`pseudolabel relabel` with its labels gives them one, and turns to it"
        )
    if table != current_table(store):
        record(store, told.asked, turned=True, now=now)
        store.put_json(CURRENT, told.asked)
    return table


def _state(
    store: Store, table: str, told: Provenance | None, *, current: bool, previous: bool
) -> LabelRunState:
    counts = _count(store, table)
    return LabelRunState(
        run=run_of(table),
        table=table,
        label_set=table.split("/")[1],
        current=current,
        previous=previous,
        rows=counts.rows if counts else None,
        abstained=counts.abstained if counts else None,
        mean_score=counts.score / counts.rows if counts and counts.rows else None,
        calibrated=counts.calibrated == counts.rows if counts and counts.rows else None,
        unlabelled=_unlabelled(store, table),
        provenance=told,
    )


@dataclass(frozen=True)
class _Counts:
    rows: int
    abstained: int
    score: float  # sum
    calibrated: int


def _count(store: Store, table: str) -> _Counts | None:
    """Sum up a run, a part at a time; None where its columns are those of another version."""
    parts = [_Counts(0, 0, 0.0, 0)]
    try:
        for part in store.parts(table):
            rows = store.read_part(table, part, ["label_index", "score", "calibrated"])
            index, score, calibrated = (column.to_numpy() for column in rows.columns)
            total = float(score.sum(dtype=np.float64))
            parts.append(_Counts(len(rows), int((index < 0).sum()), total, int(calibrated.sum())))
    except DamagedFileError:
        raise
    except StoreError:
        return None
    return _Counts(
        rows=sum(part.rows for part in parts),
        abstained=sum(part.abstained for part in parts),
        score=sum(part.score for part in parts),
        calibrated=sum(part.calibrated for part in parts),
    )


def _unlabelled(store: Store, table: str) -> int:
    """Count by rows: merged parts of vectors may be labelled in part."""
    if not missing_parts(store, table):
        return 0
    images, labelled = (store.rows(name, *store.parts(name)) for name in ("embeddings", table))
    return max(0, images - labelled)


def _previous(store: Store, known: dict[str, Provenance | None]) -> str | None:
    """Return the run that was in force before the current one, as far as that is known."""
    current = current_table(store)
    dated = {t: told.turned_to_at for t, told in known.items() if told and t != current}
    dated = {table: turned for table, turned in dated.items() if turned}  # others never were
    return max(dated, key=lambda table: dated[table]) if dated else None


def _is_part(name: str) -> bool:
    return name.startswith("labels/") and name.count("/") == 3 and name.endswith(".parquet")


def run_of(table: str) -> str:
    """Return the digits that a label run is named by."""
    return table.rpartition("/")[2]


def _listed(tables: list[str]) -> str:
    return ", ".join(f"{run_of(table)} ({table.split('/')[1]})" for table in tables)
