"""`evaluate` on a store of a few images with labels by hand, and the pictures that it draws."""

import json
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.arrays import Floats
from pipeline.errors import InputError, StoreError
from pipeline.images.decoding import image_id
from pipeline.labels.labelling import current_table
from pipeline.reports.bands import ClassBeside
from pipeline.reports.confusion import Cell, Grid, grid
from pipeline.reports.curves import Bin, Point, Reach
from pipeline.reports.evaluate import Evaluation, evaluate, write_evaluation
from pipeline.reports.plots import confusion_png, coverage_png, reliability_png
from pipeline.search.index import update_index
from pipeline.store import Store
from pipeline.tables import LABELS, NEIGHBOURS
from tests.helpers import axis, label_set, label_store, make_store
from tests.test_cli import Command, command  # noqa: F401 - a fixture

CLASSES = label_set("cat", "dog", "emu")
FILES = ("evaluation.json", "reliability.png", "coverage.png", "confusion.png")


def tilted(towards: int, away: int, share: float) -> Floats:
    """Return a unit vector whose cosines with two axes differ by `share`."""
    vector: Floats = axis(towards) + (1 - share) * axis(away)
    return vector / np.linalg.norm(vector)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Six images: some sure, some not, one that abstains and one of no class."""
    vectors = {
        "cat/a": axis(0),  # cat, sure
        "cat/b": tilted(1, 0, 0.2),  # dog, hardly
        "dog/c": tilted(1, 0, 0.3),  # dog
        "dog/d": tilted(1, 0, 0.01),  # dog, so unsure that it abstains
        "horse/e": tilted(0, 1, 0.5),  # cat, though it is no animal of ours
        "emu/f": axis(2),  # emu
    }
    paths = {}
    for name, vector in vectors.items():
        path = tmp_path / "photos" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.stem.encode())
        paths[path] = vector
    made = make_store(tmp_path / "store", paths)
    label_store(made, CLASSES, abstain_below=0.55)
    return made


def rows_of(store: Store) -> tuple[str, str, pa.Table]:
    table = current_table(store)
    assert table is not None
    [part] = store.parts(table)
    return table, part, store.read_part(table, part)


def change(store: Store, **columns: list[Any]) -> None:
    """Write the label rows again with other values."""
    table, part, rows = rows_of(store)
    for name, values in columns.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, pa.array(values, LABELS.field(name).type))
    store.write_part(table, part, rows)


def measured(store: Store, tmp_path: Path, threshold: float = 0.0) -> Evaluation:
    return evaluate(store, str(tmp_path / "photos"), threshold=threshold)


def test_a_store_of_six_images_by_hand(store: Store, tmp_path: Path) -> None:
    told = measured(store, tmp_path)
    metrics = told.metrics
    assert (metrics.images, metrics.labelled, told.unmatched) == (5, 4, 1)  # the horse is apart
    assert (metrics.accuracy, metrics.top_k_accuracy) == (4 / 5, 1.0)
    assert (metrics.worst_class, metrics.worst_recall) == ("cat", 0.5)
    assert metrics.macro_recall == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert metrics.coverage == 4 / 5
    assert set(told.confusion) == {
        Cell("cat", "cat", 1),
        Cell("cat", "dog", 1),
        Cell("dog", "dog", 1),
        Cell("dog", None, 1),
        Cell("emu", "emu", 1),
        Cell(None, "cat", 1),
    }
    assert told.confused == ["1 of 2 cat was called dog"]
    _, _, rows = rows_of(store)
    sure = [row["score"] for row in rows.to_pylist()]
    gaps = [1 - sure[0], sure[1], 1 - sure[2], 1 - sure[3], 1 - sure[5]]
    assert metrics.ece == pytest.approx(np.mean(gaps), abs=1e-6)
    # a, f and c are surer than b, which is wrong; d is not labelled.
    assert metrics.aurc == pytest.approx((0 + 0 + 0 + 1 / 4) / 4)
    assert (metrics.coverage_at[0].coverage, told.word) == (3 / 5, "score")


def test_an_audited_number_is_called_confidence_only_if_all_are(
    store: Store, tmp_path: Path
) -> None:
    change(store, calibrated=[True] * 5 + [False])
    assert measured(store, tmp_path).word == "score"
    change(store, calibrated=[True] * 6)
    assert measured(store, tmp_path).word == "confidence"


def test_confidence_and_not_the_score_is_what_is_measured(store: Store, tmp_path: Path) -> None:
    change(store, confidence=[1.0, 0.25, 0.5, 0.5, 0.5, 1.0])
    metrics = measured(store, tmp_path).metrics
    assert metrics.brier == pytest.approx((0 + 0.25**2 + 0.5**2 + 0.5**2 + 0) / 5)


def test_lists_of_different_length_are_measured(store: Store, tmp_path: Path) -> None:
    kept = [["cat"], ["dog"], ["dog", "cat", "emu"], ["emu", "dog"], ["cat"], ["emu", "cat"]]
    change(store, topk_labels=kept)
    metrics = measured(store, tmp_path).metrics
    assert (metrics.top_k, metrics.accuracy, metrics.top_k_accuracy) == (3, 3 / 5, 4 / 5)


def test_a_confidence_that_is_no_number_never_passes(store: Store, tmp_path: Path) -> None:
    change(store, confidence=[1.0, math.nan, 0.5, 0.5, 0.5, 1.0])
    with pytest.raises(StoreError, match=r"labels/tests/.*: confidence nan of row 1"):
        measured(store, tmp_path)


def test_what_the_truth_names_and_the_store_lacks_is_counted(store: Store, tmp_path: Path) -> None:
    rows = ["path,label", "a.jpg,cat", "nowhere.jpg,cat", "no.jpg,dog", "c.jpg,dog", ",dog"]
    truth = tmp_path / "truth.csv"
    truth.write_text("\n".join(rows))
    told = evaluate(store, str(truth), threshold=0)
    assert (told.metrics.images, told.absent, told.unlabelled) == (2, 3, 0)
    table, part, held = rows_of(store)
    store.write_part(table, part, held.slice(1))
    assert evaluate(store, str(truth), threshold=0).unlabelled == 1


def test_an_image_with_two_rows_counts_once_and_the_first_counts(
    store: Store, tmp_path: Path
) -> None:
    before = measured(store, tmp_path)
    table, part, held = rows_of(store)
    store.write_part(table, f"{part}-again", held.slice(1, 1))
    assert measured(store, tmp_path) == before


def test_a_truth_of_none_but_unlabelled_images_is_refused(store: Store, tmp_path: Path) -> None:
    table, part, held = rows_of(store)
    store.write_part(table, part, held.slice(4, 1))  # the horse alone
    with pytest.raises(InputError, match="no image that the truth covers is labelled"):
        measured(store, tmp_path)


def test_everything_is_written_and_no_picture_is_blank(store: Store, tmp_path: Path) -> None:
    told = measured(store, tmp_path)
    folder = tmp_path / "a/report"
    assert write_evaluation(told, folder) == [folder / name for name in FILES]
    content = json.loads((folder / "evaluation.json").read_text())
    assert content["metrics"]["accuracy"] == 0.8
    assert len(content["curve"]) == 3  # a and f are equally sure
    assert len(content["bins"]) == 5
    assert sum(cell["images"] for cell in content["confusion"]) == 6
    for name in FILES[1:]:
        require_picture((folder / name).read_bytes())
    write_evaluation(told, folder)  # over what is there


def test_a_file_in_the_way_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = measured(store, tmp_path)
    for folder in (tmp_path / "file", tmp_path / "file/in"):
        with pytest.raises(InputError, match=r"--out .*/file.*: a file is in the way"):
            write_evaluation(told, folder)


def test_a_person_is_told_in_words(command: Command, store: Store, tmp_path: Path) -> None:  # noqa: F811
    given = ("evaluate", "--truth", str(tmp_path / "photos"), "--store", store.location)
    said = command(*given, "--out", "report").out
    assert "worst class: cat, recall 50.0 %" in said
    assert "most often mistaken: 1 of 2 cat was called dog" in said
    assert "left out: 1 images whose true label is not in the label set\n" in said
    assert "calibration error of the score (ECE)" in said
    assert "confidence" not in said
    assert [f"wrote report/{name}" in said for name in FILES] == [True] * 4
    assert command.json(*given) == json.loads(Path("report/evaluation.json").read_text())


def search_by_hand(store: Store) -> None:
    """Let a's neighbours be e and b, and so on."""
    update_index(store)
    near = {"a": "eb", "b": "ca", "c": "b", "d": "c", "e": "a", "f": "ac"}
    ids = {name: image_id(name.encode()) for name in near}
    rows = [
        {
            "image_id": ids[name],
            "neighbours": [ids[n] for n in others],
            "cosines": [0.5] * len(others),
        }
        for name, others in near.items()
    ]
    part = store.parts("embeddings")[0]
    store.write_part("neighbours/0", part, pa.Table.from_pylist(rows, NEIGHBOURS))


