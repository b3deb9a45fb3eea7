"""Whole runs over buckets and tar shards: the same tables as from a folder, faults included."""

import io
import json
import tarfile
from pathlib import Path

import polars as pl
import pytest

from flows.drop import DEFAULT_OPTIONS, Options, process_drop
from flows.runners import PlainTasks
from pipeline.catalog import present_images, side_info
from pipeline.config import commented_toml
from pipeline.errors import StoreBusyError
from pipeline.folder import TEMPORARY
from pipeline.images.paths import name_of
from pipeline.labels.labelling import current_labels
from pipeline.locking import writer_lock
from pipeline.opening import open_store
from pipeline.reports.export import flat_table
from tests.conftest import DATA, demo_config, pseudolabel, run_plain
from tests.s3 import S3, Fault
from tests.test_cli import Command, command  # noqa: F401 - a fixture
from tests.test_crash import Faults
from tests.test_verify import check, flip_a_bit

ANIMALS = sorted((DATA / "images/animals").rglob("*.jpg"))
PICTURES = [path for path in ANIMALS if "copy" not in path.stem][:24]
NO_TRAINING = {"train": {"every_run": False}}


def labels_by_name(location: str) -> list[tuple[object, ...]]:
    """Return name, id, label and score of every file, in order.

    Batches of other sizes add up in another order: that moves the sixth digit of a score.
    """
    table = flat_table(open_store(location))
    names = pl.col("path").map_elements(name_of, pl.String)
    columns = ["path", "image_id", "label", pl.col("score").round(3)]
    return sorted(table.with_columns(names).select(columns).iter_rows())


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    """What a run over the same pictures in a folder says."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "in").mkdir()
    for picture in PICTURES:
        (folder / "in" / picture.name).write_bytes(picture.read_bytes())
    run_plain(demo_config(folder / "store", sources=[str(folder / "in")], **NO_TRAINING))
    return labels_by_name(str(folder / "store"))


def fill(s3: S3, prefix: str) -> None:
    for picture in PICTURES:
        s3.put(f"{prefix}/{picture.name}", picture.read_bytes())


def test_a_bucket_in_and_a_bucket_out(
    command: Command,  # noqa: F811
    s3: S3,
    expected: list[tuple[object, ...]],
    tmp_path: Path,
) -> None:
    fill(s3, "in")
    store = s3.url("out/store")
    config = demo_config(Path("x"), sources=[s3.url("in")], run={"shard_rows": 9})
    config = config.model_copy(update={"store": store})
    (tmp_path / "pseudolabel.toml").write_text(commented_toml(config))
    before = command("run", "--dry-run")
    assert before.out.startswith("would read 24 files (24 new"), before.err
    assert not [r for r in s3.proxy.requests if r.startswith("PUT") and "/out/" in r]
    first = pseudolabel("run", "--plain", cwd=tmp_path)  # once as a user does
    assert first.returncode == 0, first.stderr
    assert f"{store}/index" in first.stdout.replace("\n", "")
    assert labels_by_name(store) == expected
    again = command("run")
    assert "Nothing new: all 24 files are known" in again.out, again.err
    [found] = command.json("search", str(PICTURES[0]), "-k", "1")
    assert name_of(found["path"]) == PICTURES[0].name
    for asked in (["status"], ["verify"], ["compact"], ["export", "out.parquet"]):
        run = command(*asked)
        assert run.code == 0, (asked, run.err)
    assert pl.read_parquet(tmp_path / "out.parquet")["path"].str.starts_with(s3.url("in/")).all()
    copies = command("export", "copies", "--format", "imagefolder")
    assert copies.code == 0, copies.err
    assert sorted(p.read_bytes() for p in (tmp_path / "copies").rglob("*.jpg")) == sorted(
        p.read_bytes() for p in PICTURES
    )


def test_trouble_on_the_way_is_retried_and_changes_nothing(
    s3: S3, expected: list[tuple[object, ...]], tmp_path: Path
) -> None:
    fill(s3, "in")
    names = [picture.name for picture in PICTURES]
    faults = [
        Fault(contains=names[0], status=500),
        Fault(contains=names[1], times=2, status=503, code="SlowDown"),
        Fault(contains=names[2], cut_after=100),
        Fault(contains=names[3], delay=1.0),
        Fault("PUT", "embeddings", status=500),
        Fault("PUT", "files", lose_answer=True),
        Fault("GET", "labels", cut_after=50),
    ]
    for fault in faults:
        s3.proxy.fail(fault)
    store = s3.url("store")
    config = demo_config(Path("x"), sources=[s3.url("in")], **NO_TRAINING)
    run_plain(config.model_copy(update={"store": store}))
    assert labels_by_name(store) == expected
    assert all(fault.seen for fault in faults), faults


def test_an_object_that_does_not_come_gets_a_reason_and_is_tried_by_the_next_run(
    s3: S3, expected: list[tuple[object, ...]], tmp_path: Path
) -> None:
    fill(s3, "in")
    s3.proxy.fail(Fault(contains=PICTURES[5].name, times=999, status=500))
    config = demo_config(tmp_path / "store", sources=[s3.url("in")], **NO_TRAINING)
    first = run_plain(config)
    assert (first.embed.embedded, first.embed.unreadable) == (23, 1)
    [row] = flat_table(open_store(config.store)).filter(pl.col("label").is_null()).to_dicts()
    assert row["path"] == s3.url(f"in/{PICTURES[5].name}")
    assert row["reason"].startswith("not fetched after")
    s3.proxy.reset()
    assert run_plain(config).embed.embedded == 1
    assert labels_by_name(config.store) == expected


def test_one_writer_at_a_time_in_a_bucket(s3: S3) -> None:
    fill(s3, "in")
    config = demo_config(Path("x"), sources=[s3.url("in")], **NO_TRAINING)
    config = config.model_copy(update={"store": s3.url("store")})
    run_plain(config)
    with (
        writer_lock(open_store(config.store)),
        pytest.raises(StoreBusyError, match=r"s3://.* is being written by process \d+ on .* since"),
    ):
        process_drop(config, PlainTasks(), DEFAULT_OPTIONS)
    process_drop(config, PlainTasks(), Options(wait=True))


# -- tar shards --------------------------------------------------------------------------------


def pack(tar: Path, pictures: list[Path]) -> None:
    """Write a shard in webdataset layout; a text beside each picture, in its JSON for some."""
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as file:
        for number, picture in enumerate(pictures):
            told = picture.parent.name
            about = {"caption": f"caption of a {told}"}
            members = {picture.name: picture.read_bytes(), f"{picture.stem}.cls": b"0"}
            if number % 2:
                members[f"{picture.stem}.txt"] = f"text of a {told}".encode()
            members[f"{picture.stem}.json"] = json.dumps(about).encode()
            for name, data in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))


def test_shards_give_what_a_folder_gives_and_their_texts(
    expected: list[tuple[object, ...]], tmp_path: Path
) -> None:
    pack(tmp_path / "in/0.tar", PICTURES[:13])
    pack(tmp_path / "in/1.tar", PICTURES[13:])
    config = demo_config(
        tmp_path / "store",
        sources=[str(tmp_path / "in/*.tar")],
        run={"shard_rows": 7},
        train={"side_text": "shards", "max_epochs": 2},
        labels={"label_set": "bird,cat,dog,frog,horse"},
    )
    drop = run_plain(config)
    store = open_store(config.store)
    assert [row[:2] for row in labels_by_name(config.store)] == [row[:2] for row in expected]
    rows = side_info(store)
    assert len(rows) == 24
    assert rows["text"].null_count() == 13
    assert drop.train is not None, drop.not_trained
    assert list(store.folder.names("cache/side-text")) != []
    # Damage to what the tars told: they are opened again, and no image is embedded twice.
    flip_a_bit(next((tmp_path / "store/side_info").glob("*.parquet")), 3)
    assert [fault.file.split("/")[0] for fault in check(tmp_path / "store").faults] == ["side_info"]
    again = run_plain(config)
    assert (again.embed.embedded, again.embed.known) == (0, 24)
    assert side_info(store).drop("run_id").sort("path").equals(rows.drop("run_id").sort("path"))


def test_members_are_found_again_when_the_record_of_them_is_damaged(
    expected: list[tuple[object, ...]], tmp_path: Path
) -> None:
    """The tar has not changed, and would not be opened for its own sake."""
    pack(tmp_path / "in/0.tar", PICTURES)
    sources = [str(tmp_path / "in/0.tar")]
    config = demo_config(tmp_path / "store", sources=sources, run={"shard_rows": 9}, **NO_TRAINING)
    run_plain(config)
    part = next((tmp_path / "store/files").glob("*-00001.parquet"))
    flip_a_bit(part, 5)
    assert [fault.file for fault in check(tmp_path / "store").faults] == [f"files/{part.name}"]
    assert len(present_images(open_store(config.store))) == 15
    again = run_plain(config)
    assert (again.embed.embedded, again.embed.known) == (0, 9)
    assert labels_by_name(config.store) == expected


def test_a_run_over_shards_killed_at_each_write_loses_no_member(
    expected: list[tuple[object, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(tmp_path / "in/0.tar", PICTURES)
    faults = Faults(monkeypatch)

    def take(store: Path) -> None:
        sources = [str(tmp_path / "in/0.tar")]
        run_plain(demo_config(store, sources=sources, run={"shard_rows": 12}, **NO_TRAINING))

    take(tmp_path / "undisturbed")
    texts = side_info(open_store(str(tmp_path / "undisturbed"))).drop("run_id").sort("path")
    for at in range(1, faults.count + 1, 3):  # before and after every write are two steps
        store = tmp_path / f"store-{at}"
        faults.count, faults.at = 0, at
        with pytest.raises(KeyboardInterrupt):
            take(store)
        take(store)
        assert labels_by_name(str(store)) == expected
        assert side_info(open_store(str(store))).drop("run_id").sort("path").equals(texts)
        assert not list(store.rglob(f"{TEMPORARY}*"))


def test_current_labels_of_a_bucket_name_the_store(s3: S3) -> None:
    config = demo_config(Path("x"), sources=[str(DATA / "images/animals/cat")], **NO_TRAINING)
    config = config.model_copy(update={"store": s3.url()})  # the whole bucket
    run_plain(config)
    assert current_labels(open_store(s3.url())).table.startswith("labels/demo/")


def test_a_bucket_that_dies_may_be_tried_again_and_one_that_is_not_there_may_not(
    s3: S3, tmp_path: Path
) -> None:
    """Exit code 1 is what a scheduler tries again; 2 is for a person."""
    fill(s3, "in")
    config = demo_config(tmp_path / "store", sources=[s3.url("in")])
    (tmp_path / "pseudolabel.toml").write_text(commented_toml(config))
    fault = s3.proxy.fail(Fault(contains="list-type=2", times=99, status=503, code="SlowDown"))
    dead = pseudolabel("run", "--dry-run", cwd=tmp_path)
    assert (dead.returncode, "cannot be listed" in dead.stderr) == (1, True), dead.stderr
    fault.times = 0
    absent = pseudolabel("run", s3.url("nowhere"), "--dry-run", cwd=tmp_path)
    assert (absent.returncode, "nothing there" in absent.stderr) == (2, True), absent.stderr
