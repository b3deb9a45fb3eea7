"""Compaction: fewer parts, the same rows, whatever happens meanwhile."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog import current_files
from pipeline.compaction import compact, small_parts
from pipeline.labels.labelling import current_labels, missing_parts
from pipeline.opening import create_store
from pipeline.parts import in_force, merged_name, name_sum, uncovered
from pipeline.search.index import is_current, load_index, update_index
from pipeline.store import Store
from pipeline.vectors import iterate_vectors
from tests.helpers import IDENTITY, axis, embedding_rows, label_set, label_store, write_observations

CLASSES = label_set("east", "north")


def run_name(number: int) -> str:
    return f"20260101T0000{number:02d}000000-00000"


def drops(root: Path, count: int) -> Store:
    """Make a store of `count` drops of two images each, labelled and indexed."""
    store = create_store(str(root))
    store.claim(IDENTITY)
    for number in range(count):
        ids = [f"{number}-a", f"{number}-b"]
        rows = embedding_rows(ids, [axis(0), axis(1)])
        store.write_part("embeddings", run_name(number), rows, f"made {number}")
        seen = [(Path(f"/in/{image_id}"), image_id, "ok", None) for image_id in ids]
        write_observations(store, run_name(number), seen)
        label_store(store, CLASSES)
    update_index(store)
    return store


def everything(store: Store) -> list[pl.DataFrame]:
    labels = current_labels(store).table
    vectors = [rows for _, _, rows in iterate_vectors(store)]
    return [
        store.read("files"),
        store.read("embeddings"),
        store.read(labels),
        pl.DataFrame(np.concatenate(vectors)),
    ]


def test_rows_and_their_order_stay_and_parts_become_few(tmp_path: Path) -> None:
    store = drops(tmp_path / "s", 7)
    before, state = everything(store), store.state("files", "embeddings")
    assert small_parts(store, "embeddings") == 7
    summary = compact(store, part_rows=6)
    assert (summary.before, summary.after, summary.rows) == (21, 9, 3 * 12)
    rows = [store.rows("embeddings", part) for part in store.parts("embeddings")]
    assert rows == [6, 6, 2]
    assert all(a.equals(b) for a, b in zip(before, everything(store), strict=True))
    assert store.state("files", "embeddings") == state
    assert not missing_parts(store, current_labels(store).table)
    assert is_current(store)
    assert small_parts(store, "embeddings") == 1


def test_a_compacted_store_grows_on(tmp_path: Path) -> None:
    store = drops(tmp_path / "s", 4)
    compact(store, part_rows=100)
    rows = embedding_rows(["new"], [axis(2)])
    store.write_part("embeddings", run_name(50), rows)
    assert missing_parts(store, current_labels(store).table) == [run_name(50)]
    assert not is_current(store)
    label_store(store, CLASSES)
    assert update_index(store).added == 1
    assert compact(store, part_rows=100).after == 3
    assert load_index(store).ids == store.read("embeddings")["image_id"].to_list()
    assert store.read(current_labels(store).table)["image_id"].len() == 9


def test_labels_that_lack_a_part_are_made_again_and_not_merged(tmp_path: Path) -> None:
    store = drops(tmp_path / "s", 3)
    table = current_labels(store).table
    Path(store.location, table, f"{run_name(1)}.parquet").unlink()
    compact(store, part_rows=100)
    assert len(store.parts(table)) == 2
    assert missing_parts(store, table) == store.parts("embeddings")
    label_store(store, CLASSES)
    assert store.read(table)["image_id"].to_list() == store.read("embeddings")["image_id"].to_list()


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_killed_before_the_old_parts_are_deleted_nothing_is_seen_twice(
    tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = drops(tmp_path / "s", 3)
    before = everything(store)
    deleted: list[str] = []

    def dies(name: str) -> None:
        if len(deleted) + kept == 3:
            raise KeyboardInterrupt
        deleted.append(name)
        Path(store.location, name).unlink()

    monkeypatch.setattr(store.folder, "delete", dies)
    with pytest.raises(KeyboardInterrupt):
        compact(store, part_rows=100)
    monkeypatch.undo()
    assert len(store.all_parts("files")) == 1 + kept
    assert all(a.equals(b) for a, b in zip(before, everything(store), strict=True))
    compact(store, part_rows=100)
    assert len(store.all_parts("files")) == 1


def test_a_reader_whose_parts_are_merged_under_its_hands_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = drops(tmp_path / "s", 5)
    expected = store.read("files")
    listed = Store.parts

    def slow(self: Store, table: str) -> list[str]:
        found = listed(self, table)
        monkeypatch.undo()
        compact(Store(store.folder), part_rows=100)
        return found

    monkeypatch.setattr(Store, "parts", slow)
    assert store.read("files").equals(expected)
    monkeypatch.setattr(Store, "parts", slow)
    write_observations(store, run_name(60), [(Path("/in/late"), "late", "ok", None)])
    assert len(current_files(store)) == 11


def test_vectors_are_iterated_once_while_their_parts_are_merged(tmp_path: Path) -> None:
    store = drops(tmp_path / "s", 5)
    walk = iterate_vectors(store)
    seen = list(next(walk)[1])
    compact(Store(store.folder), part_rows=100)
    seen += [image_id for _, ids, _ in walk for image_id in ids]
    assert sorted(seen) == sorted(f"{number}-{letter}" for number in range(5) for letter in "ab")


@given(st.integers(2, 12).flatmap(lambda n: st.tuples(st.just(n), st.data())))
def test_names_tell_what_went_into_a_part_however_it_was_merged(
    given_: tuple[int, st.DataObject],
) -> None:
    count, data = given_
    leaves = [run_name(number) for number in range(count)]
    parts, everything_ever = list(leaves), list(leaves)
    for _ in range(data.draw(st.integers(1, 4))):
        if len(parts) < 2:
            break
        start = data.draw(st.integers(0, len(parts) - 2))
        end = data.draw(st.integers(start + 2, len(parts)))
        merged = merged_name(parts[start:end])
        parts[start:end] = [merged]
        everything_ever.append(merged)
    shuffled = data.draw(st.permutations(everything_ever))
    assert in_force(shuffled) == parts
    assert name_sum(parts) == name_sum(leaves)
    assert uncovered(parts, leaves) == []
    missing = data.draw(st.sampled_from(leaves))
    [lacking] = uncovered(parts, [leaf for leaf in leaves if leaf != missing])
    assert lacking in parts
