"""Side text: what is known of an image beside its pixels, as vectors of the same CLIP.

A file's name may give its label away. Class names and aliases are therefore taken out of it before
it is embedded, and folders are never looked at.
Shapes: N images, D embedding dimensions.
"""

import csv
import json
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePath

import numpy as np

from pipeline.arrays import Floats
from pipeline.caching import cached_arrays, keep_arrays
from pipeline.catalog import side_info
from pipeline.clip.protocol import ImageEncoder
from pipeline.errors import InputError
from pipeline.identity import digest
from pipeline.images.paths import name_of, path_text, whole_path
from pipeline.label_set import LabelSet, normal_word
from pipeline.store import Store

NONE, FILE_NAME, SHARDS = "none", "file-name", "shards"


def side_vectors(
    store: Store,
    kind: str,
    paths: list[str],
    label_set: LabelSet,
    encoder: Callable[[], ImageEncoder],
) -> Floats:
    """Embed the side text of N images; an image without text gets a zero row.

    Args:
        store: caches the vectors by their texts.
        kind: none, file-name, shards (what tars tell of their members), or a CSV file with the
            columns path and text.
        paths: of the images.
        label_set: whose words are taken out of the texts.
        encoder: called only when the vectors are not cached.

    Returns:
        (N, D); (N, 0) for "none".

    Raises:
        InputError: the CSV file cannot be used.
    """
    if kind == NONE:
        return np.empty((len(paths), 0), np.float32)
    if kind == FILE_NAME:
        texts = [words_of_name(path) for path in paths]
    elif kind == SHARDS:
        given = _told_by_shards(store)
        texts = [given.get(path, "") for path in paths]
    else:
        given = _read_csv(Path(kind))
        texts = [given.get(path) or given.get(name_of(path)) or "" for path in paths]
    words = [word for entry in label_set.classes for word in (entry.name, *entry.aliases)]
    masked = [without(text, words) for text in texts]
    distinct = sorted(set(masked) - {""})
    vectors = _cached(store, distinct, encoder)
    place = {text: row for row, text in enumerate(distinct)}
    rows = np.zeros((len(paths), vectors.shape[1]), np.float32)
    for row, text in enumerate(masked):
        if text:
            rows[row] = vectors[place[text]]
    return rows


def words_of_name(path: str) -> str:
    """Return the words in a file's name: no folder, extension or counter.

    >>> words_of_name("/photos/dog/IMG_0042-red_envelope.v2.jpg")
    'img red envelope v'
    """
    stem = os.fsencode(PurePath(name_of(path)).stem).decode(errors="replace")
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", stem))
    return " ".join(re.findall(r"[^\W\d_]+", apart)).casefold()


def without(text: str, words: list[str]) -> str:
    """Take whole words, their plurals included, out of a text, ignoring case.

    >>> without("Two dogs and a hot-dog on ice", ["dog", "hot dog"])
    'two and a on ice'
    """
    left = normal_word(text)
    forms = sorted((_forms(normal_word(word)) for word in words), key=len, reverse=True)
    before = None
    while left != before:  # "hot hot dog dog": taking one out may bring together another
        before = left
        for form in forms:
            left = " ".join(re.sub(rf"(?<!\w){form}(?!\w)", " ", left).split())
    return left


def _forms(word: str) -> str:
    """Return a pattern for a word and its plurals."""
    plural = rf"|{re.escape(word[:-1])}ies" if word.endswith("y") else ""
    return rf"(?:{re.escape(word)}(?:s|es)?{plural})"


def _cached(store: Store, texts: list[str], encoder: Callable[[], ImageEncoder]) -> Floats:
    identity = store.identity()
    key = digest([identity.weights if identity else None, texts])
    name = f"cache/side-text/{key}.npz"
    held = cached_arrays(store, name)
    if held is not None:
        return held["vectors"]
    model = encoder()
    store.claim(model.identity)
    vectors = model.encode_texts(texts)
    keep_arrays(store, name, vectors=vectors)
    return vectors


def _told_by_shards(store: Store) -> dict[str, str]:
    """Return the text of each tar member: its key.txt, or else the caption in its key.json."""
    rows = side_info(store).select("path", "text", "json")
    return {path: text or _caption(about) for path, text, about in rows.iter_rows()}


def _caption(about: str | None) -> str:
    try:
        content = json.loads(about or "{}")
    except ValueError:
        return ""
    caption = content.get("caption") if isinstance(content, dict) else None
    return caption if isinstance(caption, str) else ""


def _read_csv(file: Path) -> dict[str, str]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            if not {"path", "text"} <= set(reader.fieldnames or []):
                raise InputError(
                    f"side text {file}: needs the columns path and text, has {reader.fieldnames}"
                )
            rows = [(row["path"] or "", row["text"] or "") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"side text {file}: cannot be read as CSV: {error}") from error
    by_name = {path: text for path, text in rows if path}
    return by_name | {path_text(whole_path(path)): text for path, text in by_name.items()}
