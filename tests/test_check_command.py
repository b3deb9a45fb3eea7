"""`pseudolabel labels check` with the tiny CLIP: by itself, and beside a store."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.clip.encoder import Encoder
from pipeline.labels.labelling import current_labels
from pipeline.opening import open_store
from tests.conftest import DATA, TINY
from tests.test_cli import Command, command  # noqa: F401 - a fixture

CRANE = """
name = "pond"
templates = "cifar"
[[classes]]
name = "crane"
prompts = ["a wading bird {long}that stands in shallow water", "a crane, a bird"]
[[classes]]
name = "frog"
"""
LONG = "with a long neck and long legs and a long beak and a long tail and long wings "


def kinds(told: dict[str, Any]) -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for entry in told["findings"]:
        found.setdefault(entry["kind"], []).append(entry["classes"])
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_user_learns_to_write_a_red_envelope_as_one_label(command: Command) -> None:  # noqa: F811
    told = command.json("labels", "check", "red,envelope,China", "--model", TINY)
    assert kinds(told)["parts of one thing"] == [["red", "China", "envelope"]]
    assert (told["classes"], told["prompts"], told["images"]) == (3, 3, None)
    result = command("labels", "check", "red,envelope,China", "--model", TINY)
    assert result.code == 0
    assert "red envelope" in result.out
    right = command("labels", "check", "--labels", "red envelope,dog,banana", "--model", TINY)
    assert right.out.strip() == "Label set inline: 3 classes, 3 prompts: nothing to find fault with"
    assert not list(Path.cwd().iterdir())


def test_all_cosines_are_written_where_they_are_asked_for(command: Command) -> None:  # noqa: F811
    asked = ("labels", "check", "banana,dog,puppy", "--model", TINY, "--matrix", "cosines.csv")
    assert command(*asked).code == 0
    lines = [line.split(",") for line in Path("cosines.csv").read_text().splitlines()]
    assert [line[0] for line in lines] == ["", "banana", "dog", "puppy"] == lines[0]
    table = [[float(cell) for cell in line[1:]] for line in lines[1:]]
    assert [table[row][row] for row in range(3)] == [1, 1, 1]
    assert table[0][1] == table[1][0] < table[1][2] == table[2][1] < 1


def test_prompts_that_are_cut_are_told_and_warned_of(
    command: Command,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    Path("pond.toml").write_text(CRANE.replace("{long}", LONG))
    told = command.json("labels", "check", "pond.toml", "--model", TINY)
    assert (told["label_set"], told["prompts"]) == ("pond", 2 + 18)
    [cut] = told["findings"]
    assert (cut["kind"], cut["classes"], cut["number"]) == ("cut prompt", ["crane"], 1)
    assert "it reads 'a wading bird with a long neck" in cut["words"]
    assert not caplog.messages  # it is in the answer
    kiwi = str(DATA / "images/food/kiwi/kiwi-01.jpg")
    assert command("classify", kiwi, "--labels", "pond.toml", "--model", TINY).code == 0
    assert [message[:13] for message in caplog.messages] == ["class 'crane'"]
    Path("pond.toml").write_text(CRANE.replace("{long}", ""))
    assert command.json("labels", "check", "pond.toml", "--model", TINY)["findings"] == []


def test_a_set_of_templates_is_named_on_the_command_line(command: Command) -> None:  # noqa: F811
    given = ("labels", "check", "red envelope,猫", "--model", TINY)
    told = command.json(*given, "--template", "imagenet")
    assert told["prompts"] == 160
    assert kinds(told) == {"unknown word": [["猫"]]}
    assert command.json(*given, "--set", "labels.template=cifar")["prompts"] == 36


def test_without_a_name_the_stores_own_labels_are_looked_at(
    command: Command,  # noqa: F811
    demo_store: Path,
) -> None:
    before = files(demo_store)
    told = command.json("labels", "check", "--store", str(demo_store))
    assert (told["label_set"], told["classes"]) == ("demo", 20)
    opened = open_store(str(demo_store))
    rows = opened.read(current_labels(opened).table)
    assert told["images"] == len(rows)
    given = {entry["kind"] for entry in told["findings"]}
    assert {"several meanings"} <= given  # kiwi and orange
    assert "never given" not in given
    with_template = command.json("labels", "check", "--store", str(demo_store), "--template", "one")
    assert with_template["prompts"] == 20
    assert files(demo_store) == before  # it looks, and writes nothing


def test_counts_of_a_store_are_those_of_its_labels_table(
    command: Command,  # noqa: F811
    demo_store: Path,
    tmp_path: Path,
) -> None:
    """Few classes for many kinds of pictures: some are taken for what they are not."""
    store = str(shutil.copytree(demo_store, tmp_path / "store"))
    names = ("dress", "skirt", "kitchen", "cat")
    asked = ("--labels", ",".join(names), "--store", store, "--template", "a photo of a {}.")
    assert command("relabel", *asked, "--plain", "--no-select", "--top-k", "2").code == 0
    opened = open_store(store)
    rows = opened.read(current_labels(opened).table)
    close = rows.filter(pl.col("topk_scores").list.get(1) / pl.col("score") >= 0.5)
    pair = pl.col("topk_labels").list.sort()
    told = command.json("labels", "check", *asked)
    swaps = [entry for entry in told["findings"] if entry["kind"] == "often swapped"]
    assert swaps
    for entry in swaps:
        given = rows.filter(pl.col("label").is_in(entry["classes"]))
        expected = close.filter(pair == sorted(entry["classes"]))
        assert entry["number"] == pytest.approx(len(expected) / len(given), abs=0.01)
    unused = [name for name in names if name not in set(rows["label"])]
    assert kinds(told).get("never given", []) == ([unused] if unused else [])
    most = [entry for entry in told["findings"] if entry["kind"] == "takes most"]
    for entry in most:
        share = len(rows.filter(pl.col("label") == entry["classes"][0])) / len(rows)
        assert entry["number"] == pytest.approx(share, abs=0.01)


def test_mistakes_are_told_in_a_line(command: Command, demo_store: Path) -> None:  # noqa: F811
    for arguments, says in (
        (("a,b", "--labels", "c,d"), "name the label set once"),
        (("a,b", "--store", "nowhere"), "nowhere: no store here"),
        ((), "labels.toml: no such file"),
        (("a,b", "--template", "imagenette"), "a set: one, cifar, imagenet"),
        (("a,b", "--template", "a photo"), "must hold one {}"),
    ):
        result = command("labels", "check", *arguments)
        assert result.code == 2, result
        assert says in result.err
        assert len(result.err.strip().splitlines()) == 1


def test_vectors_of_another_encoder_are_refused(
    command: Command,  # noqa: F811
    demo_store: Path,
    tiny: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = tiny.identity.__class__(**{**vars(tiny.identity), "weights": "f" * 32})
    monkeypatch.setattr("flows.resources.encoder", lambda _: _Other(other))
    result = command("labels", "check", "a,b", "--store", str(demo_store))
    assert result.code == 2
    assert "weights" in result.err


class _Other:
    def __init__(self, identity: object) -> None:
        self.identity = identity
