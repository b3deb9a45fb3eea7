"""Selection from frames made by hand: what is kept, and why the rest is not."""

import random
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from pipeline.training.policies import HELD_OUT, Rules, choose, fittest_first
from pipeline.training.selection import ClassBalance, answered, summarise
from tests.helpers import RULES

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


def rules(**changed: Any) -> Rules:
    return replace(RULES, **changed)


def chosen(*rows: Row, bar: float = 0.5, cap: int = 100, **more: Any) -> dict[str, str | None]:
    """Choose, and return the reason against each image; None: kept."""
    decided = choose(frame(*rows), rules(min_confidence=bar, max_per_class=cap, **more))
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
    decided = choose(rows, rules(max_per_class=9))
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
    wanted = rules(max_per_class=5)
    first = choose(frame(*rows), wanted)
    for _ in range(5):
        shuffled.shuffle(rows)
        assert choose(frame(*rows), wanted).equals(first)


def test_what_a_person_said_stands_in_the_place_of_what_the_model_says() -> None:
    images = frame(
        ("a", "cat", 0.4, None, None), ("b", "cat", 0.9, None, None), ("c", None, 0.2, "x", 1)
    )
    answers = pl.DataFrame(
        {
            "image_id": ["a", "b", "c", "gone"],
            "answer": ["label", "none of these", "cannot tell", "label"],
            "label_given": ["dog", None, None, "cat"],
        }
    )
    told = answered(images, answers)
    assert told["label"].to_list() == ["dog", None, None]
    assert told["confidence"].to_list() == pytest.approx([1.0, 0.9, 0.2])
    assert told["answered"].to_list() == [True, False, False]
    decided = dict(choose(told, rules(min_confidence=0.5)).select("image_id", "reason").iter_rows())
    assert decided["a"] is None  # unsure, and yet kept: a person is sure
    assert decided["b"] == "abstained: no class fits, says an audit"
    assert decided["c"] == "abstained: x"


def test_weight_belongs_to_what_is_kept() -> None:
    rows = frame(("a", "dog", 0.75, None, 0), ("b", "dog", 0.25, None, 1))
    decided = choose(rows, rules(max_per_class=9))
    assert dict(decided.select("image_id", "weight").iter_rows()) == {"a": 0.75, "b": 0}


def test_nothing_to_choose_from_is_nothing_chosen() -> None:
    assert chosen() == {}


def kept(*rows: Row, **changed: Any) -> list[str]:
    return sorted(name for name, why in chosen(*rows, bar=0.0, **changed).items() if why is None)


def graded(label: str, *grades: float) -> list[Row]:
    """Return an image of a label for each confidence: dog0, dog1 ..."""
    return [(f"{label}{n}", label, grade, None, None) for n, grade in enumerate(grades)]


def test_quantile_keeps_the_best_share_of_each_class_rounded_up() -> None:
    rows = graded("dog", 0.9, 0.8, 0.7, 0.6, 0.5) + graded("cat", 0.3, 0.2) + graded("car", 0.1)
    assert kept(*rows, policy="quantile") == ["car0", "cat0", "dog0", "dog1", "dog2"]
    why = chosen(*rows, bar=0.15, policy="quantile", share=0.4)
    assert (why["dog2"], why["cat1"]) == ("not among the best 40% of its class",) * 2
    assert why["car0"] == "confidence below 0.15"
    assert kept(*rows, policy="quantile", share=1.0) == sorted(row[0] for row in rows)


def test_a_share_is_not_rounded_up_for_what_no_float_can_say() -> None:
    dogs = graded("dog", *(0.9 - n / 200 for n in range(100)))
    assert 100 * 0.07 > 7
    assert len(kept(*dogs, policy="quantile", share=0.07)) == 7


def test_top_k_keeps_the_best_of_each_class() -> None:
    rows = graded("dog", 0.9, 0.8, 0.7) + graded("cat", 0.3, 0.2) + graded("car", 0.1)
    assert kept(*rows, policy="top-k") == ["car0", "cat0", "cat1", "dog0", "dog1"]
    why = chosen(*rows, bar=0.0, policy="top-k", per_class=1)
    assert why["dog1"] == why["cat1"] == "not among the best 1 of its class"


