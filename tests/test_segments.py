"""Exact rows in segments: answers against brute-force NumPy, and what writing and reading cost."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.arrays import Floats, unit_rows
from pipeline.errors import DamagedFileError
from pipeline.identity import EncoderIdentity
from pipeline.opening import create_store
from pipeline.search import segments
from pipeline.search.exact import ExactRows
from pipeline.search.index import SearchIndex, is_current, load_index, update_index
from pipeline.search.segments import merged, read_segment, segment_of, write_segment
from pipeline.store import Store
from tests.test_search import random_rows
from tests.test_store import IDENTITY, embedding_rows


def in_segments(rows: Floats, *sizes: int) -> SearchIndex:
    ends = np.cumsum(sizes)
    assert ends[-1] == len(rows)
    halves = np.split(rows.astype(np.float16), ends[:-1])
    held = [
        segment_of([f"{end}-{n}" for n in range(len(h))], h)
        for end, h in zip(ends, halves, strict=True)
    ]
    return SearchIndex(ExactRows(rows.shape[1], held))


def slow(
    rows: Floats, queries: Floats, k: int, among: np.ndarray
) -> tuple[list[list[int]], list[list[float]]]:
    """Return rows and cosines, sorted one query after the other."""
    found = []
    for query in queries:
        told = sorted((-float(query @ rows[row]), int(row)) for row in among)[:k]
        told += [(np.inf, -1)] * (k - len(told))
        found.append(told)
    return [[r for _, r in f] for f in found], [[-c for c, _ in f] for f in found]


@pytest.mark.parametrize("queries", [1, 7, 8, 60])
@pytest.mark.parametrize("passing", [400, 399, 60, 1, 0])
@pytest.mark.parametrize("k", [1, 9, 500])
def test_segments_answer_as_brute_force_does(queries: int, passing: int, k: int) -> None:
    rows, asked = random_rows(400, 12), random_rows(queries, 12, seed=1)
    index = in_segments(rows, 250, 0, 100, 49, 1)
    among = np.sort(np.random.default_rng(2).permutation(400)[:passing])
    expected, cosines = slow(rows, asked, k, among)
    marks = np.isin(np.arange(400), among)
    for given in (among[::-1], marks):
        found = index.search(asked, k, given)
        assert found.rows.tolist() == expected
        assert found.cosines == pytest.approx(np.array(cosines), abs=1e-5)
    if passing == 400:
        assert index.search(asked, k).rows.tolist() == expected


@pytest.mark.parametrize("passing", [400, 399, 60, 0])
def test_segments_scanned_side_by_side_answer_the_same(
    passing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, asked = random_rows(400, 12), random_rows(3, 12, seed=1)
    index = in_segments(rows, 250, 0, 100, 49, 1)
    among = np.sort(np.random.default_rng(2).permutation(400)[:passing])
    monkeypatch.setattr("pipeline.search.exact._WORTH_THREADS", 0)
    monkeypatch.setattr("pipeline.search.exact._SPARSE", 400)  # so that segments are scanned
    for k in (1, 9, 500):
        assert index.search(asked, k, among).rows.tolist() == slow(rows, asked, k, among)[0]


def test_blocks_smaller_than_a_segment_answer_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.search.exact._BLOCK_BYTES", 1)  # then of 1,024 rows
    rows, asked = random_rows(3000, 4), random_rows(9, 4, seed=1)
    expected = np.argsort(-(asked @ rows.T), axis=1)[:, :20]
    assert in_segments(rows, 2500, 500).search(asked, 20).rows.tolist() == expected.tolist()


def test_vectors_come_back_from_every_segment_in_the_order_asked() -> None:
    rows = random_rows(30, 4)
    index = in_segments(rows, 20, 9, 1)
    asked = np.array([29, 0, 20, 19, 20])
    assert (index.vectors(asked) == rows[asked]).all()
    assert index.vectors(np.array([], np.int64)).shape == (0, 4)
    for missing in (30, -1):
        with pytest.raises(IndexError, match=f"0 to 29, got {missing}"):
            index.vectors(np.array([missing]))


@pytest.mark.parametrize(
    ("among", "says"),
    [(np.array([5]), "rows 5 to 5 of 5"), (np.ones(4, bool), "the index has 5")],
)
def test_rows_that_are_not_there_cannot_answer(among: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        in_segments(random_rows(5, 4), 5).search(random_rows(1, 4), 1, among)


def sizes_after(*drops: int) -> list[int]:
    held: list[segments.Segment] = []
    for drop in drops:
        held = merged([*held, segment_of(["x"] * drop, np.zeros((drop, 4), np.float16))])
    return [len(segment) for segment in held]


def test_segments_are_merged_while_they_are_of_like_size(monkeypatch: pytest.MonkeyPatch) -> None:
    # By hand: a segment takes in the one behind it when it is at most twice as large.
    assert sizes_after(100, 10) == [100, 10]
    assert sizes_after(100, 10, 10) == [100, 20]
    assert sizes_after(100, 10, 10, 10) == [100, 30]
    assert sizes_after(100, 10, 10, 10, 20) == [150]
    assert len(sizes_after(*[1] * 1000)) <= 10
    monkeypatch.setattr(segments, "MOST_BYTES", 30 * 8)  # of 4 halves
    assert sizes_after(20, 10) == [30]
    assert sizes_after(20, 10, 25, 6) == [30, 25, 6]


def drop(store: Store, name: str, count: int) -> Floats:
    rows = random_rows(count, 2, seed=count)
    ids = [f"{name}{row}" for row in range(count)]
    store.write_part("embeddings", name, embedding_rows(ids, rows.tolist()))
    return rows


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = create_store(str(tmp_path / "s"))
    store.claim(IDENTITY)
    return store


def vector_files(store: Store) -> dict[str, int]:
    return {f.name: f.stat().st_size for f in Path(store.location, "index").glob("*.faiss")}


def test_a_small_drop_leaves_what_is_there_untouched(store: Store) -> None:
    rows = [drop(store, "a", 200)]
    update_index(store)
    large = vector_files(store)
    rows += [drop(store, "b", 20), drop(store, "c", 3)]
    update_index(store)
    files = vector_files(store)
    assert files.items() > large.items()
    assert sorted(files.values()) < [500, 1000]  # what was written is of the size of the drop
    index = load_index(store)
    assert index.ids == store.read("embeddings")["image_id"].to_list()
    expected = np.concatenate(rows).astype(np.float16).astype(np.float32)
    assert (index.vectors(np.arange(223)) == expected).all()


def test_a_rebuild_writes_full_segments_as_it_goes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("segments", "exact"):
        monkeypatch.setattr(f"pipeline.search.{module}.MOST_BYTES", 30 * 4)  # of 2 halves
    drop(store, "a", 70)
    drop(store, "b", 35)
    assert update_index(store).vectors == 105
    index = load_index(store)
    assert [len(segment) for segment in index.exact.segments] == [30, 30, 30, 15]
    assert index.ids == store.read("embeddings")["image_id"].to_list()


def test_vectors_on_this_machine_are_mapped_not_read(store: Store) -> None:
    drop(store, "a", 50)
    update_index(store)
    [segment] = load_index(store).exact.segments
    assert not segment.index.codes.is_owned  # type: ignore[attr-defined]


def test_a_search_keeps_its_index_while_another_comes_into_force(store: Store) -> None:
    rows = drop(store, "a", 50)
    update_index(store)
    earlier = load_index(store)
    before = vector_files(store)
    drop(store, "b", 40)
    update_index(store)
    assert not before.keys() & vector_files(store).keys()  # merged, and the old one removed
    found = earlier.search(unit_rows(rows[:9]), 1)
    assert found.rows[:, 0].tolist() == list(range(9))
    assert (len(earlier), len(load_index(store))) == (50, 90)
    assert earlier.ids == load_index(store).ids[:50]  # which nobody had asked for before


def test_what_is_open_already_is_not_read_again(store: Store) -> None:
    drop(store, "a", 200)
    update_index(store)
    earlier = load_index(store)
    drop(store, "b", 5)
    update_index(store)
    later = load_index(store, earlier)
    assert later.exact.segments[0] is earlier.exact.segments[0]
    assert later.ids == load_index(store).ids
    assert (len(earlier), len(later)) == (200, 205)


@pytest.mark.parametrize("kind", ["faiss", "parquet"])
@pytest.mark.parametrize("harm", [b"", b"random bytes", None])
def test_a_damaged_segment_is_told_and_made_anew(
    store: Store, kind: str, harm: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    drop(store, "a", 50)
    update_index(store)
    [file] = Path(store.location, "index").glob(f"*.{kind}")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] if harm is None else harm)
    with pytest.raises(DamagedFileError, match=rf"index/\w+\.{kind} is damaged"):
        load_index(store)
    assert update_index(store).vectors == 50
    assert "it is built anew" in caplog.text
    assert file.read_bytes() == whole


def test_ids_of_other_vectors_are_told(store: Store) -> None:
    held = write_segment(store, segment_of(["a", "b"], np.eye(2, dtype=np.float16)))
    other = write_segment(store, segment_of(["a"], np.eye(2, dtype=np.float16)[:1]))
    folder = Path(store.location, "index")
    ids = shutil.copyfile(folder / f"{other.name}.parquet", folder / f"{held.name}.parquet")
    swapped = replace(held, parquet=hashlib.sha256(ids.read_bytes()).hexdigest())
    with pytest.raises(DamagedFileError, match="does not go with its image ids"):
        read_segment(store, swapped)


def test_an_index_of_an_older_layout_is_replaced_without_a_word(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    drop(store, "a", 5)
    folder = Path(store.location, "index")
    folder.mkdir()
    (folder / "old.faiss").write_bytes(b"of a layout that was")
    store.put_json("index/current.json", {"name": "old", "parts": ["a"], "vectors": 5})
    assert not is_current(store)
    assert update_index(store).vectors == 5
    assert (is_current(store), caplog.text) == (True, "")
    assert not (folder / "old.faiss").exists()


def test_an_index_of_another_encoder_is_never_used(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    other = create_store(str(tmp_path / "other"))
    other.claim(EncoderIdentity("small", "v" * 32, "p", 2, 10.0, None))
    for each in (store, other):
        drop(each, "a", 5)
        update_index(each)
    shutil.rmtree(Path(store.location, "index"))
    shutil.copytree(Path(other.location, "index"), Path(store.location, "index"))
    assert not is_current(store)
    with pytest.raises(DamagedFileError, match="built for another encoder"):
        load_index(store)
    assert update_index(store).vectors == 5
    assert "another encoder" in caplog.text
    assert is_current(store)