def test_what_neighbours_tell_by_hand(store: Store, tmp_path: Path) -> None:
    assert measured(store, tmp_path).agreement is None
    search_by_hand(store)
    told = measured(store, tmp_path).agreement
    assert told is not None
    assert told.images == 4  # d has no label, e no truth
    assert told.per_class == [
        ClassBeside("cat", 1, 0.5, 1.0),  # a: e is a cat, b a dog
        ClassBeside("dog", 2, 0.75, 0.5),  # b: c and a; c: b
        ClassBeside("emu", 1, 0.0, 1.0),
    ]
    assert [(band.images, band.accuracy) for band in told.by_agreement] == [
        (1, 1.0),
        (0, None),
        (2, 0.5),
        (0, None),
        (1, 1.0),
    ]
    # Of a, c and f, which are right, c agrees more than b, a as much and f less; all are surer.
    assert (told.agreement_tells, told.confidence_tells) == (0.5, 1.0)


def test_a_person_sees_what_neighbours_tell(command: Command, store: Store, tmp_path: Path) -> None:  # noqa: F811
    search_by_hand(store)
    given = ("evaluate", "--truth", str(tmp_path / "photos"), "--store", store.location)
    said = command(*given, "--out", "report").out
    assert "Does agreement with neighbours tell who is right? 4 images" in said
    assert "agrees more in 50.0 % of the pairs, and has the higher score in 100.0 %" in said
    [dog] = [line for line in said.splitlines() if line.startswith("│ dog")]
    assert "75.0 %" in dog
    assert blue(Path("report/agreement.png").read_bytes()) > 100
    assert json.loads(Path("report/evaluation.json").read_text())["agreement"]["images"] == 4


