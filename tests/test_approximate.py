"""Approximate indexes on top of the exact rows, against brute-force NumPy on clustered vectors."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.arrays import Floats, Ints, unit_rows
from pipeline.identity import EncoderIdentity
from pipeline.opening import create_store, open_store
from pipeline.search import upkeep
from pipeline.search.approximate import Approximate
from pipeline.search.choosing import IndexSettings, choose, index_bytes
from pipeline.search.exact import ExactRows, Neighbours
from pipeline.search.index import load_index, update_index
from pipeline.search.layered import HeldLayer, Layer, _trusted
from pipeline.search.pointer import is_current, read_pointer
from pipeline.search.tuning import Level, Measured, Tuning, falls_short, recall_of, self_test, tune
from pipeline.store import Store
from pipeline.tables import embeddings
from pipeline.vectors import to_column
from tests.helpers import write_observations

D, N = 32, 3000
KINDS = ("hnsw", "ivf-sq8", "ivf-pq")


def clustered(count: int, seed: int, clusters: int = 40, spread: float = 0.5) -> Floats:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(clusters, D))
    rows = centres[rng.integers(0, clusters, count)] + rng.normal(size=(count, D)) * spread
    return unit_rows(rows).astype(np.float16).astype(np.float32)


def put(store: Store, name: str, rows: Floats) -> list[str]:
    ids = [f"{name}-{row}" for row in range(len(rows))]
    plain = [
        pa.array(column) for column in (ids, [1] * len(ids), [1] * len(ids), ["PNG"] * len(ids))
    ]
    columns = [*plain, to_column(rows.astype(np.float16))]
    store.write_part("embeddings", name, pa.table(columns, schema=embeddings(D)))
    return ids


def new_store(place: Path) -> Store:
    store = create_store(str(place))
    store.claim(EncoderIdentity("small", "w" * 32, "p", D, 10.0, None))
    return store


def layer_of(store: Store) -> HeldLayer:
    pointer = read_pointer(store)
    assert pointer is not None
    assert pointer.layer is not None
    return pointer.layer


@pytest.fixture(scope="module", params=KINDS)
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = new_store(tmp_path_factory.mktemp(request.param) / "s")
    put(store, "a", clustered(N, 0))
    update_index(store, IndexSettings(kind=request.param, memory_mb=1))
    return open_store(store.location)


def brute(rows: Floats, queries: Floats, k: int, among: Ints) -> Ints:
    found: Ints = among[np.argsort(-(queries @ rows[among].T), axis=1)[:, :k]]
    return found


def shared(found: Ints, truth: Ints) -> float:
    return float(
        np.mean([len(set(f) & set(t)) / len(t) for f, t in zip(found, truth, strict=True)])
    )


@pytest.mark.parametrize("k", [1, 10, 100])
def test_recall_reaches_the_target_on_queries_never_seen(held: Store, k: int) -> None:
    index, queries, rows = load_index(held), clustered(150, 7), clustered(N, 0)
    found = index.search(queries[:7], k)
    assert index.layer is not None
    assert (
        index.layer.level_for(index.layer.tuning.near, k, N, 7, D) is not None
    )  # so it was the approximate one
    parts = [index.search(queries[at : at + 5], k).rows for at in range(0, 150, 5)]
    assert shared(np.concatenate(parts), brute(rows, queries, k, np.arange(N))) >= 0.93
    cosines = np.take_along_axis(queries[:7] @ rows.T, found.rows, 1)
    assert found.cosines == pytest.approx(cosines, abs=1e-5)  # exact, whatever the codes
    assert (np.diff(found.cosines, axis=1) <= 0).all()


@pytest.mark.parametrize("likeness", [0.0, 0.1, 0.3])
def test_queries_that_lie_apart_reach_the_target_too(held: Store, likeness: float) -> None:
    """As texts do: far from all images, whichever they resemble most."""
    index, rows = load_index(held), clustered(N, 0)
    noise = unit_rows(np.random.default_rng(4).normal(size=(150, D)))
    queries = unit_rows(likeness * clustered(150, 7) + (1 - likeness) * noise)
    found = [index.search(queries[at : at + 5], 10).rows for at in range(0, 150, 5)]
    assert shared(np.concatenate(found), brute(rows, queries, 10, np.arange(N))) >= 0.93


def test_exact_is_exact(held: Store) -> None:
    index, queries, rows = load_index(held), clustered(5, 8), clustered(N, 0)
    found = index.search(queries, 50, exact=True)
    assert found.rows.tolist() == brute(rows, queries, 50, np.arange(N)).tolist()
    alone = load_index(held, exact=True)
    assert alone.layer is None
    assert alone.search(queries, 50).rows.tolist() == found.rows.tolist()


@pytest.mark.parametrize("passing", [0, 1, 40, 1500, N - 1])
@pytest.mark.parametrize("k", [3, 200, 10_000])
def test_filters_leave_as_many_answers_as_there_are(held: Store, passing: int, k: int) -> None:
    index, queries, rows = load_index(held), clustered(6, 9), clustered(N, 0)
    among = np.sort(np.random.default_rng(3).permutation(N)[:passing])
    found = index.search(queries, k, among)
    count = min(k, passing)
    assert found.rows.shape == (6, k)
    assert ((found.rows >= 0).sum(axis=1) == count).all()
    assert set(found.rows[found.rows >= 0]) <= set(among.tolist())
    if count:
        truth = brute(rows, queries, count, among)
        assert shared(found.rows[:, :count], truth) >= (1.0 if passing <= 40 or k > N else 0.85)


def test_rows_of_one_far_cell_alone_are_all_found(held: Store) -> None:
    """A filter that cuts away what is near: FAISS alone finds none, or others than the nearest."""
    index, rows = load_index(held), clustered(N, 0)
    query = rows[:1]
    far = np.argsort(rows @ query[0])[:1200]
    found = index.search(query, 10, far)
    assert found.rows.tolist() == brute(rows, query, 10, far).tolist()


def test_only_answers_among_the_nearest_that_were_looked_for_are_trusted() -> None:
    cosines = np.array([[0.2, 0.9, 0.5, 0.7], [0.2, 0.9, 0.5, -np.inf]], np.float32)
    passing = np.array([[True, True, True, False], [True, False, True, False]])
    assert _trusted(cosines, passing, 2).tolist() == [1, 1]  # of 0.9 and 0.7; of 0.9 and 0.5
    assert _trusted(cosines, passing, 3).tolist() == [2, 2]
    assert _trusted(cosines, passing, 4).tolist() == [3, 0]  # the second has no four
    assert _trusted(cosines, passing, 5).tolist() == [0, 0]


def test_work_decides_between_exact_and_approximate() -> None:
    levels = [Level(10, 1, 2, 1000.0, 1.0), Level(100, 4, 2, 5000.0, 1.0)]
    index = np.empty(0)
    covering = type("Covering", (), {"__len__": lambda _: 1000})()
    layer = Layer(covering, Tuning(levels, [], 0.0), index)  # type: ignore[arg-type]
    # A row of 32 halves is 64 bytes, so 1,000 bytes are 15.6 rows.
    assert layer.level_for(levels, 10, 1000, 1, 32) is levels[0]
    assert layer.level_for(levels, 11, 1000, 1, 32) is levels[1]
    assert layer.level_for(levels, 101, 1000, 1, 32) is None
    # One row does not pass: 9.99 of the 10 nearest do on average, of the 100 nearest 99.9.
    assert layer.level_for(levels, 10, 999, 1, 32) is levels[1]
    # A tenth passes: 10 of the 100 nearest, give or take 3; so 4 are sure to, and 5 are not.
    assert layer.level_for(levels, 4, 100, 1, 32) is levels[1]
    assert layer.level_for(levels, 5, 100, 1, 32) is None
    # 78 rows are 4,992 bytes, less than the level's 5,000; 79 are more.
    assert layer.level_for(levels, 1, 78, 1, 32) is None
    assert layer.level_for(levels, 1, 79, 1, 32) is levels[1]
    assert layer.level_for(levels, 10, 0, 1, 32) is None
    # Of 500 queries at once a row costs 1/14 + 5/500 of its 64 bytes: 1,000 cost 5,211.
    assert layer.level_for(levels, 100, 1000, 500, 32) is levels[1]
    assert layer.level_for(levels, 100, 1000, 2000, 32) is None  # 4,731


class Astray:
    """Finds the first rows with little effort, the nearest ones with more."""

    def __init__(self, vectors: Floats) -> None:
        self.vectors, self.efforts = vectors, list[int]()

    def __len__(self) -> int:
        return len(self.vectors)

    def candidates(self, queries: Floats, count: int, effort: int) -> Ints:
        self.efforts.append(effort)
        if effort == 1:
            return np.tile(np.arange(count), (len(queries), 1))
        found: Ints = np.argsort(-(queries @ self.vectors.T), axis=1)[:, :count]
        return found


def test_who_went_astray_looks_closer_before_all_rows_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = np.roll(np.eye(D, dtype=np.float32).repeat(100, axis=0), -200, axis=0)
    exact, index = ExactRows(D), Astray(rows)
    exact.append([str(row) for row in range(len(rows))], rows.astype(np.float16))
    levels = [Level(10, 1, 1, 1.0, 1.0), Level(100, 9, 1, 2.0, 1.0)]
    every = np.ones(len(rows), np.bool_)
    layer = Layer(index, Tuning(levels, [], 0.9), every)  # type: ignore[arg-type]
    known, apart = np.eye(D, dtype=np.float32)[[5, 2]], np.ones((1, D), np.float32) / D**0.5
    real = exact.search
    asked: list[int] = []

    def noted(queries: Floats, *rest: Any) -> Neighbours:
        asked.append(len(queries))
        return real(queries, *rest)

    monkeypatch.setattr(exact, "search", noted)
    found = layer.search(exact, known, 10, None)
    assert (rows[found.rows[:, 0]] == known).all()
    assert (asked, index.efforts) == ([], [1, 9])  # the second query was right at once
    layer.search(exact, np.concatenate([apart, known[1:]]), 10, None)
    assert (asked, index.efforts[2:]) == ([1], [1, 9])


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_foreseen(tmp_path: Path, kind: str) -> None:
    store = new_store(tmp_path / "s")
    put(store, "a", clustered(2000, 1))
    update_index(store, IndexSettings(kind=kind, memory_mb=1))  # type: ignore[arg-type]
    layer = layer_of(store)
    size = (Path(store.location) / layer.file).stat().st_size
    assert layer.bytes == size
    assert size == pytest.approx(index_bytes(layer.kind, layer.code_bytes, 2000, D), rel=0.03)


def test_recall_counts_answers_that_are_as_near_as_the_last() -> None:
    truth = np.array([[0.9, 0.8, 0.7]] * 3, np.float32)
    found = np.array([[0.7, 0.9, 0.7, 0.1], [0.9, 0.6, 0.5, 0.1], [0.9, 0.8, -np.inf, -np.inf]])
    assert recall_of(found.astype(np.float32), truth) == pytest.approx([1, 1 / 3, 2 / 3])
    lonely = np.full((1, 3), -np.inf, np.float32)
    assert recall_of(lonely, lonely) == pytest.approx([1])


def test_a_target_out_of_reach_is_told_with_what_would_help(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = new_store(tmp_path / "s")
    put(store, "a", clustered(1000, 1, spread=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Approximate, "efforts", lambda _: [1])  # one cell, and no more
        update_index(store, IndexSettings("ivf-sq8", 1, recall=0.999))
    assert layer_of(store).recall < 0.99
    [warning] = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert "index.recall asks for 0.999: raise index.memory_mb" in warning


def test_a_higher_target_takes_more_work(held: Store) -> None:
    index = load_index(held)
    assert index.layer is not None
    low, high = (
        tune(index.exact, index.layer.approximate, target).near[0] for target in (0.5, 0.999)
    )
    assert low.work < high.work
    assert high.recall >= 0.999


def test_the_self_test_is_recall_against_brute_force(held: Store) -> None:
    index = load_index(held)
    assert index.layer is not None
    approximate, rows = index.layer.approximate, clustered(N, 0)
    poor = Level(10, approximate.efforts()[0], 1, 0.0, 0.0)
    tested = self_test(index.exact, approximate, poor)
    asked = np.sort(np.random.default_rng(2).choice(approximate.rows, 32, False))
    cosines = rows[asked] @ rows.T
    cosines[np.arange(32), asked] = -2
    truth = np.argsort(-cosines, axis=1)[:, :10]
    found = approximate.candidates(rows[asked], 11, poor.effort)
    mine = [[row for row in f if row != own][:10] for f, own in zip(found, asked, strict=True)]
    slow = np.mean([len(set(m) & set(t)) / 10 for m, t in zip(mine, truth, strict=True)])
    assert tested.recall == pytest.approx(slow, abs=0.011)  # -11 candidates or 10, and self or not
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.search.tuning._TEST_ROWS", N // 2)
        patch.setattr("pipeline.search.tuning._CHUNK", 16)
        sampled = self_test(index.exact, approximate, poor)
    assert sampled.recall == pytest.approx(slow, abs=0.08)
    assert falls_short(Measured(0.8, 0.05), 0.91)
    assert not falls_short(Measured(0.8, 0.05), 0.9)


# -- upkeep ------------------------------------------------------------------------------------


def messages(caplog: pytest.LogCaptureFixture) -> str:
    text = " | ".join(record.message for record in caplog.records)
    caplog.clear()
    return text


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_drop_is_searched_beside_and_a_larger_one_added(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")  # a command may have made it quieter
    store = new_store(tmp_path / "s")
    asked = IndexSettings(kind=kind, memory_mb=1)  # type: ignore[arg-type]
    put(store, "a", clustered(1000, 1))
    update_index(store, asked)
    first = layer_of(store)
    assert (first.rows, first.trained_on) == (1000, 1000)
    assert f"the {kind} index is trained: there is none" in messages(caplog)
    few = clustered(40, 2)
    put(store, "b", few)
    update_index(store, asked)
    assert layer_of(store) == first  # not written again
    found = load_index(store).search(few[:3], 1)
    assert found.rows[:, 0].tolist() == [1000, 1001, 1002]
    put(store, "c", clustered(40, 3))
    update_index(store, asked)
    second = layer_of(store)
    assert (second.rows, second.trained_on) == (1080, 1000)
    assert "80 vectors are added" in messages(caplog)
    assert second.name != first.name
    assert not (Path(store.location) / first.file).exists()
    found = load_index(store).search(few[:3], 1)
    assert found.rows[:, 0].tolist() == [1000, 1001, 1002]
    assert is_current(store, asked)
    assert not is_current(store, replace(asked, recall=0.9))


def seen(store: Store, name: str, ids: list[str], status: str) -> None:
    observed = [(Path(f"/in/{i}"), i if status == "ok" else None, status, None) for i in ids]
    write_observations(store, name, observed)


def test_tombstones_make_it_train_again_without_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")  # a command may have made it quieter
    store, asked = new_store(tmp_path / "s"), IndexSettings("ivf-sq8", 1)
    ids = put(store, "a", clustered(1000, 1))
    seen(store, "a", ids, "ok")
    update_index(store, asked)
    seen(store, "b", ids[:200], "gone")
    update_index(store, asked)
    assert layer_of(store).rows == 1000  # a fifth may be gone
    messages(caplog)
    seen(store, "c", ids[200:201], "gone")
    update_index(store, asked)
    assert layer_of(store).rows == 799
    assert "201 of its 1,000 images are gone" in messages(caplog)
    # One that comes back is found at once, beside the index.
    seen(store, "d", ids[:1], "ok")
    update_index(store, asked)
    index = load_index(store)
    assert index.search(index.vectors(np.array([0])), 1).rows.tolist() == [[0]]


def test_growth_makes_it_train_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")  # a command may have made it quieter
    store, asked = new_store(tmp_path / "s"), IndexSettings("ivf-sq8", 1)
    put(store, "a", clustered(300, 1))
    update_index(store, asked)
    put(store, "b", clustered(900, 2))
    update_index(store, asked)
    assert "1,200 images are there, it was trained on 300" in messages(caplog)
    assert layer_of(store).trained_on == 1200


def test_recall_that_drifts_is_tuned_again_or_trained_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of another kind than those it was trained on."""
    caplog.set_level(logging.INFO, logger="pipeline")  # a command may have made it quieter
    store, asked = new_store(tmp_path / "s"), IndexSettings("ivf-sq8", 1)
    put(store, "a", clustered(1000, 1))
    update_index(store, asked)
    before = layer_of(store).tuning.near[0]
    put(store, "b", clustered(900, 2, spread=3))
    update_index(store, asked)
    after = layer_of(store)
    assert "tuned again: recall at 10 is 0." in messages(caplog)
    assert (after.tuning.near[0].effort > before.effort, after.trained_on) == (True, 1000)
    assert after.recall >= 0.95
    assert not falls_short(self_test(*_opened(store), after.tuning.near[0]), 0.95)
    # Where tuning is no cure, it is trained anew.
    monkeypatch.setattr(upkeep, "self_test", lambda *_: Measured(0.5, 0.01))
    poor = replace(after.tuning, near=[replace(after.tuning.near[0], recall=0.6)])
    monkeypatch.setattr(upkeep, "tune", lambda *_: poor)
    update_index(store, asked)
    assert "trained: recall at 10 is 0.500, the target 0.95" in messages(caplog)
    assert layer_of(store).trained_on == 1900
    # And not again and again: it was trained on what is there.
    update_index(store, asked)
    assert "trained:" not in messages(caplog)


