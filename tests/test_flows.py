"""The same drop through Prefect and plainly, reruns, and what a run with nothing new costs."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from flows.plan import plan
from pipeline.config import commented_toml
from pipeline.opening import open_store
from tests.conftest import DATA, DemoRun, demo_config, pseudolabel, run_plain
from tests.processes import alive, core_seconds, started, wait_until

PASSING = {"files": ["run_id", "seen_at"]}  # columns that tell of the run, not of the images


def tables(store: Path) -> dict[str, pl.DataFrame]:
    """Read every table of a store, rows in a fixed order, without what tells of the run."""
    found = {}
    for folder in ("files", "embeddings", "labels/*/*", "selections/default"):
        [path] = store.glob(folder)
        frame = pl.read_parquet(path / "*.parquet").drop(PASSING.get(folder, []))
        found[folder] = frame.sort(frame.columns[0])
    return found


def test_prefect_and_plain_leave_equal_stores(tmp_path: Path, prefect_demo: DemoRun) -> None:
    store = tmp_path / "store"
    run_plain(demo_config(store, select={"truth": str(DATA / "images")}))
    ours, theirs = tables(store), tables(prefect_demo.store)
    for name, frame in ours.items():
        assert frame.equals(theirs[name]), name
    for pattern in ("models/head/*.safetensors", "index/*.faiss", "runs/*/contact-sheet.png"):
        [a], [b] = store.glob(pattern), prefect_demo.store.glob(pattern)
        assert a.read_bytes() == b.read_bytes(), pattern


def test_the_demo_shows_a_person_what_it_did(prefect_demo: DemoRun) -> None:
    output = prefect_demo.output
    assert (
        "245 new, 0 changed, 0 gone: 242 images embedded, 1 known already, 2 unreadable" in output
    )
    assert "broken/truncated.jpg: OSError: image file is truncated" in output
    for where in ("demo-store/index", "models/head/head.json", "contact-sheet.png"):
        assert where in output
    [sheet] = prefect_demo.store.glob("runs/*/contact-sheet.png")
    with Image.open(sheet) as image:
        assert image.format == "PNG"
        assert image.height > 20 * 100  # a row per class


def remembered(prefect_demo: DemoRun, what: str) -> list[str]:
    """Ask the database that Prefect left, for its server has gone."""
    with sqlite3.connect(prefect_demo.folder / "prefect-home/prefect.db") as database:
        return [found for (found,) in database.execute(what)]


def test_prefect_remembers_what_the_demo_did(prefect_demo: DemoRun) -> None:
    names = remembered(prefect_demo, "SELECT name FROM flow_run")
    assert "245 new into store demo-store, 2 unreadable" in names
    kinds = remembered(prefect_demo, "SELECT type FROM artifact")
    assert {"progress", "table", "markdown", "image"} <= set(kinds)
    log = remembered(prefect_demo, "SELECT message FROM log")
    assert any(line.startswith("embed: 242 images embedded, 1 known already") for line in log)
    assert "images embedded" not in prefect_demo.notes  # the bars are all a person need see


def test_training_through_prefect_gives_the_head_that_the_run_gave(
    prefect_demo: DemoRun, tmp_path: Path
) -> None:
    shutil.copytree(prefect_demo.store, tmp_path / "store")
    home = str(prefect_demo.folder / "prefect-home")
    run = pseudolabel("train", "--store", "store", "--json", cwd=tmp_path, PREFECT_HOME=home)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["train"] + json.loads(run.stdout)["valid"] == 182
    names = remembered(prefect_demo, "SELECT name FROM flow_run")
    assert "linear trained on 154 images of store store" in names
    [before] = prefect_demo.store.glob("models/head/*.safetensors")
    [after] = tmp_path.glob("store/models/head/*.safetensors")
    assert after.read_bytes() == before.read_bytes()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_at_once_and_the_next_run_goes_on(
    prefect_demo: DemoRun, tmp_path: Path, stop: int
) -> None:
    config = demo_config(tmp_path / "store", run={"shard_rows": 4, "compact_after": 0})
    (tmp_path / "pseudolabel.toml").write_text(commented_toml(config))
    home = str(prefect_demo.folder / "prefect-home")
    with started("pseudolabel", "run", cwd=tmp_path, PREFECT_HOME=home) as run:
        parts = tmp_path / "store/embeddings"
        wait_until(lambda: len(list(parts.glob("*.parquet"))) >= 3)
        run.look()  # the temporary server is among them
        if stop == signal.SIGINT:  # as a terminal sends it: to the server as well
            os.killpg(run.process.pid, stop)
            assert run.process.wait(20) == 130
        assert stop == signal.SIGINT or run.stop(stop) == 143
        wait_until(lambda: not any(map(alive, run.ever)), 15)
        assert "what was committed stays" in run.output
        assert "Traceback" not in run.output, run.output
    committed = {path: path.read_bytes() for path in parts.glob("*.parquet")}
    assert len(committed) < 242
    summary = run_plain(config)
    assert summary.embed.known + summary.embed.embedded < 243  # the rest, not all over again
    assert len(open_store(config.store).read("embeddings", ["image_id"])) == 242
    assert all(path.read_bytes() == content for path, content in committed.items())


def test_a_second_demo_finds_nothing_new_at_once_without_torch_or_prefect(
    prefect_demo: DemoRun,
) -> None:
    before = sorted(prefect_demo.store.rglob("*"))
    spent = core_seconds()
    run = pseudolabel("demo", cwd=prefect_demo.folder)
    spent = core_seconds() - spent
    assert run.stdout.strip() == "Nothing new: all 245 files are known to demo-store."
    assert spent < 5  # seconds of a core, whatever else runs on this machine
    assert sorted(prefect_demo.store.rglob("*")) == before


def test_looking_for_work_loads_neither_torch_nor_prefect(prefect_demo: DemoRun) -> None:
    config = demo_config(prefect_demo.store, select={"truth": str(DATA / "images")})
    code = (
        "import sys; from pipeline.config import Config; from flows.driver import plan;"
        "found = plan(Config.model_validate_json(sys.argv[1])); assert not found.any, found;"
        "print([m for m in ('torch', 'prefect', 'open_clip') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, config.model_dump_json()]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_each_later_stage_notices_that_its_question_changed(demo_store: Path) -> None:
    assert plan(demo_config(demo_store)).stale == []
    asked: dict[str, list[str]] = {
        "labels": ["label", "select", "train"],
        "select": ["select", "train"],
        "train": ["train"],
    }
    changes: dict[str, dict[str, object]] = {
        "labels": {"label_set": "dog,cat"},
        "select": {"min_confidence": 0.9},
        "train": {"hidden": 8},
    }
    for section, stale in asked.items():
        assert plan(demo_config(demo_store, **{section: changes[section]})).stale == stale


def test_a_second_drop_is_added_and_a_removed_file_leaves(tmp_path: Path) -> None:
    source, store = tmp_path / "in", tmp_path / "store"
    shutil.copytree(DATA / "images/food/kiwi", source / "one")
    config = demo_config(store).model_copy(update={"sources": (str(source),)})
    first = run_plain(config)
    assert first.not_trained is not None
    assert "0 classes" in first.not_trained or "1 classes" in first.not_trained
    shutil.copytree(DATA / "images/food/pear", source / "two")
    (source / "one/kiwi-01.jpg").unlink()
    second = run_plain(config)
    assert (second.scan.new, second.scan.gone, second.embed.embedded) == (12, 1, 12)
    assert second.label is not None
    assert second.label.labelled == 12
    assert second.train is not None
    opened = open_store(str(store))
    assert len(opened.read("selections/default")) == 23
    third = run_plain(config)
    assert third.report is None
    assert len(list(store.glob("runs/*"))) == 2


def test_a_store_within_its_source_is_not_taken_for_images(tmp_path: Path) -> None:
    shutil.copytree(DATA / "images/food/kiwi", tmp_path / "in/kiwi")
    config = demo_config(tmp_path / "in/store", sources=[str(tmp_path / "in")])
    assert run_plain(config).scan.listed == 12
    assert (tmp_path / "in/store/runs").is_dir()  # with a contact sheet in it
    assert not plan(config).any


def test_young_files_wait_for_the_next_run(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    shutil.copyfile(DATA / "images/food/kiwi/kiwi-01.jpg", source / "kiwi.jpg")
    scan: dict[str, object] = {"settle_seconds": 3600}
    config = demo_config(tmp_path / "store", scan=scan)
    found = plan(config.model_copy(update={"sources": (str(source),)}))
    assert (found.any, found.waiting, found.known) == (False, 1, 0)


@pytest.mark.parametrize("lines", [1, 40])
def test_a_shard_per_task_gives_what_one_shard_gives(
    demo_store: Path, tmp_path: Path, lines: int
) -> None:
    source = DATA / "images/animals/frog"
    shard: dict[str, object] = {"shard_rows": 5 * lines}
    config = demo_config(tmp_path / "store", run=shard)
    run_plain(config.model_copy(update={"sources": (str(source),)}))
    mine = tables(tmp_path / "store")["labels/*/*"]
    whole = tables(demo_store)["labels/*/*"]
    theirs = whole.join(mine, on="image_id", how="semi")
    assert mine["label"].to_list() == theirs["label"].to_list()
    assert mine["score"].to_numpy() == pytest.approx(theirs["score"].to_numpy(), abs=1e-3)
    assert len(open_store(str(tmp_path / "store")).parts("embeddings")) == (3 if lines == 1 else 1)
