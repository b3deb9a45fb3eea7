"""Agreement with neighbours, worked by hand."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.search.agreement import agreement, compare
from pipeline.search.index import load_index, update_index
from pipeline.search.neighbours import update_neighbours
from tests.helpers import axis, draw, label_set, label_store, make_store


def test_shares_and_majorities_by_hand() -> None:
    own = np.array([0, 1, 1, 2, 0])
    theirs = np.array([[1, 1, 2], [0, 1, -1], [1, 2, -1], [-1, -1, -1], [2, 1, 1]])
    share, said = compare(own, theirs)
    assert share[:3].tolist() == [0, 0.5, 0.5]  # of those neighbours that have a label
    assert np.isnan(share[3]) and share[4] == 0
    assert said.tolist() == [1, 0, 1, -1, 1]  # at a tie the nearer one's


def test_who_stands_alone_comes_first(tmp_path: Path) -> None:
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
    update_index(store)
    update_neighbours(store, load_index(store))
    found = agreement(store)
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
