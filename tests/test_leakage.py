"""The guard: leaks are caught, what is merely informative passes, and noise alarms nobody."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from flows import training
from flows.stale import stale_stages
from pipeline.arrays import Floats, Ints, unit_rows
from pipeline.catalog import present_images
from pipeline.errors import InputError
from pipeline.labels.labelling import current_labels
from pipeline.opening import open_store
from pipeline.training.leakage import Drawn, LeakageFinding, draw, find_leakage
from pipeline.training.side.columns import Column, Kind
from pipeline.training.side.encoding import SideEncoding, encode_column, fit_column
from pipeline.training.side.settings import SideSettings
from pipeline.training.side.words import without, words_of_name
from tests.conftest import demo_config, run_plain

CLASSES = ("cat", "dog", "car", "ship", "tree", "bird")
D = 24


def pictures(labels: Ints, seed: int, alike: bool = False) -> Floats:
    """Make image vectors that tell the classes apart; `alike`: all but the first two."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(len(CLASSES), D))
    if alike:
        centres[1] = centres[0]
    return unit_rows(centres[labels] + 0.4 * rng.normal(size=(len(labels), D)))


def classes_of(size: int) -> Ints:
    return np.arange(size) % len(CLASSES)


def word_vectors(texts: Sequence[str]) -> Floats:
    """Stand for a text tower: every word has a direction of its own, and a text is their sum."""
    rows = np.zeros((len(texts), D), np.float32)
    for row, text in enumerate(texts):
        for word in text.split():
            seed = int(hashlib.sha256(word.encode()).hexdigest()[:8], 16)
            rows[row] += np.random.default_rng(seed).normal(size=D)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Floats = rows / np.maximum(lengths, 1e-9)
    return scaled


def found(
    labels: Ints,
    images: Floats,
    *columns: tuple[Kind, dict[str, object]],
    texts: Sequence[str] | None = None,
) -> LeakageFinding:
    tables = [(kind, pl.DataFrame(data)) for kind, data in columns]
    codes = [fit_column(Column(kind, tuple(rows.columns)), rows) for kind, rows in tables]
    parts = [] if texts is None else [word_vectors(texts)]
    parts += [encode_column(c, rows) for c, (_, rows) in zip(codes, tables, strict=True)]
    encoding = SideEncoding(SideSettings(), 0 if texts is None else D, tuple(codes))
    side = np.concatenate(parts, axis=1)
    drawn = Drawn(labels, np.arange(len(labels)), images, side, texts)
    return find_leakage(drawn, CLASSES, encoding)


def names_like(words: Sequence[str], labels: Ints) -> list[str]:
    """Return what is left of names such as img_tabby_003.jpg once the class names are out."""
    paths = [f"/in/img_{words[label]}_{row:03d}.jpg" for row, label in enumerate(labels)]
    return [without(words_of_name(path), CLASSES) for path in paths]


@pytest.mark.parametrize(
    "words",
    [
        ("tabby", "puppy", "sedan", "frigate", "oak", "robin"),  # synonyms
        ("katze", "hund", "auto", "schiff", "baum", "vogel"),  # another language
        ("catz", "dog-query-a", "xq", "ships-b", "zk", "bb"),  # what a scraper asked for, codes
    ],
)
def test_a_name_that_says_the_class_in_other_words_is_caught(words: Sequence[str]) -> None:
    labels = classes_of(240)
    finding = found(labels, pictures(labels, 0), texts=names_like(words, labels))
    assert finding.verdict == "leak"
    assert finding.side is not None and finding.chance is not None
    assert finding.side > 0.95
    assert finding.chance == pytest.approx(1 / 6, abs=0.1)
    told = " ".join(finding.telling)
    assert all(f"(40 images, 100 % {name})" in told for name in CLASSES[2:3])
    with pytest.raises(InputError, match=r"nearly as much as the image.*--allow-leakage"):
        finding.require(allow=False)
    finding.require(allow=True)


def test_a_class_name_itself_is_masked_and_leaks_nothing() -> None:
    labels = classes_of(240)
    texts = names_like(CLASSES, labels)
    assert set(texts) == {"img"}
    assert found(labels, pictures(labels, 0), texts=texts).verdict == "nothing"


