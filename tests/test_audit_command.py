"""`pseudolabel audit` as a user meets it, from the first draw to labels that say what they mean."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.stale import stale_stages
from pipeline.labels.labelling import current_labels
from pipeline.opening import open_store
from tests.conftest import DATA, demo_config, run_plain
from tests.test_cli import Command, command  # noqa: F401 - a fixture


@pytest.fixture
def store(demo_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_store, tmp_path / "store"))


def rows_of(store: Path) -> dict[str, list[object]]:
    opened = open_store(str(store))
    return opened.read(current_labels(opened).table).to_dict(as_series=False)


def test_from_a_sheet_to_labels_with_a_confidence(
    command: Command,  # noqa: F811
    store: Path,
) -> None:
    drawn = command.json("audit", "--store", str(store), "--size", "120")
    assert (drawn["images"], drawn["round"], drawn["csv"]) == (120, 1, "audit.csv")
    assert Path("audit.html").read_text().count("data:image/jpeg;base64,") == 120
    lines = list(csv.DictReader(Path("audit.csv").read_text().splitlines()))
    for line in lines[:110]:  # the folder's name is the truth
        line["answer"] = Path(line["path"]).parent.name
    with Path("done.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)
    refused = command("audit", "--store", str(store))
    assert refused.code == 2
    assert "audit.csv: is there already, and may hold answers" in refused.err
    told = command("audit", "--store", str(store), "--answers", "done.csv", "--by", "Ada")
    assert told.code == 0, told.err
    assert "110 new answers by Ada" in told.out
    found = command.json("audit", "--store", str(store), "--report")["findings"]
    right = np.mean([line["answer"] == line["label"] for line in lines[:110]])
    assert found["accuracy"]["value"] == pytest.approx(right)
    assert found["accuracy"]["low"] < right < found["accuracy"]["high"]
    assert (found["answers"], found["unanswered"]) == (110, 10)
    assert f"accuracy {100 * right:.1f} %" in told.out
    assert all(rows_of(store)["calibrated"])
    # Every report says now what the number is.
    truth = command("evaluate", "--store", str(store), "--truth", str(DATA / "images"))
    assert "at confidence 0.5 and above" in truth.out
    assert stale_stages(demo_config(store)) == ["select", "train"]
    summary = run_plain(demo_config(store))
    assert summary.select is not None
    assert not stale_stages(demo_config(store))


def test_a_truth_answers_for_a_sample_and_certifies_a_region_to_be_configured(
    command: Command,  # noqa: F811
    store: Path,
) -> None:
    truth = str(DATA / "images")
    told = command.json("audit", "--store", str(store), "--truth", truth, "--size", "150")
    assert (told["taken"], told["truth_images"], told["by"]) == (150, 242, f"truth {truth}")
    region = next(r for r in told["findings"]["regions"] if r["target"] == 0.9)
    images = rows_of(store)
    bar = np.float32(region["min_confidence"])
    inside = np.mean(np.array(images["confidence"], np.float32) >= bar)
    assert inside == pytest.approx(region["certificate"]["coverage"])
    kept = command.json("select", "--store", str(store), "--min-confidence", str(bar))
    assert kept["kept"] <= round(inside * 242)
    rest = command.json("audit", "--store", str(store), "--truth", truth)
    assert (rest["taken"], rest["findings"]["answers"]) == (92, 242)
    sure = rest["findings"]["accuracy"]
    assert sure["low"] == sure["value"] == sure["high"]  # all is known


def test_mistakes_are_told_in_a_line(command: Command, store: Path) -> None:  # noqa: F811
    at = ("audit", "--store", str(store))
    assert "give one of --answers" in command(*at, "--report", "--truth", "x").err
    assert command(*at, "--answers", "none.csv").code == 2
    Path("empty.csv").write_text("image_id,answer\n")
    assert "no line has an answer yet" in command(*at, "--answers", "empty.csv").err
    assert command("audit", "--store", "nowhere").code == 2


def test_relabelling_and_runs_keep_to_the_answers(
    command: Command,  # noqa: F811
    store: Path,
) -> None:
    truth = str(DATA / "images")
    command.json("audit", "--store", str(store), "--truth", truth, "--size", "100")
    asked = ("--labels", str(DATA / "labels.toml"), "-k", "2", "--no-select", "--plain")
    assert command("relabel", "--store", str(store), *asked).code == 0
    rows = rows_of(store)
    assert {len(labels) for labels in rows["topk_labels"]} == {2}  # type: ignore[arg-type]
    assert all(rows["calibrated"])
    config = demo_config(store, labels={"label_set": str(DATA / "labels.toml"), "top_k": 2})
    assert stale_stages(config) == ["select", "train"]
    run_plain(config)
    table = current_labels(open_store(str(store))).table
    (store / table / "calibration.json").unlink()
    assert stale_stages(config) == ["label", "select", "train"]
    run_plain(config)
    assert stale_stages(config) == []
    assert rows_of(store) == rows
