"""Batches and shards with an encoder whose answer is known: each picture is a number, an angle."""

import math
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.arrays import Floats, Pixels
from pipeline.catalog import current_files
from pipeline.clip.batches import BatchSize
from pipeline.clip.embed import EmbedSummary, embed_shards
from pipeline.clip.protocol import Lanes
from pipeline.errors import StoreBusyError
from pipeline.identity import EncoderIdentity
from pipeline.images.decoding import Decode, Picture, Refusal, image_id
from pipeline.images.scan import find_changes, record_changes
from pipeline.opening import create_store
from pipeline.runs import new_run_id
from pipeline.store import Store
from pipeline.vectors import iterate_vectors
from tests.helpers import FakeEncoder

NUMBERS = 64  # a right angle has so many parts


def vector_of(number: int) -> list[float]:
    angle = number % NUMBERS / NUMBERS * math.pi / 2
    return [math.cos(angle), math.sin(angle)]


@dataclass
class Angles(FakeEncoder):
    """Embeds pictures as their angle, on several lanes, each batch as slowly as it is told to."""

    count: int = 1  # of lanes
    delay: Callable[[], float] = lambda: 0.0
    limit: int = 10**6  # pictures for which memory suffices
    refused: int | None = None  # the number of the picture that no batch may hold
    identity: EncoderIdentity = EncoderIdentity("angles", "0" * 32, "none", 2, 10.0, None)  # noqa: RUF009
    sizes: list[int] = field(default_factory=list)  # of all batches that were tried

    @contextmanager
    def lanes(self) -> Iterator[Lanes]:
        with ThreadPoolExecutor(self.count) as pool:
            yield Lanes(pool, self.count)

    def encode_images(self, pixels: Pixels) -> Floats:
        self.sizes.append(len(pixels))
        time.sleep(self.delay())
        if len(pixels) > self.limit:
            raise MemoryError(f"no room for {len(pixels)}")
        numbers = pixels[:, 0, 0, 0].tolist()
        if self.refused in numbers:
            raise RuntimeError(f"picture {self.refused} is refused")
        return np.array([vector_of(number) for number in numbers], np.float32)


def read_number(data: bytes, name: str) -> Picture | Refusal:
    """Decode a file that holds a number, written out."""
    if not data.isdigit():
        return Refusal("unreadable", "no number")
    return Picture(np.full((1, 1, 3), int(data) % NUMBERS, np.uint8), 1, 1, "TEXT")


def write(folder: Path, contents: Sequence[object]) -> Path:
    folder.mkdir(exist_ok=True)
    for place, content in enumerate(contents):
        (folder / f"{place:03}.png").write_text(str(content))
    return folder


def run(
    store: Store,
    source: Path,
    encoder: Angles,
    *,
    shard_rows: int = 6,
    batch_size: int = 4,
    decode: Decode = read_number,
    **more: Any,
) -> EmbedSummary:
    now = datetime.now(UTC)
    changes = find_changes(store, (str(source),), settle_seconds=0, now=now)
    run_id = new_run_id(store, now)
    scan = record_changes(store, changes, run_id=run_id, now=now, shard_rows=shard_rows)
    more = {"batch_size": batch_size, "threads": 3, "decode": decode, **more}
    return embed_shards(store, run_id, range(scan.shards), encoder, now=now, **more)


def stored(store: Store) -> dict[str, list[float]]:
    """Return the vectors by image id; none stands twice."""
    pairs = [
        (identity, vector.tolist())
        for _, ids, vectors in iterate_vectors(store)
        for identity, vector in zip(ids, vectors, strict=True)
    ]
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


def require_right_vectors(store: Store, contents: Sequence[object]) -> None:
    numbers = {content for content in contents if isinstance(content, int)}
    vectors = stored(store)
    assert set(vectors) == {image_id(str(number).encode()) for number in numbers}
    for number in numbers:
        vector = vectors[image_id(str(number).encode())]
        assert vector == pytest.approx(vector_of(number), abs=1e-3), number


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(str(tmp_path / "store"))


@pytest.mark.parametrize("seed", range(16))
def test_every_vector_reaches_its_own_row_however_fast_each_lane_is(
    store: Store, tmp_path: Path, seed: int
) -> None:
    choose = random.Random(seed)
    contents: list[object] = [choose.randrange(NUMBERS) for _ in range(choose.randrange(1, 80))]
    for place in range(len(contents)):
        if choose.random() < 0.15:
            contents[place] = f"bad {place}"
    encoder = Angles(count=1 + seed % 4, delay=lambda: choose.random() / 100)
    rows = choose.randrange(1, 15)
    source = write(tmp_path / "in", contents)
    summary = run(store, source, encoder, shard_rows=rows, batch_size=choose.randrange(1, 9))
    require_right_vectors(store, contents)
    numbers = [content for content in contents if isinstance(content, int)]
    assert summary.files == len(contents)
    assert summary.embedded == len(set(numbers)) == sum(encoder.sizes)
    assert summary.known == len(numbers) - len(set(numbers))
    assert summary.unreadable == len(contents) - len(numbers)
    for file in current_files(store).iter_rows(named=True):
        content = contents[int(Path(file["path"]).stem)]
        assert file["image_id"] == image_id(str(content).encode())
        assert file["status"] == ("ok" if isinstance(content, int) else "unreadable")
    sizes = [store.rows("files", part) for part in store.parts("files")]
    assert sizes == [min(rows, len(contents) - at) for at in range(0, len(contents), rows)]


