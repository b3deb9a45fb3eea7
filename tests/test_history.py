"""What a run saw, and the images before it, beside a plain look at a store written by hand."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.arrays import Floats
from pipeline.caching import cached_arrays
from pipeline.compaction import compact
from pipeline.identity import digest
from pipeline.opening import create_store
from pipeline.reports import history
from pipeline.reports.arrivals import SourceLine, arrivals
from pipeline.reports.history import SAMPLE, label_rows, samples, vectors_of
from pipeline.store import Store
from pipeline.vectors import stream_vectors
from tests.helpers import (
    IDENTITY,
    axis,
    embedding_rows,
    label_set,
    label_store,
    write_observations,
)

FIRST, SECOND, THIRD = (f"2024010{day}T000000000000" for day in (1, 2, 3))
Seen = tuple[Path, str | None, str, str | None]


def ids(start: int, count: int) -> list[str]:
    """Return ids as evenly spread as hashes are."""
    return [digest(n) + digest([n]) for n in range(start, start + count)]


def add(
    store: Store, run_id: str, images: list[str], vectors: list[Floats], more: list[Seen]
) -> None:
    seen: list[Seen] = [(Path(f"/in/{i}.png"), i, "ok", None) for i in images]
    write_observations(store, f"{run_id}-00000", [*seen, *more])
    if images:
        store.write_part("embeddings", f"{run_id}-00000", embedding_rows(images, vectors))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = create_store(str(tmp_path / "store"))
    made.claim(IDENTITY)
    return made


def test_what_a_run_saw_is_told_of_every_run(store: Store) -> None:
    a, b, c, d = ids(0, 4)
    place = Path("/in")
    bad = "image file is truncated ({} bytes not processed)"
    first: list[Seen] = [(place / "x.png", None, "unreadable", bad.format(7))]
    add(store, FIRST, [a, b], [axis(0)] * 2, first)
    second: list[Seen] = [
        (place / f"{a}.png", c, "ok", None),  # other bytes under a known path
        (Path("/other/copy.png"), b, "ok", None),  # known bytes under a new path
        (place / f"{b}.png", None, "gone", "no longer there"),
        (Path("/other/y.png"), None, "unreadable", bad.format(8)),
        (Path("/other/z.png"), None, "unreadable", bad.format(19)),
        (Path("/other/z.txt"), None, "ignored", "not an image"),
    ]
    add(store, SECOND, [], [], second)
    add(store, THIRD, [d], [axis(1)], [(Path("/in/again.png"), c, "ok", None)])
    found = arrivals(store, SECOND)
    assert found.sources == [
        SourceLine("/other", new=1, changed=0, gone=0, unreadable=2, ignored=1),
        SourceLine("/in", new=0, changed=1, gone=1, unreadable=0, ignored=0),
    ]
    assert (found.images, found.paths, found.later) == ([c], [f"/in/{a}.png"], [d])
    assert found.known == 1
    [failure] = found.failures
    assert failure.kind == "image file is truncated (# bytes not processed)"
    assert (failure.files, failure.examples[1]) == (2, ("/other/z.png", bad.format(19)))
    assert sorted(arrivals(store, FIRST).images) == sorted([a, b])
    assert arrivals(store, FIRST).total("unreadable") == 1
    assert arrivals(store, THIRD).later == []


def test_a_drop_is_held_against_what_came_before_it_alone(store: Store) -> None:
    old, new, later = ids(0, 30), ids(100, 20), ids(200, 10)
    add(store, FIRST, old, [axis(0)] * 30, [])
    add(store, SECOND, new, [axis(1)] * 20, [(Path("/in/copy.png"), old[0], "ok", None)])
    add(store, THIRD, later, [axis(2)] * 10, [])
    label_store(store, label_set("red", "green", "blue"))
    for _ in range(2):
        table = store.get_json("labels/current.json")["table"]
        rows, seen = label_rows(store, str(table)), arrivals(store, SECOND)
        drop, before = samples(store, rows, 3, SECOND, seen, keep=False)
        assert (drop.labels.tolist(), before.labels.tolist()) == ([0, 20, 0, 0], [30, 0, 0, 0])
        assert (drop.images, before.images) == (20, 30)
        assert drop.vectors.tolist() == [axis(1).tolist()] * 20
        assert before.vectors.tolist() == [axis(0).tolist()] * 30
        compact(store, part_rows=1000)  # the parts of all three runs are one: nothing changes
    assert store.get(SAMPLE) is None  # nobody asked to keep it
    assert len(store.parts("embeddings")) == 1
    assert len(vectors_of(store, new[:5], SECOND)) == 5


def test_the_sample_is_even_whatever_the_order_and_reads_each_part_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEPT", 32)
    read: list[str] = []
    stream = stream_vectors

    def counted(held: Store, part: str, take: object) -> object:
        read.append(part)
        return stream(held, part, take)  # type: ignore[arg-type]

    monkeypatch.setattr(history, "stream_vectors", counted)
    every: list[str] = []
    for day in range(1, 10):
        images = ids(day * 1000, 25 * day)
        every += images
        vectors = [axis(int(i[-1], 16) % 4) for i in images]
        add(store, f"2024020{day}T000000000000", images, vectors, [])
        kept = history._vector_sample(store, keep=True)
        assert set(kept.ids) == {i for i in every if i[:8] < history._bar(kept.halvings)}
        assert kept.ids == sorted(kept.ids)
        assert len(kept.ids) <= 32
        assert len(kept.ids) >= 8 or len(every) < 32  # half of it, give or take chance
        assert [row.argmax() for row in kept.vectors] == [int(i[-1], 16) % 4 for i in kept.ids]
    assert kept.halvings in (5, 6)  # of 1,125 images some 35 or 18
    assert sorted(read) == store.parts("embeddings")
    compact(store, part_rows=500)
    again = history._vector_sample(store, keep=True)
    assert (again.ids, len(read)) == (kept.ids, 9)  # merged parts are known
    store.put(SAMPLE, b"damaged")
    assert cached_arrays(store, SAMPLE) is None
    assert history._vector_sample(store, keep=True).ids == kept.ids


def test_the_bar_halves_what_is_kept() -> None:
    every = pl.Series(ids(0, 4000))
    for halvings in (0, 1, 3):
        share = (every.str.head(8) < history._bar(halvings)).mean()
        assert share == pytest.approx(0.5**halvings, abs=0.03)
    assert np.isclose(int(history._bar(4), 16), 2**28)
