"""Label runs: one labels part per embeddings part, never two label sets in one folder."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.identity import EncoderIdentity
from pipeline.label_set import LabelSet, LabelVectors, load_label_set
from pipeline.labels.labelling import LabelSummary, current_labels, label
from pipeline.labels.question import Question
from pipeline.opening import create_store
from pipeline.store import Store
from tests.test_store import IDENTITY, embedding_rows

COMPASS = load_label_set("east,north")
EAST_NORTH = LabelVectors(np.eye(2, dtype=np.float32), np.empty((0, 2), np.float32))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two images in one part: one due east, one just north of north-east."""
    made = create_store(str(tmp_path / "s"))
    made.claim(IDENTITY)
    made.write_part("embeddings", "a", embedding_rows(["e", "ne"], [[1, 0], [0.6, 0.8]]))
    return made


def label_with(store: Store, label_set: LabelSet = COMPASS, **asked: float) -> LabelSummary:
    top_k, bar = int(asked.get("top_k", 5)), asked.get("abstain_below", 0.0)
    question = Question(label_set=label_set, top_k=top_k, abstain_below=bar)
    return label(store, question, EAST_NORTH)


def test_rows_are_the_softmax_of_the_encoders_own_scale(store: Store) -> None:
    summary = label_with(store)
    east, diagonal = store.read(summary.table).iter_rows(named=True)
    # scale 10: east 10 against 0; the other 6 against 8, off by what float16 rounds away
    assert east["score"] == pytest.approx(1 / (1 + np.exp(-10)), abs=1e-6)
    assert diagonal["score"] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-3)
    assert (east["label"], east["label_index"]) == ("east", 0)
    assert (diagonal["label"], diagonal["topk_labels"]) == ("north", ["north", "east"])
    assert diagonal["margin"] == pytest.approx(2 * diagonal["score"] - 1, abs=1e-6)
    assert diagonal["unknown_score"] == pytest.approx(0.2, abs=1e-3)
    assert (diagonal["confidence"], diagonal["calibrated"]) == (diagonal["score"], False)


def test_an_abstention_keeps_its_evidence_and_its_reason(store: Store) -> None:
    summary = label_with(store, abstain_below=0.95)
    assert (summary.labelled, summary.abstained) == (2, 1)
    east, diagonal = store.read(summary.table).iter_rows(named=True)
    assert (diagonal["label"], diagonal["label_index"]) == (None, -1)
    assert diagonal["topk_labels"] == ["north", "east"]
    assert (diagonal["reason"], east["reason"]) == ("score below 0.95", None)


def test_a_reject_prompt_that_fits_better_is_the_reason(store: Store) -> None:
    compass = LabelSet.model_validate(
        {
            "name": "compass",
            "classes": [{"name": "east"}, {"name": "north"}],
            "reject": ["in between"],
        }
    )
    between = np.array([[0.6, 0.8]], np.float32)
    vectors = LabelVectors(np.eye(2, dtype=np.float32), between)
    summary = label(store, Question(label_set=compass, top_k=2, abstain_below=0), vectors)
    rows = store.read(summary.table)
    assert rows["label"].to_list() == ["east", None]
    assert rows["reason"].to_list() == [None, "reject prompt: in between"]
    # The share that the reject prompt takes is missing from the classes' scores.
    expected = np.exp(8) / (np.exp(6) + np.exp(8) + np.exp(10))
    assert rows["score"][1] == pytest.approx(expected, abs=1e-3)


def test_a_sigmoid_model_scores_each_class_by_itself(tmp_path: Path) -> None:
    made = create_store(str(tmp_path / "s"))
    made.claim(EncoderIdentity("sig", "s" * 32, "p", 2, logit_scale=10.0, logit_bias=-5.0))
    made.write_part("embeddings", "a", embedding_rows(["e"], [[1, 0]]))
    [row] = made.read(label_with(made).table).iter_rows(named=True)
    expected = [1 / (1 + np.exp(-5)), 1 / (1 + np.exp(5))]
    assert row["topk_scores"] == pytest.approx(expected, abs=1e-6)


def test_only_new_parts_are_labelled(store: Store) -> None:
    assert label_with(store).labelled == 2
    store.write_part("embeddings", "b", embedding_rows(["n"], [[0, 1]]))
    summary = label_with(store)
    assert summary.labelled == 1
    assert store.read(summary.table)["image_id"].to_list() == ["e", "ne", "n"]
    assert label_with(store).labelled == 0


def test_another_question_makes_another_table_and_the_pointer_turns_to_it(store: Store) -> None:
    first = label_with(store).table
    assert current_labels(store).table == first
    second = label_with(store, load_label_set("east,up")).table
    assert second != first
    assert current_labels(store).table == second
    assert current_labels(store).label_set.names == ["east", "up"]
    assert store.read(first)["label"].to_list() == ["east", "north"]  # still there
    assert label_with(store).table == first


def test_an_interrupted_relabelling_leaves_the_old_labels_in_force(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_part("embeddings", "b", embedding_rows(["n"], [[0, 1]]))
    before = label_with(store).table
    write, written = Store.write_part, []

    def fails_second(self: Store, table: str, part: str, *rest: object) -> None:
        written.append(part)
        if len(written) == 2:
            raise OSError("disk full")
        write(self, table, part, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "write_part", fails_second)
    with pytest.raises(OSError, match="disk full"):
        label_with(store, load_label_set("east,up"))
    assert current_labels(store).table == before
    monkeypatch.undo()
    assert label_with(store, load_label_set("east,up")).labelled == 1  # the other is done


def test_an_empty_store_is_told_as_such(tmp_path: Path) -> None:
    empty = create_store(str(tmp_path / "s"))
    with pytest.raises(InputError, match="no embeddings yet"):
        label_with(empty)
    with pytest.raises(InputError, match="no labels yet"):
        current_labels(empty)