def test_numbers_of_classes_are_no_words_of_a_name_but_leak_as_a_column() -> None:
    labels = classes_of(240)
    assert {words_of_name(f"{label:04d}_{row}.jpg") for row, label in enumerate(labels)} == {""}
    rng = np.random.default_rng(0)
    as_number = {"folder_no": labels * 1.0}
    counters = {"serial": labels * 1000.0 + rng.permutation(240)}  # a range for each class
    coded = {"batch": [f"k{label}" for label in labels]}
    for kind, column in (("numeric", as_number), ("numeric", counters), ("categorical", coded)):
        finding = found(labels, pictures(labels, 0), (kind, column))  # type: ignore[arg-type]
        assert finding.verdict == "leak", column
        assert finding.telling[0].startswith(f"column {next(iter(column))} (alone ")


def test_a_name_is_caught_although_a_fifth_of_the_pseudo_labels_are_wrong() -> None:
    truth = classes_of(600)
    rng = np.random.default_rng(3)
    wrong = rng.random(600) < 0.2
    labels = np.where(wrong, (truth + 1) % len(CLASSES), truth)
    images = pictures(labels, 0)  # what the image shows is what it was labelled by
    words = ("tabby", "puppy", "sedan", "frigate", "oak", "robin")
    finding = found(labels, images, texts=names_like(words, truth))
    assert finding.verdict == "leak"
    assert finding.side == pytest.approx(0.8, abs=0.03)


def look_alikes(size: int, seed: int) -> tuple[Ints, Floats, dict[str, object], dict[str, object]]:
    """Cat and dog look alike, but live apart and are met at other times; all others anywhere."""
    rng = np.random.default_rng(seed)
    labels = classes_of(size)
    latitude, hour = rng.uniform(-60, 60, size), rng.uniform(0, 24, size)
    for label, north, at in ((0, 50, 3), (1, -40, 14)):
        mine = labels == label
        latitude[mine] = north + rng.normal(size=mine.sum()) * 5
        hour[mine] = at + rng.normal(size=mine.sum())
    place: dict[str, object] = {"lat": latitude, "lon": rng.uniform(-180, 180, size)}
    start = np.datetime64("2024-05-01")
    days = rng.integers(0, 300, size) * np.timedelta64(24 * 3600, "s")
    moments = start + days + (hour * 3600).astype("timedelta64[s]")
    return labels, pictures(labels, seed, alike=True), place, {"taken": moments.astype("M8[us]")}


def test_place_and_time_that_part_two_look_alikes_pass_and_help() -> None:
    labels, images, place, taken = look_alikes(600, 1)
    finding = found(labels, images, ("place", place), ("time", taken))
    assert finding.verdict == "informative"
    finding.require(allow=False)
    assert finding.telling  # what it is that helps is told all the same
    # scikit-learn alone, on other images: what a head would gain
    columns: list[tuple[Kind, dict[str, object]]] = [("place", place), ("time", taken)]
    unseen = look_alikes(600, 2)
    sides = []
    for position, (kind, data) in enumerate(columns):
        rows = pl.DataFrame(data)
        code = fit_column(Column(kind, tuple(rows.columns)), rows)
        sides.append([encode_column(code, pl.DataFrame(d)) for d in (data, unseen[2 + position])])
    train, test = (np.concatenate(parts, axis=1) for parts in zip(*sides, strict=True))
    accuracy = [
        LogisticRegression(C=10, max_iter=1000).fit(seen, labels).score(other, unseen[0])
        for seen, other in (
            (images, unseen[1]),
            (np.hstack([images, train]), np.hstack([unseen[1], test])),
        )
    ]
    assert accuracy[1] > accuracy[0] + 0.1


@pytest.mark.parametrize("seed", range(20))
def test_side_information_at_random_is_no_finding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = classes_of(120)
    words = np.array(["red", "blue", "beach", "old", "img", "sofa"])
    texts = [" ".join(rng.choice(words, 2)) for _ in labels]
    columns: tuple[Kind, dict[str, object]] = ("numeric", {"iso": rng.normal(size=len(labels))})
    finding = found(labels, pictures(labels, seed), columns, texts=texts)
    assert finding.verdict == "nothing"
    assert finding.telling == ()


