"""Rounds of self-training: what counts, what is kept, and that no head labels what it learnt."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows import training
from pipeline.arrays import Floats
from pipeline.labels.labelling import current_table
from pipeline.opening import open_store
from pipeline.training import self_training
from pipeline.training.heads.linear import LinearHead
from pipeline.training.samples import Source
from pipeline.training.self_training import changed, retained
from pipeline.training.splits import half_of
from pipeline.vectors import iterate_vectors
from tests.conftest import demo_config


def frame(labels: str, margins: list[float] | None = None) -> pl.DataFrame:
    rows = {"image_id": [f"{at:03}" for at in range(len(labels))], "top_label": list(labels)}
    return pl.DataFrame({**rows, "margin": margins or [0.5] * len(labels)})


def test_changed_is_the_share_of_other_labels() -> None:
    assert changed(frame("aabb"), frame("abbb")) == 0.25
    assert changed(frame(""), frame("")) == 0.0


def test_retained_asks_the_surest_fifth_of_each_large_class() -> None:
    margins = [float(at) for at in range(10)] * 2
    first = frame("a" * 10 + "b" * 10, margins)
    after = frame("a" * 9 + "b" + "b" * 10)  # the surest a went; the surest two of each are asked
    assert retained(first, after) == 0.75
    unsure = frame("bbbbbbbb" + "aa" + "b" * 10)
    assert retained(first, unsure) == 1.0


def test_small_classes_are_not_asked() -> None:
    assert retained(frame("a" * 9), frame("b" * 9)) == 1.0


@pytest.fixture
def store(demo_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_store, tmp_path / "store"))


def test_a_round_is_kept_as_a_label_run_and_none_comes_into_force(store: Path) -> None:
    before = current_table(open_store(str(store)))
    summary = training.self_train(demo_config(store), use=False)
    assert 1 <= len(summary.rounds) <= 3
    assert current_table(open_store(str(store))) == before
    for each in summary.rounds:
        run = json.loads((store / each.table / "run.json").read_text())
        assert run["asked"]["source"] == f"self-train:{each.number}"
        assert run["rows"] == 242
    assert summary.rounds[0].counts  # the demo's labels hardly change
    training.self_train(demo_config(store), use=True)
    assert current_table(open_store(str(store))) == summary.table


def test_each_half_is_labelled_by_the_head_of_the_other(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_store(str(store))
    names: dict[bytes, str] = {}
    for _, ids, vectors in iterate_vectors(opened):
        names |= {row.astype(np.float32).tobytes(): i for i, row in zip(ids, vectors, strict=True)}
    groups = dict(opened.read("selections/default", ["image_id", "split_group"]).iter_rows())
    taught: list[set[str]] = []

    class Nosy(LinearHead):
        def fit(self, train: Source, valid: Source, on_epoch: object) -> object:  # type: ignore[override]
            seen = {names[row.tobytes()] for batch in train.batches(64) for row in batch.images}
            seen |= {names[row.tobytes()] for batch in valid.batches(64) for row in batch.images}
            taught.append(seen)
            self.half = {half_of(groups[i] or i) for i in seen}
            return super().fit(train, valid, lambda _: None)

        def predict_proba(self, images: Floats, side: Floats) -> Floats:
            said = np.full((len(images), 20), 1e-3, np.float32)
            (half,) = self.half
            said[:, half] = 1.0  # the first or the second class: by whom an image was labelled
            return said

    def make(*arguments: object, **_: object) -> Nosy:
        return Nosy(arguments[1], arguments[3])  # type: ignore[arg-type]

    monkeypatch.setattr("pipeline.training.heads.registry.make_head", make)
    summary = training.self_train(demo_config(store), use=False)
    assert len(taught[0]) > 50
    assert not taught[0] & taught[1]
    rows = opened.read(summary.rounds[0].table, ["image_id", "label_index"])
    for image_id, index in rows.iter_rows():
        assert index == 1 - half_of(groups[image_id] or image_id)
    assert len(summary.rounds) == 1
    assert not summary.rounds[0].counts  # such labels have drifted from the surest first ones
    assert summary.table == current_table(opened)


def test_rounds_end_when_hardly_a_label_changes(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_training, "SETTLED", 1.1)
    assert len(training.self_train(demo_config(store), use=False).rounds) == 1
    monkeypatch.setattr(self_training, "SETTLED", -1.0)
    assert len(training.self_train(demo_config(store), use=False).rounds) == 3
