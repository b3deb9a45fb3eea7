"""The true labels of some images, from a CSV file or from the names of their folders."""

import csv
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.catalog import current_files
from pipeline.errors import InputError
from pipeline.homes import without_tilde
from pipeline.images.paths import is_url, local_path, name_of, path_text, whole_path
from pipeline.label_set import LabelSet, normal_word
from pipeline.store import Store


@dataclass(frozen=True)
class Truth:
    """What is known of the images of a store."""

    labels: dict[str, str]  # image id -> class name, as the label set writes it
    unmatched: int  # images in the truth's reach whose label is none of the label set
    contradictions: int  # images given two different labels; they are left out
    absent: int = 0  # rows of a CSV file that name no image of the store
    outside: frozenset[str] = frozenset()  # the images of `unmatched`


def read_truth(store: Store, given: str, label_set: LabelSet) -> Truth:
    """Find out which images of the store have a true label.

    Args:
        store: the store whose images are meant.
        given: a CSV file with the columns label and path (whole, or just the file's name) or
            image_id; or a folder or a bucket's prefix, in which an image's label is its nearest
            parent folder that bears the name or an alias of a class.
        label_set: the classes; case, `_` and `-` do not matter.

    Raises:
        InputError: nothing there, a column is missing, or no image of the store is covered.
    """
    location = without_tilde(given)
    absent = 0
    if location.is_dir() or is_url(given):
        said = _from_folders(store, given, label_set)
    elif location.is_file():
        said, absent = _from_csv(store, location)
    else:
        raise _missing(given)
    classes, names = label_set.index_of(), label_set.names
    labels: dict[str, str] = {}
    unmatched, contradicted = set(), set()

    @cache
    def index_of(word: str) -> int | None:
        return classes.get(normal_word(word))

    for image_id, word in said:
        index = index_of(word)
        if index is None:
            unmatched.add(image_id)
        elif labels.setdefault(image_id, names[index]) != names[index]:
            contradicted.add(image_id)
    for image_id in contradicted:
        del labels[image_id]
    if not labels:
        raise InputError(
            f"truth {given}: none of its labels belongs to an image of {store.location}: compare "
            f"its paths, and its labels with {', '.join(names[:5])} ..."
            + (f" ({absent} of its rows name no image of the store)" if absent else "")
        )
    outside = frozenset(unmatched - set(labels) - contradicted)
    return Truth(labels, len(outside), len(contradicted), absent, outside)


def truth_state(given: str) -> str:
    """Return what stands for a truth as it is now: what a file holds, or where a folder lies.

    What a folder says of an image is told by the image's path, which the store knows.

    Raises:
        InputError: nothing there, or the file cannot be read.
    """
    location = without_tilde(given)
    if is_url(given):
        return given
    if location.is_dir():
        return whole_path(given)
    try:
        return hashlib.sha256(location.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise _missing(given) from None
    except OSError as error:
        raise InputError(f"truth {given}: cannot be read: {error}") from error


def _missing(given: str) -> InputError:
    return InputError(f"truth {given}: no such file or folder")


def _from_folders(store: Store, folder: str, label_set: LabelSet) -> list[tuple[str, str]]:
    root, classes = folder if is_url(folder) else whole_path(folder), label_set.index_of()
    root = f"{root.rstrip('/')}/"

    @cache  # of each folder once, not of each image
    def nearest_class(parents: str) -> str:
        named = [part for part in reversed(parents.split("/")) if normal_word(part) in classes]
        return named[0] if named else parents

    places = ((local_path(path), image_id) for path, image_id in _readable_files(store))
    return [
        (image_id, nearest_class(place.removeprefix(root).rpartition("/")[0]))
        for place, image_id in places
        if place.startswith(root)
    ]


def _from_csv(store: Store, file: Path) -> tuple[list[tuple[str, str]], int]:
    """Return what is said of images of the store, and how many rows name none of them."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            rows, columns = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"truth {file}: cannot be read as CSV: {error}") from error
    if "label" not in columns or not {"path", "image_id"} & set(columns):
        raise InputError(
            f"truth {file}: needs the columns label and path (or image_id), has {list(columns)}"
        )
    asked = [(_keys(row), row["label"] or "") for row in rows]
    wanted = {key for keys, _ in asked for key in keys}
    by_key: dict[str, set[str]] = {}
    for path, image_id in _readable_files(store):
        for key in {path, name_of(path), image_id} & wanted:
            by_key.setdefault(key, set()).add(image_id)
    said, absent = [], 0
    for keys, label in asked:
        found = {image_id for key in keys for image_id in by_key.get(key, ())}
        said += [(image_id, label) for image_id in found]
        absent += not found
    return said, absent


def _keys(row: dict[str, str | None]) -> set[str]:
    """Return what a row of a CSV file calls its image: an id, a path as written, the whole path."""
    keys = {row.get("image_id") or "", row.get("path") or ""} - {""}
    if path := row.get("path"):
        keys.add(path_text(whole_path(path)))
    return keys


def _readable_files(store: Store) -> list[tuple[str, str]]:
    files = current_files(store, ["image_id", "status"])
    return list(files.filter(files["status"] == "ok").select("path", "image_id").iter_rows())
