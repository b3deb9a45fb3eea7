"""Side texts: what is written about an image, masked, and as vectors of the same CLIP.

A file's name may give its label away. Class names and aliases are therefore taken out of a text
before it is embedded, and folders are never looked at.
Shapes: N images, T distinct texts, D embedding dimensions.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.arrays import Floats, Ints
from pipeline.caching import cached_arrays, keep_arrays
from pipeline.captions import captions_of, current_captions
from pipeline.catalog import side_info
from pipeline.clip.protocol import ImageEncoder
from pipeline.errors import InputError
from pipeline.identity import digest
from pipeline.label_set import LabelSet
from pipeline.store import Store
from pipeline.training.side.settings import CAPTIONS, FIELD, FILE_NAME, NONE, SHARDS
from pipeline.training.side.table import find_rows, read_table
from pipeline.training.side.words import without, words_of, words_of_name

_WHAT = "side text"


@dataclass(frozen=True)
class TextVectors:
    """Each distinct text once, and which one every image has."""

    vectors: Floats  # (T, D), rows of unit length
    place: Ints  # (N,) row of the image's text; -1: it has none

    def rows(self, images: Ints) -> Floats:
        """Return (n, D) for some images; one without text gets a zero row."""
        place = self.place[images]
        there = place >= 0
        taken = np.zeros((len(images), self.vectors.shape[1]), np.float32)
        taken[there] = self.vectors[place[there]]
        return taken


def masked_texts(
    store: Store, kind: str, images: pl.DataFrame, label_set: LabelSet
) -> list[str] | None:
    """Return the text of each image without the words of the label set; empty: it has none.

    Args:
        store: holds captions and what tars tell of their members.
        kind: as in SideSettings.
        images: image_id and path of N images.
        label_set: whose words are taken out.

    Returns:
        N texts; None where none are asked for.

    Raises:
        InputError: the CSV file cannot be used, or there are no captions.
    """
    if kind == NONE:
        return None
    texts, words = _texts(store, kind, images), words_of(label_set)
    masked = {text: without(text, words) for text in set(texts)}
    return [masked[text] for text in texts]


def embed_texts(
    store: Store, texts: Sequence[str], encoder: Callable[[], ImageEncoder]
) -> TextVectors:
    """Embed texts, each distinct one once, with the store's own text tower.

    Args:
        store: keeps the vectors.
        texts: of N images.
        encoder: called only when the vectors are not kept yet.
    """
    distinct = sorted(set(texts) - {""})
    number = {text: row for row, text in enumerate(distinct)}
    place = np.array([number.get(text, -1) for text in texts], np.int64)
    return TextVectors(_cached(store, distinct, encoder), place)


def _texts(store: Store, kind: str, images: pl.DataFrame) -> list[str]:
    if kind == FILE_NAME:
        return [words_of_name(path) for path in images["path"]]
    if kind == CAPTIONS:
        captions = _captions(store)
        return [captions.get(image_id, "") for image_id in images["image_id"]]
    if kind == SHARDS or kind.startswith(FIELD):
        told = _told_by_shards(store, kind.removeprefix(FIELD) if kind != SHARDS else "")
        return [told.get(path, "") for path in images["path"]]
    table = read_table(_WHAT, kind, ["text"])
    given = table["text"].cast(pl.String).fill_null("").to_list()
    return [given[row] if row >= 0 else "" for row in find_rows(_WHAT, kind, table, store, images)]


def _captions(store: Store) -> dict[str, str]:
    if current_captions(store) is None:
        raise InputError(
            f"{store.location} holds no captions yet: `pseudolabel caption` writes them, or choose "
            "another train.side_text"
        )
    return captions_of(store)


def _told_by_shards(store: Store, field: str) -> dict[str, str]:
    """Return the text of each tar member: a field of its key.json, or its key.txt, else caption."""
    rows = side_info(store).select("path", "text", "json").iter_rows()
    if field:
        return {path: _field(about, field) for path, _, about in rows}
    return {path: text or _field(about, "caption") for path, text, about in rows}


def _field(about: str | None, field: str) -> str:
    """Return a text, or several joined, of a JSON object; "a.b" is field b of the object a."""
    try:
        content = json.loads(about or "{}")
    except ValueError:
        return ""
    for name in [field] if isinstance(content, dict) and field in content else field.split("."):
        content = content.get(name) if isinstance(content, dict) else None
    parts = content if isinstance(content, list) else [content]
    return " ".join(part for part in parts if isinstance(part, str))


def _cached(store: Store, texts: list[str], encoder: Callable[[], ImageEncoder]) -> Floats:
    identity = store.identity()
    if not texts and identity:
        return np.empty((0, identity.dimension), np.float32)
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
