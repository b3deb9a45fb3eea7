"""A snapshot against plain Python over the same images: who answers, in which order, told how."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.arrays import Floats, unit_rows
from pipeline.errors import InputError
from pipeline.labels.labelling import current_table
from pipeline.opening import create_store
from pipeline.search import searcher as module
from pipeline.search.index import update_index
from pipeline.search.queries import NO_FILTERS, Filters, Term
from pipeline.search.searcher import MAX_K, Searcher
from pipeline.store import Store
from pipeline.tables import FILES, LABELS
from tests.helpers import (
    IDENTITY,
    NOON,
    axis,
    embedding_rows,
    label_set,
    label_store,
    write_selection,
)

COUNT = 60
FOLDERS = ("/in/a/", "/in/ab/", "s3://bucket/a/")


@dataclass(frozen=True)
class Truth:
    """An image as the tests know it."""

    image_id: str
    vector: Floats
    paths: tuple[str, ...]  # none: it is gone
    arrived: datetime
    label: str | None = None
    labels: tuple[str, ...] = ()
    confidence: float = 0.0
    kept: bool | None = None


def name(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def moment(days: int) -> datetime:
    return NOON + timedelta(days=days)


def made(number: int, vector: Floats) -> Truth:
    paths = [f"{FOLDERS[number % 3]}{number:03}.jpg"]
    if number % 7 == 0:  # a second path elsewhere
        paths.append(f"/in/z/{number:03}.jpg")
    return Truth(
        name(number),
        vector,
        () if number % 10 == 9 else tuple(paths),
        moment(number % 5),
        label=[None, "dog", "cat"][number % 3],
        labels=("cow", "dog") if number % 4 == 0 else (),
        confidence=np.float32(number / COUNT).item(),
        kept=[True, False, None][number % 3],
    )


def fill(store: Store, images: list[Truth]) -> None:
    """Write what a run would have written of these images."""
    store.claim(IDENTITY)
    ids = [image.image_id for image in images]
    store.write_part("embeddings", "1-a", embedding_rows(ids, [i.vector for i in images]))
    seen = []
    for image in images:
        for place, path in enumerate(image.paths or (f"/in/gone/{image.image_id}.jpg",)):
            late = timedelta(days=90 * place)  # what comes a second time has not arrived then
            seen.append((path, image.image_id, "ok", image.arrived + late))
    gone = [(f"/in/gone/{i.image_id}.jpg", None, "gone", moment(30)) for i in images if not i.paths]
    for part, rows in (("1-a", seen), ("2-a", gone)):
        columns = ("path", "image_id", "status", "seen_at")
        listed = [dict(zip(columns, row, strict=True)) for row in rows]
        store.write_part("files", part, pa.Table.from_pylist(listed, FILES))
    update_index(store)


def label_as_told(store: Store, images: list[Truth]) -> None:
    label_store(store, label_set("dog", "cat", "cow"))
    told = {image.image_id: image for image in images}
    table = current_table(store)
    assert table
    for part in store.parts(table):
        rows = store.read_part(table, part).to_pylist()
        for row in rows:
            image = told[row["image_id"]]
            row |= {"label": image.label, "confidence": image.confidence, "labels": image.labels}
        fingerprint = store.fingerprint(table, part) or ""
        store.write_part(table, part, pa.Table.from_pylist(rows, LABELS), fingerprint)
    kept = {i.image_id: "train" for i in images if i.kept is True}
    write_selection(store, kept, {i.image_id: "dull" for i in images if i.kept is False})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[Truth]]:
    """A store of 60 images, six of them gone, and what it holds; tests only read it."""
    rows = unit_rows(np.random.default_rng(0).normal(size=(COUNT, 4)) + 0.5).astype(np.float16)
    images = [made(number, row.astype(np.float32)) for number, row in enumerate(rows)]
    store = create_store(str(tmp_path_factory.mktemp("searcher") / "s"))
    fill(store, images)
    label_as_told(store, images)
    return store, images


@pytest.fixture(scope="module")
def searcher(world: tuple[Store, list[Truth]]) -> Searcher:
    return Searcher.open(world[0])


def lets_pass(filters: Filters, image: Truth) -> bool:
    inside, start = filters.path_contains, filters.path_prefix
    by_path = [
        path
        for path in image.paths
        if (inside is None or inside in path) and (start is None or path.startswith(start))
    ]
    return (
        bool(by_path)
        and (not filters.labels or bool({image.label, *image.labels} & set(filters.labels)))
        and bool(np.float32(image.confidence) >= np.float32(filters.min_confidence))
        and (filters.kept is None or (image.kept is True) == filters.kept)
        and (filters.since is None or image.arrived >= filters.since)
        and (filters.until is None or image.arrived < filters.until)
    )


def slow_find(images: list[Truth], query: Floats, k: int, filters: Filters) -> list[str]:
    passing = [image for image in images if lets_pass(filters, image)]
    passing.sort(key=lambda image: -float(np.dot(image.vector, query)))
    return [image.image_id for image in passing[:k]]


some_filters = st.builds(
    Filters,
    labels=st.sampled_from([(), (), ("dog",), ("cow",), ("dog", "cat")]),
    min_confidence=st.sampled_from([0.0, 0.0, 0.25, 0.9]),
    path_contains=st.sampled_from([None, None, "/a", "z", "nowhere"]),
    path_prefix=st.sampled_from([None, None, "/in/a", "/in/a/", "s3://bucket/", "/in/z/"]),
    kept=st.sampled_from([None, None, True, False]),
    since=st.sampled_from([None, None, moment(1), moment(4)]),
    until=st.sampled_from([None, None, moment(3)]),
)


@settings(max_examples=100, deadline=None)
@example(Filters(min_confidence=0.9), 80, 0)  # of one image exactly that
@given(some_filters, st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_who_passes_the_filters_answers_nearest_first(
    world: tuple[Store, list[Truth]],
    searcher: Searcher,
    filters: Filters,
    k: int,
    seed: int,
) -> None:
    query = unit_rows(np.random.default_rng(seed).normal(size=(1, 4)))[0]
    hits = searcher.find([Term(query, "text")], k, filters)
    assert hits["image_id"].to_list() == slow_find(world[1], query, k, filters)


def test_each_row_tells_what_the_store_knows(
    world: tuple[Store, list[Truth]], searcher: Searcher
) -> None:
    hits = searcher.find([Term(axis(0), "image")], MAX_K)
    told = {image.image_id: image for image in world[1] if image.paths}
    assert set(hits["image_id"]) == set(told)
    assert hits.columns[:5] == ["image_id", "path", "label", "score", "confidence"]
    for hit in hits.iter_rows(named=True):
        image = told[hit["image_id"]]
        assert (hit["path"], hit["label"]) == (min(image.paths), image.label)
        assert hit["confidence"] == pytest.approx(image.confidence)
        assert hit["image_cosine"] == pytest.approx(float(image.vector[0]), abs=1e-6)
    assert hits["text_cosine"].null_count() == hits["standing"].null_count() == len(hits)
    about = searcher.about(name(7))
    assert (about["paths"], about["arrived"]) == (2, moment(2))
    assert (about["kept"], about["split"], about["labels"]) == (False, None, [])
    assert set(about) == {*hits.columns[:5], "paths", "arrived", "labels", "kept", "split"}


def slow_standing(images: list[Truth], terms: list[Term]) -> dict[str, float]:
    there = [image for image in images if image.paths]
    total = dict.fromkeys((image.image_id for image in there), 0.0)
    for term in terms:
        cosines = [float(np.dot(term.vector, image.vector)) for image in there]
        mean = sum(cosines) / len(cosines)
        deviation = math.sqrt(sum((cosine - mean) ** 2 for cosine in cosines) / len(cosines))
        for image, cosine in zip(there, cosines, strict=True):
            total[image.image_id] += term.weight * (cosine - mean) / deviation
    weights = sum(abs(term.weight) for term in terms)
    return {image_id: value / weights for image_id, value in total.items()}


def test_several_terms_stand_by_the_mean_of_their_z_scores(
    world: tuple[Store, list[Truth]], searcher: Searcher
) -> None:
    random = np.random.default_rng(5)
    first, second, third, fourth = unit_rows(random.normal(size=(4, 4)))
    terms = [
        Term(first, "image", 2.0),
        Term(second, "image", 0.5),
        Term(third, "text"),
        Term(fourth, "image", -1.5),
    ]
    hits = searcher.find(terms, 20)
    expected = slow_standing(world[1], terms)
    best = sorted(expected, key=lambda image_id: -expected[image_id])[:20]
    assert hits["image_id"].to_list() == best
    vectors = {image.image_id: image.vector for image in world[1]}
    for hit in hits.iter_rows(named=True):
        vector = vectors[hit["image_id"]]
        wanted = (float(vector @ first) + float(vector @ second)) / 2  # not what is unwanted
        assert hit["standing"] == pytest.approx(expected[hit["image_id"]], abs=1e-4)
        assert hit["image_cosine"] == pytest.approx(wanted, abs=1e-5)
        assert hit["text_cosine"] == pytest.approx(float(vector @ third), abs=1e-5)


def test_a_cosine_of_a_kind_that_was_not_asked_for_is_null(searcher: Searcher) -> None:
    hits = searcher.find([Term(axis(0), "text"), Term(axis(1), "image", -1.0)], 3)
    assert hits["image_cosine"].null_count() == 3
    assert hits["text_cosine"].null_count() == hits["standing"].null_count() == 0


def test_queries_of_all_sorts_in_one_pass_get_what_each_gets_alone(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = unit_rows(np.random.default_rng(1).normal(size=(7, 4)))
    queries = [[Term(vector, "text")] for vector in vectors]
    queries[2] += [Term(axis(2), "image", 3.0)]
    queries[4] = [searcher.term(name(4))]
    queries[5] = [searcher.term(name(5)), searcher.term(name(6), -1.0)]
    together = searcher.find_many(queries, 6)
    monkeypatch.setattr(module, "_CELLS", 16)  # two at a time
    for hits, same, query in zip(together, searcher.find_many(queries, 6), queries, strict=True):
        assert len(hits) == 6
        assert hits.equals(same)
        alone = searcher.find(query, 6)
        assert hits["image_id"].to_list() == alone["image_id"].to_list()
    assert searcher.find_many([], 5) == []
    nobody = searcher.find_many(queries, 6, Filters(path_contains="nowhere"))
    assert [len(hits) for hits in nobody] == [0] * 7
    assert nobody[0].schema == together[0].schema


def test_an_image_that_is_asked_for_does_not_answer_itself_unless_it_may(
    world: tuple[Store, list[Truth]], searcher: Searcher
) -> None:
    term = searcher.term(name(3))
    expected = slow_find(world[1], world[1][3].vector, 5, NO_FILTERS)
    assert searcher.find([term], 4)["image_id"].to_list() == expected[1:]
    itself = searcher.find([searcher.term(name(3), itself=True)], 5)
    assert itself["image_id"].to_list() == expected
    assert itself["image_id"][0] == name(3)
    assert itself["image_cosine"][0] == pytest.approx(1, abs=1e-3)
    away = searcher.find([term, searcher.term(name(4), -1.0)], MAX_K)
    assert not {name(3), name(4)} & set(away["image_id"])
    assert len(away) == len(searcher) - 2


def test_what_is_gone_answers_neither_when_it_is_little_nor_when_it_is_much(
    world: tuple[Store, list[Truth]], searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = world[1][9].vector  # of an image that is gone
    expected = slow_find(world[1], query, 10, NO_FILTERS)
    assert searcher.find([Term(query, "image")], 10)["image_id"].to_list() == expected
    monkeypatch.setattr(module, "_FEW_GONE", 0)
    assert searcher.find([Term(query, "image")], 10)["image_id"].to_list() == expected


def test_an_id_is_known_by_its_beginning(searcher: Searcher) -> None:
    whole = searcher.vector_of(name(3))
    assert searcher.vector_of(name(3)[:6].upper()).tolist() == whole.tolist()
    assert np.linalg.norm(whole) == pytest.approx(1, abs=1e-6)
    assert searcher.about(f" {name(3)[:9]} ")["image_id"] == name(3)
    assert searcher.holds(name(3))
    assert not searcher.holds(name(3)[:8])
    assert not searcher.holds(name(9))  # gone


def test_an_id_that_is_short_unknown_gone_or_of_many_is_told(
    tmp_path: Path, searcher: Searcher
) -> None:
    with pytest.raises(InputError, match="32 hex digits, or the first 6 or more"):
        searcher.vector_of(name(3)[:5])
    for absent in ("ffffffffff", name(9), "zzz-zzz"):
        with pytest.raises(InputError, match=f"'{absent}': .* knows no such image"):
            searcher.about(absent)
    twins = [Truth(f"abcdef{n:026}", axis(n), (f"/{n}",), NOON) for n in range(4)]
    store = create_store(str(tmp_path / "s"))
    fill(store, twins)
    with pytest.raises(InputError, match=r"'abcdef': 4 images begin so, abcdef0.* give more"):
        Searcher.open(store).term("abcdef")


@pytest.mark.parametrize("k", [0, -1, MAX_K + 1])
def test_a_number_of_images_out_of_range_is_told(searcher: Searcher, k: int) -> None:
    with pytest.raises(InputError, match=f"k must be 1 to 10,000, got {k}"):
        searcher.find([Term(axis(0), "text")], k)


def test_bad_queries_and_filters_are_told(tmp_path: Path, searcher: Searcher) -> None:
    with pytest.raises(InputError, match="a query of 2 dimensions, and images of 4"):
        searcher.find([Term(axis(0)[:2], "text")], 1)
    with pytest.raises(InputError, match="needs something to look for"):
        searcher.find([], 1)
    with pytest.raises(InputError, match="labelled 'dgo'; of 3 labels, did you mean 'dog'"):
        searcher.require(Filters(labels=("cat", "dgo")))
    with pytest.raises(InputError, match="'unicorn'; of 3 labels, none is like it"):
        searcher.require(Filters(labels=("unicorn",)))
    with pytest.raises(ValueError, match="must have a time zone"):
        Filters(since=datetime(2024, 5, 1))
    store = create_store(str(tmp_path / "s"))
    fill(store, [Truth(name(0), axis(0), ("/0",), NOON)])
    bare = Searcher.open(store)
    assert bare.find([Term(axis(0), "text"), Term(axis(1), "text")], 3)["label"].to_list() == [None]
    for filters in (Filters(labels=("dog",)), Filters(min_confidence=0.1)):
        with pytest.raises(InputError, match="holds no labels yet"):
            bare.require(filters)
    with pytest.raises(InputError, match="holds no selection yet"):
        bare.require(Filters(kept=False))
    with pytest.raises(InputError, match="no index yet"):
        Searcher.open(create_store(str(tmp_path / "empty")))


def test_a_store_whose_images_are_all_gone_answers_nothing(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    fill(store, [Truth(name(0), axis(0), (), NOON)])
    empty = Searcher.open(store)
    terms = [Term(axis(0), "text"), Term(axis(1), "text")]
    assert [len(empty.find(asked, 3)) for asked in (terms[:1], terms)] == [0, 0]


def changes(store: Store) -> Iterator[str]:
    """Change what a snapshot is made of, one thing after another."""
    yield "nothing"
    seen = {"path": "/new", "image_id": name(1), "status": "ok", "seen_at": NOON}
    store.write_part("files", "3-a", pa.Table.from_pylist([seen], FILES))
    yield "files"
    store.write_part("embeddings", "3-a", embedding_rows([name(99)], [axis(3)]))
    update_index(store)
    yield "index"
    label_store(store, label_set("dog", "cat"))
    yield "labels"
    label_store(store, label_set("dog", "cow"))
    yield "other labels"
    for applied in (False, True):  # parts are rewritten in between
        told: dict[str, object] = {"calibration": None, "answers": "a", "applied": applied}
        store.put_json(f"{current_table(store)}/calibration.json", told)
        yield f"an audit, applied: {applied}"
    write_selection(store, {name(1): "train"}, {})
    yield "a selection"


def test_a_snapshot_knows_when_the_store_has_changed(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    fill(store, [Truth(name(n), axis(n), (f"/{n}",), NOON) for n in range(3)])
    snapshot = Searcher.open(store)
    for what in changes(store):
        assert snapshot.is_current() == (what == "nothing"), what
        snapshot = Searcher.open(store)
        assert snapshot.is_current()


def test_an_open_snapshot_answers_as_it_did_whatever_becomes_of_the_store(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    fill(store, [Truth(name(n), axis(n), (f"/{n}",), NOON) for n in range(3)])
    snapshot = Searcher.open(store)
    before = snapshot.find([Term(axis(0), "image")], 3)
    seen = {"path": "/0", "status": "gone", "seen_at": NOON}
    store.write_part("files", "3-a", pa.Table.from_pylist([seen], FILES))
    for part in store.parts("embeddings"):
        store.delete(f"embeddings/{part}.parquet")
    assert snapshot.find([Term(axis(0), "image")], 3).equals(before)
    assert len(Searcher.open(store).find([Term(axis(0), "image")], 3)) == 2
