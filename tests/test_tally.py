"""What is said of a label set by the images of a store: counts beside loops in plain Python."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.arrays import Floats, unit_rows
from pipeline.compaction import compact
from pipeline.label_set import LabelVectors
from pipeline.labels.judging import hubs, judge, leads, never_given, swaps
from pipeline.labels.tally import Tally, tally_store
from pipeline.opening import create_store
from pipeline.store import Store
from tests.helpers import IDENTITY, embedding_rows

NOTHING = np.empty((0, 4), np.float32)
SCALE = IDENTITY.logit_scale  # 10


def directions(count: int, seed: int, width: int = 4) -> Floats:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, width)))


def counted(
    images: Floats, classes: Floats, rejects: Floats = NOTHING, scale: float = SCALE
) -> Tally:
    tally = Tally(LabelVectors(classes, rejects), scale=scale)
    tally.add(images)
    return tally


def named(count: int) -> list[str]:
    return [f"c{number}" for number in range(count)]


def test_counts_are_those_of_a_loop_over_images() -> None:
    images, classes, rejects = directions(300, 0), directions(5, 1), directions(2, 2)
    given, close, rejected = [0] * 5, Counter[tuple[int, int]](), 0
    sums = np.zeros((5, 4))
    for image in images:
        cosines = [float(image @ c) for c in classes]
        first, second = sorted(range(5), key=lambda c: -cosines[c])[:2]
        if max(float(image @ r) for r in rejects) > cosines[first]:
            rejected += 1
            continue
        given[first] += 1
        sums[first] += image
        weights = [math.exp(SCALE * cosine) for cosine in cosines]
        if weights[second] / weights[first] >= 0.5:
            close[first, second] += 1
    tally = counted(images[:100], classes, rejects)
    rest = counted(images[100:], classes, rejects)
    tally.merge(rest)
    assert tally.given.tolist() == given
    assert tally.close == close
    assert len(close) > 5
    assert rejected > 0
    assert (tally.images, int(tally.given.sum())) == (300, 300 - rejected)
    assert tally.sums == pytest.approx(sums, abs=1e-4)
    assert tally.total == pytest.approx(images.sum(axis=0), abs=1e-4)


def test_a_lead_is_the_mean_logit_over_the_images_of_others() -> None:
    images, classes = directions(200, 3), directions(6, 4)
    winner = (images @ classes.T).argmax(axis=1)
    means = [
        float(
            np.mean(
                [SCALE * (x @ classes[c]) for x, w in zip(images, winner, strict=True) if w != c]
            )
        )
        for c in range(6)
    ]
    expected = np.array(means) - np.median(means)
    assert leads(counted(images, classes)) == pytest.approx(expected, abs=1e-4)


def test_a_class_that_was_given_everything_leads_on_all_images() -> None:
    images = np.tile(unit_rows(np.array([[1, 0.5, 0, 0]])), (30, 1))
    tally = counted(images, np.eye(3, 4, dtype=np.float32))
    one, half = 1 / math.sqrt(1.25), 0.5 / math.sqrt(1.25)
    assert leads(tally) == pytest.approx([10 * (one - half), 0, -10 * half], abs=1e-4)
    [found] = hubs(named(3), tally)
    assert (found.kind, found.classes, found.number) == ("takes most", ("c0",), 1.0)


def test_nan_never_passes_and_no_image_is_no_trouble() -> None:
    classes = np.eye(3, 4, dtype=np.float32)
    with pytest.raises(ValueError, match="images must have rows of unit length"):
        counted(np.full((1, 4), np.nan, np.float32), classes)
    assert judge(named(3), counted(NOTHING, classes)) == []
    assert hubs(named(3), counted(NOTHING, classes)) == []


def between(a: int, b: int, degrees: float, count: int) -> Floats:
    """Return images in the plane of two axes, so many degrees from the first."""
    angle = math.radians(degrees)
    row = np.zeros((1, 4), np.float32)
    row[0, [a, b]] = math.cos(angle), math.sin(angle)
    return np.repeat(row, count, axis=0)


def test_the_pair_that_swaps_is_told_with_its_share() -> None:
    """Scale 10: at 44 degrees the logits differ by 10 (cos 44 - sin 44) = 0.25 < ln 2, at 40
    degrees by 1.23 > ln 2."""
    images = np.concatenate(
        [
            between(0, 1, 44, 8),  # close, and 0 wins
            between(1, 0, 44, 4),  # close, and 1 wins
            between(0, 1, 40, 20),  # not close
            between(1, 0, 0, 8),
            between(2, 0, 44, 4),  # too few
            between(2, 3, 0, 20),
        ]
    )
    tally = counted(images, np.eye(4, dtype=np.float32))
    [found] = swaps(named(4), tally)
    assert found.classes == ("c0", "c1")
    assert found.number == pytest.approx(12 / 40)
    assert "12 of the 40 images" in found.words
    kinds = [f.kind for f in judge(named(4), tally)]
    assert kinds == ["often swapped", "never given"]
    assert [f.kind for f in judge(named(4), tally, rivals=False)] == ["never given"]


def test_pairs_are_told_from_the_most_frequent_on_and_rare_ones_not() -> None:
    close = between(0, 1, 44, 6), between(1, 2, 44, 9), between(3, 2, 44, 5)
    many = between(3, 2, 0, 200)  # 5 of 214 images are less than 5 %
    tally = counted(np.concatenate([*close, many]), np.eye(4, dtype=np.float32))
    assert [f.classes for f in swaps(named(4), tally)] == [("c1", "c2"), ("c0", "c1")]


def ring(count: int, lift: float) -> Floats:
    """Return `count` unit rows around the last axis, lifted towards it."""
    angles = 2 * np.pi * np.arange(count) / count
    flat = np.column_stack([np.cos(angles), np.sin(angles), np.zeros(count), np.full(count, lift)])
    return unit_rows(flat)


def test_a_class_that_is_near_to_everything_is_a_hub() -> None:
    """Twelve classes on a ring and one in its midst: it takes what lies near the middle."""
    classes = np.concatenate([ring(12, 1.0), [[0, 0, 0, 1]]]).astype(np.float32)
    images = np.concatenate([np.repeat(ring(12, 1.2), 20, axis=0), ring(60, 6.0)])
    tally = counted(images, classes)
    assert tally.given[12] == 60
    [found] = hubs(named(13), tally)
    assert (found.kind, found.classes) == ("hub", ("c12",))
    assert found.number == pytest.approx(60 / 300)
    assert "20 % of the images" in found.words
    # Where as many images do show the class, and others are far from it, it is none.
    apart = np.concatenate([ring(12, 0.0), [[0, 0, 1, 0]]]).astype(np.float32)
    shown = np.concatenate([np.repeat(ring(12, 0.0), 20, axis=0), np.tile(apart[12], (60, 1))])
    assert hubs(named(13), counted(shown, apart)) == []


def test_a_class_that_takes_half_is_told_whatever_the_cause() -> None:
    axes = np.eye(4, dtype=np.float32)
    for first, told in ((20, True), (19, False)):
        images = np.repeat(axes, [first, 10, 10, 40 - first - 20], axis=0)
        assert len(hubs(named(4), counted(images, axes))) == told
    for first, told in ((36, True), (35, False)):  # of two classes: 90 %
        images = np.repeat(axes[:2], [first, 40 - first], axis=0)
        assert len(hubs(named(2), counted(images, axes[:2]))) == told


def test_classes_without_an_image_are_told_together() -> None:
    axes = np.eye(4, dtype=np.float32)
    tally = counted(np.repeat(axes, [15, 0, 15, 0], axis=0), axes)
    [found] = never_given(named(4), tally)
    assert (found.classes, found.number) == (("c1", "c3"), 2)
    assert "no image of 30 was given to 2 of 4 classes: 'c1', 'c3'" in found.words


def test_one_class_of_a_multi_label_set_is_counted_too() -> None:
    tally = counted(directions(30, 5), directions(1, 6))
    assert tally.given.tolist() == [30]
    assert judge(named(1), tally, rivals=False) == []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = create_store(str(tmp_path / "store"))
    made.claim(IDENTITY)
    images = directions(90, 7).astype(np.float16)
    for part in range(3):
        rows = range(30 * part, 30 * part + 30)
        table = embedding_rows([f"i{row}" for row in rows], [images[row] for row in rows])
        made.write_part("embeddings", f"2024010{part + 1}T000000000000-00000", table)
    return made


def test_a_store_is_counted_part_by_part(store: Store) -> None:
    classes = directions(3, 8)
    images = directions(90, 7).astype(np.float16).astype(np.float32)
    told: list[int] = []
    tally = tally_store(store, LabelVectors(classes, NOTHING), scale=SCALE, on_progress=told.append)
    whole = counted(images, classes)
    assert told == [30, 30, 30]
    assert (tally.given.tolist(), tally.close) == (whole.given.tolist(), whole.close)
    assert tally.sums == pytest.approx(whole.sums, abs=1e-4)


def test_parts_that_are_merged_meanwhile_are_counted_once(store: Store) -> None:
    def merge(_: int) -> None:
        compact(store, part_rows=60)  # the first part is merged with the second, not yet counted

    tally = tally_store(
        store, LabelVectors(directions(3, 8), NOTHING), scale=SCALE, on_progress=merge
    )
    assert len(store.parts("embeddings")) < 3
    assert tally.images == 90
