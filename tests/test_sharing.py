"""Several processes embed one run: the tables end as of one, and the dead write nothing more."""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows import stages
from pipeline.clip.embed import EmbedSummary, embed_shards
from pipeline.clip.sharing import (
    close_runs,
    committed,
    counted,
    drop_copies,
    part_of,
    permit,
)
from pipeline.errors import StoreError
from pipeline.images.decoding import Picture, Refusal, decode
from pipeline.images.scan import PLANS, find_changes, record_changes
from pipeline.locking import writer_lock
from pipeline.opening import create_store, open_store
from pipeline.store import Store
from tests.conftest import demo_config
from tests.test_embed import MeanColour, paint

RUN = "20240101T000000000000"


def plan(store: Store, source: Path, shard_rows: int = 2) -> int:
    """Plan a run over a folder; return how many shards it has."""
    now = datetime.now(UTC)
    changes = find_changes(store, (str(source),), settle_seconds=0, now=now)
    scan = record_changes(store, changes, run_id=RUN, now=now, shard_rows=shard_rows)
    return scan.shards


def embed(store: Store, shards: Iterable[int], encoder: MeanColour | None = None) -> EmbedSummary:
    encoder = encoder or MeanColour()

    def decoded(data: bytes, name: str) -> Picture | Refusal:
        return decode(data, name, encoder.fit, max_pixels=10**6)

    return embed_shards(
        store, RUN, shards, encoder, decode=decoded, now=datetime.now(UTC), batch_size=2, threads=2
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six files in shards of two: 0 and 2 hold the same bytes, and so do 1 and 5; 3 is none."""
    folder = tmp_path / "in"
    for name, colour in {"0": 10, "1": 60, "2": 10, "4": 110, "5": 60}.items():
        paint(folder / f"{name}.png", (colour, 200, 40))
    (folder / "3.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def alone(source: Path, tmp_path: Path) -> tuple[Store, EmbedSummary]:
    """What one process makes of it."""
    store = create_store(str(tmp_path / "alone"))
    return store, embed(store, range(plan(store, source)))


@pytest.fixture
def shared(source: Path, tmp_path: Path) -> Store:
    """What three workers leave, none of which knew of the others."""
    store = create_store(str(tmp_path / "shared"))
    plan(store, source)

    def after(*others: int) -> Iterator[int]:
        if others[1:]:  # it has looked what there is already, and begins only now
            embed(store, after(*others[1:]))
        yield others[0]

    embed(store, after(0, 1, 2))
    return store


def embedded(store: Store) -> dict[str, list[str]]:
    ids = {
        part: store.read("embeddings", ["image_id"], [part]) for part in store.parts("embeddings")
    }
    return {part: rows["image_id"].to_list() for part, rows in ids.items()}


def test_what_workers_embedded_twice_stays_with_the_first_shard(
    shared: Store, alone: tuple[Store, EmbedSummary]
) -> None:
    expected, summary = alone
    assert sum(map(len, embedded(shared).values())) == 5  # of three different images
    assert drop_copies(shared, RUN) == 2
    assert embedded(shared) == embedded(expected)
    for part in expected.parts("embeddings"):
        assert shared.read_part("embeddings", part).equals(expected.read_part("embeddings", part))
        assert shared.fingerprint("embeddings", part) == expected.fingerprint("embeddings", part)
    plain = replace(summary, seconds={}, batch_size=0)
    assert counted(shared, RUN, range(3)) == plain
    assert (plain.files, plain.embedded, plain.known, plain.unreadable) == (6, 3, 2, 1)
    assert drop_copies(shared, RUN) == 0


def test_what_a_dead_driver_left_is_put_right_by_the_next_run(shared: Store) -> None:
    close_runs(shared)
    assert sorted(map(len, embedded(shared).values())) == [1, 2]
    assert shared.folder.names(PLANS) == []


def test_a_file_that_went_is_counted_as_waiting(source: Path, tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "store"))
    shards = plan(store, source)
    (source / "4.png").unlink()
    summary = embed(store, range(shards))
    assert summary.waiting == 1
    assert counted(store, RUN, range(shards)) == replace(summary, seconds={}, batch_size=0)


def test_a_shard_without_its_observations_is_done_again_whole(source: Path, tmp_path: Path) -> None:
    """As after a worker that died between two writes: its part must not lose what it held."""
    store = create_store(str(tmp_path / "store"))
    shards = plan(store, source)
    embed(store, range(shards))
    before = embedded(store)
    store.delete(f"files/{part_of(RUN, 0)}.parquet")
    assert committed(store, RUN) == {1, 2}
    encoder = MeanColour()
    embed(store, [0], encoder)
    assert encoder.pictures == 2
    assert embedded(store) == before


def test_called_again_the_stage_leaves_alone_what_is_committed(
    source: Path, tmp_path: Path
) -> None:
    config = demo_config(tmp_path / "store", sources=[str(source)], run={"shard_rows": 2})
    store = create_store(config.store)
    shards = plan(store, source)
    stages.claim(config)
    stages.embed_here(config, RUN, [0, 2], lambda: None)
    first = {name: store.folder.read(name) for name in store.folder.sizes()}
    summary = stages.embed(config, RUN, shards, lambda: None)
    assert (summary.files, summary.embedded, summary.known, summary.unreadable) == (6, 3, 2, 1)
    assert committed(open_store(config.store), RUN) == {0, 1, 2}
    # Rewritten, they would differ in the time of observation.
    assert {name: store.folder.read(name) for name in first} == first


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_permit_ends_with_the_lock_that_it_was_given_under(kind: str, tmp_path: Path) -> None:
    bucket = f"memory://{uuid.uuid4().hex}/store"
    store = create_store(str(tmp_path / "store") if kind == "folder" else bucket)
    with writer_lock(store):
        given = permit(store, RUN, 0)
        assert len(given.held) == 2
        given.check(store)
    with writer_lock(store), pytest.raises(StoreError, match="may write no more"):
        given.check(store)


def test_a_permit_ends_with_its_run_and_with_its_worker(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "store"))
    with writer_lock(store):
        first, second = permit(store, RUN, 0), permit(store, RUN, 1)
        assert first.good(store)
        store.delete(first.name)  # the worker was replaced
        assert not first.good(store)
        assert second.good(store)
        again = permit(store, RUN, 0)
        assert again.good(store)
        assert not first.good(store)  # though the number is in use again
        close_runs(store)
        assert not second.good(store)
