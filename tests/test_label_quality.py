"""The benchmark of label quality: its tasks are what they say, its numbers are worked by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from pipeline.arrays import Floats, Ints, unit_rows
from pipeline.label_set import normal_word
from tests.benchmarks.label_quality import report
from tests.benchmarks.quality_methods import METHODS, balanced, half_centred, nearest_of
from tests.benchmarks.quality_runs import run_plan
from tests.benchmarks.quality_sets import Embedded, Labelled, Words, joined, openai
from tests.benchmarks.quality_statistics import Paired, calibration_error, macro_recall
from tests.benchmarks.quality_tasks import ALL, STRANGER, Plan, drawn, make_task, plans
from tests.benchmarks.quality_tiny import CIFAR_18, prompt_styles
from tests.benchmarks.quality_unknowns import auroc
from tests.benchmarks.quality_words import KIN, SAME, opened
from tests.conftest import SHARED

CLASSES = ("car", "dog", "boat", "pie")


def vectors(count: int, seed: int = 0) -> Floats:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, 6)))


def pets(per_class: int = 100) -> Labelled:
    """Return images around the texts of four classes."""
    texts = vectors(4)
    true: Ints = np.repeat(np.arange(4), per_class)
    noise = np.random.default_rng(1).normal(size=(len(true), 6))
    return Labelled("pets", unit_rows(texts[true] + 0.6 * noise), true, CLASSES, texts, 10.0)


def embedded(per_class: int = 100) -> Embedded:
    words = Words(
        ("Car (automobile)", "Vehicle", "puppy", "Dog", "SHIP", "yacht", "lamp", "Lamp"),
        vectors(8, seed=2),
    )
    return Embedded({"pets": pets(per_class)}, {"many": words}, {"pets": vectors(300, seed=3)})


def test_an_open_vocabulary_holds_each_true_class_once() -> None:
    source, words = pets(), embedded().words["many"]
    asked, right = opened(source, words)
    # "Car (automobile)", "Dog" and "SHIP" are other words for classes, "Lamp" stands there twice.
    assert asked.names == (*CLASSES, "Vehicle", "puppy", "yacht", "lamp")
    assert np.array_equal(asked.texts[:4], source.texts)
    assert np.array_equal(asked.texts[4:], words.texts[[1, 2, 5, 6]])
    kin = {(CLASSES[row], asked.names[column]) for row, column in np.argwhere(right)}
    both = {("car", "Vehicle"), ("dog", "puppy"), ("boat", "Vehicle"), ("boat", "yacht")}
    assert kin == both | {(name, name) for name in CLASSES}


def test_classes_of_one_set_are_told_apart_though_they_be_kin() -> None:
    source = replace(pets(), classes=("car", "dog", "puppy", "yacht"))
    asked, right = opened(source, embedded().words["many"])
    assert asked.names.count("puppy") == 1
    assert np.array_equal(right[:, :4], np.eye(4, dtype=np.bool_))


def test_no_word_is_both_the_same_and_of_the_kin() -> None:
    for name, kin in KIN.items():
        assert not kin & ({name} | SAME.get(name, set())), name
        assert all(normal_word(word) == word for word in kin), name


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the vectors of ../shared/data")
@pytest.mark.parametrize("source", ["CIFAR-10", "Food", "joint"])
def test_real_vocabularies_hold_each_true_class_once(source: str) -> None:
    everything = openai(SHARED / "clip-embeddings")
    asked = everything.sets[source]
    for words in everything.words.values():
        names, _ = opened(asked, words)
        plain = [normal_word(name) for name in names.names]
        assert len(set(plain)) == len(plain)
        other = {word for name in asked.classes for word in SAME.get(normal_word(name), ())}
        assert not other & set(plain)
        # A text that is nearly that of a class is the same word in another spelling.
        nearest = (names.texts[len(asked.classes) :] @ asked.texts.T).max(axis=1)
        assert nearest.max() < 0.97, names.names[len(asked.classes) + int(nearest.argmax())]


@pytest.mark.parametrize(
    ("regime", "wanted"),
    [
        ("all classes", [100, 100, 100, 100]),
        ("long tail 1:10", [10, 22, 46, 100]),  # 100 / 10^(k/3)
        ("long tail 1:100", [1, 5, 22, 100]),
        ("half of the classes", [0, 0, 100, 100]),
        ("1 class", [0, 0, 0, 100]),
        ("3 classes", [0, 100, 100, 100]),
        ("20 % unknown", [100, 100, 100, 100]),
    ],
)
def test_regimes_keep_what_their_names_say(regime: str, wanted: list[int]) -> None:
    true = pets().true
    rows = drawn(true, 4, regime, np.random.default_rng(0))
    assert len(set(rows)) == len(rows)
    assert sorted(np.bincount(true[rows], minlength=4)) == wanted


def test_a_long_tail_leaves_no_class_out() -> None:
    true = pets(20).true
    rows = drawn(true, 4, "long tail 1:100", np.random.default_rng(0))
    assert sorted(np.bincount(true[rows], minlength=4)) == [1, 1, 4, 20]  # 0.2 of an image is 1


def test_a_regime_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="no such regime: 'some'"):
        drawn(pets().true, 4, "some", np.random.default_rng(0))


def test_strangers_are_a_fifth_and_of_no_class() -> None:
    made = embedded()
    task = make_task(Plan("pets", "", "20 % unknown", ALL), made, seed=0)
    assert task is not None
    assert len(task.images) == 500
    assert (task.true == STRANGER).sum() == 100
    assert len(np.unique(task.ids)) == 500
    met = task.ids[task.true == STRANGER] - 400
    assert np.array_equal(task.images[task.true == STRANGER], made.strangers["pets"][met])


def test_a_seed_draws_the_same_again_and_another_seed_others() -> None:
    made, plan = embedded(), Plan("pets", "many", "half of the classes", 150)
    first, again, other = (make_task(plan, made, seed) for seed in (0, 0, 1))
    assert first is not None
    assert again is not None
    assert other is not None
    assert np.array_equal(first.ids, again.ids)
    assert not np.array_equal(first.ids, other.ids)
    assert len(first.ids) == 150
    assert np.array_equal(first.images, made.sets["pets"].images[first.ids])
    assert np.array_equal(first.true, made.sets["pets"].true[first.ids])
    assert make_task(Plan("pets", "", "half of the classes", 200), made, seed=0) is None


def test_a_joined_set_keeps_its_classes_apart() -> None:
    both = joined("both", pets(), pets())
    assert both.true.tolist() == [*pets().true, *(pets().true + 4)]
    assert both.classes == CLASSES * 2
    assert len(both.images) == 800


def test_nearest_by_brute_force_are_those_of_scikit_learn() -> None:
    images = vectors(60)
    near = nearest_of(images)
    found = NearestNeighbors(n_neighbors=10, metric="cosine").fit(images)
    distances, rows = found.kneighbors()
    mine = near.rows
    assert np.array_equal(np.sort(mine, axis=1), np.sort(rows, axis=1))
    assert np.sort(near.cosines, axis=1) == pytest.approx(1 - distances[:, ::-1], abs=1e-5)
    for i in range(60):
        assert near.mutual[i].tolist() == [i in rows[j] for j in mine[i]]


def test_half_centring_worked_by_hand() -> None:
    # Mean logarithms: log 0.4 and log 0.5 / 2 + ... of two rows; half their difference goes.
    table = np.array([[0.8, 0.2], [0.5, 0.5]], np.float32)
    lead = (math.log(0.8) + math.log(0.5)) / 2 - (math.log(0.2) + math.log(0.5)) / 2
    odds = [0.8 / 0.2 * math.exp(-lead / 2), math.exp(-lead / 2)]
    wanted = [[each / (1 + each), 1 / (1 + each)] for each in odds]
    assert half_centred(table) == pytest.approx(np.array(wanted), rel=1e-5)


def test_balancing_ends_with_equal_columns() -> None:
    table = balanced(np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]], np.float32))
    assert table.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert table.sum(axis=0) == pytest.approx(2, abs=1e-2)
    assert table.argmax(axis=1).tolist() == [0, 0, 1, 1]


def test_the_bootstrap_is_as_wide_as_theory_says() -> None:
    chance = np.random.default_rng(0)
    differences = chance.choice([-1.0, 0.0, 1.0], 1000, p=[0.1, 0.7, 0.2]).astype(np.float32)
    once = Paired([np.arange(1000)]).change([differences])
    error = 100 * differences.std() / math.sqrt(1000)
    assert once.mean == pytest.approx(100 * differences.mean())
    assert once.high - once.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    # The same images drawn again tell nothing new; others would.
    again = Paired([np.arange(1000)] * 4).change([differences] * 4)
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=0.1)
    apart = Paired([np.arange(1000), np.arange(1000, 2000)]).change([differences] * 2)
    assert apart.high - apart.low == pytest.approx((once.high - once.low) / 2**0.5, rel=0.1)


def test_recall_and_calibration_worked_by_hand() -> None:
    true = np.array([0, 0, 0, 2])
    assert macro_recall(true, np.array([True, False, False, True])) == pytest.approx(2 / 3)
    # 30 images, bins of two: 0.9 said where all are right, 0.5 where none is.
    confidence = np.array([0.9] * 10 + [0.5] * 20, np.float32)
    right = np.array([True] * 10 + [False] * 20)
    mixed = np.random.default_rng(0).permutation(30)
    found = calibration_error(confidence[mixed], right[mixed])
    assert found == pytest.approx(10 / 30 * 0.1 + 20 / 30 * 0.5, abs=1e-6)


def test_unknowns_far_from_every_text_are_told() -> None:
    texts = np.eye(3, dtype=np.float32)
    known, strange = texts[[0, 1, 2, 0]], unit_rows(np.ones((4, 3)))
    found = auroc(known, strange, texts, scale=10.0)
    assert found == dict.fromkeys(["max softmax", "cosine", "mcm", "energy"], 100.0)


def test_the_templates_are_those_of_the_paper() -> None:
    styles = prompt_styles()
    assert [len(templates) for templates in styles.values()] == [1, 18, 80]
    assert len(set(CIFAR_18)) == 18
    assert "a photo of the big {}." in CIFAR_18
    assert "a low contrast photo of a {}." in CIFAR_18
    assert all(each.count("{}") == 1 for templates in styles.values() for each in templates)


def test_rows_are_what_a_plain_count_finds_and_the_report_shows_them() -> None:
    made = embedded()
    source = made.sets["pets"]
    rows = run_plan("fake", {"1 prompt": made}, Plan("pets", "", "all classes", ALL), seeds=5)
    assert [row.method for row in rows] == list(METHODS)
    naive = rows[0]
    right = (source.images @ source.texts.T).argmax(axis=1) == source.true
    for share in (naive.accuracy, naive.kin_accuracy, naive.recall):
        assert share == pytest.approx(right.mean())
    assert (naive.change.mean, naive.change.low, naive.change.high) == (0, 0, 0)
    assert naive.images == 400
    for row in rows:
        assert row.change.mean == pytest.approx(100 * (row.accuracy - naive.accuracy), abs=1e-4)
    text = report(rows, {"far": dict.fromkeys(["max softmax", "cosine", "mcm", "energy"], 99.0)})
    assert "| mean, closed vocabulary | 1 |" in text
    assert "| far | 99.0 | 99.0 | 99.0 | 99.0 |" in text


def test_kin_count_in_an_open_vocabulary_only_where_asked() -> None:
    made = embedded()
    plan = Plan("pets", "many", "20 % unknown", ALL)
    rows = run_plan("fake", {"1 prompt": made}, plan, seeds=2)
    assert all(row.kin_accuracy >= row.accuracy for row in rows)
    assert any(row.kin_accuracy > row.accuracy for row in rows)
    assert rows[0].images == 500


def test_every_set_is_asked_in_every_regime() -> None:
    found = plans(embedded())
    assert len(set(found)) == len(found) == 8 * (4 + 1) + 3
    assert Plan("pets", "many", "1 class", ALL) in found
