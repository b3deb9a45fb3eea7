"""Side information of the images of a store: the one door through which heads get it.

    side = read_side(store, settings, label_set, encoder, images)
    encoding = side.fit(training_rows)     # saved with the head as encoding.as_json()
    numbers = side.encode(encoding, rows)  # (n, S)

and to predict: `read_side` with `encoding.settings`, then `encode` with the encoding that was
saved. Shapes: N images, n of them, S side dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from pipeline.arrays import Bools, Floats, Ints
from pipeline.clip.protocol import ImageEncoder
from pipeline.errors import InputError
from pipeline.label_set import LabelSet
from pipeline.store import Store
from pipeline.training.side.columns import Choice, Column, choose, mask, values
from pipeline.training.side.encoding import SideEncoding, encode_column, fit_column
from pipeline.training.side.settings import SideSettings
from pipeline.training.side.table import find_rows, read_table
from pipeline.training.side.texts import TextVectors, embed_texts, masked_texts
from pipeline.training.side.words import words_of

_WHAT = "side columns"


@dataclass(frozen=True)
class _Table:
    """The user's table, and which row of it is about which image."""

    rows: pl.DataFrame  # as read
    place: Ints  # (N,); -1: none


@dataclass
class SideInformation:
    """What is known of N images beside their pixels."""

    settings: SideSettings
    images: int  # N
    texts: list[str] | None  # masked; empty: the image has none; None: none are asked for
    _table: _Table | None
    _words: list[str]  # of the labels
    _embed: Callable[[list[str]], TextVectors]
    _vectors: TextVectors | None = None
    _values: dict[Column, pl.DataFrame] = field(default_factory=dict)
    _masked: dict[Column, int] = field(default_factory=dict)  # rows of the table that changed

    def columns(self) -> Choice:
        """Choose the columns of the table; raises as `columns.choose`."""
        if self._table is None:
            return Choice((), ())
        return choose(self._table.rows, self.settings.use, self.settings.columns)

    def fit(self, rows: Ints) -> SideEncoding:
        """Fit how everything becomes numbers to the training rows.

        Raises:
            InputError: no image has any side information, or a value is not of its column's kind.
        """
        if self.texts is not None and not any(self.texts):
            raise InputError(
                f"side text {self.settings.text}: no image here has any, the words of the labels "
                "left out; is it of these images?"
            )
        if self._table is not None and not (self._table.place >= 0).any():
            raise InputError(
                f"side columns {self.settings.columns}: none of its rows is of an image here: "
                "compare its column path (or image_id) with the store's"
            )
        codes = tuple(fit_column(c, self.column(c, rows)) for c in self.columns().columns)
        width = 0 if self.texts is None else self._text_vectors().vectors.shape[1]
        return SideEncoding(self.settings, width, codes)

    def encode(self, encoding: SideEncoding, rows: Ints | None = None) -> Floats:
        """Return the numbers (n, S) of some images, or of all; what is unknown is zeros.

        Raises:
            InputError: the table lacks a column of the encoding, or a value is not of its kind.
        """
        rows = np.arange(self.images) if rows is None else rows
        parts = [np.empty((len(rows), 0), np.float32)]
        if encoding.text:
            parts.append(self._text_vectors().rows(rows))
        parts += [
            encode_column(code, self.column(Column(code.kind, code.names), rows))
            for code in encoding.columns
        ]
        return np.concatenate(parts, axis=1)

    def known(self) -> Bools:
        """Tell of which images (N,) anything is known at all."""
        there = np.zeros(self.images, bool)
        if self.texts is not None:
            there |= np.array([bool(text) for text in self.texts], bool)
        if self._table is not None:
            there |= self._table.place >= 0
        return there

    def column(self, column: Column, rows: Ints) -> pl.DataFrame:
        """Return a column's values of some images; null where there is none."""
        assert self._table is not None, "only a table has columns"
        if column not in self._values:
            known = values(self._table.rows, column, self.settings.columns)
            if column.kind == "categorical":
                known, self._masked[column] = mask(known, self._words)
            nothing = pl.DataFrame({name: [None] for name in known.columns}, known.schema)
            self._values[column] = pl.concat([known, nothing])  # row -1: of who has none
        held, place = self._values[column], self._table.place[rows]
        return held[np.where(place < 0, len(held) - 1, place)]

    def told(self) -> list[str]:
        """Say what is taken, how much of it there is, and what is left out."""
        lines = []
        if self.texts is not None:
            having = sum(bool(text) for text in self.texts)
            lines.append(f"{self.settings.text}: {having} of {self.images} images have a text")
        if self._table is not None:
            choice = self.columns()
            found = self._table.place[self._table.place >= 0]
            size = len(self._table.rows)
            lines.append(
                f"{self.settings.columns}: {', '.join(map(str, choice.columns))}; "
                f"{self.images - len(found)} of {self.images} images have no row, "
                f"{size - len(np.unique(found))} of {size} rows match no image"
            )
            lines += choice.told
            lines += [
                f"{column.names[0]}: words of labels were taken out of {rows} rows"
                for column, rows in self._masked.items()
                if rows
            ]
        return lines

    def _text_vectors(self) -> TextVectors:
        if self._vectors is None:
            self._vectors = self._embed(self.texts or [""] * self.images)
        return self._vectors


def read_side(
    store: Store,
    settings: SideSettings,
    label_set: LabelSet,
    encoder: Callable[[], ImageEncoder],
    images: pl.DataFrame,
) -> SideInformation:
    """Read what is known of images beside their pixels.

    Args:
        store: caches text vectors, and knows under which paths an image lies.
        settings: what is to be used.
        label_set: whose words are taken out of texts and categories.
        encoder: called only when texts are to be embedded that never were.
        images: image_id and path, one row per image.

    Raises:
        InputError: a file cannot be used; it is named.
    """
    table = None
    if settings.columns:
        rows = read_table(_WHAT, settings.columns)
        table = _Table(rows, find_rows(_WHAT, settings.columns, rows, store, images))
    texts = masked_texts(store, settings.text, images, label_set)

    def embed(given: list[str]) -> TextVectors:
        return embed_texts(store, given, encoder)

    return SideInformation(settings, len(images), texts, table, words_of(label_set), embed)
