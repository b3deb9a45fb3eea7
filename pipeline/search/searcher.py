"""Searcher: a snapshot of a store that answers queries, without reading anything for them.

Shapes: Q queries, K images asked for, D embedding dimensions, M images that are there.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from pipeline.arrays import Floats, Ints, unit_rows
from pipeline.errors import InputError
from pipeline.search.answers import Hits, tables
from pipeline.search.index import SearchIndex, load_index
from pipeline.search.known import Known, know, state_of
from pipeline.search.queries import NO_FILTERS, Combination, Filters, Moments, Term, combine
from pipeline.store import Store

MAX_K = 10_000
_SAMPLE = 16_384  # images whose spread is measured: it is known to some 0.6 %
_CELLS = 1 << 24  # queries x images of one search: 200 MB
_FEW_GONE = 100
_ABOUT = ("image_id", "path", "label", "score", "confidence")


@dataclass(frozen=True)
class _Asked:
    """A query, ready to be searched."""

    terms: Sequence[Term]
    combination: Combination
    left_out: Ints  # rows of the index


def require_k(k: int) -> None:
    """Raise InputError over a number of images that cannot be asked for."""
    if not 1 <= k <= MAX_K:
        raise InputError(f"k must be 1 to {MAX_K:,}, got {k}")


class Searcher:
    """A snapshot of one store: its index, and what is known of the images that are there."""

    def __init__(self, store: Store, index: SearchIndex, known: Known, state: str) -> None:
        """Use `Searcher.open`."""
        self._store, self._index, self._known, self._state = store, index, known, state
        self._shown = known.images.select(_ABOUT)
        self._moments: Moments | None = None
        self._measuring = threading.Lock()

    @classmethod
    def open(cls, store: Store, earlier: "Searcher | None" = None) -> "Searcher":
        """Read what a store holds now.

        Args:
            store: the store.
            earlier: one opened before; files of the index that it holds are not read again.

        Raises:
            InputError: it has no index yet.
            DamagedFileError: a file is not as it was written.
        """
        state = state_of(store)  # before the rest: what changes meanwhile makes it outdated
        index = load_index(store, earlier._index if earlier else None)
        return cls(store, index, know(store, index.ids), state)

    def is_current(self) -> bool:
        """Tell whether the store is as it was when it was opened; lists folders, reads no table."""
        return state_of(self._store) == self._state

    def __len__(self) -> int:
        """Return M."""
        return len(self._known.images)

    def find(self, terms: Sequence[Term], k: int, filters: Filters = NO_FILTERS) -> pl.DataFrame:
        """Find the k images that are most like what is asked for; see `find_many`."""
        return self.find_many([terms], k, filters)[0]

    def find_many(
        self, queries: Sequence[Sequence[Term]], k: int, filters: Filters = NO_FILTERS
    ) -> list[pl.DataFrame]:
        """Find the k images that are most like what each of Q queries asks for.

        Args:
            queries: one or more terms each, one of them at least of a weight above 0.
            k: 1 to MAX_K.
            filters: which images may answer.

        Returns:
            For each query at most k images, the most similar first: image_id, path, label, score,
            confidence, image_cosine, text_cosine, standing. The cosines are the mean ones with the
            images and with the texts of a weight above 0, null where there are none. `standing`,
            by which the answers to several terms are in order, is explained in `queries.combine`;
            it is null for one term. An image that is a term (`Term.image_id`) is left out.

        Raises:
            InputError: k is out of range, a query has no term, none of a weight above 0, terms that
                cancel one another out or of another dimension, or a filter asks for what the store
                does not hold.
        """
        require_k(k)
        among, gone = self._known.among(filters), 0
        if filters == NO_FILTERS and among is not None:
            gone = len(self._index) - len(among)
            if gone <= _FEW_GONE:  # to leave these out afterwards is cheaper than to name the rest
                among = None
        asked = [_Asked(terms, self._combine(terms), self._left_out(terms)) for terms in queries]
        wanted = k + gone + max((len(one.left_out) for one in asked), default=0)
        wanted = min(wanted, len(self._index) if among is None else len(among))
        step = max(1, _CELLS // max(wanted, 1))
        answers: list[pl.DataFrame] = []
        for at in range(0, len(asked), step):
            answers += tables(
                self._shown,
                self._known.place,
                self._search(asked[at : at + step], k, wanted, among),
            )
        return answers

    def require(self, filters: Filters) -> None:
        """Raise InputError over filters that ask for what the store does not hold."""
        self._known.among(filters)

    def check(self, terms: Sequence[Term]) -> None:
        """Raise InputError over a query that `find` would refuse."""
        self._combine(terms)

    def term(self, image_id: str, weight: float = 1.0, *, itself: bool = False) -> Term:
        """Return an image of the store as a term.

        Args:
            image_id: its id, or the beginning of it.
            weight: below 0: away from it.
            itself: whether the image may answer, too.

        Raises:
            InputError: the id is unknown, or several begin so.
        """
        place = self._known.find(image_id)
        held = None if itself else str(self._shown["image_id"][place])
        return Term(self._vector(place), "image", weight, held)

    def holds(self, image_id: str) -> bool:
        """Tell whether an image of this whole id is there."""
        try:
            return bool(self._shown["image_id"][self._known.find(image_id)] == image_id)
        except InputError:
            return False

    def vector_of(self, image_id: str) -> Floats:
        """Return the vector (D,) of an image, of unit length.

        Raises:
            InputError: no image that is there has this id, or several begin so.
        """
        return self._vector(self._known.find(image_id))

    def about(self, image_id: str) -> dict[str, Any]:
        """Return what is known of an image.

        image_id, path, paths (how many), arrived (when it was first seen), label, score,
        confidence, labels (of a multi-label set), kept and split (of the selection); null where
        nothing is known.

        Raises:
            InputError: no image that is there has this id, or several begin so.
        """
        row = self._known.images.row(self._known.find(image_id), named=True)
        return {name: value for name, value in row.items() if name != "row"}

    def _vector(self, place: int) -> Floats:
        vector: Floats = unit_rows(self._index.vectors(self._known.rows[place : place + 1]))[0]
        return vector

    def _combine(self, terms: Sequence[Term]) -> Combination:
        if not terms:
            raise InputError("a query needs something to look for: a text, an image or an id")
        for term in terms:
            if len(term.vector) != self._index.dimension:
                raise InputError(
                    f"a query of {len(term.vector)} dimensions, and images of "
                    f"{self._index.dimension}: vectors of two encoders cannot be compared"
                )
        if len(terms) == 1 and terms[0].weight > 0:
            return Combination(terms[0].vector)
        return combine(terms, self._measured())

    def _measured(self) -> Moments:
        with self._measuring:
            if self._moments is None:
                rows = self._known.rows
                if len(rows) > _SAMPLE:
                    drawn = np.random.default_rng(0).choice(len(rows), _SAMPLE, replace=False)
                    rows = rows[np.sort(drawn)]
                self._moments = Moments.of(self._index.vectors(rows))
            return self._moments

    def _left_out(self, terms: Sequence[Term]) -> Ints:
        held = [term.image_id for term in terms if term.image_id is not None]
        places = [self._known.find(image_id) for image_id in held]
        return self._known.rows[np.array(places, np.int64)]

    def _search(
        self, asked: Sequence[_Asked], k: int, wanted: int, among: Ints | None
    ) -> list[Hits]:
        """Search for all at once; `wanted` images each, of which k answer."""
        if not wanted:
            return [Hits(np.empty(0, np.int64), {}) for _ in asked]
        vectors = np.stack([one.combination.vector for one in asked])
        found = self._index.search(vectors, wanted, among)
        answers = []
        for one, rows, cosines in zip(asked, found.rows, found.cosines, strict=True):
            hit = (rows >= 0) & (self._known.place[rows] >= 0)
            if len(one.left_out):
                hit &= ~np.isin(rows, one.left_out)
            rows, cosines = rows[hit][:k], cosines[hit][:k]
            answers.append(Hits(rows, self._numbers(one, rows, cosines)))
        return answers

    def _numbers(self, asked: _Asked, rows: Ints, cosines: Floats) -> dict[str, Floats]:
        """Return image_cosine, text_cosine and standing, those that there are."""
        if len(asked.terms) == 1:
            return {f"{asked.terms[0].kind}_cosine": cosines}
        one = asked.combination
        numbers: dict[str, Floats] = {"standing": cosines * one.factor + one.offset}
        vectors = self._index.vectors(rows)
        for kind in ("image", "text"):
            terms = [t.vector for t in asked.terms if t.kind == kind and t.weight > 0]
            if terms:
                numbers[f"{kind}_cosine"] = vectors @ np.mean(terms, axis=0)
        return numbers
