"""What `verify` and `status` tell of an index."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from pipeline.reports.status import status
from pipeline.reports.verify import Fault, VerifySummary, verify
from pipeline.search import tuning
from pipeline.search.choosing import IndexSettings
from pipeline.search.exact import ExactRows
from pipeline.search.facts import index_facts
from pipeline.search.index import load_index, save_index, update_index
from pipeline.search.pointer import is_current, read_pointer, write_pointer
from pipeline.search.search_index import SearchIndex
from pipeline.store import Store
from tests.test_approximate import D, clustered, new_store, put

ASKED = IndexSettings("ivf-sq8", 1)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(tuning, "QUERIES", 50)
    store = new_store(tmp_path / "s")
    put(store, "a", clustered(600, 1, spread=2))
    update_index(store, ASKED)
    return store


def check(store: Store) -> VerifySummary:
    return verify(store, now=datetime.now(UTC))


def only_fault(store: Store) -> Fault:
    [fault] = check(store).faults
    assert not is_current(store)
    update_index(store, ASKED)
    assert check(store).faults == []
    return fault


def test_a_sound_index_is_told_with_its_recall(store: Store) -> None:
    summary = check(store)
    assert summary.faults == []
    assert summary.index is not None
    assert (summary.index.kind, summary.index.vectors) == ("ivf-sq8", 600)
    assert 0.9 <= (summary.index.recall or 0) <= 1
    told = status(store).index
    assert told is not None
    assert told.bytes_per_vector == pytest.approx(D + 8 + 15 * 4 * D / 600, rel=0.1)
    assert str(told).startswith("ivf-sq8, recall at 10: ")
    update_index(store)
    assert str(index_facts(store)) == f"flat, exact, {2 * D} bytes a vector"


def test_recall_that_was_lost_is_a_fault(store: Store) -> None:
    pointer = read_pointer(store)
    assert pointer is not None
    assert pointer.layer is not None
    lazy = [replace(level, effort=1) for level in pointer.layer.levels]
    write_pointer(store, replace(pointer, layer=replace(pointer.layer, levels=lazy)))
    assert "its recall at 10 is 0." in only_fault(store).what


def test_images_that_an_index_lacks_are_a_fault(store: Store) -> None:
    whole = load_index(store)
    lacking = SearchIndex(ExactRows(D), whole.parts)
    lacking.add(whole.ids[1:], whole.vectors(np.arange(1, 600)).astype(np.float16))
    save_index(store, lacking, ASKED)
    assert only_fault(store).what == "it lacks 1 images that it should hold"


def test_an_image_held_twice_is_a_fault(store: Store) -> None:
    whole = load_index(store)
    whole.add(whole.ids[:1], whole.vectors(np.arange(1)).astype(np.float16))
    save_index(store, whole, ASKED)
    assert only_fault(store).what == "it does not hold each of its images once"


@pytest.mark.parametrize("harm", [b"random bytes", None])
def test_a_damaged_layer_is_named_and_made_anew(store: Store, harm: bytes | None) -> None:
    [file] = Path(store.location, "index").glob("ivf-*.faiss")
    file.write_bytes(file.read_bytes()[:-5] if harm is None else harm)
    fault = only_fault(store)
    assert (fault.file, fault.what) == (f"index/{file.name}", "it does not match its checksum")
