"""Side text: no word of a label reaches the encoder, and each image gets the vector of its text."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from pipeline.arrays import Floats
from pipeline.captions import GREEDY, CaptionRun, turn_to
from pipeline.catalog import present_images
from pipeline.errors import InputError
from pipeline.label_set import LabelSet
from pipeline.store import Store
from pipeline.tables import SIDE_INFO
from pipeline.training.side.encoding import SideEncoding
from pipeline.training.side.information import read_side
from pipeline.training.side.settings import SideSettings, side_state
from pipeline.training.side.texts import masked_texts
from pipeline.training.side.words import without, words_of_name
from tests.helpers import FakeEncoder, axis, draw, label_set, make_store

CLASSES = label_set("dog", "cat", aliases={"dog": ("hound",), "cat": ("tom cat",)})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store", {})


def vectors(
    store: Store, kind: str, paths: list[str], encoder: FakeEncoder, classes: LabelSet = CLASSES
) -> Floats:
    images = pl.DataFrame({"image_id": [f"{row:032x}" for row in range(len(paths))], "path": paths})
    side = read_side(store, SideSettings(kind), classes, lambda: encoder, images)
    return side.encode(SideEncoding(side.settings, 0 if kind == "none" else 4, ()))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/photos/dog/IMG_0042-red_envelope.v2.jpg", "img red envelope v"),
        ("/dogs/2024.jpg", ""),
        ("Grüße aus Köln.JPG", "grüsse aus köln"),
        ("cat12dog.png", "cat dog"),
        ("/photos/Tabby cats/tabby_003-on_sofa.jpg", "on sofa"),  # named after its folder
        ("tar://n02/tench/tench_7 at sea.jpg::/shards/water-0.tar", "at sea"),
        ("s3://bucket/tench/tench-shards.jpg", "shards"),
        ("no_extension", "no extension"),
        ("RedDogAtSea.jpg", "red dog at sea"),  # or a class name hides inside a longer word
        ("file:///photos/r%FCd%20hat.jpg", "r d hat"),  # a name that is not UTF-8
        ("Ka\N{COMBINING DIAERESIS}fer.jpg", "käfer"),  # as macOS writes file names
    ],
)
def test_the_words_of_a_name_have_no_folder_extension_or_counter(path: str, words: str) -> None:
    assert words_of_name(path) == words


@pytest.mark.parametrize(
    ("text", "words", "left"),
    [
        ("a dog and two DOGS", ["dog"], "a and two"),
        ("a bus, boxes and a box", ["bus", "box"], "a , and a"),
        ("hotdog dogma", ["dog"], "hotdog dogma"),  # only whole words
        ("a hot-dog, a hot_dog, a Hot  Dog", ["hot dog"], "a , a , a"),
        ("a hot dog stand", ["dog", "hot dog"], "a stand"),  # the longest first
        ("hot coal", ["hot dog"], "hot coal"),
        ("ein Straßenhund", ["STRASSENHUND"], "ein"),
        ("plain plies", ["p.*n", "p.y"], "plain plies"),  # words, not patterns
        ("learn c++ now", ["C++"], "learn now"),
        ("two puppies", ["puppy"], "two"),
        ("hot hot dog dog", ["hot dog"], ""),  # taking one out must not make another
        ("nothing to hide", [], "nothing to hide"),
    ],
)
def test_words_are_taken_out_whole_with_their_plurals(
    text: str, words: list[str], left: str
) -> None:
    assert without(text, words) == left


def test_no_side_text_is_no_columns_and_needs_no_encoder(store: Store) -> None:
    encoder = FakeEncoder()
    assert vectors(store, "none", ["a.jpg", "b.jpg"], encoder).shape == (2, 0)
    assert encoder.asked == []


def test_each_image_gets_the_vector_of_its_masked_name(store: Store) -> None:
    encoder = FakeEncoder({"at sea": 1, "red": 2})
    paths = [
        "/x/red_dog.jpg",
        "/y/dogs-at-sea.jpg",
        "/dog/001.jpg",
        "/z/Red 7.jpg",
        "/c/tom_cat.jpg",
    ]
    rows = vectors(store, "file-name", paths, encoder)
    assert rows.tolist() == [
        axis(2).tolist(),
        axis(1).tolist(),
        [0, 0, 0, 0],  # no words: no text
        axis(2).tolist(),
        [0, 0, 0, 0],  # nothing but its label
    ]
    assert [sorted(texts) for texts in encoder.asked] == [["at sea", "red"]]  # each text once


def test_vectors_are_made_once_for_the_same_texts_and_label_set(store: Store) -> None:
    encoder = FakeEncoder({"red": 2, "blue": 3, "red hound": 1})
    first = vectors(store, "file-name", ["red.jpg", "blue.jpg"], encoder)
    again = vectors(store, "file-name", ["blue.png", "red.png"], encoder)
    assert np.array_equal(again, first[::-1])
    assert len(encoder.asked) == 1
    vectors(store, "file-name", ["red.jpg"], encoder)
    vectors(store, "file-name", ["red hound.jpg"], encoder, label_set("dog", "cat"))
    assert encoder.asked[1:] == [["red"], ["red hound"]]


def test_images_without_any_text_get_rows_of_the_right_width(store: Store) -> None:
    assert vectors(store, "file-name", ["1.jpg", "2.jpg"], FakeEncoder()).tolist() == [[0] * 4] * 2


def test_a_csv_gives_text_by_whole_path_before_bare_name(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "text.csv"
    lines = ["path,text", '/x/a.jpg,"A dog, on ice"', "a.jpg,by name", "b.jpg,", "c.jpg"]
    file.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    encoder = FakeEncoder({"a , on ice": 0, "by name": 1})
    paths = ["/x/a.jpg", "/y/a.jpg", "/x/b.jpg", "/x/c.jpg", "/x/d.jpg"]
    rows = vectors(store, str(file), paths, encoder)
    assert rows[:2].tolist() == [axis(0).tolist(), axis(1).tolist()]
    assert not rows[2:].any()


def test_images_of_a_later_drop_need_not_stand_in_the_csv(store: Store, tmp_path: Path) -> None:
    (tmp_path / "text.csv").write_text("path,text\na.jpg,red\n")
    rows = vectors(store, str(tmp_path / "text.csv"), ["new.jpg"], FakeEncoder({"red": 2}))
    assert rows.tolist() == [[0] * 4]


def test_a_relative_path_in_a_csv_counts_from_the_working_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.csv").write_text("path,text\nphotos/a.jpg,red\n")
    rows = vectors(store, "text.csv", [str(tmp_path / "photos/a.jpg")], FakeEncoder({"red": 2}))
    assert rows.tolist() == [axis(2).tolist()]  # as in a CSV file with the truth


def test_a_csv_may_name_images_by_id_or_by_another_of_their_paths(tmp_path: Path) -> None:
    first, twin = draw(tmp_path / "a.png", "red"), draw(tmp_path / "b.png", "red")
    other = draw(tmp_path / "c.png", "blue")
    store = make_store(tmp_path / "store", {first: axis(0), twin: axis(0), other: axis(1)})
    images = present_images(store)
    assert images["path"].to_list() == [str(first), str(other)]
    by_twin = tmp_path / "twin.csv"
    by_twin.write_text("path,text\nb.png,by twin\n")
    assert masked_texts(store, str(by_twin), images, CLASSES) == ["by twin", ""]
    by_id = tmp_path / "id.csv"
    by_id.write_text(f"image_id,text\n{images['image_id'][1]},by id\n")
    assert masked_texts(store, str(by_id), images, CLASSES) == ["", "by id"]


def test_a_field_of_what_shards_tell_is_taken_by_its_name(store: Store) -> None:
    told = [
        (
            "a.jpg",
            "from txt",
            '{"caption": "c", "tags": ["red", "dog", "hat"], "exif": {"by": "x"}}',
        ),
        ("b.jpg", None, '{"caption": "only", "tags": 7}'),
        ("c.jpg", None, "[1]"),
    ]
    rows = [{"path": path, "text": text, "json": about} for path, text, about in told]
    store.write_part("side_info", "1", pa.Table.from_pylist(rows, SIDE_INFO))
    images = pl.DataFrame({"image_id": ["1", "2", "3"], "path": ["a.jpg", "b.jpg", "c.jpg"]})
    found = {
        kind: masked_texts(store, kind, images, CLASSES)
        for kind in ("shards", "shards:caption", "shards:tags", "shards:exif.by")
    }
    assert found == {
        "shards": ["from txt", "only", ""],
        "shards:caption": ["c", "only", ""],
        "shards:tags": ["red hat", "", ""],
        "shards:exif.by": ["x", "", ""],
    }


def test_captions_are_those_in_force_and_without_any_it_says_what_to_do(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pl.DataFrame({"image_id": ["1", "2"], "path": ["a.jpg", "b.jpg"]})
    with pytest.raises(InputError, match="no captions yet: `pseudolabel caption`"):
        masked_texts(store, "captions", images, CLASSES)
    schema = pa.schema([("image_id", pa.string()), ("caption", pa.string())])
    monkeypatch.setattr("pipeline.store.schema_of", lambda table, dimension: schema)
    row = {"image_id": "2", "caption": "a dog at sea"}
    store.write_part("captions/x1", "1", pa.Table.from_pylist([row], schema))
    before = side_state(store, SideSettings("captions"))
    turn_to(store, CaptionRun("captions/x1", "some model", "0" * 32, GREEDY))
    assert masked_texts(store, "captions", images, CLASSES) == ["", "a at sea"]
    assert side_state(store, SideSettings("captions")) != before


def test_an_edited_file_is_other_side_information(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("path,text\na.jpg,red\n")
    for side in (SideSettings(str(file)), SideSettings(columns=str(file))):
        file.write_text("path,text\na.jpg,red\n")
        before = side_state(store, side)
        assert side_state(store, side) == before
        file.write_text("path,text\na.jpg,tan\n")
        assert side_state(store, side) != before
    gone = SideSettings(str(tmp_path / "gone.csv"))
    assert side_state(store, gone) != before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"path;text\na.jpg;x\n",
            r"needs the columns path \(or image_id\) and text, has \['path;text'\]",
        ),
        (b"", "needs the columns path .or image_id. and text"),
        (b"path,text\na.jpg,caf\xe9\n", "cannot be read as CSV"),
        (b"text\nred\n", r"needs the columns path \(or image_id\) and text, has \['text'\]"),
        (None, "cannot be read as CSV: .*No such file"),
        (b"path,text\na.jpg,x\nb.jpg,y\na.jpg,z\n", "path 'a.jpg' stands in rows 1 and 3"),
    ],
)
def test_a_csv_that_cannot_be_used_is_named(
    store: Store, tmp_path: Path, content: bytes | None, says: str
) -> None:
    file = tmp_path / "text.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=rf"side text {file}: .*{says}"):
        vectors(store, str(file), ["a.jpg"], FakeEncoder({"red": 2}))