# -- pictures ----------------------------------------------------------------------------------


def require_picture(png: bytes) -> np.ndarray:
    """Check that a picture can be read and that something is drawn on it; return its pixels."""
    with Image.open(BytesIO(png)) as image:
        image.load()
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 200
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    return pixels


def blue(png: bytes) -> int:
    """Count the pixels that are more blue than red: of curves, and of cells that hold images."""
    red, _, of_blue = np.moveaxis(require_picture(png).astype(int), -1, 0)
    return int((of_blue - red > 60).sum())


def test_a_curve_without_points_is_an_empty_picture_and_others_are_not() -> None:
    curve = [Point(0.9, 0.1, 1.0), Point(0.5, 0.9, 0.8)]
    reached = [Reach(0.9, 0.1, 0.9), Reach(0.95, 0.0, None)]
    empty = [Reach(0.9, 0.0, None)]
    assert blue(coverage_png(curve, reached, word="score")) > 200
    assert blue(coverage_png([], empty, word="score")) == 0


def test_a_reliability_diagram_shows_its_bins() -> None:
    bins = [Bin(1.0, 0.2, 0.2, 0.2, 0.1), Bin(1.0, 0.9, 0.9, 0.9, 0.8)]
    assert blue(reliability_png(bins, word="confidence", error=0.1)) > 200
    assert blue(reliability_png(bins[:1], word="confidence", error=0.1)) > 20


def test_names_that_fonts_and_formulas_trip_over_are_drawn() -> None:
    names = ["$100_{", "日本", "a\nb", "x" * 300, "\\frac"]
    cells = [Cell(name, names[0], 3) for name in names]
    assert blue(confusion_png(grid(cells, names), len(names))) > 1000


@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_a_confusion_of_few_and_of_many_classes(classes: int) -> None:
    names = [f"class {number}" for number in range(classes)]
    cells = [Cell(name, names[at // 2], 2) for at, name in enumerate(names)]
    shown = grid(cells, names)
    assert isinstance(shown, Grid)
    pixels = require_picture(confusion_png(shown, classes))
    assert max(pixels.shape) < 2500  # of a screen, however many classes
