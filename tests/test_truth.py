"""Truth from folders and from CSV files, against what is plain from the paths themselves."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.images.decoding import image_id
from pipeline.images.sources import path_text
from pipeline.labels.truth import Truth, read_truth
from pipeline.store import Store
from tests.helpers import axis, label_set, make_store

CLASSES = label_set("dog", "T-Shirt", "red envelope", aliases={"dog": ("Puppy",)})


def seen(tmp_path: Path, *names: str, gone: tuple[str, ...] = ()) -> Store:
    """Make a store that has seen files below photos/; a letter of the name is its content."""
    photos = {tmp_path / "photos" / name: axis(0) for name in names}
    for path in photos:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.stem[0].encode(errors="surrogateescape"))
    lost = [tmp_path / "photos" / name for name in gone]
    return make_store(tmp_path / "store", photos, gone=lost)


def letters(truth: Truth) -> dict[str, str]:
    """Return the labels by the letter that is an image's whole content."""
    by_id = {image_id(bytes([code])): chr(code) for code in range(256)}
    return {by_id[identity]: label for identity, label in truth.labels.items()}


def from_csv(store: Store, tmp_path: Path, text: str) -> Truth:
    (tmp_path / "truth.csv").write_text(text, encoding="utf-8")
    return read_truth(store, str(tmp_path / "truth.csv"), CLASSES)


def test_an_images_label_is_its_nearest_folder_that_bears_a_class(tmp_path: Path) -> None:
    store = seen(
        tmp_path,
        "dog/a.jpg",
        "animals/PUPPY/2024/b.jpg",  # an alias, in a group, with a folder below
        "t_shirt/c.jpg",
        "Red-Envelope/dog/d.jpg",  # the nearest
        "dog.jpg/e.jpg",  # not quite
        "f.jpg",  # in no folder
        "x/T-Shirt",  # a file
    )
    truth = read_truth(store, str(tmp_path / "photos"), CLASSES)
    assert letters(truth) == {"a": "dog", "b": "dog", "c": "T-Shirt", "d": "dog"}
    assert (truth.unmatched, truth.contradictions) == (3, 0)


def test_folders_above_the_truth_and_beside_it_say_nothing(tmp_path: Path) -> None:
    store = seen(tmp_path, "dog/in/a.jpg", "dog/in/T-Shirt/b.jpg", "dog/c.jpg", "dog/inner/d.jpg")
    truth = read_truth(store, str(tmp_path / "photos/dog/in"), CLASSES)
    assert letters(truth) == {"b": "T-Shirt"}
    assert truth.unmatched == 1


def test_one_image_in_two_class_folders_is_a_contradiction(tmp_path: Path) -> None:
    store = seen(
        tmp_path,
        "dog/a.jpg",
        "t-shirt/a.jpg",
        "puppy/a.jpg",
        "dog/b.jpg",
        "puppy/b2.jpg",
        "x/b.jpg",
    )
    truth = read_truth(store, str(tmp_path / "photos"), CLASSES)
    assert letters(truth) == {"b": "dog"}  # two folders of one class agree, and x is none
    assert (truth.unmatched, truth.contradictions) == (0, 1)


def test_files_that_are_gone_or_unreadable_have_no_truth(tmp_path: Path) -> None:
    store = seen(tmp_path, "dog/a.jpg", "dog/b.jpg", gone=("dog/b.jpg",))
    assert letters(read_truth(store, str(tmp_path / "photos"), CLASSES)) == {"a": "dog"}


def test_a_folder_may_be_named_in_any_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = seen(tmp_path, "dog/a.jpg")
    monkeypatch.chdir(tmp_path / "photos/dog")
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("~/photos", f"{tmp_path}/photos/", "../../photos", "..", f"{tmp_path}/./photos"):
        assert letters(read_truth(store, given, CLASSES)) == {"a": "dog"}, given


