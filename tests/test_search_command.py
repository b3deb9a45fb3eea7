"""`pseudolabel search` as a user meets it."""

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from flows import resources
from flows.searching import moment, whole_prefix
from pipeline.errors import InputError
from pipeline.images.decoding import image_id
from tests.conftest import DATA
from tests.test_cli import Command, Result, command  # noqa: F401 - a fixture

KIWI, FROG = DATA / "images/food/kiwi/kiwi-01.jpg", DATA / "images/animals/frog/frog-05.jpg"
KIWI_ID, FROG_ID = (image_id(file.read_bytes()) for file in (KIWI, FROG))


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for the model fails."""

    def refuse(config: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(resources, "encoder", refuse)


@pytest.mark.usefixtures("no_model")
def test_ids_and_known_images_need_no_model(
    command: Command,  # noqa: F811
    demo_store: Path,
    tmp_path: Path,
) -> None:
    store = ("--store", str(demo_store), "-k", "2")
    copy = shutil.copy(KIWI, tmp_path / "copy.jpg")
    itself, other = command.json("search", str(copy), *store)
    assert itself["image_id"] == KIWI_ID
    assert other["label"] == "kiwi"
    assert itself["image_cosine"] == pytest.approx(1, abs=1e-3)
    first, _ = command.json("search", "--id", KIWI_ID[:6], *store)
    assert first == other  # an id does not answer itself
    first, _ = command.json("search", str(copy), "--no-self", *store)
    assert first == other
    first, _ = command.json("search", "--id", KIWI_ID, "--include-self", *store)
    assert first == itself
    both = command.json("search", "--id", KIWI_ID, str(FROG), "--not-id", other["image_id"], *store)
    assert len(both) == 2
    assert both[0]["standing"] >= both[1]["standing"]


def test_neither_torch_nor_prefect_is_loaded_for_an_id(demo_store: Path) -> None:
    arguments = ["pseudolabel", "search", "--id", KIWI_ID, "--store", str(demo_store), "--json"]
    run = f"import sys; sys.argv = {arguments}\nfrom flows.cli import main\ntry: main()\n"
    run += "except SystemExit as e: assert not e.code\n"
    check = "print([m for m in ('torch', 'prefect', 'open_clip') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", run + check], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_texts_images_and_ids_with_weights(
    command: Command,  # noqa: F811
    demo_store: Path,
    tmp_path: Path,
) -> None:
    store = ("--store", str(demo_store), "-k", "5")
    new = tmp_path / "new.png"
    Image.open(KIWI).resize((90, 90)).save(new)
    hits = command.json("search", str(new), *store)
    assert {hit["label"] for hit in hits} == {"kiwi"}
    assert hits[0]["standing"] is None
    frogs = command.json("search", str(new), "--text", "a photo of a frog.^20", *store)
    assert {hit["label"] for hit in frogs} == {"frog"}
    assert all(hit[name] is not None for hit in frogs for name in ("image_cosine", "text_cosine"))
    kiwis = command.json("search", f"{new}^20", "--text", "a photo of a frog.", *store)
    assert {hit["label"] for hit in kiwis} == {"kiwi"}
    away = command.json("search", "--text", "a green thing", "--not-text", "a frog^3", *store)
    assert "frog" not in {hit["label"] for hit in away}
    shown = command("search", str(new), "--text", "a frog^2", "--not-id", FROG_ID, *store)
    assert shown.code == 0
    assert f"Nearest to {new}, a frog^2, not {FROG_ID}" in shown.out
    assert "standing" in shown.out


def test_filters_reach_the_store(command: Command, demo_store: Path) -> None:  # noqa: F811
    asked = ("search", "--id", KIWI_ID, "--store", str(demo_store), "-k", "500")
    every = command.json(*asked)
    assert len(every) == 241
    either = command.json(*asked, "--label", "frog", "--label", "ship")
    assert {hit["label"] for hit in either} == {"frog", "ship"}
    below = command.json(*asked, "--path-prefix", str(DATA / "images/animals") + "/")
    assert {Path(hit["path"]).parents[1].name for hit in below} == {"animals"}
    assert len(command.json(*asked, "--path", "/ship/")) == 12
    kept, left = command.json(*asked, "--selected"), command.json(*asked, "--not-selected")
    assert kept
    assert len(kept) + len(left) == len(every)
    sure = command.json(*asked, "--min-confidence", "0.9")
    assert min(hit["confidence"] for hit in sure) >= 0.9
    assert len(command.json(*asked, "--since", "2020-01-01", "--until", "2999-01-01")) == 241
    assert command.json(*asked, "--until", "2020-01-01") == []
    none = command(*asked, "--since", "2999-01-01")
    assert "No image answers" in none.out


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give an image file, --id or --text, or a file of them by --batch"),
        (("--text", "x", "--batch", "q.jsonl"), "or a file of them by --batch"),
        ((str(DATA),), "is a folder; search takes image files"),
        (("no.jpg",), "no.jpg: cannot be read: No such file"),
        (("--id", "12345"), "image id '12345': an id is 32 hex digits, or the first 6 or more"),
        (("--id", "ffffffff"), "knows no such image that is there now"),
        (("--text", "x", "-k", "0"), "k must be 1 to 10,000, got 0"),
        (("--text", "x", "-k", "10001"), "k must be 1 to 10,000, got 10001"),
        (("--text", " "), "text ' ': is empty"),
        (("--text", "x^0"), "must be a number above 0"),
        (("--not-text", "x"), "the query says only what is not wanted"),
        (("--id", KIWI_ID, "--not-id", KIWI_ID), "cancel one another out"),
        (("--text", "x", "--label", "frgo"), "did you mean 'frog'"),
        (("--text", "x", "--min-confidence", "nan"), "must be 0 to 1, got nan"),
        (("--text", "x", "--since", "soon"), "--since 'soon': write a date"),
        (("--text", "x", "--sheet", "x.jpg"), "ends in .png"),
        (("--text", "x", "--out", "x.xlsx"), "ends in .parquet or .csv"),
        (("--batch", "q.jsonl", "--sheet", "x.png"), "--sheet draws one query"),
        (("--batch", "no.jsonl"), "queries no.jsonl: cannot be read"),
        (("~nobody-of-this-name/a.jpg",), "~nobody-of-this-name/a.jpg: cannot be read: No such"),
        (("a" * 300,), "a: cannot be read: File name too long"),
        (("a\0b.jpg",), r"'a\x00b.jpg': cannot be the name of a file"),
        (("/dev/zero",), "/dev/zero: is no file of bytes"),
        ((".",), ".: is a folder"),
    ],
)
def test_a_mistake_is_told_before_a_model_is_loaded(
    command: Command,  # noqa: F811
    demo_store: Path,
    arguments: tuple[str, ...],
    says: str,
) -> None:
    result = command("search", *arguments, "--store", str(demo_store))
    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert "Traceback" not in result.err


def test_what_only_the_model_can_tell_is_told_too(
    command: Command,  # noqa: F811
    demo_store: Path,
) -> None:
    long = command("search", "--text", "a dog " * 60, "--store", str(demo_store))
    assert long.code == 2
    # Two tokens for each "a dog", and marks of start and end; the tiny CLIP reads 24.
    assert "has 122 tokens, marks of start and end included, and the model reads 24" in long.err
    no_image = command("search", str(DATA / "README.md"), "--store", str(demo_store))
    assert no_image.code == 2
    assert "README.md: not an image" in no_image.err


def batch(command: Command, store: Path, rows: list[dict[str, object]], *more: str) -> Result:  # noqa: F811
    Path("q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return command("search", "--batch", "q.jsonl", "--store", str(store), *more)


def test_a_batch_gets_what_each_query_gets_alone(
    command: Command,  # noqa: F811
    demo_store: Path,
) -> None:
    rows: list[dict[str, object]] = [
        {"key": "frogs", "text": "a frog", "not_text": "a dog^2"},
        {"id": KIWI_ID[:8], "image": [str(FROG)]},
        {"text": "a frog"},
    ]
    result = batch(command, demo_store, rows, "-k", "4", "--min-confidence", "0.5")
    assert result.code == 0, result.err
    told = [json.loads(line) for line in result.out.splitlines()]
    assert [(row["line"], row["key"]) for row in told] == [(1, "frogs"), (2, None), (3, None)]
    common = ("-k", "4", "--min-confidence", "0.5", "--store", str(demo_store))
    alone = [
        command.json("search", "--text", "a frog", "--not-text", "a dog^2", *common),
        command.json("search", "--id", KIWI_ID, str(FROG), *common),
        command.json("search", "--text", "a frog", *common),
    ]
    for row, hits in zip(told, alone, strict=True):
        assert [hit["image_id"] for hit in row["hits"]] == [hit["image_id"] for hit in hits]
    written = batch(command, demo_store, rows, "-k", "4", "--out", "hits.parquet", "--json")
    assert json.loads(written.out) == {"queries": 3, "hits": 12, "out": "hits.parquet"}
    table = pl.read_parquet("hits.parquet")
    assert table["line"].to_list() == [1] * 4 + [2] * 4 + [3] * 4
    assert table["rank"].to_list() == [1, 2, 3, 4] * 3


def test_bad_rows_of_a_batch_are_told_by_line_and_nothing_is_answered(
    command: Command,  # noqa: F811
    demo_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good: dict[str, object] = {"text": "a frog"}
    rows: list[dict[str, object]] = [good, {"id": "ffffffff"}, {"image": "no.jpg", "text": "x"}]
    with monkeypatch.context() as patch:
        patch.setattr(resources, "encoder", None)  # none is asked for
        result = batch(command, demo_store, rows)
    assert (result.code, result.out) == (2, "")
    assert "q.jsonl: 2 of 3 rows cannot be answered" in result.err
    assert "line 2: image id 'ffffffff'" in result.err
    assert "line 3: no.jpg: cannot be read" in result.err
    result = batch(command, demo_store, [{"text": "a dog " * 60}, good, {"image": __file__}])
    assert (result.code, result.out) == (2, "")
    assert "line 1: 'a dog a dog" in result.err
    assert f"line 3: {__file__}: not an image" in result.err
    result = batch(command, demo_store, [good, {"text": "a dog", "not_text": "a dog"}])
    assert "line 2: the terms of the query cancel one another out" in result.err


def test_one_query_is_drawn_and_written(command: Command, demo_store: Path) -> None:  # noqa: F811
    asked = ("search", "--id", KIWI_ID, "--store", str(demo_store), "-k", "10")
    result = command(*asked, "--sheet", "new/sheet.png", "--out", "hits.csv")
    assert result.code == 0, result.err
    with Image.open("new/sheet.png") as sheet:
        assert sheet.format == "PNG"
    with Path("hits.csv").open(newline="") as file:
        ranks = [row["rank"] for row in csv.DictReader(file)]
    assert ranks == [str(rank) for rank in range(1, 11)]


def test_times_are_utc_unless_they_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")  # wherever the user is
        time.tzset()
        day = moment("--since", "2026-05-01")
    time.tzset()
    assert day is not None
    assert day.isoformat() == "2026-05-01T00:00:00+00:00"
    assert moment("--since", "2026-05-01T02:00+02:00") == day
    assert moment("--since", None) is None
    with pytest.raises(InputError, match="--until '1 May'"):
        moment("--until", "1 May")


def test_the_beginning_of_a_path_is_taken_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert whole_prefix("in/a") == f"{tmp_path}/in/a"
    assert whole_prefix("in/") == f"{tmp_path}/in/"
    for whole in ("/in/", "s3://bucket/in/", "tar://a", "/"):
        assert whole_prefix(whole) == whole
