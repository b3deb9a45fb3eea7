"""Recorded images: only what a run saw is ever read, whatever took its place since."""

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from pipeline.images.decoding import image_id
from pipeline.images.recorded import Gone, RecordedImages
from pipeline.images.sources import list_sources, list_tars
from pipeline.images.tars import open_tars
from pipeline.opening import create_store
from pipeline.store import Store
from pipeline.tables import FILES

SECRET = b"root:x:0:0"
PICTURE = b"\xff\xd8\xff picture"  # begins as a JPEG does


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    (folder / "deeper/a.jpg").write_bytes(PICTURE)
    (tmp_path / "secret.jpg").write_bytes(SECRET)
    return folder


def record(folder: Path, listing: pl.DataFrame, ids: list[str]) -> Store:
    """Write what a scan would have recorded of some files."""
    store = create_store(str(folder))
    now = datetime.now(UTC)
    rows = listing.select("path", "source", "bytes", "mtime").with_columns(
        pl.Series("image_id", ids, pl.String),
        status=pl.lit("ok"),
        reason=pl.lit(None, pl.String),
        run_id=pl.lit("r"),
        seen_at=pl.lit(now),
    )
    store.write_part("files", "r", pa.table(rows.to_arrow()).select(FILES.names).cast(FILES))
    return store


def recorded(photos: Path) -> RecordedImages:
    listing = list_sources((str(photos),))
    ids = [image_id(Path(path).read_bytes()) for path in listing["path"]]
    return RecordedImages.of(record(photos.parent / "store", listing, ids))


def test_what_lies_as_it_was_recorded_is_read(photos: Path) -> None:
    images = recorded(photos)
    os.utime(photos / "deeper/a.jpg", (1, 1))  # its time alone says nothing of its bytes
    assert images.read(image_id(PICTURE)) == PICTURE
    assert images.read(image_id(b"another")) is None


def link_to_secret(file: Path, secret: Path) -> None:
    file.unlink()
    file.symlink_to(secret)


def link_to_passwd_as_large(file: Path, secret: Path) -> None:
    secret.write_bytes(SECRET.ljust(len(PICTURE)))
    link_to_secret(file, secret)


def folder_swapped(file: Path, secret: Path) -> None:
    elsewhere = secret.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / file.name).write_bytes(PICTURE)  # even the same bytes: they lie outside
    shutil.rmtree(file.parent)
    file.parent.symlink_to(elsewhere)


def pipe(file: Path, secret: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def overwritten(file: Path, secret: Path) -> None:
    file.write_bytes(SECRET.ljust(len(PICTURE)))


def grown(file: Path, secret: Path) -> None:
    file.write_bytes(PICTURE + SECRET)


def removed(file: Path, secret: Path) -> None:
    file.unlink()


def a_folder(file: Path, secret: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("happens", "says"),
    [
        (link_to_secret, "leads out of the source"),
        (link_to_passwd_as_large, "leads out of the source"),
        (folder_swapped, "leads out of the source"),
        (pipe, "is not as it was"),
        (overwritten, "is not as it was"),
        (grown, "is not as it was"),
        (removed, "No such file"),
        (a_folder, "is not as it was"),
    ],
)
def test_what_took_its_place_is_not(
    photos: Path, happens: Callable[[Path, Path], None], says: str
) -> None:
    images = recorded(photos)
    happens(photos / "deeper/a.jpg", photos.parent / "secret.jpg")
    found = images.read(image_id(PICTURE))
    assert isinstance(found, Gone)
    assert says in found.reason
    assert str(photos) not in found.reason


def test_a_twin_stands_in_for_a_file_that_went(photos: Path) -> None:
    (photos / "twin.jpg").write_bytes(PICTURE)
    images = recorded(photos)
    (photos / "deeper/a.jpg").unlink()
    assert images.read(image_id(PICTURE)) == PICTURE
    assert [Path(seen.path).name for seen in images.seen(image_id(PICTURE))] == [
        "a.jpg",
        "twin.jpg",
    ]


def test_a_source_may_itself_be_a_link(photos: Path) -> None:
    link = photos.parent / "link"
    link.symlink_to(photos)
    listing = list_sources((str(link),))
    images = RecordedImages.of(record(photos.parent / "store", listing, [image_id(PICTURE)]))
    assert images.read(image_id(PICTURE)) == PICTURE


def test_a_catalog_that_says_otherwise_is_not_believed(photos: Path) -> None:
    """As if somebody had written a row for a file that no source holds."""
    secret = photos.parent / "secret.jpg"
    listing = list_sources((str(photos),)).with_columns(
        path=pl.lit(str(photos / "../secret.jpg")), bytes=pl.lit(len(SECRET), pl.Int64)
    )
    images = RecordedImages.of(record(photos.parent / "store", listing, [image_id(SECRET)]))
    assert secret.read_bytes() == SECRET
    assert images.read(image_id(SECRET)) == Gone("leads out of the source it was found in")


def test_a_member_of_a_tar_is_read_until_the_tar_changes(tmp_path: Path) -> None:
    tar = tmp_path / "0.tar"
    with tarfile.open(tar, "w") as file:
        about = tarfile.TarInfo("../a.jpg")  # a name of its own, not a path of ours
        about.size = len(PICTURE)
        file.addfile(about, io.BytesIO(PICTURE))
    members = open_tars(list_tars((str(tar),))).members
    images = RecordedImages.of(record(tmp_path / "store", members, [image_id(PICTURE)]))
    assert images.read(image_id(PICTURE)) == PICTURE
    os.utime(tar, (1, 1))
    found = images.read(image_id(PICTURE))
    assert isinstance(found, Gone)
    assert "is not as it was" in found.reason