def test_a_csv_names_images_by_path_name_or_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = seen(tmp_path, "x/a.jpg", "x/b.jpg", "y/c.jpg", "y/d.jpg", "z/\udcff.jpg")
    monkeypatch.chdir(tmp_path)
    whole, odd = tmp_path / "photos/x/a.jpg", path_text(str(tmp_path / "photos/z/\udcff.jpg"))
    rows = [
        "label,path,image_id,note",
        f"Dog,{whole},,whole path",
        "puppy,b.jpg,,bare name",
        "t shirt,photos/y/c.jpg,,from the working folder",
        f"red_envelope,,{image_id(b'd')},id",
        f"dog,{odd},,as the store writes it",
        "dog,elsewhere.jpg,,not in the store",
        ",nowhere.jpg,,not in the store either",
    ]
    truth = from_csv(store, tmp_path, "\ufeff" + "\n".join(rows))
    assert letters(truth) == {
        "a": "dog",
        "b": "dog",
        "c": "T-Shirt",
        "d": "red envelope",
        "\xff": "dog",
    }
    assert (truth.unmatched, truth.contradictions, truth.absent) == (0, 0, 2)


def test_a_relative_path_that_goes_up_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = seen(tmp_path, "x/a.jpg", "y/z.jpg")
    monkeypatch.chdir(tmp_path / "photos/y")
    assert letters(from_csv(store, tmp_path, "path,label\n../x/a.jpg,dog\n")) == {"a": "dog"}


def test_a_path_in_a_csv_does_not_reach_its_namesakes(tmp_path: Path) -> None:
    files = {tmp_path / "x/a.jpg": b"a", tmp_path / "y/a.jpg": b"b"}
    for path, content in files.items():
        path.parent.mkdir()
        path.write_bytes(content)
    store = make_store(tmp_path / "store", dict.fromkeys(files, axis(0)))
    truth = from_csv(store, tmp_path, f"path,label\n{tmp_path}/x/a.jpg,dog\n")
    assert letters(truth) == {"a": "dog"}
    both = from_csv(store, tmp_path, "path,label\na.jpg,dog\n")  # a bare name means all of them
    assert letters(both) == {"a": "dog", "b": "dog"}


def test_contradicting_and_unknown_labels_of_a_csv_are_counted(tmp_path: Path) -> None:
    store = seen(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    rows = ["path,label", "a.jpg,dog", "a.jpg,t-shirt", "a.jpg,dog", "b.jpg,zebra", "c.jpg,dog"]
    truth = from_csv(store, tmp_path, "\n".join([*rows, "c.jpg,puppy", "d.jpg,", "e.jpg"]))
    assert letters(truth) == {"c": "dog"}
    assert (truth.unmatched, truth.contradictions) == (3, 1)
    assert truth.outside == {image_id(letter) for letter in (b"b", b"d", b"e")}


def test_an_image_of_two_labels_is_a_contradiction_and_nothing_else(tmp_path: Path) -> None:
    store = seen(tmp_path, "a.jpg", "b.jpg")
    rows = ["path,label", "a.jpg,dog", "a.jpg,zebra", "a.jpg,t-shirt", "b.jpg,dog"]
    truth = from_csv(store, tmp_path, "\n".join(rows))
    assert (letters(truth), truth.unmatched, truth.contradictions) == ({"b": "dog"}, 0, 1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"path;label\na.jpg;dog", r"needs the columns label and path .* has \['path;label'\]"),
        (b"label,file\ndog,a.jpg", r"has \['label', 'file'\]"),
        (b"path,file\na.jpg,b.jpg", r"has \['path', 'file'\]"),
        (b"", r"has \[\]"),
        (b"path,label\na.jpg,d\xe9", "cannot be read as CSV: "),
        (b"path,label\nb.jpg,dog", "none of its labels belongs to an image of .*store"),
        (b"path,label\nb.jpg,dog", r"\(1 of its rows name no image of the store\)"),
        (b"path,label\na.jpg,zebra", "none of its labels .* dog, T-Shirt, red envelope"),
    ],
)
def test_a_csv_that_says_nothing_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    store = seen(tmp_path, "a.jpg")
    (tmp_path / "truth.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"truth {tmp_path}/truth\.csv: .*{says}"):
        read_truth(store, str(tmp_path / "truth.csv"), CLASSES)


def test_a_truth_elsewhere_is_named(tmp_path: Path) -> None:
    store = seen(tmp_path, "a.jpg")
    with pytest.raises(InputError, match="truth nowhere: no such file or folder"):
        read_truth(store, "nowhere", CLASSES)
    (tmp_path / "other/dog").mkdir(parents=True)
    with pytest.raises(InputError, match=rf"truth {tmp_path}/other: none of its labels belongs"):
        read_truth(store, str(tmp_path / "other"), CLASSES)
