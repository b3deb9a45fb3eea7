"""What is said of a label set by itself, against cosines and names made by hand."""

from typing import Any

import numpy as np
import pytest

from pipeline.arrays import Floats
from pipeline.label_set import LabelSet
from pipeline.labels.checking import (
    check_label_set,
    near_identical,
    nested,
    parts_of_one_thing,
    several_meanings,
)
from pipeline.labels.meanings import QUALITIES, QUALITIES_AMONG_OTHERS, SEVERAL_MEANINGS


def made(*classes: str | dict[str, Any], **more: Any) -> LabelSet:
    entries = [{"name": entry} if isinstance(entry, str) else entry for entry in classes]
    return LabelSet.model_validate({"name": "tests", "classes": entries, **more})


def pair_and_others(cosine: float, others: int, base: float = 0.0) -> Floats:
    """Return 2 + others unit rows: the first two have this cosine, every other pair has `base`."""
    size = 2 + others
    gram = np.full((size, size), base)
    np.fill_diagonal(gram, 1)
    gram[0, 1] = gram[1, 0] = cosine
    rows: Floats = np.linalg.cholesky(gram).astype(np.float32)
    assert (rows @ rows.T)[0, 1] == pytest.approx(cosine, abs=1e-5)
    return rows


@pytest.mark.parametrize(
    ("cosine", "others", "base", "told"),
    [
        (0.96, 0, 0.0, True),  # one pair: there is no distribution
        (0.94, 0, 0.0, False),
        (0.96, 8, 0.3, True),
        (0.94, 8, 0.3, False),  # in the tail, and yet not alike
        (0.99, 8, 0.3, True),
    ],
)
def test_a_pair_is_near_identical_by_its_cosine(
    cosine: float, others: int, base: float, told: bool
) -> None:
    names = [f"n{number}" for number in range(2 + others)]
    found = near_identical(names, pair_and_others(cosine, others, base))
    assert [(f.classes, round(f.number or 0, 2)) for f in found] == (
        [(("n0", "n1"), cosine)] if told else []
    )


def test_where_all_are_alike_by_nature_only_the_very_same_are_told() -> None:
    """Cosines of 0.91, give or take 0.03: 0.95 is nothing out of the ordinary there."""
    rest = np.random.default_rng(0).normal(size=(40, 8))
    rest *= 0.3 / np.linalg.norm(rest, axis=1, keepdims=True)
    rows = np.column_stack([np.full(40, np.sqrt(0.91)), rest]).astype(np.float32)
    rows[1] = rows[0]
    cosines = (rows @ rows.T)[np.triu_indices(40, 1)]
    assert np.sum(cosines >= 0.95) > 50
    names = [str(number) for number in range(40)]
    found = near_identical(names, rows)
    assert found[0].classes == ("0", "1")
    assert len(found) == np.sum(cosines >= 0.98)


def test_the_bar_is_that_of_a_histogram_of_all_pairs_whatever_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(60, 3)) + np.array([4, 0, 0])
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    upper = [float(rows[a] @ rows[b]) for a in range(60) for b in range(a + 1, 60)]
    median = np.median(upper)
    bar = median + 2.5 * 1.4826 * np.median(np.abs(np.array(upper) - median))
    expected = sum(cosine >= min(0.98, max(0.95, bar)) for cosine in upper)
    monkeypatch.setattr("pipeline.labels.checking._TOLD", 10_000)
    monkeypatch.setattr("pipeline.labels.checking._BLOCK", 7)
    found = near_identical([str(n) for n in range(60)], rows)
    assert len(found) == pytest.approx(expected, abs=2)
    numbers = [f.number or 0 for f in found]
    assert numbers == sorted(numbers, reverse=True)
    assert len({f.classes for f in found}) == len(found)


def test_nan_never_passes() -> None:
    rows = np.eye(3, dtype=np.float32)
    rows[1] = np.nan
    with pytest.raises(ValueError, match="row 1"):
        near_identical(["a", "b", "c"], rows)


@pytest.mark.parametrize(
    ("classes", "pairs"),
    [
        (("envelope", "a red envelope"), [("envelope", "a red envelope")]),
        (
            ("T-Shirt", "shirt", "long sleeve shirt"),
            [("shirt", "T-Shirt"), ("shirt", "long sleeve shirt")],
        ),
        (("an envelope", "a red envelope"), [("an envelope", "a red envelope")]),
        (("car", "card", "scar"), []),  # letters are no words
        (("ice cream van", "cream"), [("cream", "ice cream van")]),
        (({"name": "hound", "aliases": ["dog"]}, "hot dog"), [("hound", "hot dog")]),
        (({"name": "dog", "aliases": ["a small dog"]}, "cat"), []),  # its own alias
    ],
)
def test_nested_names_are_found(classes: Any, pairs: list[tuple[str, ...]]) -> None:
    assert [f.classes for f in nested(made(*classes))] == pairs


def test_a_word_with_several_meanings_is_told_unless_prompts_explain_it() -> None:
    explained = {"name": "seal", "prompts": ["a seal, an animal of the sea"]}
    by_alias = {"name": "rodent", "aliases": ["a Mouse"]}
    found = several_meanings(made("a crane", "dog", explained, by_alias, "wooden crane"))
    assert [f.classes for f in found] == [("a crane",), ("rodent",)]
    assert "a bird or a machine" in found[0].words
    assert f"list of {len(SEVERAL_MEANINGS)} such words" in found[0].words


def test_red_envelope_and_china_are_told_to_be_parts_of_one_thing() -> None:
    [found] = parts_of_one_thing(made("red", "envelope", "China"))
    assert found.classes == ("red", "China", "envelope")
    assert "'red envelope'" in found.advice
    assert "the one label 'red envelope' gets it right" in found.words


@pytest.mark.parametrize(
    ("classes", "parts"),
    [
        (("red envelope", "dog"), None),
        (("red", "green", "blue"), None),  # a fair question
        (("happy", "sad"), None),
        (("orange", "lemon", "kiwi"), None),
        (("plate", "cup", "china"), None),  # porcelain
        (("orange", "red", "car"), ("orange", "red", "car")),
        (("a bright red", "car"), ("a bright red", "car")),
        (("dark red", "car"), ("dark red", "car")),
    ],
)
def test_qualities_are_told_only_beside_things(
    classes: tuple[str, ...], parts: tuple[str, ...] | None
) -> None:
    found = [f.classes for f in parts_of_one_thing(made(*classes))]
    assert found == ([parts] if parts else [])


def test_labels_that_are_no_rivals_may_be_nested_and_parts() -> None:
    names, rows = ("red", "envelope", "red envelope"), np.eye(3, dtype=np.float32)
    kinds = {f.kind for f in check_label_set(made(*names), rows)}
    assert kinds == {"nested", "parts of one thing"}
    assert check_label_set(made(*names, multi_label=True), rows) == []


def test_every_list_holds_words_in_their_normal_form() -> None:
    for word in (*SEVERAL_MEANINGS, *QUALITIES, *QUALITIES_AMONG_OTHERS):
        assert word == word.lower().strip()
        assert " " not in word
