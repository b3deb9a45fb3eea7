"""Rounds of self-training: what counts, what is kept, and that no head labels what it learnt."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows import stages, training
from pipeline.arrays import Floats
from pipeline.labels.answers import Given, record_answers
from pipeline.labels.audit import draw_sample
from pipeline.labels.label_runs import find_run
from pipeline.labels.labelling import current_labels, current_table
from pipeline.opening import open_store
from pipeline.training import self_training
from pipeline.training.heads.linear import LinearHead
from pipeline.training.samples import Source
from pipeline.training.selection import ANSWER_WEIGHT
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


def test_every_round_learns_what_a_person_said_and_the_labels_of_the_round_before(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_training, "SETTLED", -1.0)
    monkeypatch.setattr(self_training, "RETAINED", 0.0)
    opened, now = open_store(str(store)), datetime(2030, 1, 1, tzinfo=UTC)
    run = current_labels(opened)
    drawn = draw_sample(opened, size=40, seed=0, now=now).images["image_id"].to_list()
    first = run.label_set.names[0]
    record_answers(opened, run.label_set, [Given(i, "label", first) for i in drawn], by="", now=now)
    config = demo_config(store, train={"soft_targets": True})
    stages.select(config)
    kept = opened.read("selections/default", ["image_id", "kept"])
    named = {image_id for image_id, there in kept.iter_rows() if there and image_id in drawn}
    names: dict[bytes, str] = {}
    for _, ids, vectors in iterate_vectors(opened):
        names |= {row.astype(np.float32).tobytes(): i for i, row in zip(ids, vectors, strict=True)}
    taught: list[dict[str, tuple[int, float, int]]] = []

    class Nosy(LinearHead):
        def fit(self, train: Source, valid: Source, on_epoch: object) -> object:  # type: ignore[override]
            taught.append({})
            for batch in [*train.batches(500), *valid.batches(500)]:
                assert batch.soft is not None
                likeliest = batch.soft.argmax(axis=1)
                for row, at in enumerate(batch.images):
                    about = batch.labels[row], batch.weights[row], likeliest[row]
                    taught[-1][names[at.tobytes()]] = about
            return super().fit(train, valid, lambda _: None)

    def make(*arguments: object, **_: object) -> Nosy:
        return Nosy(arguments[1], arguments[3])  # type: ignore[arg-type]

    monkeypatch.setattr("pipeline.training.heads.registry.make_head", make)
    summary = training.self_train(config, use=False)
    assert len(taught) == 6
    for number in range(3):
        both = {**taught[2 * number], **taught[2 * number + 1]}
        assert {i: each for i, each in both.items() if i in drawn} == dict.fromkeys(
            named, (0, ANSWER_WEIGHT, 0)
        )
        if number:
            table = summary.rounds[number - 1].table
            said = dict(opened.read(table, ["image_id", "label_index"]).iter_rows())
            others = {i: each for i, each in both.items() if i not in drawn}
            assert len(others) > 100
            assert all((label, best) == (said[i],) * 2 for i, (label, _, best) in others.items())


def test_other_side_information_or_rules_make_other_labels(store: Path, tmp_path: Path) -> None:
    about = tmp_path / "about.csv"
    about.write_text("path,size\ncat-01.jpg,1\ndog-01.jpg,2\n")

    def tables(**sections: object) -> list[str]:
        summary = training.self_train(demo_config(store, **sections), use=False)
        return [each.table for each in summary.rounds]

    plain = tables(train={"heads": "linear"})
    beside = {"heads": "linear", "side_columns": str(about)}
    before = tables(train=beside)
    about.write_text("path,size\ncat-01.jpg,1\ndog-01.jpg,3\n")
    after = tables(train=beside)
    stricter = tables(train={"heads": "linear"}, select={"min_confidence": 0.9})
    assert plain == tables(train={"heads": "linear"})
    assert len({plain[0], before[0], after[0], stricter[0]}) == 4


def test_rounds_end_when_hardly_a_label_changes(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_training, "SETTLED", 1.1)
    assert len(training.self_train(demo_config(store), use=False).rounds) == 1
    monkeypatch.setattr(self_training, "SETTLED", -1.0)
    opened = open_store(str(store))
    before = current_table(opened)
    assert len(training.self_train(demo_config(store), use=True).rounds) == 3
    assert find_run(opened, "previous") == before  # rounds between were never in force
