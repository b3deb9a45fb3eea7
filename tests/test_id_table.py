"""The rows of ids against a dictionary and Python's own order."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.opening import create_store
from pipeline.search import id_table
from pipeline.search.id_table import IdTable
from pipeline.store import Store

FULL = 2**64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(str(tmp_path / "s"))


def made(store: Store, ids: list[str], *ends: int) -> IdTable:
    """Return the table of ids that come in pieces."""
    starts = [0, *ends]
    pieces = zip(starts, [*ends, len(ids)], strict=True)
    some = (pa.array(ids[start:end], pa.large_string()) for start, end in pieces)
    return IdTable(store, some, len(ids))


def random_ids(count: int, seed: int = 0) -> list[str]:
    digits = np.random.default_rng(seed).bytes(16 * count).hex()
    return [digits[at : at + 32] for at in range(0, len(digits), 32)]


def alike_when_mixed(count: int, seed: int) -> list[str]:
    """Return ids that the words of a table tell apart by their rows alone."""
    golden = int(id_table._GOLDEN)
    lows = [int(name[:16], 16) for name in random_ids(count, seed)]
    one_sum = [((5 - low * golden) % FULL, low) for low in lows]
    step = pow(golden, -1, FULL)  # adds 1 to the mix, where rows are told
    one_half = [(seed, number * step % FULL) for number in range(count)]
    return [f"{high:016x}{low:016x}" for high, low in one_sum + one_half]


def rows(table: IdTable, ids: list[str]) -> list[int]:
    return list(table.rows(pa.array(ids, pa.string())).tolist())


KINDS = {
    "random": random_ids(5000),
    "counted": [f"{number:032x}" for number in range(5000)],
    "same first half": [f"{7:016x}{name[:16]}" for name in random_ids(3000)],
    "same last half": [f"{name[:16]}{7:016x}" for name in random_ids(3000)],
    "alike when mixed": alike_when_mixed(300, seed=1) + random_ids(300),
    "one": random_ids(1),
    "none": [],
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_a_dictionary(store: Store, kind: str) -> None:
    ids = KINDS[kind]
    table = made(store, ids, len(ids) // 3, len(ids) // 3, len(ids) // 2)  # one piece is empty
    row_of = {name: row for row, name in enumerate(ids)}
    strangers = random_ids(500, seed=2) + alike_when_mixed(50, seed=3)
    asked = np.random.default_rng(4).permutation(ids + strangers + ids[:100]).tolist()
    assert rows(table, asked) == [row_of.get(name, -1) for name in asked]
    assert rows(table, []) == []
    assert len(table) == len(ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 250, 10_000])
def test_the_first_are_the_smallest_ids(
    store: Store, kind: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(id_table, "_BLOCK", 700)
    ids = KINDS[kind]
    smallest = sorted(range(len(ids)), key=lambda row: ids[row])[:count]
    assert made(store, ids).first(count).tolist() == sorted(smallest)


def test_of_several_rows_the_first_answers_and_all_are_among_the_smallest(store: Store) -> None:
    a, b, c = sorted(random_ids(3))
    table = made(store, [c, a, b, a, a], 2)
    assert rows(table, [a, b, c]) == [1, 2, 0]
    assert table.first(2).tolist() == [1, 3]
    assert table.first(4).tolist() == [1, 2, 3, 4]


def test_a_slice_of_a_column_is_looked_up_as_what_it_is(store: Store) -> None:
    ids = random_ids(20)
    table = made(store, ids)
    column = pa.array(["x" * 32, *ids, "y" * 32])
    for kind in (pa.string(), pa.large_string(), pa.binary(32)):
        assert table.rows(column.cast(kind).slice(1, 20)).tolist() == list(range(20))


@pytest.mark.parametrize("name", ["north", "0" * 31, "0" * 33, "x" * 32, ""])
def test_what_is_no_id_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match=r"width|hexadecimal"):
        rows(made(store, random_ids(3)), [name])
    with pytest.raises(ValueError, match=r"width|hexadecimal"):
        made(store, [name])
