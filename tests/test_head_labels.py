"""A head's labels beside those of the texts: what is rejected and unknown stays so."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import softmax

from pipeline.arrays import Floats, unit_rows
from pipeline.label_set import LabelVectors
from pipeline.labels.labelling import label
from pipeline.labels.question import Question
from pipeline.opening import create_store
from pipeline.training.head_labels import label_by_head
from tests.helpers import IDENTITY, embedding_rows, label_set, write_observations

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
TEXT = LabelVectors(np.eye(4, dtype=np.float32)[:3], np.eye(4, dtype=np.float32)[3:])


@pytest.mark.parametrize("bias", [None, -1.0])  # a softmax model, a sigmoid model
def test_a_head_that_says_what_the_texts_say_labels_and_rejects_the_same(
    tmp_path: Path, bias: float | None
) -> None:
    store = create_store(str(tmp_path / "s"))
    identity = replace(IDENTITY, logit_scale=5.0, logit_bias=bias)
    store.claim(identity)
    vectors = unit_rows(np.random.default_rng(0).normal(size=(200, 4)))
    ids = [f"{row:032x}" for row in range(200)]
    write_observations(store, "p", [(Path(f"/in/{i}.png"), i, "ok", None) for i in ids])
    store.write_part("embeddings", "p", embedding_rows(ids, list(vectors)))
    classes = label_set("east", "north", "west").model_copy(update={"reject": ("up",)})
    question = Question(label_set=classes, top_k=2, abstain_below=0.0)
    texts = store.read(label(store, question, TEXT).table)

    def answer(_: pl.DataFrame, wide: Floats) -> Floats:
        said: Floats = softmax(5.0 * wide @ TEXT.classes.T, axis=1)
        return said

    how = {"source": "head:linear", "made_of": "x", "learnt_until": None, "now": NOW}
    rows = store.read(label_by_head(store, question, TEXT, answer, **how).table)  # type: ignore[arg-type]
    assert 20 < rows["label"].null_count() < 180
    assert rows["label"].equals(texts["label"])
    assert rows["reason"].equals(texts["reason"])
    if bias is None:
        assert rows["score"].to_numpy() == pytest.approx(texts["score"].to_numpy(), abs=1e-5)
