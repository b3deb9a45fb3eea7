"""Selection from frames made by hand: what is kept, why the rest is not, and on which side."""

import random

import polars as pl
import pytest

from pipeline.tables import SELECTIONS
from pipeline.training.selection import choose, split_of

Row = tuple[str, str | None, float, str | None, int | None]  # id, label, confidence, reason, group


def frame(*rows: Row) -> pl.DataFrame:
    schema = {
        "image_id": pl.String,
        "label": pl.String,
        "confidence": pl.Float32,
        "reason": pl.String,
        "group": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def chosen(*rows: Row, bar: float = 0.5, cap: int = 100) -> dict[str, str | None]:
    """Choose, and return the reason against each image; None: kept."""
    decided = choose(frame(*rows), min_confidence=bar, max_per_class=cap, valid_share=0.2)
    assert len(decided) == len(rows)  # no row disappears
    assert decided["kept"].to_list() == decided["reason"].is_null().to_list()
    return dict(decided.select("image_id", "reason").iter_rows())


def test_the_confident_are_kept_and_each_other_has_its_reason() -> None:
    assert chosen(
        ("sure", "dog", 0.9, None, 0),
        ("at", "dog", 0.7, None, 1),  # 0.7 is no number of float32 or float64 exactly
        ("below", "dog", 0.69, None, 2),
        ("none", None, 0.95, "reject prompt: a wall", 3),
        ("mute", None, 0.95, None, 4),
        bar=0.7,
    ) == {
        "sure": None,
        "at": None,
        "below": "confidence below 0.7",
        "none": "abstained: reject prompt: a wall",
        "mute": "abstained: no label",
    }


def test_the_best_of_a_group_stands_for_its_near_duplicates() -> None:
    assert chosen(
        ("b", "dog", 0.8, None, 7),
        ("a", "dog", 0.7, None, 7),
        ("c", "cat", 0.9, None, 7),  # another label, but the surest of the three
        ("d", "dog", 0.4, None, 7),
        ("alone", "dog", 0.6, None, 8),
    ) == {
        "c": None,
        "b": "near-duplicate of c",
        "a": "near-duplicate of c",
        "d": "confidence below 0.5",
        "alone": None,
    }


def test_a_labelled_image_stands_before_a_twin_that_abstained() -> None:
    assert chosen(("x", None, 0.99, "weak", 1), ("y", "dog", 0.6, None, 1)) == {
        "y": None,
        "x": "abstained: weak",
    }


def test_only_groups_of_several_are_written_down() -> None:
    rows = frame(("a", "dog", 0.8, None, 5), ("b", "dog", 0.9, None, 5), ("c", "dog", 0.7, None, 6))
    decided = choose(rows, min_confidence=0.5, max_per_class=9, valid_share=0.2)
    assert dict(decided.select("image_id", "duplicate_group").iter_rows()) == {
        "a": "b",
        "b": "b",
        "c": None,
    }


def test_images_without_a_group_are_not_one_anothers_duplicates() -> None:
    reasons = chosen(("a", "dog", 0.9, None, None), ("b", "cat", 0.8, None, None))
    assert reasons == {"a": None, "b": None}


def test_a_cap_holds_per_class_and_keeps_the_surest() -> None:
    reasons = chosen(
        ("d1", "dog", 0.7, None, 1),
        ("d2", "dog", 0.9, None, 2),
        ("d3", "dog", 0.8, None, 3),
        ("c1", "cat", 0.6, None, 4),
        ("c2", "cat", 0.55, None, 5),
        cap=2,
    )
    assert [name for name, why in reasons.items() if why is None] == ["d2", "d3", "c1", "c2"]
    assert reasons["d1"] == "more than 2 of its class"


def test_images_at_the_bar_count_towards_the_cap() -> None:
    reasons = chosen(("a", "dog", 0.5, None, 1), ("b", "dog", 0.5, None, 2), bar=0.5, cap=1)
    assert reasons == {"a": None, "b": "more than 1 of its class"}


def test_a_near_duplicate_takes_no_place_of_the_cap() -> None:
    reasons = chosen(
        ("d1", "dog", 0.9, None, 1),
        ("d2", "dog", 0.8, None, 1),
        ("d3", "dog", 0.7, None, 2),
        cap=2,
    )
    assert reasons == {"d1": None, "d2": "near-duplicate of d1", "d3": None}


def test_at_equal_confidence_the_lower_id_wins() -> None:
    rows: list[Row] = [(name, "dog", 0.8, None, number) for number, name in enumerate("cab")]
    assert chosen(*rows, cap=1)["a"] is None
    assert chosen(*rows, cap=1)["b"] == chosen(*rows, cap=1)["c"] == "more than 1 of its class"
    twins: list[Row] = [(name, "dog", 0.8, None, 0) for name in "cab"]
    assert chosen(*twins)["c"] == "near-duplicate of a"


def test_the_order_of_rows_does_not_matter() -> None:
    shuffled = random.Random(0)
    labels, grades = ["dog", "cat", None], [0.4, 0.6, 0.6, 0.8]
    rows: list[Row] = [
        (f"{i:03d}", shuffled.choice(labels), shuffled.choice(grades), None, i // 3)
        for i in range(90)
    ]
    settings = {"min_confidence": 0.5, "valid_share": 0.3}
    first = choose(frame(*rows), max_per_class=5, **settings)
    for _ in range(5):
        shuffled.shuffle(rows)
        assert choose(frame(*rows), max_per_class=5, **settings).equals(first)


def test_weight_and_split_belong_to_what_is_kept() -> None:
    rows = frame(("a", "dog", 0.75, None, 0), ("b", "dog", 0.25, None, 1))
    decided = choose(rows, min_confidence=0.5, max_per_class=9, valid_share=0.2)
    assert set(SELECTIONS.names) <= set(decided.columns)
    assert dict(decided.select("image_id", "weight").iter_rows()) == {"a": 0.75, "b": 0}
    assert dict(decided.select("image_id", "split").iter_rows()) == {
        "a": split_of("a", 0.2),
        "b": None,
    }


def test_nothing_to_choose_from_is_nothing_chosen() -> None:
    assert chosen() == {}


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_a_split_comes_near_its_share(share: float) -> None:
    held = sum(split_of(f"{number:032x}", share) == "valid" for number in range(10_000))
    assert held == pytest.approx(10_000 * share, abs=4 * (10_000 * share * (1 - share)) ** 0.5)


def test_an_image_keeps_its_side_for_ever() -> None:
    # SHA-256 of "split:a" begins with 487b6b97, that of "split:c" with 038de6e0 (sha256sum):
    # 0.28313 and 0.01388 of the way from 00000000 to ffffffff.
    assert [split_of("a", 0.283), split_of("a", 0.284)] == ["train", "valid"]
    assert [split_of("c", 0.013), split_of("c", 0.014)] == ["train", "valid"]
    ids = [f"{number:032x}" for number in range(500)]
    small, large = ({i for i in ids if split_of(i, s) == "valid"} for s in (0.1, 0.3))
    assert small < large  # a larger share only adds
