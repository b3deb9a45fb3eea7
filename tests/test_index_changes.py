"""Whatever happens to a store, its index answers as a model in plain Python does."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.arrays import Floats
from pipeline.catalog import present_images
from pipeline.compaction import compact
from pipeline.errors import DamagedFileError
from pipeline.search import choosing, exact, segments, tuning
from pipeline.search.choosing import IndexSettings
from pipeline.search.index import SearchIndex, is_current, load_index, update_index
from tests.helpers import write_observations
from tests.test_approximate import clustered, new_store, put

POOL = clustered(400, 5, clusters=8)
QUERIES = clustered(9, 6, clusters=8)  # as many as are compared by a matrix product


class Changes(RuleBasedStateMachine):
    """Drops come, images go and come back, parts merge, kinds change, files are harmed."""

    kind = "flat"

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(choosing, "FEWEST", 5)
        self.patch.setattr(choosing, "_PER_CELL", 8)  # so that there are several cells
        self.patch.setattr(tuning, "QUERIES", 20)
        for module in (segments, exact):
            self.patch.setattr(module, "MOST_BYTES", 60 * 64)  # of rows of 32 halves
        self.root = Path(tempfile.mkdtemp())
        self.store = new_store(self.root / "s")
        self.asked = IndexSettings(self.kind, 1)  # type: ignore[arg-type]
        self.vectors: dict[str, Floats] = {}
        self.there: set[str] = set()
        self.drops = self.taken = 0
        self.snapshot: tuple[SearchIndex, list[str], list[list[int]]] | None = None
        self.indexed = True

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.root)

    def name(self) -> str:
        self.drops += 1
        return f"20260101T0000{self.drops:05d}000-00000"

    def observe(self, ids: list[str], status: str) -> None:
        seen = [(Path(f"/in/{i}"), i if status == "ok" else None, status, None) for i in ids]
        write_observations(self.store, self.name(), seen)

    @rule(count=st.integers(1, 60))
    def add(self, count: int) -> None:
        rows = POOL[(self.taken + np.arange(count)) % len(POOL)]
        self.taken += count
        ids = put(self.store, self.name(), rows)
        self.observe(ids, "ok")
        self.vectors |= dict(zip(ids, rows, strict=True))
        self.there |= set(ids)
        self.indexed = False

    @precondition(lambda self: self.there)
    @rule(share=st.floats(0, 1), seed=st.integers(0, 9))
    def go(self, share: float, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(sorted(self.there))
        gone = order[: max(1, int(share * len(order)))].tolist()
        self.observe(gone, "gone")
        self.there -= set(gone)

    @precondition(lambda self: len(self.vectors) > len(self.there))
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        back = data.draw(st.sampled_from(sorted(self.vectors.keys() - self.there)))
        self.observe([back], "ok")
        self.there.add(back)

    @rule()
    def update(self) -> None:
        update_index(self.store, self.asked)
        self.indexed = True

    @rule(part_rows=st.integers(20, 200))
    def merge(self, part_rows: int) -> None:
        compact(self.store, part_rows=part_rows)

    @precondition(lambda self: self.indexed and self.vectors)
    @rule(data=st.data(), length=st.integers(0, 30))
    def harm(self, data: st.DataObject, length: int) -> None:
        files = sorted(Path(self.store.location, "index").iterdir())
        if not files:
            return
        file = data.draw(st.sampled_from(files))
        # As another program would: a file that is written over is another file.
        file.unlink()
        file.write_bytes(b"random bytes that no program wrote"[:length])
        with pytest.raises(DamagedFileError):
            load_index(self.store)
        update_index(self.store, self.asked)

    @rule()
    def delete_the_index(self) -> None:
        shutil.rmtree(Path(self.store.location, "index"), ignore_errors=True)
        assert is_current(self.store) == (not self.vectors)
        update_index(self.store, self.asked)
        self.indexed = True

    @precondition(lambda self: self.indexed and self.vectors)
    @rule()
    def open_for_long(self) -> None:
        index = load_index(self.store)
        found = index.search(QUERIES, 3, exact=True)
        self.snapshot = (index, list(index.ids), found.rows.tolist())

    @precondition(lambda self: self.snapshot is not None)
    @rule()
    def one_that_was_opened_answers_on(self) -> None:
        assert self.snapshot is not None
        index, ids, rows = self.snapshot
        assert index.ids == ids
        assert index.search(QUERIES, 3, exact=True).rows.tolist() == rows

    @precondition(lambda self: self.indexed and self.vectors)
    @invariant()
    def it_answers_as_the_model_does(self) -> None:
        assert is_current(self.store)
        index = load_index(self.store)
        assert sorted(index.ids) == sorted(self.vectors)
        there = set(present_images(self.store)["image_id"])
        assert there == self.there
        among = np.flatnonzero([image_id in there for image_id in index.ids])
        held = sorted(self.there)
        for k, queries in ((4, QUERIES[:2]), (50, QUERIES)):
            told = index.search(queries, k, among)
            assert ((told.rows >= 0).sum(axis=1) == min(k, len(held))).all()
            hits = share = 0
            for query, rows, cosines in zip(queries, told.rows, told.cosines, strict=True):
                names = [index.ids[row] for row in rows if row >= 0]
                assert set(names) <= self.there
                assert len(set(names)) == len(names)
                mine = [float(query @ self.vectors[name]) for name in names]
                assert cosines[: len(names)] == pytest.approx(mine, abs=1e-5)
                best = sorted((float(query @ self.vectors[n]) for n in held), reverse=True)[:k]
                share += len(best)
                hits += sum(cosine >= best[-1] - 1e-5 for cosine in mine) if best else 0
            assert min(hits, share) >= (share if self.kind == "flat" else 0.7 * share)


class GraphChanges(Changes):
    kind = "hnsw"


class CellChanges(Changes):
    kind = "ivf-sq8"


for machine in (Changes, GraphChanges, CellChanges):
    machine.TestCase.settings = settings(
        max_examples=12,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
TestFlat = Changes.TestCase
TestGraph = GraphChanges.TestCase
TestCells = CellChanges.TestCase
