"""Damage in any kind of file: it is named, set aside, and made again by the next run."""

import random
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows import training
from flows.drop import DropSummary
from flows.plan import plan
from pipeline.errors import DamagedFileError, StoreError
from pipeline.opening import create_store, damaged_store, open_store
from pipeline.reports.verify import VerifySummary, verify
from pipeline.search.index import SearchIndex, load_index, save_index
from pipeline.training.models import load_head
from tests.conftest import DATA, demo_config, pseudolabel, run_plain
from tests.test_crash import final_tables, require_equal
from tests.test_embed import paint

KINDS = [
    "store.json",
    "files/*.parquet",
    "embeddings/*.parquet",
    "labels/*/*/*.parquet",
    "labels/current.json",
    "index/*.faiss",
    "index/*.parquet",
    "index/current.json",
    "selections/default/*.parquet",
    "models/head/head.json",
    "models/head/*.safetensors",
    "models/head/losses.png",
    "cache/label-vectors/*.npz",
    "runs/*/summary.json",
    "runs/*/contact-sheet.png",
    "labels/*/*/run.json",
    "neighbours/*/*.parquet",
    "neighbours/*/recall.json",
]
# Told to people and monitors; nothing is made of them.
TOLD = [
    "runs/*/report.html",
    "runs/*/report.json",
    "runs/*/drift.json",
    "metrics/numbers.json",
    "metrics/pseudolabel.prom",
    "cache/drift-sample.npz",
]


@pytest.fixture
def store(demo_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_store, tmp_path / "store"))


def only(store: Path, pattern: str) -> Path:
    [file] = store.glob(pattern)
    return file


def flip_a_bit(file: Path, seed: int) -> None:
    data = bytearray(file.read_bytes())
    bit = random.Random(seed).randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def check(store: Path) -> VerifySummary:
    return verify(damaged_store(str(store)), now=datetime.now(UTC))


def run_again(store: Path) -> DropSummary:
    return run_plain(demo_config(store))


def test_every_kind_of_file_is_among_those_that_are_tried(demo_store: Path) -> None:
    tried = {path for pattern in KINDS + TOLD for path in demo_store.glob(pattern)}
    there = {path for path in demo_store.rglob("*") if path.is_file()}
    assert there - tried == {demo_store / ".lock"}


def test_a_sound_store_is_called_so_and_left_as_it_is(store: Path) -> None:
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    summary = check(store)
    assert (summary.faults, summary.lost) == ([], 0)
    assert (summary.files, summary.images) == (len(before) - 1, 242)  # the lock is none
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pattern", KINDS)
def test_a_flipped_bit_is_named_and_the_next_run_makes_the_file_again(
    store: Path, demo_store: Path, pattern: str, seed: int
) -> None:
    file = only(store, pattern)
    flip_a_bit(file, seed)
    summary = check(store)
    assert file.relative_to(store).as_posix() in [fault.file for fault in summary.faults]
    assert len(summary.faults) == 1
    run_again(store)
    require_equal(store, final_tables(demo_store))
    assert check(store).faults == []
    opened = open_store(str(store))
    assert len(load_index(opened)) == 242
    assert load_head(opened).classes == load_head(open_store(str(demo_store))).classes


@pytest.mark.parametrize("pattern", TOLD)
def test_a_flipped_bit_in_what_is_told_is_named_too(store: Path, pattern: str) -> None:
    file = only(store, pattern)
    flip_a_bit(file, 0)
    assert [fault.file for fault in check(store).faults] == [file.relative_to(store).as_posix()]
    assert check(store).faults == []


@pytest.mark.parametrize("pattern", [kind for kind in KINDS if not kind.startswith("runs")])
def test_a_file_cut_short_is_named(store: Path, pattern: str) -> None:
    file = only(store, pattern)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert file.relative_to(store).as_posix() in [fault.file for fault in check(store).faults]


