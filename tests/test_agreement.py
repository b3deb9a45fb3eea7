"""Agreement with neighbours, worked by hand and against a slow loop over all pairs of images."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.arrays import Floats, unit_rows
from pipeline.errors import InputError
from pipeline.opening import create_store
from pipeline.search import agreement as module
from pipeline.search.agreement import (
    ClassAgreement,
    Tally,
    agreement,
    compare,
    label_agreement,
    summarise,
)
from pipeline.search.index import load_index, update_index
from pipeline.search.neighbours import update_neighbours
from pipeline.store import Store
from tests.helpers import (
    IDENTITY,
    axis,
    draw,
    embedding_rows,
    label_set,
    label_store,
    make_store,
    write_observations,
)

FIRST, SECOND = "20240101T000000000000", "20240102T000000000000"  # runs
NAMES = ("east", "north", "up")
K = 10


def search(store: Store) -> None:
    update_index(store)
    update_neighbours(store, load_index(store))


def test_shares_and_majorities_by_hand() -> None:
    own = np.array([0, 1, 1, 2, 0])
    theirs = np.array([[1, 1, 2], [0, 1, -1], [1, 2, -1], [-1, -1, -1], [2, 1, 1]])
    share, said = compare(own, theirs)
    assert share[:3].tolist() == [0, 0.5, 0.5]  # of those neighbours that have a label
    assert np.isnan(share[3]) and share[4] == 0
    assert said.tolist() == [1, 0, 1, -1, 1]  # at a tie the nearer one's


@pytest.fixture
def five(tmp_path: Path) -> Store:
    """Three images in the east and two in the north, all labelled and searched."""
    east, north = axis(0), axis(1)
    images = {
        draw(tmp_path / f"in/{name}.png", colour): vector
        for name, colour, vector in [
            ("e1", "red", east),
            ("e2", "green", 0.8 * east + 0.6 * north),
            ("n1", "blue", north),
            ("n2", "white", 0.28 * east + 0.96 * north),
            ("lost", "black", 0.72 * east + 0.693974 * north),  # east, but beside both
        ]
    }
    store = make_store(tmp_path / "s", images)
    label_store(store, label_set("east", "north"))
    search(store)
    return store


def test_who_stands_alone_comes_first(five: Store) -> None:
    found = agreement(five)
    told = {Path(row["path"]).stem: row for row in found.images.iter_rows(named=True)}
    assert {name: row["agreement"] for name, row in told.items()} == {
        "e1": 0.5,
        "e2": 0.5,
        "lost": 0.5,
        "n1": 0.25,
        "n2": 0.25,
    }
    assert told["n1"]["neighbours_say"] == "east"
    assert found.images["path"][0].endswith(("n1.png", "n2.png"))
    assert [(each.label, each.images, each.agreement) for each in found.per_class] == [
        ("north", 2, 0.25),
        ("east", 3, 0.5),
    ]
    assert found.per_class[0].next_to == "east"
    assert found.mean == pytest.approx(0.4)


def test_a_summary_by_hand(five: Store) -> None:
    told = summarise(five, FIRST)
    assert told is not None
    assert told.all == told.drop
    assert (told.all.images, told.all.alone) == (5, 0)
    assert told.all.mean == pytest.approx(0.4)
    assert told.worst == [
        ClassAgreement("north", 2, 0.25, "east"),
        ClassAgreement("east", 3, 0.5, None),  # at a tie the nearer neighbours are of the east
    ]
    other = summarise(five, "another run")
    assert other is not None and other.drop == Tally(0, None, 0)


def test_where_nothing_was_searched_nothing_is_told(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", {draw(tmp_path / "a.png", "red"): axis(0)})
    label_store(store, label_set("east", "north"))
    update_index(store)
    assert label_agreement(store) is None
    assert summarise(store, FIRST) is None
    with pytest.raises(InputError, match="no neighbours were searched yet; `pseudolabel labels"):
        agreement(store)


@dataclass(frozen=True)
class Crowd:
    """A store of random images, some gone and some abstained on, and what a slow loop says."""

    store: Store
    agreement: dict[str, float]
    theirs: dict[str, int]
    labels: dict[str, int]
    new: set[str]


def name(row: int) -> str:
    return f"{row:032x}"


def crowd(root: Path, *, count: int = 150, gone: int = 30, seed: int = 3) -> Crowd:
    chance = np.random.default_rng(seed)
    vectors: Floats = unit_rows(np.abs(chance.normal(size=(count, 4))))
    vectors = vectors.astype(np.float16).astype(np.float32)
    store = create_store(str(root))
    store.claim(IDENTITY)
    halves = [(FIRST, range(count // 2)), (SECOND, range(count // 2, count))]
    for run, rows in halves:
        ids = [name(row) for row in rows]
        seen = [(Path(f"/in/{each}.png"), each, "ok", None) for each in ids]
        write_observations(store, f"{run}-00000", seen)
        here = [vectors[row] for row in rows]
        store.write_part("embeddings", f"{run}-00000", embedding_rows(ids, here))
    went = [(Path(f"/in/{name(row)}.png"), name(row), "gone", "went") for row in range(gone)]
    write_observations(store, "20240103T000000000000-00000", went)
    label_store(store, label_set(*NAMES), abstain_below=0.75)
    search(store)
    cosines = vectors @ vectors.T
    labels = {}
    for row in range(gone, count):
        scores = np.exp(10 * vectors[row, :3])
        if scores.max() / scores.sum() >= 0.75:
            labels[name(row)] = int(scores.argmax())
    agree, say = {}, {}
    for row in range(count):
        nearest = [int(other) for other in np.argsort(-cosines[row]) if other != row][:K]
        heard = [labels[name(other)] for other in nearest if name(other) in labels]
        if name(row) in labels and heard:
            agree[name(row)] = heard.count(labels[name(row)]) / len(heard)
            most = max(Counter(heard).values())
            say[name(row)] = next(each for each in heard if heard.count(each) == most)
    new = {name(row) for row in halves[1][1]} & set(agree)
    return Crowd(store, agree, say, labels, new)


@pytest.mark.parametrize("block", [65_536, 7])
def test_each_image_is_as_a_loop_over_all_pairs_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    made = crowd(tmp_path / "s")
    assert 60 < len(made.agreement) < 120  # some were abstained on
    assert sum(0 < share < 1 for share in made.agreement.values()) > 0
    found = label_agreement(made.store)
    assert found is not None
    assert dict(found.select("image_id", "agreement").iter_rows()) == pytest.approx(made.agreement)
    assert dict(found.select("image_id", "theirs").iter_rows()) == made.theirs
    assert dict(found.select("image_id", "label_index").iter_rows()) == {
        each: made.labels[each] for each in made.agreement
    }


def test_a_summary_counts_what_the_loop_counts(tmp_path: Path) -> None:
    made = crowd(tmp_path / "s", seed=5)
    told = summarise(made.store, SECOND)
    assert told is not None
    for tally, ids in ((told.all, set(made.agreement)), (told.drop, made.new)):
        shares = [made.agreement[each] for each in ids]
        assert (tally.images, tally.alone) == (len(shares), shares.count(0))
        assert tally.mean == pytest.approx(sum(shares) / len(shares))
    means = {}
    for index, label in enumerate(NAMES):
        shares = [made.agreement[i] for i in made.agreement if made.labels[i] == index]
        others = Counter(
            made.theirs[i]
            for i in made.agreement
            if made.labels[i] == index and made.theirs[i] != index
        )
        means[label] = (len(shares), sum(shares) / len(shares), others)
    assert [each.label for each in told.worst] == sorted(NAMES, key=lambda n: means[n][1])
    for each in told.worst:
        images, mean, others = means[each.label]
        assert each.images == images
        assert each.agreement == pytest.approx(mean)
        most = max(others.values(), default=0)
        likeliest = {NAMES[i] for i in others if others[i] == most}
        assert each.next_to in likeliest or (each.next_to is None and not likeliest)


def test_an_image_that_two_parts_hold_counts_once(tmp_path: Path) -> None:
    made = crowd(tmp_path / "s")
    again = made.store.read_part("embeddings", f"{SECOND}-00000").slice(0, 5)
    made.store.write_part("embeddings", "20240104T000000000000-00000", again)
    label_store(made.store, label_set(*NAMES), abstain_below=0.75)
    search(made.store)
    found = label_agreement(made.store)
    assert found is not None
    assert dict(found.select("image_id", "agreement").iter_rows()) == pytest.approx(made.agreement)
    assert len(found) == len(made.agreement)