def _opened(store: Store) -> tuple[ExactRows, Approximate]:
    index = load_index(store)
    assert index.layer is not None
    return index.exact, index.layer.approximate


def test_auto_grows_from_exact_to_shorter_and_shorter_codes(tmp_path: Path) -> None:
    store, asked = new_store(tmp_path / "s"), IndexSettings(memory_mb=1)
    kinds = []
    for drop, count in enumerate((10_000, 8_000, 6_000)):
        put(store, f"{drop}", clustered(count, drop))
        update_index(store, asked)
        pointer = read_pointer(store)
        assert pointer is not None
        kinds.append(pointer.kind)
        assert pointer.kind == choose(len(load_index(store)), len(load_index(store)), D, asked).kind
    assert kinds == ["flat", "ivf-sq8", "ivf-sq8"]
    update_index(store, IndexSettings())
    assert load_index(store).layer is None
    assert not list(Path(store.location, "index").glob("ivf*"))


def test_a_search_keeps_its_layer_while_another_comes_into_force(tmp_path: Path) -> None:
    store, rows = new_store(tmp_path / "s"), clustered(1000, 1)
    put(store, "a", rows)
    update_index(store, IndexSettings("ivf-sq8", 1))
    earlier = load_index(store)
    update_index(store, IndexSettings("hnsw", 1))
    assert layer_of(store).kind == "hnsw"
    assert earlier.search(rows[:5], 1).rows[:, 0].tolist() == [0, 1, 2, 3, 4]
