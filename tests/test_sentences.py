"""What runs and their steps did, in words: names of runs, sentences of the log."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import run_names, sentences
from flows.drop import DropSummary
from flows.relabel import RelabelSummary
from pipeline.clip.captioning import CaptionSummary
from pipeline.clip.embed import EmbedSummary
from pipeline.compaction import CompactSummary
from pipeline.images.scan import ScanSummary
from pipeline.labels.labelling import LabelSummary
from pipeline.search.index import IndexSummary
from pipeline.training.selection import SelectSummary
from tests.conftest import demo_config

SCAN = ScanSummary("r", listed=9, new=0, changed=0, gone=0, waiting=0, unopenable=0, shards=0)


@pytest.mark.parametrize(
    ("scan", "embed", "label", "name"),
    [
        ({"new": 12, "changed": 3}, {}, None, "12 new, 3 changed into store photos"),
        (
            {"new": 9, "gone": 1, "unopenable": 2},
            {"unreadable": 1},
            None,
            "9 new into store photos, 1 gone, 3 unreadable",
        ),
        ({"gone": 1}, {}, None, "1 gone from store photos"),
        ({}, {}, None, "nothing new for store photos"),
        ({"waiting": 4}, {}, None, "nothing new for store photos, 4 waiting"),
        ({}, {}, LabelSummary("t", 7, 0, 0), "7 images labelled anew in store photos"),
    ],
)
def test_a_run_is_named_by_what_it_did(
    scan: dict[str, Any], embed: dict[str, Any], label: LabelSummary | None, name: str
) -> None:
    config = demo_config(Path("/data/photos"))
    drop = DropSummary("r", replace(SCAN, **scan), EmbedSummary(**embed), label=label)
    assert run_names.of_drop(config, drop) == name


def test_other_flows_are_named_by_what_they_did() -> None:
    config = demo_config(Path("/data/photos"))
    relabelled = RelabelSummary(LabelSummary("t", 7, 0, 0), 1.0, IndexSummary(7, 0))
    assert run_names.of_relabelling(config, relabelled) == "7 images labelled anew in store photos"
    done = CaptionSummary("t", "m", 5, 1, 2, {"cut off": 3}, 4, in_force=True)
    assert run_names.of_captions(config, done) == "5 captions written in store photos, 4 left"
    assert sentences.of_step("caption", done) == (
        "caption: 5 images captioned, 2 had a caption; 1 captions are empty; 3 images could not be "
        "read; 4 are left"
    )


@pytest.mark.parametrize(
    ("name", "summary", "said"),
    [
        (
            "scan",
            replace(SCAN, new=5, changed=1, gone=2, waiting=3, unopenable=4),
            "scan: 9 files in the sources: 5 new, 1 changed, 2 gone, 3 too young: they wait for "
            "the next run, 4 that cannot be opened",
        ),
        (
            "embed",
            EmbedSummary(files=9, embedded=5, known=2, unreadable=1, ignored=1),
            "embed: 5 images embedded, 2 known already, 1 unreadable, 1 no images",
        ),
        ("index", IndexSummary(7, 5), "index: 7 vectors, 5 of them added now"),
        ("neighbours", 7, "neighbours: searched of 7 images"),
        ("encode labels", 20, "encode labels: 20 classes"),
        (
            "label",
            LabelSummary("t", 7, 2, 1),
            "label: 7 images labelled, 2 of them abstained, 1 changed by refinement",
        ),
        (
            "select",
            SelectSummary(5, 4, 1, 0, {"unsure": 2}, []),
            "select: 5 images kept: 4 to train on, 1 to tell when to stop; 0 are held out for "
            "testing; left out: 2 unsure",
        ),
        (
            "compact",
            CompactSummary(70, 2, 8000),
            "compact: 70 parts are 2 now, 8000 rows were written again",
        ),
        ("something else", 3, "something else: 3"),
    ],
)
def test_a_step_is_told_in_a_sentence(name: str, summary: object, said: str) -> None:
    assert sentences.of_step(name, summary) == said
