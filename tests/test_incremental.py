"""Whatever happens to the files between runs, the store's view equals a model in plain Python."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from PIL import Image

from pipeline.arrays import Floats, Pixels
from pipeline.catalog import current_files, present_images
from pipeline.clip.embed import embed_shards
from pipeline.compaction import compact
from pipeline.folder import LocalFolder
from pipeline.images.decoding import Picture, Refusal, decode, image_id
from pipeline.images.scan import discard_plans, find_changes, finish_tars, record_changes
from pipeline.opening import create_store
from pipeline.reports.export import flat_table
from pipeline.runs import new_run_id
from pipeline.search.index import update_index
from pipeline.training.selection import TABLE, select
from tests.helpers import SELECTED, FakeEncoder, axis, label_set, label_store, nearest

NAMES = ["red", "green", "blue", "grey"]
COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (120, 120, 120)]
CLASSES = label_set(*NAMES)
SETTLE = 30
PLACES = [f"{folder}/{number}.png" for folder in ("a", "b") for number in range(3)]

places = st.sampled_from(PLACES)
contents = st.integers(0, 7)  # two files of each colour, and one that is broken


def content_of(number: int) -> bytes:
    """Return the bytes of a picture; 7 is a picture cut short."""
    buffer = BytesIO()
    size = (4, 3) if number < 4 else (5, 3)
    Image.new("RGB", size, COLOURS[number % 4]).save(buffer, "PNG")
    return buffer.getvalue() if number < 7 else buffer.getvalue()[:50]


class Colours(FakeEncoder):
    """Embeds a picture along the axis of its colour, and counts pictures."""

    pictures = 0

    def encode_images(self, pixels: Pixels) -> Floats:
        self.pictures += len(pixels)
        distance = np.abs(pixels[:, 0, 0, None].astype(int) - COLOURS).sum(axis=2)
        return np.stack([axis(int(nearest)) for nearest in distance.argmin(axis=1)])


class KilledError(BaseException):
    """Stands for the end of the process."""


@dataclass
class File:
    """A file as the model knows it."""

    content: int
    young: bool = False


class Drops(RuleBasedStateMachine):
    """Files come, change, move, go and come back; runs are taken, some of them killed."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.source = self.root / "images"
        self.source.mkdir()
        self.store = create_store(str(self.root / "store"))
        self.encoder = Colours()
        self.files: dict[str, File] = {}
        self.seen: dict[str, File] = {}  # as the last whole run should have left the store
        self.ever: set[int] = set()  # contents that were embedded
        self.went: list[tuple[str, int]] = []
        self.clock = datetime.now(UTC).timestamp() - 10**6
        self.killed = False

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    # -- what happens to files -----------------------------------------------------------------

    def put(self, place: str, content: int, *, young: bool = False) -> None:
        path = self.source / place
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content_of(content))
        self.files[place] = File(content, young)
        self.date(place)

    def date(self, place: str) -> None:
        """Give a file a time of change that no file had before."""
        self.clock += 1
        moment = datetime.now(UTC).timestamp() if self.files[place].young else self.clock
        os.utime(self.source / place, (moment, moment))

    @rule(place=places, content=contents, young=st.booleans())
    def add_or_change(self, place: str, content: int, young: bool) -> None:
        self.put(place, content, young=young)

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.files)))
        (self.source / place).unlink()
        self.went.append((place, self.files.pop(place).content))

    @precondition(lambda self: self.went)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        place, content = data.draw(st.sampled_from(self.went))
        self.put(place, content)

    @precondition(lambda self: self.files)
    @rule(data=st.data(), to=places)
    def rename(self, data: st.DataObject, to: str) -> None:
        place = data.draw(st.sampled_from(sorted(self.files)))
        (self.source / to).parent.mkdir(exist_ok=True)
        (self.source / place).rename(self.source / to)
        self.files[to] = self.files.pop(place)

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        self.date(data.draw(st.sampled_from(sorted(self.files))))

    @rule()
    def time_passes(self) -> None:
        for place, file in self.files.items():
            if file.young:
                file.young = False
                self.date(place)

    # -- what happens to the store -------------------------------------------------------------

    @rule(shard_rows=st.integers(1, 3))
    def run(self, shard_rows: int) -> None:
        self.take(shard_rows)
        for place in PLACES:
            file = self.files.get(place)
            if file is not None and file.young and self.killed:
                self.seen.pop(place, None)  # a killed run may have seen what lay here before
                if before := self.recorded(place):
                    self.seen[place] = before
            elif file is None:
                self.seen.pop(place, None)
            elif not file.young:
                self.seen[place] = File(file.content)
        self.ever |= {file.content for file in self.seen.values() if file.content != 7}
        self.killed = False

    def recorded(self, place: str) -> File | None:
        """Return what the store knows to lie at a place."""
        rows = current_files(self.store).filter(pl.col("path").str.ends_with(f"/images/{place}"))
        [image] = rows.filter(pl.col("status") != "gone")["image_id"].to_list() or [None]
        found = [number for number in range(8) if image_id(content_of(number)) == image]
        return File(found[0]) if found else None

    @rule(shard_rows=st.integers(1, 3), at=st.integers(0, 12))
    def run_killed(self, shard_rows: int, at: int) -> None:
        left, real = [at], LocalFolder.write

        def write(folder: LocalFolder, name: str, data: bytes) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KilledError
            real(folder, name, data)

        LocalFolder.write = write  # type: ignore[method-assign, assignment]
        try:
            self.take(shard_rows)
        except KilledError:
            pass
        finally:
            LocalFolder.write = real  # type: ignore[method-assign]
        self.killed = True

    @rule(part_rows=st.integers(2, 9))
    def merge(self, part_rows: int) -> None:
        compact(self.store, part_rows=part_rows)

    def take(self, shard_rows: int) -> None:
        now = datetime.now(UTC)
        changes = find_changes(self.store, (str(self.source),), settle_seconds=SETTLE, now=now)
        run_id = new_run_id(self.store, now)
        scan = record_changes(self.store, changes, run_id=run_id, now=now, shard_rows=shard_rows)
        embed_shards(
            self.store,
            run_id,
            range(scan.shards),
            self.encoder,
            decode=self.decode,
            now=now,
            batch_size=2,
            threads=1,
        )
        finish_tars(self.store, run_id)
        discard_plans(self.store)
        if self.store.parts("embeddings"):
            label_store(self.store, CLASSES)
            update_index(self.store)
            select(self.store, SELECTED)

    def decode(self, data: bytes, name: str) -> Picture | Refusal:
        return decode(data, name, self.encoder.fit, max_pixels=10**6)

    # -- what must hold ------------------------------------------------------------------------

    @invariant()
    def nothing_was_embedded_twice(self) -> None:
        if not self.killed:  # a killed run may have embedded what it could not commit
            held = self.store.read("embeddings", ["image_id"])["image_id"].to_list()
            assert len(held) == len(set(held))

    @precondition(lambda self: not self.killed)
    @invariant()
    def the_view_is_that_of_the_last_run(self) -> None:
        good = {place: file for place, file in self.seen.items() if file.content != 7}
        ids = {place: image_id(content_of(file.content)) for place, file in good.items()}
        names = {place: place.rpartition("/images/")[2] for place in PLACES}
        assert set(present_images(self.store)["image_id"]) == set(ids.values())
        if not self.ever:
            return
        table = flat_table(self.store)
        view = table.with_columns(pl.col("path").str.split("/images/").list.last())
        expected = sorted(
            (
                names[place],
                image_id(content_of(file.content)),
                NAMES[file.content % 4] if place in good else None,
            )
            for place, file in self.seen.items()
        )
        assert list(view.select("path", "image_id", "label").iter_rows()) == expected
        assert (
            view.filter(pl.col("image_id").is_null() | pl.col("label").is_null())[
                "reason"
            ].null_count()
            == 0
        )
        found = nearest(self.store, axis(0), k=99)
        assert sorted(found["image_id"]) == sorted(set(ids.values()))
        selection = set(self.store.read(TABLE)["image_id"])
        assert selection == set(ids.values())


Drops.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestDrops = Drops.TestCase
