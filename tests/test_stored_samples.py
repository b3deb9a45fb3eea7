"""Samples streamed from a store, against the same samples held in memory."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.arrays import Floats, Halves, unit_rows
from pipeline.errors import DamagedFileError, StoreError
from pipeline.identity import EncoderIdentity
from pipeline.opening import create_store
from pipeline.store import Store
from pipeline.tables import embeddings
from pipeline.training import fitting, streaming
from pipeline.training.ahead import Put, ahead
from pipeline.training.gathering import gathered
from pipeline.training.heads.mlp import MlpHead
from pipeline.training.samples import Samples
from pipeline.training.streaming import StoredSamples
from pipeline.vectors import stream_rows, to_column
from tests.heads import SETTINGS, accuracy, blobs, unheard

WIDTH = 8


def stored(root: Path, vectors: Floats, parts: list[list[int]]) -> Store:
    """Make a store whose parts hold these rows of `vectors`; the id of row 3 is i3."""
    store = create_store(str(root))
    store.claim(EncoderIdentity("fake", "0" * 32, "none", WIDTH, 10.0, None))
    for number, rows in enumerate(parts):
        size = pa.array([1] * len(rows), pa.int32())
        columns = [
            pa.array([f"i{row}" for row in rows]),
            *(size, size, pa.array(["PNG"] * len(rows))),
            to_column(vectors[rows].astype(np.float16)),
        ]
        table = pa.table(columns, schema=embeddings(WIDTH))
        store.write_part("embeddings", f"20240101T000000000000-{number:05}", table)
    return store


@pytest.fixture
def samples() -> Samples:
    """100 samples; each tells its row by its label."""
    rng = np.random.default_rng(0)
    return Samples(
        unit_rows(rng.normal(size=(100, WIDTH))).astype(np.float16).astype(np.float32),
        rng.normal(size=(100, 2)).astype(np.float32),
        np.arange(100),
        rng.uniform(0.1, 1, 100).astype(np.float32),
        rng.dirichlet(np.ones(3), 100).astype(np.float32),
    )


def of_store(store: Store, samples: Samples, rows: list[int]) -> StoredSamples:
    chosen = samples.take(np.array(rows))
    ids = [f"i{row}" for row in rows]
    return StoredSamples(store, ids, chosen.labels, chosen.weights, chosen.side, chosen.soft)


def assert_same(got: Samples, expected: Samples) -> None:
    for name in ("images", "side", "labels", "weights", "soft"):
        one, other = getattr(got, name), getattr(expected, name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other), name


PARTS = [list(range(40)), list(range(30, 75)), [75, 2], list(range(76, 100))]  # some ids twice


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 24 rows, chunks of 5: everything has borders to cross."""
    monkeypatch.setattr(streaming, "_BLOCK_BYTES", 24 * WIDTH * 2)
    monkeypatch.setattr(streaming, "_TOGETHER", 2)
    monkeypatch.setattr(streaming, "_CHUNK_ROWS", 5)


@pytest.mark.usefixtures("small")
def test_unshuffled_they_come_as_they_lie_in_full_batches(tmp_path: Path, samples: Samples) -> None:
    store = stored(tmp_path / "s", samples.images, PARTS)
    wanted = [row for row in reversed(range(100)) if row % 3]
    source = of_store(store, samples, wanted)
    assert (len(source), source.sizes) == (66, (WIDTH, 2))
    batches = list(source.batches(8))
    assert [len(batch) for batch in batches] == [8] * 8 + [2]
    whole = gathered(source, 1 << 20)
    assert whole is not None
    assert_same(whole, samples.take(np.array(sorted(wanted))))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("size", [1, 7, 8, 200])
def test_shuffled_every_sample_comes_once_with_what_is_its_own(
    tmp_path: Path, samples: Samples, size: int
) -> None:
    source = of_store(stored(tmp_path / "s", samples.images, PARTS), samples, list(range(100)))
    seen = []
    for batch in source.batches(size, seed=3):
        assert_same(batch, samples.take(batch.labels))
        seen.append(batch.labels)
    assert [len(labels) for labels in seen[:-1]] == [size] * (len(seen) - 1)
    assert sorted(np.concatenate(seen)) == list(range(100))


@pytest.mark.usefixtures("small")
def test_the_order_is_of_the_seed_and_mixes_parts(tmp_path: Path, samples: Samples) -> None:
    source = of_store(stored(tmp_path / "s", samples.images, PARTS), samples, list(range(100)))

    def order(seed: int) -> list[int]:
        return [int(label) for batch in source.batches(8, seed) for label in batch.labels]

    assert order(3) == order(3)
    assert len({tuple(order(seed)) for seed in range(5)}) == 5
    # Parts 0, 1 and 3 hold 40, 35 and 24 rows: a batch of 8 of one part alone is seldom.
    part = np.repeat([0, 1, 2, 3], [40, 35, 1, 24])
    batches = [part[order(seed)[at : at + 8]] for seed in range(5) for at in range(0, 96, 8)]
    assert np.mean([len(set(batch)) > 1 for batch in batches]) > 0.6
    # Two parts are open at a time, so the last one is among the first only where it was drawn.
    assert any(3 in part[order(seed)[:8]] for seed in range(10))