def test_images_of_one_group_never_tell_of_one_another() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 4)  # 4 near-duplicates each, of one class and one number
    labels = groups % len(CLASSES)
    serial = rng.permutation(60)[groups] * 1.0
    code = fit_column(Column("numeric", ("serial",)), pl.DataFrame({"serial": serial}))
    side = encode_column(code, pl.DataFrame({"serial": serial}))
    drawn = Drawn(labels, groups, pictures(labels, 0), side, None)
    encoding = SideEncoding(SideSettings(), 0, (code,))
    assert find_leakage(drawn, CLASSES, encoding).verdict == "nothing"
    apart = replace(drawn, groups=np.arange(240))
    assert find_leakage(apart, CLASSES, encoding).verdict == "leak"


def test_too_few_images_are_told_and_stop_nobody() -> None:
    labels = classes_of(12)
    finding = found(labels, pictures(labels, 0), ("numeric", {"no": labels * 1.0}))
    assert (finding.verdict, finding.side, finding.classes) == ("untested", None, 6)
    finding.require(allow=False)


def test_the_draw_is_even_bounded_and_the_same_in_any_order() -> None:
    ids = [hashlib.sha256(str(row).encode()).hexdigest()[:32] for row in range(9000)]
    labels = ["a"] * 6000 + ["b"] * 2000 + ["c"] * 995 + ["d"] * 5
    rows = draw(ids, labels)
    assert np.unique([labels[row] for row in rows], return_counts=True)[1].tolist() == [666] * 3
    order = np.random.default_rng(0).permutation(9000)
    again = draw([ids[row] for row in order], [labels[row] for row in order])
    assert {ids[row] for row in rows} == {ids[order[row]] for row in again}
    assert len(draw(ids[:20], ["a"] * 11 + ["b"] * 9)) == 0


def test_a_class_of_two_groups_keeps_no_leak_of_the_others_from_being_found() -> None:
    ids = [hashlib.sha256(str(row).encode()).hexdigest()[:32] for row in range(90)]
    groups = np.arange(90)
    groups[60:] = groups[60:] % 2 + 60  # such as the frames of two films
    rows = draw(ids, ["a"] * 30 + ["b"] * 30 + ["c"] * 30, groups)
    assert rows.tolist() == list(range(60))
    assert len(draw(ids[30:], ["b"] * 30 + ["c"] * 30, groups[30:])) == 0


def test_training_stops_at_a_leak_unless_that_is_allowed(demo_store: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(demo_store, tmp_path / "store"))
    store = open_store(str(folder))
    images = present_images(store)
    run = current_labels(store)
    labels = dict(store.read(run.table, ["image_id", "label"]).iter_rows())
    names = run.label_set.names
    lines = [f"{path},{names.index(labels[i])}" for i, path, _ in images.iter_rows() if labels[i]]
    file = tmp_path / "numbers.csv"
    file.write_text("path,number\n" + "\n".join([*lines, "gone.jpg,3"]) + "\n")
    brief = {"side_columns": str(file), "max_epochs": 2}
    config = demo_config(folder, train=brief)
    with pytest.raises(InputError, match=r"nearly as much as the image.*column number \(alone"):
        training.train(config)
    allowed = demo_config(folder, train={**brief, "allow_leakage": True})
    summary = training.train(allowed)
    assert summary.leakage is not None and summary.leakage.verdict == "leak"
    assert "number (numeric)" in summary.side[0]
    assert "1 of" in summary.side[0].rpartition(";")[2]  # gone.jpg matches no image
    saved = json.loads((folder / summary.head).read_text())
    assert saved["leakage"]["telling"] == list(summary.leakage.telling)
    assert SideEncoding.from_json(saved["side"]).columns[0].names == ("number",)


def test_a_run_whose_side_information_leaks_keeps_its_labels_and_is_not_tried_in_vain_again(
    demo_store: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(demo_store, tmp_path / "store"))
    store = open_store(str(folder))
    run = current_labels(store)
    labels = dict(store.read(run.table, ["image_id", "label"]).iter_rows())
    file = tmp_path / "leak.csv"
    lines = [f"{path},word{labels[i]}x" for i, path, _ in present_images(store).iter_rows()]
    file.write_text("path,word\n" + "\n".join(lines))
    config = demo_config(folder, train={"side_columns": str(file), "max_epochs": 2})
    assert stale_stages(config) == ["train"]
    summary = run_plain(config)
    assert summary.not_trained is not None
    assert "nearly as much as the image" in summary.not_trained
    assert summary.select is not None
    assert stale_stages(config) == []
    file.write_text(file.read_text() + "\ngone.jpg,x")
    assert stale_stages(config) == ["train"]  # it may leak no more
