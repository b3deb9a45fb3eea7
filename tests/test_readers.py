"""Readers need no lock: what they see during runs and merging is whole."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.opening import open_store
from pipeline.reports.export import flat_table
from pipeline.reports.status import status
from pipeline.search.index import load_index
from pipeline.vectors import iterate_vectors
from tests.conftest import demo_config, run_plain
from tests.helpers import nearest
from tests.test_crash import many_images

DROPS, SIZE = 8, 6


@pytest.mark.timeout(600)
def test_readers_see_a_whole_store_while_drops_are_taken_and_parts_merged(tmp_path: Path) -> None:
    pictures = sorted((many_images(tmp_path / "all", 40 + DROPS * SIZE) / "0").parent.rglob("*.*"))
    pictures = [path for path in pictures if path.is_file() and path.stem != "twin"]
    source, store = tmp_path / "in", tmp_path / "store"
    source.mkdir()
    config = demo_config(
        store, sources=[str(source)], run={"compact_after": 2}, train={"every_run": False}
    )

    def drop(some: list[Path]) -> None:
        for path in some:
            shutil.copy(path, source)
        run_plain(config)

    drop(pictures[:40])
    earlier = flat_table(open_store(str(store)))
    before = dict(earlier.select("path", "label").iter_rows())
    images = earlier["image_id"].n_unique()

    def all_drops() -> None:
        for number in range(DROPS):
            drop(pictures[40 + number * SIZE : 40 + (number + 1) * SIZE])

    looks, counts = 0, []
    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(all_drops)
        while not writing.done():
            opened = open_store(str(store))
            table = flat_table(opened)
            assert table["path"].n_unique() == len(table)
            labels = dict(table.select("path", "label").iter_rows())
            assert {path: labels.get(path) for path in before} == before
            unlabelled = table.filter(table["label"].is_null())
            assert unlabelled["reason"].null_count() == 0, unlabelled
            counts.append(len(table))
            query = next(iterate_vectors(opened))[2][:1].astype("float32")
            found = nearest(opened, query[0], k=5)
            assert len(found) == 5
            assert found["image_cosine"][0] == pytest.approx(1, abs=2e-3)
            assert len(load_index(opened)) >= images
            assert status(opened).embeddings >= images
            looks += 1
            time.sleep(
                0.02
            )  # or the writer waits for the reader, and not the reader for the writer
        writing.result()
    assert counts == sorted(counts)
    assert looks >= 10
    assert len(set(counts)) >= 4, counts  # they saw the store grow
    assert len(list((store / "files").iterdir())) < DROPS
