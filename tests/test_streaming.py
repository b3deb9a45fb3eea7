"""Labelling as a stream: every column against plain Python, and never much of it in memory."""

import itertools
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.arrays import Floats, Halves, unit_rows
from pipeline.errors import DamagedFileError
from pipeline.identity import EncoderIdentity
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels import streaming
from pipeline.labels.labelling import current_table, label
from pipeline.labels.question import Question
from pipeline.opening import create_store
from pipeline.store import Store
from pipeline.tables import embeddings
from pipeline.vectors import to_column

D, CLASSES, REJECTS = 16, 40, 2
PARTS = {"a": 2500, "b": 1, "c": 300}  # the first is of two batches, and of many blocks


def random_rows(n: int, seed: int) -> Floats:
    return unit_rows(np.random.default_rng(seed).normal(size=(n, D)))


def make_store(root: Path, bias: float | None) -> Store:
    store = create_store(str(root))
    store.claim(EncoderIdentity("fake", "0" * 32, "none", D, logit_scale=20.0, logit_bias=bias))
    for seed, (part, count) in enumerate(PARTS.items()):
        side = pa.array([1] * count, pa.int32())
        ids = pa.array([f"{part}{row}" for row in range(count)])
        vectors = to_column(random_rows(count, seed).astype(np.float16))
        columns = [ids, side, side, pa.array(["PNG"] * count), vectors]
        store.write_part(
            "embeddings", part, pa.table(columns, schema=embeddings(D)), f"made {part}"
        )
    return store


def question() -> tuple[LabelSet, LabelVectors]:
    names = [{"name": f"class {number}"} for number in range(CLASSES)]
    rejects = [f"reject {number}" for number in range(REJECTS)]
    asked = LabelSet.model_validate({"name": "many", "classes": names, "reject": rejects})
    classes = random_rows(CLASSES, 7)
    classes[9] = classes[4]  # two classes that tie in every image
    return asked, LabelVectors(classes, random_rows(REJECTS, 8))


def expected(vector: list[float], vectors: LabelVectors, bias: float | None) -> dict[str, Any]:
    """One row, by the formulas, in Python's own numbers."""
    cosines = [
        sum(a * b for a, b in zip(vector, text, strict=True))
        for text in [*vectors.classes.tolist(), *vectors.rejects.tolist()]
    ]
    if bias is None:
        weights = [math.exp(20 * cosine) for cosine in cosines]
        shares = [weight / sum(weights) for weight in weights]
    else:
        shares = [1 / (1 + math.exp(-(20 * cosine + bias))) for cosine in cosines]
    classes, rejects = shares[:CLASSES], shares[CLASSES:]
    order = sorted(range(CLASSES), key=lambda i: (-classes[i], i))
    rejected = max(rejects) > classes[order[0]]
    weak = classes[order[0]] < 0.5
    reason = f"reject prompt: reject {rejects.index(max(rejects))}" if rejected else None
    return {
        "label": None if rejected or weak else f"class {order[0]}",
        "label_index": -1 if rejected or weak else order[0],
        "score": classes[order[0]],
        "confidence": classes[order[0]],
        "margin": classes[order[0]] - classes[order[1]],
        "entropy": -sum(p / sum(classes) * math.log(p / sum(classes)) for p in classes),
        "topk_labels": [f"class {i}" for i in order[:5]],
        "topk_scores": [classes[i] for i in order[:5]],
        "unknown_score": 1 - max(cosines[:CLASSES]),
        "reason": reason or ("score below 0.5" if weak else None),
        "calibrated": False,
    }


def asked_of(classes: LabelSet, bar: float) -> Question:
    return Question(label_set=classes, top_k=5, abstain_below=bar)


