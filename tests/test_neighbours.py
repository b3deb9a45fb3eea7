"""The table of neighbours against brute-force NumPy."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.arrays import Floats, Ints, unit_rows
from pipeline.compaction import compact
from pipeline.opening import create_store
from pipeline.search.index import load_index, update_index
from pipeline.search.neighbours import Neighbourhood, load_neighbourhood, update_neighbours
from pipeline.store import Store
from tests.helpers import IDENTITY, embedding_rows

K = 10


def write_images(store: Store, part: str, vectors: Floats, first: int) -> None:
    ids = [f"{first + row:032x}" for row in range(len(vectors))]
    store.write_part("embeddings", part, embedding_rows(ids, list(vectors)))


def made_store(root: Path, vectors: Floats) -> Store:
    store = create_store(str(root))
    store.claim(IDENTITY)
    write_images(store, "20240101T000000000000-00000", vectors, 0)
    return store


def points(count: int, seed: int = 0) -> Floats:
    rows = unit_rows(np.random.default_rng(seed).normal(size=(count, 4)))
    return rows.astype(np.float16).astype(np.float32)


def searched(store: Store) -> tuple[Neighbourhood, int]:
    update_index(store)
    index = load_index(store)
    count = update_neighbours(store, index)
    return load_neighbourhood(store, index), count


def brute(vectors: Floats) -> tuple[Ints, Floats]:
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    rows = np.argsort(-cosines, axis=1)[:, :K]
    return rows, np.take_along_axis(cosines, rows, axis=1)


def test_neighbours_and_who_is_mutual_equal_brute_force(tmp_path: Path) -> None:
    vectors = points(500)
    near, count = searched(made_store(tmp_path / "s", vectors))
    everyone = near.rows_of([f"{row:032x}" for row in range(500)])
    rows, cosines, mutual = near.of(everyone)
    wanted, angles = brute(vectors)
    assert count == 500
    assert everyone.tolist() == list(range(500))
    assert cosines == pytest.approx(angles, abs=1e-5)
    assert (rows == wanted).mean() > 0.999  # all but ties
    assert [[i in wanted[j] for j in wanted[i]] for i in range(500)] == mutual.tolist()


def test_fewer_than_k_others_are_all_mutual(tmp_path: Path) -> None:
    near, _ = searched(made_store(tmp_path / "s", points(4)))
    rows, cosines, mutual = near.of(np.arange(4))
    assert [sorted(row[row >= 0]) for row in rows] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert np.isneginf(cosines[:, 3:]).all()
    assert mutual[:, :3].all() and not mutual[:, 3:].any()


def test_an_image_among_many_twins_is_none_of_its_own_neighbours(tmp_path: Path) -> None:
    twins = np.repeat(points(1), 40, axis=0)
    near, _ = searched(made_store(tmp_path / "s", twins))
    rows, _, mutual = near.of(np.arange(40))
    assert not (rows == np.arange(40)[:, None]).any()
    assert (rows >= 0).all() and mutual.all()


def test_a_drop_searches_itself_alone_and_a_doubled_store_everything(tmp_path: Path) -> None:
    store = made_store(tmp_path / "s", points(700))
    searched(store)
    first = (tmp_path / "s/neighbours/2/20240101T000000000000-00000.parquet").read_bytes()
    write_images(store, "20240102T000000000000-00000", points(50, seed=1), 700)
    near, count = searched(store)
    assert count == 50
    rows, _, _ = near.of(np.arange(700, 750))
    wanted, _ = brute(np.concatenate([points(700), points(50, seed=1)]))
    assert (rows == wanted[700:]).mean() > 0.99
    same = (tmp_path / "s/neighbours/2/20240101T000000000000-00000.parquet").read_bytes()
    assert same == first
    write_images(store, "20240103T000000000000-00000", points(600, seed=2), 750)
    near, count = searched(store)
    assert count == 1350
    assert [path.name for path in (tmp_path / "s/neighbours").glob("*/*")] == [
        path.name for path in (tmp_path / "s/neighbours/3").iterdir()
    ]


def test_merged_parts_are_not_searched_again(tmp_path: Path) -> None:
    store = made_store(tmp_path / "s", points(300))
    write_images(store, "20240102T000000000000-00000", points(30, seed=1), 300)
    before, _ = searched(store)
    compact(store, part_rows=1000)
    assert len(store.parts("embeddings")) == 1
    after, count = searched(store)
    assert count == 0
    for part in range(3):
        one, other = before.of(np.arange(330))[part], after.of(np.arange(330))[part]
        assert one.tolist() == other.tolist()


def test_in_cells_nearly_all_neighbours_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.search.neighbours._EXACT_PRODUCTS", 0)
    monkeypatch.setattr("pipeline.search.neighbours._PROBES", 12)
    vectors = points(3000)
    near, _ = searched(made_store(tmp_path / "s", vectors))
    rows, _, _ = near.of(np.arange(3000))
    wanted, _ = brute(vectors)
    shared = [len(set(a) & set(b)) for a, b in zip(rows.tolist(), wanted.tolist(), strict=True)]
    assert sum(shared) / (K * 3000) > 0.95


def test_a_sample_is_the_same_in_any_order(tmp_path: Path) -> None:
    near, _ = searched(made_store(tmp_path / "s", points(20)))
    assert near.sample(5).tolist() == [0, 1, 2, 3, 4]  # the smallest ids
    assert near.sample(50).tolist() == list(range(20))