def test_a_head_learns_from_a_store_what_it_learns_from_memory(tmp_path: Path) -> None:
    train, test = blobs(120, 0), blobs(300, 2)
    ids = [f"i{row}" for row in range(120)]
    store = stored(tmp_path / "s", train.images, [list(range(60)), list(range(60, 120))])
    source = StoredSamples(store, ids, train.labels, train.weights)
    head = MlpHead.of(3, source.sizes, SETTINGS)
    head.fit(source, blobs(30, 1), unheard)
    assert accuracy(head, test) == 1.0
    again = MlpHead.of(3, source.sizes, SETTINGS)
    again.fit(source, blobs(30, 1), unheard)
    for key, tensor in head.save().tensors.items():
        assert np.array_equal(again.save().tensors[key], tensor)


def test_beside_the_reader_a_head_learns_in_halves_with_a_thread_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = blobs(120, 0), blobs(300, 2)
    store = stored(tmp_path / "s", train.images, [list(range(120))])
    source = StoredSamples(store, [f"i{row}" for row in range(120)], train.labels, train.weights)
    before, threads, heads = torch.get_num_threads(), [], []
    torch.set_num_threads(3)
    try:
        for halves in (False, True):
            monkeypatch.setattr(fitting, "multiplies_halves", lambda _, halves=halves: halves)
            heads.append(MlpHead.of(3, source.sizes, SETTINGS))
            heads[-1].fit(source, blobs(30, 1), lambda _: threads.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {2}
    whole, half = (head.save().tensors for head in heads)
    assert {tensor.dtype for tensor in half.values()} == {np.dtype(np.float32)}
    assert any(not np.array_equal(whole[key], half[key]) for key in whole)
    wide, narrow = (head.predict_proba(test.images, test.side) for head in heads)
    assert np.abs(wide - narrow).max() < 0.05
    assert accuracy(heads[1], test) == 1.0


def test_what_is_not_there_is_told(tmp_path: Path, samples: Samples) -> None:
    store = stored(tmp_path / "s", samples.images, [list(range(50))])
    with pytest.raises(StoreError, match="1 images to train on have no vector"):
        of_store(store, samples, [1, 99])
    with pytest.raises(ValueError, match="twice"):
        of_store(store, samples, [1, 1])
    with pytest.raises(ValueError, match="2 ids"):
        StoredSamples(store, ["i1", "i2"], samples.labels[:1], samples.weights[:2])
    source = of_store(store, samples, [1, 2])
    [part] = (tmp_path / "s/embeddings").iterdir()
    whole = part.read_bytes()
    part.write_bytes(whole[:-100] + b"x" * 100)
    with pytest.raises(DamagedFileError):
        list(source.batches(8))
    part.unlink()
    with pytest.raises(StoreError, match=r"embeddings/.* went away .* train again"):
        list(source.batches(8, seed=0))


@pytest.mark.usefixtures("small")
def test_trouble_on_the_way_neither_repeats_nor_loses_a_sample(
    tmp_path: Path, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stored(tmp_path / "s", samples.images, [list(range(100))])
    source = of_store(store, samples, list(range(100)))
    troubles = iter([OSError("the line is cut")])

    def cut(store: Store, part: str, rows: int, take):  # type: ignore[no-untyped-def]
        def cut_off(batches: Iterator[Halves]) -> Iterator[Halves]:
            for number, batch in enumerate(batches):
                if number == 7 and (trouble := next(troubles, None)):
                    raise trouble
                yield batch

        return stream_rows(store, part, rows, lambda batches: take(cut_off(batches)))

    monkeypatch.setattr(streaming, "stream_rows", cut)
    labels = [int(label) for batch in source.batches(8) for label in batch.labels]
    assert labels == list(range(100))
    assert next(troubles, None) is None


def test_who_stops_early_leaves_no_thread_behind(tmp_path: Path, samples: Samples) -> None:
    before = threading.active_count()
    store = stored(tmp_path / "s", samples.images, PARTS)
    batches = of_store(store, samples, list(range(100))).batches(1, seed=0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]  # it is a generator
    assert threading.active_count() == before


def test_ahead_gives_what_was_made_before_an_error_and_then_the_error() -> None:
    def work(put: Put[int]) -> None:
        put(1)
        raise KeyError("made no more")

    with ahead(work, 3) as made, pytest.raises(KeyError, match="made no more"):
        assert next(made) == 1
        next(made)


def test_ahead_is_ahead_by_its_depth_and_no_more() -> None:
    made: list[int] = []
    enough = threading.Event()

    def work(put: Put[int]) -> None:
        for number in range(10):
            made.append(number)
            if number == 3:
                enough.set()
            put(number)

    with ahead(work, 2) as numbers:
        assert next(numbers) == 0
        assert enough.wait(10)  # 1 and 2 wait, 3 is made and finds no room
        assert made == [0, 1, 2, 3]
