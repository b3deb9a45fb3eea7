"""The store's promises: whole parts or none, one encoder, and tables that anything can read."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DamagedFileError, InputError, StoreError
from pipeline.folder import LocalFolder
from pipeline.identity import EncoderIdentity
from pipeline.opening import create_store, open_store
from pipeline.parts import DamagedPartError, about, check_whole, encode, open_part
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
    assert [file.name for file in (Path(store.location) / "models").iterdir()] == ["x.json"]
    assert (Path(store.location) / "models/x.json").read_bytes() == b"old"


def test_nothing_is_visible_before_it_is_flushed_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create_store(str(tmp_path / "s"))
    seen: list[tuple[bool, list[str]]] = []

    def look(descriptor: int) -> None:
        seen.append(((Path(store.location) / "files/p.parquet").exists(), store.parts("files")))

    monkeypatch.setattr("os.fsync", look)
    store.write_part("files", "p", FILES.empty_table())
    # The new folder's parent, the file and, once it is renamed, its folder.
    assert seen == [(False, []), (False, []), (True, ["p"])]


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
    Path(store.location, "files/p.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DamagedFileError, match=r"files/p\.parquet is damaged .*cut short"):
        store.read("files")
    with pytest.raises(DamagedFileError, match=r"files/p\.parquet is damaged"):
        store.fingerprint("files", "p")
    store.put_json("x.json", {"threshold": 0.5})
    path = Path(store.location, "x.json")
    assert store.get_json("x.json") == {"threshold": 0.5}
    path.write_text(path.read_text().replace("0.5", "0.7"))
    with pytest.raises(DamagedFileError, match=r"x\.json is damaged .*checksum"):
        store.get_json("x.json")
    path.write_text("{")
    with pytest.raises(DamagedFileError, match=r"x\.json is damaged .*no JSON"):
        store.get_json("x.json")


def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    store.put_json("store.json", {"format": 99})
    with pytest.raises(StoreError, match="store format 99, this program reads 2"):
        open_store(store.location)
    Path(store.location, "store.json").write_text('{"format": 1}')  # as the first version wrote it
    with pytest.raises(StoreError, match="store format 1, this program reads 2"):
        open_store(store.location)


@given(st.data())
def test_no_flipped_bit_of_a_part_is_read_as_something_else(data: st.DataObject) -> None:
    """Wherever a bit flips: `check_whole` notices, and a reader either notices or is not harmed."""
    rows = embedding_rows([f"{i:032x}" for i in range(50)], [[0.6, 0.8]] * 50)
    content = bytearray(encode(rows, {"about": "it"}))
    check_whole(bytes(content))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedPartError):
        check_whole(bytes(content))
    try:
        part = open_part(pa.BufferReader(bytes(content)))
        read, said = part.read(), about(part)["about"]
    except (DamagedPartError, pa.ArrowException, OSError):
        return
    assert (read.equals(rows), said) == (True, "it")


@given(st.data())
def test_a_part_cut_short_is_noticed(data: st.DataObject) -> None:
    content = bytes(encode(embedding_rows(["x"] * 9, [[0, 1]] * 9), {}))
    short = content[: data.draw(st.integers(0, len(content) - 1))]
    with pytest.raises(DamagedPartError):
        check_whole(short)
    with pytest.raises(DamagedPartError):
        open_part(pa.BufferReader(short))


def test_what_cannot_be_written_is_told_by_its_own_name(tmp_path: Path) -> None:
    told = pytest.raises(FileNotFoundError, match=r"/groups\.csv'$")
    with told, LocalFolder(tmp_path).placing("groups.csv"):
        pass  # nothing lies at the temporary name
