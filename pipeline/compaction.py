"""Compact: many small parts in, few large ones out, while others read.

A merged part takes the place of those that went into it at the moment it is committed, for its name
tells which they were (`parts.in_force`); only then are they deleted. After a crash in between the
next compaction deletes them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from pipeline.identity import digest
from pipeline.parts import in_force, mark_of, marked, merged_name, origins, span
from pipeline.store import Store, part_name

DERIVED = ("labels/", "neighbours/")  # tables with a part for each part of `embeddings`


@dataclass(frozen=True)
class CompactSummary:
    """What one compaction did."""

    before: int  # parts of all tables
    after: int
    rows: int  # rewritten


def compact(
    store: Store, *, part_rows: int, on_progress: Callable[[int], None] = lambda _: None
) -> CompactSummary:
    """Merge neighbouring parts into ones of at most `part_rows` rows.

    Args:
        store: the store; its lock must be held.
        part_rows: larger parts stay as they are.
        on_progress: told how many parts were merged since it was last told.
    """
    tables = _tables(store)
    before = sum(len(store.all_parts(table)) for table in tables)
    rows = 0
    for table in tables:
        if table.startswith(DERIVED):
            groups = _as_embeddings(store, table)
        else:
            groups = _neighbours(store, table, part_rows)
        for name, members in groups:
            rows += _merge(store, table, name, members)
            on_progress(len(members))
        for part in set(store.all_parts(table)) - set(store.parts(table)):
            store.delete(part_name(table, part))
    after = sum(len(store.all_parts(table)) for table in tables)
    return CompactSummary(before=before, after=after, rows=rows)


def small_parts(store: Store, table: str) -> int:
    """Return how many parts of a table were never merged."""
    return sum(span(part)[0] == span(part)[1] for part in store.parts(table))


def _tables(store: Store) -> list[str]:
    """Return the tables that grow by a part per shard; labels after what they are made of."""
    names = {name.rpartition("/")[0] for name in store.folder.sizes()}
    return [
        *("files", "embeddings", "side_info"),
        *sorted(name for name in names if name.startswith("captions/")),
        *sorted(name for name in names if name.startswith(DERIVED)),
    ]


def _neighbours(store: Store, table: str, part_rows: int) -> list[tuple[str, list[str]]]:
    """Group the parts of a table, in order of time, as far as their rows fit into one."""
    groups: list[list[str]] = []
    room = 0
    for part in store.parts(table):
        rows = store.rows(table, part)
        if rows > room or not groups:
            groups.append([])
            room = part_rows
        groups[-1].append(part)
        room -= rows
    return [(merged_name(group), group) for group in groups if len(group) > 1]


def _as_embeddings(store: Store, table: str) -> list[tuple[str, list[str]]]:
    """Group the parts of a label run as the parts of `embeddings` that they are made of."""
    have = store.parts(table)
    missing = set(store.parts("embeddings")) - set(have)
    groups = [(part, origins(part, have)) for part in missing]
    return [(part, members) for part, members in groups if members]


def _merge(store: Store, table: str, name: str, members: list[str]) -> int:
    rows = pa.concat_tables([store.read_part(table, part) for part in in_force(members)])
    if table.startswith("labels/"):
        # Where a rewriting of these was interrupted, the merged part is rewritten whole.
        marks = {mark_of(store.fingerprint(table, part) or "") for part in in_force(members)}
        mark = marks.pop() if len(marks) == 1 else ""
        made_of = marked(store.fingerprint("embeddings", name) or "", mark)
    elif table.startswith(DERIVED):
        made_of = store.fingerprint("embeddings", name) or ""
    else:
        made_of = digest([store.fingerprint(table, part) for part in members])
    store.write_part(table, name, rows.combine_chunks(), made_of)
    return len(rows)