@pytest.mark.parametrize("pattern", KINDS[:5] + KINDS[7:10])
def test_a_run_that_meets_damage_sets_it_aside_and_goes_on(
    store: Path, demo_store: Path, pattern: str, tmp_path: Path
) -> None:
    """No `verify` before; there is a new image, so that the run has every table to read."""
    file = only(store, pattern)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    paint(tmp_path / "more/red.png", (200, 30, 30))
    sources = [str(DATA / "images"), str(tmp_path / "more")]
    assert run_plain(demo_config(store, sources=sources)).embed.embedded in (1, 243)
    found, expected = final_tables(store), final_tables(demo_store)
    [new] = set(found["embeddings"]["image_id"]) - set(expected["embeddings"]["image_id"])
    for name in ("files", "embeddings", "labels"):
        assert found[name].filter(pl.col("image_id").ne_missing(new)).equals(expected[name]), name
    assert check(store).faults == []


def test_vectors_that_went_are_made_again_from_their_images_alone(store: Path) -> None:
    part = only(store, "embeddings/*.parquet")
    flip_a_bit(part, 0)
    summary = check(store)
    assert summary.faults[0].done.endswith(part.name)
    assert (store / summary.faults[0].done.removeprefix("moved to ")).is_file()
    gone = open_store(str(store)).read("files")["status"].to_list().count("lost")
    assert gone == 243  # two paths have the same bytes
    again = run_again(store)
    assert (again.embed.files, again.embed.embedded, again.embed.unreadable) == (243, 242, 0)


def test_files_whose_vectors_were_deleted_by_hand_are_found(store: Path, demo_store: Path) -> None:
    only(store, "embeddings/*.parquet").unlink()
    assert check(store).lost == 243
    run_again(store)
    require_equal(store, final_tables(demo_store))


def test_an_index_that_answers_for_the_wrong_images_is_found(store: Path) -> None:
    """Its checksums are right: it was built wrong."""
    opened = open_store(str(store))
    vectors = only(store, "embeddings/*.parquet")
    pointer = opened.get_json("index/current.json")
    right = load_index(opened)
    wrong = SearchIndex.empty(right.dimension)
    rows = right.vectors(np.arange(len(right))).astype(np.float16)
    wrong.add(right.ids[::-1], rows)
    wrong.parts = right.parts
    save_index(opened, wrong)
    assert opened.get_json("index/current.json")["name"] == pointer["name"]
    [fault] = check(store).faults
    assert fault.what == "a vector in it is not the one of its image"
    assert vectors.is_file()
    run_again(store)
    assert check(store).faults == []


def test_damage_is_told_to_a_reader_in_a_line(store: Path) -> None:
    file = only(store, "labels/*/*/*.parquet")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DamagedFileError, match=r"labels/.* is damaged .*pseudolabel verify"):
        open_store(str(store)).read(str(only(store, "labels/*/*").relative_to(store)))
    run = pseudolabel("export", "out.csv", "--store", str(store), cwd=store)
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert "Traceback" not in run.stderr
    verified = pseudolabel("verify", "--store", str(store))
    assert verified.returncode == 1
    assert "damaged/" in verified.stdout.replace("\n", "")
    assert pseudolabel("verify", "--store", str(store)).returncode == 0


def test_a_store_whose_identity_is_gone_is_told_by_its_parts(store: Path) -> None:
    (store / "store.json").unlink()
    before = damaged_store(str(store)).parts("embeddings")
    [fault] = check(store).faults
    assert (fault.file, fault.what) == ("store.json", "it is not there")
    assert open_store(str(store)).parts("embeddings") == before
    assert run_again(store).embed.files == 0


def test_vectors_deleted_by_hand_are_noticed_by_the_next_run_alone(
    store: Path, demo_store: Path
) -> None:
    only(store, "embeddings/*.parquet").unlink()
    assert plan(demo_config(store)).any
    with pytest.raises(StoreError, match=r"\d+ labelled images have no vector"):
        training.train(demo_config(store))
    assert run_again(store).embed.embedded == 242
    require_equal(store, final_tables(demo_store))


def test_a_store_without_its_identity_names_the_cure(store: Path) -> None:
    (store / "store.json").unlink()
    for opening in (open_store, create_store):
        with pytest.raises(StoreError, match=r"store\.json is gone: `pseudolabel verify`"):
            opening(str(store))


def test_a_foreign_copy_of_a_part_does_no_harm(store: Path, demo_store: Path) -> None:
    part = only(store, "embeddings/*.parquet")
    shutil.copy(part, part.with_stem("copy of"))
    run_again(store)
    assert len(load_index(open_store(str(store)))) == 242
