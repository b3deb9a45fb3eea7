"""The table of neighbours against brute-force NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.arrays import Floats, Ints, unit_rows
from pipeline.caching import cached_arrays
from pipeline.compaction import compact
from pipeline.errors import DamagedFileError
from pipeline.opening import create_store
from pipeline.search.cells import load_cells
from pipeline.search.index import load_index, update_index
from pipeline.search.neighbours import (
    Neighbourhood,
    load_neighbourhood,
    measured_recall,
    update_neighbours,
)
from pipeline.store import Store
from pipeline.tables import NEIGHBOURS
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
    vectors = points(3000)
    store = made_store(tmp_path / "s", vectors)
    near, _ = searched(store)
    rows, _, _ = near.of(np.arange(3000))
    wanted, _ = brute(vectors)
    shared = [len(set(a) & set(b)) for a, b in zip(rows.tolist(), wanted.tolist(), strict=True)]
    recall = sum(shared) / (K * 3000)
    assert 0.93 < recall < 1  # 0.95 of a sample is aimed at
    assert measured_recall(store, 3000) == pytest.approx(recall, abs=0.03)
    assert measured_recall(store, 30_000) is None


def test_cells_are_kept_for_later_drops_and_an_order_that_changed_makes_them_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.search.neighbours._EXACT_PRODUCTS", 0)
    monkeypatch.setattr("pipeline.search.neighbours.SAMPLE", 5)
    store = made_store(tmp_path / "s", points(700))
    searched(store)
    made = cached_arrays(store, "cache/cells.npz")
    write_images(store, "20240102T000000000000-00000", points(50, seed=1), 700)
    _, count = searched(store)
    kept = cached_arrays(store, "cache/cells.npz")
    assert made is not None and kept is not None
    assert count == 50
    assert np.array_equal(made["centroids"], kept["centroids"])
    assert np.array_equal(made["homes"], kept["homes"][:700])
    assert len(kept["homes"]) == 750
    index = load_index(store)
    assert len(load_cells(store, index, index.ids[::-1]).homes) == 750
    assert load_cells(store, index, index.ids[::-1]).trained == 750
    assert load_cells(store, index, index.ids).trained == 700
    (tmp_path / "s/cache/cells.npz").write_bytes(b"damaged")
    assert load_cells(store, index, index.ids).trained == 750


def test_a_search_that_was_cut_short_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.search.neighbours._TOGETHER", 250)
    store = made_store(tmp_path / "s", points(200))
    for number in range(2, 5):
        write_images(
            store, f"2024010{number}T000000000000-00000", points(100, number), 100 * number
        )
    update_index(store)
    index, write, told = load_index(store), store.write_part, list[int]()

    def failing(*args: Any) -> None:
        if len(store.parts("neighbours/1")) == 2:
            raise OSError("disk full")
        write(*args)

    monkeypatch.setattr(store, "write_part", failing)
    with pytest.raises(OSError, match="disk full"):
        update_neighbours(store, index)
    monkeypatch.undo()
    assert update_neighbours(store, index, told.append) == 200
    assert sum(told) == 200
    everything = np.concatenate([points(200), *(points(100, number) for number in (2, 3, 4))])
    near = load_neighbourhood(store, index)
    assert near.of(np.arange(500))[1] == pytest.approx(brute(everything)[1], abs=1e-5)


def test_a_sample_is_the_same_in_any_order(tmp_path: Path) -> None:
    near, _ = searched(made_store(tmp_path / "s", points(20)))
    assert near.sample(5).tolist() == [0, 1, 2, 3, 4]  # the smallest ids
    assert near.sample(50).tolist() == list(range(20))


def test_ids_that_the_index_does_not_hold_leave_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.search.neighbours.LISTS", 2)
    store = made_store(tmp_path / "s", points(5))
    update_index(store)
    a, b, c, d, e = (f"{row:032x}" for row in range(5))
    gone = "f" * 32
    lists = [
        (d, [a, gone, e], [0.9, 0.8, 0.7]),
        (gone, [a, b], [0.9, 0.8]),
        (a, [], []),
        (e, [gone], [0.5]),
        (b, [c], [0.25]),
    ]
    columns = [list(column) for column in zip(*lists, strict=True)]
    store.write_part("neighbours/0", "20240101T000000000000-00000", pa.table(columns, NEIGHBOURS))
    rows, cosines, _ = load_neighbourhood(store, load_index(store)).of(np.arange(5))
    none = [-1] * K
    assert rows.tolist() == [none, [2, *none[1:]], none, [0, -1, 4, *none[3:]], none]
    assert cosines[3, [0, 2]].tolist() == pytest.approx([0.9, 0.7])
    assert cosines[1, 0] == 0.25
    assert (np.isneginf(cosines) == (rows < 0)).all()


def test_an_image_that_the_index_does_not_hold_is_named(tmp_path: Path) -> None:
    near, _ = searched(made_store(tmp_path / "s", points(4)))
    assert near.rows_of([f"{3:032x}", f"{1:032x}"]).tolist() == [3, 1]
    with pytest.raises(KeyError, match="f" * 32):
        near.rows_of([f"{3:032x}", "f" * 32])


def test_loading_leaves_nothing_behind_even_where_it_fails_midway(tmp_path: Path) -> None:
    store = made_store(tmp_path / "s", points(50))
    write_images(store, "20240102T000000000000-00000", points(20, seed=1), 50)
    near, _ = searched(store)
    files = {path for path in (tmp_path / "s").rglob("*") if path.is_file()}
    index = load_index(store)
    held = load_neighbourhood(store, index)
    assert {path for path in (tmp_path / "s").rglob("*") if path.is_file()} == files
    assert held.of(np.arange(70))[0].tolist() == near.of(np.arange(70))[0].tolist()
    (tmp_path / "s/neighbours/0/20240102T000000000000-00000.parquet").write_bytes(b"damaged")
    with pytest.raises(DamagedFileError, match="neighbours"):
        load_neighbourhood(store, index)
    assert {path for path in (tmp_path / "s").rglob("*") if path.is_file()} == files


def test_ids_are_read_for_a_while_only(tmp_path: Path) -> None:
    store = made_store(tmp_path / "s", points(20))
    searched(store)
    index = load_index(store)
    load_neighbourhood(store, index)
    [segment] = index.exact.segments
    assert "ids" not in vars(segment)
    assert index.ids == [f"{row:032x}" for row in range(20)]
    assert "ids" in vars(segment)