@pytest.mark.parametrize("lanes", [1, 3])
def test_pictures_are_decoded_ahead_but_not_without_end(
    store: Store, tmp_path: Path, lanes: int
) -> None:
    alive, peak, lock, size = 0, 0, threading.Lock(), 3

    def count(change: int) -> None:
        nonlocal alive, peak
        with lock:
            alive += change
            peak = max(peak, alive)

    def counted(data: bytes, name: str) -> Picture | Refusal:
        count(+1)
        picture = read_number(data, name)
        assert isinstance(picture, Picture)
        weakref.finalize(picture.pixels, count, -1)
        return picture

    source = write(tmp_path / "in", range(200))
    encoder = Angles(count=lanes, delay=lambda: 0.005)
    run(store, source, encoder, batch_size=size, decode=counted, threads=8, shard_rows=50)
    assert len(stored(store)) == 200
    window = (lanes + 1) * size
    # As many as the window again are on the lanes or next in line for them; a batch is collected.
    assert window <= peak <= 2 * window + size + 2
    assert alive == 0


class Growth:
    """A search, told how many images per second each size allows."""

    def __init__(self, rate: Callable[[int], float], wanted: int = 0) -> None:
        size, self.tried = BatchSize(wanted), [wanted or 16]
        for _ in range(100):
            size.took(size.size, size.size / rate(size.size))
            if size.size != self.tried[-1]:
                self.tried.append(size.size)


@pytest.mark.parametrize(
    ("rate", "tried"),
    [
        (lambda n: 100.0, [16, 32, 16]),  # nothing gained
        (lambda n: min(n, 128), [16, 32, 64, 128, 256, 128]),
        (lambda n: n if n <= 64 else 10, [16, 32, 64, 128, 64]),
        (lambda n: n, [16, 32, 64, 128, 256, 512, 1024]),
        (lambda n: {16: 100, 32: 104}.get(n, 1), [16, 32, 16]),  # too little gained
        (lambda n: {16: 100, 32: 106}.get(n, 1), [16, 32, 64, 32]),
    ],
)
def test_the_size_is_doubled_while_that_pays(
    rate: Callable[[int], float], tried: list[int]
) -> None:
    assert Growth(rate).tried == tried


def test_a_size_that_was_asked_for_is_kept() -> None:
    assert Growth(lambda n: n, wanted=7).tried == [7]
    assert Growth(lambda n: n, wanted=16).tried == [16]


@pytest.mark.parametrize(
    ("rates", "next_size"),  # of batches of 32 images, where 16 were done at 16 a second
    [
        ([0.1, 5, 16, 40, 40], 64),  # the first one warms up: 28 is the middle of the others
        ([100, 17, 1, 18, 16], 16),
        ([20, 10, 10, 100, 10], 16),  # one that is fast by chance
        ([20, 20, 20, 1, 20], 64),  # one that is slow by chance
    ],
)
def test_neither_the_first_batch_of_a_size_nor_an_odd_one_decides(
    rates: list[float], next_size: int
) -> None:
    size = BatchSize(0)
    for _ in range(5):
        assert size.size == 16
        size.took(16, 1.0)
    for rate in rates:
        for _ in range(5):
            size.took(3, 1e-3)  # what is left over at the end tells nothing
        assert size.size == 32
        size.took(32, 32 / rate)
    assert size.size == next_size


