"""Answering: a batch of questions in; each answered from one snapshot, in few calls for all.

All texts and pictures of a batch go through the model together, and the index is asked once for all
that have the same filters. Runs in one thread.
Shapes: H x W the model's input size, D embedding dimensions.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from flows.api.following import Follower, Snapshot
from pipeline.arrays import Floats, Pixels
from pipeline.clip.prompts import embed_labels, held_label_vectors, unreadable
from pipeline.clip.protocol import ImageEncoder
from pipeline.errors import InputError
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels.classify import Answer, classify
from pipeline.search.queries import Filters, Term
from pipeline.search.searcher import MAX_K

_BATCH = 64  # pictures that go through the model at once
_TEXTS, _LABEL_SETS = 4096, 16  # vectors that are kept: 8 MB of 512 dimensions; 16 sets


@dataclass(frozen=True)
class Words:
    """A text to look for."""

    text: str
    weight: float


@dataclass(frozen=True)
class Shown:
    """A picture to look for."""

    pixels: Pixels  # (H, W, 3)
    weight: float


@dataclass(frozen=True)
class Held:
    """An image of the store to look for."""

    image_id: str
    weight: float


@dataclass(frozen=True)
class Looking:
    """A search."""

    terms: Sequence[Words | Shown | Held]
    k: int
    filters: Filters


@dataclass(frozen=True)
class Naming:
    """Pictures to classify."""

    pictures: Sequence[Pixels]  # (H, W, 3) each
    label_set: LabelSet | None = None  # null: the one in force
    top_k: int | None = None  # labels per picture; null: as in force


@dataclass(frozen=True)
class Found:
    """The answer to a search."""

    hits: pl.DataFrame  # as `Searcher.find_many` returns them
    snapshot: Snapshot

    def json(self) -> bytes:
        """Return it as `models.SearchAnswer`; 10,000 rows would keep pydantic busy for long."""
        about = {"images": len(self.snapshot.searcher), "snapshot": self.snapshot.at.isoformat()}
        return f'{{"hits":{self.hits.write_json()},{json.dumps(about)[1:]}'.encode()


Question = Looking | Naming
Reply = Found | list[Answer]


class Answerer:
    """Has a model and a store answer."""

    def __init__(self, encoder: ImageEncoder, follower: Follower) -> None:
        """Answer from whatever snapshot is in force."""
        self._encoder, self._follower = encoder, follower
        self._texts: OrderedDict[str, Floats | InputError] = OrderedDict()
        self._label_sets: OrderedDict[str, LabelVectors] = OrderedDict()

    def __call__(self, questions: Sequence[Question]) -> list[Reply | Exception]:
        """Answer each question, or say why not."""
        snapshot = self._follower.now
        texts = self._embedded(
            term.text
            for question in questions
            if isinstance(question, Looking)
            for term in question.terms
            if isinstance(term, Words)
        )
        pictures = iter(self._seen([pixels for q in questions for pixels in _pictures(q)]))
        answers: list[Reply | Exception] = [RuntimeError("not asked")] * len(questions)
        searches: dict[tuple[int, Filters], list[tuple[int, list[Term]]]] = {}
        for place, question in enumerate(questions):
            own = [next(pictures) for _ in _pictures(question)]
            try:
                if isinstance(question, Naming):
                    answers[place] = self._named(question, own, snapshot)
                else:
                    terms = _terms(question, texts, iter(own), snapshot)
                    # Those who want 10 or 12 are asked together for 16.
                    most = min(1 << (question.k - 1).bit_length(), MAX_K)
                    searches.setdefault((most, question.filters), []).append((place, terms))
            except InputError as error:
                answers[place] = error
        for (most, filters), asked in searches.items():
            found = _searched(snapshot, [terms for _, terms in asked], most, filters)
            for (place, _), hits in zip(asked, found, strict=True):
                question = questions[place]
                if isinstance(hits, pl.DataFrame) and isinstance(question, Looking):
                    answers[place] = Found(hits.head(question.k), snapshot)
                elif isinstance(hits, Exception):
                    answers[place] = hits
        return answers

    def _embedded(self, wanted: Iterable[str]) -> dict[str, Floats | InputError]:
        """Return the vector (D,) of each text, or that the model cannot read it whole."""
        distinct = list(dict.fromkeys(wanted))
        new = [text for text in distinct if text not in self._texts]
        if new:
            wrong = unreadable(new, self._encoder)
            for text, vector in zip(new, self._encoder.encode_texts(new), strict=True):
                self._texts[text] = InputError(wrong[text]) if text in wrong else vector
        told = {text: self._texts[text] for text in distinct}
        for text in distinct:
            self._texts.move_to_end(text)
        while len(self._texts) > _TEXTS:
            self._texts.popitem(last=False)
        return told

    def _seen(self, pictures: list[Pixels]) -> Floats:
        """Return (n, D) vectors."""
        batches = [pictures[at : at + _BATCH] for at in range(0, len(pictures), _BATCH)]
        nothing = np.empty((0, self._encoder.identity.dimension), np.float32)
        return np.concatenate(
            [nothing, *(self._encoder.encode_images(np.stack(batch)) for batch in batches)]
        )

    def _named(self, question: Naming, vectors: list[Floats], snapshot: Snapshot) -> list[Answer]:
        run = snapshot.labelled.run if snapshot.labelled else None
        label_set = question.label_set or (run.label_set if run else None)
        if label_set is None:
            raise InputError(
                "the store has no label set yet; send labels, such as labels=dog,cat,car"
            )
        return classify(
            np.stack(vectors),
            label_set,
            self._label_vectors(label_set, snapshot),
            self._encoder.identity,
            top_k=min(question.top_k or (run.top_k if run else 5), len(label_set.names)),
            abstain_below=run.abstain_below if run and not question.label_set else 0.0,
        )

    def _label_vectors(self, label_set: LabelSet, snapshot: Snapshot) -> LabelVectors:
        key = label_set.fingerprint()
        held = self._label_sets.get(key) or held_label_vectors(snapshot.store, label_set)
        self._label_sets[key] = held or embed_labels(label_set, self._encoder, warn=False)
        self._label_sets.move_to_end(key)
        while len(self._label_sets) > _LABEL_SETS:
            self._label_sets.popitem(last=False)
        return self._label_sets[key]


def _searched(
    snapshot: Snapshot, queries: list[list[Term]], k: int, filters: Filters
) -> Sequence[pl.DataFrame | Exception]:
    """Search for all at once; where one of them cannot be answered, for each alone."""
    try:
        return snapshot.searcher.find_many(queries, k, filters)
    except InputError as error:
        if len(queries) == 1:
            return [error]
        return [_searched(snapshot, [query], k, filters)[0] for query in queries]


def _terms(
    question: Looking,
    texts: dict[str, Floats | InputError],
    pictures: Iterable[Floats],
    snapshot: Snapshot,
) -> list[Term]:
    seen, terms = iter(pictures), []
    for term in question.terms:
        if isinstance(term, Held):
            terms.append(snapshot.searcher.term(term.image_id, term.weight))
        elif isinstance(term, Shown):
            terms.append(Term(next(seen), "image", term.weight))
        else:
            vector = texts[term.text]
            if isinstance(vector, InputError):
                raise vector
            terms.append(Term(vector, "text", term.weight))
    return terms


def _pictures(question: Question) -> list[Pixels]:
    if isinstance(question, Naming):
        return list(question.pictures)
    return [term.pixels for term in question.terms if isinstance(term, Shown)]
