"""Which refinement an audit chooses: the paired test by hand, and through a store."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.arrays import Bools
from pipeline.label_set import LabelVectors
from pipeline.labels.labelling import label, labels_by_method
from pipeline.labels.methods import Choice, choose, chosen_method, keep_choice
from pipeline.labels.question import Question
from pipeline.labels.refinement import METHODS, Method
from pipeline.search.index import load_index, update_index
from pipeline.search.neighbours import load_neighbourhood, update_neighbours
from tests.helpers import IDENTITY
from tests.test_refining import CLASSES, FIRST, TEXTS, answer, crowd, new_store, take


def first(right: int, of: int = 100) -> Bools:
    return np.arange(of) < right


def test_p_values_are_those_of_coins() -> None:
    # 6 gained and 1 lost of 7: 2 (1 + 7) / 2^7.
    usual = np.array([True] * 50 + [False] * 50)
    other = usual.copy()
    other[50:56], other[0] = True, False
    told = choose({"neighbours": usual, "none": other}).compared[1]
    assert (told.right, told.gained, told.lost) == (55, 6, 1)
    assert told.p == pytest.approx(2 * (1 + 7) / 2**7)


def test_only_a_clear_difference_leaves_the_usual_way() -> None:
    same = choose({"neighbours": first(80), "none": first(80)})
    assert (same.method, same.compared[1].p) == ("neighbours", 1.0)
    assert choose({"neighbours": first(80), "none": first(85)}).method == "neighbours"  # p = 0.06
    assert choose({"neighbours": first(80), "none": first(87)}).method == "none"  # p = 0.016
    assert choose({"neighbours": first(87), "none": first(80)}).method == "neighbours"  # worse
    # Of three others 0.05 / 3 is asked: 0.03 is not enough, 0.016 is.
    several: dict[Method, Bools] = {
        "neighbours": first(80),
        "none": first(86),
        "neighbours-strong": first(80),
    }
    assert choose({**several, "anchored": first(70)}).method == "neighbours"
    best: dict[Method, Bools] = {**several, "none": first(88), "anchored": first(90)}
    assert choose(best).method == "anchored"


def test_what_was_chosen_is_kept_for_those_classes_alone(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    keep_choice(store, CLASSES, Choice("anchored", 100, []))
    assert chosen_method(store, CLASSES) == "anchored"
    other = CLASSES.model_copy(update={"templates": ("the {}",)})
    assert chosen_method(store, other) == "neighbours"


def test_each_method_says_of_chosen_images_what_it_says_of_all(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    take(store, FIRST, crowd(400))
    tables = {method: answer(store, method).table for method in METHODS}
    update_index(store)
    index = load_index(store)
    update_neighbours(store, index)
    near = load_neighbourhood(store, index)
    plain = Question(label_set=CLASSES, top_k=3, abstain_below=0)
    tables["none"] = label(store, plain, TEXTS).table
    ids = [f"{row:032x}" for row in range(0, 400, 7)]
    said = labels_by_method(plain, TEXTS, IDENTITY, near, ids)
    assert set(said) == set(tables)
    for method, table in tables.items():
        rows = dict(store.read(table).select("image_id", "label_index").iter_rows())
        assert said[method].tolist() == [rows[image_id] for image_id in ids], method
    sigmoid = LabelVectors(TEXTS.classes, TEXTS.rejects)
    told = labels_by_method(
        plain, sigmoid, IDENTITY.__class__(**{**vars(IDENTITY), "logit_bias": -2.0}), near, ids
    )
    assert "anchored" not in told  # it needs classes that compete