@pytest.mark.parametrize("policy", ["quantile", "top-k"])
def test_the_floor_is_a_share_of_the_median(policy: str) -> None:
    # The median of 0.1 0.2 0.4 0.5 0.6 0.7 0.8 is 0.5.
    rows = graded("dog", 0.8, 0.7, 0.6, 0.5) + graded("cat", 0.4) + graded("car", 0.2, 0.1)
    rows += [(f"mute{n}", None, 0.99, "weak", None) for n in range(9)]  # cannot be kept
    assert kept(*rows, policy=policy, share=1.0, per_class=9, floor=0.8) == [
        *("cat0", "dog0", "dog1", "dog2", "dog3")
    ]
    why = chosen(*rows, bar=0.0, policy=policy, share=1.0, per_class=9, floor=0.81)
    assert why["cat0"] == "confidence below 0.81 x the median"
    whole = chosen(*rows[:7], bar=0.0, floor=1.0)  # threshold has a bar of its own
    assert set(whole.values()) == {None}


@pytest.mark.parametrize("policy", ["quantile", "top-k"])
def test_a_class_of_few_gives_none(policy: str) -> None:
    rows = graded("dog", 0.8, 0.7, 0.6) + graded("cat", 0.9, 0.8)
    twins: list[Row] = [("t", "cat", 0.7, None, 4), ("u", "cat", 0.6, None, 4)]
    why = chosen(*rows, bar=0.0, policy=policy, min_members=3)
    assert why["dog0"] is None
    assert why["cat0"] == why["cat1"] == "fewer than 3 of its class"
    assert chosen(*rows, *twins, bar=0.0, policy=policy, min_members=3)["cat0"] is None
    # Twins count once.
    why = chosen(*rows, *twins, bar=0.0, policy=policy, min_members=4)
    assert why["cat0"] == "fewer than 4 of its class"


@pytest.mark.parametrize("policy", ["quantile", "top-k"])
def test_the_cap_the_bar_and_thinning_hold_for_every_policy(policy: str) -> None:
    rows = graded("dog", 0.9, 0.8, 0.7, 0.6) + graded("cat", 0.4)
    rows += [("t", "dog", 0.95, None, 1), ("u", "dog", 0.94, None, 1)]
    why = chosen(*rows, bar=0.5, cap=2, policy=policy, share=1.0, per_class=3)
    assert [name for name, reason in why.items() if reason is None] == ["t", "dog0"]
    assert why["u"] == "near-duplicate of t"
    assert why["dog1"] == "more than 2 of its class"
    assert why["cat0"] == "confidence below 0.5"


@pytest.mark.parametrize("policy", ["threshold", "quantile", "top-k"])
def test_images_for_testing_are_never_kept_and_count_for_nothing(policy: str) -> None:
    rows = frame(*graded("dog", 0.9, 0.8, 0.7, 0.6), *graded("cat", 0.9, 0.8))
    mute = frame(("mute", None, 0.99, "weak", None))
    sided = pl.concat([rows, mute]).with_columns(
        split=pl.Series(["test", "train", "valid", "train", "test", "train", "test"])
    )
    wanted = rules(policy=policy, max_per_class=2, min_members=2, share=0.3)
    why = dict(choose(sided, wanted).select("image_id", "reason").iter_rows())
    assert why["dog0"] == why["cat0"] == HELD_OUT
    assert why["mute"] == "abstained: weak"
    assert why["dog1"] is None
    assert (why["cat1"] is None) == (policy == "threshold")  # it is alone in its class now
    assert (why["dog2"] is None) == (policy != "quantile")  # 0.3 of three is one, of four two
    assert why["dog3"] is not None


