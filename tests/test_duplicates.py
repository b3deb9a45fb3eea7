"""Near-duplicates from the table of neighbours against a slow reference on all pairs."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.arrays import Floats, Ints, unit_rows
from pipeline.opening import create_store
from pipeline.search.cells import make_cells, tuned
from pipeline.search.duplicates import NearDuplicates, near_duplicates, threshold
from pipeline.search.index import SearchIndex, load_index, update_index
from pipeline.search.links import read_links
from pipeline.search.neighbours import update_neighbours
from pipeline.search.self_join import Plan
from pipeline.store import Store
from tests.helpers import IDENTITY, embedding_rows

COSINE = 0.97


@pytest.fixture(autouse=True)
def few_lists_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.search.links.LISTS", 7)


def crowded(count: int, seed: int, spread: float = 0.11, centres: int = 25) -> Floats:
    """Make crowds of most unlike sizes, some far above the ten neighbours that are kept."""
    chance = np.random.default_rng(seed)
    where = unit_rows(chance.normal(size=(centres, 4)))
    share = chance.dirichlet(np.full(centres, 0.5))
    near = where[chance.choice(centres, count, p=share)]
    rows = unit_rows(near + spread * chance.normal(size=(count, 4)))
    return rows.astype(np.float16).astype(np.float32)


def slow_leaders(linked: np.ndarray, rank: Ints) -> list[int]:
    """Best first, an image follows the best leader that it is linked to, or leads."""
    leaders = list(range(len(rank)))
    best_first = np.argsort(rank).tolist()
    for at, row in enumerate(best_first):
        better = (r for r in best_first[:at] if leaders[r] == r and linked[r, row])
        leaders[row] = next(better, row)
    return leaders


def slow_crowds(linked: np.ndarray) -> list[int]:
    """Give each row the smallest row that links lead to."""
    reached = linked.astype(np.float32)
    for _ in range(9):  # as far as 512 steps
        reached = (reached @ reached > 0).astype(np.float32)
    return [int(row) for row in reached.argmax(axis=1)]


def firsts(crowds: Ints) -> list[int]:
    """Name each crowd by its smallest row."""
    return [int(np.flatnonzero(crowds == crowd)[0]) for crowd in crowds]


def arrive(store: Store, drop: int, ids: list[str], vectors: Floats) -> None:
    part = f"202401{drop:02}T000000000000-00000"
    store.write_part("embeddings", part, embedding_rows(ids, list(vectors)))
    update_index(store)
    update_neighbours(store, load_index(store))


def filled(root: Path, vectors: Floats, drops: list[Ints]) -> Store:
    """Make a store of images that came in some drops; the id of row n begins with n."""
    store = create_store(str(root))
    store.claim(IDENTITY)
    for number, rows in enumerate(drops, start=1):
        arrive(store, number, [f"{row:032x}" for row in rows], vectors[rows])
    return store


def found(
    store: Store, places: Ints, cosine: float = COSINE, plan: Plan | None = None
) -> NearDuplicates:
    """Return what a store tells, by the numbers of its images instead of its rows."""
    index = load_index(store)
    names = np.array([int(name, 16) for name in index.ids])
    links = read_links(store, index, threshold(cosine))
    told = near_duplicates(index, places[names], cosine=cosine, links=links, plan=plan)
    leaders, crowds = np.empty_like(names), np.empty_like(names)
    leaders[names], crowds[names] = names[told.leaders], told.crowds
    return NearDuplicates(leaders, crowds)


def links_of(vectors: Floats, cosine: float = COSINE) -> np.ndarray:
    cosines = vectors @ vectors.T
    assert np.abs(cosines[~np.eye(len(vectors), dtype=bool)] - cosine).min() > 1e-6
    return cosines >= cosine


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_drops_leaders_and_crowds_are_those_of_all_pairs(
    tmp_path: Path, seed: int
) -> None:
    vectors = crowded(420, seed)
    linked = links_of(vectors)
    chance = np.random.default_rng(seed)
    rank = chance.permutation(420)
    wanted, together = slow_leaders(linked, rank), slow_crowds(linked)
    one = [np.arange(420)]
    several = np.array_split(chance.permutation(420), [5, 130, 250, 270])
    for name, drops in (("one", one), ("several", several), ("back", several[::-1])):
        told = found(filled(tmp_path / name, vectors, list(drops)), rank)
        assert told.leaders.tolist() == wanted
        assert firsts(told.crowds) == together
    degrees = linked.sum(axis=1) - 1
    assert degrees.max() > 30 and (degrees == 0).any()  # crowds above K, and images alone
    assert len(set(together)) < len(set(wanted)) < 350


def test_with_nothing_known_all_is_searched(tmp_path: Path) -> None:
    vectors = crowded(300, seed=9)
    index = load_index(filled(tmp_path / "s", vectors, [np.arange(300)]))
    rank = np.random.default_rng(9).permutation(300)
    told = near_duplicates(index, rank, cosine=COSINE)
    assert told.leaders.tolist() == slow_leaders(links_of(vectors), rank)
    assert firsts(told.crowds) == slow_crowds(links_of(vectors))


def test_clumps_whose_every_list_is_full_are_still_one_crowd(tmp_path: Path) -> None:
    # Two clumps of 15, a little apart: the ten nearest of each image lie in its own clump, so that
    # no list tells of the other one; and the first drop never heard of the second.
    chance = np.random.default_rng(0)
    east, near_east = [1, 0, 0, 0], [np.cos(0.2), np.sin(0.2), 0, 0]
    rows = np.repeat([east, near_east], 15, axis=0) + 0.004 * chance.normal(size=(30, 4))
    vectors = unit_rows(rows).astype(np.float16).astype(np.float32)
    store = filled(tmp_path / "s", vectors, [np.arange(15), np.arange(15, 30)])
    index = load_index(store)
    links = read_links(store, index, COSINE)
    assert not ((links.pairs[:, 0] < 15) & (links.pairs[:, 1] >= 15)).any()
    assert links.hiding.tolist() == list(range(30))
    told = found(store, np.arange(30)[::-1].copy())
    assert set(told.leaders.tolist()) == {29}
    assert len(set(told.crowds.tolist())) == 1


def test_a_chain_of_frames_is_led_by_every_other_one(tmp_path: Path) -> None:
    # Each frame is like those beside it alone, and the better the later: nobody is sure of its
    # leader before the one before it is. Crowds chain, leaders do not.
    angles = 0.2 * np.arange(31)
    frames = np.stack([np.cos(angles), np.sin(angles), 0 * angles, 0 * angles], axis=1)
    store = filled(tmp_path / "s", frames.astype(np.float32), [np.arange(31)])
    told = found(store, np.arange(31))
    assert told.leaders.tolist() == [row - row % 2 for row in range(31)]
    assert set(told.crowds.tolist()) == {told.crowds[0]}


def test_a_pair_is_read_once_and_who_has_no_list_hides(tmp_path: Path) -> None:
    vectors = crowded(40, seed=3, centres=12)
    store = filled(tmp_path / "s", vectors, [np.arange(30), np.arange(30, 40)])
    index = load_index(store)
    linked = np.triu(links_of(vectors), 1)
    links = read_links(store, index, COSINE)
    assert set(map(tuple, links.pairs.tolist())) <= set(map(tuple, np.argwhere(linked).tolist()))
    assert len(set(map(tuple, links.pairs.tolist()))) == len(links.pairs)
    [part] = [name for name in store.parts("neighbours/0") if name.startswith("20240102")]
    store.delete(f"neighbours/0/{part}.parquet")
    assert set(range(30, 40)) <= set(read_links(store, index, COSINE).hiding.tolist())
    told = found(store, np.arange(40))
    assert told.leaders.tolist() == slow_leaders(links_of(vectors), np.arange(40))


def test_in_cells_planted_twins_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.search.neighbours._EXACT_PRODUCTS", 0)
    chance = np.random.default_rng(4)
    alone = unit_rows(chance.normal(size=(1500, 4)))
    twins = unit_rows(alone[:300] + 0.001 * chance.normal(size=(300, 4)))
    vectors = np.concatenate([alone, twins]).astype(np.float16).astype(np.float32)
    store = filled(tmp_path / "s", vectors, [np.arange(1100), np.arange(1100, 1800)])
    index = load_index(store)
    cells, _ = tuned(make_cells(index), np.arange(1800), 10)
    told = found(store, np.arange(1800), 0.9999, cells)
    linked = links_of(vectors, 1 - 1e-3)  # nothing nearer is told apart in half precision
    assert (told.leaders == slow_leaders(linked, np.arange(1800))).mean() > 0.98
    assert (told.crowds[:300] == told.crowds[1500:]).mean() > 0.98


def test_images_in_a_list_that_went_leave_the_list_full(tmp_path: Path) -> None:
    vectors = crowded(60, seed=5, spread=0.02, centres=2)
    store = filled(tmp_path / "s", vectors, [np.arange(20), np.arange(20, 60)])
    index = load_index(store)
    left = SearchIndex.empty(4)
    left.add(index.ids[20:], vectors[20:].astype(np.float16))
    links = read_links(store, left, COSINE)
    assert links.hiding.tolist() == list(range(40))
    assert 0 <= links.pairs.min() <= links.pairs.max() < 40
    early = SearchIndex.empty(4)  # of those who went, lists name some that stay
    early.add(index.ids[:40], vectors[:40].astype(np.float16))
    pairs = read_links(store, early, COSINE).pairs
    assert 0 <= pairs.min() <= pairs.max() < 40
