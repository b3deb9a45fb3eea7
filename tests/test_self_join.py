"""The self-join against brute-force NumPy: exact where all meet all, as told where they do not."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.arrays import Floats, Ints, unit_rows
from pipeline.search.cells import make_cells, tuned
from pipeline.search.self_join import Everybody, comparisons, nearest_others


class Rows:
    """Vectors in memory, in the place of an index."""

    def __init__(self, rows: Floats) -> None:
        self.rows, self.dimension = rows, rows.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def vectors(self, rows: Ints) -> Floats:
        return self.rows[rows]


def crowds(count: int, seed: int = 0, spread: float = 0.2, wide: int = 12) -> Rows:
    chance = np.random.default_rng(seed)
    centres = chance.normal(size=(20, wide))
    near = centres[chance.integers(20, size=count)]
    return Rows(unit_rows(near + spread * chance.normal(size=(count, wide))))


def brute(rows: Floats, asked: Ints, k: int) -> tuple[Ints, Floats]:
    cosines = rows[asked] @ rows.T
    cosines[np.arange(len(asked)), asked] = -np.inf
    best = np.argsort(-cosines, axis=1)[:, :k]
    return best, np.take_along_axis(cosines, best, axis=1)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.search.self_join.BLOCK_BYTES", 4 * 12 * 64)  # 64 vectors
    monkeypatch.setattr("pipeline.search.self_join._TILE_BYTES", 4 * 48 * 64)


@pytest.mark.parametrize("plan", ["everybody", "all cells"])
def test_where_all_meet_all_it_is_exact(plan: str) -> None:
    index = crowds(500)
    asked = np.random.default_rng(1).choice(500, 300, replace=False)
    cells = make_cells(index)
    everywhere = replace(cells, probes=len(cells.centroids))
    told: list[int] = []
    found = nearest_others(
        index, asked, 7, Everybody(index) if plan == "everybody" else everywhere, told.append
    )
    rows, cosines = brute(index.rows, asked, 7)
    assert found.cosines == pytest.approx(cosines, abs=1e-6)
    assert (found.rows == rows).mean() > 0.999  # all but ties
    assert sum(told) == 300 and min(told) >= 0


def test_fewer_than_k_others_leave_places_empty() -> None:
    index = Rows(np.eye(3, dtype=np.float32))
    found = nearest_others(index, np.array([1]), 4, Everybody(index))
    assert sorted(found.rows[0].tolist()) == [-1, -1, 0, 2]
    assert found.cosines[0].tolist() == [0, 0, -np.inf, -np.inf]
    alone = Rows(np.eye(1, dtype=np.float32))
    assert nearest_others(alone, np.array([0]), 2, Everybody(alone)).rows.tolist() == [[-1, -1]]


def test_no_pair_meets_twice_and_who_is_not_among_them_meets_nobody() -> None:
    index = crowds(400)
    asked, among = np.arange(0, 400, 3), np.arange(400) % 2 == 0
    cells = make_cells(index)
    for plan in (Everybody(index), replace(cells, probes=len(cells.centroids))):
        met = np.zeros((400, 400), int)
        for block in comparisons(index, asked, plan, among):
            met[np.ix_(block.asked, block.rows)] += 1
            true = index.rows[block.asked] @ index.rows[block.rows].T
            assert block.cosines == pytest.approx(true, abs=1e-6)
        wanted = np.zeros((400, 400), int)
        wanted[np.ix_(asked, np.flatnonzero(among))] = 1
        assert np.array_equal(met, wanted)


def test_an_image_meets_the_cells_nearest_to_it_and_no_other() -> None:
    index = crowds(600)
    cells = replace(make_cells(index), probes=5)
    order = np.argsort(-(index.rows @ cells.centroids.T), axis=1)
    assert np.array_equal(cells.homes, order[:, 0])
    assert np.linalg.norm(cells.centroids, axis=1) == pytest.approx(1, abs=1e-5)
    for block in comparisons(index, np.arange(600), cells):
        [cell] = set(cells.homes[block.rows].tolist())
        assert (order[block.asked, :5] == cell).any(axis=1).all()


def many_crowds(count: int, wide: int = 128) -> Rows:
    """As many crowds as cells: k-means misses a third of them, which one cell gathers."""
    chance = np.random.default_rng(3)
    centres = unit_rows(unit_rows(chance.normal(size=(120, wide))) + 2 * np.eye(wide)[0])
    near = centres[chance.integers(120, size=count)]
    return Rows(unit_rows(near + 0.3 / wide**0.5 * chance.normal(size=(count, wide))))


def test_no_cell_holds_many_times_what_the_others_do() -> None:
    cells = make_cells(many_crowds(3600))
    sizes = np.bincount(cells.homes, minlength=len(cells.centroids))
    assert sizes.sum() == 3600
    assert sizes.max() <= 4 * 3600 / 120  # 120 are 2 sqrt(3600)
    assert len(sizes) < 3 * 120


def test_images_that_are_all_equal_stay_in_their_cell() -> None:
    same = np.repeat(np.eye(12, dtype=np.float32)[:1], 800, axis=0)
    index = Rows(np.concatenate([same, crowds(800).rows]))
    cells = make_cells(index)
    assert len(set(cells.homes[:800].tolist())) == 1
    assert len(cells.centroids) < 4 * 80


@pytest.mark.parametrize("target", [0.6, 0.9, 1.0])
def test_cells_are_looked_at_until_the_target_is_reached(target: float) -> None:
    index = crowds(2000, spread=0.5)
    cells, recall = tuned(make_cells(index), np.arange(2000), 10, target=target)
    found = nearest_others(index, np.arange(2000), 10, cells)
    true = brute(index.rows, np.arange(2000), 10)[0]
    pairs = zip(found.rows.tolist(), true.tolist(), strict=True)
    share = sum(len(set(one) & set(other)) for one, other in pairs) / true.size
    assert recall >= target
    assert share == pytest.approx(recall, abs=0.03)
    assert cells.probes < len(cells.centroids) / 4  # and not by looking everywhere


def test_a_crowd_of_equals_is_not_compared_in_full() -> None:
    twins = Rows(np.repeat(unit_rows(np.ones((1, 12))), 700, axis=0))
    asked: list[int] = []

    class Counted(Rows):
        def vectors(self, rows: Ints) -> Floats:
            asked.append(len(rows))
            return super().vectors(rows)

    index = Counted(twins.rows)
    cells = replace(make_cells(index), probes=1)
    asked.clear()
    found = nearest_others(index, np.arange(700), 5, cells)
    assert (found.cosines > 0.999).all()
    assert not (found.rows == np.arange(700)[:, None]).any()
    assert sum(asked) < 700 * 4  # 700 to find their cell, 700 asked, and 64 met by each 64