@pytest.mark.parametrize("wanted", [0, 16])
def test_a_size_for_which_memory_did_not_suffice_is_not_tried_again(wanted: int) -> None:
    size = BatchSize(wanted)
    size.too_large(16)
    assert size.size == 8
    size.too_large(16)  # another lane had begun one before
    assert size.size == 8
    for _ in range(50):
        size.took(8, 1e-3)
    assert size.size == 8
    for images, left in ((8, 4), (5, 4), (4, 2), (2, 1), (1, 1)):
        size.too_large(images)
        assert size.size == left


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("wanted", [0, 16])
def test_a_batch_too_large_for_memory_is_halved_until_it_fits(
    store: Store, tmp_path: Path, lanes: int, wanted: int
) -> None:
    contents = range(200)
    encoder = Angles(count=lanes, limit=5)
    source = write(tmp_path / "in", contents)
    summary = run(store, source, encoder, batch_size=wanted, shard_rows=25)
    require_right_vectors(store, contents)
    assert summary.embedded == 200
    assert summary.batch_size == 4
    assert encoder.sizes[:3] == [16, 8, 4] or lanes > 1
    assert encoder.sizes.count(16) <= lanes + 2  # those that were begun before the first one failed
    assert max(encoder.sizes[len(encoder.sizes) // 2 :]) <= 4


def test_a_picture_for_which_memory_never_suffices_ends_the_run(
    store: Store, tmp_path: Path
) -> None:
    encoder = Angles(limit=0)
    with pytest.raises(MemoryError, match="no room for 1"):
        run(store, write(tmp_path / "in", range(9)), encoder)
    assert store.parts("embeddings") == store.parts("files") == []
    assert encoder.sizes[:3] == [4, 2, 1]


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_a_lane_that_fails_is_heard_of_and_whole_shards_before_it_are_kept(
    store: Store, tmp_path: Path, lanes: int
) -> None:
    contents = range(60)
    source = write(tmp_path / "in", contents)
    slow = random.Random(lanes)
    encoder = Angles(count=lanes, refused=21, delay=lambda: slow.random() / 50)
    with pytest.raises(RuntimeError, match="picture 21 is refused"):
        run(store, source, encoder)
    # 21 is in the batch of 20 to 23, the shard of 18 to 23.
    require_right_vectors(store, contents[:18])
    assert len(current_files(store)) == 18
    run(store, source, Angles(count=lanes))
    require_right_vectors(store, contents)


def test_after_a_write_that_fails_no_later_shard_is_committed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The third shard holds the second's images again: its files would point at no vectors.
    contents = [*range(12), *range(6, 12), *range(12, 30)]
    source, whole = write(tmp_path / "in", contents), Store.write_part

    def failing(self: Store, table: str, part: str, rows: pa.Table, *more: str) -> None:
        if table == "embeddings" and part.endswith("-00001"):
            time.sleep(0.3)  # meanwhile the next one comes
            raise OSError("no space left")
        whole(self, table, part, rows, *more)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space left"):
        patched.setattr(Store, "write_part", failing)
        run(store, source, Angles(count=2))
    assert [part[-6:] for part in store.parts("files")] == ["-00000"]
    require_right_vectors(store, contents[:6])
    run(store, source, Angles(count=2))
    require_right_vectors(store, contents)


def test_a_write_that_fails_at_the_very_end_is_heard_of_too(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, whole = write(tmp_path / "in", range(12)), Store.write_part

    def failing(self: Store, table: str, part: str, rows: pa.Table, *more: str) -> None:
        if table == "files" and part.endswith("-00001"):
            time.sleep(0.1)
            raise OSError("no space left")
        whole(self, table, part, rows, *more)

    monkeypatch.setattr(Store, "write_part", failing)
    with pytest.raises(OSError, match="no space left"):
        run(store, source, Angles())
    assert len(current_files(store)) == 6


def test_a_check_that_fails_keeps_its_shard_and_all_later_ones_from_the_store(
    store: Store, tmp_path: Path
) -> None:
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            time.sleep(0.3)
            raise StoreBusyError("another one holds it")

    with pytest.raises(StoreBusyError, match="another one"):
        run(store, write(tmp_path / "in", range(60)), Angles(count=3), check=check)
    assert asked == 3
    assert len(store.parts("files")) == len(store.parts("embeddings")) == 2
    require_right_vectors(store, range(12))


def test_a_decoder_that_fails_ends_the_run_and_whole_shards_before_it_are_kept(
    store: Store, tmp_path: Path
) -> None:
    def closed(data: bytes, name: str) -> Picture | Refusal:
        if data == b"40":
            time.sleep(0.2)
            raise RuntimeError("the decoders were closed")
        return read_number(data, name)

    with pytest.raises(RuntimeError, match="were closed"):
        run(store, write(tmp_path / "in", range(60)), Angles(), decode=closed)
    kept = len(current_files(store))
    assert kept % 6 == 0
    assert 0 < kept <= 36
    require_right_vectors(store, range(kept))


def test_a_run_without_a_picture_commits_what_it_saw(store: Store, tmp_path: Path) -> None:
    summary = run(store, write(tmp_path / "in", ["x"] * 8), Angles())
    assert (summary.files, summary.embedded, summary.unreadable) == (8, 0, 8)
    assert len(current_files(store)) == 8
    assert store.parts("embeddings") == []


def test_lanes_at_work_and_idle_make_up_the_time_that_a_run_takes(
    store: Store, tmp_path: Path
) -> None:
    source = write(tmp_path / "in", range(160))
    encoder = Angles(count=4, delay=lambda: 0.02)
    started = time.perf_counter()
    seconds = run(store, source, encoder, shard_rows=50).seconds
    wall = time.perf_counter() - started
    assert len(encoder.sizes) == 40
    assert 40 * 0.02 / 4 <= seconds["inference"] <= wall  # of one lane, on average
    assert seconds["waiting"] >= 0
    assert seconds["waiting"] + seconds["inference"] <= wall + 0.002
