"""Labels of a store, refined: drop after drop, and what its rows say."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.arrays import Floats, unit_rows
from pipeline.errors import InputError
from pipeline.identity import EncoderIdentity
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels.labelling import LabelSummary, current_labels, label
from pipeline.labels.provenance import provenance
from pipeline.labels.question import Question
from pipeline.labels.refinement import METHODS, Method, Near, fit, vote_together
from pipeline.labels.scoring import score
from pipeline.opening import create_store
from pipeline.search.index import load_index, update_index
from pipeline.search.neighbours import load_neighbourhood, update_neighbours
from pipeline.store import Store
from tests.helpers import IDENTITY, embedding_rows, label_set
from tests.test_neighbours import brute

CLASSES = label_set("east", "north", "up")
TEXTS = LabelVectors(np.eye(4, dtype=np.float32)[:3], np.empty((0, 4), np.float32))
FIRST, SECOND, THIRD = (f"2024010{day}T000000000000-00000" for day in (1, 2, 3))


def crowd(count: int, seed: int = 0) -> Floats:
    """Return images around three directions that are not quite those of the texts."""
    made = np.random.default_rng(seed)
    centres = unit_rows(np.array([[1, 0.5, 0, 0.3], [0.4, 1, 0, 0.1], [0.3, 0.6, 0.9, 0]]))
    rows = centres[made.integers(0, 3, count)] + 0.2 * made.normal(size=(count, 4))
    return unit_rows(rows).astype(np.float16).astype(np.float32)


def take(store: Store, part: str, vectors: Floats) -> None:
    before = sum(store.rows("embeddings", held) for held in store.parts("embeddings"))
    ids = [f"{before + row:032x}" for row in range(len(vectors))]
    store.write_part("embeddings", part, embedding_rows(ids, list(vectors)))


def new_store(root: Path, identity: EncoderIdentity = IDENTITY) -> Store:
    store = create_store(str(root))
    store.claim(identity)
    return store


def answer(
    store: Store, refine: Method = "neighbours", classes: LabelSet = CLASSES
) -> LabelSummary:
    update_index(store)
    index = load_index(store)
    update_neighbours(store, index)
    question = Question(label_set=classes, top_k=3, abstain_below=0, refine=refine)
    return label(store, question, TEXTS, near=load_neighbourhood(store, index))


def near_all(vectors: Floats, probabilities: Floats) -> Near:
    rows, cosines = brute(vectors)
    mutual = np.array([[i in rows[j] for j in rows[i]] for i in range(len(rows))])
    return Near(probabilities[rows], cosines, mutual)


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_those_of_the_formulas_over_the_whole_store(
    tmp_path: Path, method: Method
) -> None:
    store, vectors = new_store(tmp_path / "s"), crowd(700)
    take(store, FIRST, vectors[:400])
    take(store, SECOND, vectors[400:])
    summary = answer(store, method)
    rows = store.read(summary.table)
    naive = score(vectors, TEXTS.classes, scale=IDENTITY.logit_scale).classes
    near = near_all(vectors, naive)
    found = fit(method, naive, vectors, TEXTS.classes, near)
    wanted = vote_together(method, found, naive, vectors, near)
    assert rows["score"].to_numpy() == pytest.approx(wanted.max(axis=1), abs=1e-4)
    names = np.array(CLASSES.names)
    assert rows["label"].to_list() == names[wanted.argmax(axis=1)].tolist()
    assert rows["naive_label"].to_list() == names[naive.argmax(axis=1)].tolist()
    assert rows["naive_score"].to_numpy() == pytest.approx(naive.max(axis=1), abs=1e-5)
    changed = wanted.argmax(axis=1) != naive.argmax(axis=1)
    assert rows["flipped"].to_list() == changed.tolist()
    assert summary.flipped == changed.sum()
    assert changed.any() or method == "neighbours-sure"  # which changes no label on this crowd


def test_fewer_than_300_images_stay_as_the_model_sees_them(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    take(store, FIRST, crowd(299))
    summary = answer(store)
    rows = store.read(summary.table)
    assert summary.flipped == 0
    assert rows["label"].to_list() == rows["naive_label"].to_list()
    assert rows["score"].to_list() == rows["naive_score"].to_list()
    told = provenance(store, summary.table)
    assert told is not None and told.method == "none"  # not what was asked, but what was done
    take(store, SECOND, crowd(1, seed=1))
    enough = provenance(store, answer(store).table)
    assert enough is not None and enough.method == "neighbours"


def test_a_drop_is_refined_against_the_store_which_stays_as_it_is(tmp_path: Path) -> None:
    store, vectors = new_store(tmp_path / "s"), crowd(450)
    take(store, FIRST, vectors[:400])
    table = answer(store).table
    file = tmp_path / "s" / table / f"{FIRST}.parquet"
    before = file.read_bytes()
    take(store, SECOND, vectors[400:])
    summary = answer(store)
    assert (summary.table, summary.labelled) == (table, 50)
    assert file.read_bytes() == before
    naive = score(vectors, TEXTS.classes, scale=IDENTITY.logit_scale).classes
    near = near_all(vectors, naive)
    found = fit("neighbours", naive, vectors, TEXTS.classes, near)
    wanted = vote_together("neighbours", found, naive, vectors, near)[400:].argmax(axis=1)
    told = store.read(table, parts=[SECOND])["label_index"].to_numpy()
    assert (told == wanted).mean() > 0.95  # who is mutual was settled for the first 400


def test_a_store_that_doubled_is_refined_anew_and_two_tables_back_nothing_is_left(
    tmp_path: Path,
) -> None:
    store = new_store(tmp_path / "s")
    take(store, FIRST, crowd(200))
    small = answer(store).table
    take(store, SECOND, crowd(200, seed=1))
    summary = answer(store)
    assert summary.labelled == 400
    assert store.parts(small)  # a reader may be at it
    take(store, THIRD, crowd(300, seed=2))
    newest = answer(store)
    assert newest.labelled == 700
    assert current_labels(store).table == newest.table
    assert not store.parts(small)
    assert store.parts(summary.table)


def test_another_question_does_not_clear_the_answers_of_the_last(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    take(store, FIRST, crowd(400))
    tables = [answer(store, method).table for method in ("neighbours", "anchored", "neighbours")]
    assert tables[0] == tables[2] != tables[1]
    assert store.parts(tables[0]) and store.parts(tables[1])


def sigmoid_identity() -> EncoderIdentity:
    return EncoderIdentity(**{**vars(IDENTITY), "logit_bias": -2.0})


@pytest.mark.parametrize("method", ["neighbours-strong", "neighbours-sure"])
def test_a_sigmoid_models_classes_are_smoothed_each_on_its_own(
    tmp_path: Path, method: Method
) -> None:
    store, vectors = new_store(tmp_path / "s", sigmoid_identity()), crowd(400)
    take(store, FIRST, vectors)
    rows = store.read(answer(store, method).table)
    logits = IDENTITY.logit_scale * vectors @ TEXTS.classes.T - 2.0
    naive = 1 / (1 + np.exp(-logits))
    near, cosines = brute(vectors)
    weights = np.exp(cosines / 0.05)
    weights /= weights.sum(axis=1, keepdims=True)
    wanted = 0.5 * naive + 0.5 * (weights[:, :, None] * naive[near]).sum(axis=1)
    assert rows["score"].to_numpy() == pytest.approx(wanted.max(axis=1), abs=1e-4)
    with pytest.raises(InputError, match="needs classes that compete"):
        answer(store, "anchored")


def test_multi_label_names_every_class_that_is_likelier_than_not(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    diagonal = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]) / [[2**0.5], [1], [1]]
    take(store, FIRST, diagonal.astype(np.float32))
    several = CLASSES.model_copy(update={"multi_label": True})
    against = LabelVectors(TEXTS.classes, np.array([[0.2, 0.2, 0.2, 0.2 * 22**0.5]], np.float32))
    question = Question(label_set=several, top_k=3, abstain_below=0.3)
    table = label(store, question, against).table
    rows = store.read(table)
    s = IDENTITY.logit_scale
    first = 1 / (1 + np.exp(-s * (0.5**0.5 - (0.4 * 0.5**0.5))))
    assert rows["labels"].to_list() == [["east", "north"], ["east"], []]
    assert rows["label"].to_list() == ["east", "east", None]
    assert rows["topk_scores"].to_list()[0][:2] == pytest.approx([first, first], abs=1e-3)


@pytest.mark.parametrize("way", ["cosine", "mcm", "energy", "reject"])
def test_unknown_images_get_no_label_and_a_reason(tmp_path: Path, way: str) -> None:
    store = new_store(tmp_path / "s")
    take(store, FIRST, np.array([[1, 0, 0, 0], [0.1, 0, 0, 0.995]], np.float32))
    against = LabelVectors(TEXTS.classes, np.array([[0, 0, 0, 1]], np.float32))
    s = IDENTITY.logit_scale
    cosines = np.array([[1, 0, 0], [0.1, 0, 0]])
    e = np.exp(s * np.array([[1, 0, 0, 0], [0.1, 0, 0, 0.995]]))
    wanted = {
        "cosine": 1 - cosines.max(axis=1),
        "mcm": 1 - np.exp(cosines).max(axis=1) / np.exp(cosines).sum(axis=1),
        "energy": 1 - np.log(np.exp(s * cosines).sum(axis=1)) / s,
        "reject": e[:, 3] / e.sum(axis=1),
    }[way]
    bar = float(wanted.mean())
    rows = store.read(label(store, bars(way, bar), against).table)
    assert rows["unknown_score"].to_numpy() == pytest.approx(wanted, abs=1e-3)
    assert rows["label"].to_list() == ["east", None]
    # One that beats every class is the reason, whatever the bar.
    assert rows["reason"].to_list() == [None, "reject prompt: nothing"]


def test_without_reject_prompts_the_bar_itself_is_the_reason(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    take(store, FIRST, np.array([[1, 0, 0, 0], [0.1, 0, 0, 0.995]], np.float32))
    question = Question(label_set=CLASSES, top_k=3, abstain_below=0, unknown_above=0.5)
    rows = store.read(label(store, question, TEXTS).table)
    assert rows["label"].to_list() == ["east", None]
    assert rows["reason"].to_list() == [None, "unknown above 0.5"]


def bars(way: str, bar: float) -> Question:
    classes = CLASSES.model_copy(update={"reject": ("nothing",)})
    asked = {"label_set": classes, "top_k": 3, "abstain_below": 0}
    return Question(**asked, unknown=way, unknown_above=bar)  # type: ignore[arg-type]
