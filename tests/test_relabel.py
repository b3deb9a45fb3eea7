"""`relabel`: other labels for stored vectors, without an image, a source or a second encoding."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from flows.stale import stale_stages
from pipeline.clip.encoder import Encoder
from pipeline.labels.labelling import current_labels
from pipeline.opening import create_store, open_store
from pipeline.store import Store
from tests.conftest import DATA, TINY, DemoRun, demo_config, pseudolabel, run_plain
from tests.test_cli import Command, command  # noqa: F401 - a fixture
from tests.test_locking import hold

ASKED = ("--labels", "kiwi,pear,dog", "--template", "a drawing of a {}.", "-k", "2")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two stores of the same images: of a run with other labels, and of one with those asked."""
    folder = tmp_path_factory.mktemp("relabel")
    for name in ("kiwi", "pear"):
        shutil.copytree(DATA / "images/food" / name, folder / "in" / name)
    asked = {"label_set": "kiwi,pear,dog", "template": "a drawing of a {}.", "top_k": 2}
    for store, labels in (("before", {"label_set": "cat,house"}), ("fresh", asked)):
        config = demo_config(folder / store, sources=[str(folder / "in")], labels=labels)
        run_plain(config)
    shutil.rmtree(folder / "in")  # whoever reads an image or lists the source fails from here on
    return folder / "before", folder / "fresh"


@pytest.fixture
def old(stores: tuple[Path, Path], tmp_path: Path) -> Path:
    """A store of its own, labelled cat or house."""
    shutil.copytree(stores[0], tmp_path / "old")
    return tmp_path / "old"


def labels_of(store: Path) -> pl.DataFrame:
    opened = open_store(str(store))
    return opened.read(current_labels(opened).table).sort("image_id")


def test_rows_and_selection_are_those_of_a_fresh_run_though_no_image_is_left(
    command: Command,  # noqa: F811
    stores: tuple[Path, Path],
    old: Path,
) -> None:
    told = command.json("relabel", "--store", str(old), *ASKED, "--model", TINY, "--plain")
    ours, theirs = labels_of(old), labels_of(stores[1])
    assert len(ours) == 24
    assert set(ours["label"]) <= {"kiwi", "pear", "dog"}
    assert ours.equals(theirs)
    selections = [open_store(str(s)).read("selections/default") for s in (old, stores[1])]
    assert selections[0].equals(selections[1])
    assert (told["label"]["labelled"], told["label"]["abstained"]) == (24, 0)
    assert told["label"]["table"] == current_labels(open_store(str(old))).table
    assert told["select"]["kept"] == selections[0]["kept"].sum()
    assert told["images_per_second"] == pytest.approx(24 / told["seconds"]["label"], rel=0.01)


def test_nothing_is_stale_after_it_but_the_head(command: Command, old: Path) -> None:  # noqa: F811
    assert command("relabel", "--store", str(old), *ASKED, "--plain").code == 0
    asked = {"label_set": "kiwi,pear,dog", "template": "a drawing of a {}.", "top_k": 2}
    config = demo_config(old, labels=asked)
    assert stale_stages(config) == ["train"]


def test_the_same_question_again_needs_neither_model_nor_labelling(
    command: Command,  # noqa: F811
    old: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise AssertionError("texts were encoded again")

    first = command.json("relabel", "--store", str(old), *ASKED, "--plain")
    monkeypatch.setattr(Encoder, "encode_texts", fails)
    again = command("relabel", "--store", str(old), *ASKED, "--plain", "--model", "local-dir:none")
    assert again.code == 0, again.err
    assert "had these labels already" in again.out
    other = command.json(
        *("relabel", "--store", str(old), *ASKED[:-1], "3", "--plain"),
        *("--model", "local-dir:none", "--abstain-below", "0.999"),
    )
    assert other["label"]["labelled"] == 24
    assert 0 < other["label"]["abstained"] <= 24
    assert other["label"]["table"] != first["label"]["table"]


def test_a_person_is_told_how_many_and_how_fast(command: Command, old: Path) -> None:  # noqa: F811
    said = command("relabel", "--store", str(old), *ASKED, "--plain").out
    assert "24 images labelled, 0 of them abstained" in said
    assert "images/s" in said
    assert "Selection for training" in said


def test_the_selection_can_be_left_to_the_next_run(command: Command, old: Path) -> None:  # noqa: F811
    before = open_store(str(old)).read("selections/default")
    told = command.json("relabel", "--store", str(old), *ASKED, "--plain", "--no-select")
    assert told["select"] is None
    assert open_store(str(old)).read("selections/default").equals(before)
    config = demo_config(old, labels={"label_set": "kiwi,pear"})
    assert "select" in stale_stages(config)


def test_vectors_that_somebody_deleted_are_still_read_again_by_the_next_run(
    command: Command,  # noqa: F811
    old: Path,
) -> None:
    store: Store = open_store(str(old))
    [part] = store.parts("embeddings")
    rows = store.read_part("embeddings", part)
    store.write_part("embeddings", f"{part}x", rows.slice(0, 20))
    store.delete(f"embeddings/{part}.parquet")
    told = command.json("relabel", "--store", str(old), *ASKED, "--plain")
    assert told["label"]["labelled"] == 20
    files = open_store(str(old)).read("files")
    assert (files["status"] == "lost").sum() == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--labels", "dog"), "need at least 2 labels to choose between"),
        (("--labels", "no.toml"), "label set no.toml: no such file"),
        (("--labels", "a,b", "--template", "a photo"), "must hold one {} for the label"),
        (("--labels", "a,b", "-k", "0"), "labels.top_k = 0"),
        (("--labels", "a,b", "--abstain-below", "2"), "labels.abstain_below = 2"),
        (("--labels", "a,b", "--store", "nowhere"), "nowhere: no store here"),
        (("--labels", "a,b", "--store", "empty"), "empty: holds no embeddings yet"),
    ],
)
@pytest.mark.parametrize("plain", [("--plain",), ()])
def test_a_mistake_is_one_line_and_code_2(
    command: Command,  # noqa: F811
    old: Path,
    plain: tuple[str, ...],
    arguments: tuple[str, ...],
    says: str,
) -> None:
    create_store("empty")
    before = labels_of(old)
    if not plain and arguments[-1] == "empty":
        pytest.skip("it is told under the lock, where Prefect was started: plainly is enough")
    result = command("relabel", "--store", str(old), *arguments, *plain)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert says in result.err
    assert "Traceback" not in result.err
    assert labels_of(old).equals(before)


def test_a_store_that_another_writer_holds_is_code_3(
    command: Command,  # noqa: F811
    old: Path,
) -> None:
    before = labels_of(old)
    holder = hold(open_store(str(old)), 60)
    try:
        result = command("relabel", "--store", str(old), *ASKED, "--plain")
    finally:
        holder.kill()
        holder.wait()
    assert result.code == 3
    assert f"process {holder.pid}" in result.err
    assert labels_of(old).equals(before)


def test_through_prefect_the_rows_are_the_same(
    prefect_demo: DemoRun, stores: tuple[Path, Path], old: Path
) -> None:
    home = str(prefect_demo.folder / "prefect-home")
    run = pseudolabel("relabel", "--store", str(old), *ASKED, "--json", PREFECT_HOME=home)
    assert run.returncode == 0, run.stderr
    assert labels_of(old).equals(labels_of(stores[1]))
