"""A tiny store, written part by part with hand-made vectors, for the tests that need one."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from PIL import Image

from pipeline.arrays import Floats, Pixels
from pipeline.clip.protocol import Lanes
from pipeline.identity import EncoderIdentity
from pipeline.images.decoding import image_id
from pipeline.images.sources import path_text
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels.labelling import label
from pipeline.labels.question import Question
from pipeline.opening import create_store
from pipeline.search.queries import NO_FILTERS, Filters, Term
from pipeline.search.searcher import Searcher
from pipeline.store import Store
from pipeline.tables import FILES, SELECTIONS, embeddings
from pipeline.training.policies import Rules
from pipeline.training.selection import SelectSettings
from pipeline.vectors import to_column

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
IDENTITY = EncoderIdentity(
    architecture="fake",
    weights="0" * 32,
    preprocessing="none",
    dimension=4,
    logit_scale=10.0,
    logit_bias=None,
)
RULES = Rules(
    policy="threshold",
    min_confidence=0.5,
    max_per_class=100,
    share=0.5,
    per_class=2,
    floor=0.0,
    min_members=1,
)
SELECTED = SelectSettings(
    rules=RULES, duplicate_cosine=0.97, split_by="near-duplicates", valid_share=0.3, truth=""
)


class OneLane:
    """Lanes for encoders that are no models."""

    @contextmanager
    def lanes(self) -> Iterator[Lanes]:
        with ThreadPoolExecutor(1) as pool:
            yield Lanes(pool, 1)


class FakeEncoder(OneLane):
    """An encoder of 4 dimensions that needs no model: a text points along the axis it is given."""

    identity = IDENTITY

    def __init__(self, axes: dict[str, int] | None = None) -> None:
        self.axes = axes or {}
        self.asked: list[list[str]] = []  # the texts of every call

    def fit(self, image: Image.Image) -> Image.Image:
        return image.resize((2, 2))

    def encode_images(self, pixels: Pixels) -> Floats:
        return np.tile(axis(0), (len(pixels), 1))

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        self.asked.append(list(texts))
        return np.array([axis(self.axes[text]) for text in texts], np.float32).reshape(-1, 4)

    def cut(self, texts: Sequence[str]) -> list[bool]:
        return [len(text.split()) > 4 for text in texts]  # it reads four words

    def length(self, text: str) -> tuple[int, int]:
        return len(text.split()), 4


def axis(number: int) -> Floats:
    """Return a unit vector (4,) along one axis."""
    vector: Floats = np.eye(4, dtype=np.float32)[number]
    return vector


def label_set(*names: str, aliases: dict[str, tuple[str, ...]] | None = None) -> LabelSet:
    """Return a label set of these classes."""
    classes = [{"name": name, "aliases": (aliases or {}).get(name, ())} for name in names]
    return LabelSet.model_validate({"name": "tests", "classes": classes})


def draw(path: Path, colour: str) -> Path:
    """Write a one-colour picture, its folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), colour).save(path)
    return path


def make_store(
    root: Path,
    images: dict[Path, Floats],
    *,
    unreadable: dict[Path, str] | None = None,
    gone: Sequence[Path] = (),
) -> Store:
    """Make a store that has seen these files: vectors by path, and reasons where there is none.

    Two paths whose files hold the same bytes are one image, of the first one's vector.
    """
    store = create_store(str(root))
    store.claim(IDENTITY)
    vectors: dict[str, Floats] = {}
    seen: list[tuple[Path, str | None, str, str | None]] = []
    for path, vector in images.items():
        identity = image_id(path.read_bytes())
        vectors.setdefault(identity, vector)
        seen.append((path, identity, "ok", None))
    seen += [(path, None, "unreadable", reason) for path, reason in (unreadable or {}).items()]
    write_observations(store, "20240101T000000000000-00000", seen)
    went: list[tuple[Path, str | None, str, str | None]]
    went = [(path, None, "gone", "no longer there") for path in gone]
    write_observations(store, "20240102T000000000000-scan", went)
    rows = embedding_rows(list(vectors), list(vectors.values()))
    store.write_part("embeddings", "20240101T000000000000-00000", rows)
    return store


def embedding_rows(ids: list[str], vectors: list[Floats]) -> pa.Table:
    """Return rows of `embeddings` with vectors (4,)."""
    size = len(ids)
    columns = [
        pa.array(ids),
        pa.array([4] * size),
        pa.array([3] * size),
        pa.array(["PNG"] * size),
        to_column(np.array(vectors, np.float16).reshape(size, 4)),
    ]
    return pa.table(columns, names=embeddings(4).names).cast(embeddings(4))


def write_observations(
    store: Store, part: str, seen: Sequence[tuple[Path, str | None, str, str | None]]
) -> None:
    """Write a part of `files`: path, image id, status and reason each."""
    rows = [
        {
            "path": path_text(str(path)),
            "source": path_text(str(path.parent)),
            "image_id": identity,
            "bytes": 1,
            "mtime": NOON,
            "status": status,
            "reason": reason,
            "run_id": part.split("-")[0],
            "seen_at": NOON,
        }
        for path, identity, status, reason in seen
    ]
    store.write_part("files", part, pa.Table.from_pylist(rows, FILES))


def label_store(store: Store, classes: LabelSet, *, abstain_below: float = 0.0) -> None:
    """Label the store: class i points along axis i."""
    text = LabelVectors(
        classes=np.eye(4, dtype=np.float32)[: len(classes.classes)],
        rejects=np.empty((0, 4), np.float32),
    )
    asked = Question(label_set=classes, top_k=2, abstain_below=abstain_below)
    label(store, asked, text)


def write_selection(store: Store, kept: dict[str, str], left_out: dict[str, str]) -> None:
    """Write a selection by hand: the split of each image kept, the reason of each left out."""
    rows = [{"image_id": i, "kept": True, "split": split} for i, split in kept.items()]
    refused = [{"image_id": i, "kept": False, "reason": why} for i, why in left_out.items()]
    table = pa.Table.from_pylist([*rows, *refused], SELECTIONS)
    store.write_part("selections/default", "selection", table)


def nearest(store: Store, query: Floats, k: int, filters: Filters = NO_FILTERS) -> pl.DataFrame:
    """Return the k images of a store that are most similar to an image's vector (D,)."""
    return Searcher.open(store).find([Term(query, "image")], k, filters)
