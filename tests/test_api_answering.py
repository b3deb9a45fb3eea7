"""A batch of questions is answered in few calls, and as if each had been asked alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import polars as pl
import pytest

from flows.api.answering import Answerer, Found, Held, Looking, Naming, Question, Shown, Words
from flows.api.following import Follower, open_snapshot
from pipeline.arrays import Floats, Pixels
from pipeline.clip.encoder import Encoder
from pipeline.errors import InputError
from pipeline.search.queries import NO_FILTERS, Filters, Term
from pipeline.search.searcher import Searcher
from tests.conftest import demo_config

if TYPE_CHECKING:
    from pipeline.clip.protocol import ImageEncoder

KIWIS = Filters(labels=("kiwi",))


class Counting:
    """The tiny CLIP, counting how often it is called and with how much."""

    def __init__(self, tiny: Encoder) -> None:
        self._tiny, self.identity = tiny, tiny.identity
        self.texts: list[int] = []
        self.pictures: list[int] = []

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        self.texts.append(len(texts))
        return self._tiny.encode_texts(texts)

    def encode_images(self, pixels: Pixels) -> Floats:
        self.pictures.append(len(pixels))
        return self._tiny.encode_images(pixels)

    def __getattr__(self, name: str) -> object:
        return getattr(self._tiny, name)


@pytest.fixture(scope="module")
def follower(demo_store: Path, tiny: Encoder) -> Follower:
    config = demo_config(demo_store)
    return Follower(
        open_snapshot(config, tiny.identity),
        lambda before: open_snapshot(config, tiny.identity, before),
        seconds=1,
    )


@pytest.fixture
def counting(tiny: Encoder) -> Counting:
    return Counting(tiny)


@pytest.fixture
def answerer(counting: Counting, follower: Follower) -> Answerer:
    return Answerer(cast("ImageEncoder", counting), follower)


def looking(text: str, k: int = 5, filters: Filters = NO_FILTERS) -> Looking:
    return Looking([Words(text, 1.0)], k, filters)


def noise(tiny: Encoder, seed: int) -> Pixels:
    shape = (*tiny.fit.size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_a_batch_takes_one_call_of_the_model_and_one_of_the_index(
    answerer: Answerer,
    counting: Counting,
    follower: Follower,
    tiny: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches: list[int] = []
    whole = Searcher.find_many

    def find_many(
        self: Searcher, queries: Sequence[Sequence[Term]], k: int, filters: Filters = NO_FILTERS
    ) -> list[pl.DataFrame]:
        searches.append(len(queries))
        return whole(self, queries, k, filters)

    monkeypatch.setattr(Searcher, "find_many", find_many)
    texts = ["a dog", "a kiwi", "a truck", "a dog"]
    questions: list[Question] = [
        looking(text, k) for text, k in zip(texts, (5, 6, 7, 8), strict=True)
    ]
    pictures = [noise(tiny, seed) for seed in range(3)]
    questions += [Looking([Shown(pictures[0], 1.0), Words("a ship", 1.0)], 5, NO_FILTERS)]
    questions += [Naming(pictures[1:])]
    answers = answerer(questions)
    assert (counting.texts, counting.pictures, searches) == ([4], [3], [5])
    answerer([looking("a dog"), looking("a kiwi", filters=KIWIS)])
    assert counting.texts == [4]  # known already
    assert searches == [5, 1, 1]  # other filters are another search
    for question, answer in zip(questions[:4], answers, strict=False):
        assert isinstance(question, Looking)
        [term] = question.terms
        assert isinstance(term, Words)
        vector = tiny.encode_texts([term.text])[0]
        expected = follower.now.searcher.find([Term(vector, "text")], question.k)
        assert isinstance(answer, Found)
        assert answer.hits["image_id"].to_list() == expected["image_id"].to_list()
    picture = Term(tiny.encode_images(pictures[0][None])[0], "image")
    ship = Term(tiny.encode_texts(["a ship"])[0], "text")
    expected = follower.now.searcher.find([picture, ship], 5)
    assert isinstance(answers[4], Found)
    assert answers[4].hits["image_id"].to_list() == expected["image_id"].to_list()
    assert isinstance(answers[5], list)
    assert len(answers[5]) == 2


def test_bad_questions_leave_their_companions_alone(answerer: Answerer) -> None:
    answers = answerer(
        [
            looking("a dog"),
            Looking([Held("0" * 32, 1.0)], 5, NO_FILTERS),
            looking("dog " * 400),
            looking("a dog", filters=Filters(labels=("zebra",))),
            Looking([Words("a dog", -1.0)], 5, NO_FILTERS),
            Looking([], 5, NO_FILTERS),
            looking("a cat", filters=KIWIS),
        ]
    )
    assert [isinstance(answer, InputError) for answer in answers] == [
        *(False, True, True, True, True, True, False)
    ]
    alone = answerer([looking("a dog")])[0]
    assert isinstance(answers[0], Found)
    assert isinstance(alone, Found)
    assert answers[0].hits.equals(alone.hits)
    last = answers[6]
    assert isinstance(last, Found)
    assert set(last.hits["label"]) == {"kiwi"}


def test_pictures_go_back_to_who_sent_them(answerer: Answerer, tiny: Encoder) -> None:
    pictures = [noise(tiny, seed) for seed in range(4)]
    questions: list[Question] = [
        Naming(pictures[:1], top_k=3),
        Looking([Words("a dog", 1.0), Shown(pictures[1], 1.0)], 4, NO_FILTERS),
        Looking([Held("0" * 32, 1.0), Shown(pictures[2], 1.0)], 4, NO_FILTERS),  # fails
        Naming(pictures[3:], top_k=3),
    ]
    together = answerer(questions)
    for place in (0, 1, 3):
        alone, answer = answerer([questions[place]])[0], together[place]
        if isinstance(answer, Found):
            assert isinstance(alone, Found)
            assert answer.hits["image_id"].to_list() == alone.hits["image_id"].to_list()
        else:
            assert isinstance(answer, list)
            assert isinstance(alone, list)
            assert [e.label for e in answer[0].top] == [e.label for e in alone[0].top]
            got, expected = ([e.score for e in a[0].top] for a in (answer, alone))
            assert got == pytest.approx(expected, abs=1e-4)
    assert together[0] != together[3]
