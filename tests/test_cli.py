"""The command line as a user meets it: answers, exit codes, and errors without a traceback."""

import csv
import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from pipeline.opening import open_store
from tests.conftest import DATA, ROOT, TINY, pseudolabel
from tests.processes import core_seconds
from tests.test_locking import hold

KIWI = str(DATA / "images/food/kiwi/kiwi-01.jpg")


@dataclass(frozen=True)
class Result:
    """What one command left behind."""

    code: int
    out: str
    err: str


class Command:
    """Runs `pseudolabel` in this process: torch takes seconds to load."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["pseudolabel", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        said = self._capsys.readouterr()
        return Result(int(exit_.value.code or 0), said.out, said.err)

    def json(self, *arguments: str) -> Any:
        """Run with --json and parse the answer."""
        result = self(*arguments, "--json")
        assert result.code == 0, result.err
        return json.loads(result.out)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Command(monkeypatch, capsys)


def classify(labels: str, *more: str) -> tuple[str, ...]:
    return ("classify", KIWI, "--labels", labels, "--model", TINY, *more)


def test_classify_answers_for_one_image_without_a_store(command: Command) -> None:
    result = command(*classify("a kiwi,a dog,a cat"))
    assert result.code == 0
    assert "a kiwi" in result.out
    assert "100.0 %" in result.out
    assert not list(Path.cwd().iterdir())


def test_classify_names_the_files_of_a_folder_that_are_no_picture(command: Command) -> None:
    Path("drop").mkdir()
    Path("drop/kiwi.jpg").write_bytes(Path(KIWI).read_bytes())
    Path("drop/torn.jpg").write_bytes(b"\xff\xd8 no more")
    asked = ("classify", "drop", "--labels", "a kiwi,a dog", "--model", TINY)
    answers = command.json(*asked)
    told = {Path(answer["path"]).name: answer["label"] for answer in answers}
    assert told == {"kiwi.jpg": "a kiwi", "torn.jpg": None}
    assert answers[1]["reason"]
    result = command(*asked)
    assert result.code == 0
    assert f"left out: {answers[1]['path']}: {answers[1]['reason']}" in result.err
    Path("drop/kiwi.jpg").unlink()
    assert f"is a picture: {answers[1]['path']}: {answers[1]['reason']}" in command(*asked).err


@pytest.mark.parametrize(("k", "count"), [("1", 1), ("2", 2), ("10", 3)])
def test_classify_gives_k_labels_or_all_there_are(command: Command, k: str, count: int) -> None:
    [answer] = command.json(*classify("kiwi,dog,cat", "-k", k))
    assert len(answer["top"]) == count
    assert answer["label"] == "kiwi"
    scores = [entry["score"] for entry in answer["top"]]
    assert scores == sorted(scores, reverse=True)


def test_a_template_changes_the_question(command: Command) -> None:
    one = command.json(*classify("cup,not cup"))
    two = command.json(*classify("cup,not cup", "--template", "an eye with {}"))
    assert one != two


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (classify("dog"), "need at least 2 labels to choose between, got only 'dog'"),
        (classify("dog,,cat"), "a label must not be empty"),
        (classify("dog,cat,Dog"), "'Dog' stands twice"),
        (classify("dog,cat", "--template", "a photo"), "must hold one {} for the label"),
        (classify("dog,cat", "--top-k", "0"), "labels.top_k = 0"),
        (classify("dog,cat", "--device", "tpu"), "encoder.device = 'tpu'"),
        (("classify", "no.jpg", "--labels", "a,b"), "no.jpg: cannot be read: No such file"),
        (
            ("classify", str(DATA / "README.md"), "--labels", "a,b", "--model", TINY),
            "README.md: not an image",
        ),
        (("run", "nowhere", "--labels", "a,b"), "source nowhere: no such folder"),
        (("run", str(DATA), "--labels", "labels.toml"), "label set labels.toml: no such file"),
        (("run", "--set", "labels.topk=1"), "labels.topk: there is no such key"),
        (("run", "--set", "nonsense"), "write it as section.key=value"),
        (("run", "--config", "no.toml"), "no.toml: cannot be read"),
        (("status", "--store", "nowhere"), "nowhere: no store here"),
        (("search", "--store", "nowhere"), "give an image file, --id or --text"),
        (("serve",), "give one of --every SECONDS, --cron EXPRESSION and --watch"),
        (("run", str(DATA), "--labels", "a,b", "--truth", "no.csv"), "truth no.csv: no such file"),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(
    command: Command, arguments: tuple[str, ...], says: str
) -> None:
    result = command(*arguments)
    assert result.code == 2
    assert says in result.err
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err


def test_an_unknown_option_is_code_2(command: Command) -> None:
    assert command("status", "--bogus").code == 2


def test_a_busy_store_is_code_3_and_names_its_writer(command: Command, tmp_path: Path) -> None:
    command("run", str(DATA / "images/food/kiwi"), *options(tmp_path), "--plain")
    holder = hold(open_store(str(tmp_path / "store")), 60)
    try:
        result = command("select", "--store", str(tmp_path / "store"))
    finally:
        holder.kill()
        holder.wait()
    assert result.code == 3
    assert f"process {holder.pid}" in result.err


def options(folder: Path) -> tuple[str, ...]:
    given = ("--store", str(folder / "store"), "--model", TINY, "--labels", "kiwi,pear")
    return (*given, "--set", "scan.settle_seconds=0")


def test_the_version_is_that_of_the_project(command: Command) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = command("--version")
    assert (told.code, told.out) == (0, f"pseudolabel {project['version']}\n")


def test_run_tells_what_it_would_do_then_does_it_then_has_nothing_to_do(
    command: Command, tmp_path: Path
) -> None:
    arguments = ("run", str(DATA / "images/food/kiwi"), *options(tmp_path), "--plain")
    would = command.json(*arguments, "--dry-run")
    assert (would["to_read"], would["known"]) == (12, 0)
    assert not (tmp_path / "store").exists()
    did = command.json(*arguments)
    assert did["embed"]["embedded"] == 12
    seconds = did["embed"]["seconds"]
    assert set(seconds) == {"reading", "decoding", "waiting", "inference", "writing"}
    assert 0 < seconds["waiting"] + seconds["inference"] <= did["seconds"]["embed"] + 0.002
    half_written = tmp_path / "store/files/.tmp-123"  # by a run that was killed in its last steps
    half_written.write_bytes(b"PAR1")
    assert command.json(*arguments) == {"nothing_new": True, "known": 12, "waiting": 0}
    assert not half_written.exists()
    # The store knows its model; the labels are another question.
    again = ("run", str(DATA / "images/food/kiwi"), "--store", str(tmp_path / "store"), "--plain")
    relabelled = command.json(*again, "--labels", "kiwi,dog", "--set", "scan.settle_seconds=0")
    assert relabelled["embed"]["files"] == 0
    assert relabelled["label"]["labelled"] == 12


def test_a_store_is_checked_and_its_parts_are_merged(command: Command, tmp_path: Path) -> None:
    kiwi, few = str(DATA / "images/food/kiwi"), ("--set", "run.shard_rows=5", "--plain")
    command("run", kiwi, *options(tmp_path), *few)
    at = ("--store", str(tmp_path / "store"))
    merged = command.json("compact", *at, "--part-rows", "10")
    assert merged == {"before": 12, "after": 8, "rows": 40}
    found = command.json("verify", *at)
    assert (found["images"], found["lost"], found["faults"]) == (12, 0, [])
    assert command("verify", "--store", "nowhere").code == 2
    [part, _] = sorted((tmp_path / "store/embeddings").iterdir())
    part.write_bytes(part.read_bytes()[:-100])
    broken = command("verify", *at, "--json")
    assert broken.code == 1
    [fault] = json.loads(broken.out)["faults"]
    assert fault["file"] == f"embeddings/{part.name}"
    assert json.loads(broken.out)["lost"] == 10  # files, for the next run to read


def test_mixing_encoders_is_refused(command: Command, tmp_path: Path) -> None:
    kiwi, pear = str(DATA / "images/food/kiwi"), str(DATA / "images/food/pear")
    command("run", kiwi, *options(tmp_path), "--plain")
    other = tmp_path / "other"
    other.mkdir()
    for file in Path(TINY.removeprefix("local-dir:")).glob("open_clip*"):
        (other / file.name).write_bytes(file.read_bytes().replace(b"bicubic", b"bilinear"))
    result = command("run", pear, *options(tmp_path), "--plain", "--model", f"local-dir:{other}")
    assert result.code == 2
    assert "cannot be compared" in result.err
    assert "preprocessing" in result.err


def test_search_evaluate_export_status_and_predict(
    command: Command, demo_store: Path, tmp_path: Path
) -> None:
    store = ("--store", str(demo_store))
    hits = command.json("search", "--text", "a photo of a frog.", "-k", "5", *store)
    assert {hit["label"] for hit in hits} == {"frog"}
    itself = command.json("search", KIWI, "-k", "1", *store)
    assert itself[0]["path"] == KIWI
    truth = command.json("evaluate", "--truth", str(DATA / "images"), *store)
    assert truth["metrics"]["images"] == 242
    command("export", "out/table.csv", "--format", "csv", *store)
    with Path("out/table.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 245
    status = command.json("status", *store)
    assert status["files"] == {"ok": 243, "unreadable": 2}
    assert status["indexed"] == 242
    assert [a["label"] for a in command.json("predict", KIWI, *store)] == ["kiwi"]
    Path("drop").mkdir()
    Path("drop/torn.jpg").write_bytes(b"\xff\xd8 no more")
    answers = command.json("predict", KIWI, "drop", *store)
    assert [answer["label"] for answer in answers] == ["kiwi", None]


def test_init_writes_a_config_that_runs(command: Command, tmp_path: Path) -> None:
    assert command("init").code == 0
    assert "settle_seconds = 30" in Path("pseudolabel.toml").read_text()
    assert command("init").code == 2  # never over a file that is there
    result = command("run", "--plain")
    assert "no such file" in result.err  # of labels.toml, in the config's own folder
    assert str(tmp_path / "labels.toml") in result.err


def test_help_takes_less_than_a_second_of_a_core() -> None:
    pseudolabel("--help")  # once, to warm the disk cache
    before = core_seconds()
    assert "classify" in pseudolabel("--help").stdout
    assert core_seconds() - before < 1  # whatever else runs on this machine


@pytest.mark.parametrize("what", ["import pipeline.store", "status"])
def test_what_should_be_light_loads_neither_torch_nor_prefect(what: str, demo_store: Path) -> None:
    run = what
    if what == "status":
        arguments = ["pseudolabel", "status", "--store", str(demo_store), "--json"]
        run = f"import sys; sys.argv = {arguments}\nfrom flows.cli import main\ntry: main()\n"
        run += "except SystemExit as e: assert not e.code"
    check = "import sys; print([m for m in ('torch', 'prefect') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{run}\n{check}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