@pytest.mark.parametrize("bias", [None, -6.0])
def test_every_column_is_what_the_formulas_give(
    tmp_path: Path, bias: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.labels.labelling._BLOCK_ROWS", 100)
    monkeypatch.setattr("pipeline.labels.labelling._BLOCK_BYTES", 1)
    store, (asked, vectors) = make_store(tmp_path / "s", bias), question()
    told: list[int] = []
    summary = label(store, asked_of(asked, 0.5), vectors, on_progress=told.append)
    rows = store.read(summary.table)
    halves = store.read("embeddings").select("image_id", "embedding")
    assert rows["image_id"].to_list() == halves["image_id"].to_list()
    assert sum(told) == summary.labelled == sum(PARTS.values())
    assert summary.abstained == rows["label"].null_count()
    assert rows["reason"].n_unique() == 4  # null, weak, and either reject prompt
    for got, vector in zip(rows.iter_rows(named=True), halves["embedding"].to_list(), strict=True):
        for column, wanted in expected(vector, vectors, bias).items():
            exact = column in ("label", "label_index", "topk_labels", "reason", "calibrated")
            assert got[column] == (wanted if exact else pytest.approx(wanted, abs=2e-5)), column
    assert [store.fingerprint(summary.table, part) for part in PARTS] == [
        f"made {part}" for part in PARTS
    ]


def test_a_vector_that_is_not_of_unit_length_stops_it_and_nothing_turns(tmp_path: Path) -> None:
    store, (asked, vectors) = make_store(tmp_path / "s", None), question()
    rows = store.read_part("embeddings", "c")
    doubled = to_column((2 * random_rows(len(rows), 2)).astype(np.float16))
    store.write_part("embeddings", "c", rows.set_column(4, rows.schema.field(4), doubled))
    with pytest.raises(ValueError, match="images must have rows of unit length"):
        label(store, asked_of(asked, 0.0), vectors)
    assert current_table(store) is None


def test_a_flipped_bit_among_the_vectors_is_damage_and_labels_nothing(tmp_path: Path) -> None:
    store, (asked, vectors) = make_store(tmp_path / "s", None), question()
    file = tmp_path / "s/embeddings/c.parquet"
    whole = bytearray(file.read_bytes())
    at = whole.index(random_rows(300, 2).astype(np.float16)[150].tobytes())
    whole[at + 3] ^= 1
    file.write_bytes(whole)
    with pytest.raises(DamagedFileError, match=r"embeddings/c\.parquet is damaged"):
        label(store, asked_of(asked, 0.0), vectors)
    assert current_table(store) is None
    assert not list(tmp_path.rglob("labels/*/*/c.parquet"))


def test_no_more_is_read_than_is_soon_worked_on_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, worked, written = itertools.count(1), itertools.count(1), itertools.count(1)
    counts = {"read": 0, "worked": 0, "parts": 0, "written": 0}
    ahead: list[int] = []
    unwritten: list[int] = []
    lock = threading.Lock()

    def batches() -> Iterator[tuple[pa.Array, Halves]]:
        counts["parts"] += 1
        unwritten.append(counts["parts"] - counts["written"])
        for _ in range(50):
            counts["read"] = next(read)
            ahead.append(counts["read"] - counts["worked"])
            yield pa.array(["x"]), np.zeros((1, 2), np.float16)

    def work(ids: pa.Array, vectors: Halves) -> pa.Table:
        time.sleep(0.001)
        with lock:
            counts["worked"] = next(worked)
        return pa.table({"id": ids})

    def finish(part: str, tables: list[pa.Table]) -> int:
        time.sleep(0.06)  # a slow disk
        counts["written"] = next(written)
        return sum(map(len, tables))

    monkeypatch.setattr(streaming, "stream_vectors", lambda store, part, take: take(batches()))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    store = create_store(str(tmp_path / "s"))
    parts = [str(number) for number in range(10)]
    assert streaming.stream_parts(store, parts, work, finish, lambda _: None) == [50] * 10
    assert 2 <= max(ahead) <= 2 * 2 + 2  # two waiting for each core, and what they are at
    assert max(unwritten) <= 2 + 1  # two parts, and the one that is read
