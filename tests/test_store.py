"""The store's promises: whole parts or none, one encoder, and tables that anything can read."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError, StoreError
from pipeline.identity import EncoderIdentity
from pipeline.store import Store, create_store, open_store
from pipeline.tables import FILES, LABELS, embeddings
from pipeline.vectors import iterate_vectors, read_vectors, to_column

IDENTITY = EncoderIdentity("small", "w" * 32, "p", dimension=2, logit_scale=10.0, logit_bias=None)


def embedding_rows(ids: list[str], vectors: list[list[float]]) -> pa.Table:
    columns = [ids, [1] * len(ids), [1] * len(ids), ["PNG"] * len(ids)]
    arrays = [pa.array(c) for c in columns] + [to_column(np.array(vectors, np.float16))]
    return pa.table(arrays, schema=embeddings(2))


def test_a_part_comes_back_with_its_fingerprint(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    store.claim(IDENTITY)
    store.write_part("embeddings", "b", embedding_rows(["x"], [[0, 1]]), "made of b")
    store.write_part("embeddings", "a", embedding_rows(["y"], [[1, 0]]))
    assert store.parts("embeddings") == ["a", "b"]
    assert store.fingerprint("embeddings", "b") == "made of b"
    assert store.fingerprint("embeddings", "absent") is None
    ids, vectors = read_vectors(store, "b")
    assert ids == ["x"]
    assert vectors.tolist() == [[0, 1]]
    assert store.read("embeddings", ["image_id"])["image_id"].to_list() == ["y", "x"]


def test_an_id_in_two_parts_is_iterated_once(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    store.claim(IDENTITY)
    store.write_part("embeddings", "a", embedding_rows(["x"], [[0, 1]]))
    store.write_part("embeddings", "b", embedding_rows(["x", "y"], [[0, 1], [1, 0]]))
    assert [(part, ids) for part, ids, _ in iterate_vectors(store)] == [("a", ["x"]), ("b", ["y"])]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create_store(str(tmp_path / "s"))
    store.put("models/x.json", b"old")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        store.put("models/x.json", b"new")
    assert [file.name for file in (store.root / "models").iterdir()] == ["x.json"]
    assert (store.root / "models/x.json").read_bytes() == b"old"


def test_nothing_is_visible_before_it_is_flushed_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create_store(str(tmp_path / "s"))
    seen: list[tuple[bool, list[str]]] = []

    def look(descriptor: int) -> None:
        seen.append(((store.root / "files/p.parquet").exists(), store.parts("files")))

    monkeypatch.setattr("os.fsync", look)
    store.write_part("files", "p", FILES.empty_table())
    assert seen == [(False, []), (True, ["p"])]  # the file's flush, then its folder's


def test_two_encoders_are_never_mixed_and_both_are_named(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    store.claim(IDENTITY)
    store.claim(IDENTITY)  # the same again is welcome
    other = EncoderIdentity("large", "v" * 32, "p", 4, 10.0, None)
    with pytest.raises(InputError, match=r"small \(weights wwwwwwwwwwww, 2 .*large \(weights vvvv"):
        store.claim(other)
    rescaled = EncoderIdentity("small", "w" * 32, "p", 2, 100.0, None)
    with pytest.raises(InputError, match=r"logit_scale 10.0 against 100.0"):
        store.claim(rescaled)


def test_a_copy_of_the_model_under_another_name_is_the_same_encoder(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    store.claim(IDENTITY)
    store.claim(EncoderIdentity("copy", "w" * 32, "p", 2, 10.0, None))


def test_tables_are_read_by_polars_and_by_pyarrow_alone(demo_store: Path) -> None:
    expected = {"files": FILES, "embeddings": embeddings(128), "labels/*/*": LABELS}
    for table, schema in expected.items():
        for file in demo_store.glob(f"{table}/*.parquet"):
            assert pq.read_table(file).schema.equals(schema), file
    frame = pl.read_parquet(f"{demo_store}/embeddings/*.parquet")
    assert frame.schema["embedding"] == pl.Array(pl.Float16, 128)
    norms = np.linalg.norm(frame["embedding"].to_numpy().astype(np.float32), axis=1)
    assert norms == pytest.approx(np.ones(242), abs=1e-3)
    files = pl.read_parquet(f"{demo_store}/files/*.parquet")
    assert files["status"].value_counts(sort=True).rows() == [("ok", 243), ("unreadable", 2)]


def test_a_folder_of_something_else_is_not_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="holds files but no store"):
        create_store(str(tmp_path))
    with pytest.raises(InputError, match="is a file"):
        create_store(str(tmp_path / "holiday.jpg"))
    with pytest.raises(InputError, match="no store here"):
        open_store(str(tmp_path))


def test_damage_is_named(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    store.write_part("files", "p", FILES.empty_table())
    store.part_path("files", "p").write_bytes(b"PAR1 no more")
    with pytest.raises(StoreError, match=r"files.*cannot be read"):
        store.read("files")
    with pytest.raises(StoreError, match=r"p\.parquet: cannot be read"):
        store.fingerprint("files", "p")
    (store.root / "store.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(StoreError, match="store format 99"):
        open_store(str(store.root))
    (store.root / "store.json").write_text("{")
    with pytest.raises(StoreError, match=r"store\.json: cannot be read"):
        Store(store.root).identity()
