"""Embedding a shard with an encoder whose answer is known: the mean colour of the picture."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.arrays import Floats, Pixels, unit_rows
from pipeline.catalog import current_files, present_images
from pipeline.clip.embed import EmbedSummary, embed_shards
from pipeline.errors import InputError
from pipeline.identity import EncoderIdentity
from pipeline.images.decoding import Picture, Refusal, decode
from pipeline.images.scan import find_changes, record_changes
from pipeline.opening import create_store
from pipeline.runs import new_run_id
from pipeline.store import Store
from pipeline.vectors import iterate_vectors
from tests.helpers import OneLane


class MeanColour(OneLane):
    """Embeds a picture as the direction of its mean colour; counts what it was given."""

    def __init__(self) -> None:
        self.identity = EncoderIdentity("colour", "0" * 32, "4x4", 3, 10.0, None)
        self.pictures = self.decoded = 0

    def fit(self, image: Image.Image) -> Image.Image:
        self.decoded += 1
        return image.resize((4, 4))

    def encode_images(self, pixels: Pixels) -> Floats:
        self.pictures += len(pixels)
        return unit_rows(pixels.astype(np.float32).mean(axis=(1, 2)) + 1)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        return unit_rows(np.ones((len(texts), 3)))

    def cut(self, texts: Sequence[str]) -> list[bool]:
        return [False] * len(texts)

    def length(self, text: str) -> tuple[int, int]:
        return len(text), 77


def paint(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path, "PNG")


def run(store: Store, source: Path, encoder: MeanColour, shard_rows: int = 100) -> EmbedSummary:
    now = datetime.now(UTC)
    changes = find_changes(store, (str(source),), settle_seconds=0, now=now)
    run_id = new_run_id(store, now)
    scan = record_changes(store, changes, run_id=run_id, now=now, shard_rows=shard_rows)

    def decoded(data: bytes, name: str) -> Picture | Refusal:
        return decode(data, name, encoder.fit, max_pixels=10**6)

    shards = range(scan.shards)
    return embed_shards(
        store, run_id, shards, encoder, decode=decoded, now=now, batch_size=4, threads=2
    )


def vectors_by_path(store: Store) -> dict[str, list[float]]:
    vectors = {
        i: v for _, ids, part in iterate_vectors(store) for i, v in zip(ids, part, strict=True)
    }
    rows = present_images(store).iter_rows(named=True)
    return {Path(row["path"]).name: vectors[row["image_id"]].tolist() for row in rows}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(str(tmp_path / "store"))


def test_every_image_gets_its_own_vector_across_batches_and_shards(
    store: Store, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    colours = {f"{n:02}.png": tuple(map(int, rng.integers(0, 256, 3))) for n in range(23)}
    for name, colour in colours.items():
        paint(tmp_path / "in" / name, colour)  # type: ignore[arg-type]
    summary = run(store, tmp_path / "in", MeanColour(), shard_rows=10)
    assert (summary.files, summary.embedded) == (23, 23)
    assert [store.rows("embeddings", part) for part in store.parts("embeddings")] == [10, 10, 3]
    assert [store.rows("files", part) for part in store.parts("files")] == [10, 10, 3]
    for name, vector in vectors_by_path(store).items():
        expected = np.array(colours[name]) + 1
        assert vector == pytest.approx(expected / np.linalg.norm(expected), abs=1e-3)


def test_the_same_bytes_are_embedded_once_and_both_paths_are_kept(
    store: Store, tmp_path: Path
) -> None:
    paint(tmp_path / "in/a.png", (200, 10, 10))
    paint(tmp_path / "in/deep/b.png", (200, 10, 10))
    encoder = MeanColour()
    summary = run(store, tmp_path / "in", encoder)
    assert (summary.embedded, summary.known, encoder.pictures) == (1, 1, 1)
    assert len(current_files(store)) == 2
    assert present_images(store)["paths"].to_list() == [2]


def test_a_rerun_touches_only_what_is_new(store: Store, tmp_path: Path) -> None:
    paint(tmp_path / "in/a.png", (200, 10, 10))
    run(store, tmp_path / "in", MeanColour())
    assert run(store, tmp_path / "in", MeanColour()).files == 0
    paint(tmp_path / "in/b.png", (10, 200, 10))
    paint(tmp_path / "in/c.png", (200, 10, 10))  # the bytes of a.png under a new name
    encoder = MeanColour()
    summary = run(store, tmp_path / "in", encoder)
    assert (summary.files, summary.embedded, summary.known) == (2, 1, 1)
    assert (encoder.pictures, encoder.decoded) == (1, 1)  # known bytes are not even decoded


def test_one_bad_file_never_takes_its_batch_with_it(store: Store, tmp_path: Path) -> None:
    for name in ("a", "c", "e"):
        paint(tmp_path / f"in/{name}.png", (ord(name), 10, 10))
    whole = (tmp_path / "in/a.png").read_bytes()
    (tmp_path / "in/b.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in/d.JPG").write_bytes(b"no image")
    (tmp_path / "in/notes").write_bytes(b"no image either")
    summary = run(store, tmp_path / "in", MeanColour())
    assert (summary.embedded, summary.unreadable, summary.ignored) == (3, 2, 1)
    rows = {Path(r["path"]).name: r for r in current_files(store).iter_rows(named=True)}
    assert rows["d.JPG"]["reason"] == "not an image, or of a format that Pillow cannot read"
    assert rows["b.png"]["status"] == "unreadable"
    assert rows["b.png"]["image_id"] is not None
    assert (rows["notes"]["status"], rows["a.png"]["reason"]) == ("ignored", None)


def test_a_crash_in_a_shard_commits_nothing_of_it_and_the_rerun_does_the_rest(
    store: Store, tmp_path: Path
) -> None:
    for n in range(12):
        paint(tmp_path / f"in/{n:02}.png", (n * 20, 10, 10))

    class Failing(MeanColour):
        def encode_images(self, pixels: Pixels) -> Floats:
            if self.pictures >= 8:
                raise MemoryError("out of memory")
            return super().encode_images(pixels)

    with pytest.raises(MemoryError):
        run(store, tmp_path / "in", Failing(), shard_rows=6)
    assert len(present_images(store)) == 6  # the first shard, whole
    encoder = MeanColour()
    run(store, tmp_path / "in", encoder, shard_rows=6)
    assert encoder.pictures == 6
    assert len(vectors_by_path(store)) == 12


def test_vectors_are_committed_before_the_files_that_point_at_them(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(tmp_path / "in/a.png", (200, 10, 10))
    order: list[str] = []
    write = Store.write_part

    def noted(self: Store, table: str, *arguments: str) -> None:
        order.append(table)
        write(self, table, *arguments)

    monkeypatch.setattr(Store, "write_part", noted)
    run(store, tmp_path / "in", MeanColour())
    assert order == ["embeddings", "files"]


def test_another_encoder_is_refused(store: Store, tmp_path: Path) -> None:
    paint(tmp_path / "in/a.png", (200, 10, 10))
    run(store, tmp_path / "in", MeanColour())
    paint(tmp_path / "in/b.png", (10, 200, 10))
    other = MeanColour()
    other.identity = EncoderIdentity("other", "1" * 32, "4x4", 3, 10.0, None)
    with pytest.raises(InputError, match=r"colour .* but this run uses other"):
        run(store, tmp_path / "in", other)
