"""The index against brute-force NumPy, near-duplicates against a slow restatement, and queries."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.arrays import Floats, unit_rows
from pipeline.errors import InputError, StoreError
from pipeline.opening import create_store, open_store
from pipeline.search.duplicates import near_duplicates
from pipeline.search.index import SearchIndex, is_current, load_index, update_index
from pipeline.search.queries import Filters
from pipeline.store import Store
from pipeline.vectors import iterate_vectors
from tests.helpers import nearest
from tests.test_store import IDENTITY, embedding_rows


def random_rows(n: int, d: int, seed: int = 0) -> Floats:
    rows = unit_rows(np.random.default_rng(seed).normal(size=(n, d)))
    return rows.astype(np.float16).astype(np.float32)  # as they come back from the store


def index_of(rows: Floats) -> SearchIndex:
    index = SearchIndex.empty(rows.shape[1])
    index.add([f"id{row}" for row in range(len(rows))], rows.astype(np.float16))
    return index


def test_answers_equal_brute_force() -> None:
    rows, queries = random_rows(500, 16), random_rows(20, 16, seed=1)
    found = index_of(rows).search(queries, 7)
    cosines = queries @ rows.T
    expected = np.argsort(-cosines, axis=1)[:, :7]
    assert found.rows.tolist() == expected.tolist()
    assert found.cosines == pytest.approx(np.take_along_axis(cosines, expected, 1), abs=1e-5)


def test_answers_among_some_rows_equal_brute_force_over_those() -> None:
    rows, queries = random_rows(500, 16), random_rows(20, 16, seed=1)
    among = np.arange(3, 500, 17)
    found = index_of(rows).search(queries, 5, among)
    expected = among[np.argsort(-(queries @ rows[among].T), axis=1)[:, :5]]
    assert found.rows.tolist() == expected.tolist()
    few = index_of(rows).search(queries[:1], 5, np.array([2, 4]))
    assert few.rows[0, 2:].tolist() == [-1, -1, -1]
    assert few.cosines[0, 2:].tolist() == [-np.inf] * 3


@pytest.mark.parametrize(
    ("queries", "k", "says"),
    [
        (np.ones((1, 4)), 1, "rows of unit length"),
        (np.full((1, 4), np.nan), 1, "rows of unit length"),
        (np.eye(3), 1, "queries are 3 wide, the index 4"),
        (np.eye(4), 0, "k must be at least 1"),
    ],
)
def test_a_bad_query_is_named(queries: Floats, k: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        index_of(np.eye(4, dtype=np.float32)).search(queries.astype(np.float32), k)


def test_each_drop_is_added_and_found(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    store.claim(IDENTITY)
    store.write_part("embeddings", "a", embedding_rows(["east"], [[1, 0]]))
    assert (update_index(store).vectors, is_current(store)) == (1, True)
    store.write_part("embeddings", "b", embedding_rows(["north", "east"], [[0, 1], [1, 0]]))
    assert not is_current(store)
    summary = update_index(store)
    assert (summary.vectors, summary.added) == (2, 1)
    index = load_index(store)
    north = index.search(np.array([[0, 1]], np.float32), 1)
    assert index.ids[north.rows[0, 0]] == "north"
    assert sorted(f.suffix for f in (Path(store.location) / "index").iterdir()) == [
        ".faiss",
        ".json",
        ".parquet",
    ]


def test_a_part_that_went_makes_the_index_anew(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    store.claim(IDENTITY)
    store.write_part("embeddings", "a", embedding_rows(["east"], [[1, 0]]))
    store.write_part("embeddings", "b", embedding_rows(["north"], [[0, 1]]))
    update_index(store)
    Path(store.location, "embeddings/a.parquet").unlink()
    update_index(store)
    assert load_index(store).ids == ["north"]


def test_a_damaged_index_is_told_with_the_cure(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    store.claim(IDENTITY)
    with pytest.raises(InputError, match="no index yet"):
        load_index(store)
    store.write_part("embeddings", "a", embedding_rows(["east"], [[1, 0]]))
    update_index(store)
    [file] = (Path(store.location) / "index").glob("*.faiss")
    file.write_bytes(b"random bytes")
    with pytest.raises(StoreError, match=r"index/\w+\.faiss is damaged.*run` makes it again"):
        load_index(store)
    assert update_index(store).vectors == 1
    assert load_index(store).ids == ["east"]


def slow_leaders(rows: Floats, rank: np.ndarray, cosine: float) -> list[int]:
    """Best first, an image joins the first better one that is similar and stands for itself."""
    leaders = list(range(len(rows)))
    for row in np.argsort(rank):
        better = [r for r in np.argsort(rank) if rank[r] < rank[row] and leaders[r] == r]
        leaders[row] = next((int(r) for r in better if rows[row] @ rows[r] >= cosine), int(row))
    return leaders


def test_near_duplicates_follow_the_best_of_their_crowd() -> None:
    centres = random_rows(12, 8)
    noise = np.random.default_rng(2).normal(size=(60, 8)) * 0.05
    rows = unit_rows(np.repeat(centres, 5, axis=0) + noise).astype(np.float16).astype(np.float32)
    rank = np.random.default_rng(3).permutation(60)
    leaders = near_duplicates(index_of(rows), rank, cosine=0.97).leaders
    assert leaders.tolist() == slow_leaders(rows, rank, 0.97)
    assert 12 <= len(set(leaders.tolist())) < 40


def slow_crowds(rows: Floats, cosine: float) -> set[frozenset[int]]:
    """Join what is similar until nothing is left to join."""
    crowds = [{row} for row in range(len(rows))]
    for one in range(len(rows)):
        for other in range(one):
            if rows[one] @ rows[other] >= cosine:
                joined = [crowd for crowd in crowds if crowd & {one, other}]
                crowds = [crowd for crowd in crowds if crowd not in joined]
                crowds.append(set().union(*joined))
    return set(map(frozenset, crowds))


def test_a_crowd_is_all_that_similar_images_lead_to_whoever_is_best() -> None:
    noise = np.random.default_rng(2).normal(size=(60, 8)) * 0.08
    rows = unit_rows(np.repeat(random_rows(12, 8), 5, axis=0) + noise)
    rows = rows.astype(np.float16).astype(np.float32)
    expected = slow_crowds(rows, 0.97)
    for seed in range(3):
        rank = np.random.default_rng(seed).permutation(60)
        found = near_duplicates(index_of(rows), rank, cosine=0.97)
        crowds = {frozenset(np.flatnonzero(found.crowds == c).tolist()) for c in found.crowds}
        assert crowds == expected
        assert (found.crowds[found.leaders] == found.crowds).all()
    assert 12 < len(expected) < 40


def test_images_that_resemble_none_are_crowds_of_one() -> None:
    found = near_duplicates(index_of(random_rows(5, 64)), np.arange(5), cosine=0.9)
    assert sorted(found.crowds.tolist()) == sorted(found.leaders.tolist()) == [0, 1, 2, 3, 4]


def test_crowds_larger_than_the_neighbours_looked_at_still_leave_one_each() -> None:
    noise = np.random.default_rng(5).normal(size=(600, 8)) * 0.003
    rows = unit_rows(np.tile(random_rows(3, 8), (200, 1)) + noise)
    rank = np.random.default_rng(6).permutation(600)
    found = near_duplicates(index_of(rows), rank, cosine=0.99)
    leaders = found.leaders
    assert len(set(leaders.tolist())) == 3
    assert (leaders % 3 == np.arange(600) % 3).all()  # each follows one of its own crowd
    assert (leaders[leaders] == leaders).all()
    assert len(set(found.crowds.tolist())) == 3
    assert (found.crowds[leaders] == found.crowds).all()


def test_search_finds_the_image_itself_first_and_filters(demo_store: Path) -> None:
    store = open_store(str(demo_store))
    first_part = next(iterate_vectors(store))
    query = first_part[2][:1].astype(np.float32)
    hits = nearest(store, unit_rows(query)[0], 5)
    assert hits["image_id"][0] == first_part[1][0]
    assert hits["image_cosine"][0] == pytest.approx(1, abs=1e-3)
    frogs = nearest(store, unit_rows(query)[0], 50, Filters(labels=("frog",), min_confidence=0.9))
    assert set(frogs["label"]) == {"frog"}
    assert frogs["confidence"].min() >= 0.9  # type: ignore[operator]
    assert frogs["image_cosine"].to_list() == sorted(frogs["image_cosine"], reverse=True)
    ships = nearest(store, unit_rows(query)[0], 500, Filters(path_contains="/ship/"))
    assert len(ships) == 12
    with pytest.raises(InputError, match="no image is labelled 'unicorn'"):
        nearest(store, unit_rows(query)[0], 5, Filters(labels=("unicorn",)))
    with pytest.raises(InputError, match="k must be 1 to 10,000"):
        nearest(store, unit_rows(query)[0], 0)


def test_images_that_are_gone_are_not_found(tmp_path: Path, demo_store: Path) -> None:
    import shutil

    from tests.conftest import DATA, demo_config, run_plain

    source, copy = tmp_path / "in", tmp_path / "store"
    shutil.copytree(DATA / "images/animals/frog", source)
    config = demo_config(copy).model_copy(update={"sources": (str(source),)})
    run_plain(config)
    store: Store = open_store(str(copy))
    query = unit_rows(next(iterate_vectors(store))[2][:1].astype(np.float32))
    gone = nearest(store, query[0], 1)["path"][0]
    Path(gone).unlink()
    assert run_plain(config).scan.gone == 1
    assert gone not in nearest(store, query[0], 12)["path"].to_list()
    assert len(nearest(store, query[0], 12)) == 11