@pytest.mark.parametrize("bad", [float("nan"), None])
def test_a_confidence_that_is_no_number_never_passes(bad: float | None) -> None:
    rows = frame(("a", "dog", 0.9, None, None)).with_columns(
        confidence=pl.Series([bad], dtype=pl.Float32)
    )
    with pytest.raises(ValueError, match="image a has a label and no confidence"):
        choose(rows, rules())


def test_a_score_is_called_so_until_it_is_calibrated() -> None:
    rows = frame(*graded("dog", 0.9, 0.2)).with_columns(calibrated=pl.lit(value=False))
    assert choose(rows, rules())["reason"].to_list() == [None, "score below 0.5"]


def test_the_balance_before_and_after_is_counted() -> None:
    rows = frame(*graded("dog", 0.9, 0.8, 0.7), *graded("cat", 0.6), *graded("car", 0.1, 0.2))
    mute = frame(("mute", None, 0.3, "weak", None), ("twin", "dog", 0.6, None, 0))
    more = pl.concat([rows, mute]).with_columns(
        split=pl.Series(["train", "valid", "test", "train", "train", "train", "test", "valid"])
    )
    summary = summarise(choose(more, rules()))
    assert (summary.kept, summary.train, summary.valid, summary.test) == (4, 2, 2, 2)
    assert summary.left_out == {
        "abstained: weak": 1,
        "confidence below 0.5": 2,
        HELD_OUT: 1,
    }
    assert summary.classes == [
        ClassBalance("dog", 4, 4 / 7, 3, 0.75),
        ClassBalance("car", 2, 2 / 7, 0, 0.0),
        ClassBalance("cat", 1, 1 / 7, 1, 0.25),
    ]


def test_a_store_of_one_class_and_one_of_none_are_counted() -> None:
    [only] = summarise(choose(frame(*graded("dog", 0.4)), rules()).with_columns(split=None)).classes
    assert only == ClassBalance("dog", 1, 1.0, 0, 0.0)
    nobody = summarise(choose(frame(), rules()).with_columns(split=pl.lit(None, pl.String)))
    assert (nobody.kept, nobody.classes) == (0, [])


def test_who_stands_for_a_group_is_answered_then_kept_then_surer_by_a_tenth_then_larger() -> None:
    rows = [  # id, label, confidence, answered, pixels
        ("mute", None, 0.99, False, 900),
        ("weak", "dog", 0.48, False, 800),  # below the bar
        ("large", "dog", 0.91, False, 400),
        ("sure", "dog", 0.99, False, 100),
        ("surer", "dog", 0.95, False, 100),
        ("less", "dog", 0.89, False, 900),  # of the tenth below
        ("told", "cat", 1.0, True, 1),
        ("twin", "dog", 0.91, False, 400),
        ("unknown", "dog", 0.97, False, None),
    ]
    columns = ["image_id", "label", "confidence", "answered", "pixels"]
    images = pl.DataFrame(rows, schema=columns, orient="row").sample(fraction=1, shuffle=True)
    images = images.cast({"confidence": pl.Float32})
    order = " ".join(fittest_first(images, 0.5)["image_id"])
    assert order == "told large twin sure surer unknown less weak mute"
    at_the_bar = images.filter(pl.col("image_id").is_in(["weak", "less"]))
    assert fittest_first(at_the_bar, 0.48)["image_id"].to_list() == ["less", "weak"]
    assert fittest_first(at_the_bar, 0.95)["image_id"].to_list() == ["less", "weak"]


def test_a_leader_that_is_named_stands_for_surer_ones() -> None:
    rows = frame(
        ("a", "dog", 0.9, None, 1), ("b", "dog", 0.92, None, 1), ("c", "dog", 0.8, None, 2)
    )
    led = rows.with_columns(leader=pl.Series(["a", "a", "c"]))
    decided = choose(led, rules(max_per_class=1)).sort("image_id")
    assert decided["reason"].to_list() == [None, "near-duplicate of a", "more than 1 of its class"]
    assert decided["duplicate_group"].to_list() == ["a", "a", None]
